//! The cluster that the kubeconfig names: objects as a user applies and reads them.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch, PatchParams},
    discovery::{Scope, pinned_kind},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// Who these tests are in `managedFields`.
const FIELD_MANAGER: &str = "eventtrigger-e2e";
/// How often a condition is looked at while it is waited for.
const PERIOD: Duration = Duration::from_millis(100);

/// The cluster of this test.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
}

impl Cluster {
    /// Fails if there is none: a test that cannot run has not passed.
    pub async fn connect() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await.unwrap_or_else(|error| {
            panic!("no cluster: {error}. Set KUBECONFIG to one, or run `make test`, which brings up its own")
        });
        client.apiserver_version().await.unwrap_or_else(|error| panic!("the cluster does not answer: {error}"));
        Self { client }
    }

    /// Objects of an object's kind, in its namespace or else in `namespace`.
    async fn api_of(&self, object: &Value, namespace: &str) -> Result<Api<DynamicObject>, kube::Error> {
        let (api_version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (resource, capabilities) = pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await?;
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => {
                let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(namespace);
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        })
    }

    /// Objects of a kind that must be there.
    async fn api(&self, namespace: &str, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let object = json!({"apiVersion": api_version, "kind": kind});
        self.api_of(&object, namespace).await.unwrap_or_else(|error| panic!("no kind {kind} in {api_version}: {error}"))
    }

    /// `kubectl apply --server-side`, with the strict validation that kubectl asks for.
    pub async fn apply(&self, namespace: &str, object: &Value) -> Result<DynamicObject, kube::Error> {
        self.patch(namespace, object, PatchParams::apply(FIELD_MANAGER)).await
    }

    /// `kubectl apply --dry-run=server` of an object that is not there yet: what kubectl sends by default.
    pub async fn dry_run_create(&self, namespace: &str, object: &Value) -> Result<Value, kube::Error> {
        let resource = self.api_of(object, namespace).await?;
        let url = format!("{}?dryRun=All&fieldValidation=Strict&fieldManager={FIELD_MANAGER}", resource.resource_url());
        let body = serde_json::to_vec(object).expect("an object is JSON");
        let request = http::Request::post(url).header("content-type", "application/json").body(body);
        self.client.request(request.expect("a request")).await
    }

    /// `kubectl apply --server-side --dry-run=server`.
    pub async fn dry_run(&self, namespace: &str, object: &Value) -> Result<DynamicObject, kube::Error> {
        self.patch(namespace, object, PatchParams::apply(FIELD_MANAGER).dry_run()).await
    }

    async fn patch(&self, namespace: &str, object: &Value, params: PatchParams) -> Result<DynamicObject, kube::Error> {
        let api = self.api_of(object, namespace).await?;
        api.patch(text(object, "/metadata/name"), &params.force().validation_strict(), &Patch::Apply(object)).await
    }

    /// Writes a status, as the controller of another project would.
    pub async fn set_status(&self, namespace: &str, api_version: &str, kind: &str, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let written =
            self.api(namespace, api_version, kind).await.patch_status(name, &PatchParams::default(), &patch).await;
        written.unwrap_or_else(|error| panic!("failed to write the status of {kind} {name}: {error}"));
    }

    /// Every object of a file of manifests.
    pub async fn apply_manifests(&self, namespace: &str, yaml: &str) {
        for object in manifests(yaml) {
            let applied = self.apply(namespace, &object).await;
            applied.unwrap_or_else(|error| panic!("failed to apply {}: {error}", text(&object, "/metadata/name")));
        }
    }

    /// An object as JSON, if it exists.
    pub async fn get(&self, namespace: &str, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        let found = self.api(namespace, api_version, kind).await.get_opt(name).await;
        found.unwrap_or_else(|error| panic!("failed to get {kind} {name}: {error}")).map(to_json)
    }

    /// All objects of a kind in a namespace.
    pub async fn list(&self, namespace: &str, api_version: &str, kind: &str) -> Vec<Value> {
        let found = self.api(namespace, api_version, kind).await.list(&ListParams::default()).await;
        found.unwrap_or_else(|error| panic!("failed to list {kind}: {error}")).items.into_iter().map(to_json).collect()
    }

    /// Deletes an object, and waits until it is gone; another of its name may be there by then.
    pub async fn delete(&self, namespace: &str, api_version: &str, kind: &str, name: &str) {
        let api = self.api(namespace, api_version, kind).await;
        let found = api.get_opt(name).await.unwrap_or_else(|error| panic!("failed to get {kind} {name}: {error}"));
        let uid = found.and_then(|found| found.uid());
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            deleted => drop(deleted.unwrap_or_else(|error| panic!("failed to delete {kind} {name}: {error}"))),
        }
        eventually(Duration::from_secs(30), &format!("{kind} {name} to be gone"), async || {
            match api.get_opt(name).await.map_err(|error| error.to_string())? {
                Some(left) if left.uid() == uid => Err(format!("finalizers {:?}", left.finalizers())),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// Deletes a namespace, with all that is in it; does not wait until it is gone.
    pub async fn forget(&self, namespace: &str) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces.delete(namespace, &DeleteParams::default()).await.expect("delete the namespace");
    }

    /// Kills a pod: no grace, no goodbye. Returns the UIDs of those killed.
    pub async fn kill_pods(&self, namespace: &str, selector: &str) -> Vec<String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let found = pods.list(&ListParams::default().labels(selector)).await.expect("list pods");
        assert!(!found.items.is_empty(), "no pod with {selector} in {namespace}");
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for pod in &found {
            pods.delete(&pod.name_any(), &now).await.expect("delete a pod");
        }
        found.iter().filter_map(ResourceExt::uid).collect()
    }

    /// The first ready pod with these labels.
    pub async fn ready_pod(&self, namespace: &str, selector: &str) -> Result<Pod, String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let found = pods.list(&ListParams::default().labels(selector)).await.map_err(|error| error.to_string())?;
        let count = found.items.len();
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready = conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"));
            ready && pod.metadata.deletion_timestamp.is_none()
        };
        let ready = found.items.into_iter().find(is_ready);
        ready.ok_or_else(|| format!("none of {count} pods with {selector} in {namespace} is ready"))
    }

    /// What the pods with these labels have said.
    pub async fn logs(&self, namespace: &str, selector: &str) -> String {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut all = String::new();
        for pod in pods.list(&ListParams::default().labels(selector)).await.expect("list pods") {
            // A pod that has not started yet has said nothing.
            all += &pods.logs(&pod.name_any(), &LogParams::default()).await.unwrap_or_default();
        }
        all
    }

    /// Runs a program in a pod; returns what it wrote.
    pub async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut process = pods.exec(pod, command.iter().copied(), &params).await.map_err(|error| error.to_string())?;
        let (mut out, mut err) = (String::new(), String::new());
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        let (mut stdout, mut stderr) = (stdout.ok_or("no stdout")?, stderr.ok_or("no stderr")?);
        let (read_out, read_err) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        read_out.and(read_err).map_err(|error| error.to_string())?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        match status.and_then(|status| status.status) {
            Some(status) if status == "Success" => Ok(out),
            status => Err(format!("{command:?} ended with {status:?}: {err}")),
        }
    }
}

/// The objects of a file of manifests.
pub fn manifests(yaml: &str) -> Vec<Value> {
    let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(yaml).expect("manifests are YAML");
    objects.into_iter().flatten().collect()
}

/// The blocks of a page in a language.
pub fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn to_json(object: DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}

/// A text inside an object; empty if it is not there.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Waits until `look` finds what it looks for. `what` and the last reason of `look` are told if it does not.
pub async fn eventually<T, E: Display>(deadline: Duration, what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    match within(deadline, look).await {
        Ok(found) => found,
        Err(why) => panic!("waited {deadline:?} for {what}; at last: {why}"),
    }
}

/// The same; the last reason of `look` if it finds nothing in time.
pub async fn within<T, E>(deadline: Duration, mut look: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Err(_) if Instant::now() <= end => tokio::time::sleep(PERIOD).await,
            found => return found,
        }
    }
}
