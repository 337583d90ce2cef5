//! `EventTrigger`: which changes of which table go where.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::{Delivery, Destination, ReclaimPolicy};

/// Which changes of which table are sent to which sink.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "eventtrigger.dev",
    version = "v1alpha1",
    kind = "EventTrigger",
    namespaced,
    status = "EventTriggerStatus",
    derive = "PartialEq",
    shortname = "evt",
    category = "eventing",
    category = "all",
    validation = Rule::new("!has(self.spec.deployment) || self.metadata.name.size() <= 54").message("with spec.deployment, metadata.name must have at most 54 characters: the delivery workers are named after it"),
    doc = "Which changes of which table are sent to which sink.",
    scale(
        spec_replicas_path = ".spec.deployment.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Table", type_ = "string", json_path = ".status.table"),
    printcolumn(name = "Sink", type_ = "string", json_path = ".status.sinkUri"),
    printcolumn(name = "Log", type_ = "string", json_path = ".spec.eventLogRef.name", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTriggerSpec {
    /// The EventLog, in this namespace, whose database holds the table. It cannot be changed later.
    #[x_kube(validation = Rule::new("self == oldSelf").message("eventLogRef is immutable: make another EventTrigger"))]
    pub event_log_ref: EventLogRef,
    /// The table. It cannot be changed later.
    #[x_kube(validation = Rule::new("self == oldSelf").message("table is immutable: make another EventTrigger"))]
    pub table: TableRef,
    /// The operations that make an event. (`true` is what YAML 1.1 makes of an `on` without quotes.)
    #[serde(alias = "true")]
    pub on: Operations,
    /// The columns that an event shows. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// What an event shows of who made the change, beside the row. Default: nothing, which costs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// Whether changes that are themselves copies of changes elsewhere make events: those that a subscription of logical
    /// replication applies, and all others made while `session_replication_role` is `replica`. It needs the ownership of
    /// the table, not only the right to put triggers on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub capture_replicated: bool,
    /// Which events wait for which. Default: those of the same primary key are sent one after the other; a table without one
    /// has no order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Ordering>,
    /// How many workers may share this trigger's events: they are divided by hash of their key into so many partitions, each
    /// delivered by one worker. Default 1. A change takes effect once what was read before is delivered and nothing is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub partitions: Option<i32>,
    /// Delivery workers of this trigger's own: a Deployment beside the EventLog's, which then has nothing to do with it. Default:
    /// the EventLog's workers deliver it, with all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<TriggerDeployment>,
    /// Where the events go.
    pub sink: Destination,
    /// Attributes that every event gets beside its own. The field is that of Knative's sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ce_overrides: Option<CloudEventOverrides>,
    /// How often and how patiently an event is sent; laid over the EventSink's, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Stops delivery, not capture: events wait in the log until this is false again.
    #[serde(default)]
    pub suspend: bool,
    /// What happens to the capture of this trigger's events when this resource is deleted. Default Delete.
    #[serde(default = "delete")]
    pub reclaim_policy: ReclaimPolicy,
}

/// The Deployment of delivery workers that deliver one EventTrigger, and no other.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerDeployment {
    /// Number of workers. Default 1; as many as there are `partitions` share the events, more only stand by. With 0, events wait
    /// in the log.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// Resources of each worker. Default: as the EventLog's `delivery.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Names an EventLog of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventLogRef {
    /// Name of the EventLog.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names a table as PostgreSQL stores the name: without quotes, capitals as they are.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableRef {
    /// Schema of the table. Default public.
    #[serde(default = "public")]
    #[schemars(length(min = 1, max = 63))]
    pub schema: String,
    /// Name of the table.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// The operations that make an event: at least one.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.insert) || has(self.update) || has(self.delete) || has(self.truncate)").message("name at least one of insert, update, delete and truncate, such as insert: {}"))]
pub struct Operations {
    /// New rows.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub insert: Option<Insert>,
    /// Changed rows.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// Deleted rows.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub delete: Option<Delete>,
    /// `TRUNCATE` of the table, also by `CASCADE`: one event for the whole table, without rows and without a key. Of a
    /// partitioned table only that of the whole; a partition that is truncated by itself needs an EventTrigger of its own.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub truncate: Option<Truncate>,
}

/// Says that inserts make events; holds nothing yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Insert {}

/// Says that deletes make events; holds nothing yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {}

/// Says that truncating makes an event; holds nothing yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Truncate {}

/// Which updates make an event.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Only updates that change the value of at least one of these columns (NULL counts as a value). Default: every update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1600), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub columns: Option<Vec<String>>,
}

