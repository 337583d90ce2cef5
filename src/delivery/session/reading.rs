//! Reading: passes ask for pages, and hand each member its part.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use smallvec::SmallVec;

use super::{
    super::{
        courier::{Item, Order},
        ledger::{Handed, Handout, Ledger},
        pass::{Next, Pass},
    },
    Io, Session,
    members::{Member, State, Unsaved},
};
use crate::log::{self, Capture, Event, Most, Snapshot, Worker, WorkerError};

/// Bytes of events in memory beyond which each reader gets only [`SCARCE`].
const HELD: u64 = 24 << 20;
/// Bytes of a page, and of unfinished events up to which there is room for one, when memory is scarce.
const SCARCE: u64 = 64 << 10;

/// For so long nothing may be read because of a few requests that take long. Parking their events costs a row for each.
const HANGS: Duration = Duration::from_millis(250);

/// What a pass has asked for.
pub(super) struct Page {
    events: Vec<Event>,
    /// Whether the window has no more.
    ends: bool,
    /// Whether the log had events there, of whichever capture.
    passed: bool,
    /// What was reserved for it.
    most: Most,
    /// Captures that had to be asked for.
    captures: Vec<Capture>,
}

impl Session<'_> {
    /// Makes one pass of those that are near the end of the log.
    pub(super) fn merge(&mut self) {
        let share = self.share();
        let room = |id| self.members[&id].ledger.room(share);
        let near = self.passes.iter().filter(|(_, pass)| pass.is_near(room));
        // Partitions go through the same windows, so only those at the same cut go on together.
        let place = |pass: &Pass| {
            let first = pass.members().first().filter(|_| pass.spread().is_some());
            (pass.spread(), first.map(|first| self.members[first].ledger.from().clone()))
        };
        let near: Vec<_> = near.map(|(id, pass)| (*id, place(pass))).collect();
        let alike = near.iter().enumerate().filter_map(|(at, (id, place))| {
            let first = near[..at].iter().find(|(_, other)| other == place)?;
            Some((*id, first.0))
        });
        for (id, first) in alike.collect::<Vec<_>>() {
            let Some(other) = self.passes.remove(&id) else { continue };
            self.follow(other.members(), first);
            if let Some(pass) = self.passes.get_mut(&first) {
                pass.merge(&other);
            }
        }
    }

    /// Bytes that may be read for one reader now. When much is in memory that is little, for everybody, so that a few sinks
    /// that hang keep no memory from the others, and never nothing, so that all go on.
    pub(super) fn share(&self) -> u64 {
        let held = self.worker.held() + self.reserved;
        if held + Most::PAGE.bytes <= HELD { Most::PAGE.bytes } else { SCARCE }
    }

    pub(super) fn split(&mut self, id: u64, late: &BTreeSet<i32>) {
        let Some(pass) = self.passes.get_mut(&id) else { return };
        for alone in pass.split(late) {
            let members = alone.members().clone();
            let number = self.add_pass(alone);
            self.follow(&members, number);
        }
    }

    /// Lets a pass read its next page, if it may and there is one.
    pub(super) fn advance(&mut self, id: u64) {
        if self.exceptions.len() > super::EXCEPTIONS || self.exception_bytes > super::EXCEPTION_BYTES {
            return;
        }
        let share = self.share();
        let (Some(now), Some(pass)) = (&self.pulse, self.passes.get_mut(&id)) else { return };
        let Some(start) = Start::of(pass.members().iter().map(|id| (*id, &self.members[id].ledger))) else {
            self.passes.remove(&id);
            return;
        };
        if !start.apart.is_empty() {
            return self.split(id, &start.apart);
        }
        let to = match pass.to() {
            Some(to) => to.clone(),
            None if start.from == *now => return,
            None if pass.spread().is_some() => return self.agree(id),
            None => until(&self.worker, &start.from, now),
        };
        match pass.next(Instant::now(), |id| self.members[&id].ledger.room(share)) {
            Next::Wait => {}
            Next::Split(late) => {
                tracing::debug!(?late, "slower than others: goes on alone");
                self.split(id, &late);
            }
            Next::Read => self.read_page(id, start, to),
        }
    }

    /// Reads the next page of a pass, in the window that ends at `to`.
    pub(super) fn read_page(&mut self, id: u64, start: Start, to: Arc<Snapshot>) {
        let most = Most { bytes: self.share(), ..Most::PAGE };
        let Some(pass) = self.passes.get_mut(&id) else { return };
        let without = pass.without(|members| foreign(&self.captures, &self.subscriptions, members));
        pass.begin(to.clone());
        self.reserved += most.bytes;
        let (worker, captures) = (self.worker.clone(), self.captures.clone());
        let mut page = async move {
            let read = read(&worker, &captures, (&start.from, &to), start.after, most, without);
            Io::Page(id, read.await)
        }
        .boxed();
        // Begun here, its statement goes out before whoever is woken after this has his turn.
        let page = match (&mut page).now_or_never() {
            Some(read) => std::future::ready(read).boxed(),
            None => page,
        };
        self.io.push(page);
    }

    /// Gives each member of a pass its part of a page.
    pub(super) fn hand_out(&mut self, id: u64, page: Page) {
        self.reserved = self.reserved.saturating_sub(page.most.bytes);
        self.learn(page.captures);
        let Some(pass) = self.passes.get_mut(&id) else { return };
        let Some(to) = pass.to().cloned() else { return };
        let ends = page.ends;
        let nothing = page.events.is_empty();
        if !nothing {
            self.stirred = Instant::now();
        }
        let (last, seen) = (page.events.last().map_or(0, |event| event.id), page.events.len());
        let mut parts = BTreeMap::<i32, Vec<(Arc<Event>, Arc<Capture>)>>::new();
        for event in page.events.into_iter().map(Arc::new) {
            let Some(capture) = self.captures.get(&event.capture) else { continue };
            for (position, trigger) in capture.triggers.iter().enumerate() {
                if !event.matched.has(position) {
                    continue;
                }
                let Some(subscriptions) = self.subscriptions.get(trigger) else { continue };
                let lanes = OnceCell::new();
                for subscription in subscriptions.iter().filter(|one| pass.members().contains(one)) {
                    let Some(member) = self.members.get_mut(subscription) else { continue };
                    if member.ledger.meets(&event) && member.concerns(&event, capture, &lanes) {
                        parts.entry(*subscription).or_default().push((event.clone(), capture.clone()));
                    }
                }
            }
        }
        let mut handed = Vec::new();
        for id in pass.members() {
            let Some(member) = self.members.get_mut(id) else { continue };
            let part = parts.remove(id).unwrap_or_default();
            let events = part.iter().map(|(event, _)| Handed::new(event)).collect();
            let receipts = member.ledger.hand(Handout { to: &to, last, ends, events });
            if !nothing {
                member.reading.note(last, seen, part.len());
            }
            if page.passed {
                member.unsaved = member.unsaved.max(Unsaved::Passed);
            }
            let State::Active { orders, .. } = &member.state else { continue };
            let items =
                receipts.into_iter().zip(part).map(|(receipt, (event, capture))| Item { receipt, event, capture });
            let items: Vec<_> = items.collect();
            if !items.is_empty() {
                handed.push((orders.clone(), items));
            }
        }
        pass.end(ends);
        // The next page is asked for before anybody begins with this one: the server works while couriers do.
        self.advance(id);
        for (orders, items) in handed {
            // A courier ends before its session only by a panic, which ends the session too.
            let _ = orders.send(Order::Deliver(items));
        }
    }

    /// Lets reading go on behind requests that hang: after a while their events are parked.
    pub(super) fn relieve(&mut self) {
        let now = Instant::now();
        for member in self.members.values_mut() {
            let State::Active { orders, .. } = &member.state else { continue };
            if !member.ledger.is_held_up() {
                member.held_up = None;
            } else if now.duration_since(*member.held_up.get_or_insert(now)) >= HANGS {
                member.held_up = Some(now);
                let _ = orders.send(Order::ParkUnderWay(member.ledger.stragglers()));
            }
        }
    }

    /// Members of a pass that are split off or merged follow it.
    fn follow(&mut self, members: &BTreeSet<i32>, number: u64) {
        for id in members {
            if let Some(Member { state: State::Active { pass, .. }, .. }) = self.members.get_mut(id) {
                *pass = number;
            }
        }
    }

    pub(super) fn add_pass(&mut self, pass: Pass) -> u64 {
        let number = self.next_number();
        self.passes.insert(number, pass);
        number
    }
}

