//! Partitions under what is hard for them: keys that many rows share, another number of them, a worker that was paused.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use eventtrigger::{log::definition::Ordering, name::Ident};

use super::{
    DEADLINE, accepted, each_once, end, install, logged, nothing_waits, settle, spread, state, with_partitions, writers,
};
use crate::{
    delivery::Running,
    receiver::{Hit, Receiver, Reply},
    slots::{process, signal},
    support::Database,
};

#[tokio::test]
async fn keys_that_are_not_unique_never_make_partitions_wait_for_each_other() {
    let (database, admin) = Database::with_orders().await;
    let database = Arc::new(database);
    let receiver = Receiver::start().await;
    let mut definition = spread(&receiver, 4);
    definition.ordering = Ordering::Columns(vec![Ident::new("status")]);
    install(&admin, &definition).await;
    database.run("INSERT INTO orders SELECT n, n % 6 FROM generate_series(1, 60) AS n").await;
    let workers: Vec<_> = (0..3).map(|_| Running::start(&database)).collect();
    // Many transactions at once, each on rows of its own, that all move rows between the same few keys.
    let writer = |n: i32| {
        let database = database.clone();
        async move {
            let client = database.another().await;
            for _ in 0..10 {
                let (one, other) = (fastrand::u8(0..6), fastrand::u8(0..6));
                let rows = format!("id BETWEEN {n}0 + 1 AND {n}0 + 10");
                client
                    .batch_execute(&format!(
                        "BEGIN; UPDATE orders SET status = '{one}' WHERE {rows} AND id % 2 = 0; \
                         UPDATE orders SET status = '{other}' WHERE {rows} AND id % 2 = 1; COMMIT"
                    ))
                    .await
                    .unwrap();
            }
        }
    };
    futures::future::join_all((0..6).map(writer)).await;
    let events = logged(&database, "status").await.len();
    let all = |hits: &[Hit]| accepted(hits).len() == events;
    let deadline = Instant::now() + DEADLINE;
    while !all(&receiver.hits()) {
        assert!(
            Instant::now() < deadline,
            "{} of {events}; {}",
            accepted(&receiver.hits()).len(),
            state(&database).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    nothing_waits(&database).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn the_number_of_partitions_changes_while_events_flow() {
    let (database, admin, receiver) = with_partitions(1).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..5))));
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    let workers = [Running::start(&database), Running::start(&database)];
    for partitions in [4, 2, 1, 3, 8] {
        receiver
            .until("events to flow", {
                let n = receiver.hits().len();
                move |hits| hits.len() > n + 300
            })
            .await;
        install(&admin, &spread(&receiver, partitions)).await;
        let divided = format!("SELECT count(*) = {partitions} FROM eventlog.cursor");
        database.until("events to be divided anew", &divided).await;
    }
    end(&stop, writers).await;
    each_once(&database, &receiver, workers).await;
}

#[tokio::test]
async fn a_worker_that_was_paused_in_the_middle_of_a_partition_is_fenced_and_its_keys_keep_their_order() {
    let (database, _admin, receiver) = with_partitions(4).await;
    let database = Arc::new(database);
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(fastrand::u64(0..20))));
    let folder = tempfile::tempdir().unwrap();
    let paused = process(&database, &folder);
    database.until("all slots are held", "SELECT bool_and(worker > 0) FROM eventlog.lease").await;
    let stays = Running::start(&database);
    database.until("two workers", "SELECT count(DISTINCT worker) = 2 FROM eventlog.lease").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&database, 40, &stop);
    receiver.until("events to flow", |hits| hits.len() > 300).await;
    signal(&paused, "-STOP");
    // Its partitions get more while it is paused.
    let events = receiver.hits().len() + 200;
    let written = format!("SELECT count(*) > {events} FROM eventlog.event");
    database.until("more events", &written).await;
    end(&stop, writers).await;
    assert_eq!(settle(&database, &receiver).await, []);
    database.until("all is taken over", "SELECT count(DISTINCT worker) = 1 FROM eventlog.lease").await;
    let before = receiver.hits().len();
    signal(&paused, "-CONT");
    database.until("it is back", "SELECT count(DISTINCT worker) = 2 FROM eventlog.lease").await;
    nothing_waits(&database).await;
    assert_eq!(receiver.hits().len(), before, "it sent what was another's by then");
    stays.stop().await;
}
