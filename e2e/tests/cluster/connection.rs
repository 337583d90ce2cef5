//! Databases that cannot be reached: told by a condition, and recovered from without anybody's help. What is installed
//! stays as it is meanwhile.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    cluster::eventually,
    scene::{ORDERS, PATIENCE, POSTGRES, Scene},
};

/// "In seconds": how long a cure may take to be noticed.
const SECONDS: Duration = Duration::from_secs(20);

/// Waits until the trigger is ready, and proves it.
async fn works(scene: &Scene, row: i64) {
    scene.ready("EventLog", "shop").await;
    scene.ready("EventTrigger", "order-changed").await;
    let before = scene.receiver.count().await.expect("count").accepted;
    scene.run(&format!("INSERT INTO orders VALUES ({row}, 'a', 'new', 1, 1)")).await;
    scene.accepted(usize::try_from(before).expect("a count") + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_and_a_missing_key_are_told_and_used_within_seconds_once_there() {
    let scene = Scene::new("secret").await;
    scene.run(ORDERS).await;
    let row = scene.cluster.get(&scene.namespace, "v1", "Secret", "database").await.expect("the Secret");
    let uri = row["data"]["uri"].clone();
    scene.log(json!({"connection": {"uri": {"secretKeyRef": {"name": "later", "key": "uri"}}}})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.refused("EventLog", "shop", "SecretNotFound", &["connection.uri", "later"]).await;
    scene.secret("later", &[("url", "no")]).await;
    scene.refused("EventLog", "shop", "SecretKeyNotFound", &["connection.uri", "later", "\"uri\""]).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "data": {"uri": uri}});
    scene.apply(secret).await;
    let applied = std::time::Instant::now();
    scene.ready("EventTrigger", "order-changed").await;
    assert!(applied.elapsed() < SECONDS, "it took {:?}", applied.elapsed());
    works(&scene, 1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_database_are_told_without_the_password() {
    let scene = Scene::new("password").await;
    scene.run(ORDERS).await;
    let name = scene.config.get_dbname().expect("a database").to_owned();
    let server = format!("postgres.{}", scene.server);
    let uri = |password: &str, dbname: &str| format!("postgresql://{name}:{password}@{server}:5432/{dbname}");
    scene.secret("database", &[("uri", &uri("wr0ng", &name))]).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &["password"]).await;
    scene.secret("database", &[("uri", &uri("secret", "nowhere"))]).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &["nowhere"]).await;
    scene.secret("database", &[("uri", &uri("secret", &name))]).await;
    works(&scene, 1).await;
    scene.secret_is_nowhere(&["wr0ng", ":secret@"]).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_given_in_parts_some_of_them_secret() {
    let scene = Scene::new("parts").await;
    scene.run(ORDERS).await;
    let name = scene.config.get_dbname().expect("a database").to_owned();
    scene.secret("parts", &[("password", "secret"), ("user", &name)]).await;
    let parts = json!({
        "uri": null,
        "host": {"value": format!("postgres.{}", scene.server)},
        "dbname": {"value": name},
        "user": {"secretKeyRef": {"name": "parts", "key": "user"}},
        "password": {"secretKeyRef": {"name": "parts", "key": "password"}},
        "tls": {"mode": "disable"},
    });
    scene.log(json!({"connection": parts})).await;
    scene.trigger("order-changed", json!({})).await;
    works(&scene, 1).await;
    scene.end().await;
}

/// Starts or stops the server of a scene that has one of its own.
async fn scale(scene: &Scene, replicas: i32) {
    let sets = Api::<StatefulSet>::namespaced(scene.cluster.client.clone(), &scene.server);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    sets.patch_scale("postgres", &PatchParams::default(), &patch).await.expect("scale the server");
    eventually(PATIENCE, "the server to stop or start", async || {
        match (scene.cluster.ready_pod(&scene.server, POSTGRES).await, replicas) {
            (Ok(_), 1) | (Err(_), 0) => Ok(()),
            (found, _) => Err(format!("{:?}", found.map(|pod| pod.metadata.name))),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_the_start_and_later_is_waited_for_and_nothing_installed_is_touched() {
    let mut scene = Scene::with_own_server("away").await;
    scene.run(ORDERS).await;
    scale(&scene, 0).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &["postgres"]).await;
    scale(&scene, 1).await;
    scene.reconnect().await;
    works(&scene, 1).await;

    let installed = "SELECT string_agg(tgname || oid, ',' ORDER BY oid) FROM pg_trigger WHERE NOT tgisinternal";
    let before: String = scene.database.query_one(installed, &[]).await.expect("SQL triggers").get(0);
    scale(&scene, 0).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &["postgres"]).await;
    scale(&scene, 1).await;
    scene.reconnect().await;
    works(&scene, 2).await;
    let after: String = scene.database.query_one(installed, &[]).await.expect("SQL triggers").get(0);
    assert_eq!(after, before, "SQL triggers were made anew");
    scene.end().await;
}
