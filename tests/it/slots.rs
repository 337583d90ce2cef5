//! Delivery shared by several workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use eventtrigger::{
    delivery::{Config, Phase},
    log::{Admin, ConnectConfig, Move, Slot, WorkerError},
    name::{Ident, TableName},
};

use crate::{
    delivery::{Running, config, trigger},
    proxy::Proxy,
    receiver::{Hit, Receiver, Reply},
    support::{Database, orders},
};

/// Far more than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const SLOTS: usize = 16;

/// A log of so many EventTriggers, each sent to a path of its number: `/1` and on.
async fn with_triggers(count: usize) -> (Database, Admin, Receiver) {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    for number in 1..=count {
        let definition = trigger(&format!("t{number}"), receiver.url(&format!("/{number}")));
        admin.install(&format!("u{number}"), &definition).await.unwrap();
    }
    (database, admin, receiver)
}

/// A metric that counts.
fn count(worker: &Running, name: &str) -> usize {
    let value = worker.metric(name);
    format!("{value:.0}").parse().expect("a count")
}

fn held(worker: &Running) -> usize {
    count(worker, "eventtrigger_delivery_slots_held")
}

pub(crate) fn delivered(worker: &Running) -> usize {
    count(worker, "eventtrigger_events_delivered_total")
}

/// Waits until the workers hold as many slots as that, ascending.
async fn until_shared(workers: &[&Running], shares: &[usize]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut now: Vec<_> = workers.iter().map(|worker| held(worker)).collect();
        now.sort_unstable();
        if now == shares {
            return;
        }
        assert!(Instant::now() < deadline, "waited for shares of {shares:?}, they are {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a worker has seen so many events accepted.
pub(crate) async fn until_delivered(worker: &Running, events: usize) {
    let deadline = Instant::now() + DEADLINE;
    while delivered(worker) < events {
        assert!(Instant::now() < deadline, "waited for {events} to be delivered, it were {}", delivered(worker));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(delivered(worker), events);
}

/// How often each path got each event.
fn times(hits: &[Hit]) -> BTreeMap<(&str, &str), usize> {
    let mut times = BTreeMap::new();
    for hit in hits.iter().filter(|hit| hit.status == 200) {
        *times.entry((&*hit.path, hit.id())).or_default() += 1;
    }
    times
}

/// Events of a key that a path got after a later one.
fn out_of_order(hits: &[Hit]) -> usize {
    let mut last = BTreeMap::new();
    let late = |hit: &&Hit| {
        let key = (hit.path.clone(), hit.header("ce-partitionkey").to_owned());
        last.insert(key, hit.sequence()).is_some_and(|before| before > hit.sequence())
    };
    hits.iter().filter(|hit| hit.status == 200).filter(late).count()
}

#[tokio::test]
async fn two_workers_share_the_eventtriggers_of_a_log_and_deliver_everything_once() {
    let (database, _admin, receiver) = with_triggers(4).await;
    let (one, two) = (Running::start(&database), Running::start(&database));
    until_shared(&[&one, &two], &[8, 8]).await;
    database.run("INSERT INTO orders SELECT generate_series(1, 50)").await;
    database.run("UPDATE orders SET status = 'x'").await;
    let hits = receiver.until("four times a hundred events", |hits| times(hits).len() == 400).await;
    assert_eq!((hits.len(), out_of_order(&hits), receiver.overlaps()), (400, 0, 0));
    // Two EventTriggers each.
    until_delivered(&one, 200).await;
    until_delivered(&two, 200).await;
    one.stop().await;
    two.stop().await;
    assert_eq!(receiver.hits().len(), 400);
}

#[tokio::test]
async fn a_worker_that_joins_gets_its_share_and_nothing_is_lost_repeated_or_out_of_order() {
    let (database, _admin, receiver) = with_triggers(6).await;
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(1..5))));
    let (one, two) = (Running::start(&database), Running::start(&database));
    until_shared(&[&one, &two], &[8, 8]).await;
    database.run("INSERT INTO orders SELECT generate_series(1, 20)").await;
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (writing, client) = (writing.clone(), database.another().await);
        async move {
            let mut rounds = 0;
            while writing.load(Relaxed) {
                client.batch_execute(&format!("UPDATE orders SET total = {rounds}")).await.unwrap();
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rounds
        }
    });
    receiver.until("events to flow", |hits| hits.len() > 200).await;
    let began = Instant::now();
    let three = Running::start(&database);
    until_shared(&[&one, &two, &three], &[5, 5, 6]).await;
    eprintln!("joined with its share after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    receiver.until("the third one to deliver", |_| delivered(&three) > 50).await;
    // And back again.
    three.stop().await;
    until_shared(&[&one, &two], &[8, 8]).await;
    writing.store(false, Relaxed);
    let events = 20 + 20 * writer.await.unwrap();
    let hits = receiver.until("all events", |hits| times(hits).len() >= 6 * events).await;
    assert_eq!((hits.len(), out_of_order(&hits), receiver.overlaps()), (6 * events, 0, 0));
    one.stop().await;
    two.stop().await;
    assert_eq!(receiver.hits().len(), 6 * events, "each once");
}

