//! A delivery worker's connection to the log: its slots, what is new, and how far delivery has come.

mod exceptions;
mod forwards;
mod lists;
mod page;
mod pools;
mod reader;
mod segments;
mod slots;
mod spread;
mod wire;

use std::{collections::BTreeSet, sync::Arc};

use tokio_postgres::{Client, Row, Statement, Transaction, types::ToSql};

pub use self::exceptions::{DeadLetter, Exception, Failure, Parked, ParkedLanes, Redriven};
pub use self::forwards::{Claim, Forward};
pub use self::page::{Most, Page};
use self::reader::Reader;
pub use self::slots::{Lease, Slot, Survey};
pub use self::spread::Wait;
use super::{
    Definition, Event, Partition, SCHEMA_VERSION, Snapshot,
    connect::{ConnectConfig, ConnectError},
    snapshot::Txid,
};
use crate::name::{Ident, ObjectName, TableName};

/// How far delivery of one trigger has come.
///
/// Everything in `from` is done. While `to` is set, the window between both is under way: its events up to `after`, in
/// order of id, are done, and so are those in `done`. Of a partition, those in `done` may be of later windows, too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// The cut up to which everything is done.
    pub from: Snapshot,
    /// The end of the window that is under way.
    pub to: Option<Snapshot>,
    /// The last event, by id, of the window's finished part; 0 at its start.
    pub after: i64,
    /// Events beyond `after` that are done: what a worker had delivered when it was stopped in the middle.
    pub done: Vec<i64>,
}

/// One EventTrigger, or one partition of it, as a worker sees it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its number in this log.
    pub id: i32,
    /// The EventTrigger's.
    pub trigger: i32,
    /// Which of its events.
    pub partition: Partition,
    /// Whether the events are to be divided otherwise than they are, see [`Worker::divide`].
    pub divides: bool,
    /// Whether workers of another pool are to deliver it, see [`Worker::departing`].
    pub departs: bool,
    /// What to do.
    pub definition: Definition,
    /// How far it has come.
    pub cursor: Cursor,
}

/// One version of a table's capture: tells what the bits of [`Event::matched`] stand for.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Its number in this log.
    pub id: i32,
    /// The table, as it was called.
    pub table: TableName,
    /// The columns that name a row, in order; empty if the table has no key.
    pub key: Vec<Ident>,
    /// Numbers of the EventTriggers, by position of their bit.
    pub triggers: Vec<i32>,
}

/// What a worker learns each time it looks.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The cut at this moment.
    pub now: Snapshot,
    /// Counts every change of a definition.
    pub definitions: i64,
}

/// A cursor's new position.
#[derive(Clone, Debug)]
pub struct Move {
    /// Whose.
    pub subscription: i32,
    /// Where to.
    pub cursor: Cursor,
}

