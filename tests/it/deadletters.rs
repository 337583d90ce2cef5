//! Events that were given up: how long they are kept, and where else they go.

use std::time::Duration;

use eventtrigger::{
    log::{
        Definition, Hindrance, Retention,
        definition::{DeadLetterSink, Format, Header, HeaderValue, Mode, Policy, SecretName, Sink},
    },
    name::ObjectName,
};

use crate::{
    delivery::{Running, config, trigger},
    receiver::{Hit, Receiver, Reply},
    support::Database,
};

/// One whose dead letters go to the path `/dead` of the receiver, again after 20 ms.
pub(crate) fn forwarding(name: &str, receiver: &Receiver) -> Definition {
    let plain = trigger(name, receiver.url("/"));
    let sink = Sink::to(receiver.url("/dead"));
    Definition { dead_letter_sink: Some(DeadLetterSink { sink, policy: plain.policy.clone() }), ..plain }
}

fn to(path: &str, hits: &[Hit]) -> Vec<Hit> {
    hits.iter().filter(|hit| hit.path == path).cloned().collect()
}

const ALL_FORWARDED: &str = "SELECT count(*) = 0 FROM eventlog.dead_letter WHERE forward IS NOT NULL";

async fn letters(database: &Database) -> Vec<i64> {
    let rows = database.client.query("SELECT event_id FROM eventlog.dead_letter ORDER BY 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn dead_letters_go_when_their_period_is_over_but_not_those_that_somebody_still_waits_for() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &forwarding("all", &receiver)).await.unwrap();
    receiver.reply(|_, _| Reply::now(422));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 1500)").await;
    worker.caught_up().await;
    worker.stop().await;
    let age = "UPDATE eventlog.dead_letter SET at = now() - interval '1 day' WHERE event_id > 1";
    database.run(age).await;
    database.run("UPDATE eventlog.dead_letter SET redrive = true WHERE event_id = 2").await;
    // As after the dead letter sink has taken all but one.
    database.run("UPDATE eventlog.dead_letter SET forward = NULL WHERE event_id <> 3").await;
    admin.tend(&Retention::default()).await.unwrap();
    assert_eq!(letters(&database).await.len(), 1500, "kept until somebody says otherwise");
    let hour = Retention { dead_letter_period: Some(Duration::from_hours(1)), ..Retention::default() };
    admin.tend(&hour).await.unwrap();
    assert_eq!(letters(&database).await, [1, 2, 3]);
    // Nobody waits for it any more.
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    admin.tend(&hour).await.unwrap();
    assert_eq!(letters(&database).await, [1, 2]);
}

#[tokio::test]
async fn a_dead_letter_is_kept_and_also_sent_to_the_dead_letter_sink_as_the_same_event_with_what_went_wrong() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = forwarding("all", &receiver);
    let value = HeaderValue::Secret(SecretName::new("shop", "morgue", "token"));
    let dead = definition.dead_letter_sink.as_mut().unwrap();
    dead.sink.headers = vec![Header { name: "Authorization".to_owned(), value }];
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/" { 422 } else { 202 }));
    let mut told = config(&database);
    told.secrets.insert(SecretName::new("shop", "morgue", "token"), "Bearer abc-123".to_owned());
    let worker = Running::with(told, Duration::from_secs(10));
    database.run("INSERT INTO orders VALUES (1, 'new')").await;
    let hits = receiver.until("one at the dead letter sink", |hits| !to("/dead", hits).is_empty()).await;
    let (first, dead) = (&to("/", &hits)[0], &to("/dead", &hits)[0]);
    assert_eq!((dead.id(), &dead.body), (first.id(), &first.body));
    assert_eq!((dead.header("ce-type"), dead.header("webhook-id")), (first.header("ce-type"), first.id()));
    assert_eq!(dead.header("ce-knativeerrordest"), receiver.url("/"));
    assert_eq!(dead.header("ce-knativeerrorcode"), "422");
    assert!(!dead.header("ce-knativeerrordata").is_empty());
    assert_eq!((dead.header("authorization"), first.header("authorization")), ("Bearer abc-123", ""));
    database.until("all forwarded", ALL_FORWARDED).await;
    assert_eq!(letters(&database).await, [1], "it can still be redriven");
    worker.stop().await;
    assert_eq!(to("/dead", &receiver.hits()).len(), 1);
}

