//! Order and endings: which events wait for others, which are parked and come back, and how each comes to its end.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    super::{
        breaker::Reason,
        format,
        lanes::{Keys, Ticket},
        ledger::Receipt,
        parking::Change,
        retry::{Decision, decide},
    },
    Item, LONGEST, Load, Outcome, Source, Work,
    sending::Failed,
};
use crate::log::{
    Capture, DeadLetter, Event, Exception, Failure, Parked, Partition, Redriven,
    definition::Ordering,
    partition::{MOST, Role},
};

/// Parked events that are being tried at a time, and their bytes, at most: what they take of memory is bounded by it, but for
/// what was asked for before.
const REVIVED: usize = 256;
const REVIVED_BYTES: u64 = 4 << 20;
/// Groups that are asked for at a time.
const ASKED: usize = 8;

impl Work {
    pub(super) fn admit(&mut self, Item { receipt, event, capture }: Item) {
        let ticket = self.ticket();
        let keys = format::keys(&event, &capture, &self.aim.target.ordering);
        let (keys, wrong) = match keys {
            Ok(keys) => (keys, None),
            Err(error) => (Keys::None, Some(error.to_string())),
        };
        let (lanes, role) = (self.own(&keys), self.role(&event, &keys));
        let source = Source::Log(receipt);
        let load = Load { source, event, capture, keys, attempts: 0, sent: 0, role, revived: false };
        if let Some(error) = wrong {
            return self.give_up(ticket, &load, Failure { error, ..Failure::default() });
        }
        let waits = !self.lanes.is_barred() && lanes.iter().any(|lane| self.parking.root(*lane).is_some());
        if waits {
            self.park(ticket, &lanes, load, None);
            if lanes.iter().filter_map(|lane| self.lanes.last(lane)).any(|last| self.is_of_the_log(last)) {
                self.park_tied(lanes.iter().copied());
            }
            return;
        }
        if role != Role::Alone {
            self.crossings.insert(ticket);
        }
        self.lanes.admit(ticket, lanes);
        self.loads.insert(ticket, load);
    }

    /// Takes parked events back in, behind whatever of their keys is here.
    pub(super) fn revive(&mut self, root: u64, events: Vec<(Parked, Arc<Capture>)>) {
        self.asked = self.asked.saturating_sub(1);
        if events.is_empty() {
            let mut changes = Vec::new();
            let gone = self.parking.emptied(root, Instant::now(), &mut changes);
            self.change(changes);
            self.outcomes.push(Outcome::Empty(gone));
            self.lanes.set_parked(self.parking.waiting() > 0);
            return;
        }
        // What was parked in place since these were asked for is here, or has ended.
        let events: Vec<_> = events.into_iter().filter(|(parked, _)| !self.in_place.contains(&parked.seq)).collect();
        if self.asked == 0 {
            for seq in self.ended.drain(..) {
                self.in_place.remove(&seq);
            }
        }
        self.parking.fetched(root, u32::try_from(events.len()).unwrap_or(u32::MAX), Instant::now());
        self.revived += events.len();
        for (Parked { seq, attempts, event, meets }, capture) in events {
            let ticket = self.ticket();
            self.revived_bytes += event.bytes();
            // The ordering may have changed meanwhile; what could not be read then was not parked.
            let keys = format::keys(&event, &capture, &self.aim.target.ordering).unwrap_or(Keys::None);
            let role = if meets { self.role(&event, &keys) } else { Role::Alone };
            if role != Role::Alone {
                self.crossings.insert(ticket);
            }
            self.lanes.readmit(ticket, self.own(&keys));
            let (source, event) = (Source::Parked(seq), Arc::new(event));
            let load = Load { source, event, capture, keys, attempts, sent: attempts, role, revived: true };
            self.loads.insert(ticket, load);
        }
    }

    pub(super) fn redrive(&mut self, Redriven { event, lanes }: Redriven) {
        let mut changes = Vec::new();
        let first = lanes.first().copied().unwrap_or_else(|| alone(event));
        // Of the two partitions of one that changed the key, it is this one's alone now: it comes late in any case.
        let second = lanes.get(1).copied().filter(|lane| self.courier.partition.has(*lane));
        let root = self.parking.park(first, second, &mut changes);
        self.change(changes);
        let subscription = self.courier.subscription;
        self.exception(Exception::Redrive { subscription, event, root });
        self.park_tied([Some(first), second].into_iter().flatten());
        self.put_off(root, Duration::ZERO);
        self.lanes.set_parked(true);
    }

