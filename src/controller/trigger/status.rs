//! What an EventTrigger's status says. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    api::{
        EventLog, EventTrigger, EventTriggerStatus,
        condition::{CAPTURED, DELIVERING, LOG_READY, SINK_RESOLVED, Verdict},
    },
    controller::{
        context::name_of,
        log::{SCALED_TO_ZERO, STARTING, UNAVAILABLE},
        status::{Progress, conclude},
        trouble::Trouble,
    },
    log::{DEAD_LETTERS, EVENTS_PARKED, Hindrance, Remedy},
    name::{Ident, Literal, ObjectName},
    resolve::Problem,
};

const SUSPENDED: &str = "Suspended";

/// What one round found.
#[derive(Debug)]
pub(super) struct Seen {
    /// The log, open.
    pub(super) log: Result<EventLog, Trouble>,
    /// Where events go.
    pub(super) sink: Result<String, Trouble>,
    pub(super) captured: Captured,
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
    let flow = delivering(seen, &name_of(trigger), spec.suspend, before);
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

/// Whether its events are on their way; the workers are the log's. An error is what the workers met.
fn delivering(seen: &Seen, name: &ObjectName, suspend: bool, before: Option<&Condition>) -> Result<Verdict, Trouble> {
    let log = match seen {
        _ if suspend => return Ok(Verdict::no(SUSPENDED, "suspend is true: events wait in the log")),
        Seen { log: Ok(log), sink: Ok(_), captured: Captured::Yes(_), .. } => log,
        Seen { sink: Err(_), .. } => return Ok(Verdict::no("SinkNotResolved", "events wait in the log")),
        Seen { .. } => return Ok(Verdict::unknown("Pending", "waits for capture")),
    };
    let conditions = log.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == DELIVERING) {
        None => Ok(Verdict::no(STARTING, "the first worker is starting")),
        Some(workers) if workers.status == "True" => {
            flowing(&seen.hindrance, name, &Ident::new(&log.spec.schema), before)
        }
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
                 SELECT p.* FROM {schema}.parked AS p JOIN {schema}.trigger AS t ON t.id = p.trigger_id WHERE p.attempts > 0 \
                 AND t.namespace = {space} AND t.name = {name}; what fails to the last becomes a dead letter and can be redriven"
            ),
        ),
        _ => Verdict::yes("WorkersAvailable", ""),
    })
}

/// Whether events flow, but not all of them: somebody should know.
pub(in crate::controller) fn is_partial(reason: &str) -> bool {
    [DEAD_LETTERS, EVENTS_PARKED].contains(&reason)
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
        Seen { log, sink, captured, hindrance: Hindrance::default() }
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
        let hindrance = Hindrance { obstacle, dead: by == "dead", parked: by == "parked" };
        Seen { hindrance, ..seen(log(AVAILABLE), sink(), yes()) }
    }

    fn told(seen: &Seen, suspend: bool) -> String {
        let status = status(None, seen, &trigger(suspend), Timestamp::UNIX_EPOCH);
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

    const WELL: &str = "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved";

    #[rstest]
    #[case::waiting_may_help(
        "failing",
        "Delivering=False/SinkFailing Reconciling=True/SinkFailing Ready=False/SinkFailing"
    )]
    #[case::somebody_must_act("gone", "Delivering=False/SinkGone Stalled=True/SinkGone Ready=False/SinkGone")]
    #[case::others_flow("dead", "Delivering=True/DeadLetters Ready=True/DeadLetters")]
    #[case::others_flow("parked", "Delivering=True/EventsParked Ready=True/EventsParked")]
    fn what_the_workers_met_is_told(#[case] by: &str, #[case] expected: &str) {
        assert_eq!(told(&hindered(by), false), format!("{WELL} {expected}"));
        let suspended = "Delivering=False/Suspended Ready=True/Suspended";
        assert_eq!(told(&hindered(by), true), format!("{WELL} {suspended}"));
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
