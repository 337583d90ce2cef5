//! Events that concern several partitions: an update whose old and new keys belong to different ones, a truncation. One of them
//! sends the event, once the others have come to it; those wait until it was sent or given up. All are told by the database, so
//! that what was done before it is written before it is sent.
//!
//! Nothing can get stuck: all partitions have the same order, and the first unfinished event of all has nothing before it in any.

use std::time::{Duration, Instant};

use super::{
    super::lanes::{Keys, Ticket},
    Outcome, Work,
    parking::lanes_of,
};
use crate::log::{Event, Exception, Partition, Wait, partition::Role};

/// For so long an event waits in memory for other partitions; then it is parked, with what waits behind it.
const PATIENCE: Duration = Duration::from_secs(1);

/// After it what is parked so is looked at in any case.
const REST: Duration = Duration::from_mins(1);

/// An event that waits for other partitions.
pub(super) enum Meeting {
    /// Nothing of its key is before it.
    Here(Ticket),
    /// The same, in the database; this is its lane.
    Parked(u64),
}

impl Work {
    /// Of an event's lanes those of this partition.
    pub(super) fn own(&self, keys: &Keys<String>) -> Keys<u64> {
        own(self.courier.partition, lanes_of(keys))
    }

    /// What an event is to this partition, if it is still to meet others.
    pub(super) fn role(&self, event: &Event, keys: &Keys<String>) -> Role {
        let partition = self.courier.partition;
        if partition.is_whole() {
            return Role::Alone;
        }
        // One of no partition at all is not handed out.
        super::role(partition, &lanes_of(keys), event.id).unwrap_or(Role::Alone)
    }

    /// Lets events wait for other partitions that have nothing before them in this one.
    pub(super) fn meet(&mut self) {
        let ready: Vec<_> = self.crossings.iter().copied().filter(|ticket| self.lanes.take(*ticket)).collect();
        for ticket in ready {
            self.crossings.remove(&ticket);
            let Some(load) = self.loads.get(&ticket) else { continue };
            let (subscription, event) = (self.courier.subscription, load.event.id);
            let (others, sends) = match load.role {
                Role::Alone => continue,
                Role::Sends(others) => (others, true),
                Role::Waits(sender) => (sender, false),
            };
            let wait = Wait { subscription, event, place: load.event.place, others, sends };
            if !sends {
                self.exception(Exception::Arrive { subscription, event });
                self.outcomes.push(Outcome::Soon);
            }
            self.outcomes.push(Outcome::Wait(wait));
            self.meetings.insert(event, Meeting::Here(ticket));
            self.patience.push_back((Instant::now() + PATIENCE, event));
        }
    }

    /// All others have come to an event, or are through with it.
    pub(super) fn met(&mut self, event: i64) {
        match self.meetings.remove(&event) {
            None => {}
            Some(Meeting::Parked(lane)) => {
                if let Some(root) = self.parking.root(lane) {
                    self.parking.resume(root, Instant::now());
                }
            }
            Some(Meeting::Here(ticket)) => match self.loads.get(&ticket).map(|load| load.role) {
                Some(Role::Sends(_)) => self.send_again(ticket),
                Some(Role::Waits(_)) => {
                    let subscription = self.courier.subscription;
                    self.exception(Exception::Depart { subscription, event });
                    self.finish(ticket, None);
                }
                Some(Role::Alone) | None => {}
            },
        }
    }

    /// Parks events that have waited for long. What is about every key waits in place.
    pub(super) fn lose_patience(&mut self) {
        let now = Instant::now();
        while let Some((_, event)) = self.patience.pop_front_if(|(until, _)| *until <= now) {
            let Some(Meeting::Here(ticket)) = self.meetings.get(&event) else { continue };
            let ticket = *ticket;
            let Some(lane) = self.loads.get(&ticket).and_then(|load| self.own(&load.keys).iter().next().copied())
            else {
                continue;
            };
            self.meetings.insert(event, Meeting::Parked(lane));
            if let Some(root) = self.set_aside(ticket, None) {
                // It is due when it is met; a courier that comes after this one looks for itself.
                self.parking.rest(root, now + REST, now);
                let subscription = self.courier.subscription;
                self.exception(Exception::Wait { subscription, root, delay: PATIENCE });
            }
            self.lanes.set_parked(self.parking.waiting() > 0);
        }
    }
}

