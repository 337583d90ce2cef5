//! Order: events of one key go one at a time, in the order in which they came; all others go side by side.
//!
//! An event may have two keys (an UPDATE that changes the key): it waits for, and then blocks, both. An event may be
//! about every key (a TRUNCATE): it waits for, and then blocks, all. An event that fails may be withdrawn, with all that
//! waits for it: it is parked elsewhere, and comes back later.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
};

/// Names an event in here; ascending in order of admission.
pub(super) type Ticket = u64;

/// Of tickets and of what is a hash already. It has a random seed, too.
pub(super) type FastHash = foldhash::fast::RandomState;

/// What is waiting and what is handed out, by key.
///
/// Nothing can get stuck: each key's queue is in order of admission, so the oldest event of all is always at the head
/// of every queue it stands in.
#[derive(Debug)]
pub(super) struct Lanes<K> {
    /// Every unfinished event of a key; the head is ready or handed out.
    queues: HashMap<K, VecDeque<Ticket>, FastHash>,
    /// Keys of every unfinished event.
    keys: HashMap<Ticket, Keys<K>, FastHash>,
    /// Nothing stands before them: the oldest goes first.
    ready: BTreeSet<Ticket>,
    /// From the first event on that is about every key, and found others unfinished: not in any queue yet.
    behind: VecDeque<(Ticket, Keys<K>)>,
    /// The one unfinished event is about every key.
    barred: bool,
    /// Events are parked: what is about every key waits for them, too.
    parked: bool,
}

/// The ordering keys of one event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keys<K> {
    /// It has no order.
    None,
    /// The usual case.
    One(K),
    /// Before and after the change, which differ.
    Both(K, K),
    /// It is about every key, also about what has none.
    All,
}

impl<K: Eq> Keys<K> {
    /// Of the row before and after the change.
    pub(super) fn of(old: Option<K>, new: Option<K>) -> Self {
        match (old, new) {
            (Some(old), Some(new)) if old != new => Self::Both(old, new),
            (_, Some(key)) | (Some(key), None) => Self::One(key),
            (None, None) => Self::None,
        }
    }
}

impl<K> Keys<K> {
    /// The same, of other keys.
    pub(super) fn map<L>(&self, of: impl Fn(&K) -> L) -> Keys<L> {
        match self {
            Self::None => Keys::None,
            Self::One(key) => Keys::One(of(key)),
            Self::Both(old, new) => Keys::Both(of(old), of(new)),
            Self::All => Keys::All,
        }
    }

    /// Whether everything waits for it, and it for everything.
    fn bar(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &K> {
        match self {
            Self::None | Self::All => [None, None],
            Self::One(key) => [Some(key), None],
            Self::Both(old, new) => [Some(old), Some(new)],
        }
        .into_iter()
        .flatten()
    }
}

impl<K: Clone + Eq + Hash> Lanes<K> {
    pub(super) fn new() -> Self {
        Self {
            queues: HashMap::default(),
            keys: HashMap::default(),
            ready: BTreeSet::new(),
            behind: VecDeque::new(),
            barred: false,
            parked: false,
        }
    }

    /// Whether an event would have to wait in here for one that is about every key.
    pub(super) fn is_barred(&self) -> bool {
        self.barred || !self.behind.is_empty()
    }

    /// Says whether any event is parked.
    pub(super) fn set_parked(&mut self, parked: bool) {
        self.parked = parked;
        self.catch_up();
    }

    /// Takes an event in. Tickets must ascend.
    pub(super) fn admit(&mut self, ticket: Ticket, keys: Keys<K>) {
        self.behind.push_back((ticket, keys));
        self.catch_up();
    }

    /// How many [`Lanes::next`] has.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The one that [`Lanes::next`] has first.
    pub(super) fn peek(&self) -> Option<Ticket> {
        self.ready.first().copied()
    }

    /// What waits for this event alone, which was handed out: both may go in one request, in this order.
    pub(super) fn follower(&self, ticket: Ticket) -> Option<Ticket> {
        let Keys::One(key) = self.keys.get(&ticket)? else { return None };
        let follower = *self.queues.get(key)?.get(1)?;
        matches!(self.keys.get(&follower), Some(Keys::One(_))).then_some(follower)
    }

    /// Hands out the follower of an event, in whose place it blocks their key from now on; the event itself is forgotten.
    pub(super) fn follow(&mut self, ticket: Ticket) {
        if let Some(Keys::One(key)) = self.keys.remove(&ticket)
            && let Some(queue) = self.queues.get_mut(&key)
        {
            queue.pop_front();
        }
    }

