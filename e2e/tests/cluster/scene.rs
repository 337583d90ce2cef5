//! What each test stands on: a namespace of its own, a database of its own, a receiver, and an EventLog.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use eventtrigger_e2e::{control::Control, ledger::Verdict, record::Record, writer};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_postgres::Client;

use super::{
    cluster::{Cluster, eventually, text, within},
    forward::forward,
};

/// Where the server is that tests share; each has its own database in it.
const SHARED: &str = "eventtrigger-e2e";
/// The kinds' API version.
pub const V1ALPHA1: &str = "eventtrigger.dev/v1alpha1";
/// Where `config/default` puts the operator.
pub const OPERATOR_NAMESPACE: &str = "eventtrigger-system";
/// The operator's pods.
pub const OPERATOR: &str = "app.kubernetes.io/name=eventtrigger,app.kubernetes.io/component=controller";
/// How long what a user waits for may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Lines of the controllers' log that a failure is told with.
const SAID: usize = 60;
/// The table that most tests write to. The columns that the writer needs, and one that nobody should see.
pub const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, status text NOT NULL, \
    total numeric(10, 2) NOT NULL, version bigint NOT NULL, card_number text)";
/// PostgreSQL's pods.
pub const POSTGRES: &str = "app.kubernetes.io/name=postgres";

/// Tests that stop what others use have the cluster for themselves.
static TURN: RwLock<()> = RwLock::const_new(());

