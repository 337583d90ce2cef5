//! What keeps events from their sinks. The workers write it into the log, for they cannot reach Kubernetes; the controller reads
//! it there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Admin, AdminError, failed};
use crate::name::ObjectName;

/// Events were given up.
pub const DEAD_LETTERS: &str = "DeadLetters";
/// Events were given up, and the dead letter sink does not take them.
pub const DEAD_LETTER_SINK_FAILING: &str = "DeadLetterSinkFailing";
/// Events fail again and again, and others wait behind them.
pub const EVENTS_PARKED: &str = "EventsParked";

/// What workers find, and what helps.
const KNOWN: [(&str, Remedy); 5] = [
    ("SinkUnreachable", Remedy::Wait),
    ("SinkFailing", Remedy::Wait),
    ("SinkUnauthorized", Remedy::Act),
    ("SinkGone", Remedy::Act),
    ("DeliveryHeld", Remedy::Wait),
];

/// Of one EventTrigger.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hindrance {
    /// What keeps every event.
    pub obstacle: Option<Obstacle>,
    /// Whether some were given up, and are kept as dead letters.
    pub dead: bool,
    /// Whether some have failed for a while.
    pub parked: bool,
    /// Whether dead letters have waited for the dead letter sink for a while.
    pub unforwarded: bool,
}

/// What keeps every event from the sink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// CamelCase, from a short fixed list.
    pub reason: &'static str,
    /// For people, with what to do. It is about the attempt that showed the reason, and stays while the reason does.
    pub message: String,
    /// Since when, to the second.
    pub since: Timestamp,
    /// What helps.
    pub remedy: Remedy,
}

/// What helps against an obstacle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// Waiting may: the sink is tried again and again.
    Wait,
    /// Somebody must do something.
    Act,
}

impl Obstacle {
    fn new(reason: &str, message: String, since: Timestamp) -> Self {
        // One that a newer worker writes is at least shown.
        let (reason, remedy) = KNOWN.into_iter().find(|(known, _)| *known == reason).unwrap_or(KNOWN[1]);
        // As Kubernetes writes times.
        let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
        Self { reason, message, since, remedy }
    }
}

impl Hindrance {
    /// The one reason that is shown. What was given up comes before what may yet arrive: it stays until somebody cares, while
    /// events are parked and delivered all the time.
    pub fn reason(&self) -> Option<&'static str> {
        let few = match self {
            Self { unforwarded: true, .. } => Some(DEAD_LETTER_SINK_FAILING),
            Self { dead: true, .. } => Some(DEAD_LETTERS),
            Self { parked: true, .. } => Some(EVENTS_PARKED),
            Self { .. } => None,
        };
        self.obstacle.as_ref().map(|obstacle| obstacle.reason).or(few)
    }
}

impl Admin {
    /// EventTriggers of which something is not delivered: one query, nothing is changed.
    pub async fn hindrances(&self) -> Result<BTreeMap<ObjectName, Hindrance>, AdminError> {
        let client = self.client.lock().await;
        let rows = client
            .query(&self.sql(include_str!("../sql/hindrances.sql")), &[])
            .await
            .map_err(|source| failed("look at what is not delivered", "", source))?;
        Ok(rows.iter().map(hindrance).collect())
    }
}

fn hindrance(row: &Row) -> (ObjectName, Hindrance) {
    let since = row.get::<_, Option<std::time::SystemTime>>(4).and_then(|since| Timestamp::try_from(since).ok());
    let obstacle = row.get::<_, Option<&str>>(2).map(|reason| {
        Obstacle::new(reason, row.get::<_, Option<String>>(3).unwrap_or_default(), since.unwrap_or_default())
    });
    let name = ObjectName::new(row.get::<_, String>(0), row.get::<_, String>(1));
    (name, Hindrance { obstacle, dead: row.get(5), parked: row.get(6), unforwarded: row.get(7) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_shown_the_one_that_keeps_most() {
        let obstacle = |reason| Some(Obstacle::new(reason, "m".to_owned(), Timestamp::UNIX_EPOCH));
        let reason = |obstacle, dead, parked| Hindrance { obstacle, dead, parked, unforwarded: false }.reason();
        assert_eq!(reason(obstacle("SinkGone"), true, true), Some("SinkGone"));
        assert_eq!(reason(None, true, true), Some(DEAD_LETTERS));
        assert_eq!(reason(None, false, true), Some(EVENTS_PARKED));
        assert_eq!(reason(None, false, false), None);
        let unforwarded = Hindrance { dead: true, unforwarded: true, ..Hindrance::default() };
        assert_eq!(unforwarded.reason(), Some(DEAD_LETTER_SINK_FAILING));
        assert_eq!(obstacle("OfANewerVersion").unwrap().reason, "SinkFailing");
    }
}
