//! What a request looks like.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Size};

/// What a request looks like: exactly one.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.cloudEvents) != has(self.hasura)").message("set exactly one of cloudEvents and hasura"))]
pub struct Format {
    /// CloudEvents 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_events: Option<CloudEvents>,
    /// What Hasura's event triggers send, for receivers that were written for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hasura: Option<Hasura>,
}

/// CloudEvents 1.0.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.batch) || has(self.mode) && self.mode == 'Batch'").message("batch is for mode: Batch"))]
pub struct CloudEvents {
    /// Where an event's attributes are: `Binary`, in headers; `Structured`, in the body; `Batch`, several events in one body,
    /// which a receiver must have asked for. Default Binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CloudEventsMode>,
    /// How large a batch gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// How large a batch gets, and how long it waits for more.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// Most events. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: Option<u32>,
    /// Most bytes of the body, about; a larger event goes alone. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Size>,
    /// How long the first event waits for others, as `10ms`. Default 0s: what is there goes at once, and more gathers while
    /// requests are under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Duration>,
}

/// Where an event's attributes are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CloudEventsMode {
    /// In headers; the body is the event's data.
    #[default]
    Binary,
    /// In the body, which is `application/cloudevents+json`.
    Structured,
    /// Of several events, in one body, which is `application/cloudevents-batch+json`.
    Batch,
}

/// What Hasura's event triggers send.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hasura {
    /// What the body's `trigger.name` says. Default: the EventTrigger's name, which cannot have the underscores that a name
    /// in Hasura mostly has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub trigger_name: Option<String>,
}
