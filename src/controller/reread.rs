//! Objects of a watch that cannot be read are asked for again.
//!
//! While a CRD is being replaced, the API server may still fill in what the one before had for default: a field that this
//! controller does not know. The watch brings no better version of such an object before somebody changes it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    channel::mpsc::unbounded,
    stream::{PollNext, select_with_strategy},
};
use kube::{Resource, runtime::watcher};
use tokio::time::sleep;

use super::context::{Watched, name_of};
use crate::name::ObjectName;

/// Before the first question, and the longest between two; doubled each time.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// `events`, and what `get` finds instead of objects that could not be read, once it can be.
pub(super) fn reread<K, E, G>(events: E, get: G) -> impl Stream<Item = watcher::Result<watcher::Event<Watched<K>>>>
where
    K: Resource<DynamicType = ()> + Clone + Send + 'static,
    E: Stream<Item = watcher::Result<watcher::Event<Watched<K>>>>,
    G: AsyncFn(&ObjectName) -> Result<Option<Watched<K>>, kube::Error> + Clone,
{
    let (unread, names) = unbounded();
    let asking = Arc::new(Mutex::new(HashSet::<ObjectName>::new()));
    let asked = asking.clone();
    let events = events.inspect(move |event| {
        let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event else { return };
        if object.0.is_err() {
            let name = name_of(object);
            if asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
                // The other end lives as long as this one.
                let _ = unread.unbounded_send(name);
            }
        }
    });
    let again = move |name: ObjectName| {
        let (get, asking) = (get.clone(), asking.clone());
        async move {
            let found = patiently(&name, get).await;
            asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            found.map(|object| Ok(watcher::Event::Apply(object)))
        }
    };
    // Each waits for its time; none may keep another from it.
    let read = names.map(again).buffer_unordered(usize::MAX).filter_map(std::future::ready);
    // First what was asked for: what the watch brings at the same moment is newer.
    select_with_strategy(read, events, |(): &mut ()| PollNext::Left)
}

/// The object, as soon as it can be read; nothing if it is gone.
async fn patiently<K>(
    name: &ObjectName,
    get: impl AsyncFn(&ObjectName) -> Result<Option<Watched<K>>, kube::Error>,
) -> Option<Watched<K>> {
    let mut delay = FIRST;
    loop {
        sleep(delay).await;
        match get(name).await {
            Ok(Some(object)) if object.0.is_ok() => return Some(object),
            Ok(None) => return None,
            Ok(Some(_)) => {}
            Err(error) => tracing::warn!(%name, %error, "failed to read again; will try again"),
        }
        delay = LONGEST.min(delay * 2);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::stream;
    use kube::core::DeserializeGuard;

    use super::*;
    use crate::{api::EventSink, resolve::testing::parse};

    fn sink(name: &str) -> EventSink {
        parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {{name: {name}, namespace: bank}}, \
              spec: {{uri: 'http://a/'}}}}"
        ))
    }

    /// As the API server sends it, with a field of another version if `strange`.
    fn sent(name: &str, strange: bool) -> Watched<EventSink> {
        let mut json = serde_json::to_value(sink(name)).unwrap();
        if strange {
            json["spec"]["formerly"] = false.into();
        }
        let object: DeserializeGuard<EventSink> = serde_json::from_value(json).unwrap();
        assert_eq!(object.0.is_err(), strange);
        object
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_asked_for_until_it_can_and_what_is_gone_is_not() {
        let questions = Arc::new(AtomicUsize::new(0));
        let asked = questions.clone();
        let watch = [sent("a", true), sent("b", false), sent("a", true), sent("gone", true)];
        let watch = stream::iter(watch.map(|object| Ok(watcher::Event::Apply(object)))).chain(stream::pending());
        let get = async move |name: &ObjectName| {
            if name.name == "gone" {
                return Ok(None);
            }
            assert_eq!(name, &ObjectName::new("bank", "a"));
            match asked.fetch_add(1, Relaxed) {
                0 => Err(kube::Error::LinesCodecMaxLineLengthExceeded),
                1 => Ok(Some(sent("a", true))),
                _ => Ok(Some(sent("a", false))),
            }
        };
        let events = reread(watch, get);
        let seen = async |event: watcher::Result<watcher::Event<Watched<EventSink>>>| match event {
            Ok(watcher::Event::Apply(object)) => (name_of(&object).name, object.0.is_ok()),
            other => panic!("{other:?}"),
        };
        let seen: Vec<_> = events.take(5).then(seen).collect().await;
        let expected = [("a", false), ("b", true), ("a", false), ("gone", false), ("a", true)];
        assert_eq!(seen, expected.map(|(name, readable)| (name.to_owned(), readable)));
        assert_eq!(questions.load(Relaxed), 3, "one after the other");
    }
}
