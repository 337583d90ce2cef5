//! EventTriggers with workers of their own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventtrigger::{
    log::{Admin, Definition, Worker, WorkerError, definition::OwnWorkers},
    name::ObjectName,
};

use crate::{
    deadletters::forwarding,
    delivery::{Running, trigger},
    receiver::{Hit, Receiver, Reply},
    slots::{delivered, process, signal, until_delivered},
    spread::{each_once, end, install, logged, nothing_waits, settle, spread, with_partitions, writers},
    support::{Database, owner, schema},
};

/// A definition that asks for workers of its own, or not.
fn own(definition: Definition, own_workers: Option<OwnWorkers>) -> Definition {
    Definition { own_workers, ..definition }
}

const RUNNING: Option<OwnWorkers> = Some(OwnWorkers::Running);
const STOPPED: Option<OwnWorkers> = Some(OwnWorkers::Stopped);

/// Whether all of the one EventTrigger is delivered by the log's workers, or by its own.
async fn until_moved(database: &Database, own_workers: bool) {
    let moved = format!("SELECT bool_and((pool <> 0) = {own_workers}) FROM eventlog.cursor");
    database.until(if own_workers { "the move to its own workers" } else { "the move back" }, &moved).await;
}

/// Waits for so many events more.
async fn flows(receiver: &Receiver, events: usize) {
    let before = receiver.hits().len();
    receiver.until("events to flow", move |hits| hits.len() > before + events).await;
}

/// Two EventTriggers, `own` and `other`, each to a path of its name.
async fn two(own_workers: Option<OwnWorkers>) -> (Database, Admin, Receiver) {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), own_workers)).await.unwrap();
    admin.install("u2", &trigger("other", receiver.url("/other"))).await.unwrap();
    (database, admin, receiver)
}

fn at(hits: &[Hit], path: &str) -> usize {
    hits.iter().filter(|hit| hit.path == path && hit.status == 200).count()
}

/// Waits until `own` and `other` have had so many events. What a worker counts of an EventTrigger ends when it hands it over.
async fn until_sent(receiver: &Receiver, own: usize, other: usize) {
    receiver.until("all events", |hits| (at(hits, "/own"), at(hits, "/other")) == (own, other)).await;
}

#[tokio::test]
async fn workers_of_its_own_deliver_an_eventtrigger_and_no_other_and_the_logs_workers_all_others() {
    let (database, _admin, receiver) = two(RUNNING).await;
    let (common, own) = (Running::start(&database), Running::of(&database, "own"));
    database.run("INSERT INTO orders SELECT generate_series(1, 100)").await;
    until_delivered(&common, 100).await;
    until_delivered(&own, 100).await;
    assert_eq!((at(&receiver.hits(), "/own"), at(&receiver.hits(), "/other")), (100, 100));
    // Each pool has slots of its own.
    for worker in [&common, &own] {
        assert!((worker.metric("eventtrigger_delivery_slots_held") - 16.0).abs() < f64::EPSILON);
    }
    common.stop().await;
    database.run("INSERT INTO orders SELECT generate_series(101, 200)").await;
    until_delivered(&own, 200).await;
    own.kill().await;
    let common = Running::start(&database);
    until_delivered(&common, 100).await;
    database.run("INSERT INTO orders VALUES (0)").await;
    until_delivered(&common, 101).await;
    common.stop().await;
    assert_eq!((at(&receiver.hits(), "/own"), at(&receiver.hits(), "/other")), (200, 201));
    assert_eq!(receiver.overlaps(), 0);
}

#[tokio::test]
async fn the_logs_workers_go_on_until_the_first_worker_of_its_own_is_there() {
    let (database, admin, receiver) = two(None).await;
    let common = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    until_sent(&receiver, 1, 1).await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    // They have looked several times whether somebody has come.
    for id in 2..=10 {
        database.run(&format!("INSERT INTO orders VALUES ({id})")).await;
        until_sent(&receiver, id, id).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let asked = Instant::now();
    let own = Running::of(&database, "own");
    database.until("the move", "SELECT count(*) = 1 FROM eventlog.cursor WHERE pool <> 0").await;
    eprintln!("moved {:?} after its worker was started", asked.elapsed());
    database.run("INSERT INTO orders VALUES (11)").await;
    until_sent(&receiver, 11, 11).await;
    until_delivered(&own, 1).await;
    until_delivered(&common, 11).await;
    common.stop().await;
    own.stop().await;
    assert_eq!((at(&receiver.hits(), "/own"), at(&receiver.hits(), "/other")), (11, 11), "each once");
}

#[tokio::test]
async fn with_no_replicas_events_wait_in_the_log() {
    let (database, admin, receiver) = two(None).await;
    let common = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    until_sent(&receiver, 1, 1).await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), STOPPED)).await.unwrap();
    database.until("the move", "SELECT count(*) = 1 FROM eventlog.cursor WHERE pool <> 0").await;
    database.run("INSERT INTO orders SELECT generate_series(2, 50)").await;
    until_sent(&receiver, 1, 50).await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    let own = Running::of(&database, "own");
    until_delivered(&own, 49).await;
    common.stop().await;
    own.stop().await;
    assert_eq!((at(&receiver.hits(), "/own"), at(&receiver.hits(), "/other")), (50, 50), "each once");
}