    /// Asks for parked events that are due.
    pub(super) fn fetch(&mut self) {
        let now = Instant::now();
        while self.may_fetch()
            && let Some(root) = self.parking.fetch(now)
        {
            self.asked += 1;
            self.outcomes.push(Outcome::Fetch(root));
        }
    }

    /// While the sink is away one event is enough, for the probe.
    pub(super) fn may_fetch(&self) -> bool {
        let away = self.aim.outlet.reason();
        away != Some(Reason::Gone)
            && self.asked < ASKED
            && self.revived < REVIVED
            && self.revived_bytes < REVIVED_BYTES
            && (away.is_none() || !self.lanes.has_next() && self.again.is_empty() && self.attempts.is_empty())
    }

    /// A failed attempt counts: the event is parked until it may be tried again, or given up.
    pub(super) fn count(&mut self, ticket: Ticket, Failed { failure, retry_after }: Failed) {
        self.complain(&failure);
        let Some(load) = self.loads.get_mut(&ticket) else { return };
        load.attempts = load.attempts.saturating_add(1);
        let attempts = load.attempts;
        let delay = match decide(&self.aim.target.policy, attempts, retry_after, fastrand::f64()) {
            Decision::GiveUp => return self.finish(ticket, Some(failure)),
            Decision::Again(delay) => delay.min(LONGEST),
        };
        if matches!(load.keys, Keys::All) {
            self.retries.push(Reverse((Instant::now() + delay, ticket)));
            return;
        }
        if let Some(root) = self.set_aside(ticket, Some((attempts, failure))) {
            self.put_off(root, delay);
        }
        self.lanes.set_parked(self.parking.waiting() > 0);
    }

    /// Parks an event that nothing is before, and all that waits for it; returns its group.
    pub(super) fn set_aside(&mut self, ticket: Ticket, mut failure: Option<(u32, Failure)>) -> Option<u64> {
        let (mut root, mut tied) = (None, Vec::new());
        for (waiting, lanes) in self.withdraw(ticket) {
            if let Keys::Both(..) = lanes {
                tied.extend(lanes.iter().copied());
            }
            let Some(load) = self.loads.remove(&waiting) else { continue };
            self.crossings.remove(&waiting);
            let failed = if waiting == ticket { failure.take() } else { None };
            let group = match load.source {
                Source::Log(_) => Some(self.park(waiting, &lanes, load, failed)),
                Source::Parked(seq) => self.repark(seq, &lanes, &load, failed),
            };
            if waiting == ticket {
                root = group;
            }
        }
        self.park_tied(tied);
        root.and_then(|root| self.parking.root(root))
    }

    /// Parks events while they are under way, or wait for one that is: reading goes on behind them. Whatever becomes of them,
    /// they are parked events from now on.
    pub(super) fn park_under_way(&mut self, receipts: &[Receipt]) {
        // In an outage nothing is copied: then they wait for the sink, not for a request that hangs.
        if self.aim.outlet.reason().is_some() {
            return;
        }
        let receipts: HashSet<_> = receipts.iter().collect();
        let asked = |(ticket, load): (&Ticket, &Load)| {
            // A truncation has no group to wait in, and what is behind it waits for it.
            let may_be = self.lanes.is_placed(*ticket) || self.chained.contains_key(ticket);
            (may_be && matches!(&load.source, Source::Log(receipt) if receipts.contains(receipt))).then_some(*ticket)
        };
        let tickets: BTreeSet<_> = self.loads.iter().filter_map(asked).collect();
        let lanes: Vec<_> = tickets.iter().flat_map(|ticket| self.park_in_place(*ticket)).collect();
        self.park_tied(lanes);
        self.lanes.set_parked(self.parking.waiting() > 0);
    }

