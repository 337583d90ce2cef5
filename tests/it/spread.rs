//! One EventTrigger spread over several workers.

mod changes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventtrigger::log::{Admin, Definition};

use crate::{
    delivery::{Running, trigger},
    receiver::{Hit, Receiver, Reply},
    support::Database,
};

/// Far more than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Everything of `orders`, truncations too, in so many partitions.
pub(crate) fn spread(receiver: &Receiver, partitions: u32) -> Definition {
    let mut definition = trigger("spread", receiver.url("/"));
    definition.on.truncate = true;
    definition.partitions = partitions;
    definition
}

pub(crate) async fn install(admin: &Admin, definition: &Definition) {
    admin.install("u", definition).await.unwrap();
}

pub(crate) async fn with_partitions(partitions: u32) -> (Database, Admin, Receiver) {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    install(&admin, &spread(&receiver, partitions)).await;
    (database, admin, receiver)
}

/// What the log says of an event: its keys before and after; none for a truncation.
pub(crate) struct Logged {
    id: i64,
    keys: Option<BTreeSet<String>>,
}

/// All events, in order of id, which is the order for each row.
pub(crate) async fn logged(database: &Database, column: &str) -> Vec<Logged> {
    let sql = format!("SELECT id, op = 'T', old ->> '{column}', new ->> '{column}' FROM eventlog.event ORDER BY id");
    let rows = database.client.query(&sql, &[]).await.unwrap();
    let event = |row: &tokio_postgres::Row| Logged {
        id: row.get(0),
        keys: (!row.get::<_, bool>(1)).then(|| [2, 3].into_iter().filter_map(|at| row.get(at)).collect()),
    };
    rows.iter().map(event).collect()
}

/// The number of an event.
fn number(hit: &Hit) -> i64 {
    hit.sequence().try_into().unwrap()
}

/// The first time that each event was accepted.
fn accepted(hits: &[Hit]) -> BTreeMap<i64, &Hit> {
    let mut first = BTreeMap::new();
    for hit in hits.iter().filter(|hit| hit.status == 200) {
        first.entry(number(hit)).or_insert(hit);
    }
    first
}

/// Waits until each event of the log was accepted, and says of each that was accepted too early which one it should have
/// waited for.
pub(crate) async fn settle(database: &Database, receiver: &Receiver) -> Vec<(i64, i64)> {
    let events = logged(database, "id").await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let hits = receiver.hits();
        let done = accepted(&hits);
        let missing: Vec<_> = events.iter().map(|event| event.id).filter(|id| !done.contains_key(id)).collect();
        if missing.is_empty() {
            return overtaken(&events, &done);
        }
        assert!(Instant::now() < deadline, "waited for {missing:?}; {}", state(database).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn overtaken(events: &[Logged], done: &BTreeMap<i64, &Hit>) -> Vec<(i64, i64)> {
    let mut wrong = Vec::new();
    let mut last = BTreeMap::<&str, i64>::new();
    let mut bar = None;
    let mut since_bar = Vec::new();
    for Logged { id, keys } in events {
        let mut before: Vec<i64> = if let Some(keys) = keys {
            keys.iter().filter_map(|key| last.insert(key, *id)).chain(bar).collect()
        } else {
            bar = Some(*id);
            last.clear();
            std::mem::take(&mut since_bar)
        };
        since_bar.push(*id);
        before.retain(|before| done[id].at < done[before].answered);
        wrong.extend(before.into_iter().map(|before| (*id, before)));
    }
    wrong
}

/// What the database knows, for messages.
async fn state(database: &Database) -> String {
    let mut text = String::new();
    for table in ["cursor", "spread", "cut", "arrival", "parked_lane", "lease"] {
        let sql = format!(
            "SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM (SELECT * FROM eventlog.{table} LIMIT 20) AS t"
        );
        let rows: String = database.client.query_one(&sql, &[]).await.unwrap().get(0);
        text.extend(["\n", table, ":\n", &rows]);
    }
    let parked = "SELECT coalesce(string_agg(concat_ws(' ', subscription, seq, lane, event_id, op, attempts, meets), E'\\n' ORDER BY subscription, seq), '')
                  FROM (SELECT * FROM eventlog.parked LIMIT 60) AS p";
    let rows: String = database.client.query_one(parked, &[]).await.unwrap().get(0);
    text.extend(["\nparked:\n", &rows]);
    text
}

/// Nothing is left of what partitions met at, or waited for.
pub(crate) async fn nothing_waits(database: &Database) {
    let clean = "SELECT NOT EXISTS (SELECT FROM eventlog.arrival) AND NOT EXISTS (SELECT FROM eventlog.parked)
                     AND NOT EXISTS (SELECT FROM eventlog.parked_lane)";
    database.until("nothing waits", clean).await;
}

/// Writes at random until told to stop: rows come, go, change, and change their keys; now and then all of them go.
async fn write(database: Arc<Database>, seed: u64, keys: i32, stop: Arc<AtomicBool>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let client = database.another().await;
    while !stop.load(Relaxed) {
        let (one, other) = (rng.i32(1..=keys), rng.i32(1..=keys));
        let sql = match rng.u8(0..100) {
            0..25 => format!("INSERT INTO orders SELECT generate_series({one}, {one} + 3) ON CONFLICT DO NOTHING"),
            25..50 => format!("UPDATE orders SET id = {other} WHERE id = {one} AND {one} <> {other}"),
            50..90 => format!("UPDATE orders SET total = coalesce(total, 0) + 1 WHERE id = {one}"),
            90..99 => format!("DELETE FROM orders WHERE id = {one}"),
            _ => "TRUNCATE orders".to_owned(),
        };
        // The key may be taken.
        let _ = client.batch_execute(&sql).await;
        if rng.u8(..) < 40 {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..20))).await;
        }
    }
}