    /// Takes an event in that was parked: what is about every key waits for it, too, if it came in before.
    pub(super) fn readmit(&mut self, ticket: Ticket, keys: Keys<K>) {
        self.line_up(ticket, keys);
    }

    /// Lets in what stands behind an event about every key, as far as that one allows.
    fn catch_up(&mut self) {
        while !self.barred
            && let Some((ticket, keys)) =
                self.behind.pop_front_if(|(_, keys)| !keys.bar() || self.keys.is_empty() && !self.parked)
        {
            self.barred = keys.bar();
            self.line_up(ticket, keys);
        }
    }

    fn line_up(&mut self, ticket: Ticket, keys: Keys<K>) {
        for key in keys.iter() {
            self.queues.entry(key.clone()).or_default().push_back(ticket);
        }
        self.keys.insert(ticket, keys);
        self.promote(ticket);
    }

    /// The last unfinished event of a key.
    pub(super) fn last(&self, key: &K) -> Option<Ticket> {
        self.queues.get(key)?.back().copied()
    }

    /// Whether an event is in its place among those of its keys: it is not about every key, nor behind one that is.
    pub(super) fn is_placed(&self, ticket: Ticket) -> bool {
        self.keys.get(&ticket).is_some_and(|keys| !keys.bar())
    }

    /// What is unfinished of these keys, and of all that are tied to them by an event of two; of events that share a request, the
    /// last one of each key.
    pub(super) fn tied(&self, keys: impl IntoIterator<Item = K>) -> BTreeSet<Ticket> {
        let mut found = BTreeSet::new();
        let mut look: Vec<K> = keys.into_iter().collect();
        while let Some(key) = look.pop() {
            for ticket in self.queues.get(&key).into_iter().flatten() {
                if found.insert(*ticket) {
                    look.extend(self.keys.get(ticket).into_iter().flat_map(Keys::iter).cloned());
                }
            }
        }
        found
    }

    /// Hands out the oldest event that nothing stands before; each event once.
    pub(super) fn next(&mut self) -> Option<Ticket> {
        self.ready.pop_first()
    }

    /// Hands out this event, if nothing stands before it.
    pub(super) fn take(&mut self, ticket: Ticket) -> bool {
        self.ready.remove(&ticket)
    }

    /// Whether [`Lanes::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes out an event that was handed out, and every one that waits for it, directly or not; in order of admission, with
    /// their keys. One that is about every key is not withdrawn: nothing may pass it.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> Vec<(Ticket, Keys<K>)> {
        let mut found = BTreeSet::from([ticket]);
        let mut look = vec![ticket];
        while let Some(ticket) = look.pop() {
            let Some(keys) = self.keys.get(&ticket) else { continue };
            for key in keys.iter() {
                let behind = self.queues.get(key).into_iter().flatten().skip_while(|other| **other != ticket).skip(1);
                look.extend(behind.copied().filter(|other| found.insert(*other)));
            }
        }
        let withdrawn: Vec<_> =
            found.into_iter().filter_map(|ticket| Some((ticket, self.keys.remove(&ticket)?))).collect();
        for (ticket, keys) in &withdrawn {
            for key in keys.iter() {
                let Some(queue) = self.queues.get_mut(key) else { continue };
                // All that is behind it is withdrawn, too; what is before it stays as it is.
                queue.truncate(queue.partition_point(|other| other < ticket));
                if queue.is_empty() {
                    self.queues.remove(key);
                }
            }
        }
        self.parked = true;
        self.catch_up();
        withdrawn
    }

    /// An event that was handed out is done: what waited for it may go.
    pub(super) fn finish(&mut self, ticket: Ticket) {
        let Some(keys) = self.keys.remove(&ticket) else { return };
        for key in keys.iter() {
            let Some(queue) = self.queues.get_mut(key) else { continue };
            queue.pop_front();
            match queue.front().copied() {
                Some(head) => self.promote(head),
                None => drop(self.queues.remove(key)),
            }
        }
        self.barred &= !keys.bar();
        self.catch_up();
    }

