//! What an EventTrigger's status says. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use crate::{
    api::{
        CloudEventAttributes, EventLog, EventTrigger, EventTriggerStatus,
        condition::{CAPTURED, DELIVERING, LOG_READY, SINK_RESOLVED, Verdict},
    },
    controller::{
        context::{log_of, name_of},
        log::{self, SCALED_TO_ZERO, STARTING, UNAVAILABLE, scale},
        status::{Progress, conclude},
        trouble::Trouble,
    },
    delivery::cloudevents,
    log::{DEAD_LETTER_SINK_FAILING, DEAD_LETTERS, EVENTS_PARKED, Hindrance, Operation, Remedy},
    name::{Ident, Literal, ObjectName},
    resolve::Problem,
};

const SUSPENDED: &str = "Suspended";
/// There is no such log.
pub(super) const LOG_NOT_FOUND: &str = "LogNotFound";

/// What one round found.
#[derive(Debug)]
pub(super) struct Seen {
    /// The log, open.
    pub(super) log: Result<EventLog, Trouble>,
    /// Where events go.
    pub(super) sink: Result<String, Trouble>,
    pub(super) captured: Captured,
    /// The workers of its own, if it asks for some and they are there.
    pub(super) workers: Result<Option<Deployment>, Trouble>,
    /// What the workers found.
    pub(super) hindrance: Hindrance,
}

/// How far capture has come.
#[derive(Debug)]
pub(super) enum Captured {
    /// By these SQL triggers.
    Yes(Vec<String>),
    /// Not, or not as the spec wants it.
    Failed(Trouble),
    /// What must come before it is missing; it is as it was.
    NotTried,
}

pub(super) fn status(
    old: Option<&EventTriggerStatus>,
    seen: &Seen,
    trigger: &EventTrigger,
    now: Timestamp,
) -> EventTriggerStatus {
    let (spec, generation) = (&trigger.spec, trigger.metadata.generation.unwrap_or_default());
    let mut new = old.cloned().unwrap_or_default();
    let log_ready = match &seen.log {
        Ok(_) => Verdict::yes("Opened", ""),
        Err(trouble) => trouble.verdict(),
    };
    let captured = match &seen.captured {
        Captured::Yes(sql_triggers) => {
            new.sql_triggers.clone_from(sql_triggers);
            Verdict::yes("Installed", "")
        }
        Captured::Failed(trouble) => trouble.verdict(),
        Captured::NotTried => Verdict::unknown("Pending", "waits for what the spec refers to"),
    };
    let resolved = match &seen.sink {
        Ok(_) => Verdict::yes("Resolved", ""),
        Err(trouble) => trouble.verdict(),
    };
    let before = old.and_then(|old| old.conditions.iter().find(|condition| condition.type_ == DELIVERING));
    let own_before = old.is_some_and(|old| old.replicas.is_some_and(|replicas| replicas > 0));
    let flow = delivering(seen, trigger, before, own_before);
    if spec.deployment.is_none() {
        (new.replicas, new.selector) = (None, None);
    } else if let Ok(workers) = &seen.workers {
        (new.replicas, new.selector) = workers.as_ref().map(scale).unzip();
    }
    let delivering = flow.as_ref().map_or_else(Trouble::verdict, Clone::clone);
    let parts = [log_ready, captured, resolved, delivering];
    let by_wish = |part: &Verdict| [SUSPENDED, SCALED_TO_ZERO].contains(&part.reason);
    // What is wrong before what only waits for it.
    let fault = parts.iter().find(|part| part.status == "False" && !by_wish(part));
    let ready = match fault.or_else(|| parts.iter().find(|part| part.status != "True")) {
        None => match &parts[3] {
            some if is_partial(some.reason) => some.clone(),
            _ => Verdict::yes("Ready", ""),
        },
        Some(wish) if by_wish(wish) => Verdict::yes(wish.reason, wish.message.clone()),
        Some(fault) => Verdict { status: "False", ..fault.clone() },
    };
    let failed = match &seen.captured {
        Captured::Failed(trouble) => Some(trouble),
        Captured::Yes(_) | Captured::NotTried => None,
    };
    // In the order of the conditions: the first is what `Ready` tells.
    let troubles = [seen.log.as_ref().err(), failed, seen.sink.as_ref().err(), flow.as_ref().err()];
    let progress = match (ready.status, troubles.into_iter().flatten().next()) {
        ("True", _) => Progress::Done,
        (_, Some(trouble)) => trouble.progress,
        (_, None) => Progress::Reconciling,
    };
    new.observed_generation = generation;
    new.table = Some(format!("{}.{}", spec.table.schema, spec.table.name));
    new.ce_attributes = attributes(trigger);
    new.sink_uri = seen.sink.as_ref().ok().cloned();
    let kinds = [LOG_READY, CAPTURED, SINK_RESOLVED, DELIVERING];
    conclude(&mut new.conditions, kinds.into_iter().zip(parts), ready, progress, generation, now);
    if let (Err(_), Some(obstacle)) = (&flow, &seen.hindrance.obstacle)
        && before.is_none_or(|before| before.status != "False")
        && let Some(delivering) = new.conditions.iter_mut().find(|condition| condition.type_ == DELIVERING)
    {
        // The workers met it before anybody here heard of it.
        delivering.last_transition_time = Time(obstacle.since);
    }
    new
}

