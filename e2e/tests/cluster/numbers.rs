//! The limits that the project promises, measured here with room for a busy machine, and printed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    cluster::{eventually, text},
    scale::reconciles,
    scene::{OPERATOR, OPERATOR_NAMESPACE, ORDERS, PATIENCE, Scene, V1ALPHA1},
};

/// The value in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Memory of the first ready pod with these labels, in MiB: its working set, as `kubectl top` shows it and limits count it.
pub async fn memory(scene: &Scene, namespace: &str, selector: &str) -> f64 {
    usage(scene, namespace, selector).await["memory"]["workingSetBytes"].as_f64().unwrap_or(f64::NAN) / 1_048_576.0
}

/// What the kubelet says of the first container of the first ready pod with these labels.
pub async fn usage(scene: &Scene, namespace: &str, selector: &str) -> Value {
    let pod = scene.cluster.ready_pod(namespace, selector).await.expect("a ready pod");
    let node = pod.spec.and_then(|spec| spec.node_name).expect("a ready pod has a node");
    let uid = pod.metadata.uid.expect("a pod has a UID");
    // The kubelet looks every 10 seconds or so, and knows nothing of a pod that is younger.
    eventually(PATIENCE, "the kubelet's statistics of the pod", async || {
        let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/stats/summary")).body(Vec::new());
        let summary: Value =
            scene.cluster.client.request(request.expect("a request")).await.map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let ours = pods.clone().find(|pod| pod["podRef"]["uid"] == *uid);
        let found =
            ours.map(|pod| pod["containers"][0].clone()).filter(|found| found["memory"]["workingSetBytes"].is_u64());
        found.ok_or_else(|| format!("none of {} pods is {uid}", pods.count()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_system_is_quick_to_react_small_and_silent() {
    let scene = Scene::alone("numbers").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({"on": {"update": null, "delete": null}})).await;
    scene.ready("EventTrigger", "order-changed").await;

    let applied_to_ready = {
        let mut times = Vec::new();
        for n in 0..9 {
            scene.run(&format!("CREATE TABLE t{n} (id bigint PRIMARY KEY)")).await;
            let name = format!("t{n}");
            let since = Instant::now();
            scene.trigger(&name, json!({"table": {"name": name}})).await;
            ready_soon(&scene, &name).await;
            times.push(since.elapsed().as_secs_f64());
        }
        median(times)
    };

    let commit_to_post = {
        let mut times = Vec::new();
        for id in 1..=15_u16 {
            // At rest: nothing to do since the last one.
            tokio::time::sleep(Duration::from_millis(300)).await;
            // The row's own clock, which is the node's, as the receiver's is; the commit comes after it.
            let sql =
                format!("INSERT INTO orders SELECT {id}, extract(epoch FROM clock_timestamp()) * 1000000, 'new', 1, 1");
            scene.run(&sql).await;
            let records = scene.accepted(usize::from(id)).await;
            let record = records.last().expect("a record");
            let written: f64 = text(&record.json(), "/new/customer").parse().expect("a time");
            #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 need 51 bits")]
            times.push((record.at_us as f64 - written) / 1000.0);
        }
        median(times)
    };

    let labels = scene.worker_labels().await;
    let worker = memory(&scene, &scene.namespace, &labels).await;
    let operator = memory(&scene, OPERATOR_NAMESPACE, OPERATOR).await;
    let writes = writes_at_rest(&scene).await;
    println!("applied → Ready, p50: {:.0} ms", applied_to_ready * 1000.0);
    println!("commit → POST when idle, p50: {commit_to_post:.1} ms");
    println!("memory at rest: deliver {worker:.1} MiB, controller {operator:.1} MiB");
    println!("API writes of the controller in {REST:?} with nothing changing: {}", writes.len());
    assert!(applied_to_ready < 1.0, "{applied_to_ready} s from applied to ready");
    assert!(commit_to_post < 20.0, "{commit_to_post} ms from commit to POST");
    assert!(worker < 20.0, "{worker} MiB");
    assert!(operator < 40.0, "{operator} MiB");
    assert!(writes.is_empty(), "{writes:#?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_spec_costs_one_reconcile_and_a_status_that_somebody_else_wrote_is_put_right() {
    const TRIGGERS: usize = 10;
    let scene = Scene::alone("once").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let apply = async |retry: u32| {
        for n in 0..TRIGGERS {
            scene.trigger(&format!("t{n}"), json!({"delivery": {"retry": retry}})).await;
        }
        for n in 0..TRIGGERS {
            scene.ready("EventTrigger", &format!("t{n}")).await;
        }
        settled(&scene).await
    };
    let before = apply(1).await;
    let after = apply(2).await;
    assert_eq!(after - before, TRIGGERS, "reconciles of {TRIGGERS} changes");
    let wrong = json!({"observedGeneration": 1, "sinkUri": "http://elsewhere/"});
    scene.cluster.set_status(&scene.namespace, V1ALPHA1, "EventTrigger", "t0", wrong).await;
    eventually(PATIENCE, "the status to be put right", async || {
        let found = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventTrigger", "t0").await.ok_or("it is gone")?;
        let right = found["status"]["observedGeneration"] == 2
            && text(&found, "/status/sinkUri").starts_with("http://receiver.");
        if right { Ok(()) } else { Err(found["status"].to_string()) }
    })
    .await;
    scene.end().await;
}

/// How many reconciles of EventTriggers there have been, once there are no more: for longer than a look at a database takes.
async fn settled(scene: &Scene) -> usize {
    let mut before = f64::NAN;
    eventually(PATIENCE, "reconciles to end", async || {
        let now = reconciles(scene).await?;
        #[expect(clippy::float_cmp, reason = "a count of the same counter")]
        let rested = now == before;
        before = now;
        if !rested {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts")]
        if rested { Ok(now as usize) } else { Err(format!("{now} so far")) }
    })
    .await
}

/// How long the controller is watched at rest: more than one of its looks at everything.
const REST: Duration = Duration::from_secs(20);

/// As [`Scene::ready`], looking more often: this one is timed.
async fn ready_soon(scene: &Scene, name: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let object = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventTrigger", name).await.expect("it was applied");
        let ready = super::scene::condition_of(&object, "Ready").is_some_and(|found| found["status"] == "True");
        if ready {
            return;
        }
        assert!(Instant::now() < end, "{name} is not ready: {}", object["status"]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the controller wrote while nothing changed, leases aside. Two judges: the versions of all objects that it could
/// write, and the API server's audit log, if `E2E_AUDIT_LOG` names it: that shows also writes that changed nothing.
pub async fn writes_at_rest(scene: &Scene) -> Vec<String> {
    // What was done last may still be under way.
    let mut before = versions(scene).await;
    eventually(PATIENCE, "objects to come to rest", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = versions(scene).await;
        let rested = now == before;
        before = now;
        if rested { Ok(()) } else { Err("they still change") }
    })
    .await;
    let audited = audit_log().map_or(0, |log| log.len());
    tokio::time::sleep(REST).await;
    let after = versions(scene).await;
    let mut writes: Vec<String> = after.into_iter().filter(|version| !before.contains(version)).collect();
    for line in audit_log().unwrap_or_default().get(audited..).unwrap_or_default().lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let by_operator =
            text(&entry, "/user/username").starts_with(&format!("system:serviceaccount:{OPERATOR_NAMESPACE}:"));
        let reads = ["get", "list", "watch"].contains(&text(&entry, "/verb"));
        let resource = text(&entry, "/objectRef/resource");
        if by_operator && !reads && resource != "leases" {
            writes.push(format!("{} {resource} {}", text(&entry, "/verb"), text(&entry, "/objectRef/name")));
        }
    }
    writes
}

fn audit_log() -> Option<String> {
    let path = std::env::var("E2E_AUDIT_LOG").ok()?;
    Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("E2E_AUDIT_LOG {path}: {error}")))
}

/// Name and version of every object that the controller may write.
async fn versions(scene: &Scene) -> Vec<String> {
    let mut all = Vec::new();
    for (api_version, kind) in [
        (V1ALPHA1, "EventLog"),
        (V1ALPHA1, "EventSink"),
        (V1ALPHA1, "EventTrigger"),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("events.k8s.io/v1", "Event"),
    ] {
        for object in scene.cluster.list(&scene.namespace, api_version, kind).await {
            let (name, version) = (text(&object, "/metadata/name"), text(&object, "/metadata/resourceVersion"));
            all.push(format!("{kind} {name} at {version}"));
        }
    }
    all
}
