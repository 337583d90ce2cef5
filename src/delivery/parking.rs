//! Which keys are parked: their events wait in the database, in order, until the first of them may be tried again. Pure.
//!
//! Keys are known by a hash: two that share one wait for each other, which costs nothing but time. An event with two keys
//! ties them into one group for as long as anything of it waits. Memory is a few dozen bytes for a key, none for an event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Instant,
};

/// A change of the groups that the database must learn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Events of `lane` wait in the group `root`.
    Join { lane: u64, root: u64 },
    /// Everything of the group `from` waits in `into`.
    Merge { from: u64, into: u64 },
    /// Nothing of the group waits any more.
    Clear { root: u64 },
}

#[derive(Debug, Default)]
struct Group {
    /// Events that are parked and not finished.
    waiting: u64,
    /// Of them, those that were fetched and are being tried.
    out: u32,
    /// When to fetch some; `None` while some are out.
    due: Option<Instant>,
    /// The first of them has failed, and is not to be tried before.
    not_before: Option<Instant>,
    /// Other lanes that wait in it.
    joined: Vec<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Parking {
    groups: HashMap<u64, Group>,
    /// Lanes that wait in the group of another.
    roots: HashMap<u64, u64>,
    /// When which group is due; those of which the time has changed are passed over.
    schedule: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: u64,
}

impl Parking {
    /// As the database has it: a group with so many events.
    pub(super) fn restore(&mut self, root: u64, waiting: u64, due: Instant) {
        self.groups.entry(root).or_default().waiting += waiting;
        self.waiting += waiting;
        self.failed(root, due);
    }

    /// As the database has it: a lane that waits in the group of another.
    pub(super) fn restore_lane(&mut self, lane: u64, root: u64) {
        self.roots.insert(lane, root);
        self.groups.entry(root).or_default().joined.push(lane);
    }

    /// How many events are parked.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The group in which events of this lane wait.
    pub(super) fn root(&self, lane: u64) -> Option<u64> {
        let root = self.roots.get(&lane).copied().unwrap_or(lane);
        self.groups.contains_key(&root).then_some(root)
    }

    /// Parks an event of one or two lanes; returns its group. A new group is due at no time: see [`Parking::failed`].
    pub(super) fn park(&mut self, lane: u64, second: Option<u64>, changes: &mut Vec<Change>) -> u64 {
        let root = self.root(lane).or_else(|| second.and_then(|lane| self.root(lane))).unwrap_or(lane);
        self.groups.entry(root).or_default();
        for lane in [Some(lane), second].into_iter().flatten() {
            match self.root(lane) {
                Some(known) if known == root => {}
                Some(other) => self.merge(other, root, changes),
                None => {
                    self.roots.insert(lane, root);
                    self.groups.entry(root).or_default().joined.push(lane);
                    changes.push(Change::Join { lane, root });
                }
            }
        }
        let group = self.groups.entry(root).or_default();
        group.waiting += 1;
        self.waiting += 1;
        root
    }

    fn merge(&mut self, from: u64, into: u64, changes: &mut Vec<Change>) {
        let Some(Group { waiting, out, due, not_before, joined }) = self.groups.remove(&from) else { return };
        for lane in joined.iter().chain([&from]) {
            self.roots.insert(*lane, into);
        }
        let group = self.groups.entry(into).or_default();
        group.waiting += waiting;
        group.out += out;
        group.joined.extend(joined);
        group.joined.push(from);
        group.not_before = group.not_before.max(not_before);
        let due = [group.due.take(), due].into_iter().flatten().max();
        if let Some(due) = due {
            self.wait(into, due);
        }
        changes.push(Change::Merge { from, into });
    }

    /// The first event of the group has failed: fetches nothing of it before `due`.
    pub(super) fn failed(&mut self, root: u64, due: Instant) {
        if let Some(group) = self.groups.get_mut(&root) {
            group.not_before = Some(due);
        }
        self.wait(root, due);
    }

    fn wait(&mut self, root: u64, due: Instant) {
        let Some(group) = self.groups.get_mut(&root) else { return };
        if group.out == 0 {
            let due = group.not_before.map_or(due, |not_before| due.max(not_before));
            group.due = Some(due);
            self.schedule.push(Reverse((due, root)));
        }
    }

