//! Opening a log: connect, make or migrate the schema, own it.

use tokio::sync::Mutex;
use tokio_postgres::{Client, Transaction, error::SqlState};

use super::{Admin, Owner, in_schema};
use crate::{
    log::{ConnectConfig, ConnectError, SCHEMA_VERSION, connect::explain},
    name::{Ident, Literal},
};

/// Makes a version of the log's schema out of the one before.
pub(super) struct Migration {
    /// Run in one transaction while writers write and older workers work: no lock on the log for longer than a moment.
    pub(super) sql: &'static str,
    /// The oldest version of controllers and workers that can use the log afterwards. The version before, unless that is
    /// impossible: so workers go on meanwhile, and the operator can be rolled back.
    compatible: i32,
}

/// In order: number n makes version n.
pub(super) const MIGRATIONS: [Migration; 1] = [Migration { sql: include_str!("../sql/0001_log.sql"), compatible: 1 }];
const _: () = assert!(MIGRATIONS.len() == SCHEMA_VERSION as usize);

/// Annotation of an EventLog: the system identifier of the server that its log goes on from.
pub const ADOPT: &str = "eventtrigger.dev/adopt";

/// The oldest server: 14 brought `CREATE OR REPLACE TRIGGER`.
const OLDEST: u32 = 140_000;

/// What the server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerFacts {
    /// `server_version`, such as `15.18`.
    pub version: String,
    /// Version of the log's schema.
    pub schema_version: i32,
    /// Its system identifier: the same for a server and those that are copied from its files.
    pub system_identifier: i64,
    /// Its timeline: rises when a standby is promoted, or a backup restored.
    pub timeline: i32,
}

/// Why a log could not be opened. [`OpenError::is_terminal`] tells whether trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The log is somebody else's; the text says whose, and what to do.
    #[error("{0}")]
    OwnedByAnother(String),
    /// The log was written on another server, or on this one before its transaction ids began anew: the text says what to do.
    #[error("{0}")]
    AnotherServer(String),
    /// The server only follows another one.
    #[error("the server is a standby, which cannot be written; connect to the primary")]
    Standby,
    /// A newer controller made the schema.
    #[error(
        "the log's schema has version {found}, and this controller knows up to {known}; install a newer controller"
    )]
    NewerSchema {
        /// In the database.
        found: i32,
        /// In this binary.
        known: i32,
    },
    /// The server is too old.
    #[error("the server is PostgreSQL {0}; 14 or newer is needed")]
    TooOld(String),
    /// The role may not do what is needed; the text says which GRANT helps.
    #[error("{0}")]
    NotPermitted(String),
    /// A statement failed.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: tokio_postgres::Error,
    },
}

impl OpenError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) => "ConnectionFailed",
            Self::OwnedByAnother(_) => "OwnedByAnother",
            Self::AnotherServer(_) => "AnotherServer",
            Self::Standby => "Standby",
            Self::NewerSchema { .. } => "NewerSchema",
            Self::TooOld(_) => "ServerTooOld",
            Self::NotPermitted(_) => "NotPermitted",
            Self::Sql { .. } => "DatabaseError",
        }
    }

    /// Whether it stays wrong until a person changes something.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_terminal(),
            Self::OwnedByAnother(_)
            | Self::AnotherServer(_)
            | Self::NewerSchema { .. }
            | Self::TooOld(_)
            | Self::NotPermitted(_) => true,
            Self::Standby | Self::Sql { .. } => false,
        }
    }
}

