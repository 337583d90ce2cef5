//! How each EventTrigger stands, for its metrics: counted from what the session knows anyway, once a second.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use jiff::Timestamp;

use super::{super::metrics::State, Io, Session, members::Member};
use crate::name::ObjectName;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two questions how far the log has come, while somebody is behind.
const NEWEST: Duration = Duration::from_secs(5);
/// Events of the log of which the part that is a member's own is remembered.
const REMEMBERED: u64 = 10_000;

/// When what is shown was looked at.
#[derive(Debug)]
pub(super) struct Watch {
    looked: Instant,
    asked: Option<Instant>,
    /// The newest event of the log, about.
    newest: i64,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { looked: Instant::now(), asked: None, newest: 0 }
    }
}

/// How far a member has read, and how much of it was its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    last: Option<i64>,
    seen: u64,
    own: u64,
}

impl Reading {
    /// Notes a page that ends with event `last`.
    pub(super) fn note(&mut self, last: i64, seen: usize, own: usize) {
        // Those that were left out of the page lie between this one and the one before.
        let passed = last.saturating_sub(self.last.unwrap_or(last)).max(0).unsigned_abs();
        self.last = Some(last);
        self.seen += passed.max(seen as u64);
        self.own += own as u64;
        while self.seen > REMEMBERED {
            (self.seen, self.own) = (self.seen / 2, self.own / 2);
        }
    }

    /// About how many of the log's events up to `newest` it has not read and are its own: as many as of those before.
    fn ahead(&self, newest: i64) -> Option<u64> {
        let ahead = u128::from(newest.saturating_sub(self.last?).max(0).unsigned_abs());
        let own = ahead * u128::from(self.own.max(1)) / u128::from(self.seen.max(1));
        u64::try_from(own).ok()
    }
}

impl Session<'_> {
    /// Shows how those stand that are delivered here, if it is time.
    pub(super) fn watch(&mut self) {
        if self.watch.looked.elapsed() < LOOK {
            return;
        }
        self.watch.looked = Instant::now();
        self.gauges.memory.set(usize::try_from(self.worker.held()).unwrap_or(usize::MAX));
        let now = Timestamp::now();
        let mut states = BTreeMap::<ObjectName, State>::new();
        let mut behind = false;
        for member in self.members.iter().filter(|(id, _)| self.slots.delivers(**id)).map(|(_, member)| member) {
            let up_to_date = self.is_up_to_date(member);
            behind |= !up_to_date;
            let state = state(member, up_to_date, self.watch.newest, now);
            let trigger = &member.definition.trigger;
            let together = match states.remove(trigger) {
                Some(known) => known.and(&state),
                None => state,
            };
            states.insert(trigger.clone(), together);
        }
        self.gauges.show(states);
        if behind && self.watch.asked.is_none_or(|asked| asked.elapsed() >= NEWEST) {
            self.watch.asked = Some(Instant::now());
            let worker = self.worker.clone();
            self.io.push(async move { Io::Newest(worker.newest().await) }.boxed());
        }
    }

    pub(super) fn note_newest(&mut self, newest: i64) {
        self.watch.newest = newest;
    }

    /// Whether it was handed all that the last look saw.
    fn is_up_to_date(&self, member: &Member) -> bool {
        self.pulse.as_ref().is_some_and(|now| member.is_at(now))
    }
}

fn state(member: &Member, up_to_date: bool, newest: i64, now: Timestamp) -> State {
    let unfinished = member.ledger.unfinished() as u64;
    let ahead = if up_to_date { Some(0) } else { member.reading.ahead(newest) };
    State {
        backlog: ahead.map(|ahead| ahead + unfinished),
        // Two machines' clocks: less than nothing is nothing.
        oldest: member
            .ledger
            .oldest()
            .map_or(Duration::ZERO, |at| now.duration_since(at).try_into().unwrap_or_default()),
        parked: member.parked,
        circuit_open: member.aim.as_ref().is_ok_and(|aim| aim.outlet.reason().is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_is_estimated_by_what_was_a_members_own_so_far() {
        let mut reading = Reading::default();
        assert_eq!(reading.ahead(1000), None, "nothing is known yet");
        reading.note(500, 500, 50);
        assert_eq!((reading.ahead(1500), reading.ahead(400)), (Some(100), Some(0)));
        reading.note(2500, 500, 250);
        assert_eq!(reading.ahead(3500), Some(120), "what lies between two pages was left out of them");
        (5..=101).for_each(|page| reading.note(page * 500, 500, 500));
        assert!(reading.ahead(51_500).is_some_and(|ahead| (950..=1000).contains(&ahead)), "the past is forgotten");
    }
}
