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
    /// Fetches on their way: what they bring must not be fetched twice.
    fetching: u32,
    /// When to fetch some; `None` while some are out, or on their way.
    due: Option<Instant>,
    /// The first of them has failed, and is not to be tried before.
    not_before: Option<Instant>,
    /// It is not to be tried before it is told, rather than because it failed; and whether some of it was told since it was
    /// fetched last.
    rests: bool,
    resumed: bool,
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
        let Some(Group { waiting, out, fetching, due, not_before, rests, resumed, joined }) = self.groups.remove(&from)
        else {
            return;
        };
        for lane in joined.iter().chain([&from]) {
            self.roots.insert(*lane, into);
        }
        let group = self.groups.entry(into).or_default();
        group.waiting += waiting;
        group.out += out;
        group.fetching += fetching;
        group.rests &= rests;
        group.resumed |= resumed;
        group.joined.extend(joined);
        group.joined.push(from);
        group.not_before = group.not_before.max(not_before);
        let due = [group.due.take(), due].into_iter().flatten().max();
        if let Some(due) = due {
            self.wait(into, due);
        }
        changes.push(Change::Merge { from, into });
        // It may be so new that the database does not know it.
        changes.push(Change::Join { lane: from, root: into });
    }

    /// The first event of the group has failed: fetches nothing of it before `due`.
    pub(super) fn failed(&mut self, root: u64, due: Instant) {
        if let Some(group) = self.groups.get_mut(&root) {
            group.not_before = Some(due);
            group.rests = false;
        }
        self.wait(root, due);
    }

    /// The first event of the group waits, not for a retry, but to be told: fetches nothing of it before that, or before `due`.
    /// If another event of the group was told meanwhile, that one must not wait with it.
    pub(super) fn rest(&mut self, root: u64, due: Instant, now: Instant) {
        let Some(group) = self.groups.get_mut(&root) else { return };
        group.rests = !group.resumed;
        let due = if group.resumed { now } else { due };
        group.not_before = Some(due);
        self.wait(root, due);
    }

    /// An event of the group need wait no more. What failed waits on.
    pub(super) fn resume(&mut self, root: u64, now: Instant) {
        let Some(group) = self.groups.get_mut(&root) else { return };
        group.resumed = true;
        if std::mem::take(&mut group.rests) {
            group.not_before = Some(now);
            self.wait(root, now);
        }
    }

    fn wait(&mut self, root: u64, due: Instant) {
        let Some(group) = self.groups.get_mut(&root) else { return };
        if group.out == 0 && group.fetching == 0 {
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
        let group = self.groups.get_mut(&root)?;
        group.due = None;
        group.resumed = false;
        group.fetching += 1;
        Some(root)
    }

    /// So many events of the group were fetched; it may have become part of another since it was asked for.
    pub(super) fn fetched(&mut self, root: u64, events: u32, now: Instant) {
        let Some(root) = self.root(root) else { return };
        if let Some(group) = self.groups.get_mut(&root) {
            group.out += events;
            group.fetching = group.fetching.saturating_sub(1);
        }
        self.wait(root, now);
    }

    /// An event that was parked just now is under way all the same, as if it had been fetched.
    pub(super) fn is_out(&mut self, root: u64) {
        if let Some(group) = self.groups.get_mut(&root) {
            group.out += 1;
            group.due = None;
        }
    }

    /// The group has no events in the database, whatever was thought: somebody has taken them away. Returns how many. If it has
    /// become part of another since it was asked for, they are there.
    pub(super) fn emptied(&mut self, asked: u64, now: Instant, changes: &mut Vec<Change>) -> u64 {
        self.fetched(asked, 0, now);
        let Some(root) = self.root(asked).filter(|root| *root == asked) else { return 0 };
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
    use std::{
        collections::{BTreeMap, BTreeSet, VecDeque},
        time::Duration,
    };

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

    /// A courier in small, and the database that it writes to.
    #[derive(Default)]
    struct Small {
        keys: Vec<Keys<u64>>,
        /// Of the log: what is still to be read.
        unread: VecDeque<usize>,
        /// In the database: what is parked, by its order, each with its group; and lanes that wait in the group of another.
        parked: BTreeMap<u64, (usize, u64)>,
        joined: BTreeMap<u64, u64>,
        /// What the sink has got, each for the first time.
        done: Vec<usize>,
        /// Tickets of all couriers before this one.
        base: u64,
        here: Here,
    }

    /// What is gone with the courier.
    struct Here {
        lanes: Lanes<u64>,
        parking: Parking,
        next: Ticket,
        /// Each with its place among the parked ones, if it is parked.
        loads: BTreeMap<Ticket, (usize, Option<u64>)>,
        out: Vec<Ticket>,
        now: Instant,
    }

    impl Default for Here {
        fn default() -> Self {
            Self {
                lanes: Lanes::new(),
                parking: Parking::default(),
                next: 0,
                loads: BTreeMap::new(),
                out: Vec::new(),
                now: Instant::now(),
            }
        }
    }

    impl Small {
        fn ticket(&mut self) -> Ticket {
            self.here.next += 1;
            self.here.next - 1
        }

        fn write(&mut self, changes: Vec<Change>) {
            for change in changes {
                match change {
                    Change::Merge { from, into } => {
                        self.parked
                            .values_mut()
                            .filter(|(_, group)| *group == from)
                            .for_each(|(_, group)| *group = into);
                        self.joined.values_mut().filter(|root| **root == from).for_each(|root| *root = into);
                    }
                    Change::Clear { root } => {
                        assert!(!self.parked.values().any(|(_, group)| *group == root));
                        self.joined.retain(|_, other| *other != root);
                    }
                    Change::Join { lane, root } => drop(self.joined.insert(lane, root)),
                }
            }
        }

        fn park(&mut self, ticket: Ticket, event: usize) -> u64 {
            let ((lane, second), mut changes) = (lanes_of(self.keys[event]), Vec::new());
            let root = self.here.parking.park(lane, second, &mut changes);
            self.parked.insert(self.base + ticket, (event, root));
            self.write(changes);
            root
        }

        fn park_tied(&mut self, event: usize) {
            for ticket in self.here.lanes.tied(self.keys[event].iter().copied().collect::<Vec<_>>()) {
                let (event, seq) = self.here.loads[&ticket];
                if seq.is_none() {
                    let root = self.park(ticket, event);
                    self.here.parking.is_out(root);
                    self.here.loads.insert(ticket, (event, Some(self.base + ticket)));
                }
            }
        }

        fn read(&mut self) {
            let Some(event) = self.unread.pop_front() else { return };
            let (ticket, keys) = (self.ticket(), self.keys[event]);
            if keys.iter().any(|lane| self.here.parking.root(*lane).is_some()) {
                self.park(ticket, event);
                self.park_tied(event);
            } else {
                self.here.lanes.admit(ticket, keys);
                self.here.loads.insert(ticket, (event, None));
            }
        }

        fn fetch(&mut self) {
            let Some(root) = self.here.parking.fetch(self.here.now) else { return };
            let of_group = self.parked.iter().filter(|(_, (_, group))| *group == root);
            let mut chunk: Vec<_> = of_group.map(|(seq, (event, _))| (*seq, *event)).take(3).collect();
            chunk.retain(|(seq, _)| !self.here.loads.values().any(|(_, here)| *here == Some(*seq)));
            self.here.parking.fetched(root, u32::try_from(chunk.len()).unwrap(), self.here.now);
            for (seq, event) in chunk {
                let ticket = self.ticket();
                self.here.lanes.readmit(ticket, self.keys[event]);
                self.here.loads.insert(ticket, (event, Some(seq)));
            }
        }

        fn fail(&mut self, ticket: Ticket) {
            let mut events = Vec::new();
            for (ticket, keys) in self.here.lanes.withdraw(ticket) {
                let (event, seq) = self.here.loads.remove(&ticket).unwrap();
                match seq {
                    Some(_) => self.here.parking.put_back(lanes_of(keys).0, self.here.now),
                    None => drop(self.park(ticket, event)),
                }
                events.push(event);
            }
            for event in events {
                self.park_tied(event);
                if let Some(root) = self.here.parking.root(lanes_of(self.keys[event]).0) {
                    self.here.parking.failed(root, self.here.now);
                }
            }
        }

        fn deliver(&mut self, ticket: Ticket) {
            self.here.lanes.finish(ticket);
            let (event, seq) = self.here.loads.remove(&ticket).unwrap();
            self.done.push(event);
            if let Some(seq) = seq {
                let mut changes = Vec::new();
                self.parked.remove(&seq);
                self.here.parking.finish(lanes_of(self.keys[event]).0, self.here.now, &mut changes);
                self.write(changes);
            }
        }

        /// Another courier goes on with what the database has.
        fn die(&mut self) {
            self.base += self.here.next;
            self.here = Here::default();
            let parked: BTreeSet<_> = self.parked.values().map(|(event, _)| *event).collect();
            self.unread =
                (0..self.keys.len()).filter(|event| !parked.contains(event) && !self.done.contains(event)).collect();
            for root in self.parked.values().map(|(_, group)| *group).collect::<BTreeSet<_>>() {
                let waiting = self.parked.values().filter(|(_, group)| *group == root).count();
                self.here.parking.restore(root, waiting as u64, self.here.now);
            }
            for (lane, root) in &self.joined {
                self.here.parking.restore_lane(*lane, *root);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Events fail at random, are parked with all that waits for them, and are fetched again in order; a courier dies, and
        /// another goes on. However that interleaves, each event is done once, no two of a key are out at once, and each key
        /// keeps its order.
        #[test]
        fn keys_keep_their_order_through_failing_and_parking_and_dying(
            events in proptest::collection::vec((0..4_u64, 0..4_u64), 1..40),
            steps in proptest::collection::vec((0..40_u8, any::<prop::sample::Index>()), 0..300),
        ) {
            let keys: Vec<_> = events.iter().map(|(old, new)| Keys::of(Some(*old), Some(*new))).collect();
            let mut small = Small { unread: (0..keys.len()).collect(), keys, ..Small::default() };
            let mut steps = steps.into_iter();
            let mut idle = 0;
            while small.done.len() < events.len() {
                let (what, which) = steps.next().map_or_else(
                    || { idle += 1; ([0, 10, 15, 30][idle % 4], None) },
                    |(what, which)| (what, Some(which)),
                );
                prop_assert!(idle < 10_000, "stuck: {:?} {:?}", small.here.parking, small.here.lanes);
                let out = &mut small.here.out;
                let one = (!out.is_empty() && what >= 20).then(|| out.remove(which.map_or(0, |which| which.index(out.len()))));
                match (what, one) {
                    (0..10, _) => small.read(),
                    (10..15, _) => small.here.out.extend(small.here.lanes.next()),
                    (15..20, _) => small.fetch(),
                    (20..30, Some(ticket)) => small.fail(ticket),
                    (30..39, Some(ticket)) => small.deliver(ticket),
                    (39, _) => small.die(),
                    _ => {}
                }
                let Small { keys, here: Here { out, loads, .. }, .. } = &small;
                for (at, one) in out.iter().enumerate() {
                    for other in &out[..at] {
                        let shared = keys[loads[one].0].iter().any(|key| keys[loads[other].0].iter().any(|k| k == key));
                        prop_assert!(!shared, "two of a key are out");
                    }
                }
            }
            for key in 0..4 {
                let of_key: Vec<_> = small.done.iter().filter(|event| small.keys[**event].iter().any(|k| *k == key)).collect();
                prop_assert!(of_key.is_sorted(), "{key}: {of_key:?}");
            }
            let Parking { groups, waiting, roots, .. } = &small.here.parking;
            prop_assert_eq!((groups.len(), *waiting, roots.len(), small.joined.len()), (0, 0, 0, 0));
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
        parking.fetched(1, 1, start);
        assert_eq!(parking.fetch(later), None, "one is out");
        parking.finish(1, later, &mut changes);
        assert_eq!((parking.fetch(later), parking.waiting()), (Some(1), 1));
        parking.fetched(1, 1, start);
        parking.finish(1, later, &mut changes);
        assert_eq!((changes, parking.root(1)), (vec![Change::Clear { root: 1 }], None));
    }

    #[test]
    fn a_group_that_is_being_fetched_is_not_fetched_again_nor_lost_when_another_takes_it_in() {
        let (mut parking, now, mut changes) = (Parking::default(), Instant::now(), Vec::new());
        parking.park(1, None, &mut changes);
        parking.failed(1, now);
        assert_eq!(parking.fetch(now), Some(1));
        parking.failed(1, now);
        assert_eq!(parking.fetch(now), None, "what it brings would come twice");
        parking.park(2, None, &mut changes);
        assert_eq!(parking.park(2, Some(1), &mut changes), 2);
        // It was looked for after it had been taken in.
        assert_eq!(parking.emptied(1, now, &mut changes), 0);
        assert_eq!((parking.waiting(), parking.fetch(now)), (3, Some(2)));
    }

    #[test]
    fn what_was_told_of_a_group_does_not_wait_with_what_was_not() {
        let (mut parking, now, mut changes) = (Parking::default(), Instant::now(), Vec::new());
        let later = now + Duration::from_mins(1);
        parking.park(1, None, &mut changes);
        parking.park(1, Some(2), &mut changes);
        parking.rest(1, later, now);
        assert_eq!(parking.fetch(now), None);
        parking.resume(1, now);
        assert_eq!(parking.fetch(now), Some(1));
        parking.fetched(1, 2, now);
        // One of them is told while it is away, and then the other one goes back to rest.
        parking.put_back(1, now);
        parking.resume(1, now);
        parking.put_back(2, now);
        parking.rest(1, later, now);
        assert_eq!(parking.fetch(now), Some(1));
        parking.fetched(1, 2, now);
        parking.put_back(1, now);
        parking.put_back(2, now);
        parking.failed(1, later);
        parking.resume(1, now);
        assert_eq!(parking.fetch(now), None, "it failed");
    }

    #[test]
    fn an_event_of_two_keys_ties_them_until_nothing_waits() {
        let (mut parking, mut changes) = (Parking::default(), Vec::new());
        parking.park(1, None, &mut changes);
        parking.park(2, None, &mut changes);
        assert_eq!(parking.park(1, Some(2), &mut changes), 1);
        assert_eq!(parking.park(3, Some(2), &mut changes), 1);
        let expected =
            [Change::Merge { from: 2, into: 1 }, Change::Join { lane: 2, root: 1 }, Change::Join { lane: 3, root: 1 }];
        assert_eq!(changes, expected);
        assert_eq!((parking.root(3), parking.waiting()), (Some(1), 4));
    }
}
