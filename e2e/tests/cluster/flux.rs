//! Flux's real kustomize-controller applies a folder of ours and waits for it. e2e/flux/build.sh builds it.
//!
//! Where its source comes from is not the point: a `GitRepository` whose status is written here, as source-controller would, and
//! whose archive is served here.

use std::{collections::BTreeMap, process::Stdio, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::RwLock,
};

use super::{
    cluster::{eventually, manifests, text},
    scene::{ORDERS, PATIENCE, Scene, V1ALPHA1, condition_of, trigger},
};

const SOURCE: &str = "source.toolkit.fluxcd.io/v1";
const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/v1";
/// Of source-controller. It is not here, so its kinds are bare.
const SOURCES: [(&str, &str); 3] =
    [("GitRepository", "gitrepositories"), ("OCIRepository", "ocirepositories"), ("Bucket", "buckets")];

type Archives = Arc<RwLock<BTreeMap<String, Vec<u8>>>>;

/// A repository that Flux can fetch.
struct Repository<'a> {
    scene: &'a Scene,
    address: String,
    archives: Archives,
}

impl<'a> Repository<'a> {
    async fn serve(scene: &'a Scene) -> Self {
        let archives = Archives::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen on the loopback");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let serve = async |State(archives): State<Archives>, Path(name): Path<String>| {
            archives.read().await.get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
        };
        let app = Router::new().route("/{name}", axum::routing::get(serve)).with_state(archives.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let spec = json!({"url": "https://git.example.com/shop", "interval": "1h"});
        let object = json!({"apiVersion": SOURCE, "kind": "GitRepository", "metadata": {"name": "shop"}, "spec": spec});
        scene.apply(object).await;
        Self { scene, address, archives }
    }

    /// Makes these files the newest revision of the folder `shop`.
    async fn push(&self, number: u32, objects: &[Value]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("shop")).expect("a folder");
        for (n, object) in objects.iter().enumerate() {
            std::fs::write(folder.path().join(format!("shop/{n}.yaml")), object.to_string()).expect("write a file");
        }
        let name = format!("{number}.tar.gz");
        let file = folder.path().join(&name);
        let run = async |command: &mut Command| {
            let output = command.output().await.expect("start a program");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(Command::new("tar").arg("-C").arg(folder.path()).arg("-czf").arg(&file).arg("shop")).await;
        let digest = run(Command::new("sha256sum").arg(&file)).await;
        let digest = digest.split_whitespace().next().expect("a digest");
        let archive = std::fs::read(&file).expect("the archive");
        let size = archive.len();
        self.archives.write().await.insert(name.clone(), archive);
        let (now, revision) = (jiff::Timestamp::now().to_string(), format!("main@sha1:{number:040x}"));
        let status = json!({
            "observedGeneration": 1,
            "artifact": {
                "url": format!("{}/{name}", self.address), "path": name, "revision": revision,
                "digest": format!("sha256:{digest}"), "size": size, "lastUpdateTime": now,
            },
            "conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": now,
                "observedGeneration": 1}],
        });
        self.scene.cluster.set_status(&self.scene.namespace, SOURCE, "GitRepository", "shop", status).await;
        revision
    }

    /// Waits until the Kustomization says this of its readiness, for a revision. Flux writes conditions before the rest of a status.
    async fn says(&self, revision: &str, status: &str, reason: &str) -> Value {
        let what = format!("the Kustomization to be {status} ({reason}) at {revision}");
        eventually(PATIENCE, &what, async || {
            let found = self.scene.cluster.get(&self.scene.namespace, KUSTOMIZE, "Kustomization", "shop").await;
            let found = found.ok_or("it does not exist")?;
            let ready = condition_of(&found, "Ready").cloned().unwrap_or_default();
            let attempted = text(&found, "/status/lastAttemptedRevision") == revision;
            let applied = status != "True" || text(&found, "/status/lastAppliedRevision") == revision;
            if attempted && applied && ready["status"] == status && ready["reason"] == reason {
                Ok(found)
            } else {
                Err(found["status"].to_string())
            }
        })
        .await
    }
}

const CRD: (&str, &str) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");

