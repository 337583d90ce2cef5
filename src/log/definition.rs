//! What the log's schema holds about each EventTrigger: the controller writes it, the delivery workers obey it.
//!
//! A definition never holds a secret's value, only the name under which the worker's own configuration has it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    api::BackoffPolicy,
    name::{Ident, ObjectName, TableName},
};

/// One EventTrigger, resolved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Definition {
    /// The EventTrigger.
    pub trigger: ObjectName,
    /// The table.
    pub table: TableName,
    /// The operations that make an event.
    pub on: Operations,
    /// The columns that an event shows.
    pub columns: Columns,
    /// What of its circumstances an event shows.
    pub context: Context,
    /// Whether replicated changes make events, too.
    pub replicated: bool,
    /// Which events wait for which.
    #[serde(default)]
    pub ordering: Ordering,
    /// How many workers may share its events: they are divided by key.
    #[serde(default = "one")]
    pub partitions: u32,
    /// Whether workers of its own deliver it; `None`: those of the log. The schema makes its column `pool` of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_workers: Option<OwnWorkers>,
    /// Where events go; `None` while it cannot be told: events are kept, and wait.
    pub sink: Option<Sink>,
    /// How often and how patiently.
    pub policy: Policy,
    /// Where events go that were given up.
    #[serde(default)]
    pub dead_letter_sink: Option<DeadLetterSink>,
    /// Whether delivery is stopped.
    pub suspend: bool,
}

/// Workers of an EventTrigger's own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum OwnWorkers {
    /// There are to be some. Until the first of them lives, who delivered before goes on.
    Running,
    /// There are to be none: events wait.
    Stopped,
}

/// Operations that make an event.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Operations {
    /// Inserts do.
    pub insert: bool,
    /// Updates do.
    pub update: Option<Updates>,
    /// Deletes do.
    pub delete: bool,
    /// Truncating does.
    pub truncate: bool,
}

/// Which updates make an event.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Updates {
    /// Every one.
    All,
    /// Those that change one of these columns.
    Of(Vec<Ident>),
}

/// Columns that an event shows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Columns {
    /// All, also those that are added later.
    All,
    /// Only these.
    Include(Vec<Ident>),
    /// All but these.
    Exclude(Vec<Ident>),
}

/// Which events wait for which.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ordering {
    /// Those of the same primary key.
    #[default]
    PrimaryKey,
    /// Those of which these columns have the same values.
    Columns(Vec<Ident>),
    /// None.
    None,
}

/// What an event shows of who made the change. Default: nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Context {
    /// The role that the application acts as.
    pub role: bool,
    /// Its `application_name`.
    pub application: bool,
    /// Settings of the application's own, such as `app.user`.
    pub settings: Vec<String>,
    /// The setting that holds the W3C trace context of what the application is doing.
    pub traceparent: Option<String>,
}

impl Context {
    /// Every setting that is to be read.
    pub fn settings(&self) -> impl Iterator<Item = &String> {
        self.settings.iter().chain(&self.traceparent)
    }
}

/// Where events go, and how they are sent there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sink {
    /// The URL to POST to.
    pub url: String,
    /// Headers of every request.
    pub headers: Vec<Header>,
    /// Names what shares limits and a circuit: the EventSink, as `namespace/name`; without one, the URL does.
    #[serde(default)]
    pub name: Option<String>,
    /// Attributes that every event gets beside its own.
    #[serde(default)]
    pub extensions: BTreeMap<String, String>,
    /// How much at a time.
    #[serde(default)]
    pub limits: Limits,
    /// What response statuses mean, where it is not the usual.
    #[serde(default)]
    pub statuses: Vec<StatusRule>,
    /// The EventSink's annotation `eventtrigger.dev/resume`: a sink that said that it is gone is resumed when it changes.
    #[serde(default)]
    pub resume: Option<String>,
    /// What a request looks like.
    #[serde(default)]
    pub format: Format,
    /// Keys that requests are signed with, in the notation of Standard Webhooks.
    #[serde(default)]
    pub signing: Vec<SecretName>,
    /// How requests are authorized.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// Authorities to trust, in PEM; none: the public ones.
    #[serde(default)]
    pub authorities: Vec<HeaderValue>,
}

/// Where events go that were given up, and how patiently.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeadLetterSink {
    /// Where to.
    pub sink: Sink,
    /// Its own; it is tried again for ever.
    pub policy: Policy,
}

