//! The size that the project promises to be good at: 1,000 EventTriggers over 20 EventLogs. `make bench-scale` runs this; it
//! prints figures, and fails only if something does not happen at all.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    cluster::{eventually, text},
    forward::forward,
    numbers::{memory, usage, writes_at_rest},
    scene::{OPERATOR, OPERATOR_NAMESPACE, Scene, V1ALPHA1, condition_of, create_database, trigger},
};

const LOGS: usize = 20;
const TRIGGERS: usize = 1000;
/// Requests of ours under way.
const AT_A_TIME: usize = 16;
/// After that something is wrong, not slow.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long the controller is watched at rest.
const REST: Duration = Duration::from_mins(1);

/// EventTrigger `n`; `retry` makes one spec differ from another.
fn nth(n: usize, retry: u32) -> Value {
    let more = json!({
        "eventLogRef": {"name": format!("log-{}", n % LOGS)},
        "table": {"name": format!("t{}", n / LOGS)},
        "delivery": {"retry": retry},
    });
    trigger(&format!("t-{n}"), more)
}

/// Applies all EventTriggers.
async fn apply(scene: &Scene, retry: u32) {
    stream::iter(0..TRIGGERS).for_each_concurrent(AT_A_TIME, |n| scene.apply(nth(n, retry))).await;
}

/// Waits until all are ready, for their newest generation.
async fn ready(scene: &Scene) {
    eventually(PATIENCE, "all EventTriggers to be ready", async || {
        let found = scene.cluster.list(&scene.namespace, V1ALPHA1, "EventTrigger").await;
        let is_ready = |object: &&Value| {
            let generation = &object["metadata"]["generation"];
            condition_of(object, "Ready")
                .is_some_and(|found| found["status"] == "True" && found["observedGeneration"] == *generation)
        };
        let ready = found.iter().filter(is_ready).count();
        let first = found.iter().find(|object| !is_ready(object)).map(|object| object["status"].to_string());
        if ready == TRIGGERS { Ok(()) } else { Err(format!("{ready} of {}; {first:?}", found.len())) }
    })
    .await;
}

/// How many reconciles of EventTriggers the controller has counted.
pub async fn reconciles(scene: &Scene) -> Result<f64, String> {
    scene.cluster.ready_pod(OPERATOR_NAMESPACE, OPERATOR).await?;
    let address = forward(&scene.cluster, OPERATOR_NAMESPACE, OPERATOR, 8080).await;
    let text = async { reqwest::get(format!("http://{address}/metrics")).await?.text().await };
    let text = text.await.map_err(|error: reqwest::Error| error.to_string())?;
    let lines = text.lines().filter(|line| line.contains("reconcile") && line.contains(r#"kind="EventTrigger""#));
    Ok(lines
        .filter(|line| line.contains("_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures: make bench-scale"]
async fn a_thousand_event_triggers_over_twenty_event_logs() {
    let scene = Scene::alone("scale").await;
    for n in 0..LOGS {
        let name = format!("{}-{n}", scene.namespace);
        let (mut config, uri) = create_database(&scene.cluster, &scene.server, &name).await;
        for (host, port) in scene.config.get_hosts().iter().zip(scene.config.get_ports()) {
            let tokio_postgres::config::Host::Tcp(host) = host else { continue };
            config.host(host).port(*port);
        }
        let database = eventtrigger_e2e::writer::connect(&config).await.expect("a connection");
        for table in 0..TRIGGERS.div_ceil(LOGS) {
            let make = format!("CREATE TABLE t{table} (id bigint PRIMARY KEY)");
            database.batch_execute(&make).await.expect("make a table");
        }
        scene.secret(&format!("database-{n}"), &[("uri", &uri)]).await;
        let spec = json!({
            "connection": {"uri": {"secretKeyRef": {"name": format!("database-{n}"), "key": "uri"}}},
            "reclaimPolicy": "Delete",
        });
        let metadata = json!({"name": format!("log-{n}")});
        scene.apply(json!({"apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": metadata, "spec": spec})).await;
    }
    let begun = Instant::now();
    apply(&scene, 1).await;
    let applied = Instant::now();
    ready(&scene).await;
    println!("{TRIGGERS} EventTriggers applied in {:.1} s", (applied - begun).as_secs_f64());
    println!("last apply → all Ready: {:.1} s (60 asked)", applied.elapsed().as_secs_f64());

    let writes = writes_at_rest(&scene).await;
    println!("API writes at rest: {} (0 asked)", writes.len());
    let cpu = async || {
        let found = usage(&scene, OPERATOR_NAMESPACE, OPERATOR).await;
        let time = text(&found, "/cpu/time").parse::<jiff::Timestamp>().expect("a time");
        (found["cpu"]["usageCoreNanoSeconds"].as_f64().expect("a number"), time)
    };
    let (before, since) = cpu().await;
    tokio::time::sleep(REST).await;
    let (after, until) = cpu().await;
    let seconds = until.duration_since(since).as_secs_f64();
    println!("CPU at rest: {:.2} % of a core (1 asked), over {seconds:.0} s", (after - before) / seconds / 1e7);
    println!("memory: {:.1} MiB (100 asked)", memory(&scene, OPERATOR_NAMESPACE, OPERATOR).await);

    let before = reconciles(&scene).await.expect("metrics");
    let begun = Instant::now();
    apply(&scene, 2).await;
    ready(&scene).await;
    let took = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let each = (reconciles(&scene).await.expect("metrics") - before) / 1000.0;
    println!("a burst of {TRIGGERS} changes: {took:.1} s, {each:.2} reconciles each (1 asked)");

    let old = scene.cluster.ready_pod(OPERATOR_NAMESPACE, OPERATOR).await.expect("the controller");
    let begun = Instant::now();
    scene.cluster.delete(OPERATOR_NAMESPACE, "v1", "Pod", &old.metadata.name.unwrap_or_default()).await;
    eventually(PATIENCE, "the new controller to have seen all", async || {
        let seen = reconciles(&scene).await?;
        if seen >= 1000.0 { Ok(()) } else { Err(format!("{seen} reconciles")) }
    })
    .await;
    println!("restart → all reconciled: {:.1} s (15 asked)", begun.elapsed().as_secs_f64());
    println!("memory after it: {:.1} MiB (100 asked)", memory(&scene, OPERATOR_NAMESPACE, OPERATOR).await);
    scene.end().await;
}
