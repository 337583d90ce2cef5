//! Carries a workload out: a task for each connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventtrigger::log::{Admin, AdminError, Retention};
use futures::future::join_all;
use tokio_postgres::{Client, NoTls};

use super::{
    tables::Tables,
    workload::{Action, End, Killed, Repair, Workload},
};

/// How long a change of columns, or its repair, tries to get its table between the others' transactions.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the log gets a new segment.
const CUT: Duration = Duration::from_millis(500);

/// What everybody counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) committed: AtomicUsize,
    /// Rolled back as planned, failed, or killed.
    pub(super) undone: AtomicUsize,
    pub(super) killed: AtomicUsize,
    pub(super) prepared: AtomicUsize,
    pub(super) altered: AtomicUsize,
    pub(super) cuts: AtomicUsize,
    /// Whether the writers are through: nobody waits for them any longer.
    over: AtomicBool,
}

impl Counts {
    fn ended(&self) -> usize {
        self.committed.load(Ordering::Relaxed) + self.undone.load(Ordering::Relaxed)
    }
}

/// A connection and its backend.
struct Session {
    client: Client,
    backend: i32,
}

struct Lane {
    config: tokio_postgres::Config,
    session: Session,
    /// Who may kill backends.
    root: Arc<Client>,
    counts: Arc<Counts>,
}

/// Runs the workload to its end: every transaction that it began is committed, rolled back, or dead.
pub(super) async fn run(
    config: &tokio_postgres::Config,
    root: Arc<Client>,
    admin: Arc<Admin>,
    tables: Arc<Tables>,
    workload: Workload,
) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let mut writers = Vec::new();
    let mut others = Vec::new();
    for actions in workload.lanes {
        let is_writer = !actions.iter().any(|action| matches!(action, Action::Long { .. } | Action::Alter { .. }));
        let session = Session::new(config).await;
        let mut lane = Lane { config: config.clone(), session, root: Arc::clone(&root), counts: Arc::clone(&counts) };
        let (admin, tables) = (Arc::clone(&admin), Arc::clone(&tables));
        let task = tokio::spawn(async move {
            for action in actions {
                lane.act(action, &admin, &tables).await;
            }
        });
        if is_writer { writers.push(task) } else { others.push(task) }
    }
    let cutter = tokio::spawn(cut(config.clone(), admin, Arc::clone(&counts)));
    join_all(writers).await.into_iter().for_each(|ended| ended.expect("a writer does not panic"));
    counts.over.store(true, Ordering::Relaxed);
    join_all(others).await.into_iter().for_each(|ended| ended.expect("a connection does not panic"));
    cutter.await.expect("cutting does not panic");
    counts
}

/// Cuts the log into segments, far more often than anybody would, and seals those that are full.
async fn cut(config: tokio_postgres::Config, admin: Arc<Admin>, counts: Arc<Counts>) {
    let session = Session::new(&config).await;
    while !counts.over.load(Ordering::Relaxed) {
        session.client.batch_execute("SELECT eventlog.add_segment()").await.expect("a new segment");
        // Readers learn of it as they do from the controller, which counts in the same transaction.
        session.client.batch_execute("UPDATE eventlog.meta SET definitions = definitions + 1").await.expect("count");
        admin.tend(&Retention::default()).await.expect("tend the log");
        counts.cuts.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(CUT).await;
    }
}

impl Session {
    async fn new(config: &tokio_postgres::Config) -> Self {
        let (client, connection) = config.connect(NoTls).await.expect("connect");
        // That it ends with an error is what the kills are for.
        tokio::spawn(connection);
        // Rows of long transactions are not worth waiting for. Values are compared as text.
        let settings = "SET lock_timeout = '15ms'; SET TimeZone = 'UTC'";
        client.batch_execute(settings).await.expect("settings");
        let backend = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("pid").get(0);
        Self { client, backend }
    }
}

/// One text for one round trip.
fn script(before: &str, statements: &[String], after: &str) -> String {
    format!("{before};{};{after}", statements.join(";"))
}

fn last(end: End) -> &'static str {
    match end {
        End::Commit => "COMMIT",
        End::Rollback => "ROLLBACK",
    }
}

