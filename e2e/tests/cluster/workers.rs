//! EventTriggers that ask for delivery workers of their own.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    cluster::{eventually, text},
    crash::{delivers_on, nothing_is_lost, streaming},
    forward::forward,
    scene::{ORDERS, PATIENCE, Scene, V1ALPHA1, condition_of},
};

const DEPLOYMENT: &str = "own-workers";
/// The log's.
const SHARED: &str = "shop-delivery";
/// What selects its pods.
const PODS: &str =
    "app.kubernetes.io/name=eventtrigger,app.kubernetes.io/component=delivery,app.kubernetes.io/instance=trigger_own";

async fn deployment(scene: &Scene) -> Option<Value> {
    scene.cluster.get(&scene.namespace, "apps/v1", "Deployment", DEPLOYMENT).await
}

/// Waits until there is no pod of this Deployment, not even one that is ending: until then it delivers what it has read.
async fn without_pods(scene: &Scene, deployment: &str) {
    eventually(PATIENCE, &format!("{deployment} to have no pods"), async || {
        let pods = scene.cluster.list(&scene.namespace, "v1", "Pod").await;
        let its_own = pods.iter().any(|pod| text(pod, "/metadata/name").starts_with(deployment));
        if its_own { Err("a pod is there") } else { Ok(()) }
    })
    .await;
}

/// Waits until there is no such Deployment and no such pod.
async fn gone(scene: &Scene) {
    eventually(PATIENCE, "its Deployment to be gone", async || {
        if deployment(scene).await.is_some() { Err("it is there") } else { Ok(()) }
    })
    .await;
    without_pods(scene, DEPLOYMENT).await;
}