pub(crate) fn writers(database: &Arc<Database>, keys: i32, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    (0..3).map(|n| tokio::spawn(write(database.clone(), n, keys, stop.clone()))).collect()
}

/// Tells them to stop, and waits until they have.
pub(crate) async fn end(stop: &AtomicBool, writers: Vec<tokio::task::JoinHandle<()>>) {
    stop.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Every event of the log came once and in order, and nothing waits; then the workers are stopped.
pub(crate) async fn each_once(database: &Database, receiver: &Receiver, workers: impl IntoIterator<Item = Running>) {
    let wrong = settle(database, receiver).await;
    let (events, requests) = (logged(database, "id").await.len(), receiver.hits().len());
    println!("{events} events");
    assert_eq!((wrong, requests), (vec![], events), "each once, in order");
    nothing_waits(database).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn the_events_of_one_eventtrigger_are_shared_by_several_workers() {
    let (database, _admin, receiver) = with_partitions(4).await;
    let workers = [Running::start(&database), Running::start(&database)];
    database.until("two workers", "SELECT count(DISTINCT worker) = 2 FROM eventlog.lease").await;
    database.run("INSERT INTO orders SELECT generate_series(1, 400)").await;
    database.run("UPDATE orders SET status = 'x'").await;
    assert_eq!(settle(&database, &receiver).await, []);
    assert_eq!((receiver.hits().len(), receiver.overlaps()), (800, 0));
    for worker in workers {
        let delivered = worker.metric("eventtrigger_events_delivered_total");
        assert!(delivered > 250.0, "{delivered}");
        worker.stop().await;
    }
    nothing_waits(&database).await;
    assert_eq!(receiver.hits().len(), 800, "each once");
}

#[tokio::test]
async fn an_update_that_changes_the_key_waits_for_both_partitions_and_holds_both() {
    let (database, _admin, receiver) = with_partitions(16).await;
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..30))));
    let workers = [Running::start(&database), Running::start(&database)];
    database.run("INSERT INTO orders SELECT generate_series(1, 40)").await;
    for round in 0..5 {
        database
            .run(&format!(
                "UPDATE orders SET total = {round}; UPDATE orders SET id = id + 1000; UPDATE orders SET id = id - 993"
            ))
            .await;
    }
    assert_eq!(settle(&database, &receiver).await, []);
    let events = receiver.hits().len();
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!((events, receiver.hits().len()), (40 + 5 * 120, 40 + 5 * 120), "each once");
}

#[tokio::test]
async fn a_truncation_waits_for_all_partitions_and_all_wait_for_it() {
    let (database, _admin, receiver) = with_partitions(4).await;
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..30))));
    let workers = [Running::start(&database), Running::start(&database)];
    for _ in 0..5 {
        database.run("INSERT INTO orders SELECT generate_series(1, 30)").await;
        database.run("TRUNCATE orders").await;
    }
    assert_eq!(settle(&database, &receiver).await, []);
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(receiver.hits().len(), 5 * 31, "each once");
}