/// What its events have in common, as CloudEvents.
fn attributes(trigger: &EventTrigger) -> Vec<CloudEventAttributes> {
    let on = &trigger.spec.on;
    let operations = [
        (Operation::Insert, on.insert.is_some()),
        (Operation::Update, on.update.is_some()),
        (Operation::Delete, on.delete.is_some()),
        (Operation::Truncate, on.truncate.is_some()),
    ];
    let source = cloudevents::source(&log_of(trigger));
    let wanted = operations.into_iter().filter(|(_, wanted)| *wanted);
    let attributes =
        |operation| CloudEventAttributes { kind: cloudevents::kind(operation).to_owned(), source: source.clone() };
    wanted.map(|(operation, _)| attributes(operation)).collect()
}

/// Whether its events are on their way, by the log's workers or its own, which may have been there before. An error is what the
/// workers met.
fn delivering(
    seen: &Seen,
    trigger: &EventTrigger,
    before: Option<&Condition>,
    own_before: bool,
) -> Result<Verdict, Trouble> {
    let log = match seen {
        _ if trigger.spec.suspend => return Ok(Verdict::no(SUSPENDED, "suspend is true: events wait in the log")),
        Seen { log: Ok(log), sink: Ok(_), captured: Captured::Yes(_), .. } => log,
        Seen { sink: Err(_), captured: Captured::Yes(_), .. } => {
            return Ok(Verdict::no("SinkNotResolved", "events wait in the log"));
        }
        Seen { sink: Err(_), .. } => return Ok(Verdict::no("SinkNotResolved", "waits for its sink, and for capture")),
        Seen { .. } => return Ok(Verdict::unknown("Pending", "waits for capture")),
    };
    let flowing = || flowing(&seen.hindrance, &name_of(trigger), &Ident::new(&log.spec.schema), before);
    if trigger.spec.deployment.is_some() {
        let Some(workers) = seen.workers.as_ref().map_err(Clone::clone)? else {
            return Ok(Verdict::no(STARTING, "the first worker is starting"));
        };
        let missed = before.is_some_and(|before| before.status == "True" || before.reason == UNAVAILABLE);
        let verdict = log::delivering(workers, "deployment.replicas", own_before && missed);
        return if verdict.status == "True" { flowing() } else { Ok(verdict) };
    }
    let conditions = log.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == DELIVERING) {
        None => Ok(Verdict::no(STARTING, "the first worker is starting")),
        Some(workers) if workers.status == "True" => flowing(),
        Some(workers) => {
            let known = [SCALED_TO_ZERO, STARTING].into_iter().find(|reason| workers.reason == *reason);
            Ok(Verdict::no(known.unwrap_or(UNAVAILABLE), workers.message.clone()))
        }
    }
}

