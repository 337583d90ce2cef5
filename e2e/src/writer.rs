//! An application that writes to PostgreSQL without a pause, survives the server's restarts, and knows exactly what it
//! has committed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::ledger::Change;

/// How long a server may be away before the writer gives up.
const PATIENCE: Duration = Duration::from_mins(2);

/// How the writer goes about it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The table, quoted as SQL wants it. Needs the columns of [`Plan::table_sql`].
    pub table: String,
    /// Connections that write at the same time, to the same rows.
    pub connections: u32,
    /// Rest of each connection between two transactions.
    pub pause: Duration,
}

impl Plan {
    /// SQL that makes the table.
    pub fn table_sql(&self) -> String {
        format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, customer text NOT NULL, status text NOT NULL, \
             total numeric(10, 2) NOT NULL, version bigint NOT NULL)",
            self.table
        )
    }
}

/// A writer at work.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    plan: Plan,
    stop: AtomicBool,
    last_key: AtomicI64,
    written: Mutex<Vec<Change>>,
    rolled_back: AtomicI64,
}

/// Connects; the connection's task ends with the client.
pub async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Writer {
    /// Starts to write, with new rows numbered above `last_key`.
    pub fn start(config: Config, plan: Plan, last_key: i64) -> Self {
        let shared = Arc::new(Shared {
            config,
            plan,
            stop: AtomicBool::new(false),
            last_key: AtomicI64::new(last_key),
            written: Mutex::default(),
            rolled_back: AtomicI64::new(0),
        });
        let tasks = (0..shared.plan.connections).map(|_| tokio::spawn(Shared::work(shared.clone()))).collect();
        Self { shared, tasks }
    }

    /// How many changes are committed so far.
    pub fn written(&self) -> usize {
        self.shared.written.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a connection has given up; [`Writer::stop`] tells why.
    pub fn has_failed(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Ends every connection's last transaction, and returns what was committed.
    ///
    /// # Errors
    /// If the server refused a statement, or was away for longer than the writer's patience.
    pub async fn stop(self) -> Result<Written> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a writer panicked")??;
        }
        let changes = std::mem::take(&mut *self.shared.written.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Written { changes, rolled_back: self.shared.rolled_back.load(Ordering::Relaxed) })
    }
}

/// What a writer has done.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Committed changes, in no order.
    pub changes: Vec<Change>,
    /// Transactions that were rolled back.
    pub rolled_back: i64,
}

/// How a transaction ended that did not end well.
enum Failure {
    /// The connection broke before COMMIT was sent: nothing is committed.
    Aborted(Error),
    /// It broke after that: the server must be asked.
    InDoubt(InDoubt),
}

/// A transaction whose COMMIT was sent and not answered.
struct InDoubt {
    txid: String,
    changes: Vec<Change>,
    why: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Aborted(error)
    }
}

/// What a statement came back with: the row's key and version, and the transaction.
const RETURNING: &str = "RETURNING id, version, pg_current_xact_id()::text";