#[tokio::test]
async fn each_key_keeps_its_order_whatever_becomes_of_the_workers() {
    let (database, _admin, receiver) = with_partitions(4).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::at_random());
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    let mut workers: Vec<_> = (0..3).map(|_| Running::start(&database)).collect();
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1200))).await;
        let worker = workers.swap_remove(fastrand::usize(..workers.len()));
        if round % 3 == 0 {
            worker.stop().await;
        } else {
            worker.kill().await;
        }
        workers.push(Running::start(&database));
    }
    end(&stop, writers).await;
    receiver.reply(|_, _| Reply::now(200));
    let wrong = settle(&database, &receiver).await;
    println!("{} events, {} requests", logged(&database, "id").await.len(), receiver.hits().len());
    assert_eq!(wrong, []);
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_update_that_changes_the_key_and_fails_holds_its_keys_in_both_partitions_and_no_other() {
    let (database, _admin, receiver) = with_partitions(16).await;
    let mended = Arc::new(AtomicBool::new(false));
    receiver.reply({
        let mended = mended.clone();
        move |hit, _| {
            let changes = hit.json()["old"]["id"] == 1 && hit.json()["new"]["id"] == 2;
            Reply::now(if changes && !mended.load(Relaxed) { 503 } else { 200 })
        }
    });
    let workers = [Running::start(&database), Running::start(&database)];
    database.run("INSERT INTO orders VALUES (1), (3); UPDATE orders SET id = 2 WHERE id = 1").await;
    // Another one that is taken says that it is not the sink's fault.
    let stop = Arc::new(AtomicBool::new(false));
    let flows = tokio::spawn({
        let (stop, client) = (stop.clone(), database.another().await);
        async move {
            while !stop.load(Relaxed) {
                client.batch_execute("UPDATE orders SET total = -1 WHERE id = 3").await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    // Long enough for the other partition to lose its patience, and to park what waits.
    database
        .until("it is parked on both sides", "SELECT count(*) = 2 FROM eventlog.parked WHERE meets IS NOT NULL")
        .await;
    database.run("UPDATE orders SET total = 1 WHERE id = 2; INSERT INTO orders VALUES (1)").await;
    for total in 0..2000 {
        database.run(&format!("UPDATE orders SET total = {total} WHERE id = 3")).await;
    }
    stop.store(true, Relaxed);
    flows.await.unwrap();
    let last = |hits: &[Hit]| hits.iter().any(|hit| hit.json()["new"]["total"] == 1999);
    receiver.until("another key to flow", last).await;
    let of =
        |key| move |hit: &Hit| hit.status == 200 && (hit.json()["old"]["id"] == key || hit.json()["new"]["id"] == key);
    let hits = receiver.hits();
    assert_eq!((hits.iter().filter(|hit| of(1)(hit)).count(), hits.iter().filter(|hit| of(2)(hit)).count()), (1, 0));
    mended.store(true, Relaxed);
    assert_eq!(settle(&database, &receiver).await, []);
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn dead_letters_of_a_partition_are_redriven_and_hold_nothing() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = spread(&receiver, 16);
    definition.policy.retry = 1;
    install(&admin, &definition).await;
    let mended = Arc::new(AtomicBool::new(false));
    receiver.reply({
        let mended = mended.clone();
        move |hit, _| {
            let bad = hit.json()["new"]["status"] == "bad" && !mended.load(Relaxed);
            Reply::now(if bad { 400 } else { 200 })
        }
    });
    let workers = [Running::start(&database), Running::start(&database)];
    database
        .run("INSERT INTO orders SELECT generate_series(1, 20); UPDATE orders SET status = 'bad', id = id + 100")
        .await;
    database.run("UPDATE orders SET status = 'good'").await;
    let good = |hits: &[Hit]| hits.iter().filter(|hit| hit.json()["new"]["status"] == "good").count() == 20;
    receiver.until("those after the dead letters", good).await;
    database.until("dead letters", "SELECT count(*) = 20 FROM eventlog.dead_letter").await;
    mended.store(true, Relaxed);
    database.run("SELECT eventlog.redrive('shop', 'spread')").await;
    database.until("no dead letters", "SELECT count(*) = 0 FROM eventlog.dead_letter").await;
    let all = |hits: &[Hit]| accepted(hits).len() == 60;
    receiver.until("all events", all).await;
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
}
