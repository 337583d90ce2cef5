//! From a committed change to a POST, with a real database and a real receiver.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use eventtrigger::{
    api::BackoffPolicy,
    delivery::{self, AddressOptions, Addresses, Config, Metrics, Monitor, Options, Phase, Place, Progress},
    log::{
        Definition,
        definition::{
            Batch, Columns, Context, Format, Header, HeaderValue, Limits, Mode, Ordering, Policy, SecretName, Sink,
        },
    },
    name::{Ident, ObjectName},
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    receiver::{Hit, Receiver, Reply},
    support::{Database, everything, orders, owner, schema},
};

/// Far more than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A worker in a task.
pub(crate) struct Running {
    task: JoinHandle<()>,
    progress: watch::Receiver<Progress>,
    shutdown: CancellationToken,
    registry: Registry,
}

impl Running {
    pub(crate) fn start(database: &Database) -> Self {
        Self::with(config(database), Duration::from_secs(10))
    }

    pub(crate) fn with(config: Config, grace: Duration) -> Self {
        // Where the receivers of these tests are.
        let addresses = Addresses::new(Place::Local, &AddressOptions::default());
        Self::sending_to(addresses, config, grace, None)
    }

    /// One of the workers that an EventTrigger has of its own.
    pub(crate) fn of(database: &Database, trigger: &str) -> Self {
        let addresses = Addresses::new(Place::Local, &AddressOptions::default());
        let only = Some(ObjectName::new("shop", trigger));
        Self::sending_to(addresses, config(database), Duration::from_secs(10), only)
    }

    fn sending_to(addresses: Addresses, config: Config, grace: Duration, only: Option<ObjectName>) -> Self {
        let mut registry = Registry::default();
        let (monitor, progress) = Monitor::new(&Metrics::register(&mut registry));
        let shutdown = CancellationToken::new();
        let options = Options { holder: "test".to_owned(), grace, addresses, only };
        let worker = delivery::run(config, options, monitor, shutdown.clone());
        let task = tokio::spawn(worker);
        Self { task, progress, shutdown, registry }
    }

    pub(crate) async fn until(&mut self, what: &str, condition: impl FnMut(&Progress) -> bool) -> Progress {
        let waited = timeout(DEADLINE, self.progress.wait_for(condition)).await;
        let Ok(found) = waited.map(|found| found.expect("the worker runs").clone()) else {
            panic!("waited for: {what}; progress is {:?}", self.progress.borrow());
        };
        found
    }

    pub(crate) async fn caught_up(&mut self) -> Progress {
        // What was there before the call is in the log when the worker looks next, which it does within 50 ms.
        self.progress.mark_unchanged();
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.until("caught up", |progress| progress.caught_up).await
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task).await.expect("a clean stop").expect("no panic");
    }

    /// As SIGKILL does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("metrics");
        text
    }

    /// The sum over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let value = |line: &str| {
            // With labels or without.
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            Some(rest.rsplit_once(' ')?.1.parse::<f64>().expect("a number"))
        };
        // Not `sum`: that of nothing is -0.
        text.lines().filter_map(value).fold(0.0, |sum, value| sum + value)
    }
}

pub(crate) fn config(database: &Database) -> Config {
    Config { owner: owner(), schema: schema(), connection: database.config.clone(), secrets: BTreeMap::new() }
}

/// Retries quickly.
fn policy() -> Policy {
    let delay = Duration::from_millis(20);
    Policy { retry: 100, backoff: BackoffPolicy::Linear, delay, max: delay, ..Policy::default() }
}

/// Everything of `orders`, to a URL.
pub(crate) fn trigger(name: &str, url: String) -> Definition {
    Definition { sink: Some(Sink::to(url)), policy: policy(), ..everything(name, orders()) }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().filter(|hit| hit.status == 200).map(Hit::id).collect()
}

async fn dead(database: &Database) -> Vec<(String, i64, i32, Option<i32>, String, Option<String>)> {
    let sql =
        "SELECT trigger_name, event_id, attempts, status, error, new::text FROM eventlog.dead_letter ORDER BY 1, 2";
    let rows = database.client.query(sql, &[]).await.expect("read dead letters");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))).collect()
}

