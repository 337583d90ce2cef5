//! A judge that is not us: the log against PostgreSQL's own logical decoding of the same run.
//!
//! Many connections write, as a seed says; readers read all the while. Afterwards `test_decoding` tells what was committed
//! and in which order, and [`compare`] tells what of it the log, and each reader, has lost, invented, repeated or reordered.
//! A seed stands for the same statements on each connection; how they interleave is the machine's.

mod compare;
mod decoding;
mod drive;
mod reader;
mod statements;
mod tables;
mod workload;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use eventtrigger::log::Event;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_postgres::Client;

use self::{
    compare::{Change, Faults, Journal, Row, Subjects},
    decoding::{Column, Line, Value},
    reader::{Journals, Read},
    tables::Tables,
};
use crate::support::{Database, major, plain, root};

/// Cursors of their own, beside those of the EventTriggers.
const READERS: u64 = 3;
/// Workers that compete for the slots.
const DELIVERERS: usize = 2;
/// How many transactions a round has, unless `JUDGE_TRANSACTIONS` says otherwise.
const TRANSACTIONS: u64 = 50_000;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_hands_out_what_postgres_itself_decodes() {
    round(from_environment("JUDGE_SEED").unwrap_or_else(|| fastrand::u64(..))).await;
}

/// `make soak`: rounds with new seeds for `SOAK`, such as `10m`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as long as SOAK says"]
async fn soak() {
    let wanted = std::env::var("SOAK").unwrap_or_else(|_| "10m".to_owned());
    let wanted = humantime::parse_duration(&wanted).expect("SOAK is a duration, such as 10m");
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < wanted {
        round(fastrand::u64(..)).await;
        rounds += 1;
        println!("judge: {rounds} rounds in {:.0?}", start.elapsed());
    }
}

/// What a round leaves for the judge.
struct Evidence {
    tables: Arc<Tables>,
    truth: Vec<Change>,
    found: Vec<Change>,
    events: Vec<Event>,
    /// The same in one window.
    again: Vec<i64>,
    reads: Vec<Read>,
    journals: Journals,
}

async fn round(seed: u64) {
    let again = format!("JUDGE_SEED={seed} repeats these transactions");
    println!("judge: {again}");
    let start = Instant::now();
    let evidence =
        tokio::time::timeout(Duration::from_mins(10), run(seed)).await.unwrap_or_else(|_| panic!("stuck; {again}"));
    let faults = tokio::task::spawn_blocking(move || verdict(evidence)).await.expect("a verdict");
    println!("judge: {:.1?} in all", start.elapsed());
    let shown = faults.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{again}; {} faults:\n{shown}", faults.len());
}

