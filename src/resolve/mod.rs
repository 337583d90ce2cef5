//! The meaning of a resource: specs and the objects they name become connections and definitions. The controller and
//! `run` share all of it; they differ in where [`Objects`] come from.

mod connection;
mod definition;
mod headers;
mod secret;
mod security;
mod service;
mod sink;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::{collections::BTreeMap, fmt, future::Future};

use k8s_openapi::api::core::v1::{Secret, Service};

use crate::{
    api::{EventLog, EventSink},
    log::definition::SecretName,
};

pub use connection::{connection, delivery_connection};
pub use definition::{Resolved, definition};
pub use sink::{Target, dead_letters, destination, event_sink};
pub use table::table_allowed;

/// Where the objects that a resource names are found: the API server, or a folder of manifests.
pub trait Objects: Send + Sync {
    /// Whether objects in this namespace may be looked up at all: a controller may have been told to keep to some.
    fn reaches(&self, _namespace: &str) -> bool {
        true
    }
    /// A Secret.
    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Secret>, LookupError>> + Send;
    /// A Service.
    fn service(&self, namespace: &str, name: &str)
    -> impl Future<Output = Result<Option<Service>, LookupError>> + Send;
    /// The base URL to reach a Service's port at, if it is not `http://NAME.NAMESPACE.svc:PORT`.
    fn service_url(&self, namespace: &str, name: &str) -> Option<String>;
    /// An EventLog.
    fn log(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<EventLog>, LookupError>> + Send;
    /// An EventSink.
    fn sink(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<EventSink>, LookupError>> + Send;
    /// `status.address.url` of any other object: `None` if there is no such object, `Some(None)` if it has no address yet.
    fn address(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Option<String>>, LookupError>> + Send;
}

/// Why an object could not be looked up; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("failed to look up {what}")]
pub struct LookupError {
    /// Kind, namespace and name.
    pub what: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What keeps a resource from working until somebody changes something; becomes a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// CamelCase reason of the condition.
    pub reason: &'static str,
    /// Field, value and remedy, in one sentence.
    pub message: String,
}

impl Problem {
    /// Of a reason and a sentence.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Values of Secrets that workers need. `Debug` leaves the values out.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Secrets(pub BTreeMap<SecretName, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a step of resolving ends early. Only inside: outside, a problem is a value and a failed lookup is an error.
#[derive(Debug)]
enum Stop {
    Problem(Problem),
    Lookup(LookupError),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<LookupError> for Stop {
    fn from(error: LookupError) -> Self {
        Self::Lookup(error)
    }
}

/// Parts what the user must change from what trying again may cure.
fn part<T>(outcome: Result<T, Stop>) -> Result<Result<T, Problem>, LookupError> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Problem(problem)) => Ok(Err(problem)),
        Err(Stop::Lookup(error)) => Err(error),
    }
}