/// Whether a test lets others run beside it. It is held, never read.
#[expect(dead_code, reason = "held for as long as the test runs")]
enum Turn {
    Together(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A test's surroundings.
pub struct Scene {
    pub cluster: Cluster,
    pub namespace: String,
    /// The application's database, as its owner, who is no superuser.
    pub config: tokio_postgres::Config,
    pub database: Client,
    pub receiver: Control,
    /// The server's own namespace.
    pub server: String,
    _turn: Turn,
}

impl Scene {
    /// With the server that all share.
    pub async fn new(name: &str) -> Self {
        let turn = Turn::Together(TURN.read().await);
        let cluster = Cluster::connect().await;
        shared_server(&cluster).await;
        Self::set(cluster, name, SHARED.to_owned(), turn).await
    }

    /// Without other tests beside it.
    pub async fn alone(name: &str) -> Self {
        let turn = Turn::Alone(TURN.write().await);
        let cluster = Cluster::connect().await;
        shared_server(&cluster).await;
        Self::set(cluster, name, SHARED.to_owned(), turn).await
    }

    /// With a server of its own, that the test may kill.
    pub async fn with_own_server(name: &str) -> Self {
        let turn = Turn::Together(TURN.read().await);
        let cluster = Cluster::connect().await;
        let server = unique(&format!("{name}-server"));
        namespace(&cluster, &server).await;
        serve(&cluster, &server).await;
        Self::set(cluster, name, server, turn).await
    }

    async fn set(cluster: Cluster, name: &str, server: String, turn: Turn) -> Self {
        let namespace = unique(name);
        self::namespace(&cluster, &namespace).await;
        let database = create_database(&cluster, &server, &namespace);
        let receiver = receive(&cluster, &namespace);
        let ((mut config, uri), receiver) = tokio::join!(database, receiver);
        let address = forward(&cluster, &server, POSTGRES, 5432).await;
        config.host(address.ip().to_string()).port(address.port());
        let client =
            eventually(PATIENCE, "a connection to the database", async || writer::connect(&config).await).await;
        let scene = Self { cluster, namespace, config, database: client, receiver, server, _turn: turn };
        scene.secret("database", &[("uri", &uri)]).await;
        scene
    }

    /// Another namespace beside the test's, with nothing in it.
    pub async fn beside(&self, name: &str) -> String {
        let name = unique(name);
        namespace(&self.cluster, &name).await;
        name
    }

    /// Applies an object in the test's namespace.
    pub async fn apply(&self, object: Value) {
        let applied = self.cluster.apply(&self.namespace, &object).await;
        applied.unwrap_or_else(|error| panic!("failed to apply {object}: {error}"));
    }

    /// Makes or changes a Secret.
    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: serde_json::Map<_, _> = data.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
        self.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})).await;
    }

    /// Applies an EventLog called `shop` on the test's database; `more` is laid over its spec.
    pub async fn log(&self, more: Value) {
        let mut spec = json!({
            "connection": {"uri": {"secretKeyRef": {"name": "database", "key": "uri"}}},
            "reclaimPolicy": "Delete",
        });
        merge(&mut spec, more);
        self.apply(json!({"apiVersion": V1ALPHA1, "kind": "EventLog", "metadata": {"name": "shop"}, "spec": spec}))
            .await;
    }

    /// Applies an EventTrigger on public.orders that sends everything to the receiver; `more` is laid over its spec.
    pub async fn trigger(&self, name: &str, more: Value) {
        self.apply(trigger(name, more)).await;
    }

    /// Applies an EventSink.
    pub async fn sink(&self, name: &str, spec: Value) {
        self.apply(json!({"apiVersion": V1ALPHA1, "kind": "EventSink", "metadata": {"name": name}, "spec": spec}))
            .await;
    }

    /// Waits until an object says that it is ready, for this generation.
    pub async fn ready(&self, kind: &str, name: &str) -> Value {
        self.condition(kind, name, "Ready", |condition| condition["status"] == "True").await
    }

    /// Waits until an object is not ready for `reason`, with a message that has all of `words`.
    pub async fn refused(&self, kind: &str, name: &str, reason: &str, words: &[&str]) {
        self.condition(kind, name, "Ready", |found| {
            let said = words.iter().all(|word| text(found, "/message").contains(word));
            found["status"] == "False" && found["reason"] == reason && said
        })
        .await;
    }

    /// Waits until a condition of the newest generation is as wanted; returns the object. If it does not come, what the
    /// controller said is told, too: nobody can ask it any more when the whole run is over.
    pub async fn condition(&self, kind: &str, name: &str, condition: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = within(PATIENCE, async || {
            let object = self.cluster.get(&self.namespace, V1ALPHA1, kind, name).await.ok_or("it does not exist")?;
            let found = condition_of(&object, condition).cloned().unwrap_or_default();
            let is_current = found["observedGeneration"] == object["metadata"]["generation"];
            if is_current && wanted(&found) { Ok(object) } else { Err(object.to_string()) }
        });
        match found.await {
            Ok(object) => object,
            Err(why) => {
                let said = self.cluster.logs(OPERATOR_NAMESPACE, OPERATOR).await;
                let lines: Vec<_> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(SAID)..].join("\n");
                let what = format!("{condition} of {kind} {name} in {}", self.namespace);
                panic!("waited {PATIENCE:?} for {what}; at last: {why}\nthe controllers said last:\n{last}");
            }
        }
    }

    /// Connects to the database again, after its server was away.
    pub async fn reconnect(&mut self) {
        let config = self.config.clone();
        let connected = eventually(PATIENCE, "a connection to the database", async || writer::connect(&config).await);
        self.database = connected.await;
    }

    /// Runs a script as the owner of the database.
    pub async fn run(&self, sql: &str) {
        self.database.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs a script as the server's superuser in the test's database.
    pub async fn run_as_superuser(&self, sql: &str) -> String {
        let dbname = self.config.get_dbname().expect("a database");
        psql(&self.cluster, &self.server, dbname, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Fails if a secret's value stands in a status, an Event, a `ConfigMap`, a pod's specification or log, or the log's schema.
    pub async fn secret_is_nowhere(&self, values: &[&str]) {
        let mut places = Vec::new();
        for (api_version, kind) in [
            (V1ALPHA1, "EventLog"),
            (V1ALPHA1, "EventSink"),
            (V1ALPHA1, "EventTrigger"),
            ("v1", "Event"),
            ("v1", "ConfigMap"),
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
        ] {
            let found = self.cluster.list(&self.namespace, api_version, kind).await;
            places.push((kind.to_owned(), Value::from(found).to_string()));
        }
        for table in ["meta", "trigger", "capture", "cursor", "lease", "obstacle", "parked", "dead_letter", "event"] {
            let sql = format!("SELECT string_agg(to_jsonb(t)::text, '') FROM eventlog.{table} t");
            let row = self.database.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            places.push((table.to_owned(), row.get::<_, Option<String>>(0).unwrap_or_default()));
        }
        for (namespace, selector) in
            [(self.namespace.as_str(), self.worker_labels().await), (OPERATOR_NAMESPACE, OPERATOR.to_owned())]
        {
            places.push((selector.clone(), self.cluster.logs(namespace, &selector).await));
        }
        for (place, text) in places {
            for value in values {
                assert!(!text.contains(value), "{value} stands in {place}: {text}");
            }
        }
    }

    /// The labels of the pods that deliver.
    pub async fn worker_labels(&self) -> String {
        let log = self.cluster.get(&self.namespace, V1ALPHA1, "EventLog", "shop").await.expect("EventLog shop");
        let selector = text(&log, "/status/selector");
        assert!(!selector.is_empty(), "no selector in {}", log["status"]);
        selector.to_owned()
    }

    /// Waits for so many requests that were accepted; returns all requests.
    pub async fn accepted(&self, count: usize) -> Vec<Record> {
        eventually(PATIENCE, &format!("{count} accepted requests"), async || {
            let records = self.receiver.since(0).await.map_err(|error| error.to_string())?;
            let accepted = records.iter().filter(|record| record.is_accepted()).count();
            if accepted >= count { Ok(records) } else { Err(format!("{accepted} of {} requests", records.len())) }
        })
        .await
    }

    /// Waits until every change has arrived, and judges.
    pub async fn judged(&self, written: &[eventtrigger_e2e::ledger::Change], deadline: Duration) -> Verdict {
        eventually(deadline, "every committed change to arrive", async || {
            let records = self.receiver.since(0).await.map_err(|error| error.to_string())?;
            let verdict = Verdict::of(written, &records);
            if verdict.lost.is_empty() { Ok(verdict) } else { Err(verdict.to_string()) }
        })
        .await
    }

    /// Deletes what the test made. Not called by a test that fails: what is left tells why it did.
    pub async fn end(self) {
        for kind in ["EventTrigger", "EventSink", "EventLog"] {
            for object in self.cluster.list(&self.namespace, V1ALPHA1, kind).await {
                self.cluster.delete(&self.namespace, V1ALPHA1, kind, text(&object, "/metadata/name")).await;
            }
        }
        for name in [&self.namespace, &self.server] {
            if name != SHARED {
                self.cluster.forget(name).await;
            }
        }
    }
}

/// An EventTrigger on public.orders that sends everything to the receiver; `more` is laid over its spec.
pub fn trigger(name: &str, more: Value) -> Value {
    let mut spec = json!({
        "eventLogRef": {"name": "shop"},
        "table": {"schema": "public", "name": "orders"},
        "on": {"insert": {}, "update": {}, "delete": {}},
        "sink": {"ref": {"apiVersion": "v1", "kind": "Service", "name": "receiver", "port": "http"}},
        "delivery": {"retry": 100, "backoffDelay": "200ms", "backoffMax": "1s", "timeout": "5s"},
    });
    merge(&mut spec, more);
    json!({"apiVersion": V1ALPHA1, "kind": "EventTrigger", "metadata": {"name": name}, "spec": spec})
}

/// Lays `over` over `under`, field by field; `null` removes a field (RFC 7386).
pub fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(&key);
                } else {
                    merge(under.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over,
    }
}

/// A reference to an EventSink, over the one to a Service that [`trigger`] has.
pub fn event_sink(name: &str) -> Value {
    json!({"apiVersion": V1ALPHA1, "kind": "EventSink", "name": name, "port": null})
}

/// A condition of an object.
pub fn condition_of<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// A name that no other run and no other test has.
fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() % 1_000_000;
    format!("e2e-{name}-{seconds}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A namespace in which only pods without privileges may run.
async fn namespace(cluster: &Cluster, name: &str) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "eventtrigger.dev/e2e": "true"});
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    cluster.apply("", &object).await.expect("make a namespace");
}

