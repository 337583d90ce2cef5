//! What `kubectl get` prints: the columns that the API server computes are the ones that kubectl shows.

use serde_json::{Value, json};

use super::{
    cluster::{blocks, eventually},
    scene::{ORDERS, PATIENCE, Scene},
};

/// Columns and cells of a list, as kubectl asks for them; only the columns that it shows without `-o wide`.
async fn table(scene: &Scene, plural: &str) -> Vec<Vec<String>> {
    let path = format!("/apis/eventtrigger.dev/v1alpha1/namespaces/{}/{plural}", scene.namespace);
    let request = http::Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let request = request.body(Vec::new()).expect("a request");
    let found: Value = scene.cluster.client.request(request).await.expect("a table");
    let columns = found["columnDefinitions"].as_array().expect("columns");
    let shown: Vec<_> = (0..columns.len()).filter(|&n| columns[n]["priority"] == 0).collect();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = vec![shown.iter().map(|&n| text(&columns[n]["name"])).collect()];
    for row in found["rows"].as_array().into_iter().flatten() {
        lines.push(shown.iter().map(|&n| text(&row["cells"][n])).collect());
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_tells_what_is_ready_and_why_not() {
    let scene = Scene::new("output").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver"});
    scene.sink("billing", json!({"ref": service, "uri": "/hooks"})).await;
    scene.trigger("good", json!({})).await;
    scene.trigger("wrong", json!({"table": {"name": "ordres"}})).await;
    scene.ready("EventLog", "shop").await;
    scene.ready("EventSink", "billing").await;
    scene.ready("EventTrigger", "good").await;
    scene.refused("EventTrigger", "wrong", "TableNotFound", &["ordres"]).await;
    let url = format!("http://receiver.{}.svc/", scene.namespace);

    let triggers = table(&scene, "eventtriggers").await;
    assert_eq!(triggers[0], ["Name", "Ready", "Reason", "Table", "Sink", "Age"]);
    assert_eq!(triggers[1][..5], ["good", "True", "Ready", "public.orders", &url]);
    assert_eq!(triggers[2][..4], ["wrong", "False", "TableNotFound", "public.ordres"]);

    let logs = table(&scene, "eventlogs").await;
    assert_eq!(logs[0], ["Name", "Ready", "Reason", "Database", "Age"]);
    assert_eq!(logs[1][..3], ["shop", "True", "Ready"]);
    let database = scene.config.get_dbname().expect("a database");
    assert!(logs[1][3].contains(&scene.server) && logs[1][3].contains(database), "{:?}", logs[1]);

    let sinks = table(&scene, "eventsinks").await;
    assert_eq!(sinks[0], ["Name", "Ready", "Reason", "URL", "Age"]);
    assert_eq!(sinks[1][..4], ["billing", "True", "Ready", &format!("{url}hooks")]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_is_scaled_by_its_scale_subresource_and_by_an_autoscaler() {
    let scene = Scene::new("scale").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    let logs = kube::Api::<eventtrigger::api::EventLog>::namespaced(scene.cluster.client.clone(), &scene.namespace);
    let workers = async |count: i32| {
        eventually(PATIENCE, &format!("{count} workers"), async || {
            let scale = logs.get_scale("shop").await.map_err(|error| error.to_string())?;
            let status = scale.status.unwrap_or_default();
            if status.replicas == count && status.selector.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    };
    // Without metrics an autoscaler still sees to the least that there shall be.
    let page = include_str!("../../../docs/operating.md");
    let blocks = blocks(page, "yaml");
    let autoscaler = blocks.iter().find(|block| block.contains("HorizontalPodAutoscaler")).expect("an autoscaler");
    let autoscaler = autoscaler.replace("namespace: shop", &format!("namespace: {}", scene.namespace));
    scene.cluster.apply_manifests(&scene.namespace, &autoscaler).await;
    workers(2).await;
    scene.cluster.delete(&scene.namespace, "autoscaling/v2", "HorizontalPodAutoscaler", "shop").await;
    let three = kube::api::Patch::Merge(json!({"spec": {"replicas": 3}}));
    logs.patch_scale("shop", &kube::api::PatchParams::default(), &three).await.expect("scale");
    workers(3).await;
    // One delivers, the others stand by: nothing comes twice.
    scene.run("INSERT INTO orders SELECT n, 'a', 'new', 1, 1 FROM generate_series(1, 50) n").await;
    assert_eq!(scene.accepted(50).await.len(), 50);
    scene.end().await;
}
