//! Databases that cannot be reached: told by a condition, and recovered from without anybody's help. What is installed
//! stays as it is meanwhile.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_cloudnativepg_does_as_it_is_and_so_do_its_parts() {
    let scene = Scene::new("cnpg").await;
    scene.run(ORDERS).await;
    // What its operator makes for a Cluster called `shop`: a Service, and a Secret of these very keys.
    let name = scene.config.get_dbname().expect("a database").to_owned();
    let (namespace, server) = (&scene.namespace, format!("postgres.{}.svc.cluster.local", scene.server));
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-rw"},
            "spec": {"type": "ExternalName", "externalName": server},
        }))
        .await;
    let uri = |host: &str| format!("postgresql://{name}:secret@{host}:5432/{name}");
    let jdbc = |host: &str| format!("jdbc:postgresql://{host}:5432/{name}?password=secret&user={name}");
    let (short, full) = (format!("shop-rw.{namespace}"), format!("shop-rw.{namespace}.svc.cluster.local"));
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
            "metadata": {"name": "shop-app", "labels": {"cnpg.io/userType": "app", "cnpg.io/reload": "true"}},
            "stringData": {
                "username": name, "user": name, "password": "secret", "dbname": name, "host": "shop-rw", "port": "5432",
                "pgpass": format!("shop-rw:5432:{name}:{name}:secret\n"), "uri": uri(&short), "jdbc-uri": jdbc(&short),
                "fqdn-uri": uri(&full), "fqdn-jdbc-uri": jdbc(&full),
            },
        }))
        .await;
    let key = |key: &str| json!({"secretKeyRef": {"name": "shop-app", "key": key}});
    scene.log(json!({"connection": {"uri": key("uri")}})).await;
    scene.trigger("order-changed", json!({})).await;
    works(&scene, 1).await;
    scene.log(json!({"connection": {"uri": key("fqdn-uri")}})).await;
    works(&scene, 2).await;
    let parts = json!({
        "uri": null, "host": key("host"), "port": key("port"), "dbname": key("dbname"), "user": key("username"),
        "password": key("password"),
    });
    scene.log(json!({"connection": parts})).await;
    works(&scene, 3).await;
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

/// A Secret as cert-manager makes it for a Certificate of these names, from an authority of its own.
fn certificate(name: &str, names: &[&str]) -> Value {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("an authority").pem();
    let server_key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("names");
    let server = server.signed_by(&server_key, &Issuer::new(params, key)).expect("a certificate").pem();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "annotations": {"cert-manager.io/certificate-name": name}},
        "stringData": {"ca.crt": authority, "tls.crt": server, "tls.key": server_key.serialize_pem()},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_verified_by_the_authority_in_the_secret_that_cert_manager_makes() {
    let mut scene = Scene::with_own_server("tls").await;
    let issued = certificate("postgres-tls", &[&format!("postgres.{}", scene.server)]);
    for namespace in [&scene.server, &scene.namespace] {
        scene.cluster.apply(namespace, &issued).await.expect("apply the Secret");
    }
    // The server offers TLS once it starts with the Secret.
    scale(&scene, 0).await;
    scale(&scene, 1).await;
    scene.reconnect().await;
    scene.run(ORDERS).await;

    let tls = |secret: &str| {
        let authority = json!({"secretKeyRef": {"name": secret, "key": "ca.crt"}});
        json!({"connection": {"tls": {"mode": "verify-full", "ca": authority}}})
    };
    scene.apply(certificate("of-another", &["nobody"])).await;
    scene.log(tls("of-another")).await;
    scene.trigger("order-changed", json!({})).await;
    scene.refused("EventLog", "shop", "ConnectionFailed", &["not trusted", "connection.tls.ca"]).await;
    scene.log(tls("postgres-tls")).await;
    works(&scene, 1).await;
    let sessions = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name LIKE 'eventtrigger%'";
    let row = scene.database.query_one(sessions, &[]).await.expect("sessions");
    let (encrypted, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(encrypted == all && all > 1, "{encrypted} of {all} sessions are encrypted");
    scene.end().await;
}
