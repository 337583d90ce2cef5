//! The pages for when all is installed: each command and query of them works on a running installation, and what they say comes
//! of it does.

use std::{fs, time::Duration};

use serde_json::json;

use super::{commands, follow, in_repository, shell, upgrade};
use crate::{
    cluster::{blocks, eventually, text},
    scene::{ORDERS, PATIENCE, Scene, V1ALPHA1, event_sink},
};

/// A page, in which the test's namespace stands for that of the examples.
fn page(scene: &Scene, name: &str) -> String {
    let page = fs::read_to_string(in_repository(&format!("docs/{name}.md"))).expect("the page");
    let namespace = &scene.namespace;
    page.replace("--namespace shop", &format!("--namespace {namespace}"))
        .replace("-n shop", &format!("-n {namespace}"))
        // An Argo CD that is there must not hear of this.
        .replace("-n argocd", &format!("-n {namespace}"))
        .replace("redrive('shop'", &format!("redrive('{namespace}'"))
}

/// Runs every query of a page, as the owner of the log.
async fn query(scene: &Scene, page: &str) {
    let queries = blocks(page, "sql");
    assert!(!queries.is_empty(), "no query");
    for query in queries {
        scene.run(query).await;
    }
}

/// What the pages' examples name.
async fn surroundings(scene: &Scene) {
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let receiver = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver", "port": "http"});
    scene.sink("billing", json!({"ref": receiver})).await;
    scene.trigger("orders", json!({})).await;
    scene.trigger("order-paid", json!({"sink": {"ref": event_sink("billing")}})).await;
    let argocd = json!({"url": "https://argocd.example.com"});
    scene
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}, "data": argocd}))
        .await;
}

/// Waits until an EventLog has so many workers.
async fn has_workers(scene: &Scene, count: u64) {
    eventually(PATIENCE, &format!("{count} workers"), async || {
        let deployment = scene.cluster.get(&scene.namespace, "apps/v1", "Deployment", "shop-delivery").await;
        let status = deployment.map(|deployment| deployment["status"].clone()).unwrap_or_default();
        let ready = status["readyReplicas"].as_u64().unwrap_or_default();
        if ready == count { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// docs/operating.md.
async fn operating(scene: &Scene) {
    let page = page(scene, "operating");
    query(scene, &page).await;
    follow(&commands(&page)).await;
    let log = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventLog", "shop").await.expect("EventLog shop");
    assert_eq!(log["spec"]["delivery"]["replicas"], 3);
    has_workers(scene, 3).await;
    eventually(PATIENCE, "workers that know of the collector", async || {
        let deployment = scene.cluster.get(&scene.namespace, "apps/v1", "Deployment", "shop-delivery").await;
        let template = deployment.map(|deployment| deployment["spec"]["template"].to_string()).unwrap_or_default();
        if template.contains("http://otel-collector.observability:4318") { Ok(()) } else { Err(template) }
    })
    .await;
    upgrade(&[]);

    // Those of the table: what is said there of each is what the rows and the receiver show.
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(2).await;
    let advice: Vec<_> = page.split('`').filter(|code| code.starts_with("kubectl --namespace")).collect();
    let [suspend, scale, resume] = advice[..] else { panic!("other advice than before: {advice:?}") };
    shell(suspend);
    scene.condition("EventTrigger", "orders", "Delivering", |found| found["reason"] == "Suspended").await;
    // Until each worker has looked.
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.run("INSERT INTO orders VALUES (2, 'a', 'new', 1, 1)").await;
    let records = scene.accepted(3).await;
    assert_eq!(records.iter().filter(|record| record.is_accepted()).count(), 3, "a suspended EventTrigger delivers");
    shell(resume);
    shell(scale);
    has_workers(scene, 0).await;
    scene.log(json!({"delivery": {"replicas": 1}})).await;
    scene.trigger("orders", json!({"suspend": false})).await;
    scene.accepted(4).await;
}

/// docs/gitops.md.
async fn gitops(scene: &Scene) {
    follow(&commands(&page(scene, "gitops"))).await;
    let config = scene.cluster.get(&scene.namespace, "v1", "ConfigMap", "argocd-cm").await.expect("argocd-cm");
    assert_eq!(text(&config, "/data/url"), "https://argocd.example.com", "what was there stays");
    for kind in ["EventLog", "EventSink", "EventTrigger"] {
        let health = text(&config, &format!("/data/resource.customizations.health.eventtrigger.dev_{kind}"));
        assert!(health.contains("return health"), "{config}");
    }
}

/// docs/reference/conditions.md: an EventLog is let go whose database is away for good, and the controller's log has it.
async fn conditions(scene: &Scene) {
    let page = page(scene, "reference/conditions");
    let lines = commands(&page);
    let [found, abandon] = &lines[..] else { panic!("other commands than before: {lines:?}") };
    let kubectl = |what: &str| shell(&format!("kubectl --namespace {} {what}", scene.namespace));
    kubectl("delete eventtriggers --all");
    scene.secret("database", &[("uri", "postgresql://nobody:secret@127.0.0.1:1/none")]).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &[]).await;
    kubectl("delete eventlog shop --wait=false");
    shell(abandon);
    eventually(PATIENCE, "the EventLog to go", async || {
        let log = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventLog", "shop").await;
        log.map_or(Ok(()), |log| Err(log["status"].to_string()))
    })
    .await;
    let found = shell(found);
    assert!(found.contains(&format!("{}/shop", scene.namespace)), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_and_query_of_the_pages_for_operators_works() {
    let scene = Scene::alone("operations").await;
    surroundings(&scene).await;
    for name in ["orders", "order-paid"] {
        scene.ready("EventTrigger", name).await;
    }
    operating(&scene).await;
    gitops(&scene).await;
    let runbooks = page(&scene, "runbooks");
    query(&scene, &runbooks).await;
    follow(&commands(&runbooks)).await;
    query(&scene, &page(&scene, "delivery")).await;
    conditions(&scene).await;
    scene.end().await;
}