#[tokio::test]
async fn an_eventtrigger_moves_only_when_its_attempts_have_ended() {
    let (database, admin, receiver) = two(None).await;
    receiver.reply(|hit, _| Reply::after(200, Duration::from_secs(if hit.path == "/own" { 60 } else { 0 })));
    let (common, its_own) = (Running::start(&database), Running::of(&database, "own"));
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.begins("/own", 1).await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    database.run("UPDATE orders SET status = 'x'").await;
    receiver.until("the other one's", |hits| at(hits, "/other") == 2).await;
    let looks = Instant::now() + Duration::from_secs(1);
    while Instant::now() < looks {
        assert_eq!((receiver.begun("/own"), delivered(&its_own)), (1, 0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receiver.release();
    until_sent(&receiver, 2, 2).await;
    until_delivered(&its_own, 1).await;
    common.stop().await;
    its_own.stop().await;
    assert_eq!((receiver.hits().len(), receiver.overlaps()), (4, 0), "each once");
}

#[tokio::test]
async fn what_its_own_workers_left_behind_is_fetched_by_those_of_the_log() {
    let (database, admin, receiver) = two(RUNNING).await;
    let (common, its_own) = (Running::start(&database), Running::of(&database, "own"));
    database.run("INSERT INTO orders VALUES (1)").await;
    until_sent(&receiver, 1, 1).await;
    let written = "SELECT NOT EXISTS (SELECT FROM eventlog.event AS e, eventlog.cursor AS c
        WHERE NOT pg_visible_in_snapshot(e.txid, c.cut))";
    database.until("cursors are written", written).await;
    its_own.kill().await;
    database.run("INSERT INTO orders VALUES (2)").await;
    until_delivered(&common, 2).await;
    let epochs = "SELECT sum(epoch)::int8 FROM eventlog.lease WHERE pool <> 0";
    let before: i64 = database.client.query_one(epochs, &[]).await.unwrap().get(0);
    let asked = Instant::now();
    admin.install("u1", &trigger("own", receiver.url("/own"))).await.unwrap();
    until_delivered(&common, 3).await;
    eprintln!("fetched after {:?}", asked.elapsed());
    let after: i64 = database.client.query_one(epochs, &[]).await.unwrap().get(0);
    assert_eq!(after, before + 1, "who held its slot before is fenced");
    common.stop().await;
    assert_eq!(at(&receiver.hits(), "/own"), 2);
}

#[tokio::test]
async fn a_worker_that_was_paused_while_its_eventtrigger_went_elsewhere_sends_and_writes_nothing_more() {
    let (database, admin, receiver) = two(None).await;
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..20))));
    let folder = tempfile::tempdir().unwrap();
    let paused = process(&database, &folder);
    database.until("all slots are held", "SELECT bool_and(worker > 0) FROM eventlog.lease").await;
    database.run("INSERT INTO orders SELECT generate_series(1, 300)").await;
    receiver.until("events to flow", |hits| at(hits, "/own") > 50).await;
    signal(&paused, "-STOP");
    let its_own = Running::of(&database, "own");
    admin.install("u1", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    // When the leases are over. Its session lasts.
    database.until("the move", "SELECT count(*) = 1 FROM eventlog.cursor WHERE pool <> 0").await;
    database.run("UPDATE orders SET status = 'x'").await;
    let ids = |hits: &[Hit]| {
        hits.iter().filter(|hit| hit.path == "/own").map(|hit| hit.id().to_owned()).collect::<BTreeSet<_>>()
    };
    receiver.until("all events", |hits| ids(hits).len() == 600).await;
    let before = at(&receiver.hits(), "/own");
    signal(&paused, "-CONT");
    // It begins anew, with another number, and the other EventTrigger.
    receiver
        .until("those of the other one", |hits| {
            let other: BTreeSet<_> = hits.iter().filter(|hit| hit.path == "/other").map(Hit::id).collect();
            other.len() == 600
        })
        .await;
    assert_eq!(at(&receiver.hits(), "/own"), before, "it sent what was another's by then");
    let own = "SELECT count(*) = 1 FROM eventlog.cursor AS c, eventlog.event AS e WHERE c.pool <> 0 AND e.id = 600
        AND pg_visible_in_snapshot(e.txid, c.cut)";
    database.until("the cursor is where its own worker left it", own).await;
    its_own.stop().await;
}

