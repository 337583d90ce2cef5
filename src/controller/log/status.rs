//! What an EventLog's status says. Pure.

use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};

use crate::{
    api::{
        EventLogStatus,
        condition::{DELIVERING, LOG_READY, RETENTION_MET, Verdict, set},
    },
    controller::{
        events::News,
        status::{Progress, conclude},
        trouble::Trouble,
    },
    log::{Holding, ServerFacts},
};

/// No worker, because the spec says so.
pub(in crate::controller) const SCALED_TO_ZERO: &str = "ScaledToZero";
/// The first worker is on its way.
pub(in crate::controller) const STARTING: &str = "WorkersStarting";
/// There were workers, or there should be by now.
pub(in crate::controller) const UNAVAILABLE: &str = "WorkersUnavailable";

/// What one round found.
pub(super) struct Seen {
    pub(super) database: Result<Database, Trouble>,
    pub(super) workers: Result<Option<Deployment>, Trouble>,
}

/// An open log.
pub(super) struct Database {
    /// Host, port and database.
    pub(super) name: String,
    pub(super) facts: ServerFacts,
    /// What the log held when it was tended last.
    pub(super) holding: Option<Holding>,
}

pub(super) fn status(old: Option<&EventLogStatus>, seen: &Seen, generation: i64, now: Timestamp) -> EventLogStatus {
    let mut new = old.cloned().unwrap_or_default();
    let log_ready = match &seen.database {
        Ok(Database { name, facts, holding }) => {
            new.database = Some(name.clone());
            new.server_version = Some(facts.version.clone());
            new.schema_version = Some(facts.schema_version);
            new.timeline = Some(facts.timeline);
            if let Some(holding) = holding {
                new.segments = i32::try_from(holding.segments).ok();
                new.kept_since = holding.since.and_then(|since| since.round(jiff::Unit::Second).ok()).map(Time);
                set(&mut new.conditions, RETENTION_MET, retention_met(holding), generation, now);
            }
            Verdict::yes("Opened", "")
        }
        Err(trouble) => trouble.verdict(),
    };
    let delivering = match &seen.workers {
        Ok(Some(workers)) => delivering(workers, "delivery.replicas", delivered(old)),
        Ok(None) => Verdict::no("NoWorkers", "the workers are started once the log is open"),
        Err(trouble) => trouble.verdict(),
    };
    if let Ok(Some(workers)) = &seen.workers {
        let (replicas, selector) = scale(workers);
        (new.replicas, new.selector) = (Some(replicas), Some(selector));
    }
    let fault =
        [&log_ready, &delivering].into_iter().find(|part| part.status != "True" && part.reason != SCALED_TO_ZERO);
    let ready = match fault {
        Some(first) => first.clone(),
        None if delivering.status == "True" => Verdict::yes("Ready", ""),
        None => Verdict::yes(SCALED_TO_ZERO, delivering.message.clone()),
    };
    let troubles = [seen.database.as_ref().err(), seen.workers.as_ref().err()];
    let progress = match (ready.status, troubles.into_iter().flatten().next()) {
        ("True", _) => Progress::Done,
        (_, Some(trouble)) => trouble.progress,
        (_, None) => Progress::Reconciling,
    };
    new.observed_generation = generation;
    conclude(&mut new.conditions, [(LOG_READY, log_ready), (DELIVERING, delivering)], ready, progress, generation, now);
    new
}

/// Whether the log keeps what it was told to keep.
fn retention_met(holding: &Holding) -> Verdict {
    if !holding.lost.is_empty() {
        let each = holding.lost.iter().map(|(trigger, events)| format!("{events} of EventTrigger {trigger}"));
        let each = each.collect::<Vec<_>>().join(", ");
        return Verdict::no(
            "EventsDropped",
            format!(
                "events were dropped undelivered, as the log had grown beyond spec.retention.maxHeldSize: {each}; the log's table \
                 \"lost\" names them; delete its rows once that is dealt with"
            ),
        );
    }
    match &holding.held_by {
        Some(trigger) => Verdict::no(
            "HeldByTrigger",
            format!(
                "the log keeps more than retention says, because EventTrigger {trigger} has not had its oldest events: resume it, \
                 repair its sink, or delete it"
            ),
        ),
        None => Verdict::yes("RetentionMet", ""),
    }
}

