//! `EventLog`: one database and the log in it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, ReclaimPolicy, SecretSource, Size, UriSource, ValueSource};

/// A database whose changes are kept in an event log, inside the database itself, and the workers that deliver them.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "eventtrigger.dev",
    version = "v1alpha1",
    kind = "EventLog",
    namespaced,
    status = "EventLogStatus",
    derive = "PartialEq",
    shortname = "evlog",
    category = "eventing",
    category = "all",
    validation = Rule::new("self.metadata.name.size() <= 54").message("metadata.name must have at most 54 characters: the delivery workers are named after it"),
    doc = "A database whose changes are kept in an event log, inside the database itself, and the workers that deliver them.",
    scale(
        spec_replicas_path = ".spec.delivery.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Database", type_ = "string", json_path = ".status.database"),
    printcolumn(name = "Schema", type_ = "string", json_path = ".spec.schema", priority = 1),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.serverVersion", priority = 1),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.replicas", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventLogSpec {
    /// How to reach the database.
    pub connection: Connection,
    /// The schema that holds the log; made if it is missing. It cannot be changed later.
    #[serde(default = "default_schema")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z_][a-z0-9_]*$')").message("write schema in lower-case letters, digits and _, and not with a digit first"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("schema is immutable: make another EventLog"))]
    #[x_kube(validation = Rule::new("!self.startsWith('pg_') && self != 'information_schema'").message("schema names that start with pg_, and information_schema, belong to PostgreSQL"))]
    pub schema: String,
    /// The tables that EventTriggers may name, because whoever may make an EventTrigger reads their rows. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub tables: Option<Vec<TablePattern>>,
    /// How long events stay in the log after they were captured. It serves as audit trail, and for replays, that long.
    #[serde(default)]
    pub retention: Retention,
    /// The workers that deliver.
    #[serde(default)]
    pub delivery: LogDelivery,
    /// What happens to the log and its SQL triggers when this resource is deleted. Default Retain.
    #[serde(default = "retain")]
    pub reclaim_policy: ReclaimPolicy,
}

/// How to reach a database: a URI from a Secret, or its parts.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.uri) != (has(self.host) || has(self.port) || has(self.dbname) || has(self.user) || has(self.password))")
    .message("set either uri or host, port, dbname, user and password"))]
#[x_kube(validation = Rule::new("has(self.uri) || has(self.host) && has(self.dbname) && has(self.user)").message("without uri, host, dbname and user are needed"))]
pub struct Connection {
    /// A `postgresql://` URI in a Secret, such as CloudNativePG's `<cluster>-app`, key `uri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<UriSource>,
    /// Host name or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ValueSource>,
    /// Port; default 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<ValueSource>,
    /// Database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dbname: Option<ValueSource>,
    /// Role to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<ValueSource>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<ValueSource>,
    /// Encryption. What it says comes before what the URI says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Encryption of the connection, in the words of libpq's `sslmode`.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.ca) || self.mode.startsWith('verify-')").message("ca is used by mode verify-ca and verify-full only"))]
pub struct Tls {
    /// `disable`, `prefer` (default of PostgreSQL's clients), `require`, `verify-ca` or `verify-full`.
    pub mode: TlsMode,
    /// Certificates (PEM) of the authorities to trust, for the verifying modes. Default: the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretSource>,
}

/// libpq's `sslmode`; `allow` is left out, as it prefers no encryption.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted; the server's certificate is not checked.
    Require,
    /// Encrypted; the certificate must be signed by a trusted authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate must name the host.
    VerifyFull,
}

/// Tables by schema and name; `*` stands for any run of characters.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TablePattern {
    /// Schema, or a pattern of schemas.
    #[schemars(length(min = 1, max = 63))]
    pub schema: String,
    /// Table, or a pattern of tables.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// How long events stay in the log. What some EventTrigger has not had yet stays in any case, up to `maxHeldSize`.
///
/// The log is dropped in parts of an eighth of `period` or of `maxSize`, so as much as that may stay longer.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// How long an event stays after it was captured. Default 168h, which is a week.
    #[serde(default = "week")]
    pub period: Duration,
    /// Beyond this size of the log, with its index, the oldest events go earlier. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Beyond this size the oldest events go even if an EventTrigger has not had them: one that is suspended, or whose sink
    /// has been away for long. What is lost so is counted, and said in the condition `RetentionMet`. Default: no limit, so
    /// that nothing is lost as long as the disk has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_held_size: Option<Size>,
    /// How long a dead letter, which is an event that was given up, is kept after that. Default: until it is redriven or
    /// deleted. One that is being redriven, or that its dead letter sink has not taken yet, stays in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_period: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { period: week(), max_size: None, max_held_size: None, dead_letter_period: None }
    }
}

impl From<&Retention> for crate::log::Retention {
    fn from(retention: &Retention) -> Self {
        let Retention { period, max_size, max_held_size, dead_letter_period } = retention;
        Self {
            period: period.get(),
            max_size: max_size.as_ref().map(Size::get),
            max_held_size: max_held_size.as_ref().map(Size::get),
            dead_letter_period: dead_letter_period.as_ref().map(Duration::get),
        }
    }
}

/// The Deployment of delivery workers.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogDelivery {
    /// Number of workers. They share the EventTriggers; one EventTrigger is delivered by one of them, or by as many as it
    /// has `partitions`. More than 16 only stand by.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// How the workers reach the same database as another role, one of less privilege. The role needs no right but to log
    /// in: the controller, which owns the log, grants it what delivery takes. Default: `spec.connection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Resources of each worker. Default: requests of 10m CPU and 32Mi memory, limit of 256Mi memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where the workers' pods run, and what they are marked with; also of those of an EventTrigger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<WorkerPod>,
}

impl Default for LogDelivery {
    fn default() -> Self {
        Self { replicas: one(), connection: None, resources: None, pod: None }
    }
}

/// What the workers' pods have beside what the controller gives them: fields of a pod, as
/// <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/> describes them.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.labels) || ['name', 'component', 'instance'].all(key, !('app.kubernetes.io/' + key in self.labels))")
    .message("labels: app.kubernetes.io/name, component and instance select the workers' pods and cannot be set"))]
pub struct WorkerPod {
    /// Labels beside those that select the pods, such as a team, or what a mesh looks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations, such as `sidecar.istio.io/inject: "false"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the nodes that they may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that they bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Nodes, and pods beside which, they run rather or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How they are spread over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Name of their `PriorityClass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Secrets of this namespace by which their image, which is the operator's, is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

/// What the controller found and did. Only facts that change slowly.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventLogStatus {
    /// The generation of the spec that this status is about; -1 before the first.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Ready` sums up the others.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Host, port and database, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Version of the PostgreSQL server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Version of the log's schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i32>,
    /// Number of the server's timeline: it rises when a standby is promoted or a backup restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i32>,
    /// Parts that the log is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<i32>,
    /// Events captured since then are in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_since: Option<Time>,
    /// Delivery workers that exist, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selector of the delivery workers' pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

fn default_schema() -> String {
    "eventlog".to_owned()
}

fn week() -> Duration {
    Duration::hours(168)
}

fn one() -> i32 {
    1
}

fn retain() -> ReclaimPolicy {
    ReclaimPolicy::Retain
}
