//! What a request looks like.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudEvents {
    /// Where an event's attributes are: `Binary`, in headers; `Structured`, in the body. Default Binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CloudEventsMode>,
}

/// Where an event's attributes are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CloudEventsMode {
    /// In headers; the body is the event's data.
    #[default]
    Binary,
    /// In the body, which is `application/cloudevents+json`.
    Structured,
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