#[tokio::test]
async fn an_event_arrives_as_a_cloudevent_with_the_columns_that_are_wanted() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("paid", receiver.url("/hook?x=1"));
    definition.columns = Columns::Exclude(vec![Ident::new("card")]);
    admin.install("u1", &definition).await.unwrap();
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (42, 'a \"b\" ü', 1.50, '4111')").await;
    let hit = receiver.until("one event", |hits| hits.len() == 1).await.remove(0);
    let row = database.client.query_one("SELECT log_id::text FROM eventlog.meta", &[]).await.unwrap();
    let event = database.client.query_one("SELECT txid::text FROM eventlog.event", &[]).await.unwrap();
    assert_eq!(hit.path, "/hook?x=1");
    assert_eq!(hit.header("ce-id"), format!("{}-1", row.get::<_, String>(0)));
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "dev.eventtrigger.row.insert"),
        ("ce-source", "/namespaces/shop/eventlogs/shop"),
        ("ce-subject", "public.orders/42"),
        ("ce-partitionkey", "42"),
        ("ce-sequence", "00000000000000000001"),
        ("ce-eventtrigger", "shop/paid"),
        ("content-type", "application/json"),
        ("user-agent", concat!("eventtrigger/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(hit.header(name), value, "{name}");
    }
    let time: jiff::Timestamp = hit.header("ce-time").parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(time).abs() < jiff::SignedDuration::from_mins(1));
    let body = json!({
        "op": "INSERT", "table": {"schema": "public", "name": "orders"}, "old": null,
        "new": {"id": 42, "status": "a \"b\" ü", "total": 1.50}, "txid": event.get::<_, String>(0),
    });
    assert_eq!(hit.json(), body);
    assert!(hit.body.contains(r#""total":1.50"#), "as PostgreSQL wrote it: {}", hit.body);
    worker.stop().await;
}

#[tokio::test]
async fn events_of_a_key_arrive_one_at_a_time_and_in_order_though_attempts_fail() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, _| {
        Reply::after(if fastrand::u8(..) < 50 { 503 } else { 200 }, Duration::from_millis(fastrand::u64(0..4)))
    });
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT n, '0' FROM generate_series(1, 20) AS n").await;
    for round in 1..=10 {
        database.run(&format!("UPDATE orders SET status = '{round}'")).await;
    }
    // The key moves: before and after are one order.
    database.run("UPDATE orders SET id = id + 100 WHERE id <= 5; UPDATE orders SET total = 1 WHERE id > 100").await;
    database.run("DELETE FROM orders").await;
    let progress = worker.caught_up().await;
    let hits = receiver.hits();
    let delivered = ids(&hits);
    assert_eq!(delivered.len(), 20 + 200 + 5 + 5 + 20);
    assert_eq!(delivered.iter().collect::<BTreeSet<_>>().len(), delivered.len(), "each once");
    assert_eq!((progress.delivered, progress.dead), (250, 0));
    assert_eq!(progress.attempts, progress.delivered + progress.retries);
    assert!(progress.retries > 10, "{progress:?}");
    assert_eq!(receiver.overlaps(), 0, "two attempts of one key at the same time");
    let mut last = BTreeMap::new();
    for hit in hits.iter().filter(|hit| hit.status == 200) {
        let body = hit.json();
        let keys: BTreeSet<_> = ["old", "new"].iter().filter_map(|row| body[row]["id"].as_i64()).collect();
        for key in keys {
            let before = last.insert(key, hit.sequence());
            assert!(before.is_none_or(|before| before < hit.sequence()), "order of {key}");
        }
    }
    worker.stop().await;
}

#[tokio::test]
async fn who_made_a_change_and_in_which_trace_is_told_to_who_asked() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut one = trigger("one", receiver.url("/one"));
    one.context = Context { role: true, traceparent: Some("app.trace".to_owned()), ..Context::default() };
    admin.install("u1", &one).await.unwrap();
    let mut two = trigger("two", receiver.url("/two"));
    two.context = Context { application: true, settings: vec!["app.user".to_owned()], ..Context::default() };
    admin.install("u2", &two).await.unwrap();
    admin.install("u3", &trigger("three", receiver.url("/three"))).await.unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    database
        .run(&format!(
            "SET application_name = 'shop'; SET app.\"user\" = '7'; SET app.trace = '{trace}'; INSERT INTO orders VALUES (1)"
        ))
        .await;
    database.run("SET app.trace = 'not a trace'; DELETE FROM orders").await;
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    let hits = receiver.until("six events", |hits| hits.len() == 6).await;
    let told = |path: &str| {
        let told = |hit: &Hit| (hit.json()["actor"].clone(), hit.header("traceparent").to_owned());
        hits.iter().filter(|hit| hit.path == path).map(told).collect::<Vec<_>>()
    };
    let role = json!({"role": database.config.user});
    assert_eq!(told("/one"), [(role.clone(), trace.to_owned()), (role, String::new())]);
    let application = json!({"application": "shop", "settings": {"app.user": "7"}});
    assert_eq!(told("/two"), [(application.clone(), String::new()), (application, String::new())]);
    assert_eq!(told("/three"), [(json!(null), String::new()), (json!(null), String::new())]);
    assert_eq!(hits.iter().filter(|hit| hit.header("ce-traceparent") == trace).count(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn an_event_of_50_mb_is_delivered_and_one_that_was_too_long_says_so() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let patient = Policy { timeout: DEADLINE, ..policy() };
    admin.install("u1", &Definition { policy: patient.clone(), ..trigger("all", receiver.url("/all")) }).await.unwrap();
    let mut some = Definition { policy: patient, ..trigger("some", receiver.url("/some")) };
    some.columns = Columns::Exclude(vec![Ident::new("card")]);
    admin.install("u2", &some).await.unwrap();
    database
        .run("INSERT INTO orders VALUES (1, repeat('x', 50000000), 1, NULL), (2, repeat('x', 70000000), 1, 'c')")
        .await;
    database.run("INSERT INTO orders VALUES (3, 's', 1, repeat('x', 70000000))").await;
    let worker = Running::start(&database);
    let hits = receiver.until("six events", |hits| ids(hits).len() == 6).await;
    let got = |path: &str, id: i32| {
        let hit = hits.iter().find(|hit| hit.path == path && hit.json()["new"]["id"] == id).expect("an event");
        let json = hit.json();
        let length = |name: &str| json["new"][name].as_str().map(str::len);
        (length("status"), length("card"), json.get("omitted").cloned())
    };
    assert_eq!(got("/all", 1), (Some(50_000_000), None, None));
    assert_eq!(got("/all", 2), (None, Some(1), Some(json!(["status"]))));
    assert_eq!(got("/all", 3), (Some(1), None, Some(json!(["card"]))));
    assert_eq!(got("/some", 2), (None, None, Some(json!(["status"]))));
    assert_eq!(got("/some", 3), (Some(1), None, None));
    worker.stop().await;
}

#[tokio::test]
async fn a_truncation_is_sent_after_everything_before_it_and_before_everything_after_it() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut all = trigger("all", receiver.url("/"));
    all.on.truncate = true;
    admin.install("u1", &all).await.unwrap();
    // Of three keys one fails twice; the truncation itself fails twice, too.
    receiver.reply(|hit, before| {
        let stubborn = hit.header("ce-type").ends_with("truncate") || hit.header("ce-subject").ends_with("/2");
        Reply::now(if stubborn && before < 2 { 503 } else { 200 })
    });
    database.run("INSERT INTO orders SELECT generate_series(1, 3)").await;
    database.run("TRUNCATE orders").await;
    database.run("INSERT INTO orders SELECT generate_series(1, 3)").await;
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    let hits = receiver.until("seven events", |hits| ids(hits).len() == 7).await;
    let accepted: Vec<_> = hits.iter().filter(|hit| hit.status == 200).collect();
    assert_eq!(accepted[3].header("ce-type"), "dev.eventtrigger.row.truncate");
    assert_eq!((accepted[3].header("ce-subject"), accepted[3].header("ce-partitionkey")), ("public.orders", ""));
    assert_eq!((&accepted[3].json()["old"], &accepted[3].json()["new"]), (&json!(null), &json!(null)));
    let barrier = accepted[3].sequence();
    assert!(accepted[..3].iter().all(|hit| hit.sequence() < barrier));
    let first = hits.iter().position(|hit| hit.sequence() == barrier).unwrap();
    assert_eq!(ids(&hits[..first]).len(), 3, "it was tried before what came before it was accepted");
    let after = hits.iter().position(|hit| hit.sequence() > barrier).unwrap();
    assert_eq!(ids(&hits[..after]).len(), 4, "what came after it was tried before it was accepted");
    worker.stop().await;
}