/// Where a pass reads on.
pub(super) struct Start {
    pub(super) from: Arc<Snapshot>,
    pub(super) after: i64,
    /// Members whose cut neither has nor is in `from`: two snapshots of transactions that were just ending.
    pub(super) apart: BTreeSet<i32>,
}

impl Start {
    pub(super) fn of<'a>(members: impl Iterator<Item = (i32, &'a Ledger)> + Clone) -> Option<Self> {
        let oldest = members
            .clone()
            .map(|(_, ledger)| ledger.from())
            .reduce(|oldest, from| if !Arc::ptr_eq(oldest, from) && from.is_within(oldest) { from } else { oldest })?;
        let beyond = |from: &Arc<Snapshot>| Arc::ptr_eq(oldest, from) || oldest.is_within(from);
        let apart = members.clone().filter(|(_, ledger)| !beyond(ledger.from())).map(|(id, _)| id).collect();
        let after = members.map(|(_, ledger)| ledger.after()).min()?;
        Some(Self { from: oldest.clone(), after, apart })
    }
}

/// `now`, or an earlier end of the window that begins at `from`.
fn until(worker: &Worker, from: &Snapshot, now: &Arc<Snapshot>) -> Arc<Snapshot> {
    let until = worker.until(from, now);
    // The same cut stays the same pointer, see `note_pulse`.
    if until == **now { now.clone() } else { Arc::new(until) }
}

