//! An operator of some namespaces only.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use serde_json::json;

use super::{ACCOUNT, upgrade};
use crate::{
    cluster::{eventually, text},
    scene::{ORDERS, PATIENCE, Scene, V1ALPHA1, event_sink},
};

/// Whether the controller may read Secrets in a namespace.
async fn may_read_secrets(scene: &Scene, namespace: &str) -> bool {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(ACCOUNT.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some("get".to_owned()),
                resource: Some("secrets".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews = Api::<SubjectAccessReview>::all(scene.cluster.client.clone());
    let answer = reviews.create(&kube::api::PostParams::default(), &review).await.expect("a review");
    answer.status.expect("an answer").allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_two_namespaces_works_in_both_and_knows_nothing_of_others() {
    let scene = Scene::alone("watched").await;
    scene.run(ORDERS).await;
    let (beside, elsewhere) = (scene.beside("beside").await, scene.beside("elsewhere").await);
    upgrade(&[&format!("watchNamespaces={{{},{beside}}}", scene.namespace)]);
    let roles = scene.cluster.list("", "rbac.authorization.k8s.io/v1", "ClusterRole").await;
    let names: Vec<_> = roles.iter().map(|role| text(role, "/metadata/name")).collect();
    assert!(!names.contains(&"eventtrigger-controller"), "{names:?}");
    assert!(may_read_secrets(&scene, &scene.namespace).await && may_read_secrets(&scene, &beside).await);
    assert!(!may_read_secrets(&scene, &elsewhere).await && !may_read_secrets(&scene, "eventtrigger-system").await);

    // An EventTrigger of one namespace, an EventSink of the other; what changes there is noticed.
    scene.secret("token", &[("token", "first")]).await;
    let sink =
        |spec| json!({"apiVersion": V1ALPHA1, "kind": "EventSink", "metadata": {"name": "billing"}, "spec": spec});
    let spec =
        json!({"uri": format!("http://receiver.{}.svc/a", scene.namespace), "allowedNamespaces": [scene.namespace]});
    scene.cluster.apply(&beside, &sink(spec)).await.expect("apply the EventSink");
    scene.log(json!({})).await;
    let mut reference = event_sink("billing");
    reference["namespace"] = json!(beside);
    scene.trigger("order-changed", json!({"sink": {"ref": reference}})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    assert_eq!(scene.accepted(1).await[0].path, "/a");
    let spec =
        json!({"uri": format!("http://receiver.{}.svc/b", scene.namespace), "allowedNamespaces": [scene.namespace]});
    scene.cluster.apply(&beside, &sink(spec)).await.expect("apply the EventSink");
    let mut id = 1;
    eventually(PATIENCE, "the sink's new path", async || {
        id += 1;
        scene.run(&format!("INSERT INTO orders VALUES ({id}, 'a', 'new', 1, 1)")).await;
        let records = scene.accepted(id).await;
        let path = records.last().expect("a record").path.clone();
        if path == "/b" { Ok(()) } else { Err(path) }
    })
    .await;
    // Workers that somebody has removed come back.
    scene.cluster.delete(&scene.namespace, "apps/v1", "Deployment", "shop-delivery").await;
    scene.run(&format!("INSERT INTO orders VALUES ({}, 'a', 'new', 1, 1)", id + 1)).await;
    scene.accepted(id + 1).await;

    // What is elsewhere is out of reach, and said to be.
    let mut reference = event_sink("billing");
    reference["namespace"] = json!(elsewhere);
    scene.trigger("far", json!({"sink": {"ref": reference}})).await;
    scene.refused("EventTrigger", "far", "NamespaceNotWatched", &[&elsewhere, "watchNamespaces"]).await;
    let log = json!({"apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": {"name": "shop"},
        "spec": {"connection": {"uri": {"secretKeyRef": {"name": "none", "key": "uri"}}}}});
    scene.cluster.apply(&elsewhere, &log).await.expect("apply the EventLog");
    scene.run(&format!("INSERT INTO orders VALUES ({}, 'a', 'new', 1, 1)", id + 2)).await;
    scene.accepted(id + 2).await;
    let log = scene.cluster.get(&elsewhere, V1ALPHA1, "EventLog", "shop").await.expect("the EventLog");
    // What the CRD itself gives a new one.
    assert_eq!(log["status"]["conditions"], json!([]), "{log}");

    // The whole cluster again.
    upgrade(&[]);
    eventually(PATIENCE, "the EventLog elsewhere to be looked at", async || {
        let log = scene.cluster.get(&elsewhere, V1ALPHA1, "EventLog", "shop").await.expect("the EventLog");
        if log["status"]["conditions"] == json!([]) { Err("it has no conditions") } else { Ok(()) }
    })
    .await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "far").await;
    for namespace in [beside, elsewhere] {
        for kind in ["EventSink", "EventLog"] {
            for object in scene.cluster.list(&namespace, V1ALPHA1, kind).await {
                scene.cluster.delete(&namespace, V1ALPHA1, kind, text(&object, "/metadata/name")).await;
            }
        }
        scene.cluster.forget(&namespace).await;
    }
    scene.end().await;
}