    /// Parks all that is here of lanes of which something was parked, and of those that are tied to them. What is parked must
    /// never wait for what is not: whoever comes after us reads that again, and would deliver it later.
    fn park_tied(&mut self, lanes: impl IntoIterator<Item = u64>) {
        let mut tied = self.lanes.tied(lanes);
        if tied.is_empty() {
            return;
        }
        // Of events that share a request, and a key, only the last is known there.
        let before: HashMap<_, _> = self.chained.iter().map(|(ticket, next)| (*next, *ticket)).collect();
        let chains = tied.iter().flat_map(|last| std::iter::successors(before.get(last), |ticket| before.get(*ticket)));
        let chained: Vec<_> = chains.copied().collect();
        tied.extend(chained);
        for ticket in tied {
            self.park_in_place(ticket);
        }
    }

    /// Whether an event is unfinished and not parked.
    fn is_of_the_log(&self, ticket: Ticket) -> bool {
        self.loads.get(&ticket).is_some_and(|load| matches!(load.source, Source::Log(_)))
    }

    /// Parks an event and goes on with it; returns its lanes.
    fn park_in_place(&mut self, ticket: Ticket) -> SmallVec<[u64; 2]> {
        if !self.is_of_the_log(ticket) {
            return SmallVec::new();
        }
        let Some(load) = self.loads.remove(&ticket) else { return SmallVec::new() };
        let seq = self.seq(ticket);
        self.in_place.insert(seq);
        let kept = Load { source: Source::Parked(seq), ..load.clone() };
        let lanes = self.own(&load.keys);
        let (first, second) = pair(&lanes, load.event.id);
        let new = [Some(first), second].into_iter().flatten().all(|lane| self.parking.root(lane).is_none());
        let root = self.park(ticket, &lanes, load, None);
        self.parking.is_out(root);
        if new {
            // Due at once for whoever comes after us.
            let subscription = self.courier.subscription;
            self.exception(Exception::Wait { subscription, root, delay: Duration::ZERO });
        }
        self.loads.insert(ticket, kept);
        lanes.iter().copied().collect()
    }

    /// Takes out an event that was handed out, and all that waits for it, also in the same request.
    fn withdraw(&mut self, ticket: Ticket) -> Vec<(Ticket, Keys<u64>)> {
        let (mut withdrawn, mut last) = (Vec::new(), ticket);
        while let Some(next) = self.chained.remove(&last) {
            withdrawn.extend(self.loads.get(&last).map(|load| (last, self.own(&load.keys))));
            last = next;
        }
        withdrawn.extend(self.lanes.withdraw(last));
        withdrawn
    }

    /// Parks an event of the log; returns its group.
    fn park(&mut self, ticket: Ticket, lanes: &Keys<u64>, load: Load, failed: Option<(u32, Failure)>) -> u64 {
        let Source::Log(receipt) = load.source else { return 0 };
        let mut changes = Vec::new();
        let (first, second) = pair(lanes, load.event.id);
        let root = self.parking.park(first, second, &mut changes);
        self.change(changes);
        self.counts.parked.inc();
        let (subscription, seq) = (self.courier.subscription, self.seq(ticket));
        let meets = load.role != Role::Alone;
        self.exception(Exception::Park { subscription, seq, root, event: load.event, failed, meets });
        self.outcomes.push(Outcome::Done(receipt));
        root
    }

    /// Lets a parked event wait on; returns its group.
    fn repark(&mut self, seq: i64, lanes: &Keys<u64>, load: &Load, failed: Option<(u32, Failure)>) -> Option<u64> {
        let (first, _) = pair(lanes, load.event.id);
        let root = self.parking.root(first)?;
        self.unrevived(load);
        self.in_place.remove(&seq);
        if let Some((attempts, failure)) = failed {
            let subscription = self.courier.subscription;
            self.exception(Exception::Failed { subscription, seq, attempts, failure });
            // It is not due at once when the others of its group are back.
            self.parking.failed(root, Instant::now() + LONGEST);
        }
        self.parking.put_back(first, Instant::now());
        Some(root)
    }

    fn unrevived(&mut self, load: &Load) {
        if load.revived {
            self.revived -= 1;
            self.revived_bytes = self.revived_bytes.saturating_sub(load.event.bytes());
        }
    }

    /// A group waits before its first event is tried again.
    fn put_off(&mut self, root: u64, delay: Duration) {
        self.parking.failed(root, Instant::now() + delay);
        let subscription = self.courier.subscription;
        self.exception(Exception::Wait { subscription, root, delay });
    }