/// What a request looks like.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Format {
    /// CloudEvents 1.0.
    CloudEvents(Mode),
    /// As Hasura's event triggers.
    Hasura {
        /// What `trigger.name` says; `None`: the EventTrigger's name.
        trigger: Option<String>,
    },
}

impl Default for Format {
    fn default() -> Self {
        Self::CloudEvents(Mode::Binary)
    }
}

/// A mode of CloudEvents.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mode {
    /// Attributes in headers.
    Binary,
    /// Attributes in the body.
    Structured,
    /// Several events, each as in structured mode, in one body.
    Batch(Batch),
}

/// How large a batch gets, and how long it waits for more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Batch {
    /// Most events.
    pub max_events: u32,
    /// Most bytes of the body; one event that is larger goes alone.
    pub max_bytes: u64,
    /// How long the first event waits for others.
    pub linger: Duration,
}

/// How requests are authorized.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Auth {
    /// A token.
    Bearer(SecretName),
    /// User and password.
    Basic {
        /// The user's name.
        username: HeaderValue,
        /// The password.
        password: SecretName,
    },
    /// Tokens from an authorization server.
    OAuth2(ClientCredentials),
    /// A certificate of ours.
    Certificate {
        /// It and those that vouch for it, in PEM.
        certificate: SecretName,
        /// Its private key, in PEM.
        key: SecretName,
    },
}

/// How to get tokens.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClientCredentials {
    /// The token endpoint.
    pub token_url: String,
    /// The client's name.
    pub client_id: HeaderValue,
    /// Its secret.
    pub client_secret: SecretName,
    /// What the token is to be good for.
    pub scopes: Vec<String>,
    /// Whom it is for.
    pub audience: Option<String>,
}

impl Sink {
    /// A URL, and nothing special about it.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

/// How much is sent to a sink at a time, by one worker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Limits {
    /// Requests under way.
    pub in_flight: u32,
    /// Requests begun in a second.
    pub per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 64, per_second: None }
    }
}

/// What response statuses mean.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StatusRule {
    /// The first of them.
    pub from: u16,
    /// The last of them.
    pub to: u16,
    /// Whether the event is sent again; otherwise it is given up.
    pub retry: bool,
}
/// A header of every request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: HeaderValue,
}

/// A value, such as a header's, or where to find it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum HeaderValue {
    /// Not secret.
    Literal(String),
    /// In the worker's configuration, under this name.
    Secret(SecretName),
}

/// Names a secret in a worker's configuration: `namespace/name/key` of the Secret that it comes from.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct SecretName(pub String);

impl SecretName {
    /// Of a Secret's key.
    pub fn new(namespace: &str, name: &str, key: &str) -> Self {
        Self(format!("{namespace}/{name}/{key}"))
    }
}

/// How often and how patiently, every field decided.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// Attempts after the first.
    pub retry: u32,
    /// How the delay grows.
    pub backoff: BackoffPolicy,
    /// What the policy multiplies.
    pub delay: Duration,
    /// The longest delay.
    pub max: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// The longest delay that a sink may ask for by `Retry-After`.
    #[serde(default = "retry_after_max")]
    pub retry_after_max: Duration,
}

fn one() -> u32 {
    1
}

fn retry_after_max() -> Duration {
    Duration::from_mins(5)
}

impl Default for Policy {
    /// The defaults of the API: 10 retries over 811 s.
    fn default() -> Self {
        Self {
            retry: 10,
            backoff: BackoffPolicy::Exponential,
            delay: Duration::from_secs(1),
            max: Duration::from_mins(5),
            timeout: Duration::from_secs(30),
            retry_after_max: retry_after_max(),
        }
    }
}

impl Policy {
    /// The defaults, and over them what `delivery` says.
    pub fn from_api(delivery: &crate::api::Delivery) -> Self {
        let default = Self::default();
        Self {
            retry: delivery.retry.unwrap_or(default.retry),
            backoff: delivery.backoff_policy.unwrap_or(default.backoff),
            delay: delivery.backoff_delay.as_ref().map_or(default.delay, crate::api::Duration::get),
            max: delivery.backoff_max.as_ref().map_or(default.max, crate::api::Duration::get),
            timeout: delivery.timeout.as_ref().map_or(default.timeout, crate::api::Duration::get),
            retry_after_max: delivery
                .retry_after_max
                .as_ref()
                .map_or(default.retry_after_max, crate::api::Duration::get),
        }
    }
}