impl Lane {
    async fn act(&mut self, action: Action, admin: &Admin, tables: &Tables) {
        match action {
            Action::Transaction { statements, end } => {
                let done = self.run(&script("BEGIN", &statements, last(end))).await;
                self.count(done && end == End::Commit);
            }
            Action::Long { before, others, after, end } => {
                let mut done = self.run(&script("BEGIN", &before, "SELECT")).await;
                let until = self.counts.ended() + others;
                while self.counts.ended() < until && !self.counts.over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                done = done && self.run(&script("SELECT", &after, last(end))).await;
                self.count(done && end == End::Commit);
            }
            Action::Prepare { statements, name } => {
                // The server has one space of names for all its databases.
                let database = self.config.get_dbname().unwrap_or_default();
                if self.run(&script("BEGIN", &statements, &format!("PREPARE TRANSACTION '{name}-{database}'"))).await {
                    self.counts.prepared.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.count(false);
                }
            }
            Action::Settle { name, end } => {
                // It is not there if it could not be prepared.
                let database = self.config.get_dbname().unwrap_or_default();
                let done = self.run(&format!("{} PREPARED '{name}-{database}'", last(end))).await;
                if done {
                    self.count(end == End::Commit);
                }
            }
            Action::Killed { statements, when } => self.killed(&statements, when).await,
            Action::Alter { table, statements, end, repair } => {
                let start = Instant::now();
                let sql = script("BEGIN", &statements, last(end));
                let mut done = self.run(&sql).await;
                while !done && start.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    done = self.run(&sql).await;
                }
                self.counts.altered.fetch_add(usize::from(done), Ordering::Relaxed);
                self.count(done && end == End::Commit);
                if repair == Repair::AtOnce {
                    repaired(admin, tables, &table).await;
                }
                // At an even pace beside the others.
                let until = self.counts.ended() + 100;
                while self.counts.ended() < until && !self.counts.over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    /// Whether it all worked; if not, no transaction is left open.
    async fn run(&mut self, sql: &str) -> bool {
        let Err(error) = self.session.client.batch_execute(sql).await else { return true };
        assert!(error.as_db_error().is_some(), "{sql}: {error:?}");
        expected(&error, sql);
        self.session.client.batch_execute("ROLLBACK").await.expect("roll back");
        false
    }

    fn count(&self, committed: bool) {
        let count = if committed { &self.counts.committed } else { &self.counts.undone };
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn killed(&mut self, statements: &[String], when: Killed) {
        let kill = "SELECT pg_terminate_backend($1)";
        let backend = self.session.backend;
        match when {
            Killed::BeforeItsEnd => {
                self.run(&script("BEGIN", statements, "SELECT")).await;
                self.root.query_one(kill, &[&backend]).await.expect("kill a backend");
            }
            Killed::AtAnyMoment => {
                let sql = script("BEGIN", statements, "COMMIT");
                let killed = async {
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(..3000))).await;
                    self.root.query_one(kill, &[&backend]).await.expect("kill a backend");
                };
                // Whether it came to its end nobody knows but the server.
                let _ = tokio::join!(self.session.client.batch_execute(&sql), killed);
            }
        }
        self.counts.killed.fetch_add(1, Ordering::Relaxed);
        self.count(false);
        self.session = Session::new(&self.config).await;
    }
}

/// An error that a workload like this must expect; another one is a mistake of the test, or ours.
fn expected(error: &tokio_postgres::Error, sql: &str) {
    use tokio_postgres::error::SqlState;
    let known = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::FOREIGN_KEY_VIOLATION,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        // MERGE, and upserts of rows that meet.
        SqlState::CARDINALITY_VIOLATION,
        // An UPDATE that would take a row out of the partition that it names.
        SqlState::CHECK_VIOLATION,
        // A prepared transaction that could not be prepared.
        SqlState::UNDEFINED_OBJECT,
    ];
    let code = error.code().expect("an error of the server");
    assert!(known.contains(code), "{sql}\n{error:?}");
}

/// What the controller does when it finds that a table's columns are not those that were captured.
async fn repaired(admin: &Admin, tables: &Tables, name: &eventtrigger::name::TableName) {
    let table = tables.of(name).expect("a table of ours");
    for definition in &table.definitions {
        let start = Instant::now();
        loop {
            match admin.install(&definition.trigger.name, definition).await {
                Ok(_) => break,
                Err(AdminError::Locked(_)) if start.elapsed() < PATIENCE => {}
                // A long transaction has the table: the controller would come back.
                Err(AdminError::Locked(_)) => return,
                Err(error) => panic!("repair {}: {error:?}", table.name),
            }
        }
    }
}
