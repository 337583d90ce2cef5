//! Passes: subscriptions that read the log together, so that reading costs the same for one as for a hundred. Pure.
//!
//! Those that keep up share one pass. One that has no room for the next page while others have is split off after
//! [`PATIENCE`] and goes on alone; passes whose last window was a short one are near the end of the log, and merge.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::ledger::Room;
use crate::log::Snapshot;

/// How long a pass waits for those of its members that have no room. Its others still have most of a page to work on
/// meanwhile, so waiting costs them nothing; splitting off costs the database another reader.
const PATIENCE: Duration = Duration::from_millis(200);

/// Subscriptions that read together. Where it stands is where its members stand: all at the same page of the same window.
#[derive(Debug)]
pub(super) struct Pass {
    members: BTreeSet<i32>,
    /// The EventTrigger whose partitions they are, if they are: these read windows that all of them have agreed on.
    spread: Option<i32>,
    /// End of the window that is being read; `None` between two windows.
    to: Option<Arc<Snapshot>>,
    /// Captures whose events are not read in that window, and of how many members that was said.
    without: Option<(Arc<BTreeSet<i32>>, usize)>,
    /// Whether a page is on its way.
    reading: bool,
    /// Whether the present or last window had several pages, or was resumed: all of it must be done before the next one.
    long: bool,
    /// Since when some members have room and others not.
    held_since: Option<Instant>,
}

/// What a pass does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Nothing, until something changes.
    Wait,
    /// Read a page.
    Read,
    /// These go on alone.
    Split(BTreeSet<i32>),
}

impl Pass {
    /// Of members that stand at the same place; `to` is the window that they are in.
    pub(super) fn new(members: BTreeSet<i32>, to: Option<Arc<Snapshot>>) -> Self {
        // How far back a new member starts is not known: only a short window tells that it is near.
        Self { members, spread: None, to, without: None, reading: false, long: true, held_since: None }
    }

    /// The same, of partitions of an EventTrigger, or not.
    pub(super) fn of(self, spread: Option<i32>) -> Self {
        Self { spread, ..self }
    }

    /// The EventTrigger whose partitions its members are.
    pub(super) fn spread(&self) -> Option<i32> {
        self.spread
    }

    pub(super) fn members(&self) -> &BTreeSet<i32> {
        &self.members
    }

    pub(super) fn to(&self) -> Option<&Arc<Snapshot>> {
        self.to.as_ref()
    }

    /// Whether it is in the middle of a window of several pages.
    pub(super) fn is_behind(&self) -> bool {
        self.long && self.to.is_some()
    }

    pub(super) fn remove(&mut self, member: i32) {
        self.members.remove(&member);
    }

    /// What to do, given which members have room. To be asked while there is something to read.
    pub(super) fn next(&mut self, now: Instant, room: impl Fn(i32) -> Room) -> Next {
        if self.reading || self.members.is_empty() {
            return Next::Wait;
        }
        let needed = if self.to.is_none() && self.long { Room::Drained } else { Room::Some };
        let late: BTreeSet<_> = self.members.iter().copied().filter(|&member| room(member) < needed).collect();
        if late.is_empty() {
            self.held_since = None;
            return Next::Read;
        }
        if late.len() == self.members.len() {
            self.held_since = None;
            return Next::Wait;
        }
        let since = *self.held_since.get_or_insert(now);
        if now.duration_since(since) < PATIENCE { Next::Wait } else { Next::Split(late) }
    }

    /// It is being asked where the next window ends.
    pub(super) fn ask(&mut self) {
        self.reading = true;
    }

    /// That is known, or there is no window yet.
    pub(super) fn told(&mut self) {
        self.reading = false;
    }

    /// Captures whose events are not read in the present window: those that `find` says for its members. They hold for fewer
    /// members, too, and nobody joins in the middle of a window; but when half of them have gone there may be much more.
    pub(super) fn without(&mut self, find: impl FnOnce(&BTreeSet<i32>) -> BTreeSet<i32>) -> Arc<BTreeSet<i32>> {
        let members = self.members.len();
        match &self.without {
            Some((without, then)) if 2 * members > *then => without.clone(),
            _ => self.without.insert((Arc::new(find(&self.members)), members)).0.clone(),
        }
    }

    /// A page is being read of the window that ends at `to`.
    pub(super) fn begin(&mut self, to: Arc<Snapshot>) {
        if self.to.is_none() {
            self.long = false;
        }
        self.to = Some(to);
        self.reading = true;
    }