fn failed(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> OpenError {
    move |source| OpenError::Sql { doing, source }
}

impl Admin {
    /// Connects, makes or migrates the schema, and takes ownership of a new or released one.
    pub async fn open(config: &ConnectConfig, schema: &Ident, owner: &Owner) -> Result<(Self, ServerFacts), OpenError> {
        let (mut client, version) = Self::connect(config).await?;
        let prepare = failed("prepare the log's schema");
        let transaction = client.transaction().await.map_err(&prepare)?;
        transaction.batch_execute(&alone(schema)).await.map_err(&prepare)?;
        let found = current_version(&transaction, schema).await?;
        if found > SCHEMA_VERSION {
            let compatible = in_schema("SELECT compatible FROM :schema.meta", schema);
            let compatible: i32 = transaction.query_one(&compatible, &[]).await.map_err(&prepare)?.get(0);
            if compatible > SCHEMA_VERSION {
                return Err(OpenError::NewerSchema { found, known: SCHEMA_VERSION });
            }
        }
        migrate(&transaction, schema, found, owner).await.map_err(|source| match source.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => OpenError::NotPermitted(format!(
                "role {user} may not make the log's schema: {why}; run: GRANT CREATE ON DATABASE {db} TO {user}",
                user = Ident::new(&config.user),
                why = explain(&source),
                db = Ident::new(&config.dbname),
            )),
            _ => OpenError::Sql { doing: "make the log's schema", source },
        })?;
        let (system_identifier, timeline) = own(&transaction, schema, owner).await?;
        transaction.commit().await.map_err(&prepare)?;
        let schema_version = found.max(SCHEMA_VERSION);
        let facts = ServerFacts { version, schema_version, system_identifier, timeline };
        Ok((Self::new(client, schema, owner), facts))
    }

    pub(super) fn new(client: Client, schema: &Ident, owner: &Owner) -> Self {
        Self { client: Mutex::new(client), schema: schema.clone(), owner: owner.clone() }
    }

    /// Connects to a server that is new enough.
    pub(super) async fn connect(config: &ConnectConfig) -> Result<(Client, String), OpenError> {
        let client = config.connect("eventtrigger controller").await?;
        let version = server_version(&client).await?;
        Ok((client, version))
    }

    /// Whether the connection still works.
    pub async fn is_closed(&self) -> bool {
        self.client.lock().await.is_closed()
    }
}

/// Begins a transaction's statements: one controller at a time, and nobody waits for long.
pub(super) fn alone(schema: &Ident) -> String {
    format!(
        "SET LOCAL lock_timeout = '2s'; SET LOCAL standard_conforming_strings = on;
         SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended({}, 0))",
        Literal(&format!("eventtrigger {}", schema.as_str()))
    )
}

async fn server_version(client: &Client) -> Result<String, OpenError> {
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int8,
                 pg_catalog.pg_is_in_recovery()",
            &[],
        )
        .await
        .map_err(failed("ask the server's version"))?;
    // Distributions append their own version after a space.
    let version = row.get::<_, String>(0).split(' ').next().unwrap_or_default().to_owned();
    if row.get::<_, i64>(1) < i64::from(OLDEST) {
        return Err(OpenError::TooOld(version));
    }
    if row.get(2) { Err(OpenError::Standby) } else { Ok(version) }
}

/// Version of the log's schema; 0 if there is none yet.
pub(super) async fn current_version(transaction: &Transaction<'_>, schema: &Ident) -> Result<i32, OpenError> {
    let read = failed("read the log's schema version");
    let there = transaction
        .query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&format!("{schema}.meta")])
        .await
        .map_err(&read)?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let row =
        transaction.query_one(&in_schema("SELECT version FROM :schema.meta", schema), &[]).await.map_err(&read)?;
    Ok(row.get(0))
}

pub(super) async fn migrate(
    transaction: &Transaction<'_>,
    schema: &Ident,
    found: i32,
    owner: &Owner,
) -> Result<(), tokio_postgres::Error> {
    if found == 0 {
        transaction
            .batch_execute(&in_schema(
                "CREATE SCHEMA IF NOT EXISTS :schema;
                 COMMENT ON SCHEMA :schema IS 'eventtrigger: the event log; owned by its controller'",
                schema,
            ))
            .await?;
    }
    let mut compatible = 0;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.batch_execute(&in_schema(migration.sql, schema)).await?;
        compatible = compatible.max(migration.compatible);
    }
    if found == 0 {
        transaction
            .execute(
                &in_schema(
                    "INSERT INTO :schema.meta (version, compatible, owner_uid, owner_namespace, owner_name, system_identifier, timeline)
                     SELECT $1, $2, $3, $4, $5, system_identifier, :schema.timeline() FROM pg_catalog.pg_control_system()",
                    schema,
                ),
                &[&SCHEMA_VERSION, &compatible, &owner.uid, &owner.log.namespace, &owner.log.name],
            )
            .await?;
    } else if found < SCHEMA_VERSION {
        let count = "UPDATE :schema.meta SET version = $1, compatible = $2";
        transaction.execute(&in_schema(count, schema), &[&SCHEMA_VERSION, &compatible]).await?;
    }
    Ok(())
}

