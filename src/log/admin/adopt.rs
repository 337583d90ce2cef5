//! Another server: the log was dumped and restored, upgraded with new transaction ids, or promoted.
//!
//! Cuts of the log are made of the old server's transaction ids, which mean nothing here. Adopting gives every
//! transaction so far a place below a new base, and this server's transactions places above it. So every cursor stays
//! what it is: what was not delivered is, and after it what this server has captured since.

use tokio_postgres::{Transaction, types::ToSql};

use super::{Admin, AdminError, OpenError, Owner, ServerFacts, failed, install::Mode, open::current_version};
use crate::{
    log::{ConnectConfig, Snapshot},
    name::{Ident, TableName},
};

/// Why a log was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The database cannot be reached.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What must be changed could not be.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The word names another server.
    #[error(
        "the log was written on another server, and the one to adopt is said to be {told}, but this one's system identifier is \
         {here}; nothing was changed; correct the annotation, or the connection"
    )]
    AnotherServer {
        /// Of this server.
        here: i64,
        /// As told.
        told: String,
    },
}

impl AdoptError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Open(error) => error.reason(),
            Self::Admin(error) => error.reason(),
            Self::AnotherServer { .. } => "AnotherServer",
        }
    }

    /// Whether it stays wrong until a person changes something.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Open(error) => error.is_terminal(),
            Self::Admin(error) => error.is_terminal(),
            Self::AnotherServer { .. } => true,
        }
    }
}

impl Admin {
    /// [`Admin::open`]; a log that was written on another server is adopted first, if `adopt` names this one.
    pub async fn open_or_adopt(
        config: &ConnectConfig,
        schema: &Ident,
        owner: &Owner,
        adopt: Option<&str>,
    ) -> Result<(Self, ServerFacts), AdoptError> {
        match (Self::open(config, schema, owner).await, adopt) {
            (Err(OpenError::AnotherServer(_)), Some(server)) => {
                Self::adopt(config, schema, owner, server).await?;
                Ok(Self::open(config, schema, owner).await?)
            }
            (opened, _) => Ok(opened?),
        }
    }

    /// Makes this server the log's, if it is not yet. `server` is its system identifier: the word that this is no copy but
    /// the place where the log goes on. Tells whether anything was to be done.
    pub async fn adopt(
        config: &ConnectConfig,
        schema: &Ident,
        owner: &Owner,
        server: &str,
    ) -> Result<bool, AdoptError> {
        let (client, _) = Self::connect(config).await?;
        let admin = Self::new(client, schema, owner);
        let mut client = admin.client.lock().await;
        let transaction = admin.begin(&mut client).await?;
        if current_version(&transaction, schema).await? == 0 {
            return Ok(false);
        }
        let row = transaction
            .query_one(
                &admin.sql(
                    "SELECT s.system_identifier, m.system_identifier, m.owner_uid, m.base,
                         pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                     FROM :schema.meta AS m, pg_control_system() AS s",
                ),
                &[],
            )
            .await
            .map_err(adopting)?;
        let (here, written_on, uid): (i64, i64, String) = (row.get(0), row.get(1), row.get(2));
        let cut = admin.highest_cut(&transaction).await?;
        let now = row.get::<_, i64>(3) + row.get::<_, i64>(4);
        if here == written_on && now >= cut {
            return Ok(false);
        }
        if uid != owner.uid {
            // Whose it is comes first; opening says so.
            return Ok(false);
        }
        if server != here.to_string() {
            return Err(AdoptError::AnotherServer { here, told: server.to_owned() });
        }
        let highest = admin.highest_place(&transaction).await?.max(cut);
        admin.rebase(&transaction, highest + 1).await?;
        admin.recapture(&transaction).await?;
        transaction.commit().await.map_err(adopting)?;
        tracing::warn!(log = %owner.log, server = here, before = written_on, "adopted the log: delivery goes on from this server");
        Ok(true)
    }

    /// At or above the place of every transaction that a cursor knows.
    async fn highest_cut(&self, transaction: &Transaction<'_>) -> Result<i64, AdminError> {
        let mut highest = 0;
        let cuts = self.sql("SELECT cut::text FROM :schema.cursor UNION ALL SELECT cut::text FROM :schema.cut UNION ALL SELECT target::text FROM :schema.cursor WHERE target IS NOT NULL");
        for row in transaction.query(&cuts, &[]).await.map_err(adopting)? {
            let end = row.get::<_, &str>(0).parse().as_ref().map_or(0, Snapshot::end);
            highest = highest.max(i64::try_from(end).unwrap_or(i64::MAX));
        }
        Ok(highest)
    }