    /// The page was handed out.
    pub(super) fn end(&mut self, ends: bool) {
        self.reading = false;
        if ends {
            (self.to, self.without) = (None, None);
        } else {
            self.long = true;
        }
    }

    /// Takes `late` out; each of them goes on from the same place.
    pub(super) fn split(&mut self, late: &BTreeSet<i32>) -> Vec<Self> {
        self.held_since = None;
        self.members.retain(|member| !late.contains(member));
        late.iter()
            .map(|&member| Self { long: self.long, spread: self.spread, ..Self::new([member].into(), self.to.clone()) })
            .collect()
    }

    /// Whether it may merge with others that are near.
    pub(super) fn is_near(&self, room: impl Fn(i32) -> Room) -> bool {
        self.to.is_none()
            && !self.reading
            && !self.long
            && self.members.iter().all(|&member| room(member) >= Room::Some)
    }

    /// Takes in the members of another pass; both are near.
    pub(super) fn merge(&mut self, other: &Self) {
        self.members.extend(&other.members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(members: impl IntoIterator<Item = i32>) -> Pass {
        Pass::new(members.into_iter().collect(), None)
    }

    fn cut() -> Arc<Snapshot> {
        Arc::new("1:1:".parse().unwrap())
    }

    #[test]
    fn a_member_without_room_is_split_off_when_others_have_waited_enough() {
        let (mut pass, start) = (pass([1, 2, 3]), Instant::now());
        pass.begin(cut());
        pass.end(false);
        let room = |member| if member == 2 { Room::None } else { Room::Some };
        assert_eq!(pass.next(start, room), Next::Wait);
        assert_eq!(pass.next(start + PATIENCE / 2, room), Next::Wait);
        assert_eq!(pass.next(start + PATIENCE, room), Next::Split([2].into()));
        let alone = pass.split(&[2].into());
        assert_eq!((alone.len(), alone[0].members(), alone[0].to()), (1, &[2].into(), Some(&cut())));
        assert_eq!(pass.next(start + PATIENCE, room), Next::Read);
    }

    #[test]
    fn what_need_not_be_read_is_found_out_anew_for_a_window_and_when_half_of_the_members_have_gone() {
        let mut pass = pass([1, 2, 3, 4]);
        let same = |_: &BTreeSet<i32>| panic!("it is known");
        let found = |pass: &mut Pass, n: i32| *pass.without(|_| [n].into()) == BTreeSet::from([n]);
        assert!(found(&mut pass, 7));
        pass.begin(cut());
        pass.end(false);
        pass.remove(1);
        assert_eq!(*pass.without(same), BTreeSet::from([7]));
        pass.remove(2);
        assert!(found(&mut pass, 8), "of four there are two");
        assert!(found(&mut pass.split(&[3].into())[0], 9), "alone");
        pass.begin(cut());
        pass.end(true);
        assert!(found(&mut pass, 10), "another window");
    }

    #[test]
    fn nobody_is_split_off_while_nobody_has_room() {
        let (mut pass, start) = (pass([1, 2]), Instant::now());
        pass.begin(cut());
        pass.end(false);
        for late in 0..10 {
            assert_eq!(pass.next(start + PATIENCE * late, |_| Room::None), Next::Wait);
        }
    }

    #[test]
    fn a_window_of_several_pages_is_done_before_the_next_begins() {
        let mut pass = pass([1]);
        pass.begin(cut());
        assert_eq!(pass.next(Instant::now(), |_| Room::Drained), Next::Wait, "a page is being read");
        pass.end(false);
        assert_eq!(pass.next(Instant::now(), |_| Room::Some), Next::Read);
        pass.begin(cut());
        pass.end(true);
        assert_eq!(pass.next(Instant::now(), |_| Room::Some), Next::Wait);
        assert_eq!(pass.next(Instant::now(), |_| Room::Drained), Next::Read);
    }

    #[test]
    fn only_short_windows_show_that_a_pass_is_near() {
        let mut pass = pass([1]);
        assert!(!pass.is_near(|_| Room::Drained), "nothing is known yet");
        pass.begin(cut());
        pass.end(false);
        pass.begin(cut());
        pass.end(true);
        assert!(!pass.is_near(|_| Room::Drained), "a long window");
        pass.begin(cut());
        assert!(!pass.is_near(|_| Room::Drained), "a page is being read");
        pass.end(true);
        assert!(pass.is_near(|_| Room::Some));
        assert!(!pass.is_near(|_| Room::None));
    }
}
