//! Partitions: which part of an EventTrigger's events goes together, by hash of their key. Pure.

/// Most partitions that an EventTrigger can have: as many as there are slots, for more workers than those are of no use.
pub const MOST: u32 = 16;

/// One of the parts that an EventTrigger's events are divided into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partition {
    /// From 0.
    pub number: u32,
    /// How many there are; 1: the events are not divided.
    pub of: u32,
}

/// What an event is to a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// It is nobody else's.
    Alone,
    /// It concerns other partitions (bits by number), too, and is sent here, once they have come to it.
    Sends(u32),
    /// It is sent by that other partition (as a bit), and waited for here.
    Waits(u32),
}

impl Partition {
    /// All events of an EventTrigger that is not spread.
    pub const WHOLE: Self = Self { number: 0, of: 1 };

    /// Whether the events are not divided.
    pub fn is_whole(self) -> bool {
        self.of <= 1
    }

    /// Whether events of this lane belong to it. The database knows the same rule, for dead letters.
    pub fn has(self, lane: u64) -> bool {
        self.is_whole() || self.of_lane(lane) == self.number
    }

    fn of_lane(self, lane: u64) -> u32 {
        // The highest bits: those below choose a place in hash tables. Without the sign that PostgreSQL sees.
        u32::try_from((lane >> 33) % u64::from(self.of.max(1))).unwrap_or_default()
    }

    /// What an event of one lane, or of two, is to it; `None`: nothing.
    ///
    /// An event of two partitions is sent by that of the first.
    pub fn role(self, first: u64, second: Option<u64>) -> Option<Role> {
        if self.is_whole() {
            return Some(Role::Alone);
        }
        let (sends, other) = (self.of_lane(first), self.of_lane(second.unwrap_or(first)));
        match (sends == self.number, other == self.number) {
            (true, true) => Some(Role::Alone),
            (true, false) => Some(Role::Sends(1 << other)),
            (false, true) => Some(Role::Waits(1 << sends)),
            (false, false) => None,
        }
    }

    /// What an event about every key is to it: the first partition sends it.
    pub fn role_in_all(self) -> Role {
        match self {
            Self { number: _, of: 0 | 1 } => Role::Alone,
            Self { number: 0, of } => Role::Sends(((1 << of.min(MOST)) - 1) & !1),
            Self { .. } => Role::Waits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(of: u32) -> impl Iterator<Item = Partition> {
        (0..of).map(move |number| Partition { number, of })
    }

    proptest! {
        #[test]
        fn every_event_is_sent_by_one_partition_and_waited_for_by_the_others_that_it_concerns(
            of in 1..=MOST, first in any::<u64>(), second in proptest::option::of(any::<u64>()),
        ) {
            let mut sends = Vec::new();
            let mut waits = Vec::new();
            for partition in all(of) {
                match partition.role(first, second) {
                    None => {}
                    Some(Role::Alone) => sends.push((partition.number, 0)),
                    Some(Role::Sends(others)) => sends.push((partition.number, others)),
                    Some(Role::Waits(sender)) => waits.push((partition.number, sender)),
                }
            }
            prop_assert_eq!(sends.len(), 1);
            let (sender, others) = sends[0];
            prop_assert_eq!(waits.iter().map(|(number, _)| 1 << number).sum::<u32>(), others);
            prop_assert!(waits.iter().all(|(_, bit)| *bit == 1 << sender));
        }

        #[test]
        fn an_event_about_every_key_is_sent_by_the_first_and_waited_for_by_all_others(of in 2..=MOST) {
            let roles: Vec<_> = all(of).map(Partition::role_in_all).collect();
            prop_assert_eq!(roles[0], Role::Sends((2..=of).map(|n| 1 << (n - 1)).sum()));
            prop_assert!(roles[1..].iter().all(|role| *role == Role::Waits(1)));
        }
    }

    #[test]
    fn keys_are_divided_evenly() {
        let lanes: Vec<_> = (0..1000_u32).map(|key| xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes())).collect();
        for partition in all(4) {
            let share = lanes.iter().filter(|lane| partition.has(**lane)).count();
            assert!((200..300).contains(&share), "{share}");
        }
    }
}