/// The columns that an event shows: only some, or all but some.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.include) != has(self.exclude)").message("set exactly one of include and exclude"))]
pub struct Columns {
    /// Only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1600), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub include: Option<Vec<String>>,
    /// All but these. A column that every EventTrigger of a table excludes never enters the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1600), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub exclude: Option<Vec<String>>,
}

/// Which events wait for which.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.key) != has(self.none)").message("set exactly one of key and none"))]
pub struct Ordering {
    /// Events of which these columns have the same values are sent one after the other, such as all orders of a customer. The
    /// columns must be among those that the events show; `null` is a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub key: Option<Vec<String>>,
    /// Events are sent side by side, and a failing one holds back no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<NoOrder>,
}

/// Says that there is no order; holds nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NoOrder {}

/// Attributes that every event gets beside its own, in each of CloudEvents' modes; Hasura's format has none.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CloudEventOverrides {
    /// Values by name, such as `{region: eu, team: billing}`. A name has 1 to 20 lower-case letters and digits, and is none that
    /// an event has already.
    #[serde(default)]
    #[schemars(schema_with = "extensions")]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z0-9]{1,20}$'))").message("a name has 1 to 20 lower-case letters and digits"))]
    #[x_kube(validation = Rule::new("!self.exists(name, name in ['id', 'source', 'type', 'specversion', 'subject', 'time', 'data', 'database64', 'datacontenttype', 'dataschema', 'sequence', 'partitionkey', 'eventtrigger', 'traceparent'])")
        .message("an event has that attribute already; choose another name"))]
    pub extensions: BTreeMap<String, String>,
}

/// An attribute's value is a header's: it is bounded, and so is their number.
fn extensions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<BTreeMap<String, String>>();
    schema.insert("maxProperties".to_owned(), 32.into());
    schema.insert("additionalProperties".to_owned(), json!({"type": "string", "minLength": 1, "maxLength": 1024}));
    schema
}

/// What an event shows of who made the change. `role`, `applicationName` and `settings` become the event's `actor`.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.role) && self.role) || (has(self.applicationName) && self.applicationName) || has(self.settings) || has(self.traceparent)").message("ask for at least one of role, applicationName, settings and traceparent, such as role: true"))]
pub struct Context {
    /// Whether an event shows the role that the application acts as: that of `SET ROLE`, otherwise the one that it logged
    /// in as. Inside a function of the application that is `SECURITY DEFINER` it is still the caller's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub role: bool,
    /// Whether an event shows the `application_name` of the session.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub application_name: bool,
    /// Settings of the application's own whose values an event shows, such as `app.user` after
    /// `set_config('app.user', '7', true)`. One that is not set, is empty, or is longer than 8 KiB is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(max = 128), regex(pattern = SETTING)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub settings: Option<Vec<String>>,
    /// The setting that holds the W3C trace context of what the application is doing, such as `app.traceparent`. If its
    /// value is one, events carry it in the header `traceparent` and the attribute of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = SETTING))]
    pub traceparent: Option<String>,
}

/// A setting of an application's own: identifiers with dots between them. PostgreSQL's own settings have none, so that
/// nothing of the server's configuration can be asked for.
const SETTING: &str = r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$";

/// What the controller found and did. Only facts that change slowly.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTriggerStatus {
    /// The generation of the spec that this status is about; -1 before the first.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Ready` sums up the others.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The table, as `schema.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Where events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_uri: Option<String>,
    /// The types and the source that events of this EventTrigger have, for who routes by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ce_attributes: Vec<CloudEventAttributes>,
    /// Names of the SQL triggers on the table; shared by all EventTriggers of the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sql_triggers: Vec<String>,
    /// Delivery workers of its own that exist, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selector of their pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// What every event of a kind has in common.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct CloudEventAttributes {
    /// Attribute `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Attribute `source`.
    pub source: String,
}

/// `insert:` with nothing after it reads like `insert: {}`, and means it.
fn named<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}

fn public() -> String {
    "public".to_owned()
}

fn one() -> i32 {
    1
}

fn delete() -> ReclaimPolicy {
    ReclaimPolicy::Delete
}