#[tokio::test]
async fn an_attempt_that_fails_is_repeated_with_the_same_id_until_it_works() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, attempt| Reply::now([500, 429, 404, 401, 200][attempt.min(4)]));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    let progress = worker.caught_up().await;
    let hits = receiver.hits();
    assert_eq!(hits.iter().map(|hit| hit.status).collect::<Vec<_>>(), [500, 429, 404, 401, 200]);
    assert_eq!(hits.iter().map(Hit::id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!((progress.delivered, progress.attempts, progress.retries, progress.dead), (1, 5, 4, 0));
    worker.stop().await;
}

#[tokio::test]
async fn an_event_that_is_given_up_is_a_dead_letter_and_the_next_of_its_key_goes_on() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut exhausted = trigger("exhausted", receiver.url("/exhausted"));
    exhausted.policy.retry = 2;
    let value = HeaderValue::Secret(SecretName::new("shop", "billing", "token"));
    exhausted.sink.as_mut().unwrap().headers = vec![Header { name: "Authorization".to_owned(), value }];
    admin.install("u1", &exhausted).await.unwrap();
    admin.install("u2", &trigger("refused", receiver.url("/refused"))).await.unwrap();
    receiver.reply(|hit, _| {
        let first = hit.json()["op"] == "INSERT";
        Reply::now(if !first {
            200
        } else if hit.path == "/refused" {
            422
        } else {
            500
        })
    });
    let mut config = config(&database);
    config.secrets.insert(SecretName::new("shop", "billing", "token"), "Bearer very-secret".to_owned());
    let mut worker = Running::with(config, Duration::from_secs(10));
    database.run("INSERT INTO orders VALUES (1)").await;
    database.run("UPDATE orders SET status = 'paid'").await;
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, progress.dead, progress.attempts), (2, 2, 3 + 1 + 1 + 1));
    assert_eq!(
        receiver.hits()[0].header("authorization"),
        if receiver.hits()[0].path == "/exhausted" { "Bearer very-secret" } else { "" }
    );
    worker.stop().await;
    let row = r#"{"id":1,"status":null,"total":null,"card":null}"#.to_owned();
    // The receiver answers with all that it was sent, as some do.
    let dead = dead(&database).await;
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert_eq!((&*dead[0].0, dead[0].1, dead[0].2, dead[0].3), ("exhausted", 1, 3, Some(500)));
    assert_eq!((&*dead[1].0, dead[1].1, dead[1].2, dead[1].3), ("refused", 1, 1, Some(422)));
    assert_eq!(dead[0].4, "500 Internal Server Error");
    let response = database.client.query_one("SELECT response FROM eventlog.dead_letter WHERE status = 500", &[]).await;
    let response: String = response.unwrap().get(0);
    assert!(response.contains("[redacted]") && !response.contains("very-secret"), "{response}");
    assert!(dead.iter().all(|letter| !letter.4.contains("very-secret") && letter.5.as_ref() == Some(&row)), "{dead:?}");
}

