//! How a resource that is being deleted ends: its SQL is seen to, or nobody waits for that for ever.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::{context::name_of, events::News, status::Progress, trouble::Trouble};

/// Set to `true`, it lets a resource go at once, whatever is left in the database.
const ABANDON: &str = "eventtrigger.dev/abandon";
/// Reason of the Event that tells of it.
const ABANDONED: &str = "Abandoned";
/// How long a deletion waits for a database that is away.
const AWAY: Duration = Duration::from_mins(10);
/// How long it waits where only a person could help: a Secret or a database that is gone is not expected back, above all
/// when its whole namespace goes.
const GONE: Duration = Duration::from_mins(1);
/// The longest delay between two tries.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// What becomes of a resource that is being deleted.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Parting {
    /// It goes, and this is told.
    Go(News),
    /// It waits, for this.
    Wait(Trouble),
}

/// Whether `object` shall go without any look at the database.
pub(super) fn is_abandoned(object: &impl Resource) -> bool {
    object.annotations().get(ABANDON).is_some_and(|value| value == "true")
}

/// Judges a try to see to the SQL.
pub(super) fn judge(object: &impl Resource, outcome: Result<News, Trouble>, now: Timestamp) -> Parting {
    let trouble = match outcome {
        Ok(news) => return Parting::Go(news),
        Err(trouble) => trouble,
    };
    let patience = if trouble.progress == Progress::Stalled { GONE } else { AWAY };
    let since = object.meta().deletion_timestamp.as_ref().map_or(now, |since| since.0);
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if waited < patience {
        return Parting::Wait(trouble);
    }
    Parting::Go(abandoned(&format!("gave up after {} s ({})", patience.as_secs(), trouble.problem.message)))
}

/// What is told of a resource whose SQL could not be seen to.
pub(super) fn abandoned(why: &str) -> News {
    News::warning(ABANDONED, format!("{why}; its SQL objects, if the database is still there, were left in place"))
}

/// Logs a farewell after which something is left in the database: its Event goes with the namespace, in which there may be
/// none at all any more.
pub(super) fn record<K: Resource<DynamicType = ()>>(object: &K, news: &News) {
    if news.reason == ABANDONED {
        tracing::warn!(kind = %K::kind(&()), name = %name_of(object), note = news.note, "let go without the database");
    }
}

/// What is told of a resource that still waits.
pub(super) fn waiting(trouble: &Trouble) -> String {
    format!("{}; to let it go at once, annotate it with {ABANDON}=true", trouble.problem.message)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::Secret,
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };
    use rstest::rstest;

    use super::*;
    use crate::resolve::Problem;

    fn deleted() -> Secret {
        let metadata = ObjectMeta { deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)), ..ObjectMeta::default() };
        Secret { metadata, ..Secret::default() }
    }

    #[rstest]
    #[case::away(Trouble::retry("ConnectionFailed", "away"), 599, 600)]
    #[case::gone(Trouble::stalled(Problem::new("SecretNotFound", "gone")), 59, 60)]
    fn patience_ends(#[case] trouble: Trouble, #[case] waits: i64, #[case] gives_up: i64) {
        let at = |second| judge(&deleted(), Err(trouble.clone()), Timestamp::from_second(second).unwrap());
        assert_eq!(at(waits), Parting::Wait(trouble.clone()));
        assert!(matches!(at(gives_up), Parting::Go(News { reason: "Abandoned", .. })));
    }

    #[test]
    fn the_annotation_must_say_true() {
        let mut object = deleted();
        assert!(!is_abandoned(&object));
        object.annotations_mut().insert(ABANDON.to_owned(), "no".to_owned());
        assert!(!is_abandoned(&object));
        object.annotations_mut().insert(ABANDON.to_owned(), "true".to_owned());
        assert!(is_abandoned(&object));
    }
}
