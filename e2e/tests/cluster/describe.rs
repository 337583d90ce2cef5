//! What `kubectl describe eventtrigger` says while something is wrong at the other end: what it is, and what to do next. Each
//! test then does just that.

use eventtrigger_e2e::behaviour::Behaviour;
use serde_json::json;
use tokio::process::Command;

use super::{
    cluster::eventually,
    scene::{ORDERS, PATIENCE, Scene, event_sink},
};

const TRIGGER: &str = "order-changed";

/// What kubectl prints.
async fn kubectl(scene: &Scene, arguments: &[&str]) -> String {
    let run = Command::new("kubectl").args(["--namespace", &scene.namespace]).args(arguments).output().await;
    let output = run.expect("kubectl is on the PATH");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until the trigger's description has all of `words`, and an Event of type Warning for `reason`.
async fn described(scene: &Scene, reason: &str, words: &[&str]) -> String {
    eventually(PATIENCE, &format!("{reason} and {words:?} in the description"), async || {
        let text = kubectl(scene, &["describe", "eventtrigger", TRIGGER]).await;
        let warned = text.lines().any(|line| {
            let mut columns = line.split_whitespace();
            columns.next() == Some("Warning") && columns.next() == Some(reason)
        });
        if warned && words.iter().all(|word| text.contains(word)) { Ok(text) } else { Err(text) }
    })
    .await
}

/// A trigger that delivers.
async fn delivering(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger(TRIGGER, json!({})).await;
    scene.ready("EventTrigger", TRIGGER).await;
    scene
}

async fn answers(scene: &Scene, status: Option<u16>) {
    scene.receiver.behave(&Behaviour { status, ..Behaviour::default() }).await.expect("tell the receiver");
}

async fn ten_orders(scene: &Scene) {
    scene.run("INSERT INTO orders SELECT n, 'a', 'new', 1, 1 FROM generate_series(1, 10) n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_with_the_last_answer_and_ends_by_itself() {
    let scene = delivering("outage").await;
    answers(&scene, Some(500)).await;
    ten_orders(&scene).await;
    let words = ["SinkFailing", "500 Internal Server Error", "events wait in the log", "look at the receiver"];
    described(&scene, "SinkFailing", &words).await;
    let waiting = |found: &serde_json::Value| found["status"] == "True" && found["reason"] == "SinkFailing";
    scene.condition("EventTrigger", TRIGGER, "Reconciling", waiting).await;
    answers(&scene, None).await;
    scene.accepted(10).await;
    scene.ready("EventTrigger", TRIGGER).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_given_up_is_told_with_where_it_is_and_how_to_redrive_it() {
    let scene = delivering("poison").await;
    let refuses = Behaviour { status: Some(422), fail_first: Some(1), ..Behaviour::default() };
    scene.receiver.behave(&refuses).await.expect("tell the receiver");
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    let redrive = format!(r#"SELECT "eventlog".redrive('{}', '{TRIGGER}')"#, scene.namespace);
    let words = ["DeadLetters", r#"FROM "eventlog".dead_letter"#, &redrive];
    described(&scene, "DeadLetters", &words).await;
    let trigger = scene.ready("EventTrigger", TRIGGER).await;
    // Others flow.
    assert!(super::scene::condition_of(&trigger, "Delivering").is_some_and(|found| found["status"] == "True"));
    scene.run(&redrive).await;
    scene.accepted(1).await;
    let well = |found: &serde_json::Value| found["status"] == "True" && found["reason"] == "Ready";
    scene.condition("EventTrigger", TRIGGER, "Ready", well).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_gone_is_told_with_the_annotation_that_resumes_it() {
    let scene = delivering("gone").await;
    answers(&scene, Some(410)).await;
    ten_orders(&scene).await;
    described(&scene, "SinkGone", &["410 Gone", "eventtrigger.dev/resume"]).await;
    let stalled = |found: &serde_json::Value| found["status"] == "True" && found["reason"] == "SinkGone";
    scene.condition("EventTrigger", TRIGGER, "Stalled", stalled).await;
    answers(&scene, None).await;
    kubectl(&scene, &["annotate", "--overwrite", "eventtrigger", TRIGGER, "eventtrigger.dev/resume=1"]).await;
    scene.accepted(10).await;
    scene.ready("EventTrigger", TRIGGER).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_credential_is_told_and_a_good_one_is_used_without_anybodys_help() {
    let scene = Scene::new("credential").await;
    scene.run(ORDERS).await;
    scene.secret("billing", &[("token", "wr0ng-t0ken")]).await;
    scene.log(json!({})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver", "port": 80});
    let auth = json!({"bearer": {"secretKeyRef": {"name": "billing", "key": "token"}}});
    scene.sink("billing", json!({"ref": service, "auth": auth})).await;
    scene.trigger(TRIGGER, json!({"sink": {"ref": event_sink("billing")}})).await;
    scene.ready("EventTrigger", TRIGGER).await;
    answers(&scene, Some(401)).await;
    ten_orders(&scene).await;
    let words = ["SinkUnauthorized", "401 Unauthorized", "correct the credentials"];
    let text = described(&scene, "SinkUnauthorized", &words).await;
    assert!(!text.contains("wr0ng-t0ken"), "{text}");
    scene.secret("billing", &[("token", "r1ght-t0ken")]).await;
    eventually(PATIENCE, "an attempt with the new token", async || {
        let records = scene.receiver.since(0).await.map_err(|error| error.to_string())?;
        let used = records.last().and_then(|record| record.header("authorization")).map(str::to_owned);
        if used.as_deref() == Some("Bearer r1ght-t0ken") { Ok(()) } else { Err(format!("{used:?}")) }
    })
    .await;
    answers(&scene, None).await;
    scene.accepted(10).await;
    scene.ready("EventTrigger", TRIGGER).await;
    scene.secret_is_nowhere(&["wr0ng-t0ken", "r1ght-t0ken"]).await;
    scene.end().await;
}