    /// When the next group is due.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        while let Some(Reverse((due, root))) = self.schedule.peek().copied() {
            if self.groups.get(&root).is_some_and(|group| group.due == Some(due)) {
                return Some(due);
            }
            self.schedule.pop();
        }
        None
    }

    /// The next group that is due; its events are to be fetched.
    pub(super) fn fetch(&mut self, now: Instant) -> Option<u64> {
        let due = self.next_due()?;
        if due > now {
            return None;
        }
        let Reverse((_, root)) = self.schedule.pop()?;
        self.groups.get_mut(&root)?.due = None;
        Some(root)
    }

    /// So many events of the group were fetched.
    pub(super) fn fetched(&mut self, root: u64, events: u32) {
        if let Some(group) = self.groups.get_mut(&root) {
            group.out += events;
        }
    }

    /// The group has no events in the database, whatever was thought: somebody has taken them away. Returns how many.
    pub(super) fn emptied(&mut self, root: u64, changes: &mut Vec<Change>) -> u64 {
        let Some(gone) = self.groups.get(&root).filter(|group| group.out == 0).map(|group| group.waiting) else {
            return 0;
        };
        self.remove(root, changes);
        gone
    }

    /// An event that was fetched is finished. When none is out any more, the next are due at once.
    pub(super) fn finish(&mut self, lane: u64, now: Instant, changes: &mut Vec<Change>) {
        let Some(root) = self.root(lane) else { return };
        let Some(group) = self.groups.get_mut(&root) else { return };
        group.waiting = group.waiting.saturating_sub(1);
        self.waiting = self.waiting.saturating_sub(1);
        if group.waiting == 0 {
            self.remove(root, changes);
        } else {
            self.put_back(root, now);
        }
    }

    /// An event that was fetched waits again.
    pub(super) fn put_back(&mut self, lane: u64, now: Instant) {
        let Some(root) = self.root(lane) else { return };
        let Some(group) = self.groups.get_mut(&root) else { return };
        group.out = group.out.saturating_sub(1);
        self.wait(root, now);
    }

    /// Makes every group due that waits.
    pub(super) fn hurry(&mut self, now: Instant) {
        let waiting: Vec<_> =
            self.groups.iter().filter(|(_, group)| group.due.is_some()).map(|(root, _)| *root).collect();
        self.schedule.clear();
        for root in waiting {
            self.failed(root, now);
        }
    }

    fn remove(&mut self, root: u64, changes: &mut Vec<Change>) {
        let Some(group) = self.groups.remove(&root) else { return };
        self.waiting = self.waiting.saturating_sub(group.waiting);
        for lane in &group.joined {
            self.roots.remove(lane);
        }
        changes.push(Change::Clear { root });
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::{
        super::lanes::{Keys, Lanes, Ticket},
        *,
    };

    fn lanes_of(keys: Keys<u64>) -> (u64, Option<u64>) {
        match keys {
            Keys::One(key) => (key, None),
            Keys::Both(old, new) => (old, Some(new)),
            Keys::None | Keys::All => unreachable!("not made here"),
        }
    }

    proptest! {
        /// A courier in small: events fail at random, are parked with all that waits for them, and are fetched again in order.
        /// However that interleaves, each event is done once, no two of a key are out at once, and each key keeps its order.
        #[test]
        fn keys_keep_their_order_through_failing_and_parking(
            events in proptest::collection::vec((0..4_u64, 0..4_u64), 1..40),
            steps in proptest::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..300),
        ) {
            let now = Instant::now();
            let keys: Vec<_> = events.iter().map(|(old, new)| Keys::of(Some(*old), Some(*new))).collect();
            let (mut lanes, mut parking) = (Lanes::new(), Parking::default());
            // What the database has: events by their order, each with its group.
            let mut parked = BTreeMap::<usize, u64>::new();
            let mut changes = Vec::new();
            let (mut admitted, mut ticket) = (0, 0 as Ticket);
            let mut loads = BTreeMap::<Ticket, (usize, bool)>::new();
            let (mut out, mut done) = (Vec::<Ticket>::new(), Vec::<usize>::new());
            let mut steps = steps.into_iter();
            let mut idle = 0;
            while done.len() < events.len() {
                let (what, which) = steps.next().map_or_else(
                    || { idle += 1; ([0, 1, 2, 4][idle % 4], None) },
                    |(what, which)| (what, Some(which)),
                );
                prop_assert!(idle < 10_000, "stuck: {parking:?} {lanes:?}");
                match what {
                    0 if admitted < events.len() => {
                        let (lane, second) = lanes_of(keys[admitted]);
                        if parking.root(lane).is_some() || second.is_some_and(|lane| parking.root(lane).is_some()) {
                            parked.insert(admitted, parking.park(lane, second, &mut changes));
                        } else {
                            lanes.admit(ticket, keys[admitted]);
                            loads.insert(ticket, (admitted, false));
                            ticket += 1;
                        }
                        admitted += 1;
                    }
                    1 => out.extend(lanes.next()),
                    2 => if let Some(root) = parking.fetch(now) {
                        let chunk: Vec<_> = parked.iter().filter(|(_, group)| **group == root).map(|(event, _)| *event).take(3).collect();
                        parking.fetched(root, u32::try_from(chunk.len()).unwrap());
                        for event in chunk {
                            lanes.readmit(ticket, keys[event]);
                            loads.insert(ticket, (event, true));
                            ticket += 1;
                        }
                    },
                    // It fails.
                    3 if !out.is_empty() => {
                        let failed = out.remove(which.map_or(0, |which| which.index(out.len())));
                        for (ticket, keys) in lanes.withdraw(failed) {
                            let (event, was_parked) = loads.remove(&ticket).unwrap();
                            let (lane, second) = lanes_of(keys);
                            if was_parked {
                                parking.put_back(lane, now);
                            } else {
                                parked.insert(event, parking.park(lane, second, &mut changes));
                            }
                            if let Some(root) = parking.root(lane) {
                                parking.failed(root, now);
                            }
                        }
                    }
                    4 if !out.is_empty() => {
                        let ticket = out.remove(which.map_or(0, |which| which.index(out.len())));
                        lanes.finish(ticket);
                        let (event, was_parked) = loads.remove(&ticket).unwrap();
                        done.push(event);
                        if was_parked {
                            parked.remove(&event);
                            parking.finish(lanes_of(keys[event]).0, now, &mut changes);
                        }
                    }
                    _ => {}
                }
                for change in changes.drain(..) {
                    match change {
                        Change::Merge { from, into } => {
                            parked.values_mut().filter(|group| **group == from).for_each(|group| *group = into);
                        }
                        Change::Clear { root } => prop_assert!(!parked.values().any(|group| *group == root)),
                        Change::Join { .. } => {}
                    }
                }
                for (at, one) in out.iter().enumerate() {
                    for other in &out[..at] {
                        let shared = keys[loads[one].0].iter().any(|key| keys[loads[other].0].iter().any(|k| k == key));
                        prop_assert!(!shared, "two of a key are out");
                    }
                }
            }
            for key in 0..4 {
                let of_key: Vec<_> = done.iter().filter(|event| keys[**event].iter().any(|k| *k == key)).collect();
                prop_assert!(of_key.is_sorted(), "{key}: {of_key:?}");
            }
            prop_assert_eq!((parking.groups.len(), parking.waiting(), parking.roots.len()), (0, 0, 0));
        }
    }

    #[test]
    fn a_group_is_fetched_when_it_is_due_and_not_while_some_of_it_is_out() {
        let (mut parking, start, mut changes) = (Parking::default(), Instant::now(), Vec::new());
        let later = start + Duration::from_secs(5);
        assert_eq!((parking.park(1, None, &mut changes), parking.park(1, None, &mut changes)), (1, 1));
        parking.failed(1, later);
        assert_eq!((parking.fetch(start), parking.next_due()), (None, Some(later)));
        parking.hurry(start);
        assert_eq!(parking.fetch(start), Some(1));
        parking.fetched(1, 1);
        assert_eq!(parking.fetch(later), None, "one is out");
        parking.finish(1, later, &mut changes);
        assert_eq!((parking.fetch(later), parking.waiting()), (Some(1), 1));
        parking.fetched(1, 1);
        parking.finish(1, later, &mut changes);
        assert_eq!((changes, parking.root(1)), (vec![Change::Clear { root: 1 }], None));
    }

    #[test]
    fn an_event_of_two_keys_ties_them_until_nothing_waits() {
        let (mut parking, mut changes) = (Parking::default(), Vec::new());
        parking.park(1, None, &mut changes);
        parking.park(2, None, &mut changes);
        assert_eq!(parking.park(1, Some(2), &mut changes), 1);
        assert_eq!(parking.park(3, Some(2), &mut changes), 1);
        assert_eq!(changes, [Change::Merge { from: 2, into: 1 }, Change::Join { lane: 3, root: 1 }]);
        assert_eq!((parking.root(3), parking.waiting()), (Some(1), 4));
    }
}
