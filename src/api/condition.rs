//! Condition types, reasons, and the one way to write them.
//!
//! Every type is positive: `True` is good. `Reconciling` and `Stalled` are kstatus' own and absent when they do not hold.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Sums up the others.
pub const READY: &str = "Ready";
/// The log is in the database and is ours.
pub const LOG_READY: &str = "LogReady";
/// The sink has an address, and everything it needs is there.
pub const SINK_RESOLVED: &str = "SinkResolved";
/// The table's SQL triggers are in place.
pub const CAPTURED: &str = "Captured";
/// Delivery workers are running.
pub const DELIVERING: &str = "Delivering";
/// The log keeps what retention says: no more, and nothing was dropped undelivered. Not a part of `Ready`.
pub const RETENTION_MET: &str = "RetentionMet";
/// kstatus: work is under way, or will be tried again.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: it will not get better until somebody changes something.
pub const STALLED: &str = "Stalled";

/// One condition's new value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// CamelCase, from a short fixed list.
    pub reason: &'static str,
    /// One sentence; for a failure, what to change.
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "True", reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "False", reason, message: message.into() }
    }

    /// It cannot be told yet.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason, message: message.into() }
    }
}

/// Writes a condition of `kind`. Its transition time moves only when its status flips.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, generation: i64, now: Timestamp) {
    let Verdict { status, reason, message } = verdict;
    let found = conditions.iter().position(|condition| condition.type_ == kind);
    let since = found
        .map(|at| &conditions[at])
        .filter(|before| before.status == status)
        .map_or(Time(now), |before| before.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match found {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Removes a condition that holds no longer.
pub fn clear(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|condition| condition.type_ != kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let mut conditions = Vec::new();
        set(&mut conditions, READY, Verdict::no("A", "a"), 1, at(1));
        set(&mut conditions, READY, Verdict::no("B", "b"), 2, at(2));
        assert_eq!((conditions[0].last_transition_time.0, conditions[0].reason.as_str()), (at(1), "B"));
        set(&mut conditions, READY, Verdict::yes("C", "c"), 2, at(3));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
        assert_eq!(conditions.len(), 1);
    }
}