impl Shared {
    /// One connection's work, over as many connections as it takes.
    async fn work(self: Arc<Self>) -> Result<()> {
        let mut doubt: Option<InDoubt> = None;
        while doubt.is_some() || !self.stop.load(Ordering::Relaxed) {
            let client = self.reconnect().await?;
            if let Some(InDoubt { txid, changes, .. }) = &doubt {
                let status = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[txid]).await;
                match status.as_ref().map(|row| row.get::<_, Option<&str>>(0)) {
                    Ok(Some("committed")) => self.note(changes),
                    Ok(Some("aborted")) => {}
                    // The server has not noticed yet that we are gone.
                    Ok(Some("in progress")) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                    Ok(status) => bail!("transaction {txid} has the status {status:?}"),
                    Err(error) if may_pass(error) => continue,
                    Err(_) => drop(status.context("failed to ask for a transaction's status")?),
                }
                doubt = None;
            }
            let failure = loop {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                match self.transaction(&client).await {
                    Ok(changes) => self.note(&changes),
                    Err(failure) => break failure,
                }
                tokio::time::sleep(self.plan.pause).await;
            };
            match failure {
                Failure::Aborted(error) if !may_pass(&error) => return Err(error).context("the writer was refused"),
                Failure::InDoubt(InDoubt { why, .. }) if !may_pass(&why) => {
                    return Err(why).context("a commit was refused");
                }
                Failure::Aborted(_) => {}
                Failure::InDoubt(in_doubt) => doubt = Some(in_doubt),
            }
        }
        Ok(())
    }

    async fn reconnect(&self) -> Result<Client> {
        let end = Instant::now() + PATIENCE;
        loop {
            match connect(&self.config).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > end => bail!("the server was away for {PATIENCE:?}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn note(&self, changes: &[Change]) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
    }

    /// One transaction: of ten, two insert, six update, one deletes, and one is rolled back.
    async fn transaction(&self, client: &Client) -> Result<Vec<Change>, Failure> {
        let dice = fastrand::u32(0..10);
        if dice == 9 {
            return self.roll_back(client).await.map(|()| Vec::new()).map_err(Failure::from);
        }
        let table = &self.plan.table;
        let known = self.last_key.load(Ordering::Relaxed);
        // Mostly among the newest rows, so that connections meet at the same row.
        let key = known - fastrand::i64(0..20);
        client.batch_execute("BEGIN").await?;
        let rows = match dice {
            0 | 1 => {
                let count = if dice == 0 { 1 } else { 3 };
                let first = self.last_key.fetch_add(count, Ordering::Relaxed) + 1;
                let sql = format!(
                    "INSERT INTO {table} (id, customer, status, total, version) \
                     SELECT id, 'customer ' || id % 7, 'new', 10 + id % 90, 1 FROM generate_series($1::bigint, $2) id {RETURNING}"
                );
                client.query(&sql, &[&first, &(first + count - 1)]).await?
            }
            2 => client.query(&format!("DELETE FROM {table} WHERE id = $1 {RETURNING}"), &[&key]).await?,
            _ => {
                let sql = format!(
                    "UPDATE {table} SET version = version + 1, status = 'status ' || version + 1 WHERE id = $1 {RETURNING}"
                );
                client.query(&sql, &[&key]).await?
            }
        };
        let change = if dice == 2 { Change::deleted } else { Change::kept };
        let changes: Vec<_> = rows.iter().map(|row| change(row.get(0), row.get(1))).collect();
        let txid = rows.first().map(|row| row.get::<_, String>(2));
        match (client.batch_execute("COMMIT").await, txid) {
            (Ok(()), _) => Ok(changes),
            (Err(why), Some(txid)) => Err(Failure::InDoubt(InDoubt { txid, changes, why })),
            (Err(why), None) => Err(Failure::Aborted(why)),
        }
    }

    /// Changes that nobody must ever hear of: their keys and versions are negative.
    async fn roll_back(&self, client: &Client) -> Result<(), Error> {
        let table = &self.plan.table;
        let n = self.rolled_back.fetch_add(1, Ordering::Relaxed) + 1;
        let key = self.last_key.load(Ordering::Relaxed);
        let sql = format!(
            "BEGIN; INSERT INTO {table} (id, customer, status, total, version) VALUES (-{n}, 'nobody', 'rolled back', 0, -{n}); \
             UPDATE {table} SET version = -{n}, status = 'rolled back {n}' WHERE id = {key}; ROLLBACK"
        );
        client.batch_execute(&sql).await
    }
}

/// Whether the server is away, or on its way there, rather than refusing the statement.
fn may_pass(error: &Error) -> bool {
    error.as_db_error().is_none_or(|refused| {
        // 57P01 to 57P03: shut down, crashed, starting. 40xxx: another connection met us at the same row.
        let code = refused.code().code();
        code.starts_with("57P0") || code.starts_with("40")
    })
}