fn own(partition: Partition, lanes: Keys<u64>) -> Keys<u64> {
    match lanes {
        Keys::Both(old, new) => match (partition.has(old), partition.has(new)) {
            (true, true) => lanes,
            (false, true) => Keys::One(new),
            (_, false) => Keys::One(old),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::super::lanes::Lanes, *};

    /// Of two partitions two keys each.
    const KEYS: [u64; 4] = [0, 1 << 33, 2 << 33, 3 << 33];

    fn keys() -> impl Strategy<Value = Keys<u64>> {
        let key = || proptest::sample::select(KEYS.as_slice());
        prop_oneof![
            9 => (key(), key()).prop_map(|(old, new)| Keys::of(Some(old), Some(new))),
            1 => Just(Keys::All),
        ]
    }

    /// A courier in small, without a sink that fails.
    struct Small {
        partition: Partition,
        lanes: Lanes<u64>,
        order: Vec<usize>,
        admitted: usize,
        /// Events that it has come to and not finished.
        come: BTreeSet<usize>,
    }

    /// Lets two partitions deliver events, each as it has them in order, for as long as there is anything to do; how many were
    /// sent. `turns` says whose turn it is at first.
    fn deliver(events: &[Keys<u64>], orders: [Vec<usize>; 2], turns: &[bool]) -> usize {
        let small = |(number, order): (u32, Vec<usize>)| {
            let partition = Partition { number, of: 2 };
            Small { partition, lanes: Lanes::new(), order, admitted: 0, come: BTreeSet::new() }
        };
        let mut partitions: Vec<_> = (0..).zip(orders).map(small).collect();
        let role = |partition, event: usize| super::super::role(partition, &events[event], 0);
        let mut sent = BTreeSet::new();
        let turns = turns.iter().map(|turn| usize::from(*turn)).chain((0..events.len() * 8).map(|turn| turn % 2));
        for turn in turns {
            let other = partitions[1 - turn].come.clone();
            let one = &mut partitions[turn];
            if let Some(event) = one.order.get(one.admitted).copied() {
                if role(one.partition, event).is_some() {
                    one.lanes.admit(one.admitted as Ticket, own(one.partition, events[event]));
                }
                one.admitted += 1;
            }
            while let Some(ticket) = one.lanes.next() {
                one.come.insert(one.order[usize::try_from(ticket).unwrap()]);
            }
            for event in one.come.clone() {
                let ends = match role(one.partition, event) {
                    Some(Role::Alone) => sent.insert(event),
                    Some(Role::Sends(_)) => other.contains(&event) && sent.insert(event),
                    Some(Role::Waits(_)) => sent.contains(&event),
                    None => false,
                };
                if ends {
                    let ticket = one.order.iter().position(|other| *other == event).unwrap();
                    one.lanes.finish(ticket as Ticket);
                    one.come.remove(&event);
                }
            }
        }
        sent.len()
    }

    proptest! {
        #[test]
        fn partitions_that_have_one_order_never_wait_for_each_other_in_a_circle(
            events in proptest::collection::vec(keys(), 1..30),
            turns in proptest::collection::vec(any::<bool>(), 0..100),
        ) {
            let order: Vec<_> = (0..events.len()).collect();
            prop_assert_eq!(deliver(&events, [order.clone(), order], &turns), events.len());
        }
    }

    #[test]
    fn with_orders_of_their_own_they_would() {
        // Two rows that change places at the same time: neither transaction is before the other.
        let events = [Keys::Both(KEYS[0], KEYS[1]), Keys::Both(KEYS[1], KEYS[0])];
        assert_eq!(deliver(&events, [vec![0, 1], vec![0, 1]], &[]), 2);
        assert_eq!(deliver(&events, [vec![0, 1], vec![1, 0]], &[]), 0);
    }
}