async fn run(seed: u64) -> Evidence {
    let start = Instant::now();
    let database = Arc::new(Database::new().await);
    let tables = Arc::new(Tables::new());
    database.run(&tables::sql()).await;
    let admin = Arc::new(database.admin().await);
    for definition in tables.all.iter().flat_map(|table| &table.definitions) {
        admin.install(&definition.trigger.name, definition).await.unwrap();
    }
    let root = Arc::new(root(&database.config.dbname).await);
    let decoder = Decoder::new(&root, &database).await;
    let beginning = reader::now(&database).await;
    database.run(tables::FIRST_ROWS).await;

    let (goal, end) = watch::channel(None);
    let journals = Journals::default();
    let everything = tokio::spawn(reader::all(Arc::clone(&database), beginning.clone(), end.clone()));
    let transactions: u64 = from_environment("JUDGE_TRANSACTIONS").unwrap_or(TRANSACTIONS);
    let own = |n| {
        // They begin while others write.
        let delay = Duration::from_millis(n * transactions / 20);
        tokio::spawn(reader::own(Arc::clone(&database), Arc::clone(&root), end.clone(), delay))
    };
    let readers: Vec<_> = (0..READERS).map(own).collect();
    let deliverer = || {
        let (database, root) = (Arc::clone(&database), Arc::clone(&root));
        tokio::spawn(reader::deliverer(database, root, end.clone(), Arc::clone(&journals)))
    };
    let deliverers: Vec<_> = (0..DELIVERERS).map(|_| deliverer()).collect();

    let major = major(&root).await;
    let workload = workload::workload(seed, usize::try_from(transactions).expect("not that many"), major);
    let begun = workload.transactions();
    let counts =
        drive::run(&plain(&database.config), Arc::clone(&root), Arc::clone(&admin), Arc::clone(&tables), workload)
            .await;
    let count = |count: &std::sync::atomic::AtomicUsize| count.load(Ordering::Relaxed);
    println!(
        "judge: {begun} transactions in {:.1?}: {} committed, {} undone, of them {} killed; {} prepared; {} changes of columns; {} segments",
        start.elapsed(),
        count(&counts.committed),
        count(&counts.undone),
        count(&counts.killed),
        count(&counts.prepared),
        count(&counts.altered),
        count(&counts.cuts),
    );

    quiet(&root, &database).await;
    goal.send(Some(reader::now(&database).await)).expect("there are readers");
    let events = everything.await.expect("everything is read");
    let mut reads = Vec::new();
    for reader in readers {
        reads.push(reader.await.expect("a reader"));
    }
    for deliverer in deliverers {
        deliverer.await.expect("a deliverer");
    }
    println!("judge: {} events read by {:.1?}", events.len(), start.elapsed());
    let truth = decoder.changes(&root, &tables).await;
    println!("judge: {} changes decoded by {:.1?}", truth.len(), start.elapsed());
    let found = logged(&database, &tables, &events).await;
    let (_goal, whole) = watch::channel(Some(reader::now(&database).await));
    let again = reader::all(Arc::clone(&database), beginning, whole).await.iter().map(|event| event.id).collect();
    Evidence { tables, truth, found, events, again, reads, journals }
}

/// Waits until nobody writes any more: a killed backend dies at its own pace.
async fn quiet(root: &Client, database: &Database) {
    let open = "SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database = $1)
        + (SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_xid IS NOT NULL)";
    let deadline = Instant::now() + Duration::from_secs(30);
    while root.query_one(open, &[&database.config.dbname]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "transactions are still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A slot of logical decoding that ends with its session, whatever happens to this test.
struct Decoder;

impl Decoder {
    async fn new(root: &Client, database: &Database) -> Self {
        let user = &database.config.user;
        let settings = format!(
            "SET statement_timeout = '60s'; SET TimeZone = 'UTC'; ALTER ROLE {user} SET deadlock_timeout = '10ms'"
        );
        root.batch_execute(&settings).await.expect("settings");
        let slot = format!("SELECT pg_create_logical_replication_slot('{user}', 'test_decoding', true)");
        root.batch_execute(&slot)
            .await
            .expect("a slot: the server needs wal_level=logical, and nobody may have a transaction open for ever");
        Self
    }

    /// What was committed since, in order of commit.
    async fn changes(self, root: &Client, tables: &Tables) -> Vec<Change> {
        // Commits do not wait for their WAL here; this one does, and for all before it.
        root.batch_execute("SET synchronous_commit = on; CREATE TABLE the_end ()").await.unwrap();
        let slot = "SELECT data FROM pg_logical_slot_get_changes((SELECT slot_name FROM pg_replication_slots
                    WHERE active_pid = pg_backend_pid()), NULL, 20000, 'include-xids', '1', 'skip-empty-xacts', '1')";
        let (mut changes, mut xid) = (Vec::new(), 0);
        loop {
            let rows = root.query(slot, &[]).await.expect("decode");
            if rows.is_empty() {
                return changes;
            }
            for row in rows {
                let text: &str = row.get(0);
                match decoding::line(text).unwrap_or_else(|| panic!("cannot read {text:?}")) {
                    Line::Begin(number) => xid = number,
                    Line::Commit => {}
                    Line::Change { table, operation, old, new } => {
                        let Some(table) = tables.of(&table) else { continue };
                        let new = (!new.is_empty()).then(|| decoded(new, &old));
                        let old = (!old.is_empty()).then(|| without_nulls(decoded(old, &[])));
                        let wanted_by = table.wanted_by(operation, old.as_ref(), new.as_ref());
                        if wanted_by.is_empty() {
                            continue;
                        }
                        let (old, new) = (old.map(|row| table.shown(row)), new.map(|row| table.shown(row)));
                        changes.push(Change { xid, table: table.name, operation, old, new, wanted_by });
                    }
                }
            }
        }
    }
}

