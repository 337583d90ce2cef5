//! What `kstatus`, Argo CD and Flux make of our statuses, each by its own means: library, Lua, expressions.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use mlua::LuaSerdeExt as _;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    cluster::{eventually, text},
    scene::{OPERATOR, OPERATOR_NAMESPACE, ORDERS, PATIENCE, Scene, V1ALPHA1},
};

const TRIGGER: &str = "order-changed";

/// What a tool says of an object, by the words that all three have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Health {
    Current,
    InProgress,
    Failed,
}

/// By the library that Flux, Helm and cli-utils use. `make test` builds the program.
async fn kstatus(object: &Value) -> Health {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/e2e/kstatus");
    let mut run = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; e2e/judges.sh builds it"));
    let mut input = run.stdin.take().expect("its input");
    input.write_all(object.to_string().as_bytes()).await.expect("write an object");
    drop(input);
    let output = run.wait_with_output().await.expect("its output");
    assert!(output.status.success(), "kstatus failed on {object}");
    let said = String::from_utf8_lossy(&output.stdout);
    match said.split_whitespace().next() {
        Some("Current") => Health::Current,
        Some("InProgress") => Health::InProgress,
        Some("Failed") => Health::Failed,
        _ => panic!("kstatus says {said:?} of {object}"),
    }
}

/// What Argo CD shows, by the script that is to be put into its `ConfigMap`.
fn argo_cd(object: &Value) -> String {
    let config: Value = serde_saphyr::from_str(include_str!("../../../config/gitops/argocd-cm.yaml")).expect("YAML");
    let key = format!("resource.customizations.health.eventtrigger.dev_{}", text(object, "/kind"));
    let script = config["data"][&key].as_str().unwrap_or_else(|| panic!("no {key}"));
    // As Argo CD does it: without the libraries of Lua that reach outside.
    let lua = mlua::Lua::new_with(mlua::StdLib::TABLE | mlua::StdLib::STRING, mlua::LuaOptions::new()).expect("Lua");
    let object = lua.to_value(object).expect("an object of Lua");
    lua.globals().set("obj", object).expect("a variable");
    let health: mlua::Table = lua.load(script).eval().unwrap_or_else(|error| panic!("{error}"));
    assert!(!health.get::<String>("message").expect("a message").is_empty());
    health.get("status").expect("a status")
}

/// What a Kustomization of Flux waits for, in the order in which it asks.
fn flux(object: &Value) -> Health {
    let kustomization: Value = serde_saphyr::from_str(include_str!("../../../config/gitops/flux.yaml")).expect("YAML");
    let checks = kustomization["spec"]["healthCheckExprs"].as_array().expect("expressions");
    let kind = |check: &&Value| check["kind"] == object["kind"] && check["apiVersion"] == object["apiVersion"];
    let check = checks.iter().find(kind).expect("one for the kind");
    let holds = |name: &str| {
        let program = cel::Program::compile(check[name].as_str().expect("an expression")).expect("CEL");
        let mut context = cel::Context::default();
        for part in ["metadata", "spec", "status"] {
            context.add_variable(part, &object[part]).expect("a variable");
        }
        match program.execute(&context) {
            Ok(cel::Value::Bool(holds)) => holds,
            other => panic!("{name}: {other:?} of {object}"),
        }
    };
    match () {
        () if holds("inProgress") => Health::InProgress,
        () if holds("failed") => Health::Failed,
        () if holds("current") => Health::Current,
        () => Health::InProgress,
    }
}

