//! What every reconcile can reach.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kube::{Client, ResourceExt, runtime::reflector::Store};

use super::{admins::Admins, backoff::Backoffs, events::Events, metrics::Metrics, pokes::Pokes};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    name::ObjectName,
    resolve::Secrets,
};

/// What the watches know: good for finding out whom a change concerns, not for what it says.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) logs: Store<EventLog>,
    pub(super) sinks: Store<EventSink>,
    pub(super) triggers: Store<EventTrigger>,
}

/// Shared by the reconciles of every kind.
pub(super) struct Context {
    pub(super) client: Client,
    /// Image of the delivery workers.
    pub(super) image: String,
    pub(super) stores: Stores,
    pub(super) pokes: Pokes,
    pub(super) admins: Admins,
    pub(super) backoffs: Backoffs,
    pub(super) events: Events,
    /// The header values that each EventTrigger's sink needed when it was last resolved.
    pub(super) needs: Needs,
    pub(super) metrics: Metrics,
}

/// Tells when the workers of a log need other secrets than before.
#[derive(Debug, Default)]
pub(super) struct Needs(Mutex<HashMap<ObjectName, Secrets>>);

impl Needs {
    /// Notes what `trigger` needs; whether that is new.
    pub(super) fn changed(&self, trigger: &ObjectName, secrets: Secrets) -> bool {
        let mut needs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.0.is_empty() {
            return needs.remove(trigger).is_some();
        }
        if needs.get(trigger) == Some(&secrets) {
            return false;
        }
        needs.insert(trigger.clone(), secrets);
        true
    }
}

/// Namespace and name of an object.
pub(super) fn name_of(object: &impl ResourceExt) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// Namespace and name of a trigger's log.
pub(super) fn log_of(trigger: &EventTrigger) -> ObjectName {
    ObjectName::new(trigger.namespace().unwrap_or_default(), &trigger.spec.event_log_ref.name)
}