#[tokio::test]
async fn a_clean_stop_in_the_middle_neither_repeats_nor_loses_an_event() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy = Policy { delay: Duration::from_millis(200), max: Duration::from_secs(1), ..definition.policy };
    admin.install("u1", &definition).await.unwrap();
    // Some wait for their second attempt while others go on, so that what is done has gaps.
    receiver.reply(|hit, attempt| {
        Reply::after(if attempt == 0 && hit.sequence() % 7 == 0 { 503 } else { 200 }, Duration::from_millis(2))
    });
    database.run("INSERT INTO orders SELECT n FROM generate_series(1, 1500) AS n").await;
    for stop_at in [100, 400, 700, 1100] {
        let worker = Running::start(&database);
        receiver.until("some events", |hits| hits.len() >= stop_at).await;
        worker.stop().await;
        database.run("UPDATE orders SET status = 'x' WHERE id % 300 = 0").await;
    }
    let gaps = database.client.query_one("SELECT cardinality(done) FROM eventlog.cursor", &[]).await.unwrap();
    assert!(gaps.get::<_, i32>(0) > 0, "nothing was done beyond what was not");
    assert!(ids(&receiver.hits()).len() < 1500, "it was not stopped in the middle");
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    worker.stop().await;
    let hits = receiver.hits();
    let delivered = ids(&hits);
    assert_eq!((delivered.len(), delivered.iter().collect::<BTreeSet<_>>().len()), (1520, 1520));
}

#[tokio::test]
async fn after_a_crash_nothing_is_lost_and_only_the_latest_is_repeated() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(10)));
    database.run("INSERT INTO orders SELECT n FROM generate_series(1, 1500) AS n").await;
    let mut crashes = 0;
    for kill_at in [200, 500, 800, 1100] {
        let worker = Running::start(&database);
        receiver.until("some events", |hits| hits.len() >= kill_at).await;
        worker.kill().await;
        crashes += 1;
    }
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    worker.stop().await;
    let hits = receiver.hits();
    let delivered: BTreeSet<_> = ids(&hits).into_iter().collect();
    assert_eq!(delivered.len(), 1500);
    let repeated = hits.len() - delivered.len();
    // What was under way, and what ended within a commit's time.
    assert!(repeated <= crashes * 400, "{repeated} of 1500 repeated after {crashes} crashes");
}

#[tokio::test]
async fn a_sink_that_hangs_does_not_hold_back_another_and_catches_up_when_it_is_back() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("slow", receiver.url("/slow"))).await.unwrap();
    admin.install("u2", &trigger("fast", receiver.url("/fast"))).await.unwrap();
    let slow = |hit: &Hit| hit.path == "/slow";
    receiver.reply(move |hit, _| Reply::after(200, if slow(hit) { DEADLINE } else { Duration::ZERO }));
    let mut worker = Running::start(&database);
    // More than the slow one has room for.
    let count = 2400;
    for round in 0..4 {
        database.run(&format!("INSERT INTO orders SELECT n FROM generate_series({round}001, {round}600) AS n")).await;
    }
    receiver.until("all of the fast one", |hits| hits.len() == count).await;
    assert!(receiver.hits().iter().all(|hit| !slow(hit)), "it hangs");
    assert!(receiver.begun("/slow") <= 64, "{}", receiver.begun("/slow"));
    receiver.release();
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, receiver.hits().len()), (4800, 2 * count));
    // Back at the end of the log, both read together again.
    database.run("UPDATE orders SET status = 'x' WHERE id = 1001").await;
    receiver.until("one more each", |hits| hits.len() == 2 * count + 2).await;
    let deadline = Instant::now() + DEADLINE;
    while worker.metric("eventtrigger_delivery_passes") > 1.0 {
        assert!(Instant::now() < deadline, "waited for one pass");
        database.run("UPDATE orders SET status = status WHERE id = 1001").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_changed_sink_is_tried_at_once_by_what_is_waiting() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/wrong"));
    definition.policy = Policy { delay: Duration::from_hours(1), max: Duration::from_hours(1), ..policy() };
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/wrong" { 503 } else { 200 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1), (2)").await;
    receiver.until("two failures", |hits| hits.len() == 2).await;
    definition.sink = Some(Sink::to(receiver.url("/right")));
    admin.install("u1", &definition).await.unwrap();
    receiver.until("two deliveries", |hits| hits.iter().filter(|hit| hit.path == "/right").count() == 2).await;
    assert_eq!(worker.caught_up().await.retries, 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_suspended_trigger_keeps_its_backlog_and_delivers_it_when_resumed() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    admin.install("u1", &definition).await.unwrap();
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1, 'a')").await;
    receiver.until("one event", |hits| hits.len() == 1).await;
    definition.suspend = true;
    admin.install("u1", &definition).await.unwrap();
    // A suspended trigger is nothing to catch up with: this waits until the worker knows.
    worker.caught_up().await;
    database
        .run("UPDATE orders SET status = 'b'; INSERT INTO orders SELECT n FROM generate_series(2, 1200) AS n")
        .await;
    database.run("UPDATE orders SET status = 'c' WHERE id = 1").await;
    assert!(worker.caught_up().await.caught_up);
    assert_eq!(receiver.hits().len(), 1);
    definition.suspend = false;
    admin.install("u1", &definition).await.unwrap();
    let hits = receiver.until("the backlog", |hits| hits.len() >= 1202).await;
    let first: Vec<_> = hits.iter().map(Hit::json).filter(|body| body["new"]["id"] == 1).collect();
    assert_eq!(first.iter().map(|body| body["new"]["status"].clone()).collect::<Vec<_>>(), ["a", "b", "c"]);
    worker.caught_up().await;
    assert_eq!(receiver.hits().len(), 1202);
    worker.stop().await;
}