/// What happened to the log between two states that nobody would otherwise hear of.
pub(super) fn news(old: Option<&EventLogStatus>, new: &EventLogStatus) -> Vec<News> {
    let mut news = Vec::new();
    if let (Some(before), Some(now)) = (old.and_then(|old| old.timeline), new.timeline)
        && before < now
    {
        let note = format!(
            "the server was promoted or restored: timeline {before} became {now}; delivery goes on from where it is"
        );
        news.push(News::normal("ServerPromoted", note));
    }
    let retention =
        |status: &EventLogStatus| status.conditions.iter().find(|condition| condition.type_ == RETENTION_MET).cloned();
    if let Some(now) = retention(new).filter(|now| now.status == "False")
        && old.and_then(retention).is_none_or(|before| before.reason != now.reason || before.message != now.message)
    {
        let reason = if now.reason == "EventsDropped" { "EventsDropped" } else { "HeldByTrigger" };
        news.push(News::warning(reason, now.message));
    }
    news
}

/// Whether workers were, or should have been, there in the round before.
fn delivered(old: Option<&EventLogStatus>) -> bool {
    let conditions = old.iter().flat_map(|old| &old.conditions);
    let before = conditions.into_iter().find(|condition| condition.type_ == DELIVERING);
    before.is_some_and(|before| before.status == "True" || before.reason == UNAVAILABLE)
}

/// How many pods there are, and what selects them, for the scale subresource.
pub(in crate::controller) fn scale(workers: &Deployment) -> (i32, String) {
    let replicas = workers.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
    let labels = workers.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    (replicas, pairs.collect::<Vec<_>>().join(","))
}

