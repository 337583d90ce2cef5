//! What is on the wire, judged by programs that are not ours.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use eventtrigger::log::{
    Definition,
    definition::{Batch, Context, Format, Mode, SecretName, Sink},
};
use serde_json::{Value, json};

use crate::{
    delivery::{Running, config, trigger},
    receiver::{Hit, Receiver, Reply},
    support::{Database, programs},
};

/// Python with `standardwebhooks` and `cloudevents`, as `e2e/need.sh` installs it.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/judges/bin/python");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/wire");
const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const STRANGE: &str = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What the judge says of a request.
fn judge(ask: &str, hit: &Hit, mut more: Value) -> Value {
    let headers: BTreeMap<_, _> = hit.headers.keys().map(|name| (name.as_str(), hit.header(name.as_str()))).collect();
    more["ask"] = ask.into();
    more["headers"] = json!(headers);
    more["body"] = hit.body.clone().into();
    let mut python = Command::new(PYTHON)
        .arg(Path::new(FOLDER).join("judge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(more.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{ask} of {hit:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The request for a row with an awkward key, to a sink of such a kind.
async fn sent(sink: Sink, secrets: &[(&str, &str)]) -> Vec<Hit> {
    let (database, admin) = Database::with_orders().await;
    database.run("CREATE TABLE things (name text PRIMARY KEY, price numeric)").await;
    let receiver = Receiver::start().await;
    // The first attempt fails: what comes is judged again.
    receiver.reply(|_, before| Reply::now(if before == 0 { 503 } else { 200 }));
    let table = eventtrigger::name::TableName::new("public", "things");
    let context = Context { traceparent: Some("app.trace".to_owned()), ..Context::default() };
    let definition = trigger("all", receiver.url("/"));
    let sink = Sink { url: receiver.url("/"), ..sink };
    admin.install("u1", &Definition { table, context, sink: Some(sink), ..definition }).await.unwrap();
    let mut config = config(&database);
    config.secrets.extend(secrets.iter().map(|(key, value)| (named(key), (*value).to_owned())));
    let worker = Running::with(config, Duration::from_secs(10));
    let insert = format!("BEGIN; SET LOCAL app.trace = '{TRACE}'; INSERT INTO things VALUES ('ä/%\" b', 1.50); COMMIT");
    database.run(&insert).await;
    let hits = receiver.until("both attempts", |hits| hits.len() == 2).await;
    worker.stop().await;
    hits
}

fn named(key: &str) -> SecretName {
    SecretName::new("shop", "keys", key)
}

fn signed() -> (Sink, [(&'static str, &'static str); 2]) {
    (Sink { signing: vec![named("new"), named("old")], ..Sink::default() }, [("new", NEW), ("old", OLD)])
}

#[tokio::test]
async fn standardwebhooks_verifies_every_attempt_by_either_key_while_they_are_rotated() {
    if !programs(&[PYTHON]) {
        return;
    }
    let batch = Batch { max_events: 10, max_bytes: 1 << 20, linger: Duration::ZERO };
    let modes = [Mode::Binary, Mode::Structured, Mode::Batch(batch)].map(Format::CloudEvents);
    for format in modes.into_iter().chain([Format::Hasura { trigger: None }]) {
        let (sink, secrets) = signed();
        let hits = sent(Sink { format, ..sink }, &secrets).await;
        assert_eq!(hits[0].header("webhook-id"), hits[1].header("webhook-id"));
        for hit in &hits {
            for secret in [NEW, OLD] {
                assert_eq!(judge("verified", hit, json!({"secret": secret})), true, "{hit:?}");
            }
            let strange = judge("verified", hit, json!({"secret": STRANGE}));
            assert_eq!(strange, "No matching signature found");
            let altered = Hit { body: hit.body.replace("1.50", "9.50"), ..hit.clone() };
            assert_eq!(judge("verified", &altered, json!({"secret": NEW})), "No matching signature found");
        }
    }
}

#[tokio::test]
async fn the_receiver_of_the_documentation_verifies_and_names_the_event() {
    if !programs(&[PYTHON]) {
        return;
    }
    let docs = include_str!("../../docs/delivery.md");
    let snippet = docs.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (sink, secrets) = signed();
    let hit = &sent(sink, &secrets).await[0];
    assert_eq!(judge("documented", hit, json!({"snippet": snippet})), hit.id());
}

#[tokio::test]
async fn cloudevents_parses_every_mode_to_the_same_event() {
    if !programs(&[PYTHON]) {
        return;
    }
    let of = async |mode| sent(Sink { format: Format::CloudEvents(mode), ..Sink::default() }, &[]).await.remove(0);
    let batch = Batch { max_events: 10, max_bytes: 1 << 20, linger: Duration::ZERO };
    let (binary, structured, batch) =
        (of(Mode::Binary).await, of(Mode::Structured).await, of(Mode::Batch(batch)).await);
    let parsed = [
        judge("parsed", &binary, json!({})),
        judge("parsed", &structured, json!({})),
        judge("batch", &batch, json!({}))[0].take(),
    ];
    for (event, hit) in parsed.iter().zip([&binary, &structured, &batch]) {
        let attribute = |name: &str| event["attributes"][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(attribute("id"), hit.header("webhook-id"));
        for (name, value) in [
            ("specversion", "1.0"),
            ("source", "/namespaces/shop/eventlogs/shop"),
            ("type", "dev.eventtrigger.row.insert"),
            ("subject", "public.things/%C3%A4%2F%25%22%20b"),
            ("partitionkey", "%C3%A4%2F%25%22%20b"),
            ("sequence", "00000000000000000001"),
            ("eventtrigger", "shop/all"),
            ("traceparent", TRACE),
            ("datacontenttype", "application/json"),
        ] {
            assert_eq!(attribute(name), value, "{name}");
        }
        assert!(attribute("time").starts_with("20"), "{event}");
        assert_eq!(event["data"]["new"], json!({"name": "ä/%\" b", "price": 1.5}));
        assert_eq!(event["data"]["old"], Value::Null);
        if hit.header("content-type") != "application/cloudevents-batch+json" {
            assert_eq!(hit.header("traceparent"), TRACE);
        }
    }
}

/// Ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_written_for_hasura_works_unchanged() {
    if !programs(&["python3"]) {
        return;
    }
    let script = Path::new(FOLDER).join("hasura_receiver.py");
    let mut python = Process(Command::new("python3").arg(script).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(python.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.next().unwrap();
    let (database, admin) = Database::with_orders().await;
    let mut definition = trigger("insert-order", format!("http://127.0.0.1:{port}/"));
    definition.sink.as_mut().unwrap().format = Format::Hasura { trigger: Some("insert_order".to_owned()) };
    definition.policy.retry = 3;
    let settings = vec!["hasura.user".to_owned()];
    definition.context = Context { settings, traceparent: Some("app.trace".to_owned()), ..Context::default() };
    admin.install("u1", &definition).await.unwrap();
    let worker = Running::start(&database);
    let change = |sql: &str| {
        format!(
            r#"BEGIN; SET LOCAL app.trace = '{TRACE}'; SET LOCAL "hasura.user" = '{{"x-hasura-role": "clerk"}}'; {sql}; COMMIT"#
        )
    };
    database.run(&change("INSERT INTO orders VALUES (1, 'new', 1.50)")).await;
    database.run(&change("UPDATE orders SET status = 'paid'")).await;
    database.run("DELETE FROM orders").await;
    let lines = tokio::task::spawn_blocking(move || lines.take(6).collect::<Vec<_>>()).await.unwrap();
    worker.stop().await;
    let seen: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = |status: &str| json!({"id": 1, "status": status, "total": 1.5, "card": null});
    let expected = [
        ("INSERT", Value::Null, row("new"), json!("clerk")),
        ("UPDATE", row("new"), row("paid"), json!("clerk")),
        ("DELETE", row("paid"), Value::Null, Value::Null),
    ];
    for (attempts, (op, old, new, role)) in seen.chunks(2).zip(expected) {
        let trace = if role.is_null() { Value::Null } else { json!(&TRACE[3..35]) };
        for (at, seen) in attempts.iter().enumerate() {
            let id = &attempts[0]["id"];
            let expected = json!({
                "id": id, "trigger": "insert_order", "table": "public.orders", "op": op, "old": old, "new": new,
                "role": role, "trace": trace, "retry": [at, 3],
            });
            assert_eq!(*seen, expected);
        }
    }
}