/// Known captures with no EventTrigger that one of `members` delivers: other workers do, or nobody.
fn foreign(
    captures: &HashMap<i32, Arc<Capture>>,
    subscriptions: &HashMap<i32, SmallVec<[i32; 1]>>,
    members: &BTreeSet<i32>,
) -> BTreeSet<i32> {
    let concerns = |capture: &Capture| {
        let subscriptions = capture.triggers.iter().filter_map(|trigger| subscriptions.get(trigger));
        subscriptions.flatten().any(|subscription| members.contains(subscription))
    };
    captures.values().filter(|capture| !concerns(capture)).map(|capture| capture.id).collect()
}

/// Reads a page, and the captures that it needs and that are not known.
async fn read(
    worker: &Worker,
    known: &HashMap<i32, Arc<Capture>>,
    (from, to): (&Snapshot, &Snapshot),
    after: i64,
    most: Most,
    without: Arc<BTreeSet<i32>>,
) -> Result<Page, WorkerError> {
    let log::Page { events, passed, ends } = worker.page(from, to, after, most, &without).await?;
    let captures = missing(worker, known, events.iter().map(|event| event.capture)).await?;
    Ok(Page { events, ends, passed, most, captures })
}

/// Reads those captures that are not known.
pub(super) async fn missing(
    worker: &Worker,
    known: &HashMap<i32, Arc<Capture>>,
    needed: impl Iterator<Item = i32>,
) -> Result<Vec<Capture>, WorkerError> {
    let needed: BTreeSet<_> = needed.filter(|id| !known.contains_key(id)).collect();
    let mut captures = Vec::new();
    for id in needed {
        let capture = worker.capture(id).await?;
        captures.push(capture.ok_or_else(|| WorkerError::Corrupt {
            what: "the log",
            why: format!("events of capture {id}, which is not there"),
        })?);
    }
    Ok(captures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Cursor;

    fn ledger(from: &str, after: i64) -> Ledger {
        let to = (after > 0).then(|| "30:30:".parse().unwrap());
        Ledger::new(&Cursor { from: from.parse().unwrap(), to, after, done: Vec::new() })
    }

    fn start(ledgers: &[Ledger]) -> Start {
        Start::of((0..).zip(ledgers)).unwrap()
    }

    #[test]
    fn a_pass_reads_from_where_the_last_of_its_members_stands() {
        let start = start(&[ledger("20:20:", 7), ledger("10:20:10,11", 5), ledger("10:20:10", 9)]);
        assert_eq!((start.from.to_string(), start.after), ("10:20:10,11".to_owned(), 5));
        assert!(start.apart.is_empty());
    }

    #[test]
    fn a_member_of_which_neither_cut_is_in_the_other_reads_apart() {
        // A transaction's own snapshot has the transaction itself, another taken later does not until it has committed.
        let start = start(&[ledger("10:20:12", 0), ledger("10:20:11", 0), ledger("20:20:", 0)]);
        assert_eq!((start.from.to_string(), start.apart), ("10:20:12".to_owned(), BTreeSet::from([1])));
    }
}
