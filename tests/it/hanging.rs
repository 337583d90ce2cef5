//! A request that hangs keeps its own key waiting, and no other, however many events come after it.

use std::time::Duration;

use crate::{
    delivery::{Running, trigger},
    receiver::{Hit, Receiver, Reply},
    support::Database,
};

/// More than are kept in memory, by far.
const EVENTS: usize = 6000;
/// Until it is told to go on.
const HANGS: Duration = Duration::from_mins(5);

/// The key of an event, and what its row came to.
fn row(hit: &Hit) -> (i64, String) {
    let row = &hit.json()["new"];
    (row["id"].as_i64().expect("an id"), row["status"].as_str().unwrap_or_default().to_owned())
}

/// A log of so many events, of which the first hangs, and another of its key.
async fn hangs() -> (Database, Receiver) {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy.timeout = HANGS * 2;
    definition.policy.delay = Duration::from_millis(100);
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::after(200, if row(hit) == (1, "a".to_owned()) { HANGS } else { Duration::ZERO }));
    database.run("INSERT INTO orders VALUES (1, 'a'); UPDATE orders SET status = 'b'").await;
    database.run(&format!("INSERT INTO orders SELECT generate_series(2, {EVENTS})")).await;
    (database, receiver)
}

/// Waits until all others have come; what came of the first key until then.
async fn others(receiver: &Receiver) -> usize {
    let others = |hits: &[Hit]| hits.iter().filter(|hit| hit.status == 200 && row(hit).0 != 1).count();
    let hits = receiver.until("the other keys' events", |hits| others(hits) == EVENTS - 1).await;
    hits.len() - (EVENTS - 1)
}

fn of_the_first(hits: &[Hit]) -> Vec<String> {
    hits.iter().map(row).filter(|(key, _)| *key == 1).map(|(_, status)| status).collect()
}

#[tokio::test]
async fn a_request_that_hangs_keeps_only_its_key_waiting_and_is_not_repeated() {
    let (database, receiver) = hangs().await;
    let mut worker = Running::start(&database);
    assert_eq!(others(&receiver).await, 0, "it was answered before");
    let waiting = "SELECT count(*) = 2 FROM eventlog.parked";
    database.until("both events of the key to be parked", waiting).await;
    // New ones wait behind them.
    database.run("UPDATE orders SET status = 'c' WHERE id = 1").await;
    receiver.release();
    let hits = receiver.until("all events", |hits| hits.len() == EVENTS + 2).await;
    assert_eq!(of_the_first(&hits), ["a", "b", "c"]);
    worker.caught_up().await;
    worker.stop().await;
    assert_eq!(receiver.hits().len(), EVENTS + 2);
    let left = "SELECT (SELECT count(*) FROM eventlog.parked) + (SELECT count(*) FROM eventlog.parked_lane)";
    assert_eq!(database.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_request_that_hangs_when_its_worker_dies_is_made_again_before_what_waits_for_it() {
    let (database, receiver) = hangs().await;
    let worker = Running::start(&database);
    others(&receiver).await;
    database.until("the key's events to be parked", "SELECT count(*) = 2 FROM eventlog.parked").await;
    worker.kill().await;
    receiver.reply(|_, _| Reply::now(200));
    let mut worker = Running::start(&database);
    let hits = receiver.until("the key's events", |hits| of_the_first(hits).len() >= 2).await;
    assert_eq!(of_the_first(&hits), ["a", "b"]);
    worker.caught_up().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_request_that_hangs_and_then_fails_is_tried_again_and_its_key_keeps_its_order() {
    let (database, receiver) = hangs().await;
    receiver.reply(|hit, before| {
        if row(hit) == (1, "a".to_owned()) && before == 0 { Reply::after(500, HANGS) } else { Reply::now(200) }
    });
    let mut worker = Running::start(&database);
    assert_eq!(others(&receiver).await, 0, "it was answered before");
    receiver.release();
    let hits = receiver.until("the key's events", |hits| of_the_first(hits).len() == 3).await;
    assert_eq!(of_the_first(&hits), ["a", "a", "b"]);
    worker.caught_up().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_change_of_key_that_hangs_keeps_only_its_keys_waiting_in_all_partitions() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    (definition.partitions, definition.policy.timeout) = (2, HANGS * 2);
    admin.install("u1", &definition).await.unwrap();
    let moves = |hit: &Hit| hit.json()["op"] == "UPDATE" && hit.json()["old"]["id"] != hit.json()["new"]["id"];
    receiver.reply(move |hit, _| Reply::after(200, if moves(hit) { HANGS } else { Duration::ZERO }));
    database.run("INSERT INTO orders SELECT generate_series(1, 4); UPDATE orders SET id = id + 100").await;
    database.run("UPDATE orders SET status = 'after'").await;
    database.run(&format!("INSERT INTO orders SELECT generate_series(1001, {})", 1000 + EVENTS)).await;
    let mut worker = Running::start(&database);
    let inserted = |hits: &[Hit]| hits.iter().filter(|hit| hit.json()["op"] == "INSERT").count();
    let hits = receiver.until("the other keys' events", |hits| inserted(hits) == 4 + EVENTS).await;
    assert_eq!(hits.len(), inserted(&hits), "something came before its turn");
    let parked =
        "SELECT count(DISTINCT event_id) = 8 AND count(DISTINCT subscription) FILTER (WHERE meets IS NOT NULL) = 2
        FROM eventlog.parked";
    database.until("all that hangs, and what is behind it, to be parked", parked).await;
    receiver.release();
    let hits = receiver.until("all events", |hits| hits.len() == 12 + EVENTS).await;
    for id in 101..=104 {
        let of_key: Vec<_> = hits.iter().filter(|hit| row(hit).0 == id).map(|hit| row(hit).1).collect();
        assert_eq!(of_key, ["", "after"]);
    }
    worker.caught_up().await;
    worker.stop().await;
    assert_eq!(receiver.hits().len(), 12 + EVENTS, "each once");
}

/// What is parked must not wait for anything that is not: the next worker reads that again, behind it.
#[tokio::test]
async fn what_ties_a_key_that_failed_to_one_that_hangs_is_delivered_behind_both_by_the_next_worker() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    (definition.policy.timeout, definition.policy.delay) = (HANGS * 2, Duration::from_secs(2));
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| match (hit.json()["op"].as_str(), row(hit).1.as_str()) {
        (_, "fails") => Reply::now(500),
        (_, "hangs") => Reply::after(200, HANGS),
        _ => Reply::now(200),
    });
    database.run("INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'fails' WHERE id = 1").await;
    let worker = Running::start(&database);
    database.until("the first key to be parked", "SELECT count(*) = 1 FROM eventlog.parked").await;
    database.run("UPDATE orders SET status = 'hangs' WHERE id = 2").await;
    receiver.begins("/", 4).await;
    database.run("DELETE FROM orders WHERE id = 2; UPDATE orders SET id = 2 WHERE id = 1").await;
    let parked = "SELECT count(*) = 1 FROM eventlog.parked WHERE old ->> 'id' = '1' AND new ->> 'id' = '2'";
    database.until("what ties them to be parked", parked).await;
    worker.kill().await;
    receiver.reply(|_, _| Reply::now(200));
    let before = receiver.hits().len();
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    worker.stop().await;
    let come: Vec<_> = receiver.hits()[before..]
        .iter()
        .filter(|hit| hit.json()["new"]["id"] == 2 || hit.json()["old"]["id"] == 2)
        .map(|hit| hit.json()["op"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(come, ["UPDATE", "DELETE", "UPDATE"], "the one that hung, the one behind it, and the one that ties");
}