    /// Place of an event among all that are ever parked.
    fn seq(&self, ticket: Ticket) -> i64 {
        let (ticket, partition) = (i64::try_from(ticket).unwrap_or(i64::MAX), self.courier.partition);
        if partition.is_whole() {
            return self.base.saturating_add(ticket);
        }
        // No two partitions number alike: what they gave up may come into one partition later.
        let most = i64::from(MOST);
        (self.base / most + 1).saturating_add(ticket).saturating_mul(most) + i64::from(partition.number)
    }

    fn change(&mut self, changes: Vec<Change>) {
        let subscription = self.courier.subscription;
        for change in changes {
            self.exception(match change {
                Change::Join { lane, root } => Exception::Join { subscription, lane, root },
                Change::Merge { from, into } => Exception::Merge { subscription, from, into },
                Change::Clear { root } => Exception::Clear { subscription, root },
            });
        }
    }

    /// An event has come to its end: with a cause, it is given up.
    pub(super) fn finish(&mut self, ticket: Ticket, given_up: Option<Failure>) {
        if self.chained.remove(&ticket).is_none() {
            self.lanes.finish(ticket);
        }
        let Some(load) = self.loads.remove(&ticket) else { return };
        match given_up {
            None => self.leave(&load, false),
            Some(failure) => self.give_up(ticket, &load, failure),
        }
        if let Role::Sends(_) = load.role {
            self.outcomes.push(Outcome::Soon);
        }
    }

    /// Notes that an event needs no more work; `buried`: what else is written of it takes it out of the parked ones.
    fn leave(&mut self, load: &Load, buried: bool) {
        let subscription = self.courier.subscription;
        match load.source {
            Source::Log(receipt) => self.outcomes.push(Outcome::Done(receipt)),
            Source::Parked(seq) => {
                if !buried {
                    self.exception(Exception::Unpark { subscription, seq });
                }
                if self.asked == 0 {
                    self.in_place.remove(&seq);
                } else {
                    self.ended.push(seq);
                }
                self.unrevived(load);
                let mut changes = Vec::new();
                let (first, _) = pair(&self.own(&load.keys), load.event.id);
                self.parking.finish(first, Instant::now(), &mut changes);
                self.change(changes);
                self.lanes.set_parked(self.parking.waiting() > 0);
            }
        }
    }

    fn give_up(&mut self, ticket: Ticket, load: &Load, failure: Failure) {
        self.counts.dead.inc();
        self.courier.office.tally.dead();
        let (seq, parked) = match load.source {
            Source::Log(_) => (self.seq(ticket), false),
            Source::Parked(seq) => (seq, true),
        };
        let (first, second) = pair(&lanes_of(&load.keys), load.event.id);
        self.exception(Exception::Bury(DeadLetter {
            subscription: self.courier.subscription,
            seq,
            lanes: std::iter::once(first).chain(second).collect(),
            event: load.event.clone(),
            attempts: load.attempts,
            failure,
            parked,
        }));
        self.leave(load, true);
    }
}

/// The lanes of an event; of one whose keys cannot be told, as if it had none.
pub(in super::super) fn lanes(event: &Event, capture: &Capture, ordering: &Ordering) -> Keys<u64> {
    format::keys(event, capture, ordering).as_ref().map_or(Keys::None, lanes_of)
}

/// What an event of these lanes is to a partition.
pub(in super::super) fn role(partition: Partition, lanes: &Keys<u64>, event: i64) -> Option<Role> {
    if let Keys::All = lanes {
        return Some(partition.role_in_all());
    }
    let (first, second) = pair(lanes, event);
    partition.role(first, second)
}

/// Keys by their hash. It is written to the database, so it must stay the same over versions and machines.
pub(super) fn lanes_of(keys: &Keys<String>) -> Keys<u64> {
    keys.map(|key| xxh3_64(key.as_bytes()))
}

/// The lanes in which an event is parked: one that has no order waits for itself alone.
fn pair(lanes: &Keys<u64>, event: i64) -> (u64, Option<u64>) {
    match lanes {
        Keys::One(lane) => (*lane, None),
        Keys::Both(old, new) => (*old, Some(*new)),
        Keys::None | Keys::All => (alone(event), None),
    }
}

/// A lane for one event.
pub(super) fn alone(event: i64) -> u64 {
    // Spread, so that it is hardly ever that of a key.
    event.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