/// One available worker is enough: it delivers everything until there are more. `field` says how many there are to be.
pub(in crate::controller) fn delivering(workers: &Deployment, field: &str, delivered: bool) -> Verdict {
    let name = workers.metadata.name.as_deref().unwrap_or_default();
    if workers.spec.as_ref().and_then(|spec| spec.replicas) == Some(0) {
        return Verdict::no(SCALED_TO_ZERO, format!("{field} is 0: events wait in the log"));
    }
    let (available, conditions) = match &workers.status {
        Some(status) => (status.available_replicas.unwrap_or_default(), status.conditions.as_deref()),
        None => (0, None),
    };
    if available > 0 {
        return Verdict::yes("WorkersAvailable", "");
    }
    let found = |kind: &str, value: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == value)
    };
    if let Some(failure) = found("ReplicaFailure", "True") {
        let why = failure.message.as_deref().unwrap_or_default();
        return Verdict::no(UNAVAILABLE, format!("Deployment {name} cannot start its pods: {why}"));
    }
    // Progress has stopped: they take longer than the Deployment's deadline.
    if delivered || found("Progressing", "False").is_some() {
        return Verdict::no(UNAVAILABLE, format!("no delivery worker is available; see the pods of Deployment {name}"));
    }
    Verdict::no(STARTING, format!("the first worker of Deployment {name} is starting"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        api::condition::{READY, RECONCILING, STALLED},
        name::ObjectName,
        resolve::{Problem, testing::parse},
    };

    #[allow(clippy::unnecessary_wraps)] // as it is found
    fn open() -> Result<Database, Trouble> {
        let facts = ServerFacts { version: "15.18".to_owned(), schema_version: 1, system_identifier: 7, timeline: 1 };
        Ok(Database { name: "db:5432/shop".to_owned(), facts, holding: None })
    }

    #[allow(clippy::unnecessary_wraps)] // as it is found
    fn workers(replicas: i32, status: &str) -> Result<Option<Deployment>, Trouble> {
        Ok(Some(parse(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: shop-delivery}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b, c: d}}}}, template: {{}}}}, status: {status}}}"
        ))))
    }

    fn told(seen: &Seen) -> String {
        let status = status(None, seen, 3, Timestamp::UNIX_EPOCH);
        let each = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={}/{}", condition.type_, condition.status, condition.reason)
        };
        status.conditions.iter().map(each).collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case("{availableReplicas: 1}", "LogReady=True/Opened Delivering=True/WorkersAvailable Ready=True/Ready")]
    #[case(
        "{}",
        "LogReady=True/Opened Delivering=False/WorkersStarting Reconciling=True/WorkersStarting Ready=False/WorkersStarting"
    )]
    #[case(
        "{conditions: [{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded}]}",
        "LogReady=True/Opened Delivering=False/WorkersUnavailable Reconciling=True/WorkersUnavailable Ready=False/WorkersUnavailable"
    )]
    #[case(
        "{conditions: [{type: ReplicaFailure, status: 'True', message: quota}]}",
        "LogReady=True/Opened Delivering=False/WorkersUnavailable Reconciling=True/WorkersUnavailable Ready=False/WorkersUnavailable"
    )]
    fn delivery_is_what_the_workers_are(#[case] status: &str, #[case] expected: &str) {
        assert_eq!(told(&Seen { database: open(), workers: workers(2, status) }), expected);
    }

    #[test]
    fn what_retention_cannot_keep_is_said_and_leaves_the_log_ready() {
        let of = |holding: Holding| {
            let database = open().map(|database| Database { holding: Some(holding), ..database });
            status(None, &Seen { database, workers: workers(1, "{availableReplicas: 1}") }, 1, Timestamp::UNIX_EPOCH)
        };
        let met = |status: &EventLogStatus| {
            let condition = status.conditions.iter().find(|one| one.type_ == RETENTION_MET).unwrap();
            let ready = status.conditions.iter().find(|one| one.type_ == READY).unwrap();
            format!("{} {} {}", ready.status, condition.reason, condition.message)
        };
        let slow = ObjectName::new("shop", "slow");
        let well = of(Holding { segments: 3, ..Holding::default() });
        let held = of(Holding { held_by: Some(slow.clone()), ..Holding::default() });
        let lost = of(Holding { lost: vec![(slow, 7)], ..Holding::default() });
        assert_eq!((met(&well).as_str(), well.segments), ("True RetentionMet ", Some(3)));
        assert!(met(&held).starts_with("True HeldByTrigger") && met(&held).contains("EventTrigger shop/slow"));
        assert!(met(&lost).starts_with("True EventsDropped") && met(&lost).contains("7 of EventTrigger shop/slow"));
        assert_eq!(
            (news(Some(&well), &well).len(), news(Some(&well), &held).len(), news(Some(&held), &held).len()),
            (0, 1, 0)
        );
        let promoted = EventLogStatus { timeline: Some(2), ..well.clone() };
        assert_eq!(news(Some(&well), &promoted)[0].reason, "ServerPromoted");
    }

    #[test]
    fn no_workers_by_wish_is_ready() {
        let seen = Seen { database: open(), workers: workers(0, "{}") };
        assert_eq!(told(&seen), "LogReady=True/Opened Delivering=False/ScaledToZero Ready=True/ScaledToZero");
    }

    #[test]
    fn a_database_that_is_away_is_waited_for_while_workers_go_on() {
        let away = Err(Trouble::retry("ConnectionFailed", "refused"));
        let seen = Seen { database: away, workers: workers(1, "{availableReplicas: 1}") };
        assert_eq!(
            told(&seen),
            "LogReady=False/ConnectionFailed Delivering=True/WorkersAvailable Reconciling=True/ConnectionFailed Ready=False/ConnectionFailed"
        );
    }

    #[test]
    fn a_missing_secret_stalls_and_comes_before_the_missing_workers() {
        let missing = Err(Trouble::stalled(Problem::new("SecretNotFound", "spec.connection.uri: …")));
        let seen = Seen { database: missing, workers: Ok(None) };
        assert_eq!(
            told(&seen),
            "LogReady=False/SecretNotFound Delivering=False/NoWorkers Stalled=True/SecretNotFound Ready=False/SecretNotFound"
        );
    }

    #[test]
    fn workers_that_were_there_are_missed() {
        let well = Seen { database: open(), workers: workers(1, "{availableReplicas: 1}") };
        let before = status(None, &well, 1, Timestamp::UNIX_EPOCH);
        let gone = Seen { database: open(), workers: workers(1, "{}") };
        let after = status(Some(&before), &gone, 1, Timestamp::UNIX_EPOCH);
        assert_eq!(after.conditions.iter().find(|one| one.type_ == DELIVERING).unwrap().reason, UNAVAILABLE);
        assert_eq!(status(Some(&after), &gone, 1, Timestamp::MAX), after);
    }

    #[test]
    fn recovery_clears_what_no_longer_holds_and_an_equal_round_changes_nothing() {
        let away = Seen { database: Err(Trouble::retry("ConnectionFailed", "")), workers: Ok(None) };
        let before = status(None, &away, 1, Timestamp::UNIX_EPOCH);
        let well = Seen { database: open(), workers: workers(1, "{availableReplicas: 1, replicas: 1}") };
        let after = status(Some(&before), &well, 1, Timestamp::from_second(9).unwrap());
        assert!(after.conditions.iter().all(|one| one.type_ != RECONCILING && one.type_ != STALLED));
        assert_eq!(after.conditions.iter().find(|one| one.type_ == READY).unwrap().status, "True");
        assert_eq!((after.replicas, after.selector.as_deref()), (Some(1), Some("a=b,c=d")));
        assert_eq!(status(Some(&after), &well, 1, Timestamp::MAX), after);
    }
}
