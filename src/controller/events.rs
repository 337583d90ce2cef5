//! Events on an object, for `kubectl describe`: one for each transition, none for a state that lasts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::trigger::is_partial;
use crate::api::condition::READY;

/// The API server refuses a note of more than 1 kB.
const NOTE: usize = 1000;
/// Reasons that belong to every start, and so are no news.
const EXPECTED: [&str; 3] = ["Pending", "WorkersStarting", "Terminating"];

/// Something that happened to an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct News {
    /// `Normal` or `Warning`.
    pub(super) kind: EventType,
    /// CamelCase.
    pub(super) reason: &'static str,
    /// One sentence.
    pub(super) note: String,
}

impl News {
    /// Something went as it should.
    pub(super) fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason, note: note.into() }
    }

    /// Somebody should have a look.
    pub(super) fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason, note: note.into() }
    }
}

/// What is new about `Ready`: nothing if neither its status nor its reason changed.
///
/// The result borrows nothing of `before`, whose reason may come from an older version of this program.
pub(super) fn readiness(before: &[Condition], after: &[Condition]) -> Option<(EventType, String, String)> {
    let ready = |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == READY).cloned();
    let after = ready(after)?;
    let same = |before: &Condition| before.status == after.status && before.reason == after.reason;
    if ready(before).as_ref().is_some_and(same) || EXPECTED.contains(&after.reason.as_str()) {
        return None;
    }
    let warns = after.status == "False" || is_partial(&after.reason);
    let kind = if warns { EventType::Warning } else { EventType::Normal };
    // Of an EventLog that is ready `RetentionMet` may be false.
    let well = || "all that it needs is there".to_owned();
    let note = Some(after.message).filter(|message| !message.is_empty()).unwrap_or_else(well);
    Some((kind, after.reason, note))
}

/// Publishes Events as one reporter.
#[derive(Clone)]
pub(super) struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// Reports as `identity`.
    pub(super) fn new(client: Client, identity: &str) -> Self {
        let reporter =
            Reporter { controller: "eventtrigger.dev/controller".into(), instance: Some(identity.to_owned()) };
        Self { client, reporter }
    }

    /// Tells `news` of `object`. A failure is only logged: the Event reports what has happened already, so failing to
    /// file it must not change what comes next.
    pub(super) async fn publish(&self, object: &impl Resource<DynamicType = ()>, news: News) {
        let News { kind, reason, note } = news;
        self.send(object, kind, reason.to_owned(), note).await;
    }

    /// Tells how `Ready` changed, if it did.
    pub(super) async fn readiness(
        &self,
        object: &impl Resource<DynamicType = ()>,
        before: &[Condition],
        after: &[Condition],
    ) {
        if let Some((kind, reason, note)) = readiness(before, after) {
            self.send(object, kind, reason, note).await;
        }
    }

    async fn send(&self, object: &impl Resource<DynamicType = ()>, type_: EventType, reason: String, note: String) {
        // A recorder each time: it keeps what it sent by everything but the note, and would send the old note again.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let event = Event { type_, reason, note: Some(bounded(note)), action: "Reconcile".into(), secondary: None };
        if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
            // In a namespace that is being deleted nothing can be made any more.
            match error {
                kube::Error::Api(status) if status.code == 403 => {
                    tracing::debug!(reason = event.reason, error = status.message, "may not publish an event");
                }
                error => tracing::warn!(reason = event.reason, %error, "failed to publish an event"),
            }
        }
    }
}

/// Cut at a character's end.
fn bounded(mut note: String) -> String {
    if note.len() > NOTE {
        note.truncate(note.floor_char_boundary(NOTE - '…'.len_utf8()));
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::condition::{Verdict, set};

    fn ready(verdict: Verdict) -> Vec<Condition> {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, verdict, 1, Timestamp::UNIX_EPOCH);
        conditions
    }

    #[test]
    fn only_a_change_of_status_or_reason_is_news() {
        let missing = ready(Verdict::no("SecretNotFound", "a"));
        assert_eq!(readiness(&missing, &ready(Verdict::no("SecretNotFound", "b"))), None);
        let (kind, reason, note) = readiness(&missing, &ready(Verdict::no("SinkNotFound", "c"))).unwrap();
        assert_eq!((kind, reason.as_str(), note.as_str()), (EventType::Warning, "SinkNotFound", "c"));
        let (kind, _, note) = readiness(&missing, &ready(Verdict::yes("Ready", ""))).unwrap();
        assert_eq!((kind, note.as_str()), (EventType::Normal, "all that it needs is there"));
        assert_eq!(readiness(&missing, &ready(Verdict::yes("DeadLetters", ""))).unwrap().0, EventType::Warning);
        assert_eq!(readiness(&[], &ready(Verdict::no("WorkersStarting", ""))), None);
    }

    #[test]
    fn a_note_stays_within_what_the_api_server_takes() {
        assert_eq!(bounded("short".to_owned()), "short");
        let long = bounded("ü".repeat(600));
        assert!(long.len() <= NOTE && long.ends_with('…'));
    }
}