#[tokio::test]
async fn a_trigger_whose_secret_is_missing_waits_and_says_so_while_others_are_delivered() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut held = trigger("held", receiver.url("/held"));
    let value = HeaderValue::Secret(SecretName::new("shop", "billing", "token"));
    held.sink.as_mut().unwrap().headers = vec![Header { name: "X-Token".to_owned(), value }];
    admin.install("u1", &held).await.unwrap();
    admin.install("u2", &trigger("other", receiver.url("/other"))).await.unwrap();
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("the other's event", |hits| hits.iter().any(|hit| hit.path == "/other")).await;
    let progress = worker.until("a held trigger", |progress| !progress.held.is_empty()).await;
    assert_eq!(progress.held[0].trigger, ObjectName::new("shop", "held"));
    assert!(progress.held[0].why.contains("shop/billing/token"), "{:?}", progress.held);
    assert!(progress.readiness().is_ok() && !progress.caught_up);
    let written = "SELECT count(*) = 1 FROM eventlog.obstacle WHERE reason = 'DeliveryHeld' AND message LIKE '%shop/billing/token%'";
    database.until("the controller to be told", written).await;
    // Not before workers with the secret had time to start.
    assert_eq!(admin.hindrances().await.unwrap(), [].into());
    database.run("UPDATE eventlog.obstacle SET since = since - interval '1 minute'").await;
    assert_eq!(admin.hindrances().await.unwrap()[&ObjectName::new("shop", "held")].reason(), Some("DeliveryHeld"));
    worker.stop().await;
    assert_eq!(receiver.hits().len(), 1, "nothing is sent without the header");
    // The worker is started anew with the secret.
    let mut config = config(&database);
    config.secrets.insert(SecretName::new("shop", "billing", "token"), "t0ken".to_owned());
    let worker = Running::with(config, Duration::from_secs(1));
    let hits = receiver.until("the held event", |hits| hits.len() == 2).await;
    assert_eq!((&*hits[1].path, hits[1].header("x-token")), ("/held", "t0ken"));
    database.until("nothing to be told", "SELECT count(*) = 0 FROM eventlog.obstacle").await;
    worker.stop().await;
}

#[tokio::test]
async fn one_worker_delivers_an_eventtrigger_and_another_takes_over_when_it_dies_or_leaves() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    let mut first = Running::start(&database);
    first.until("delivering", |progress| progress.phase == Phase::Delivering).await;
    let mut second = Running::start(&database);
    // Slots without EventTriggers are shared, too.
    second.until("its share", |progress| progress.phase == Phase::Delivering).await;
    database.run("INSERT INTO orders VALUES (1)").await;
    first.caught_up().await;
    assert_eq!(second.progress.borrow().delivered, 0, "the EventTrigger is the first one's");
    first.kill().await;
    let killed = Instant::now();
    database.run("INSERT INTO orders VALUES (2)").await;
    second.until("taken over", |progress| progress.delivered == 1).await;
    assert!(killed.elapsed() < Duration::from_secs(5), "took {:?}", killed.elapsed());
    second.caught_up().await;
    let mut third = Running::start(&database);
    third.until("its share", |progress| progress.phase == Phase::Delivering).await;
    second.stop().await;
    database.run("INSERT INTO orders VALUES (3)").await;
    third.until("taken over", |progress| progress.delivered == 1).await;
    third.caught_up().await;
    let hits = receiver.hits();
    assert_eq!(ids(&hits).iter().collect::<BTreeSet<_>>().len(), 3);
    third.stop().await;
}

#[tokio::test]
async fn a_removed_trigger_is_sent_nothing_more_and_the_other_of_its_table_is() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("gone", receiver.url("/gone"))).await.unwrap();
    admin.install("u2", &trigger("stays", receiver.url("/stays"))).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.path == "/gone" { 503 } else { 200 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.until("an attempt", |hits| hits.iter().any(|hit| hit.path == "/gone")).await;
    admin.remove(&ObjectName::new("shop", "gone")).await.unwrap();
    worker.caught_up().await;
    let before = receiver.begun("/gone");
    database.run("INSERT INTO orders VALUES (2)").await;
    worker.caught_up().await;
    assert_eq!(receiver.begun("/gone"), before);
    assert_eq!(receiver.hits().iter().filter(|hit| hit.path == "/stays").count(), 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_transaction_that_ends_late_is_delivered_and_holds_nobody_back() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    let late = database.another().await;
    late.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (2)").await;
    receiver.until("the other's event", |hits| hits.len() == 1).await;
    worker.stop().await;
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    late.batch_execute("COMMIT").await.unwrap();
    let hits = receiver.until("the late event", |hits| hits.len() == 2).await;
    assert_eq!(hits.iter().map(Hit::sequence).collect::<Vec<_>>(), [2, 1]);
    worker.stop().await;
}

#[tokio::test]
async fn a_database_that_was_away_is_found_again_and_nothing_is_lost() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(5)));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT n FROM generate_series(1, 600) AS n").await;
    receiver.until("some events", |hits| hits.len() > 100).await;
    database
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eventtrigger deliver' AND datname = current_database()")
        .await;
    worker.until("away", |progress| matches!(progress.phase, Phase::Away(_))).await;
    assert!(worker.progress.borrow().readiness().is_err() || worker.progress.borrow().phase == Phase::Delivering);
    worker.until("back", |progress| progress.phase == Phase::Delivering).await;
    worker.caught_up().await;
    let hits = receiver.hits();
    assert_eq!(ids(&hits).iter().collect::<BTreeSet<_>>().len(), 600);
    worker.stop().await;
}