    /// Makes an event ready if it is the head of each of its queues.
    fn promote(&mut self, ticket: Ticket) {
        let is_head = |key| self.queues.get(key).is_none_or(|queue| queue.front() == Some(&ticket));
        if self.keys.get(&ticket).is_some_and(|keys| keys.iter().all(is_head)) {
            self.ready.insert(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Keys<u8>> {
        prop_oneof![
            9 => (proptest::option::of(0..4_u8), proptest::option::of(0..4_u8)).prop_map(|(old, new)| Keys::of(old, new)),
            1 => Just(Keys::All),
        ]
    }

    proptest! {
        /// Events come in, go out and end in any interleaving, with a limit on what is out.
        #[test]
        fn a_key_has_one_event_in_flight_and_in_order_and_every_event_goes_out_once(
            events in proptest::collection::vec(keys(), 1..40),
            picks in proptest::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..200),
            limit in 1..6_usize,
        ) {
            let mut lanes = Lanes::new();
            let (mut admitted, mut out, mut handed) = (0, Vec::<Ticket>::new(), Vec::new());
            let mut last = BTreeMap::<u8, Ticket>::new();
            let mut picks = picks.into_iter();
            loop {
                // When the script is over: take all in, then hand out and finish until nothing is left.
                let (what, which) = picks.next().map_or_else(
                    || (if admitted < events.len() { 0 } else { 1 + u8::from(out.len() == limit) }, None),
                    |(what, which)| (what, Some(which)),
                );
                match what {
                    0 if admitted < events.len() => {
                        lanes.admit(admitted as Ticket, events[admitted]);
                        admitted += 1;
                    }
                    1 if out.len() < limit => match lanes.next() {
                        Some(ticket) => {
                            for key in events[usize::try_from(ticket).unwrap()].iter() {
                                for other in &out {
                                    let blocked = events[usize::try_from(*other).unwrap()].iter().any(|k| k == key);
                                    prop_assert!(!blocked, "{ticket} and {other} share key {key}");
                                }
                                prop_assert!(last.insert(*key, ticket).is_none_or(|before| before < ticket));
                            }
                            for other in 0..admitted as Ticket {
                                let barred = |ticket: Ticket| events[usize::try_from(ticket).unwrap()] == Keys::All;
                                let finished = handed.contains(&other) && !out.contains(&other);
                                prop_assert!(other >= ticket || finished || !(barred(other) || barred(ticket)),
                                    "{ticket} did not wait for {other}");
                            }
                            out.push(ticket);
                            handed.push(ticket);
                        }
                        None if which.is_none() && out.is_empty() => break,
                        None if which.is_none() => lanes.finish(out.remove(0)),
                        None => {}
                    },
                    _ if !out.is_empty() => {
                        let at = which.map_or(0, |which| which.index(out.len()));
                        lanes.finish(out.remove(at));
                    }
                    _ => {}
                }
            }
            handed.sort_unstable();
            prop_assert_eq!(handed, (0..events.len() as Ticket).collect::<Vec<_>>());
            prop_assert!(lanes.queues.is_empty() && lanes.keys.is_empty() && lanes.behind.is_empty());
        }
    }

    #[test]
    fn an_update_that_changes_the_key_waits_for_both_and_blocks_both() {
        let mut lanes = Lanes::new();
        lanes.admit(0, Keys::One("a"));
        lanes.admit(1, Keys::One("b"));
        lanes.admit(2, Keys::of(Some("a"), Some("b")));
        lanes.admit(3, Keys::One("a"));
        lanes.admit(4, Keys::One("b"));
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some(0), Some(1), None));
        lanes.finish(1);
        assert_eq!(lanes.next(), None);
        lanes.finish(0);
        assert_eq!((lanes.next(), lanes.next()), (Some(2), None));
        lanes.finish(2);
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some(3), Some(4), None));
    }

    #[test]
    fn an_event_about_every_key_waits_for_all_and_blocks_all() {
        let mut lanes = Lanes::new();
        for (ticket, keys) in
            [(0, Keys::One("a")), (1, Keys::None), (2, Keys::All), (3, Keys::One("b")), (4, Keys::None)]
        {
            lanes.admit(ticket, keys);
        }
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some(0), Some(1), None));
        lanes.finish(1);
        assert_eq!(lanes.next(), None);
        lanes.finish(0);
        assert_eq!((lanes.next(), lanes.next()), (Some(2), None));
        lanes.finish(2);
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some(3), Some(4), None));
    }

    #[test]
    fn without_keys_all_go_at_once() {
        let mut lanes = Lanes::<u8>::new();
        (0..3).for_each(|ticket| lanes.admit(ticket, Keys::None));
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some(0), Some(1), Some(2)));
    }
}
