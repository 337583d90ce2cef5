//! What the API server refuses at apply, by schema and by rule, with a message that helps; and what it takes.

use serde_json::{Value, json};

use super::{
    cluster::{Cluster, manifests},
    scene::{V1ALPHA1, merge, trigger},
};

fn log(more: Value) -> Value {
    let mut spec = json!({"connection": {"uri": {"secretKeyRef": {"name": "shop-app", "key": "uri"}}}});
    merge(&mut spec, more);
    json!({"apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": {"name": "shop"}, "spec": spec})
}

fn sink(spec: &Value) -> Value {
    json!({"apiVersion": V1ALPHA1, "kind": "EventSink", "metadata": {"name": "billing"}, "spec": spec})
}

/// `kubectl apply --dry-run=server` takes each.
async fn accepts(objects: impl IntoIterator<Item = Value>) {
    let cluster = Cluster::connect().await;
    for object in objects {
        let applied = cluster.dry_run_create("default", &object).await;
        applied.unwrap_or_else(|error| panic!("{object} is refused: {error}"));
    }
}

/// `kubectl apply --dry-run=server` refuses each, naming the field and saying what to do.
async fn rejects<const N: usize>(cases: impl IntoIterator<Item = (Value, [&str; N])>) {
    let cluster = Cluster::connect().await;
    for (object, words) in cases {
        let message = match cluster.dry_run_create("default", &object).await {
            Ok(_) => panic!("{object} is taken"),
            Err(kube::Error::Api(status)) => status.message,
            Err(error) => panic!("{object}: {error}"),
        };
        for word in words {
            assert!(message.contains(word), "{word:?} is not in the refusal of {object}: {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_says_how_to_connect_in_exactly_one_way() {
    let value = |text: &str| json!({"value": text});
    let parts = json!({"uri": null, "host": value("h"), "dbname": value("d"), "user": value("u")});
    let tls = |mode: &str| json!({"tls": {"mode": mode, "ca": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}}});
    let mut with_port = parts.clone();
    merge(&mut with_port, json!({"port": value("5432"), "password": {"secretKeyRef": {"name": "s", "key": "k"}}}));
    accepts([
        log(json!({})),
        log(json!({"connection": parts})),
        log(json!({"connection": with_port})),
        log(json!({"connection": tls("verify-full")})),
        log(json!({"connection": {"tls": {"mode": "require"}}})),
        log(json!({"schema": "order_log", "tables": [{"schema": "public", "name": "*"}]})),
        log(json!({"delivery": {"replicas": 2, "resources": {"limits": {"memory": "64Mi"}}}, "reclaimPolicy": "Delete"})),
        log(json!({"delivery": {"pod": {"labels": {"team": "shop", "app.kubernetes.io/part-of": "shop"}, "nodeSelector": {"a": "b"}}}})),
    ])
    .await;
    rejects([
        (log(json!({"connection": null})), ["spec.connection", "Required"]),
        (log(json!({"connection": {"uri": null}})), ["spec.connection", "set either uri or host"]),
        (log(json!({"connection": {"host": value("h")}})), ["spec.connection", "set either uri or host"]),
        (log(json!({"connection": {"uri": null, "host": value("h")}})), ["spec.connection", "host, dbname and user are needed"]),
        (log(json!({"connection": {"uri": {"value": "postgresql://u:p@h/d"}}})), ["spec.connection.uri", "unknown field"]),
        (
            log(json!({"connection": {"uri": null, "host": {"value": "h", "secretKeyRef": {"name": "a", "key": "b"}}, "dbname": value("d"), "user": value("u")}})),
            ["spec.connection.host", "exactly one of value and secretKeyRef"],
        ),
        (log(json!({"connection": tls("require")})), ["spec.connection.tls", "verify-ca and verify-full only"]),
        (log(json!({"connection": {"tls": {"mode": "verify"}}})), ["spec.connection.tls.mode", "verify-full"]),
        (log(json!({"connection": {"url": "x"}})), ["spec.connection", "url"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_logs_own_mistakes_are_refused() {
    rejects([
        (log(json!({"schema": "pg_log"})), ["spec.schema", "belong to PostgreSQL"]),
        (log(json!({"schema": ""})), ["spec.schema", "at least 1"]),
        (log(json!({"schema": "Mein Log"})), ["spec.schema", "lower-case letters"]),
        (log(json!({"schema": "n".repeat(64)})), ["spec.schema", "63"]),
        (log(json!({"tables": []})), ["spec.tables", "at least 1"]),
        (log(json!({"tables": [{"name": "orders"}]})), ["spec.tables[0].schema", "Required"]),
        (log(json!({"delivery": {"replicas": -1}})), ["spec.delivery.replicas", "0"]),
        (
            log(json!({"delivery": {"pod": {"labels": {"app.kubernetes.io/name": "mine"}}}})),
            ["spec.delivery.pod", "cannot be set"],
        ),
        (
            log(json!({"delivery": {"pod": {"tolerations": [{"sinceWhen": 1}]}}})),
            ["spec.delivery.pod.tolerations[0].sinceWhen", "unknown"],
        ),
        (log(json!({"delivery": {"pod": {"hostNetwork": true}}})), ["spec.delivery.pod.hostNetwork", "unknown"]),
        (log(json!({"reclaimPolicy": "Keep"})), ["spec.reclaimPolicy", "Retain"]),
        (log(json!({"shema": "eventlog"})), ["shema", "unknown"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_trigger_may_ask_for_a_deployment_that_can_be_named_after_it() {
    let named = |length: usize, more: Value| trigger(&"t".repeat(length), more);
    accepts([
        named(1, json!({"deployment": {}})),
        named(54, json!({"deployment": {"replicas": 0, "resources": {"requests": {"cpu": "1"}}}})),
        named(55, json!({})),
    ])
    .await;
    rejects([
        (named(55, json!({"deployment": {}})), ["metadata.name", "54"]),
        (named(1, json!({"deployment": {"replicas": -1}})), ["spec.deployment.replicas", "0"]),
        (named(1, json!({"deployment": {"replicas": 101}})), ["spec.deployment.replicas", "100"]),
        (named(1, json!({"deployment": {"connection": {}}})), ["spec.deployment", "unknown"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_a_reference_or_an_absolute_uri() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver"});
    let to = |sink: Value| {
        let mut object = trigger("t", json!({}));
        object["spec"]["sink"] = sink;
        object
    };
    accepts([
        to(json!({"ref": service})),
        to(json!({"ref": service, "uri": "/hooks/orders?a=b"})),
        to(json!({"uri": "https://billing.example.com/orders"})),
        to(json!({"ref": {"apiVersion": V1ALPHA1, "kind": "EventSink", "name": "billing"}})),
        sink(&json!({"ref": service, "uri": "orders"})),
    ])
    .await;
    rejects([
        (to(json!({})), ["spec.sink", "set ref, uri or both"]),
        (to(json!({"ref": service, "uri": "https://elsewhere.example.com/"})), ["spec.sink", "leave ref out"]),
        (to(json!({"ref": service, "uri": "//elsewhere.example.com/"})), ["spec.sink", "leave ref out"]),
        (to(json!({"uri": "/hooks"})), ["spec.sink", "must be absolute"]),
        (to(json!({"uri": "ftp://billing.example.com/"})), ["spec.sink", "http"]),
        (to(json!({"uri": "https://user:password@billing.example.com/"})), ["spec.sink", "without user or password"]),
        (to(json!({"ref": {"kind": "Service"}})), ["spec.sink.ref.name", "Required"]),
        (sink(&json!({})), ["spec", "set ref, uri or both"]),
        (sink(&json!({"ref": service, "uri": "http://elsewhere.example.com/"})), ["spec", "leave ref out"]),
        (
            sink(&json!({"ref": {"apiVersion": V1ALPHA1, "kind": "EventSink", "name": "billing"}})),
            ["spec", "an EventSink cannot refer to an EventSink"],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_has_one_format_and_one_way_to_be_authorized() {
    let with = |fields: Value| {
        let mut spec = json!({"uri": "https://billing.example.com/"});
        spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        sink(&spec)
    };
    let secret = json!({"secretKeyRef": {"name": "keys", "key": "key"}});
    let basic = json!({"username": {"value": "me"}, "password": secret});
    let client = json!({"tokenUrl": "https://auth.example.com/token", "clientId": secret, "clientSecret": secret});
    accepts([
        with(json!({"format": {"cloudEvents": {}}})),
        with(json!({"format": {"cloudEvents": {"mode": "Structured"}}})),
        with(json!({"format": {"hasura": {"triggerName": "insert_user"}}})),
        with(json!({"signing": {"standardWebhooks": [secret, secret]}, "CACerts": "PEM", "tls": {"ca": secret}})),
        with(json!({"auth": {"bearer": secret}, "headers": [{"name": "X-From", "value": "shop"}]})),
        with(json!({"auth": {"basic": basic}})),
        with(json!({"auth": {"oauth2ClientCredentials": client}})),
        with(json!({"auth": {"clientCertificate": {"secretRef": {"name": "tls"}}}, "headers": [{"name": "Authorization", "value": "x"}]})),
    ])
    .await;
    rejects([
        (with(json!({"format": {}})), ["spec.format", "exactly one of cloudEvents and hasura"]),
        (with(json!({"format": {"cloudEvents": {}, "hasura": {}}})), ["spec.format", "exactly one"]),
        (with(json!({"format": {"cloudEvents": {"mode": "Batched"}}})), ["spec.format.cloudEvents.mode", "Structured"]),
        (with(json!({"signing": {"standardWebhooks": []}})), ["spec.signing.standardWebhooks", "at least 1"]),
        (with(json!({"auth": {}})), ["spec.auth", "exactly one of bearer"]),
        (with(json!({"auth": {"bearer": secret, "basic": basic}})), ["spec.auth", "exactly one of bearer"]),
        (
            with(json!({"auth": {"bearer": secret}, "headers": [{"name": "authorization", "value": "x"}]})),
            ["spec", "Authorization is set by auth"],
        ),
        (
            with(json!({"headers": [{"name": "Webhook-Signature", "value": "x"}]})),
            ["spec.headers[0]", "set by the protocol"],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_names_operations_and_columns_once_and_in_one_way() {
    accepts([
        trigger("t", json!({})),
        trigger("t", json!({"on": {"insert": null, "delete": null, "update": {"columns": ["Status", "a b"]}}})),
        trigger("t", json!({"columns": {"include": ["id"]}, "suspend": true, "reclaimPolicy": "Retain"})),
    ])
    .await;
    rejects([
        (
            trigger("t", json!({"on": {"insert": null, "update": null, "delete": null}})),
            ["spec.on", "at least one of insert, update, delete and truncate"],
        ),
        (trigger("t", json!({"on": {"upsert": {}}})), ["on", "upsert"]),
        (trigger("t", json!({"on": {"update": {"columns": []}}})), ["spec.on.update.columns", "at least 1"]),
        (trigger("t", json!({"on": {"update": {"columns": ["a", "a"]}}})), ["spec.on.update.columns", "\"a\""]),
        (trigger("t", json!({"columns": {}})), ["spec.columns", "exactly one of include and exclude"]),
        (
            trigger("t", json!({"columns": {"include": ["a"], "exclude": ["b"]}})),
            ["spec.columns", "exactly one of include and exclude"],
        ),
        (trigger("t", json!({"table": {"name": ""}})), ["spec.table.name", "at least 1"]),
        (trigger("t", json!({"table": {"name": null}})), ["spec.table.name", "Required"]),
        (trigger("t", json!({"eventLogRef": null})), ["spec.eventLogRef", "Required"]),
        (trigger("t", json!({"when": "new.total > 100"})), ["when", "unknown"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_takes_durations_in_both_spellings_and_nothing_else() {
    accepts([
        trigger(
            "t",
            json!({"delivery": {"retry": 0, "backoffPolicy": "linear", "backoffDelay": "PT0.5S", "timeout": "1m30s"}}),
        ),
        trigger(
            "t",
            json!({"delivery": {"deadLetterSink": {"ref": {"kind": "EventSink", "name": "dead"}, "uri": "/x"}}}),
        ),
        trigger(
            "t",
            json!({"delivery": {"backoffPolicy": "exponential", "backoffDelay": "200ms", "backoffMax": "PT5M"}}),
        ),
    ])
    .await;
    rejects([
        (trigger("t", json!({"delivery": {"retry": -1}})), ["spec.delivery.retry", "0"]),
        (
            trigger("t", json!({"delivery": {"deadLetterSink": {}}})),
            ["spec.delivery.deadLetterSink", "set ref, uri or both"],
        ),
        (trigger("t", json!({"delivery": {"backoffPolicy": "constant"}})), ["spec.delivery.backoffPolicy", "linear"]),
        (
            trigger("t", json!({"delivery": {"backoffDelay": "soon"}})),
            ["spec.delivery.backoffDelay", "write a duration as"],
        ),
        (
            trigger("t", json!({"delivery": {"backoffDelay": "-1s"}})),
            ["spec.delivery.backoffDelay", "write a duration as"],
        ),
        (trigger("t", json!({"delivery": {"timeout": "30"}})), ["spec.delivery.timeout", "write a duration as"]),
        (trigger("t", json!({"delivery": {"timeout": 30}})), ["spec.delivery.timeout", "string"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sinks_headers_have_one_value_and_no_name_of_the_protocols() {
    let with = |headers: Value| sink(&json!({"uri": "https://billing.example.com/", "headers": headers}));
    accepts([with(json!([
        {"name": "X-Team", "value": ""},
        {"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "billing", "key": "token"}}},
    ]))])
    .await;
    rejects([
        (with(json!([{"name": "X-Team"}])), ["spec.headers[0]", "exactly one of value and valueFrom"]),
        (with(json!([{"name": "CE-Id", "value": "1"}])), ["spec.headers[0]", "set by the protocol"]),
        (with(json!([{"name": "Content-Type", "value": "text/plain"}])), ["spec.headers[0]", "set by the protocol"]),
        (with(json!([{"name": "X Team", "value": "a"}])), ["spec.headers[0].name", "X Team"]),
        (with(json!([{"name": "X-Team", "value": "a\r\nX-Other: b"}])), ["spec.headers[0].value", "X-Other"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_the_log_and_the_table_cannot_be_changed_later() {
    let scene = super::scene::Scene::new("immutable").await;
    scene.log(json!({})).await;
    scene.trigger("t", json!({})).await;
    for (object, words) in [
        (log(json!({"schema": "other"})), ["spec.schema", "immutable"]),
        (trigger("t", json!({"table": {"name": "other"}})), ["spec.table", "immutable"]),
        (trigger("t", json!({"eventLogRef": {"name": "other"}})), ["spec.eventLogRef", "immutable"]),
    ] {
        let refusal = scene.cluster.dry_run(&scene.namespace, &object).await.expect_err("it is taken").to_string();
        assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_taken() {
    let cluster = Cluster::connect().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("config/samples").map(|entry| entry.expect("an entry").path()) {
        if entry.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for object in manifests(&std::fs::read_to_string(&entry).expect("a sample")) {
            if object["apiVersion"] != V1ALPHA1 {
                continue;
            }
            // Its own namespace may not exist here.
            let mut object = object;
            object["metadata"]["namespace"] = json!("default");
            let taken = cluster.dry_run_create("default", &object).await;
            taken.unwrap_or_else(|error| panic!("{}: {error}", entry.display()));
            seen += 1;
        }
    }
    assert!(seen > 0, "no sample in {}", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_ones_own_have_names_that_an_event_has_not() {
    let with = |extensions: Value| trigger("overrides", json!({"ceOverrides": {"extensions": extensions}}));
    accepts([with(json!({"region": "eu", "team1": "billing"}))]).await;
    rejects([
        (with(json!({"type": "x"})), ["ceOverrides.extensions", "has that attribute already"]),
        (with(json!({"partitionkey": "x"})), ["ceOverrides.extensions", "has that attribute already"]),
        (with(json!({"Region": "eu"})), ["ceOverrides.extensions", "1 to 20 lower-case letters and digits"]),
        (with(json!({"region": ""})), ["ceOverrides.extensions.region", "at least 1"]),
    ])
    .await;
}