/// What may go wrong between a worker and the log.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No connection.
    #[error("failed to connect to the database")]
    Connect(#[from] ConnectError),
    /// A statement failed, or the connection broke.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The schema is missing, of another version, or another's.
    #[error("{0}")]
    NotOurs(String),
    /// Another worker holds a newer lease of a slot: nothing that this one does there counts any more.
    #[error("a slot was taken over by another worker")]
    Fenced,
    /// Something in the log's schema is not as this binary writes it.
    #[error("failed to read {what}: {why}")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// A delivery worker's connection to the log; statements may be pipelined. A second one is opened when there is a backlog
/// to read, a third when there are failures to write.
#[derive(Debug)]
pub struct Worker {
    client: Arc<Client>,
    /// For what failed; opened when something does.
    aside: tokio::sync::Mutex<Option<Client>>,
    config: ConnectConfig,
    schema: Ident,
    reader: Reader,
    log_id: String,
    /// The EventTrigger that it delivers; `None`: all that have no workers of their own.
    only: Option<ObjectName>,
    /// The number of that EventTrigger; 0 for the others.
    pool: i32,
    /// Among the log's workers, once it takes part.
    number: tokio::sync::OnceCell<i32>,
    statements: Statements,
}

/// Prepared once: planning costs more than most of them.
#[derive(Debug)]
struct Statements {
    pulse: Statement,
    renew: Statement,
    survey: Statement,
    commit: Statement,
    fetch: Statement,
}

impl Worker {
    /// Connects, and checks that the schema is of this version and belongs to EventLog `owner` (its UID). It delivers all
    /// EventTriggers that have no workers of their own.
    pub async fn connect(config: &ConnectConfig, schema: &Ident, owner: &str) -> Result<Self, WorkerError> {
        Self::of(config, schema, owner, None).await
    }

    /// The same; with `only`, as one of the workers that this EventTrigger has of its own.
    pub async fn of(
        config: &ConnectConfig,
        schema: &Ident,
        owner: &str,
        only: Option<&ObjectName>,
    ) -> Result<Self, WorkerError> {
        let client = Arc::new(config.connect("eventtrigger deliver").await?);
        let failed = |source| WorkerError::Sql { doing: "prepare the worker's statements", source };
        let settings = format!("{}; SET statement_timeout = '60s'", reader::settings(schema));
        client.batch_execute(&settings).await.map_err(failed)?;
        let log_id = check(&client, schema, owner).await?;
        let pool = match only {
            Some(trigger) => pools::number(&client, trigger).await?,
            None => 0,
        };
        let prepare = |sql: &'static str| client.prepare(sql);
        let statements = Statements {
            pulse: prepare(include_str!("../sql/pulse.sql")).await.map_err(failed)?,
            renew: prepare(include_str!("../sql/renew.sql")).await.map_err(failed)?,
            survey: prepare(include_str!("../sql/survey.sql")).await.map_err(failed)?,
            commit: prepare(include_str!("../sql/commit.sql")).await.map_err(failed)?,
            fetch: prepare(include_str!("../sql/fetch.sql")).await.map_err(failed)?,
        };
        let worker = Self {
            client,
            aside: tokio::sync::Mutex::default(),
            config: config.clone(),
            schema: schema.clone(),
            reader: Reader::new(config, schema),
            log_id,
            only: only.cloned(),
            pool,
            number: tokio::sync::OnceCell::new(),
            statements,
        };
        worker.pulse().await?;
        Ok(worker)
    }

    /// The log's own id, the first half of every event's id.
    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What is new; cheap enough to ask a hundred times a second.
    pub async fn pulse(&self) -> Result<Pulse, WorkerError> {
        let failed = |source| WorkerError::Sql { doing: "look for new events", source };
        let row = self.client.query_one(&self.statements.pulse, &[]).await.map_err(failed)?;
        let (definitions, base) = (row.get(1), Txid::try_from(row.get::<_, i64>(2)).unwrap_or_default());
        usable(row.get(3))?;
        // A segment is committed before anything is captured into it: who knows those of this moment misses none.
        self.reader.learn(&self.client, definitions, base).await?;
        Ok(Pulse { now: snapshot(row.get(0))?.raised(base), definitions })
    }

    /// The end of the window that begins at `from` and shall reach to `now`: `now`, but for a log that has moved to
    /// another server, and a cursor from before.
    pub fn until(&self, from: &Snapshot, now: &Snapshot) -> Snapshot {
        self.reader.segments().until(from, now)
    }

    /// All subscriptions of this pool that can be read, and the captures whose events they may meet.
    pub async fn subscriptions(&self) -> Result<(Vec<Subscription>, Vec<Capture>), WorkerError> {
        let failed = |source| WorkerError::Sql { doing: "read the definitions", source };
        let rows = self
            .client
            .query(
                "SELECT c.subscription, t.definition::text, c.cut::text, c.target::text, c.after, c.done, t.id, c.partition,
                     coalesce(s.partitions, 1), s.ordering::text, s.upto IS NOT NULL
                         OR coalesce(s.partitions, 1) <> coalesce((t.definition ->> 'partitions')::int4, 1)
                         OR coalesce(s.ordering::text <> (t.definition -> 'ordering')::text, false), t.pool <> c.pool
                 FROM trigger AS t JOIN cursor AS c ON c.trigger_id = t.id LEFT JOIN spread AS s ON s.trigger_id = t.id
                 WHERE c.pool = $1 ORDER BY c.subscription",
                &[&self.pool],
            )
            .await
            .map_err(failed)?;
        let mut subscriptions = Vec::with_capacity(rows.len());
        for row in &rows {
            match subscription(row) {
                Ok(subscription) => subscriptions.push(subscription),
                // Its events wait: its cursor stays. The others' go on.
                Err(error) => tracing::error!(schema = self.schema(), trigger = row.get::<_, i32>(6), "{error}"),
            }
        }
        Ok((subscriptions, self.captures("true", &[]).await?))
    }

    /// One capture, if [`Worker::subscriptions`] did not have it: made since then.
    pub async fn capture(&self, id: i32) -> Result<Option<Capture>, WorkerError> {
        Ok(self.captures("id = $1", &[&id]).await?.pop())
    }

    async fn captures(&self, which: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Capture>, WorkerError> {
        let rows = self
            .client
            .query(
                &format!("SELECT id, table_schema, table_name, key, triggers FROM capture WHERE {which}"),
                parameters,
            )
            .await
            .map_err(|source| WorkerError::Sql { doing: "read the captures", source })?;
        let capture = |row: &Row| Capture {
            id: row.get(0),
            table: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            key: row.get::<_, Vec<String>>(3).into_iter().map(Ident::new).collect(),
            triggers: row.get(4),
        };
        Ok(rows.iter().map(capture).collect())
    }

    /// Events of the window between two cuts, beyond `after`, in order of id. Page after page costs the same, however long
    /// the window is; so does starting in its middle, once.
    ///
    /// Both cuts come from this log: from [`Worker::pulse`], [`Worker::until`] or a [`Cursor`]. Events of the captures `without`
    /// are left out of long windows: whoever needs none of them saves their way here.
    pub async fn page(
        &self,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        most: Most,
        without: &Arc<BTreeSet<i32>>,
    ) -> Result<Page, WorkerError> {
        self.reader.page(&self.client, from, to, after, most, without).await
    }

    /// The same, however many bytes they have: fewer than `limit` means that the window has no more.
    pub async fn window(
        &self,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Event>, WorkerError> {
        Ok(self.page(from, to, after, Most { events: limit, bytes: u64::MAX }, &Arc::default()).await?.events)
    }

    /// The id of about the newest event of the log.
    pub async fn newest(&self) -> Result<i64, WorkerError> {
        self.reader.newest(&self.client).await
    }

    /// Bytes of all events that were read from the log, also of parked ones and dead letters, and are still in memory.
    pub fn held(&self) -> u64 {
        self.reader.scale().bytes()
    }

    /// Whether there is any event between two cuts.
    pub async fn any(&self, from: &Snapshot, to: &Snapshot) -> Result<bool, WorkerError> {
        self.reader.any(&self.client, from, to).await
    }

    /// Writes new positions.
    ///
    /// # Errors
    /// [`WorkerError::Fenced`] if a lease is no longer ours; then nothing was written.
    async fn advance(&self, leases: &[Lease], moves: &[Move]) -> Result<(), WorkerError> {
        let moves = Moves::of(self.pool, leases, moves);
        let row = self.client.query_one(&self.statements.commit, &moves.parameters()).await.map_err(committing)?;
        if row.get(0) { Ok(()) } else { Err(WorkerError::Fenced) }
    }

    /// Writes new positions in a transaction that writes more; whether the leases are still ours.
    async fn moved(
        &self,
        transaction: &Transaction<'_>,
        leases: &[Lease],
        moves: &[Move],
    ) -> Result<bool, tokio_postgres::Error> {
        let moves = Moves::of(self.pool, leases, moves);
        Ok(transaction.query_one(include_str!("../sql/commit.sql"), &moves.parameters()).await?.get(0))
    }

    /// Dead letters of each EventTrigger: how many.
    pub async fn dead(&self) -> Result<Vec<(ObjectName, i64)>, WorkerError> {
        let rows = self
            .client
            .query("SELECT trigger_namespace, trigger_name, count(*) FROM dead_letter GROUP BY 1, 2 ORDER BY 1, 2", &[])
            .await
            .map_err(|source| WorkerError::Sql { doing: "count dead letters", source })?;
        let count = |row: &Row| (ObjectName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2));
        Ok(rows.iter().map(count).collect())
    }

    /// Name of the log's schema, for messages.
    pub fn schema(&self) -> &str {
        self.schema.as_str()
    }
}

/// New positions, as `commit.sql` takes them.
struct Moves {
    pool: i32,
    slots: Vec<i32>,
    epochs: Vec<i64>,
    subscriptions: Vec<i32>,
    cuts: Vec<String>,
    targets: Vec<Option<String>>,
    after: Vec<i64>,
    /// PostgreSQL has no arrays of arrays of unequal length.
    done: Vec<String>,
}

impl Moves {
    fn of(pool: i32, leases: &[Lease], moves: &[Move]) -> Self {
        let (slots, epochs) = slots::arrays(leases);
        Self {
            pool,
            slots,
            epochs,
            subscriptions: moves.iter().map(|step| step.subscription).collect(),
            cuts: moves.iter().map(|step| step.cursor.from.to_string()).collect(),
            targets: moves.iter().map(|step| step.cursor.to.as_ref().map(ToString::to_string)).collect(),
            after: moves.iter().map(|step| step.cursor.after).collect(),
            done: moves.iter().map(|step| array(&step.cursor.done)).collect(),
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        [&self.slots, &self.epochs, &self.subscriptions, &self.cuts, &self.targets, &self.after, &self.done, &self.pool]
    }
}

fn committing(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "write how far delivery has come", source }
}

/// Refuses a log that a newer controller has made one that this worker does not know how to use.
fn usable(compatible: i32) -> Result<(), WorkerError> {
    if compatible <= SCHEMA_VERSION {
        return Ok(());
    }
    Err(WorkerError::NotOurs(format!(
        "the log is for workers that know version {compatible} of its schema, this one knows {SCHEMA_VERSION}; the controller starts such"
    )))
}

/// The log's id, if the log is of a version that it can use, on its own server, and this owner's.
async fn check(client: &Client, schema: &Ident, owner: &str) -> Result<String, WorkerError> {
    let failed = |source| WorkerError::Sql { doing: "read the log's owner", source };
    let there =
        client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{schema}.meta")]).await.map_err(failed)?;
    if !there.get::<_, bool>(0) {
        return Err(WorkerError::NotOurs(format!(
            "there is no event log in schema {schema}; the controller has not made it yet"
        )));
    }
    let row = client
        .query_one(
            "SELECT m.version, m.owner_uid, m.log_id::text, m.system_identifier = c.system_identifier, m.compatible
             FROM meta AS m, pg_control_system() AS c",
            &[],
        )
        .await
        .map_err(failed)?;
    let (version, found): (i32, String) = (row.get(0), row.get(1));
    usable(row.get(4))?;
    if version < SCHEMA_VERSION {
        return Err(WorkerError::NotOurs(format!(
            "the log's schema has version {version}, this worker needs {SCHEMA_VERSION}; the controller has not migrated it yet"
        )));
    }
    if found != owner {
        return Err(WorkerError::NotOurs(format!(
            "the log in schema {schema} belongs to another EventLog (uid {found})"
        )));
    }
    if !row.get::<_, bool>(3) {
        return Err(WorkerError::NotOurs(format!(
            "the log in schema {schema} was written on another server: this is a copy"
        )));
    }
    Ok(row.get(2))
}

fn snapshot(text: &str) -> Result<Snapshot, WorkerError> {
    text.parse().map_err(|error: super::snapshot::NotASnapshot| WorkerError::Corrupt {
        what: "a snapshot",
        why: error.to_string(),
    })
}

fn subscription(row: &Row) -> Result<Subscription, WorkerError> {
    let corrupt = |error: serde_json::Error| WorkerError::Corrupt { what: "a definition", why: error.to_string() };
    let mut definition: Definition = serde_json::from_str(row.get(1)).map_err(corrupt)?;
    if let Some(ordering) = row.get::<_, Option<&str>>(9) {
        // All partitions divide events alike, whatever the definition has come to say.
        definition.ordering = serde_json::from_str(ordering).map_err(corrupt)?;
    }
    let number = |at: usize| row.get::<_, i32>(at).unsigned_abs();
    let cursor = Cursor {
        from: snapshot(row.get(2))?,
        to: row.get::<_, Option<&str>>(3).map(snapshot).transpose()?,
        after: row.get(4),
        done: row.get(5),
    };
    let partition = Partition { number: number(7), of: number(8) };
    let (divides, departs) = (row.get(10), row.get(11));
    Ok(Subscription { id: row.get(0), trigger: row.get(6), partition, divides, departs, definition, cursor })
}

fn array(numbers: &[i64]) -> String {
    format!("{{{}}}", numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}
