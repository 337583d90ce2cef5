//! Delivery through faults: writers commit and roll back, receivers fail in every way, workers and their connections are
//! killed, all at random and all at once. In the end nothing is lost, made up or overtaken, and repeated only as far as stated.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{Running, trigger},
    receiver::{Hit, Receiver, Reply},
    support::Database,
};

const KEYS: i32 = 40;
const WRITERS: u64 = 3;
const TRIGGERS: [&str; 3] = ["one", "two", "three"];
/// Shorter than the longest that the receiver takes.
const TIMEOUT: Duration = Duration::from_millis(300);
/// What a worker may have sent and not written down when it ends, of each EventTrigger: what is under way, and what ended within
/// a commit's time.
const REPEATED: usize = 64 + 500;

/// For so long; `make soak` has longer.
fn lasts() -> Duration {
    let given =
        env::var("FAULTS").ok().map(|lasts| humantime::parse_duration(&lasts).expect("FAULTS is a time such as 5m"));
    given.unwrap_or(Duration::from_secs(20))
}

fn seed() -> u64 {
    env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

/// Counts up keys, each change in a transaction that may roll back, as a whole or in part.
async fn write(database: Arc<Database>, seed: u64, stop: CancellationToken) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let client = database.another().await;
    while !stop.is_cancelled() {
        let keys: BTreeSet<_> = (0..rng.u8(1..4)).map(|_| rng.i32(1..=KEYS)).collect();
        let mut sql = String::from("BEGIN;");
        for key in keys {
            let count = format!("UPDATE orders SET total = total + 1 WHERE id = {key};");
            let (before, after) = match rng.u8(..) {
                0..40 => ("SAVEPOINT s; ", " ROLLBACK TO s;"),
                40..60 => ("SAVEPOINT s; ", " RELEASE s;"),
                _ => ("", ""),
            };
            sql.extend([before, &count, after]);
        }
        sql.push_str(if rng.u8(..) < 50 { "ROLLBACK" } else { "COMMIT" });
        // In order of key: writers do not wait for each other in a circle.
        client.batch_execute(&sql).await.expect("write");
        if rng.u8(..) < 30 {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..30))).await;
        }
    }
}

/// How a receiver answers that fails in every way it can.
fn at_random() -> Reply {
    match fastrand::u16(0..1000) {
        0..40 => Reply::now(500),
        40..60 => Reply::now(503),
        60..70 => Reply { retry_after: Some(1), ..Reply::now(429) },
        70..80 => Reply::after(200, TIMEOUT * 3 / 2), // too late: it lies
        80..84 => Reply::after(504, TIMEOUT * 2),
        84..200 => Reply::after(200, Duration::from_millis(fastrand::u64(1..40))),
        _ => Reply::now(200),
    }
}

/// Key and count of an event.
fn count(hit: &Hit) -> (i64, i64) {
    let row = &hit.json()["new"];
    (row["id"].as_i64().expect("an id"), row["total"].as_i64().expect("a count"))
}