/// Moves the one EventTrigger of a log to and fro while events flow; its workers, and those of the log, are there all the time.
async fn moves_while_events_flow(partitions: u32) {
    let (database, admin, receiver) = with_partitions(partitions).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..5))));
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    let workers: Vec<_> = (0..2).flat_map(|_| [Running::start(&database), Running::of(&database, "spread")]).collect();
    for round in 0..6 {
        flows(&receiver, 300).await;
        let own_workers = (round % 2 == 0).then_some(OwnWorkers::Running);
        install(&admin, &own(spread(&receiver, partitions), own_workers)).await;
        until_moved(&database, own_workers.is_some()).await;
    }
    flows(&receiver, 300).await;
    end(&stop, writers).await;
    each_once(&database, &receiver, workers).await;
}

#[tokio::test]
async fn an_eventtrigger_moves_to_workers_of_its_own_and_back_while_events_flow() {
    moves_while_events_flow(1).await;
}

#[tokio::test]
async fn one_that_is_divided_moves_partition_by_partition_while_events_flow() {
    moves_while_events_flow(4).await;
}

#[tokio::test]
async fn the_number_of_partitions_may_change_while_an_eventtrigger_moves() {
    let (database, admin, receiver) = with_partitions(1).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..5))));
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    let workers = [Running::start(&database), Running::of(&database, "spread"), Running::of(&database, "spread")];
    for (partitions, own_workers) in [(4, RUNNING), (1, None), (3, RUNNING), (8, None), (1, RUNNING)] {
        flows(&receiver, 200).await;
        install(&admin, &own(spread(&receiver, partitions), own_workers)).await;
        let divided = format!("SELECT count(*) = {partitions} FROM eventlog.cursor");
        database.until("events to be divided anew", &divided).await;
        until_moved(&database, own_workers.is_some()).await;
    }
    end(&stop, writers).await;
    each_once(&database, &receiver, workers).await;
}

/// Kills and stops workers of both pools at random while an EventTrigger moves to and fro.
async fn workers_die_in_the_middle(partitions: u32) {
    let (database, admin, receiver) = with_partitions(partitions).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::at_random());
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    let start = |own: usize| match own {
        0 => Running::start(&database),
        _ => Running::of(&database, "spread"),
    };
    let mut workers: Vec<_> = (0..4).map(|n| start(n % 2)).collect();
    let mut kinds = BTreeSet::new();
    for round in 0..12 {
        let own_workers = (round % 2 == 0).then_some(OwnWorkers::Running);
        install(&admin, &own(spread(&receiver, partitions), own_workers)).await;
        // A move takes about as long.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..500))).await;
        let place = fastrand::usize(..workers.len());
        let worker = std::mem::replace(&mut workers[place], start(place % 2));
        kinds.insert((place % 2, round % 3));
        if round % 3 == 0 {
            worker.stop().await;
        } else {
            worker.kill().await;
        }
    }
    end(&stop, writers).await;
    receiver.reply(|_, _| Reply::now(200));
    let wrong = settle(&database, &receiver).await;
    println!("{} events, {} requests, {kinds:?}", logged(&database, "id").await.len(), receiver.hits().len());
    assert_eq!(wrong, []);
    nothing_waits(&database).await;
    until_moved(&database, false).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn each_key_keeps_its_order_whatever_becomes_of_the_workers_while_an_eventtrigger_moves() {
    workers_die_in_the_middle(1).await;
}

#[tokio::test]
async fn so_does_each_key_of_one_that_is_divided() {
    workers_die_in_the_middle(4).await;
}

