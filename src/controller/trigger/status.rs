//! What an EventTrigger's status says. Pure.

use jiff::Timestamp;

use crate::{
    api::{
        EventLog, EventTriggerSpec, EventTriggerStatus,
        condition::{CAPTURED, DELIVERING, LOG_READY, SINK_RESOLVED, Verdict},
    },
    controller::{
        log::{SCALED_TO_ZERO, STARTING, UNAVAILABLE},
        status::{Progress, conclude},
        trouble::Trouble,
    },
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
    spec: &EventTriggerSpec,
    generation: i64,
    now: Timestamp,
) -> EventTriggerStatus {
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
        Captured::NotTried => Verdict::unknown("Pending", "waits for the EventLog"),
    };
    let resolved = match &seen.sink {
        Ok(_) => Verdict::yes("Resolved", ""),
        Err(trouble) => trouble.verdict(),
    };
    let delivering = delivering(seen, spec.suspend);
    let parts = [log_ready, captured, resolved, delivering];
    let by_wish = |part: &Verdict| [SUSPENDED, SCALED_TO_ZERO].contains(&part.reason);
    let ready = match parts.iter().find(|part| part.status != "True") {
        None => Verdict::yes("Ready", ""),
        Some(wish) if by_wish(wish) => Verdict::yes(wish.reason, wish.message.clone()),
        Some(fault) => Verdict { status: "False", ..fault.clone() },
    };
    let failed = match &seen.captured {
        Captured::Failed(trouble) => Some(trouble),
        Captured::Yes(_) | Captured::NotTried => None,
    };
    // In the order of the conditions: the first is what `Ready` tells.
    let troubles = [seen.log.as_ref().err(), failed, seen.sink.as_ref().err()];
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
    new
}

/// Whether its events are on their way; the workers are the log's.
fn delivering(seen: &Seen, suspend: bool) -> Verdict {
    let log = match seen {
        _ if suspend => return Verdict::no(SUSPENDED, "suspend is true: events wait in the log"),
        Seen { log: Ok(log), sink: Ok(_), captured: Captured::Yes(_) } => log,
        Seen { sink: Err(_), .. } => return Verdict::no("SinkNotResolved", "events wait in the log"),
        Seen { .. } => return Verdict::unknown("Pending", "waits for capture"),
    };
    let conditions = log.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == DELIVERING) {
        None => Verdict::no(STARTING, "the first worker is starting"),
        Some(workers) if workers.status == "True" => Verdict::yes("WorkersAvailable", ""),
        Some(workers) => {
            let known = [SCALED_TO_ZERO, STARTING].into_iter().find(|reason| workers.reason == *reason);
            Verdict::no(known.unwrap_or(UNAVAILABLE), workers.message.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::resolve::{Problem, testing::parse};

    fn spec(suspend: bool) -> EventTriggerSpec {
        let trigger: crate::api::EventTrigger = parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {{name: paid}}, spec: {{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, sink: {{uri: 'http://a/'}}, suspend: {suspend}}}}}"
        ));
        trigger.spec
    }

    fn log(delivering: &str) -> Result<EventLog, Trouble> {
        Ok(parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {{name: shop}}, spec: {{connection: {{}}}}, status: {{conditions: [{{type: Delivering, {delivering}, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
        )))
    }

    const AVAILABLE: &str = "status: 'True', reason: WorkersAvailable";

    fn yes() -> Captured {
        Captured::Yes(vec!["eventtrigger_insert".to_owned()])
    }

    fn sink() -> Result<String, Trouble> {
        Ok("http://a/".to_owned())
    }

    fn stalled(reason: &'static str) -> Trouble {
        Trouble::stalled(Problem::new(reason, "m"))
    }

    fn told(seen: &Seen, suspend: bool) -> String {
        let status = status(None, seen, &spec(suspend), 1, Timestamp::UNIX_EPOCH);
        let each = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={}/{}", condition.type_, condition.status, condition.reason)
        };
        status.conditions.iter().map(each).collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case::well(Seen { log: log(AVAILABLE), sink: sink(), captured: yes() }, false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=True/WorkersAvailable Ready=True/Ready")]
    #[case::suspended(Seen { log: log(AVAILABLE), sink: sink(), captured: yes() }, true,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/Suspended Ready=True/Suspended")]
    #[case::scaled_to_zero(Seen { log: log("status: 'False', reason: ScaledToZero"), sink: sink(), captured: yes() }, false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/ScaledToZero Ready=True/ScaledToZero")]
    #[case::workers_starting(Seen { log: log("status: 'False', reason: WorkersStarting"), sink: sink(), captured: yes() }, false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=True/Resolved Delivering=False/WorkersStarting Reconciling=True/WorkersStarting Ready=False/WorkersStarting")]
    #[case::no_sink(Seen { log: log(AVAILABLE), sink: Err(stalled("SinkNotFound")), captured: yes() }, false,
        "LogReady=True/Opened Captured=True/Installed SinkResolved=False/SinkNotFound Delivering=False/SinkNotResolved Stalled=True/SinkNotFound Ready=False/SinkNotFound")]
    #[case::no_table(Seen { log: log(AVAILABLE), sink: sink(), captured: Captured::Failed(stalled("TableNotFound")) }, false,
        "LogReady=True/Opened Captured=False/TableNotFound SinkResolved=True/Resolved Delivering=Unknown/Pending Stalled=True/TableNotFound Ready=False/TableNotFound")]
    #[case::no_table_suspended(Seen { log: log(AVAILABLE), sink: sink(), captured: Captured::Failed(stalled("TableNotFound")) }, true,
        "LogReady=True/Opened Captured=False/TableNotFound SinkResolved=True/Resolved Delivering=False/Suspended Stalled=True/TableNotFound Ready=False/TableNotFound")]
    #[case::locked(Seen { log: log(AVAILABLE), sink: sink(), captured: Captured::Failed(Trouble::retry("TableLocked", "m")) }, false,
        "LogReady=True/Opened Captured=False/TableLocked SinkResolved=True/Resolved Delivering=Unknown/Pending Reconciling=True/TableLocked Ready=False/TableLocked")]
    #[case::no_log(Seen { log: Err(stalled("LogNotFound")), sink: sink(), captured: Captured::NotTried }, false,
        "LogReady=False/LogNotFound Captured=Unknown/Pending SinkResolved=True/Resolved Delivering=Unknown/Pending Stalled=True/LogNotFound Ready=False/LogNotFound")]
    fn each_condition_tells_its_part(#[case] seen: Seen, #[case] suspend: bool, #[case] expected: &str) {
        assert_eq!(told(&seen, suspend), expected);
    }

    #[test]
    fn what_is_installed_stays_named_while_the_database_is_away() {
        let well = Seen { log: log(AVAILABLE), sink: sink(), captured: yes() };
        let before = status(None, &well, &spec(false), 1, Timestamp::UNIX_EPOCH);
        let away = Seen { log: Err(Trouble::retry("LogNotReady", "m")), sink: sink(), captured: Captured::NotTried };
        let after = status(Some(&before), &away, &spec(false), 1, Timestamp::UNIX_EPOCH);
        assert_eq!(after.sql_triggers, ["eventtrigger_insert"]);
        assert_eq!(status(Some(&after), &away, &spec(false), 1, Timestamp::MAX), after);
    }
}