/// Refuses a log of another owner or another server; takes a released one of the same name. Returns the server's system
/// identifier and timeline.
async fn own(transaction: &Transaction<'_>, schema: &Ident, owner: &Owner) -> Result<(i64, i32), OpenError> {
    let read = failed("read the log's owner");
    let row = transaction
        .query_one(
            &in_schema(
                "SELECT owner_uid, owner_namespace, owner_name, released, m.system_identifier, s.system_identifier, m.timeline,
                     :schema.timeline()
                 FROM :schema.meta AS m, pg_catalog.pg_control_system() AS s",
                schema,
            ),
            &[],
        )
        .await
        .map_err(&read)?;
    let (uid, namespace, name): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let (released, written_on, here): (bool, i64, i64) = (row.get(3), row.get(4), row.get(5));
    let (before, timeline): (i32, i32) = (row.get(6), row.get(7));
    let take = format!(
        "UPDATE {schema}.meta SET owner_uid = {}, owner_namespace = {}, owner_name = {}, released = false",
        Literal(&owner.uid),
        Literal(&owner.log.namespace),
        Literal(&owner.log.name),
    );
    let same_name = (namespace.as_str(), name.as_str()) == (owner.log.namespace.as_str(), owner.log.name.as_str());
    if uid != owner.uid && !(released && same_name) {
        return Err(OpenError::OwnedByAnother(format!(
            "the log in schema {schema} belongs to EventLog {namespace}/{name} (uid {uid}); set spec.schema to another name, \
             delete that EventLog, or, if it is gone for good, take the log over by running: {take}"
        )));
    }
    if uid != owner.uid || released {
        transaction.batch_execute(&take).await.map_err(failed("take the log over"))?;
    }
    let adopt = format!(
        "if it is a copy, drop schema {schema} in it, or set spec.schema to another name; if it is where the log goes on from \
         now, say so: kubectl annotate eventlog {name} -n {namespace} {ADOPT}={here}",
        namespace = owner.log.namespace,
        name = owner.log.name,
    );
    if written_on != here {
        return Err(OpenError::AnotherServer(format!(
            "the log in schema {schema} was written on another server (system identifier {written_on}, this one has {here}), \
             and delivering from a copy would repeat the original's events; {adopt}"
        )));
    }
    if went_back(transaction, schema).await.map_err(&read)? {
        return Err(OpenError::AnotherServer(format!(
            "the log in schema {schema} has seen transactions that this server has not reached yet: its transaction ids began \
             anew; {adopt}"
        )));
    }
    if timeline != before {
        // The same history goes on: every cursor stands where it stood when the standby or the backup was at this point.
        tracing::warn!(log = %owner.log, before, timeline, "the server was promoted or restored since the log was opened last");
        let note = format!("UPDATE {schema}.meta SET timeline = {timeline}");
        transaction.batch_execute(&note).await.map_err(failed("write the server's timeline"))?;
    }
    Ok((here, timeline))
}

/// Whether the server has handed out fewer transaction ids than a cursor knows.
async fn went_back(transaction: &Transaction<'_>, schema: &Ident) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT EXISTS (SELECT FROM :schema.cursor AS c, :schema.here() AS now
                   WHERE pg_catalog.pg_snapshot_xmax(c.cut) OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmax(now))";
    Ok(transaction.query_one(&in_schema(sql, schema), &[]).await?.get(0))
}