#[tokio::test]
async fn a_dead_letter_sink_that_fails_delays_nothing_and_is_tried_until_it_takes_all_also_after_a_restart() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &forwarding("all", &receiver)).await.unwrap();
    receiver.reply(|hit, _| match (hit.path.as_str(), hit.header("ce-partitionkey").len()) {
        ("/", 1) => Reply::now(422),
        ("/", _) => Reply::now(200),
        _ => Reply::now(503),
    });
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 100)").await;
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, progress.dead), (91, 9));
    receiver.until("attempts", |hits| to("/dead", hits).len() >= 2).await;
    worker.stop().await;
    let waiting = "SELECT count(*) = 9 FROM eventlog.dead_letter WHERE forward IS NOT NULL";
    database.until("none taken", waiting).await;
    receiver.reply(|hit, _| Reply::now(if hit.path == "/" { 422 } else { 200 }));
    // What was under way at the stop is due again when that must be over.
    database.run("UPDATE eventlog.dead_letter SET forward_at = now()").await;
    let worker = Running::start(&database);
    database.until("all forwarded", ALL_FORWARDED).await;
    let hits = receiver.hits();
    let mut taken: Vec<_> = hits.iter().filter(|hit| hit.path == "/dead" && hit.status == 200).map(Hit::id).collect();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!((taken.len(), letters(&database).await.len()), (9, 9));
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_letter_sink_that_hangs_does_not_keep_those_of_another_trigger() {
    let (database, admin) = Database::with_orders().await;
    let (receiver, hanging) = (Receiver::start().await, Receiver::start().await);
    let mut hangs = forwarding("hangs", &receiver);
    hangs.dead_letter_sink = Some(DeadLetterSink { sink: Sink::to(hanging.url("/dead")), policy: Policy::default() });
    admin.install("u1", &hangs).await.unwrap();
    let mut structured = forwarding("well", &receiver);
    structured.dead_letter_sink.as_mut().unwrap().sink.format = Format::CloudEvents(Mode::Structured);
    admin.install("u2", &structured).await.unwrap();
    hanging.reply(|_, _| Reply::after(200, Duration::from_hours(1)));
    receiver.reply(|hit, _| Reply::now(if hit.path == "/" { 422 } else { 200 }));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 50)").await;
    let hits = receiver.until("all of the other", |hits| to("/dead", hits).len() == 50).await;
    let dead = to("/dead", &hits);
    assert!(dead.iter().all(|hit| hit.json()["knativeerrorcode"] == "422"), "{dead:?}");
    assert!(hanging.begun("/dead") <= 4, "{}", hanging.begun("/dead"));
    worker.stop().await;
}

#[tokio::test]
async fn a_redriven_event_that_dies_again_is_forwarded_again_and_one_that_arrives_is_not() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &forwarding("all", &receiver)).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/" { 422 } else { 200 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("one", |hits| to("/dead", hits).len() == 1).await;
    database.until("all forwarded", ALL_FORWARDED).await;
    database.run("SELECT eventlog.redrive('shop', 'all')").await;
    receiver.until("the same again", |hits| to("/dead", hits).len() == 2).await;
    database.until("all forwarded", ALL_FORWARDED).await;
    receiver.reply(|_, _| Reply::now(200));
    database.run("SELECT eventlog.redrive('shop', 'all')").await;
    worker.caught_up().await;
    assert!(letters(&database).await.is_empty());
    worker.stop().await;
    assert_eq!(to("/dead", &receiver.hits()).len(), 2);
}

#[tokio::test]
async fn a_dead_letter_sink_that_takes_nothing_is_told_of_after_a_minute_and_counted_at_once() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &forwarding("all", &receiver)).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/dead" { 503 } else { 422 }));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("two attempts", |hits| to("/dead", hits).len() >= 2).await;
    let dead = Hindrance { dead: true, ..Hindrance::default() };
    let all = ObjectName::new("shop", "all");
    assert_eq!(admin.hindrances().await.unwrap()[&all], dead);
    assert!(worker.metric("eventtrigger_dead_letter_sink_failures_total") >= 1.0);
    assert!((worker.metric("eventtrigger_dead_letter_sink_failing") - 1.0).abs() < 0.1);
    database.run("UPDATE eventlog.dead_letter SET at = at - interval '1 minute'").await;
    assert_eq!(admin.hindrances().await.unwrap()[&all], Hindrance { unforwarded: true, ..dead.clone() });
    receiver.reply(|_, _| Reply::now(200));
    database.until("it to be taken", ALL_FORWARDED).await;
    assert_eq!(admin.hindrances().await.unwrap()[&all], dead);
    assert!((worker.metric("eventtrigger_dead_letters_forwarded_total") - 1.0).abs() < 0.1);
    assert!(worker.metric("eventtrigger_dead_letter_sink_failing").abs() < 0.1);
    worker.stop().await;
}
