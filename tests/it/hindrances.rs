//! What the controller reads of what the workers met.

use eventtrigger::{
    log::{Hindrance, Remedy},
    name::ObjectName,
};

use crate::{
    delivery::{Running, trigger},
    receiver::{Receiver, Reply},
    support::Database,
};

#[tokio::test]
async fn what_keeps_events_is_read_while_it_does_and_nothing_of_triggers_whose_events_flow() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let paid = ObjectName::new("shop", "paid");
    admin.install("u1", &trigger("paid", receiver.url("/paid"))).await.unwrap();
    admin.install("u2", &trigger("well", receiver.url("/well"))).await.unwrap();
    assert_eq!(admin.hindrances().await.unwrap(), [].into());
    receiver.reply(|hit, _| Reply::now(if hit.path == "/paid" { 410 } else { 200 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    database.until("an obstacle", "SELECT count(*) = 1 FROM eventlog.obstacle").await;
    let found = admin.hindrances().await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&paid]);
    let obstacle = found[&paid].obstacle.as_ref().unwrap();
    assert_eq!((obstacle.reason, obstacle.remedy), ("SinkGone", Remedy::Act));
    assert!(obstacle.message.contains("eventtrigger.dev/resume"), "{}", obstacle.message);
    assert_eq!(obstacle.since.subsec_nanosecond(), 0);
    // Resumed, the event is given up.
    receiver.reply(|_, _| Reply::now(422));
    let mut resumed = trigger("paid", receiver.url("/paid"));
    resumed.sink.as_mut().unwrap().resume = Some("1".to_owned());
    admin.install("u1", &resumed).await.unwrap();
    worker.caught_up().await;
    let dead = Hindrance { dead: true, ..Hindrance::default() };
    assert_eq!(admin.hindrances().await.unwrap(), [(paid.clone(), dead)].into());
    database.run("DELETE FROM eventlog.dead_letter").await;
    assert_eq!(admin.hindrances().await.unwrap(), [].into());
    worker.stop().await;
}

#[tokio::test]
async fn a_retry_is_no_news_before_it_has_failed_for_a_minute() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("paid", receiver.url("/"));
    definition.policy.delay = std::time::Duration::from_hours(1);
    definition.policy.max = definition.policy.delay;
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.header("ce-partitionkey") == "1" { 500 } else { 200 }));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'x'").await;
    database.until("parked ones", "SELECT count(*) = 2 FROM eventlog.parked").await;
    assert_eq!(admin.hindrances().await.unwrap(), [].into());
    database.run("UPDATE eventlog.parked SET first_at = first_at - interval '1 minute'").await;
    let parked = Hindrance { parked: true, ..Hindrance::default() };
    assert_eq!(admin.hindrances().await.unwrap(), [(ObjectName::new("shop", "paid"), parked)].into());
    worker.stop().await;
}
