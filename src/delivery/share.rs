//! Who holds which slots: every worker decides by itself, by the same rule, what of the log is its share. Pure.

use crate::log::Slot;

/// One slot, as a worker sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) slot: Slot,
    pub(super) holder: Holder,
    /// Whether it has EventTriggers.
    pub(super) used: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Holder {
    /// Anybody may take it.
    Nobody,
    Me,
    /// A worker that lives, or this one, which is about to give it up.
    Other,
}

/// What is to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Plan {
    pub(super) take: Vec<Slot>,
    pub(super) give: Vec<Slot>,
}

/// What the worker takes and gives up that is the `rank`-th, from 0, of `workers` in order of their numbers.
///
/// Slots that have EventTriggers are divided evenly, and so are those that have none: a log of four EventTriggers keeps
/// four workers busy, whatever their slots are. The shares add up to all slots, each differs from the others by one at most,
/// and nobody gives up what nobody is to take: when all have their shares, nothing moves any more.
pub(super) fn plan(rank: usize, workers: usize, slots: &[Seen]) -> Plan {
    let mut plan = Plan::default();
    for used in [true, false] {
        let of = |holder| slots.iter().filter(move |seen| seen.used == used && seen.holder == holder);
        let count = slots.iter().filter(|seen| seen.used == used).count();
        // Whoever has one more of the used slots has one fewer of the others, as far as that goes.
        let share = share(count, workers, if used { rank } else { workers.saturating_sub(rank + 1) });
        let mine = of(Holder::Me).count();
        plan.give.extend(of(Holder::Me).skip(share).map(|seen| seen.slot));
        plan.take.extend(of(Holder::Nobody).take(share.saturating_sub(mine)).map(|seen| seen.slot));
    }
    plan
}

/// `count` divided by `workers`; the first of them get the rest, one each.
fn share(count: usize, workers: usize, rank: usize) -> usize {
    let workers = workers.max(1);
    count / workers + usize::from(rank < count % workers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Slots by holder, 0 being nobody, and whether they are used.
    type Table = Vec<(i32, bool)>;

    fn decide(me: i32, living: &[i32], table: &Table) -> Plan {
        let seen = Slot::all().zip(table).map(|(slot, &(holder, used))| {
            let holder = match holder {
                holder if holder == me => Holder::Me,
                holder if living.contains(&holder) => Holder::Other,
                _ => Holder::Nobody,
            };
            Seen { slot, holder, used }
        });
        let rank = living.iter().filter(|&&other| other < me).count();
        plan(rank, living.len(), &seen.collect::<Vec<_>>())
    }

    /// Carries a worker's decision out, as if it were done at once; how many slots moved.
    fn act(me: i32, living: &[i32], table: &mut Table) -> usize {
        let Plan { take, give } = decide(me, living, table);
        for (slot, (holder, _)) in Slot::all().zip(table.iter_mut()) {
            if give.contains(&slot) {
                assert_eq!(*holder, me, "only what is held is given up");
                *holder = 0;
            } else if take.contains(&slot) {
                assert!(!living.contains(holder), "nothing is taken from a living worker");
                *holder = me;
            }
        }
        take.len() + give.len()
    }

    fn counts(living: &[i32], table: &Table, used: bool) -> Vec<usize> {
        let count = |me| table.iter().filter(|&&(holder, uses)| holder == me && uses == used).count();
        living.iter().map(|&me| count(me)).collect()
    }

    #[rstest]
    #[case::alone(16, &[16])]
    #[case::two(16, &[8, 8])]
    #[case::three(16, &[6, 5, 5])]
    #[case::five(16, &[4, 3, 3, 3, 3])]
    #[case::more_than_there_are_slots(3, &[1, 1, 1, 0])]
    #[case::nothing_to_share(0, &[0, 0])]
    fn shares_differ_by_one_at_most_and_leave_nothing_out(#[case] count: usize, #[case] shares: &[usize]) {
        let found: Vec<_> = (0..shares.len()).map(|rank| share(count, shares.len(), rank)).collect();
        assert_eq!(found, shares);
    }

    #[test]
    fn who_joins_gets_its_share_of_the_slots_that_are_used() {
        let mut table: Table = (0..16).map(|slot| (1, (1..=4).contains(&slot))).collect();
        assert_eq!(act(2, &[1, 2], &mut table), 0, "nothing is free yet");
        assert_eq!(act(1, &[1, 2], &mut table), 8, "the first gives up what is too much");
        act(2, &[1, 2], &mut table);
        assert_eq!((counts(&[1, 2], &table, true), counts(&[1, 2], &table, false)), (vec![2, 2], vec![6, 6]));
    }

    #[test]
    fn the_slots_of_a_worker_that_died_are_taken_by_those_that_live() {
        let mut table: Table = (0..16).map(|slot| (1 + slot % 3, true)).collect();
        act(1, &[1, 3], &mut table);
        act(3, &[1, 3], &mut table);
        assert_eq!(counts(&[1, 3], &table, true), [8, 8]);
    }

    proptest! {
        #[test]
        fn from_any_state_all_slots_come_to_be_held_in_even_shares_and_then_stay(
            holders in prop::collection::vec(0..9_i32, 16),
            used in prop::collection::vec(any::<bool>(), 16),
            living in prop::collection::btree_set(1..9_i32, 1..8),
        ) {
            let living: Vec<_> = living.into_iter().collect();
            let mut table: Table = holders.into_iter().zip(used).collect();
            let before = table.clone();
            for _ in 0..2 {
                for &me in &living {
                    act(me, &living, &mut table);
                }
            }
            let mut by_holder = BTreeMap::<i32, usize>::new();
            for (holder, _) in &table {
                prop_assert!(living.contains(holder), "every slot is held by one that lives");
                *by_holder.entry(*holder).or_default() += 1;
            }
            for used in [true, false] {
                let counts = counts(&living, &table, used);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{counts:?}");
                // Who had no more than its share has lost nothing.
                for (rank, &me) in living.iter().enumerate() {
                    let kept = before.iter().zip(&table).filter(|((was, uses), (is, _))| *uses == used && *was == me && *is == me);
                    let had = before.iter().filter(|&&(was, uses)| was == me && uses == used).count();
                    prop_assert_eq!(kept.count(), had.min(counts[rank]), "of {}", me);
                }
            }
            for &me in &living {
                prop_assert_eq!(decide(me, &living, &table), Plan::default());
            }
        }
    }
}
