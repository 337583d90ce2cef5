//! What every reconcile can reach.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use kube::{Client, Resource, ResourceExt, core::DeserializeGuard, runtime::reflector::Store};

use super::{
    admins::Admins, backoff::Backoffs, cluster::Cluster, events::Events, metrics::Metrics, own::Own, pokes::Pokes,
};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    delivery::{AddressOptions, TraceOptions},
    name::ObjectName,
    resolve::Secrets,
};

/// A resource as its watch has it: one that cannot be read (a newer version's, say) must not hide the others.
pub(super) type Watched<K> = DeserializeGuard<K>;

/// What the watches know: good for finding out whom a change concerns, not for what it says.
/// One store of each kind for each scope.
#[derive(Clone, Default)]
pub(super) struct Stores {
    pub(super) logs: Vec<Store<Watched<EventLog>>>,
    pub(super) sinks: Vec<Store<Watched<EventSink>>>,
    pub(super) triggers: Vec<Store<Watched<EventTrigger>>>,
}

/// What `pick` takes of every resource in `stores` that can be read.
pub(super) fn pick<K, T>(stores: &[Store<Watched<K>>], pick: impl Fn(&K) -> Option<T>) -> Vec<T>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let resources: Vec<_> = stores.iter().flat_map(Store::state).collect();
    resources.iter().filter_map(|resource| resource.0.as_ref().ok()).filter_map(pick).collect()
}

/// Shared by the reconciles of every kind.
pub(super) struct Context {
    pub(super) client: Client,
    /// Where objects are looked up that resources name.
    pub(super) cluster: Cluster,
    /// Image of the delivery workers.
    pub(super) image: String,
    /// Where they may send events.
    pub(super) addresses: AddressOptions,
    /// Where they trace attempts.
    pub(super) traces: TraceOptions,
    pub(super) stores: Stores,
    pub(super) pokes: Pokes,
    pub(super) admins: Admins,
    pub(super) backoffs: Backoffs,
    pub(super) events: Events,
    pub(super) own: Own,
    /// The values of Secrets that each EventTrigger's sink needed when it was last resolved.
    pub(super) needs: Needs,
    /// EventTriggers, by UID, that were seen to have no Deployment: nobody need look again.
    pub(super) bare: Mutex<HashSet<String>>,
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