/// Waits until all three say what they should.
async fn healthy(scene: &Scene, kind: &str, name: &str, health: Health, argo: &str) {
    eventually(PATIENCE, &format!("{kind} {name} to be {health:?} and {argo}"), async || {
        let object = scene.cluster.get(&scene.namespace, V1ALPHA1, kind, name).await.ok_or("it does not exist")?;
        let said = (kstatus(&object).await, flux(&object), argo_cd(&object));
        if said == (health, health, argo.to_owned()) { Ok(()) } else { Err(format!("{said:?} {}", object["status"])) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kstatus_argo_cd_and_flux_agree_with_our_conditions_in_any_order_of_creation() {
    let scene = Scene::new("gitops").await;
    // The trigger first: nothing that it needs is there, and it is told what.
    scene.sink("billing", json!({"uri": "https://billing.example.com/"})).await;
    scene.trigger(TRIGGER, json!({})).await;
    healthy(&scene, "EventSink", "billing", Health::Current, "Healthy").await;
    healthy(&scene, "EventTrigger", TRIGGER, Health::Failed, "Degraded").await;
    // Then what it needs, and the table last: it finds them by itself.
    scene.log(json!({})).await;
    healthy(&scene, "EventLog", "shop", Health::Current, "Healthy").await;
    scene.run(ORDERS).await;
    healthy(&scene, "EventTrigger", TRIGGER, Health::Current, "Healthy").await;
    scene.trigger(TRIGGER, json!({"suspend": true})).await;
    healthy(&scene, "EventTrigger", TRIGGER, Health::Current, "Suspended").await;
    // What nobody has looked at yet is in progress: its generation, and after it was made.
    let mut object = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventTrigger", TRIGGER).await.expect("the trigger");
    object["metadata"]["generation"] = json!(99);
    assert_eq!((kstatus(&object).await, flux(&object)), (Health::InProgress, Health::InProgress));
    assert_eq!(argo_cd(&object), "Progressing");
    object["status"] = json!({"observedGeneration": -1, "conditions": []});
    assert_eq!((kstatus(&object).await, flux(&object)), (Health::InProgress, Health::InProgress));
    assert_eq!(argo_cd(&object), "Progressing");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_same_again_changes_nothing() {
    let scene = Scene::new("again").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.sink("billing", json!({"uri": "https://billing.example.com/"})).await;
    scene.trigger(TRIGGER, json!({})).await;
    let kinds = [("EventLog", "shop"), ("EventSink", "billing"), ("EventTrigger", TRIGGER)];
    let versions = async || {
        let mut versions = Vec::new();
        for (kind, name) in kinds {
            let object = scene.ready(kind, name).await;
            versions.push(object["metadata"]["resourceVersion"].clone());
        }
        versions
    };
    // Ready is not all that a status says: the first workers are counted a moment later.
    let mut before = versions().await;
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = versions().await;
        if now == before {
            break;
        }
        before = now;
    }
    scene.log(json!({})).await;
    scene.sink("billing", json!({"uri": "https://billing.example.com/"})).await;
    scene.trigger(TRIGGER, json!({})).await;
    // A controller that wrote something would have by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(before, versions().await);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_at_once_leaves_nothing_hanging() {
    let scene = Scene::new("whole").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger(TRIGGER, json!({})).await;
    scene.ready("EventTrigger", TRIGGER).await;
    gone(&scene, &scene.namespace).await;
    let left = scene.database.query_one("SELECT to_regnamespace('eventlog') IS NOT NULL", &[]).await.expect("a query");
    assert!(!left.get::<_, bool>(0), "reclaimPolicy Delete takes the log away, though the Secret went too");
}

/// How long a deletion waits for what only a person could bring back, with room.
const GIVES_UP: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_after_its_database_is_gone_leaves_nothing_hanging() {
    let scene = Scene::with_own_server("orphan").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger(TRIGGER, json!({})).await;
    // One that stays waits for its triggers before it lets go of the database.
    let spec = json!({
        "connection": {"uri": {"secretKeyRef": {"name": "database", "key": "uri"}}},
        "schema": "kept", "reclaimPolicy": "Retain",
    });
    let kept = json!({"apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": {"name": "kept"}, "spec": spec});
    scene.apply(kept).await;
    scene.trigger("kept", json!({"eventLogRef": {"name": "kept"}})).await;
    scene.ready("EventTrigger", TRIGGER).await;
    scene.ready("EventTrigger", "kept").await;
    gone(&scene, &scene.server).await;
    scene.cluster.forget(&scene.namespace).await;
    let began = Instant::now();
    eventually(GIVES_UP, "the namespace to be gone", async || away(&scene, &scene.namespace).await).await;
    println!("the namespace was gone after {:.0} s", began.elapsed().as_secs_f64());
    // No Event outlives the namespace: what is left in a database is told by the controller's log.
    let said = scene.cluster.logs(OPERATOR_NAMESPACE, OPERATOR).await;
    for name in ["shop", TRIGGER, "kept"] {
        let name = format!("{}/{name}", scene.namespace);
        let told = said.lines().any(|line| line.contains(&name) && line.contains("left in place"));
        assert!(told, "nothing is told of {name}: {said}");
    }
}

/// Deletes a namespace and waits until it is gone.
async fn gone(scene: &Scene, namespace: &str) {
    scene.cluster.forget(namespace).await;
    eventually(PATIENCE, "the namespace to be gone", async || away(scene, namespace).await).await;
}

async fn away(scene: &Scene, namespace: &str) -> Result<(), String> {
    let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(scene.cluster.client.clone());
    match namespaces.get_opt(namespace).await.map_err(|error| error.to_string())? {
        None => Ok(()),
        Some(namespace) => Err(json!(namespace.status).to_string()),
    }
}