/// What workers that run make of the trigger's events. No number is in any message, for a status is not written for every event.
fn flowing(
    hindrance: &Hindrance,
    name: &ObjectName,
    schema: &Ident,
    before: Option<&Condition>,
) -> Result<Verdict, Trouble> {
    if let Some(obstacle) = &hindrance.obstacle {
        // What a later attempt said of the same obstacle is no news.
        let told = before.filter(|before| before.status == "False" && before.reason == obstacle.reason);
        let message = told.map_or(&obstacle.message, |told| &told.message).clone();
        let progress = match obstacle.remedy {
            Remedy::Wait => Progress::Reconciling,
            Remedy::Act => Progress::Stalled,
        };
        return Err(Trouble { problem: Problem::new(obstacle.reason, message), progress });
    }
    let ObjectName { namespace, name } = name;
    let (space, name) = (Literal(namespace), Literal(name));
    Ok(match hindrance.reason() {
        Some(reason @ DEAD_LETTER_SINK_FAILING) => Verdict::yes(
            reason,
            format!(
                "events were given up, and the sink that spec.delivery.deadLetterSink names has not taken them for more than a minute; \
                 they are kept, and it is tried again and again; look at that receiver, and at what the workers log of it; what waits: \
                 SELECT * FROM {schema}.dead_letter WHERE trigger_namespace = {space} AND trigger_name = {name} AND forward IS NOT NULL"
            ),
        ),
        Some(reason @ DEAD_LETTERS) => Verdict::yes(
            reason,
            format!(
                "events were given up and are kept, others flow; what and why: SELECT * FROM {schema}.dead_letter WHERE \
                 trigger_namespace = {space} AND trigger_name = {name}; to deliver them again: SELECT \
                 {schema}.redrive({space}, {name}); or DELETE what is not wanted any more"
            ),
        ),
        Some(reason @ EVENTS_PARKED) => Verdict::yes(
            reason,
            format!(
                "events fail and are tried again, those of the same keys wait behind them, all others flow; which and why: \
                 SELECT p.* FROM {schema}.parked AS p JOIN {schema}.cursor USING (subscription) JOIN {schema}.trigger AS t ON t.id = trigger_id WHERE p.attempts > 0 \
                 AND t.namespace = {space} AND t.name = {name}; what fails to the last becomes a dead letter and can be redriven"
            ),
        ),
        _ => Verdict::yes("WorkersAvailable", ""),
    })
}