#[tokio::test]
async fn cursors_move_for_many_events_at_once_and_not_at_all_for_none() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    for n in 0..5 {
        admin.install(&format!("u{n}"), &trigger(&format!("t{n}"), receiver.url("/"))).await.unwrap();
    }
    let mut worker = Running::start(&database);
    worker.until("delivering", |progress| progress.phase == Phase::Delivering).await;
    let began = Instant::now();
    database.run("INSERT INTO orders SELECT n FROM generate_series(1, 1000) AS n").await;
    // Before asking whether all is done: the worker may not have seen the insert yet.
    receiver.until("every event at every trigger", |hits| hits.len() >= 5000).await;
    worker.caught_up().await;
    assert_eq!(receiver.hits().len(), 5000);
    let most = began.elapsed().as_secs_f64() / 0.05 + 2.0;
    let commits = worker.metric("eventtrigger_delivery_cursor_commits_total");
    assert!(commits <= most, "{commits} commits in {:?}", began.elapsed());
    // Longer than any commit that is still due. What else happens in the database changes the cut, but nothing in the log.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let commits = worker.metric("eventtrigger_delivery_cursor_commits_total");
    for _ in 0..15 {
        database.run("SELECT pg_current_xact_id()").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.caught_up().await;
    assert!(
        (worker.metric("eventtrigger_delivery_cursor_commits_total") - commits).abs() < 0.5,
        "a commit for nothing"
    );
    worker.stop().await;
}

#[tokio::test]
async fn an_idle_worker_posts_within_20_ms_of_the_commit() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    let mut took = Vec::new();
    for n in 0..21 {
        database.run(&format!("INSERT INTO orders VALUES ({n})")).await;
        let committed = Instant::now();
        let hits = receiver.until("the event", |hits| hits.len() > n).await;
        took.push(hits[n].at.saturating_duration_since(committed));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(20), "median {:?}, worst {:?}", took[10], took[20]);
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_attempts_no_longer_than_the_grace() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, _| Reply::after(200, DEADLINE));
    let worker = Running::with(config(&database), Duration::from_millis(200));
    database.run("INSERT INTO orders VALUES (1)").await;
    receiver.begins("/", 1).await;
    let asked = Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    receiver.release();
    let mut worker = Running::start(&database);
    worker.caught_up().await;
    assert!(receiver.begun("/") >= 2, "what was broken off is sent again");
    worker.stop().await;
}

/// Events that wait in the database: EventTrigger's table, one number.
async fn count(database: &Database, of: &str) -> i64 {
    database.client.query_one(&format!("SELECT count(*) FROM eventlog.{of}"), &[]).await.expect("count").get(0)
}

#[tokio::test]
async fn a_poisoned_key_is_parked_and_all_others_flow() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy = Policy { delay: Duration::from_hours(1), max: Duration::from_hours(1), ..policy() };
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.header("ce-partitionkey") == "1" { 500 } else { 200 }));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT n, '0' FROM generate_series(1, 20) AS n").await;
    // Far more than there is room for in memory, all behind the first.
    for round in 1..=30 {
        database.run(&format!("UPDATE orders SET status = '{round}'")).await;
        database.run("UPDATE orders SET total = 1 FROM generate_series(1, 100) AS n WHERE id = 1 AND n = 1").await;
        database.run("UPDATE orders SET total = coalesce(total, 0) + 1 WHERE id = 1").await;
    }
    let hits = receiver.until("all others", |hits| ids(hits).len() == 19 * 31).await;
    assert_eq!(hits.iter().filter(|hit| hit.header("ce-partitionkey") == "1").count(), 1, "it waits for an hour");
    // A crash forgets nothing: neither what is parked, nor that it was tried.
    database.until("all of one parked", "SELECT count(*) = 91 FROM eventlog.parked").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    worker.kill().await;
    let tried = database.client.query_one("SELECT max(attempts) FROM eventlog.parked", &[]).await.unwrap();
    assert_eq!(tried.get::<_, i32>(0), 1);
    receiver.reply(|_, _| Reply::now(200));
    let mut worker = Running::start(&database);
    database.run("UPDATE orders SET status = 'last' WHERE id = 1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(receiver.hits().len(), hits.len(), "the policy holds over a restart");
    // A change of policy applies to what waits.
    definition.policy.delay = Duration::from_millis(10);
    admin.install("u1", &definition).await.unwrap();
    worker.caught_up().await;
    let of_one: Vec<_> = receiver
        .hits()
        .iter()
        .filter(|hit| hit.status == 200 && hit.header("ce-partitionkey") == "1")
        .map(Hit::sequence)
        .collect();
    assert_eq!((of_one.len(), of_one.is_sorted()), (92, true), "{of_one:?}");
    assert_eq!((count(&database, "parked").await, count(&database, "parked_lane").await), (0, 0));
    assert_eq!(receiver.overlaps(), 0);
    worker.stop().await;
}