/// The server that tests share, made by the first of them; `make` may have made it before.
async fn shared_server(cluster: &Cluster) {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let make = async || {
        namespace(cluster, SHARED).await;
        serve(cluster, SHARED).await;
    };
    MADE.get_or_init(make).await;
}

/// A PostgreSQL in this namespace.
async fn serve(cluster: &Cluster, namespace: &str) {
    let image = image("E2E_POSTGRES_IMAGE", "localhost/eventtrigger-postgres:15");
    let yaml = include_str!("../../cluster/postgres.yaml")
        .replace("postgres.default", &format!("postgres.{namespace}"))
        .replace("localhost/eventtrigger-postgres:15", &image);
    cluster.apply_manifests(namespace, &yaml).await;
    eventually(Duration::from_mins(2), "PostgreSQL", async || cluster.ready_pod(namespace, POSTGRES).await).await;
}

/// An image, which an environment variable may choose.
fn image(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// Runs a script as superuser, inside PostgreSQL's pod.
async fn psql(cluster: &Cluster, server: &str, dbname: &str, sql: &str) -> Result<String, String> {
    let pod = cluster.ready_pod(server, POSTGRES).await?;
    let pod = pod.metadata.name.unwrap_or_default();
    let command = ["psql", "-v", "ON_ERROR_STOP=1", "-qAtX", "-U", "postgres", "-d", dbname, "-c", sql];
    cluster.exec(server, &pod, &command).await
}

/// A role and a database that it owns, called like the test's namespace; returns how to log in, and a URI for pods.
pub async fn create_database(cluster: &Cluster, server: &str, name: &str) -> (tokio_postgres::Config, String) {
    let name = name.replace('-', "_");
    eventually(PATIENCE, "a database", async || {
        // Tried again if the pod went away in between, maybe after it had done what it was asked.
        for (found, make) in [
            (format!("FROM pg_roles WHERE rolname = '{name}'"), format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")),
            (format!("FROM pg_database WHERE datname = '{name}'"), format!("CREATE DATABASE {name} OWNER {name}")),
        ] {
            if psql(cluster, server, "postgres", &format!("SELECT 1 {found}")).await?.is_empty() {
                psql(cluster, server, "postgres", &make).await?;
            }
        }
        Ok::<_, String>(())
    })
    .await;
    let mut config = tokio_postgres::Config::new();
    config.user(&name).password("secret").dbname(&name);
    (config, format!("postgresql://{name}:secret@postgres.{server}:5432/{name}"))
}

/// A receiver in this namespace; returns its control port.
async fn receive(cluster: &Cluster, namespace: &str) -> Control {
    let image = image("E2E_RECEIVER_IMAGE", "localhost/eventtrigger-receiver:dev");
    let yaml = include_str!("receiver.yaml").replace("localhost/eventtrigger-receiver:dev", &image);
    cluster.apply_manifests(namespace, &yaml).await;
    let selector = "app.kubernetes.io/name=receiver";
    eventually(PATIENCE, "the receiver", async || cluster.ready_pod(namespace, selector).await).await;
    let address = forward(cluster, namespace, selector, 8081).await;
    let control = Control::new(format!("http://{address}")).expect("a client");
    eventually(PATIENCE, "the receiver's control port", async || control.count().await).await;
    control
}
