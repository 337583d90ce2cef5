//! The custom resources of group `eventtrigger.dev`: what a user writes and reads. One file a kind.
//!
//! A field is here only once it works. Rules that a schema or CEL can decide are here too, so that the API server
//! refuses a mistake at apply; what needs a database or another object to decide is a condition.

// `KubeSchema` repeats each struct inside a function, where its `pub` reaches nobody.
#![allow(unreachable_pub)]
// Each printer column says its type.
#![allow(clippy::duplicated_attributes)]

pub mod condition;
mod destination;
mod duration;
mod eventlog;
mod eventsink;
mod eventtrigger;
mod format;
mod schema;
mod security;
mod size;
mod value;

pub use destination::{Destination, DestinationRef, Port};
pub use duration::Duration;
pub use eventlog::{
    Connection, EventLog, EventLogSpec, EventLogStatus, LogDelivery, Retention, TablePattern, Tls, TlsMode, WorkerPod,
};
pub use eventsink::{Address, EventSink, EventSinkSpec, EventSinkStatus, Header, Limits, StatusCodes};
pub use eventtrigger::{
    CloudEventAttributes, CloudEventOverrides, Columns, Context, Delete, EventLogRef, EventTrigger, EventTriggerSpec,
    EventTriggerStatus, Insert, NoOrder, Operations, Ordering, TableRef, TriggerDeployment, Truncate, Update,
};
pub use format::{Batch, CloudEvents, CloudEventsMode, Format, Hasura};
pub use schema::crds;
pub use security::{Auth, Basic, ClientCertificate, ClientCredentials, Signing, SinkTls, TlsSecret};
pub use size::Size;
pub use value::{SecretKeySelector, SecretSource, UriSource, ValueSource};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of every kind here.
pub const GROUP: &str = "eventtrigger.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";

/// What happens to SQL objects when the resource that made them is deleted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ReclaimPolicy {
    /// They stay as they are, and capture goes on; a resource of the same name takes them over again.
    Retain,
    /// They are dropped.
    Delete,
}

/// How the delay between attempts grows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackoffPolicy {
    /// `backoffDelay · (n + 1)` before attempt n + 1.
    Linear,
    /// `backoffDelay · 2ⁿ` before attempt n + 1.
    Exponential,
}

/// How often and how patiently an event is sent. Every field is optional: an EventTrigger's are laid over its
/// EventSink's, field by field, and those over the defaults. The names are Knative's `DeliverySpec`'s.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.timeout) || self.timeout.matches('[1-9]')").message("timeout must be longer than 0"))]
pub struct Delivery {
    /// Attempts after the first. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub retry: Option<u32>,
    /// How the delay between attempts grows: `linear` or `exponential`. Default exponential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_policy: Option<BackoffPolicy>,
    /// The delay that the policy multiplies, as `1s` or `PT1S`. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_delay: Option<Duration>,
    /// The longest delay between two attempts. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_max: Option<Duration>,
    /// How long one attempt may take, from connecting to the end of the response. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The longest delay that a sink may ask for by `Retry-After` (seconds or a date); `0s` ignores it. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_max: Option<Duration>,
    /// Where events go that were given up: each is also sent there, as the same CloudEvent with the extensions
    /// `knativeerrordest`, `knativeerrorcode` and `knativeerrordata`, again and again until it is taken. Its dead letter stays in
    /// the log and can be redriven. An EventSink brings its own headers, signing, auth and timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<Destination>,
}

impl Delivery {
    /// `self` where it says something, `under` elsewhere.
    #[must_use]
    pub fn over(&self, under: &Self) -> Self {
        let Self { retry, backoff_policy, backoff_delay, backoff_max, timeout, retry_after_max, dead_letter_sink } =
            self;
        Self {
            retry: retry.or(under.retry),
            backoff_policy: backoff_policy.or(under.backoff_policy),
            backoff_delay: backoff_delay.clone().or_else(|| under.backoff_delay.clone()),
            backoff_max: backoff_max.clone().or_else(|| under.backoff_max.clone()),
            timeout: timeout.clone().or_else(|| under.timeout.clone()),
            retry_after_max: retry_after_max.clone().or_else(|| under.retry_after_max.clone()),
            dead_letter_sink: dead_letter_sink.clone().or_else(|| under.dead_letter_sink.clone()),
        }
    }
}