#[tokio::test]
async fn an_outage_spends_no_retry_copies_nothing_and_ends_by_itself() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy.retry = 0;
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|_, _| Reply::now(500));
    let mut worker = Running::start(&database);
    for round in 0..4 {
        database.run(&format!("INSERT INTO orders SELECT n FROM generate_series({round}000, {round}999) AS n")).await;
    }
    database.until("an obstacle", "SELECT count(*) = 1 FROM eventlog.obstacle").await;
    let row = database.client.query_one("SELECT reason, message FROM eventlog.obstacle", &[]).await.unwrap();
    let obstacle = (row.get::<_, String>(0), row.get::<_, String>(1));
    assert_eq!(obstacle.0, "SinkFailing");
    assert!(
        obstacle.1.starts_with("500 Internal Server Error") && obstacle.1.contains("no retry is spent"),
        "{}",
        obstacle.1
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let during = receiver.hits().len();
    // What was under way, and a probe or two.
    assert!(during <= 64 + 5, "{during}");
    assert_eq!((count(&database, "parked").await, count(&database, "dead_letter").await), (0, 0));
    receiver.reply(|_, _| Reply::now(200));
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, progress.dead), (4000, 0));
    database.until("no obstacle", "SELECT count(*) = 0 FROM eventlog.obstacle").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_sink_that_is_gone_is_sent_nothing_until_somebody_resumes_it() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|_, _| Reply::now(410));
    let worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1), (2)").await;
    receiver.until("an attempt", |hits| !hits.is_empty()).await;
    database.until("an obstacle", "SELECT count(*) = 1 FROM eventlog.obstacle").await;
    // Not even by a restart.
    worker.stop().await;
    receiver.reply(|_, _| Reply::now(200));
    let mut worker = Running::start(&database);
    let before = receiver.hits().len();
    definition.policy.retry += 1;
    admin.install("u1", &definition).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(receiver.hits().len(), before);
    let row = database.client.query_one("SELECT reason FROM eventlog.obstacle", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "SinkGone");
    definition.sink.as_mut().unwrap().resume = Some("now".to_owned());
    admin.install("u1", &definition).await.unwrap();
    assert_eq!(worker.caught_up().await.delivered, 2);
    worker.stop().await;
}

#[tokio::test]
async fn credentials_that_are_refused_hold_events_and_cost_none() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy.retry = 0;
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.header("authorization") == "right" { 200 } else { 401 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1), (2), (3)").await;
    receiver.until("an attempt", |hits| !hits.is_empty()).await;
    database.until("an obstacle", "SELECT count(*) = 1 FROM eventlog.obstacle WHERE reason = 'SinkUnauthorized'").await;
    let value = HeaderValue::Literal("right".to_owned());
    definition.sink.as_mut().unwrap().headers = vec![Header { name: "Authorization".to_owned(), value }];
    admin.install("u1", &definition).await.unwrap();
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, progress.dead), (3, 0));
    worker.stop().await;
}

#[tokio::test]
async fn dead_letters_are_redriven_in_order_all_or_some() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|hit, _| Reply::now(if hit.header("ce-partitionkey") == "9" { 200 } else { 422 }));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 3)").await;
    database.run("UPDATE orders SET status = 'x'; DELETE FROM orders; INSERT INTO orders VALUES (9)").await;
    let progress = worker.caught_up().await;
    assert_eq!((progress.delivered, progress.dead, count(&database, "dead_letter").await), (1, 9, 9));
    receiver.reply(|_, _| Reply::now(200));
    let redrive = async |arguments: &str| {
        let sql = format!("SELECT eventlog.redrive('shop', 'all'{arguments})");
        database.client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(redrive(", status => 503").await, 0);
    assert_eq!(redrive(", event => 2").await, 1);
    let hits = receiver.until("one of them", |hits| ids(hits).len() == 2).await;
    assert_eq!(hits.last().unwrap().sequence(), 2);
    assert_eq!(redrive(", status => 422").await, 8);
    worker.caught_up().await;
    let hits = receiver.until("all of them", |hits| ids(hits).len() == 10).await;
    for key in ["1", "3"] {
        let of: Vec<_> = hits
            .iter()
            .filter(|hit| hit.status == 200 && hit.header("ce-partitionkey") == key)
            .map(Hit::sequence)
            .collect();
        assert!(of.len() == 3 && of.is_sorted(), "{key}: {of:?}");
    }
    assert_eq!((count(&database, "dead_letter").await, count(&database, "parked").await), (0, 0));
    let unknown = database.client.query_one("SELECT eventlog.redrive('shop', 'gone')", &[]).await.unwrap_err();
    assert!(unknown.as_db_error().unwrap().message().contains("there is no EventTrigger shop/gone"));
    worker.stop().await;
}

#[tokio::test]
async fn the_order_of_events_is_that_of_the_columns_that_were_asked_for() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.ordering = Ordering::Columns(vec![Ident::new("status")]);
    admin.install("u1", &definition).await.unwrap();
    let mut none = trigger("none", receiver.url("/none"));
    none.ordering = Ordering::None;
    admin.install("u2", &none).await.unwrap();
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(5)));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT n, 'customer ' || n % 3 FROM generate_series(1, 60) AS n").await;
    worker.caught_up().await;
    let hits = receiver.hits();
    for customer in 0..3 {
        let key = format!("customer%2520{customer}");
        let of: Vec<_> = hits.iter().filter(|hit| hit.header("ce-partitionkey") == key).map(Hit::sequence).collect();
        assert!(of.len() == 20 && of.is_sorted(), "{key}: {of:?}");
    }
    assert_eq!(hits.iter().filter(|hit| hit.path == "/none" && hit.header("ce-partitionkey").is_empty()).count(), 60);
    worker.stop().await;
}

