//! What a worker's metrics tell, at a receiver that is away and comes back.

use std::time::Duration;

use crate::{
    delivery::{Running, trigger},
    receiver::{Receiver, Reply},
    support::Database,
};

const BACKLOG: &str = "eventtrigger_delivery_backlog_events";
const AGE: &str = "eventtrigger_delivery_oldest_event_age_seconds";
const OPEN: &str = "eventtrigger_delivery_circuit_open";
const PARKED: &str = "eventtrigger_delivery_parked_events";

async fn until(worker: &Running, name: &str, what: &str, fits: impl Fn(f64) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !fits(worker.metric(name)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for {what}: {name} is {}", worker.metric(name));
}

#[tokio::test]
async fn an_outage_shows_as_backlog_age_and_an_open_circuit_and_ends() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    // Half of what the log has is another's, which is delivered meanwhile.
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mut other = trigger("other", receiver.url("/other"));
    other.table.name = eventtrigger::name::Ident::new("item");
    admin.install("u2", &other).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/" { 503 } else { 200 }));
    let mut worker = Running::start(&database);
    database
        .run(
            "DO $$ BEGIN FOR n IN 1..3000 LOOP INSERT INTO orders VALUES (n); INSERT INTO item VALUES (n); END LOOP; END $$",
        )
        .await;
    until(&worker, OPEN, "the circuit", |open| (open - 1.0).abs() < 0.1).await;
    until(&worker, BACKLOG, "the backlog, about", |backlog| (2700.0..=3300.0).contains(&backlog)).await;
    until(&worker, AGE, "time to pass", |age| (1.0..60.0).contains(&age)).await;
    receiver.reply(|_, _| Reply::now(200));
    worker.caught_up().await;
    for name in [OPEN, BACKLOG, AGE] {
        until(&worker, name, "all to be delivered", |value| value.abs() < 0.1).await;
    }
    assert!((worker.metric("eventtrigger_events_delivered_total") - 6000.0).abs() < 0.1);
    assert!(worker.metric("eventtrigger_delivery_sent_bytes_total") > 6000.0 * 100.0);
    worker.stop().await;
}

#[tokio::test]
async fn parked_events_are_told_and_an_eventtrigger_that_is_gone_is_not() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy.delay = Duration::from_hours(1);
    definition.policy.max = definition.policy.delay;
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.header("ce-partitionkey") == "1" { 500 } else { 200 }));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'x'").await;
    until(&worker, PARKED, "two to be parked", |parked| (parked - 2.0).abs() < 0.1).await;
    assert!(worker.metrics().contains("trigger=\"all\""));
    admin.remove(&definition.trigger).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while worker.metrics().contains("trigger=\"all\"") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "it is still told of: {}", worker.metrics());
    worker.stop().await;
}