/// A row as PostgreSQL's `row_to_json` is to write it; what an UPDATE has left out of line is in the old row.
fn decoded(columns: Vec<Column>, old: &[Column]) -> Row {
    let json = |column: Column| {
        let value = match column.value {
            Value::Unchanged => {
                old.iter().find(|before| before.name == column.name).map_or(Value::Null, |before| before.value.clone())
            }
            value => value,
        };
        let json = match value {
            Value::Text(text) => decoding::json(&column.kind, &text),
            _ => "null".to_owned(),
        };
        (column.name, json)
    };
    columns.into_iter().map(json).collect()
}

fn without_nulls(row: Row) -> Row {
    row.into_iter().filter(|(_, value)| value != "null").collect()
}

/// The log's events in the same form.
async fn logged(database: &Arc<Database>, tables: &Tables, events: &[Event]) -> Vec<Change> {
    let (captures, names) = reader::names(database).await;
    let change = |event: &Event| {
        let capture = &captures[&event.capture];
        let table = tables.of(&capture.table).expect("a table of ours");
        let row = |text: &String| {
            let row: HashMap<String, &RawValue> = serde_json::from_str(text).expect("a row");
            row.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect::<Row>()
        };
        let old = event.old.as_ref().map(|text| without_nulls(row(text)));
        let new = event.new.as_ref().map(row);
        for row in old.iter().chain(&new) {
            assert!(!row.contains_key("secret"), "an excluded column in event {}", event.id);
        }
        Change {
            xid: u32::try_from(event.txid & 0xffff_ffff).expect("32 bits"),
            table: table.name,
            operation: event.operation,
            old: old.map(|row| table.shown(row)),
            new: new.map(|row| table.shown(row)),
            wanted_by: reader::wanted_by(event, &captures).map(|number| names[&number].clone()).collect(),
        }
    };
    events.iter().map(change).collect()
}

fn verdict(evidence: Evidence) -> Faults {
    let Evidence { tables, truth, found, events, again, reads, journals } = evidence;
    let key = |name: &str| tables.all.iter().find(|table| table.name == name).expect("a table").key;
    let mut subjects = Subjects::default();
    let (truth, found) = (subjects.of(truth, key), subjects.of(found, key));
    let mut faults = compare::histories(&truth, &found);
    if !again.is_sorted() {
        faults.push("one window is not in order of id".to_owned());
    }
    let all: BTreeSet<_> = events.iter().map(|event| event.id).collect();
    let other = all.symmetric_difference(&again.into_iter().collect()).count();
    if other > 0 {
        faults.push(format!("one window and many differ in {other} events"));
    }
    let subjects = events.iter().zip(&found.subjects).map(|(event, subjects)| (event.id, &subjects[..])).collect();
    let mut judged = |name: String, journal: &Journal, expected: BTreeSet<i64>| {
        println!(
            "judge: {name}: {} events in {} deliveries of {} lives",
            expected.len(),
            journal.deliveries(),
            journal.lives()
        );
        faults
            .extend(compare::reader(journal, &expected, &subjects).into_iter().map(|fault| format!("{name}: {fault}")));
    };
    for (n, Read { from, journal }) in reads.iter().enumerate() {
        let since = events.iter().filter(|event| !from.has(event.txid)).map(|event| event.id);
        judged(format!("reader {n}"), journal, since.collect());
    }
    let journals = journals.lock().unwrap();
    for name in tables.all.iter().flat_map(|table| &table.definitions).map(|definition| &definition.trigger.name) {
        let wanted = events.iter().zip(&found.changes).filter(|(_, change)| change.wanted_by.contains(name));
        judged(format!("EventTrigger {name}"), &journals[name], wanted.map(|(event, _)| event.id).collect());
    }
    faults
}