#[tokio::test]
async fn what_a_sink_asks_for_by_retry_after_is_waited_up_to_the_limit() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.policy.retry_after_max = Duration::from_secs(2);
    admin.install("u1", &definition).await.unwrap();
    receiver.reply(|_, attempt| Reply { retry_after: Some(3600), ..Reply::now(if attempt == 0 { 500 } else { 200 }) });
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders VALUES (1)").await;
    worker.caught_up().await;
    let hits = receiver.hits();
    // A second to judge whether it is the event or the sink, then what it asked for.
    let waited = hits[1].at - hits[0].at;
    assert!(waited >= Duration::from_millis(2900) && waited < Duration::from_secs(10), "{waited:?}");
    worker.stop().await;
}

#[tokio::test]
async fn a_sink_is_sent_no_more_at_a_time_than_its_limits_say() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut sink = Sink::to(receiver.url("/"));
    sink.name = Some("shop/billing".to_owned());
    sink.limits = Limits { in_flight: 3, per_second: Some(50) };
    for name in ["one", "two"] {
        let definition = Definition { sink: Some(sink.clone()), ..trigger(name, String::new()) };
        admin.install(name, &definition).await.unwrap();
    }
    receiver.reply(|_, _| Reply::after(200, Duration::from_millis(5)));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 50)").await;
    worker.caught_up().await;
    let hits = receiver.hits();
    let took = hits.last().unwrap().at - hits[0].at;
    assert!(took >= Duration::from_millis(1900), "100 requests at 50 a second took {took:?}");
    assert!(receiver.most_at_once() <= 3, "{}", receiver.most_at_once());
    worker.stop().await;
}

#[tokio::test]
async fn an_address_that_the_cluster_forbids_is_not_connected_to_and_the_event_waits() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    let addresses = Addresses::new(Place::Cluster, &AddressOptions::default());
    let mut worker = Running::sending_to(addresses, config(&database), Duration::from_secs(10), None);
    database.run("INSERT INTO orders VALUES (1)").await;
    worker.until("a refused attempt", |progress| progress.attempts > 0).await;
    worker.stop().await;
    assert_eq!(receiver.begun("/"), 0);
    // Where it is allowed, it arrives.
    let worker = Running::start(&database);
    receiver.until("the event that waited", |hits| hits.len() == 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn batches_keep_the_order_of_each_key_and_a_bad_event_costs_only_itself() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    let mut definition = trigger("all", receiver.url("/"));
    let batch = Batch { max_events: 50, max_bytes: 1 << 20, linger: Duration::ZERO };
    definition.sink.as_mut().unwrap().format = Format::CloudEvents(Mode::Batch(batch));
    definition.policy.retry = 1;
    admin.install("u1", &definition).await.unwrap();
    let events = |hit: &Hit| -> Vec<(String, i64, i64)> {
        let batch = hit.json();
        let event = |event: &serde_json::Value| {
            let row = &event["data"]["new"];
            (
                event["id"].as_str().unwrap().to_owned(),
                row["id"].as_i64().unwrap(),
                event["sequence"].as_str().unwrap().parse().unwrap(),
            )
        };
        batch.as_array().unwrap().iter().map(event).collect()
    };
    // One key is refused for good, one never works, and now and then a batch fails as a whole.
    receiver.reply(move |hit, _| {
        let keys: Vec<_> = events(hit).into_iter().map(|(_, key, _)| key).collect();
        Reply::now(match fastrand::u8(..) {
            _ if keys.contains(&1) => 422,
            _ if keys.contains(&2) => 500,
            0..30 if keys.len() > 1 => 503,
            _ => 200,
        })
    });
    database.run("INSERT INTO orders SELECT n, '0' FROM generate_series(1, 40) AS n").await;
    for round in 1..=2 {
        database.run(&format!("UPDATE orders SET status = '{round}'")).await;
    }
    let mut worker = Running::start(&database);
    let progress = worker.caught_up().await;
    let hits = receiver.hits();
    let accepted: Vec<_> = hits.iter().filter(|hit| hit.status == 200).flat_map(&events).collect();
    let distinct: BTreeSet<_> = accepted.iter().map(|(id, ..)| id).collect();
    assert_eq!((accepted.len(), distinct.len()), (38 * 3, 38 * 3), "{progress:?}");
    for key in 3..=40 {
        let of: Vec<_> = accepted.iter().filter(|(_, of, _)| *of == key).map(|(.., sequence)| sequence).collect();
        assert!(of.is_sorted(), "{key}: {of:?}");
    }
    assert!(hits.iter().any(|hit| events(hit).len() > 20), "they were not sent together");
    assert_eq!(progress.dead, 2 * 3);
    let dead = "SELECT count(*) FILTER (WHERE status = 422 AND attempts = 1), count(*) FILTER (WHERE status = 500 AND attempts = 2)
                FROM eventlog.dead_letter";
    let dead = database.client.query_one(dead, &[]).await.unwrap();
    assert_eq!((dead.get::<_, i64>(0), dead.get::<_, i64>(1)), (3, 3));
    worker.stop().await;
}