#[tokio::test]
async fn what_is_parked_moves_too_and_its_key_waits_for_it() {
    let (database, admin, receiver) = two(None).await;
    let mended = Arc::new(AtomicBool::new(false));
    receiver.reply({
        let mended = mended.clone();
        move |hit, _| {
            let bad = hit.path == "/own" && hit.json()["new"]["id"] == 1 && !mended.load(Relaxed);
            Reply::now(if bad { 503 } else { 200 })
        }
    });
    let (common, its_own) = (Running::start(&database), Running::of(&database, "own"));
    database.run("INSERT INTO orders VALUES (1), (2)").await;
    database.run("UPDATE orders SET status = 'x'").await;
    database.until("one key is parked", "SELECT count(*) = 2 FROM eventlog.parked").await;
    admin.install("u1", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    database.until("the move", "SELECT count(*) = 1 FROM eventlog.cursor WHERE pool <> 0").await;
    database.run("UPDATE orders SET status = 'y'").await;
    receiver
        .until("the key that is well", |hits| {
            hits.iter().any(|hit| hit.path == "/own" && hit.json()["new"]["status"] == "y")
        })
        .await;
    mended.store(true, Relaxed);
    until_delivered(&its_own, 4).await;
    let hits = receiver.hits();
    let of_one = hits.iter().filter(|hit| hit.path == "/own" && hit.status == 200 && hit.json()["new"]["id"] == 1);
    let order: Vec<_> = of_one.map(|hit| hit.json()["new"]["status"].clone()).collect();
    assert_eq!(order, [serde_json::Value::Null, "x".into(), "y".into()]);
    common.stop().await;
    its_own.stop().await;
}

#[tokio::test]
async fn dead_letters_are_forwarded_and_redriven_by_workers_of_its_own_only() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mended = Arc::new(AtomicBool::new(false));
    receiver.reply({
        let mended = mended.clone();
        move |hit, _| Reply::now(if mended.load(Relaxed) || hit.path.starts_with("/other") { 200 } else { 422 })
    });
    admin.install("u1", &own(forwarding("own", &receiver), RUNNING)).await.unwrap();
    let (mut common, its_own) = (Running::start(&database), Running::of(&database, "own"));
    database.run("INSERT INTO orders VALUES (1), (2)").await;
    receiver.until("an attempt to forward", |hits| hits.iter().any(|hit| hit.path == "/dead")).await;
    database.until("two dead letters", "SELECT count(*) = 2 FROM eventlog.dead_letter").await;
    its_own.kill().await;
    mended.store(true, Relaxed);
    database.run("UPDATE eventlog.dead_letter SET forward_at = now()").await;
    database.run("SELECT eventlog.redrive('shop', 'own', event => 2)").await;
    // The log's workers look for both every second, and have seen that there is something to look for.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    common.caught_up().await;
    assert!(receiver.hits().iter().all(|hit| hit.status == 422), "the log's workers sent it");
    let its_own = Running::of(&database, "own");
    let both = |hits: &[Hit]| {
        let taken = |path: &str| hits.iter().filter(|hit| hit.path == path && hit.status == 200).count();
        taken("/dead") >= 1 && taken("/") == 1
    };
    receiver.until("both", both).await;
    common.stop().await;
    its_own.stop().await;
}

#[tokio::test]
async fn an_eventtrigger_that_is_made_anew_is_delivered_by_the_same_workers_and_one_that_is_gone_by_none() {
    let (database, admin, receiver) = two(RUNNING).await;
    let mut its_own = Running::of(&database, "own");
    database.run("INSERT INTO orders VALUES (1)").await;
    until_delivered(&its_own, 1).await;
    let (schema, uid, name) = (schema(), owner().uid, ObjectName::new("shop", "own"));
    let before = Worker::of(&database.config, &schema, &uid, Some(&name)).await.unwrap();
    admin.remove(&name).await.unwrap();
    let rest = "SELECT (SELECT count(*) FROM eventlog.lease) = 16 AND (SELECT count(*) FROM eventlog.cursor) = 1";
    database.until("nothing is left of it", rest).await;
    its_own
        .until("the worker to miss it", |progress| {
            progress.readiness().is_err_and(|why| why.contains("no EventTrigger shop/own"))
        })
        .await;
    admin.install("u3", &own(trigger("own", receiver.url("/own")), RUNNING)).await.unwrap();
    its_own.until("the worker to find it", |progress| progress.readiness().is_ok()).await;
    assert!(matches!(before.still_there().await, Err(WorkerError::NotOurs(_))));
    database.run("INSERT INTO orders VALUES (2)").await;
    until_delivered(&its_own, 2).await;
    its_own.stop().await;
}