#[tokio::test]
async fn workers_of_different_tables_drain_a_backlog_and_none_waits_for_what_is_not_its_own() {
    const KEYS: usize = 50;
    const ROUNDS: usize = 40;
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let tables = ["a", "b", "c", "d"];
    for table in tables {
        database.run(&format!("CREATE TABLE {table} (id int PRIMARY KEY, n int)")).await;
        let mut definition = trigger(table, receiver.url(&format!("/{table}")));
        definition.table = TableName { name: Ident::new(table), ..orders() };
        admin.install(&format!("u-{table}"), &definition).await.unwrap();
        database.run(&format!("INSERT INTO {table} SELECT generate_series(1, {KEYS}), 0")).await;
    }
    let late = database.another().await;
    late.batch_execute("BEGIN; UPDATE a SET n = -1 WHERE id = 1; UPDATE d SET n = -1 WHERE id = 1").await.unwrap();
    for _ in 0..ROUNDS {
        for table in tables {
            database.run(&format!("UPDATE {table} SET n = n + 1 WHERE id > 1")).await;
        }
    }
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..3))));
    let one = Running::start(&database);
    receiver.until("events to flow", |hits| hits.len() > 300).await;
    // In the middle of the window.
    let two = Running::start(&database);
    until_shared(&[&one, &two], &[8, 8]).await;
    late.batch_execute("COMMIT").await.unwrap();
    receiver.until("most events", |hits| hits.len() > 6000).await;
    let three = Running::start(&database);
    until_shared(&[&one, &two, &three], &[5, 5, 6]).await;
    let events = tables.len() * (KEYS + ROUNDS * (KEYS - 1)) + 2;
    let hits = receiver.until("all events", |hits| times(hits).len() >= events).await;
    assert_eq!((hits.len(), out_of_order(&hits), receiver.overlaps()), (events, 0, 0));
    // All cursors have come to the end: nothing holds the log but what was captured since.
    let behind = "SELECT count(*) = 0 FROM eventlog.cursor, eventlog.event AS e
        WHERE NOT pg_visible_in_snapshot(e.txid, cut) OR target IS NOT NULL";
    database.until("every cursor to stand behind every event", behind).await;
    for worker in [one, two, three] {
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_eventtrigger_changes_hands_only_when_its_attempts_have_ended() {
    let (database, _admin, receiver) = with_triggers(2).await;
    receiver.reply(|_, _| Reply::after(200, DEADLINE));
    let one = Running::start(&database);
    until_shared(&[&one], &[SLOTS]).await;
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.begins("/1", 1).await;
    receiver.begins("/2", 1).await;
    let two = Running::start(&database);
    // All of its share but the slot of which an attempt is under way.
    until_shared(&[&two, &one], &[7, 9]).await;
    database.run("UPDATE orders SET status = 'x'").await;
    let looks = Instant::now() + Duration::from_secs(1);
    while Instant::now() < looks {
        assert_eq!((receiver.begun("/1"), receiver.begun("/2"), held(&two)), (1, 1, 7));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receiver.release();
    until_delivered(&two, 1).await;
    until_delivered(&one, 3).await;
    until_shared(&[&one, &two], &[8, 8]).await;
    one.stop().await;
    two.stop().await;
    let hits = receiver.hits();
    assert_eq!((hits.len(), out_of_order(&hits), receiver.overlaps()), (4, 0, 0), "each once");
}

#[tokio::test]
async fn the_slots_of_a_worker_that_dies_are_taken_at_once() {
    let (database, _admin, receiver) = with_triggers(4).await;
    let (one, two, three) = (Running::start(&database), Running::start(&database), Running::start(&database));
    until_shared(&[&one, &two, &three], &[5, 5, 6]).await;
    two.kill().await;
    let killed = Instant::now();
    database.run("INSERT INTO orders SELECT generate_series(1, 10)").await;
    receiver.until("forty events", |hits| times(hits).len() == 40).await;
    eprintln!("delivered again {:?} after a worker died", killed.elapsed());
    // The lease of 10 s was not waited for.
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    until_shared(&[&one, &three], &[8, 8]).await;
    one.stop().await;
    three.stop().await;
}

#[tokio::test]
async fn a_clean_stop_hands_over_within_a_second_and_repeats_nothing() {
    let (database, _admin, receiver) = with_triggers(4).await;
    let stays = Running::start(&database);
    until_shared(&[&stays], &[SLOTS]).await;
    let mut took = Vec::new();
    for round in 1..=5 {
        let leaves = Running::start(&database);
        until_shared(&[&stays, &leaves], &[8, 8]).await;
        database.run(&format!("INSERT INTO orders SELECT generate_series({round}1, {round}9)")).await;
        receiver.until("its events", |hits| times(hits).len() == 4 * 9 * round).await;
        let asked = Instant::now();
        leaves.stop().await;
        until_shared(&[&stays], &[SLOTS]).await;
        took.push(asked.elapsed());
    }
    took.sort();
    eprintln!("handed over after {took:?}");
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    stays.stop().await;
    assert_eq!(receiver.hits().len(), 4 * 9 * 5, "each once");
}

#[tokio::test]
async fn a_worker_that_stops_hands_over_at_once_what_is_quiet_and_the_rest_when_it_is() {
    let (database, _admin, receiver) = with_triggers(4).await;
    receiver.reply(|hit, _| Reply::after(200, if hit.path == "/1" { DEADLINE } else { Duration::ZERO }));
    let leaves = Running::start(&database);
    until_shared(&[&leaves], &[SLOTS]).await;
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.begins("/1", 1).await;
    receiver.until("those of the others", |hits| hits.len() == 3).await;
    let stays = Running::start(&database);
    until_shared(&[&stays, &leaves], &[8, 8]).await;
    let leaving = tokio::spawn(leaves.stop());
    until_shared(&[&stays], &[SLOTS - 1]).await;
    database.run("INSERT INTO orders VALUES (2)").await;
    receiver.until("those of the others", |hits| hits.len() == 6).await;
    assert_eq!(receiver.begun("/1"), 1);
    receiver.release();
    leaving.await.unwrap();
    until_shared(&[&stays], &[SLOTS]).await;
    until_delivered(&stays, 4).await;
    stays.stop().await;
    let hits = receiver.hits();
    assert_eq!((hits.len(), out_of_order(&hits), receiver.overlaps()), (8, 0, 0), "each once");
}

#[tokio::test]
async fn a_slot_that_comes_back_is_delivered_from_where_the_other_worker_left_it() {
    let (database, _admin, receiver) = with_triggers(2).await;
    let stays = Running::start(&database);
    until_shared(&[&stays], &[SLOTS]).await;
    for round in 1..=4 {
        let other = Running::start(&database);
        until_shared(&[&stays, &other], &[8, 8]).await;
        // More than a page, so that a cursor that was not read anew would repeat much.
        database.run(&format!("INSERT INTO orders SELECT generate_series({round}001, {round}700)")).await;
        receiver.until("all events", |hits| times(hits).len() == 1402 * (round - 1) + 1400).await;
        // One of the two EventTriggers is the other's.
        until_delivered(&other, 700).await;
        if round % 2 == 0 {
            other.stop().await;
        } else {
            let written = "SELECT NOT EXISTS (SELECT FROM eventlog.event AS e, eventlog.cursor AS c
                WHERE NOT pg_visible_in_snapshot(e.txid, c.cut))";
            database.until("cursors are written", written).await;
            other.kill().await;
        }
        until_shared(&[&stays], &[SLOTS]).await;
        database.run(&format!("DELETE FROM orders WHERE id = {round}001")).await;
        receiver.until("the deletion", |hits| times(hits).len() == 1402 * round).await;
    }
    stays.stop().await;
    let hits = receiver.hits();
    assert_eq!((hits.len(), out_of_order(&hits)), (1402 * 4, 0), "each once");
}

#[tokio::test]
async fn a_worker_keeps_its_slots_for_as_long_as_it_lives() {
    let (database, _admin, _) = with_triggers(1).await;
    let worker = Running::start(&database);
    until_shared(&[&worker], &[SLOTS]).await;
    let until: SystemTime =
        database.client.query_one("SELECT max(until) FROM eventlog.lease", &[]).await.unwrap().get(0);
    let renewed = async || {
        let sql = "SELECT bool_and(until > $1 AND until > clock_timestamp() + interval '5 s'), max(epoch) FROM eventlog.lease";
        let row = database.client.query_one(sql, &[&until]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), 1, "they were taken once");
        row.get::<_, bool>(0)
    };
    let deadline = Instant::now() + DEADLINE;
    while !renewed().await {
        assert!(Instant::now() < deadline, "waited for the renewal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_retry_goes_with_its_slot() {
    let (database, _admin, receiver) = with_triggers(2).await;
    // Of both EventTriggers one key fails until somebody mends the sink.
    let mended = Arc::new(AtomicBool::new(false));
    receiver.reply({
        let mended = mended.clone();
        move |hit, _| {
            let fails = hit.header("ce-partitionkey") == "3" && !mended.load(Relaxed);
            Reply::now(if fails { 503 } else { 200 })
        }
    });
    let one = Running::start(&database);
    until_shared(&[&one], &[SLOTS]).await;
    database.run("INSERT INTO orders SELECT generate_series(1, 5); UPDATE orders SET status = 'x'").await;
    receiver.until("those of other keys", |hits| times(hits).len() == 16).await;
    until_delivered(&one, 16).await;
    database.until("they are parked", "SELECT count(*) = 4 FROM eventlog.parked").await;
    let two = Running::start(&database);
    until_shared(&[&one, &two], &[8, 8]).await;
    mended.store(true, Relaxed);
    let hits = receiver.until("all events", |hits| times(hits).len() == 20).await;
    assert_eq!(out_of_order(&hits), 0);
    // Each its own.
    until_delivered(&one, 18).await;
    until_delivered(&two, 2).await;
    database.until("nothing is parked", "SELECT count(*) = 0 FROM eventlog.parked").await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_worker_that_hangs_is_replaced_when_its_leases_are_over_and_writes_nothing_any_more() {
    let (database, _admin, receiver) = with_triggers(2).await;
    // It lives, as its connection does, and does nothing.
    let hung = database.worker().await;
    let leases = hung.take("hung", Slot::all(), Duration::from_secs(10)).await.unwrap();
    let began = Instant::now();
    let (subscriptions, _) = hung.subscriptions().await.unwrap();
    let mut stands_by = Running::start(&database);
    stands_by.until("standing by", |progress| progress.phase == Phase::StandingBy).await;
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("both events", |hits| times(hits).len() == 2).await;
    let took = began.elapsed();
    eprintln!("replaced {took:?} after it was heard of last");
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(15), "{took:?}");
    until_shared(&[&stands_by], &[SLOTS]).await;
    let back = Move { subscription: subscriptions[0].id, cursor: subscriptions[0].cursor.clone() };
    assert!(matches!(hung.commit(&leases, &[back], &[]).await, Err(WorkerError::Fenced)));
    assert!(matches!(hung.renew(&leases, Duration::from_secs(10)).await, Err(WorkerError::Fenced)));
    stands_by.stop().await;
    assert_eq!(receiver.hits().len(), 2);
}

/// A worker in a process of its own, which can be paused.
pub(crate) fn process(database: &Database, folder: &tempfile::TempDir) -> tokio::process::Child {
    let file = folder.path().join("delivery.json");
    std::fs::write(&file, serde_json::to_vec(&config(database)).unwrap()).unwrap();
    tokio::process::Command::new(env!("CARGO_BIN_EXE_eventtrigger"))
        .args(["deliver", "--allow-addresses=127.0.0.0/8", "--listen=127.0.0.1:0", "--config"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("start a worker")
}

pub(crate) fn signal(process: &tokio::process::Child, signal: &str) {
    let pid = process.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn a_worker_that_was_paused_sends_nothing_more_when_it_wakes_and_then_takes_its_share_again() {
    const ROUNDS: usize = 100;
    let (database, _admin, receiver) = with_triggers(1).await;
    let folder = tempfile::tempdir().unwrap();
    let paused = process(&database, &folder);
    database.until("all slots are held", "SELECT bool_and(worker > 0) FROM eventlog.lease").await;
    let stays = Running::start(&database);
    until_shared(&[&stays], &[8]).await;
    // Of each key one follows upon the other's answer: whenever it is paused, it is about to send many.
    database.run("INSERT INTO orders SELECT generate_series(1, 50)").await;
    for round in 1..ROUNDS {
        database.run(&format!("UPDATE orders SET total = {round}")).await;
    }
    receiver.until("it to be busy", |hits| hits.len() > 300).await;
    signal(&paused, "-STOP");
    let began = Instant::now();
    let hits = receiver.until("all events", |hits| times(hits).len() == 50 * ROUNDS).await;
    eprintln!("all delivered {:?} after a worker was paused", began.elapsed());
    until_shared(&[&stays], &[SLOTS]).await;
    let repeated = hits.len() - 50 * ROUNDS;
    // What ends is written within a twentieth of a second, and what it takes to write it on a busy machine.
    let shortly_before = |hit: &&Hit| hit.answered < began && hit.answered + Duration::from_millis(500) > began;
    let recent = hits.iter().filter(shortly_before).count();
    assert!(repeated <= recent + 64, "{repeated}: {recent} were accepted and not written yet, others under way");
    let before = receiver.begun("/1");
    signal(&paused, "-CONT");
    let woken = Instant::now();
    until_shared(&[&stays], &[8]).await;
    database.until("it is back", "SELECT count(DISTINCT worker) = 2 FROM eventlog.lease").await;
    eprintln!("back {:?} after it woke", woken.elapsed());
    assert_eq!(receiver.begun("/1"), before, "it sent what was another's by then");
    stays.stop().await;
}

#[tokio::test]
async fn more_workers_than_slots_stand_by() {
    let (database, _admin, _) = with_triggers(1).await;
    let busy = Running::start(&database);
    until_shared(&[&busy], &[SLOTS]).await;
    let mut others: Vec<_> = (0..SLOTS).map(|_| Running::start(&database)).collect();
    let all: Vec<_> = std::iter::once(&busy).chain(&others).collect();
    until_shared(&all, &[&[0][..], &[1; SLOTS]].concat()).await;
    let spare = others.iter().position(|worker| held(worker) == 0).expect("one has none");
    others[spare].until("standing by", |progress| progress.phase == Phase::StandingBy).await;
    let holders: BTreeSet<i32> = database
        .client
        .query("SELECT DISTINCT worker FROM eventlog.lease", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(holders.len(), SLOTS);
    for worker in others {
        worker.stop().await;
    }
    busy.stop().await;
}

#[tokio::test]
async fn a_worker_whose_database_has_gone_silent_is_stopped_all_the_same() {
    let (database, _admin, receiver) = with_triggers(1).await;
    let proxy = Proxy::start(database.config.port).await;
    let connection = ConnectConfig { port: proxy.port, ..database.config.clone() };
    let mut worker = Running::with(Config { connection, ..config(&database) }, DEADLINE);
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("the event", |hits| hits.len() == 1).await;
    worker.caught_up().await;
    proxy.silence(true);
    let asked = Instant::now();
    worker.stop().await;
    // As long as leases last, and some.
    assert!(asked.elapsed() < Duration::from_secs(15), "it took {:?}", asked.elapsed());
}