/// Whether events flow, but not all of them: somebody should know.
pub(in crate::controller) fn is_partial(reason: &str) -> bool {
    [DEAD_LETTER_SINK_FAILING, DEAD_LETTERS, EVENTS_PARKED].contains(&reason)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{api::condition::READY, log::Obstacle, resolve::testing::parse};

    fn trigger(suspend: bool) -> EventTrigger {
        parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {{name: paid, namespace: shop, generation: 1}}, spec: {{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, sink: {{uri: 'http://a/'}}, suspend: {suspend}}}}}"
        ))
    }

    #[allow(clippy::unnecessary_wraps)] // as it is found
    fn log(delivering: &str) -> Result<EventLog, Trouble> {
        Ok(parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {{name: shop}}, spec: {{connection: {{}}}}, status: {{conditions: [{{type: Delivering, {delivering}, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
        )))
    }

    const AVAILABLE: &str = "status: 'True', reason: WorkersAvailable";

    fn yes() -> Captured {
        Captured::Yes(vec!["eventtrigger_insert".to_owned()])
    }

    #[allow(clippy::unnecessary_wraps)] // as it is found
    fn sink() -> Result<String, Trouble> {
        Ok("http://a/".to_owned())
    }

    fn stalled(reason: &'static str) -> Trouble {
        Trouble::stalled(Problem::new(reason, "m"))
    }

    fn seen(log: Result<EventLog, Trouble>, sink: Result<String, Trouble>, captured: Captured) -> Seen {
        Seen { log, sink, captured, workers: Ok(None), hindrance: Hindrance::default() }
    }

    fn hindered(by: &str) -> Seen {
        let obstacle = |reason, remedy| {
            let since = Timestamp::from_second(-60).unwrap();
            Some(Obstacle { reason, message: format!("{reason}: do this"), since, remedy })
        };
        let obstacle = match by {
            "failing" => obstacle("SinkFailing", Remedy::Wait),
            "gone" => obstacle("SinkGone", Remedy::Act),
            _ => None,
        };
        let hindrance =
            Hindrance { obstacle, dead: by == "dead", parked: by == "parked", unforwarded: by == "unforwarded" };
        Seen { hindrance, ..seen(log(AVAILABLE), sink(), yes()) }
    }

    fn told(seen: &Seen, suspend: bool) -> String {
        told_of(seen, &trigger(suspend))
    }

    fn told_of(seen: &Seen, trigger: &EventTrigger) -> String {
        let status = status(None, seen, trigger, Timestamp::UNIX_EPOCH);
        let each = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={}/{}", condition.type_, condition.status, condition.reason)
        };
        status.conditions.iter().map(each).collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case::well(
        seen(log(AVAILABLE), sink(), yes()),
        false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=True/WorkersAvailable Ready=True/Ready"
    )]
    #[case::suspended(
        seen(log(AVAILABLE), sink(), yes()),
        true,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/Suspended Ready=True/Suspended"
    )]
    #[case::scaled_to_zero(
        seen(log("status: 'False', reason: ScaledToZero"), sink(), yes()),
        false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/ScaledToZero Ready=True/ScaledToZero"
    )]
    #[case::workers_starting(
        seen(log("status: 'False', reason: WorkersStarting"), sink(), yes()),
        false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/WorkersStarting Reconciling=True/WorkersStarting Ready=False/WorkersStarting"
    )]
    #[case::no_sink(
        seen(log(AVAILABLE), Err(stalled("SinkNotFound")), yes()),
        false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=False/SinkNotFound Delivering=False/SinkNotResolved Stalled=True/SinkNotFound Ready=False/SinkNotFound"
    )]
    #[case::no_table(
        seen(log(AVAILABLE), sink(), Captured::Failed(stalled("TableNotFound"))),
        false,
        "LogReady=True/Opened Captured=False/TableNotFound SinkResolved=True/Resolved Delivering=Unknown/Pending Stalled=True/TableNotFound Ready=False/TableNotFound"
    )]
    #[case::no_table_suspended(
        seen(log(AVAILABLE), sink(), Captured::Failed(stalled("TableNotFound"))),
        true,
        "LogReady=True/Opened Captured=False/TableNotFound SinkResolved=True/Resolved Delivering=False/Suspended Stalled=True/TableNotFound Ready=False/TableNotFound"
    )]
    #[case::locked(
        seen(log(AVAILABLE), sink(), Captured::Failed(Trouble::retry("TableLocked", "m"))),
        false,
        "LogReady=True/Opened Captured=False/TableLocked SinkResolved=True/Resolved Delivering=Unknown/Pending Reconciling=True/TableLocked Ready=False/TableLocked"
    )]
    #[case::sink_not_looked_up(
        seen(log(AVAILABLE), Err(Trouble::retry("ApiServerError", "m")), Captured::NotTried),
        false,
        "LogReady=True/Opened Captured=Unknown/Pending SinkResolved=False/ApiServerError Delivering=False/SinkNotResolved Reconciling=True/ApiServerError Ready=False/ApiServerError"
    )]
    #[case::no_log(
        seen(Err(stalled("LogNotFound")), sink(), Captured::NotTried),
        false,
        "LogReady=False/LogNotFound Captured=Unknown/Pending SinkResolved=True/Resolved Delivering=Unknown/Pending Stalled=True/LogNotFound Ready=False/LogNotFound"
    )]
    fn each_condition_tells_its_part(#[case] seen: Seen, #[case] suspend: bool, #[case] expected: &str) {
        assert_eq!(told(&seen, suspend), expected);
    }

    #[rstest]
    #[case::captured(yes(), "events wait in the log")]
    #[case::not_captured(Captured::Failed(stalled("TableNotFound")), "waits for its sink, and for capture")]
    fn without_a_sink_only_what_is_captured_waits_in_the_log(#[case] captured: Captured, #[case] expected: &str) {
        let seen = seen(log(AVAILABLE), Err(stalled("SinkNotFound")), captured);
        let status = status(None, &seen, &trigger(false), Timestamp::UNIX_EPOCH);
        let delivering = status.conditions.iter().find(|condition| condition.type_ == DELIVERING).unwrap();
        assert_eq!((delivering.reason.as_str(), delivering.message.as_str()), ("SinkNotResolved", expected));
    }

    const WELL: &str = "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved";

    #[rstest]
    #[case::waiting_may_help(
        "failing",
        "Delivering=False/SinkFailing Reconciling=True/SinkFailing Ready=False/SinkFailing"
    )]
    #[case::somebody_must_act("gone", "Delivering=False/SinkGone Stalled=True/SinkGone Ready=False/SinkGone")]
    #[case::others_flow("dead", "Delivering=True/DeadLetters Ready=True/DeadLetters")]
    #[case::others_flow_and_nobody_takes_them(
        "unforwarded",
        "Delivering=True/DeadLetterSinkFailing Ready=True/DeadLetterSinkFailing"
    )]
    #[case::others_flow("parked", "Delivering=True/EventsParked Ready=True/EventsParked")]
    fn what_the_workers_met_is_told(#[case] by: &str, #[case] expected: &str) {
        assert_eq!(told(&hindered(by), false), format!("{WELL} {expected}"));
        let suspended = "Delivering=False/Suspended Ready=True/Suspended";
        assert_eq!(told(&hindered(by), true), format!("{WELL} {suspended}"));
    }

    fn own(workers: Result<Option<Deployment>, Trouble>, by: &str) -> (Seen, EventTrigger) {
        let mut trigger = trigger(false);
        trigger.spec.deployment = Some(parse("{replicas: 2}"));
        // The log's own workers have nothing to do with it.
        let log = log("status: 'False', reason: ScaledToZero");
        (Seen { log, workers, ..hindered(by) }, trigger)
    }

    #[allow(clippy::unnecessary_wraps)] // as it is found
    fn workers(replicas: i32, status: &str) -> Result<Option<Deployment>, Trouble> {
        Ok(Some(parse(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: paid-workers}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b, c: d}}}}, template: {{}}}}, status: {status}}}"
        ))))
    }

    #[rstest]
    #[case::well(workers(2, "{availableReplicas: 1}"), "", "Delivering=True/WorkersAvailable Ready=True/Ready")]
    #[case::hindered(
        workers(2, "{availableReplicas: 1}"),
        "gone",
        "Delivering=False/SinkGone Stalled=True/SinkGone Ready=False/SinkGone"
    )]
    #[case::scaled_to_zero(workers(0, "{}"), "", "Delivering=False/ScaledToZero Ready=True/ScaledToZero")]
    #[case::starting(
        workers(2, "{}"),
        "",
        "Delivering=False/WorkersStarting Reconciling=True/WorkersStarting Ready=False/WorkersStarting"
    )]
    #[case::not_there_yet(
        Ok(None),
        "",
        "Delivering=False/WorkersStarting Reconciling=True/WorkersStarting Ready=False/WorkersStarting"
    )]
    #[case::refused(
        Err(stalled("WorkersRefused")),
        "",
        "Delivering=False/WorkersRefused Stalled=True/WorkersRefused Ready=False/WorkersRefused"
    )]
    fn delivery_by_workers_of_its_own_is_what_those_are(
        #[case] workers: Result<Option<Deployment>, Trouble>,
        #[case] by: &str,
        #[case] expected: &str,
    ) {
        let (seen, trigger) = own(workers, by);
        assert_eq!(told_of(&seen, &trigger), format!("{WELL} {expected}"));
    }

    #[test]
    fn workers_of_its_own_that_were_there_are_missed_and_those_that_are_new_are_not() {
        let reason = |status: &EventTriggerStatus| {
            status.conditions.iter().find(|condition| condition.type_ == DELIVERING).unwrap().reason.clone()
        };
        let round = |old: Option<&EventTriggerStatus>, replicas| {
            let (seen, trigger) = own(workers(2, replicas), "");
            status(old, &seen, &trigger, Timestamp::UNIX_EPOCH)
        };
        // The log's workers delivered it until now.
        let shared = status(None, &seen(log(AVAILABLE), sink(), yes()), &trigger(false), Timestamp::UNIX_EPOCH);
        let starting = round(Some(&shared), "{replicas: 1}");
        assert_eq!((reason(&shared), reason(&starting)), ("WorkersAvailable".to_owned(), STARTING.to_owned()));
        assert_eq!(reason(&round(Some(&starting), "{replicas: 2}")), STARTING);
        let there = round(Some(&starting), "{replicas: 2, availableReplicas: 2}");
        assert_eq!((there.replicas, there.selector.as_deref()), (Some(2), Some("a=b,c=d")));
        let missed = round(Some(&there), "{replicas: 2}");
        assert_eq!(reason(&missed), UNAVAILABLE);
        assert_eq!(reason(&round(Some(&missed), "{replicas: 2}")), UNAVAILABLE);
        let shared = status(Some(&there), &seen(log(AVAILABLE), sink(), yes()), &trigger(false), Timestamp::UNIX_EPOCH);
        assert_eq!((shared.replicas, shared.selector), (None, None));
    }

    #[test]
    fn an_obstacle_counts_from_when_the_workers_met_it_and_its_message_stays_while_its_reason_does() {
        let delivering = |status: &EventTriggerStatus| {
            let found = status.conditions.iter().find(|condition| condition.type_ == DELIVERING).unwrap();
            (found.message.clone(), found.last_transition_time.0)
        };
        let trigger = trigger(false);
        let well = status(None, &seen(log(AVAILABLE), sink(), yes()), &trigger, Timestamp::UNIX_EPOCH);
        let met = status(Some(&well), &hindered("failing"), &trigger, Timestamp::UNIX_EPOCH);
        assert_eq!(delivering(&met), ("SinkFailing: do this".to_owned(), Timestamp::from_second(-60).unwrap()));
        let mut later = hindered("failing");
        later.hindrance.obstacle.as_mut().unwrap().message = "another attempt".to_owned();
        assert_eq!(status(Some(&met), &later, &trigger, Timestamp::MAX), met);
        let gone = status(Some(&met), &hindered("gone"), &trigger, Timestamp::MAX);
        assert_eq!(delivering(&gone), ("SinkGone: do this".to_owned(), Timestamp::from_second(-60).unwrap()));
    }

    #[test]
    fn what_is_parked_or_dead_is_told_with_where_to_look_and_how_to_redrive() {
        let message = |by| {
            let status = status(None, &hindered(by), &trigger(false), Timestamp::UNIX_EPOCH);
            status.conditions.iter().find(|condition| condition.type_ == READY).unwrap().message.clone()
        };
        assert!(message("dead").contains(r#"SELECT "eventlog".redrive('shop', 'paid')"#), "{}", message("dead"));
        assert!(message("unforwarded").contains("spec.delivery.deadLetterSink"), "{}", message("unforwarded"));
        assert!(message("parked").contains(r#"FROM "eventlog".parked"#), "{}", message("parked"));
    }

    #[test]
    fn what_is_installed_stays_named_while_the_database_is_away() {
        let well = seen(log(AVAILABLE), sink(), yes());
        let before = status(None, &well, &trigger(false), Timestamp::UNIX_EPOCH);
        let away = seen(Err(Trouble::retry("LogNotReady", "m")), sink(), Captured::NotTried);
        let after = status(Some(&before), &away, &trigger(false), Timestamp::UNIX_EPOCH);
        assert_eq!(after.sql_triggers, ["eventtrigger_insert"]);
        assert_eq!(status(Some(&after), &away, &trigger(false), Timestamp::MAX), after);
    }
}