/// Makes the kinds that it works with, unless the cluster has them; returns those that were made.
async fn kinds(scene: &Scene) -> Vec<String> {
    let mut made = Vec::new();
    let crd = |plural: &str, group: &str| format!("{plural}.{group}.toolkit.fluxcd.io");
    let has = async |name: &str| scene.cluster.get("", CRD.0, CRD.1, name).await.is_some();
    for (kind, plural) in SOURCES {
        let name = crd(plural, "source");
        if has(&name).await {
            continue;
        }
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let object = json!({
            "apiVersion": CRD.0, "kind": CRD.1, "metadata": {"name": name},
            "spec": {
                "group": "source.toolkit.fluxcd.io", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema}}],
            },
        });
        scene.cluster.apply("", &object).await.expect("make a kind");
        made.push(name);
    }
    let kustomizations = crd("kustomizations", "kustomize");
    if !has(&kustomizations).await {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/e2e/kustomize-controller.yaml");
        let yaml = std::fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("{file}: {error}; e2e/flux/build.sh builds it"));
        scene.cluster.apply_manifests("", &yaml).await;
        made.push(kustomizations);
    }
    eventually(PATIENCE, "the kinds to be served", async || {
        let path = http::Request::get(format!("/apis/{KUSTOMIZE}")).body(Vec::new()).expect("a request");
        let sources = http::Request::get(format!("/apis/{SOURCE}")).body(Vec::new()).expect("a request");
        let found: Value = scene.cluster.client.request(path).await.map_err(|error| error.to_string())?;
        let sources: Value = scene.cluster.client.request(sources).await.map_err(|error| error.to_string())?;
        let all = found["resources"].to_string() + &sources["resources"].to_string();
        let missing = SOURCES.iter().map(|(kind, _)| *kind).chain(["Kustomization"]).find(|kind| !all.contains(kind));
        missing.map_or(Ok(()), |kind| Err(format!("no {kind}")))
    })
    .await;
    made
}

/// It runs beside the test, with the test's own rights, and looks at the test's namespace only.
fn start(scene: &Scene) -> Child {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/e2e/kustomize-controller");
    let mut command = Command::new(program);
    command
        .args(["--watch-all-namespaces=false", "--enable-leader-election=false", "--metrics-addr=127.0.0.1:0"])
        .args(["--health-addr=127.0.0.1:0", "--log-level=debug"])
        .env("RUNTIME_NAMESPACE", &scene.namespace)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; e2e/flux/build.sh builds it"))
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_applies_a_folder_waits_for_it_fails_fast_and_prunes() {
    let scene = Scene::new("flux").await;
    scene.run(ORDERS).await;
    let made = kinds(&scene).await;
    let _controller = start(&scene);
    let repository = Repository::serve(&scene).await;
    let log = json!({
        "apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": {"name": "shop"},
        "spec": {"connection": {"uri": {"secretKeyRef": {"name": "database", "key": "uri"}}}, "reclaimPolicy": "Delete"},
    });
    let sink = json!({
        "apiVersion": V1ALPHA1, "kind": "EventSink", "metadata": {"name": "billing"},
        "spec": {"uri": "https://billing.example.com/"},
    });
    let mut kustomization = manifests(include_str!("../../../config/gitops/flux.yaml")).remove(0);
    kustomization["metadata"] = json!({"name": "shop"});
    kustomization["spec"]["targetNamespace"] = json!(scene.namespace);
    kustomization["spec"]["retryInterval"] = json!("5s");
    let first = repository.push(1, &[log.clone(), sink.clone(), trigger("order-changed", json!({}))]).await;
    scene.apply(kustomization).await;
    let ready = repository.says(&first, "True", "ReconciliationSucceeded").await;
    let inventory = ready["status"]["inventory"]["entries"].as_array().map_or(0, Vec::len);
    assert_eq!(inventory, 3, "{}", ready["status"]);
    // It waited: all of them are ready by now.
    for (kind, name) in [("EventLog", "shop"), ("EventSink", "billing"), ("EventTrigger", "order-changed")] {
        let object = scene.cluster.get(&scene.namespace, V1ALPHA1, kind, name).await.expect("it was applied");
        assert_eq!(condition_of(&object, "Ready").expect("a condition")["status"], "True", "{kind}");
    }
    // What somebody must mend fails at once, not after the Kustomization's timeout of 5 min.
    let wrong = trigger("order-changed", json!({"on": {"update": {"columns": ["statsu"]}}}));
    let second = repository.push(2, &[log.clone(), sink.clone(), wrong]).await;
    let failed = repository.says(&second, "False", "HealthCheckFailed").await;
    assert!(condition_of(&failed, "Ready").expect("a condition")["message"].to_string().contains("order-changed"));
    // What is in the folder no more is pruned, with its finalizer.
    let third = repository.push(3, &[log, sink]).await;
    repository.says(&third, "True", "ReconciliationSucceeded").await;
    eventually(PATIENCE, "the EventTrigger to be pruned", async || {
        match scene.cluster.get(&scene.namespace, V1ALPHA1, "EventTrigger", "order-changed").await {
            None => Ok(()),
            Some(object) => Err(object["metadata"].to_string()),
        }
    })
    .await;
    scene.cluster.delete(&scene.namespace, KUSTOMIZE, "Kustomization", "shop").await;
    for name in made {
        scene.cluster.delete("", CRD.0, CRD.1, &name).await;
    }
    scene.end().await;
}