/// What went wrong: EventTrigger, key and count of each event.
#[derive(Debug, Default, Eq, PartialEq)]
struct Wrong {
    lost: Vec<(&'static str, i64, i64)>,
    made_up: Vec<(&'static str, i64, i64)>,
    overtaken: Vec<(&'static str, i64, i64)>,
}

/// What was accepted, against how far each key was counted.
fn compare(hits: &[Hit], committed: &BTreeMap<i64, i64>) -> Wrong {
    let mut wrong = Wrong::default();
    for name in TRIGGERS {
        let path = format!("/{name}");
        let (mut first, mut highest) = (BTreeMap::<(i64, i64), String>::new(), BTreeMap::<i64, i64>::new());
        for hit in hits.iter().filter(|hit| hit.path == path && hit.status == 200) {
            let (key, count) = count(hit);
            // A count that was rolled back comes again with another change; that one was never committed.
            let another = first.get(&(key, count)).is_some_and(|id| id != hit.id());
            if another || count > committed[&key] {
                wrong.made_up.push((name, key, count));
            }
            if first.insert((key, count), hit.id().to_owned()).is_none()
                && highest.insert(key, count).is_some_and(|before| before > count)
            {
                wrong.overtaken.push((name, key, count));
            }
        }
        for (key, until) in committed {
            let missing = (1..=*until).filter(|count| !first.contains_key(&(*key, *count)));
            wrong.lost.extend(missing.map(|count| (name, *key, count)));
        }
    }
    wrong
}

/// One fault; how many workers it may make repeat something.
async fn fault(
    rng: &mut fastrand::Rng,
    database: &Database,
    receiver: &Receiver,
    worker: &mut Option<Running>,
) -> usize {
    match rng.u8(0..5) {
        0 | 1 => {
            let Some(worker) = worker.take() else { return 0 };
            worker.kill().await;
            1
        }
        2 => {
            if let Some(worker) = worker.take() {
                worker.stop().await;
            }
            0
        }
        3 => {
            // All of the workers' connections at once, as when the server goes down.
            let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name LIKE 'eventtrigger deliver%'";
            database.client.query_one(cut, &[]).await.expect("cut connections");
            2
        }
        // A sink that is away for a while.
        _ => {
            receiver.reply(|_, _| Reply::now(503));
            tokio::time::sleep(Duration::from_millis(rng.u64(100..2500))).await;
            receiver.reply(|_, _| at_random());
            0
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_made_up_or_overtaken_whatever_fails() {
    let (seed, lasts) = (seed(), lasts());
    println!("FAULTS_SEED={seed} FAULTS={}", humantime::format_duration(lasts));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    database.run(&format!("INSERT INTO orders SELECT n, '', 0 FROM generate_series(1, {KEYS}) AS n")).await;
    for name in TRIGGERS {
        let mut definition = trigger(name, receiver.url(&format!("/{name}")));
        definition.on.insert = false;
        definition.policy.timeout = TIMEOUT;
        admin.install(name, &definition).await.unwrap();
    }
    receiver.reply(|_, _| at_random());
    let database = Arc::new(database);
    let stop = CancellationToken::new();
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(database.clone(), rng.u64(..) ^ n, stop.clone()))).collect();
    let mut workers = [Some(Running::start(&database)), Some(Running::start(&database))];
    let mut ends = 0;
    let began = Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(Duration::from_millis(rng.u64(200..1200))).await;
        let which = rng.usize(..workers.len());
        ends += fault(&mut rng, &database, &receiver, &mut workers[which]).await;
        for worker in &mut workers {
            if worker.is_none() && rng.bool() {
                *worker = Some(Running::start(&database));
            }
        }
    }
    stop.cancel();
    for writer in writers {
        writer.await.expect("a writer");
    }
    receiver.reply(|_, _| Reply::now(200));
    for worker in &mut workers {
        worker.get_or_insert_with(|| Running::start(&database));
    }
    let rows = database.client.query("SELECT id, total::int8 FROM orders", &[]).await.expect("counts");
    let committed: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get::<_, i32>(0).into(), row.get(1))).collect();
    let changes = usize::try_from(committed.values().sum::<i64>()).expect("a count");
    let accepted = |hits: &[Hit]| {
        let ids: BTreeSet<_> = hits.iter().filter(|hit| hit.status == 200).map(|hit| (&hit.path, hit.id())).collect();
        ids.len()
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    while accepted(&receiver.hits()) < changes * TRIGGERS.len() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let hits = receiver.hits();
    // What is sent too much comes now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for worker in workers.into_iter().flatten() {
        worker.stop().await;
    }
    assert!(receiver.hits().len() < hits.len() + REPEATED, "it goes on sending");
    let wrong = compare(&receiver.hits(), &committed);
    let all = receiver.hits().iter().filter(|hit| hit.status == 200).count();
    let lied = receiver.late();
    let repeated = all - accepted(&receiver.hits());
    println!("{changes} changes, {ends} crashes, {repeated} repeated of {all}, {lied} answered too late");
    assert_eq!(wrong, Wrong::default());
    assert!(repeated <= lied + ends * TRIGGERS.len() * REPEATED, "{repeated} repeated after {ends} crashes");
    assert!(changes > 500 && ends > 0, "the run was too quiet to tell anything");
}