    /// At or above the place of every transaction in the log.
    async fn highest_place(&self, transaction: &Transaction<'_>) -> Result<i64, AdminError> {
        let mut highest = 0;
        let segments = self.sql("SELECT number, base, greatest(coalesce(upto, 0), before_upto) FROM :schema.segment");
        for row in transaction.query(&segments, &[]).await.map_err(adopting)? {
            let last = self.sql(&format!(
                "SELECT $1 + coalesce((SELECT txid::text::bigint + 1 FROM :schema.event_{} ORDER BY txid DESC LIMIT 1), 0)",
                row.get::<_, i32>(0)
            ));
            let base: i64 = row.get(1);
            let last: i64 = transaction.query_one(&last, &[&base]).await.map_err(adopting)?.get(0);
            highest = highest.max(last).max(row.get(2));
        }
        Ok(highest)
    }

    /// Puts everything so far below `base`. What was written here before, by SQL triggers that came with the copy, is put
    /// above it: rows of the copy are older than their table's index, since a dump's indexes and then its SQL triggers are
    /// made after its rows.
    async fn rebase(&self, transaction: &Transaction<'_>, base: i64) -> Result<(), AdminError> {
        let segments = self.sql("SELECT number, upto IS NULL FROM :schema.segment ORDER BY number");
        for row in transaction.query(&segments, &[]).await.map_err(adopting)? {
            let (number, open): (i32, bool) = (row.get(0), row.get(1));
            if !open {
                continue;
            }
            let copied = self.sql(&format!(
                "SELECT coalesce(max(e.id), 0) FROM :schema.event_{number} AS e
                 WHERE age(e.xmin) >= (SELECT age(i.xmin) FROM pg_index AS i WHERE i.indrelid = ':schema.event_{number}'::regclass)"
            ));
            let last: i64 = transaction.query_one(&copied, &[]).await.map_err(adopting)?.get(0);
            let split = self.sql(
                "UPDATE :schema.segment SET before = $2, before_base = base, before_upto = $3, base = $3, closed_at = NULL, writers = NULL
                 WHERE number = $1",
            );
            let of: [&(dyn ToSql + Sync); 3] = [&number, &last, &base];
            transaction.execute(&split, &of).await.map_err(adopting)?;
        }
        let moved = self.sql(
            "UPDATE :schema.meta SET base = $1, definitions = definitions + 1,
                 system_identifier = (SELECT system_identifier FROM pg_control_system()),
                 timeline = :schema.timeline()",
        );
        transaction.execute(&moved, &[&base]).await.map_err(adopting)?;
        // Ids go on after those of the copy, also where it was not made by a dump, which brings the sequence.
        let ids = self.sql(
            "SELECT setval(':schema.event_id', greatest((SELECT last_value FROM :schema.event_id), (SELECT max(id) FROM :schema.event), 1))",
        );
        transaction.batch_execute(&ids).await.map_err(adopting)?;
        transaction.batch_execute(&self.sql("SELECT :schema.add_segment()")).await.map_err(adopting)
    }

    /// Installs all capture anew: functions and versions name tables by oids, which are others here.
    async fn recapture(&self, transaction: &Transaction<'_>) -> Result<(), AdminError> {
        let relations = self.sql("SELECT relation FROM :schema.capture GROUP BY relation");
        for row in transaction.query(&relations, &[]).await.map_err(adopting)? {
            self.drop_functions(transaction, row.get(0), &mut Mode::Run).await.map_err(adopting)?;
        }
        let retire = self.sql("UPDATE :schema.capture SET retired = true WHERE NOT retired");
        transaction.batch_execute(&retire).await.map_err(adopting)?;
        let tables = self.sql("SELECT DISTINCT table_schema, table_name FROM :schema.trigger ORDER BY 1, 2");
        for row in transaction.query(&tables, &[]).await.map_err(adopting)? {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let facts = match self.facts(transaction, &table).await {
                Ok(facts) => facts,
                // Not here, or not ours: the trigger's own reconcile says so.
                Err(AdminError::Invalid(_) | AdminError::NotPermitted(_)) => continue,
                Err(error) => return Err(error),
            };
            let definitions = self.definitions(transaction, &table).await?;
            self.bring(transaction, &facts, &definitions, &mut Mode::Run).await?;
        }
        Ok(())
    }
}

fn adopting(source: tokio_postgres::Error) -> AdminError {
    failed("adopt the log", "of this log", source)
}