/// Waits until a pod with these labels says that it has delivered so many events at least, of these EventTriggers and no others.
/// One that replaces another begins to count anew.
async fn delivered(scene: &Scene, selector: &str, expected: &[(&str, u64)]) {
    let address = forward(&scene.cluster, &scene.namespace, selector, 8080).await;
    eventually(PATIENCE, &format!("{selector} to have delivered {expected:?}"), async || {
        let text = async { reqwest::get(format!("http://{address}/metrics")).await?.text().await };
        let text = text.await.map_err(|error: reqwest::Error| error.to_string())?;
        let lines = text.lines().filter(|line| line.starts_with("eventtrigger_events_delivered_total{"));
        let mut found: Vec<(&str, u64)> = lines
            .filter_map(|line| {
                let name = line.split("trigger=\"").nth(1)?.split('"').next()?;
                Some((name, line.rsplit(' ').next()?.parse().ok()?))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        found.sort_unstable();
        let enough = |(found, expected): (&(&str, u64), &(&str, u64))| found.0 == expected.0 && found.1 >= expected.1;
        let all = found.len() == expected.len() && found.iter().zip(expected).all(enough);
        if all { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// `kubectl scale eventtrigger own --replicas N`.
async fn scale(scene: &Scene, replicas: i32) {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("eventtrigger.dev", "v1alpha1", "EventTrigger"));
    let api = Api::<DynamicObject>::namespaced_with(scene.cluster.client.clone(), &scene.namespace, &kind);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let scaled = api.patch_scale("own", &PatchParams::default(), &patch).await.expect("scale the EventTrigger");
    // None is written as nothing.
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas).unwrap_or_default(), replicas);
}

async fn insert(scene: &Scene, id: i32) {
    scene.run(&format!("INSERT INTO orders VALUES ({id}, 'a', 'new', 1, 1)")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eventtrigger_with_a_deployment_of_its_own_is_delivered_from_there_and_nothing_is_left_of_it_afterwards() {
    let scene = Scene::new("own").await;
    scene.run(ORDERS).await;
    let marked = |team: &str| json!({"delivery": {"pod": {"labels": {"team": team}, "nodeSelector": {"kubernetes.io/os": "linux"}}}});
    scene.log(marked("shop")).await;
    scene.trigger("shared", json!({})).await;
    scene.trigger("own", json!({"deployment": {"resources": {"limits": {"memory": "64Mi"}}}})).await;
    scene.ready("EventTrigger", "shared").await;
    let trigger = scene.ready("EventTrigger", "own").await;
    assert_eq!(trigger["status"]["replicas"], 1);
    assert_eq!(trigger["spec"]["deployment"]["replicas"], 1, "the default");
    let found = deployment(&scene).await.expect("its Deployment");
    let owner = &found["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("EventTrigger"), &trigger["metadata"]["uid"]));
    let limits = found.pointer("/spec/template/spec/containers/0/resources/limits");
    assert_eq!(limits, Some(&json!({"memory": "64Mi"})));
    assert_eq!(found.pointer("/spec/template/spec/nodeSelector/kubernetes.io~1os"), Some(&json!("linux")));
    let mut selected: Vec<_> = text(&trigger, "/status/selector").split(',').collect();
    let mut labels: Vec<_> = PODS.split(',').collect();
    selected.sort_unstable();
    labels.sort_unstable();
    assert_eq!(selected, labels);

    // Each from its own pods.
    let common = scene.worker_labels().await;
    insert(&scene, 1).await;
    scene.accepted(2).await;
    delivered(&scene, PODS, &[("own", 1)]).await;
    delivered(&scene, &common, &[("shared", 1)]).await;

    // What the log says of pods is true of its own, too, and goes on being so.
    scene.log(marked("ledger")).await;
    eventually(PATIENCE, "its pods to be marked anew", async || {
        let found = deployment(&scene).await.ok_or("no Deployment")?;
        let team = found.pointer("/spec/template/metadata/labels/team");
        if team == Some(&json!("ledger")) && found["status"]["availableReplicas"] == 1 {
            Ok(())
        } else {
            Err("not yet")
        }
    })
    .await;

    // It is scaled by itself, and the log's workers do not stand in for it.
    scale(&scene, 2).await;
    eventually(PATIENCE, "a second pod", async || {
        let found = deployment(&scene).await.ok_or("no Deployment")?;
        if found["status"]["availableReplicas"] == 2 { Ok(()) } else { Err("not yet") }
    })
    .await;
    scale(&scene, 0).await;
    let by_wish = |found: &Value| found["status"] == "True" && found["reason"] == "ScaledToZero";
    let trigger = scene.condition("EventTrigger", "own", "Ready", by_wish).await;
    assert!(text(condition_of(&trigger, "Ready").expect("Ready"), "/message").contains("deployment.replicas"));
    without_pods(&scene, DEPLOYMENT).await;
    insert(&scene, 2).await;
    let records = scene.accepted(3).await;
    assert!(records[2].header("ce-eventtrigger").expect("whose").ends_with("/shared"));
    scale(&scene, 1).await;
    scene.ready("EventTrigger", "own").await;
    scene.accepted(4).await;
    // The log's may go without it.
    scene.log(json!({"delivery": {"replicas": 0}})).await;
    scene.condition("EventTrigger", "shared", "Ready", |found| found["reason"] == "ScaledToZero").await;
    without_pods(&scene, SHARED).await;
    insert(&scene, 3).await;
    let records = scene.accepted(5).await;
    assert!(records[4].header("ce-eventtrigger").expect("whose").ends_with("/own"));
    scene.log(json!({})).await;
    scene.accepted(6).await;

    // What is deleted by hand is made again.
    let old = deployment(&scene).await.expect("its Deployment");
    let api = Api::<Deployment>::namespaced(scene.cluster.client.clone(), &scene.namespace);
    api.delete(DEPLOYMENT, &kube::api::DeleteParams::default()).await.expect("delete the Deployment");
    eventually(PATIENCE, "another one", async || match deployment(&scene).await {
        Some(new) if new["metadata"]["uid"] != old["metadata"]["uid"] => Ok(()),
        _ => Err("not yet"),
    })
    .await;

    // Without the field the log's workers take over.
    scene.trigger("own", json!({})).await;
    let trigger = scene.ready("EventTrigger", "own").await;
    assert!(trigger["status"].get("replicas").is_none() && trigger["status"].get("selector").is_none());
    gone(&scene).await;
    insert(&scene, 4).await;
    scene.accepted(8).await;
    let common = scene.worker_labels().await;
    // Since the log was scaled up again: one each that had waited or is new.
    delivered(&scene, &common, &[("own", 1), ("shared", 1)]).await;

    // With it again, and without the EventTrigger.
    scene.trigger("own", json!({"deployment": {}})).await;
    scene.ready("EventTrigger", "own").await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "own").await;
    gone(&scene).await;
    let records = scene.receiver.since(0).await.expect("requests");
    assert_eq!(records.len(), 8, "each once");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_an_eventtrigger_gets_a_deployment_of_its_own_in_mid_stream_and_loses_it_again() {
    let scene = Scene::new("own-stream").await;
    let writer = streaming(&scene).await;
    for more in [json!({"deployment": {}}), json!({}), json!({"deployment": {"replicas": 2}, "partitions": 2})] {
        let own = more.get("deployment").is_some();
        scene.trigger("order-changed", more).await;
        scene.ready("EventTrigger", "order-changed").await;
        let moved = format!("SELECT bool_and((pool <> 0) = {own}) FROM eventlog.cursor");
        eventually(PATIENCE, "the move", async || {
            let row = scene.database.query_one(&moved, &[]).await.map_err(|error| error.to_string())?;
            if row.get(0) { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        delivers_on(&scene, &writer).await;
    }
    nothing_is_lost(&scene, writer).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_of_an_eventtrigger_with_a_deployment_of_its_own_is_delivered_by_the_logs_workers() {
    let scene = Scene::new("own-stays").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("own", json!({"deployment": {}, "reclaimPolicy": "Retain"})).await;
    scene.ready("EventTrigger", "own").await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "own").await;
    gone(&scene).await;
    insert(&scene, 1).await;
    scene.accepted(1).await;
    let common = scene.worker_labels().await;
    delivered(&scene, &common, &[("own", 1)]).await;
    // The log takes with it what nobody else would.
    scene.trigger("own", json!({"deployment": {}})).await;
    scene.ready("EventTrigger", "own").await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventLog", "shop").await;
    scene.refused("EventTrigger", "own", "LogNotFound", &["EventLog"]).await;
    gone(&scene).await;
    scene.end().await;
}
