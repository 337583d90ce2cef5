//! The statuses that this controller wrote: a change that only brings one of them back is no reason to look again.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, TryStreamExt};
use kube::{
    Resource, ResourceExt,
    core::object::HasStatus,
    runtime::{PredicateConfig, WatchStreamExt, reflector::store::Writer, watcher},
};
use serde::{Serialize, de::DeserializeOwned};

use super::context::Watched;

/// What each object's status was last found to have to be, by UID. Clones know the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Own(Arc<Mutex<HashMap<String, u64>>>);

impl Own {
    /// Notes what a status shall be; whether it was last written otherwise. Before it is written: the change may come back
    /// sooner than the answer to the request.
    pub(super) fn differs(&self, uid: &str, status: &impl Serialize) -> bool {
        let status = fingerprint(status);
        self.lock().insert(uid.to_owned(), status).is_some_and(|before| before != status)
    }

    /// The object is gone, or nobody knows whether its status was written.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Objects of a watch, each when there is a reason to reconcile it; `writer` gets all of them.
    ///
    /// No reason is a status that this controller wrote: its reconcile knew all that another would find. One that somebody
    /// else wrote is a reason, to put it right.
    pub(super) fn reasons<K, E>(
        &self,
        events: E,
        writer: Writer<Watched<K>>,
    ) -> impl Stream<Item = watcher::Result<Watched<K>>> + use<K, E>
    where
        E: Stream<Item = watcher::Result<watcher::Event<Watched<K>>>>,
        K: Resource<DynamicType = ()> + HasStatus<Status: Serialize> + Clone + DeserializeOwned + 'static,
    {
        let (gone, own) = (self.clone(), self.clone());
        let events = events.inspect_ok(move |event| {
            if let watcher::Event::Delete(object) = event {
                gone.forget(&object.uid().unwrap_or_default());
            }
        });
        let look = move |object: &Watched<K>| own.look(object);
        events.reflect(writer).applied_objects().predicate_filter(look, PredicateConfig::default())
    }

    /// What of an object is looked at, as one number. `None`, which is never the same as before, for one that cannot be read.
    fn look<K>(&self, object: &Watched<K>) -> Option<u64>
    where
        K: Resource<DynamicType = ()> + HasStatus<Status: Serialize>,
    {
        let object = object.0.as_ref().ok()?;
        let meta = object.meta();
        let status = object.status().map(fingerprint);
        let written = meta.uid.as_ref().and_then(|uid| self.lock().get(uid).copied());
        let mut hasher = DefaultHasher::new();
        (meta.generation, meta.deletion_timestamp.is_some()).hash(&mut hasher);
        (&meta.labels, &meta.annotations, &meta.finalizers).hash(&mut hasher);
        status.filter(|_| status != written).hash(&mut hasher);
        Some(hasher.finish())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A status as one number. Its text, as the API server has it: the fields' order is that of the type.
fn fingerprint(status: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // What cannot be written as JSON never reaches the API server.
    serde_json::to_string(status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, executor::block_on, stream};
    use kube::core::DeserializeGuard;

    use super::*;
    use crate::{
        api::{EventSink, EventSinkStatus},
        resolve::testing::parse,
    };

    /// A version of one sink: its generation, more of its metadata, and the generation that its status speaks of.
    fn version(generation: i64, more: &str, observed: Option<i64>) -> EventSink {
        let mut sink: EventSink = parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, spec: {{uri: 'http://a/'}}, \
              metadata: {{name: pay, namespace: bank, uid: u, generation: {generation}{more}}}}}"
        ));
        sink.status = observed.map(status);
        sink
    }

    fn status(observed_generation: i64) -> EventSinkStatus {
        EventSinkStatus { observed_generation, ..EventSinkStatus::default() }
    }

    /// How many of these versions are a reason to reconcile, one after the other; `own` wrote what it says by then.
    fn reasons(own: &Own, versions: Vec<EventSink>) -> usize {
        let writer = Writer::default();
        let events = versions.into_iter().map(|sink| Ok(watcher::Event::Apply(DeserializeGuard(Ok(sink)))));
        block_on(own.reasons(stream::iter(events.collect::<Vec<_>>()), writer).count())
    }

    #[test]
    fn a_status_that_comes_back_is_no_reason_and_one_that_somebody_else_wrote_is() {
        let own = Own::default();
        own.differs("u", &status(1));
        assert_eq!(reasons(&own, vec![version(1, "", None), version(1, "", Some(1))]), 1);
        assert_eq!(reasons(&own, vec![version(1, "", Some(1)), version(1, "", Some(7))]), 2);
    }

    #[test]
    fn what_else_changes_of_an_object_is_a_reason() {
        let own = Own::default();
        own.differs("u", &status(1));
        for more in
            ["labels: {a: b}", "annotations: {a: b}", "finalizers: [a]", "deletionTimestamp: '2026-01-01T00:00:00Z'"]
        {
            let versions = vec![version(1, "", Some(1)), version(1, &format!(", {more}"), Some(1))];
            assert_eq!(reasons(&own, versions), 2, "{more}");
        }
        assert_eq!(reasons(&own, vec![version(1, "", Some(1)), version(2, "", Some(1))]), 2);
    }

    #[test]
    fn the_watch_knows_also_what_is_no_reason() {
        let own = Own::default();
        own.differs("u", &status(1));
        let writer = Writer::default();
        let store = writer.as_reader();
        let events = [version(1, "", None), version(1, "", Some(1))];
        let events = events.map(|sink| Ok(watcher::Event::Apply(DeserializeGuard(Ok::<EventSink, _>(sink)))));
        block_on(own.reasons(stream::iter(events), writer).count());
        let known = store.state().into_iter().next().unwrap();
        assert_eq!(known.0.as_ref().unwrap().status, Some(status(1)));
    }

    #[test]
    fn a_status_differs_from_what_was_written_last_whatever_the_watch_knows() {
        let own = Own::default();
        assert!(!own.differs("u", &status(1)), "nothing was written yet");
        assert!(own.differs("u", &status(2)));
        assert!(!own.differs("u", &status(2)));
        own.forget("u");
        assert!(!own.differs("u", &status(1)));
    }
}
