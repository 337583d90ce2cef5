//! A log whose schema the next release has migrated: this one goes on with it where that says so, and stops where it does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use eventtrigger::log::{Admin, OpenError, Worker, WorkerError};

use crate::{
    delivery::{Running, trigger},
    receiver::Receiver,
    support::{Database, owner, schema},
};

/// What a next release may do to the log: it adds.
const NEXT: &str = "
    SET LOCAL lock_timeout = '2s';
    SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('eventtrigger eventlog', 0));
    ALTER TABLE eventlog.event ADD COLUMN reason text;
    ALTER TABLE eventlog.cursor ADD COLUMN note text NOT NULL DEFAULT '';
    ALTER TABLE eventlog.parked ADD COLUMN note text;
    ALTER TABLE eventlog.dead_letter ADD COLUMN note text;
    CREATE TABLE eventlog.novelty (id int PRIMARY KEY);
    UPDATE eventlog.meta SET version = version + 1";

/// Writes rows until it is told to stop; returns how many.
fn writer(database: &Database) -> (Arc<AtomicBool>, Arc<AtomicU32>, tokio::task::JoinHandle<()>) {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (ended, written, config) = (stop.clone(), count.clone(), database.config.clone());
    let task = tokio::spawn(async move {
        let client = crate::support::connect(&crate::support::plain(&config)).await;
        while !ended.load(Relaxed) {
            let id = written.load(Relaxed);
            client.batch_execute(&format!("INSERT INTO orders (id) VALUES ({id})")).await.expect("no write fails");
            written.store(id + 1, Relaxed);
        }
    });
    (stop, count, task)
}

#[tokio::test]
async fn a_migration_by_the_next_release_and_a_rollback_to_this_one_lose_nothing_and_fail_no_write() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("t1", receiver.url("/"))).await.unwrap();
    let worker = Running::start(&database);
    let (stop, count, writer) = writer(&database);
    receiver.until("events before it", |hits| hits.len() >= 50).await;
    // As a controller does it: again, if it does not get its locks.
    let mut next = database.another().await;
    loop {
        let transaction = next.transaction().await.unwrap();
        if transaction.batch_execute(NEXT).await.is_ok() {
            transaction.commit().await.unwrap();
            break;
        }
    }
    let so_far = receiver.hits().len();
    receiver.until("the worker of this release to go on", |hits| hits.len() >= so_far + 50).await;
    // The controller is rolled back: it opens the log, installs, and leaves the version alone.
    let (rolled_back, facts) = Admin::open(&database.config, &schema(), &owner()).await.unwrap();
    assert_eq!(facts.schema_version, eventtrigger::log::SCHEMA_VERSION + 1);
    rolled_back.install("u2", &trigger("t2", receiver.url("/second"))).await.unwrap();
    // So is a worker.
    worker.stop().await;
    let worker = Running::start(&database);
    receiver.until("the second EventTrigger", |hits| hits.iter().any(|hit| hit.path == "/second")).await;
    stop.store(true, Relaxed);
    writer.await.unwrap();
    let written = usize::try_from(count.load(Relaxed)).unwrap();
    let hits = receiver.until("all of them", |hits| hits.iter().filter(|hit| hit.path == "/").count() >= written).await;
    assert_eq!(hits.iter().filter(|hit| hit.path == "/").count(), written);
    worker.stop().await;
}

#[tokio::test]
async fn a_log_that_this_release_cannot_use_is_left_alone_and_goes_on_capturing() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("t1", receiver.url("/"))).await.unwrap();
    let worker = database.worker().await;
    worker.pulse().await.unwrap();
    database.run("UPDATE eventlog.meta SET version = version + 1, compatible = version + 1").await;
    let refused = Admin::open(&database.config, &schema(), &owner()).await.unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { .. }) && refused.is_terminal(), "{refused}");
    for refused in
        [worker.pulse().await.unwrap_err(), Worker::connect(&database.config, &schema(), "u").await.unwrap_err()]
    {
        assert!(matches!(refused, WorkerError::NotOurs(_)), "{refused}");
        assert!(refused.to_string().contains("knows 1"), "{refused}");
    }
    database.run("INSERT INTO orders (id) VALUES (1)").await;
    assert_eq!(database.logged().await.len(), 1);
    // A worker that was delivering waits for one that can; nothing goes out meanwhile.
    let running = Running::start(&database);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(receiver.hits().is_empty());
    database.run("UPDATE eventlog.meta SET version = version - 1, compatible = version - 1").await;
    receiver.until("the event, once the log can be used", |hits| hits.len() == 1).await;
    running.stop().await;
}
