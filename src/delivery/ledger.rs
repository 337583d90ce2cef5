//! What one subscription was handed and what of it is done: pages in, receipts in, a cursor out. Pure.
//!
//! Pages may be handed out while earlier ones are still under way, also of later windows, so that one slow event does
//! not hold what comes after it.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;

use crate::log::{Cursor, Event, Snapshot};

/// Unfinished events up to which there is room for another page: two pages in work and one waiting, so that neither reading nor
/// writing waits for the other where a page is one request.
const ROOM: usize = 1000;
/// Events since the first unfinished page, done or not, up to which there is room: bounds what [`Cursor::done`] lists.
const KEPT: usize = 2000;

/// Whether a subscription can take another page.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Room {
    /// Not yet.
    None,
    /// It can.
    Some,
    /// It can, and nothing is under way.
    Drained,
}

/// Names one event that was handed out.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Receipt {
    page: u64,
    index: usize,
}

/// One page's part for one subscription.
#[derive(Debug)]
pub(super) struct Handout<'a> {
    /// End of the window.
    pub(super) to: &'a Arc<Snapshot>,
    /// The page's last event, whoever wants it.
    pub(super) last: i64,
    /// Whether the window has no more pages.
    pub(super) ends: bool,
    /// The subscription's own events of the page, ascending.
    pub(super) events: Vec<Handed>,
}

/// A [`Cursor`] whose snapshots are shared.
#[derive(Clone, Debug)]
struct Position {
    from: Arc<Snapshot>,
    to: Option<Arc<Snapshot>>,
    after: i64,
    done: Vec<i64>,
}

/// An event that was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    id: i64,
    /// When it was captured.
    at: Timestamp,
    /// What it takes of memory, as long as it is not done.
    bytes: u64,
    done: bool,
}

impl Handed {
    pub(super) fn new(event: &Event) -> Self {
        Self { id: event.id, at: event.at, bytes: event.bytes(), done: false }
    }
}

#[derive(Debug)]
struct Page {
    to: Arc<Snapshot>,
    events: Vec<Handed>,
    unfinished: usize,
    /// The position once this page and all before it are done.
    end: Position,
}

/// See the module.
///
/// Partitions of one EventTrigger must read the same windows, whatever any of them had done when it was stopped: a partition's
/// cursor never joins windows, but names the one of its first unfinished event, and lists all that is done, also of later ones.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Whether it is a partition's.
    partition: bool,
    /// Everything up to here is done.
    finished: Position,
    /// Everything up to here was handed out.
    handed: Position,
    /// What lies between both: pages that have unfinished events, or follow one that has.
    pages: VecDeque<Page>,
    /// Number of the first of `pages`.
    first: u64,
    /// Of unfinished events.
    bytes: u64,
}

impl Ledger {
    #[cfg(test)]
    pub(super) fn new(cursor: &Cursor) -> Self {
        Self::of(cursor, false)
    }

    /// Of a partition, or of all events.
    pub(super) fn of(cursor: &Cursor, partition: bool) -> Self {
        let mut done = cursor.done.clone();
        done.sort_unstable();
        let position = Position {
            from: Arc::new(cursor.from.clone()),
            to: cursor.to.clone().map(Arc::new),
            after: cursor.after,
            done,
        };
        Self { partition, finished: position.clone(), handed: position, pages: VecDeque::new(), first: 0, bytes: 0 }
    }

    /// The cut up to which everything was handed out.
    pub(super) fn from(&self) -> &Arc<Snapshot> {
        &self.handed.from
    }

    /// The end of the window that is being handed out.
    pub(super) fn to(&self) -> Option<&Arc<Snapshot>> {
        self.handed.to.as_ref()
    }

    /// The last event of that window's part that was handed out.
    pub(super) fn after(&self) -> i64 {
        self.handed.after
    }

    /// Whether the subscription has not had this event of the present window yet.
    pub(super) fn wants(&self, event: &Event) -> bool {
        let Position { from, after, done, .. } = &self.handed;
        event.id > *after && !from.has(event.place) && done.binary_search(&event.id).is_err()
    }

    /// Where it stands, with nothing under way.
    pub(super) fn anew(&self) -> Self {
        Self::of(&self.cursor(), self.partition)
    }

    /// Whether the subscription has not had this event of the present window yet; each is asked for once.
    pub(super) fn meets(&mut self, event: &Event) -> bool {
        let wants = self.wants(event);
        if self.partition
            && event.id > self.handed.after
            && let Ok(at) = self.handed.done.binary_search(&event.id)
        {
            self.handed.done.remove(at);
        }
        wants
    }

    /// Notes a page; the receipts are those of its events, in their order.
    ///
    /// A window may follow one of which events are unfinished only if that one was a single page and not resumed
    /// ([`Room::Drained`] is to be waited for otherwise): a cursor can skip single events of a window only from its start.
    pub(super) fn hand(&mut self, handout: Handout<'_>) -> Vec<Receipt> {
        let Handout { to, last, ends, events } = handout;
        let mut done = std::mem::take(&mut self.handed.done);
        if ends {
            // Those of a partition that were not met are of later windows.
            done.retain(|_| self.partition);
            self.handed = Position { from: to.clone(), to: None, after: 0, done };
        } else {
            done.retain(|&id| self.partition || id > last);
            self.handed = Position { from: self.handed.from.clone(), to: Some(to.clone()), after: last, done };
        }
        let end = self.handed.clone();
        if events.is_empty() {
            match self.pages.back_mut() {
                Some(page) => page.end = end,
                None => self.finished = end,
            }
            return Vec::new();
        }
        let page = self.first + self.pages.len() as u64;
        let receipts = (0..events.len()).map(|index| Receipt { page, index }).collect();
        self.bytes += events.iter().map(|event| event.bytes).sum::<u64>();
        self.pages.push_back(Page { to: to.clone(), unfinished: events.len(), events, end });
        receipts
    }

    /// Notes that an event is done.
    pub(super) fn settle(&mut self, receipt: Receipt) {
        let page = receipt.page.checked_sub(self.first).and_then(|at| self.pages.get_mut(usize::try_from(at).ok()?));
        let Some(page) = page else { return };
        let Some(Handed { bytes, done: done @ false, .. }) = page.events.get_mut(receipt.index) else { return };
        *done = true;
        self.bytes -= *bytes;
        page.unfinished -= 1;
        while let Some(page) = self.pages.pop_front_if(|page| page.unfinished == 0) {
            self.finished = page.end;
            self.first += 1;
        }
    }

    pub(super) fn unfinished(&self) -> usize {
        self.pages.iter().map(|page| page.unfinished).sum()
    }

    /// When the oldest unfinished event was captured, about: the first one, for pages follow the commits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.pages.iter().flat_map(|page| &page.events).find(|event| !event.done).map(|event| event.at)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.unfinished() == 0
    }

    /// `bytes`: of unfinished events, up to which there is room for another page.
    pub(super) fn room(&self, bytes: u64) -> Room {
        match self.unfinished() {
            0 => Room::Drained,
            unfinished if unfinished <= ROOM && self.kept() <= KEPT && self.bytes <= bytes => Room::Some,
            _ => Room::None,
        }
    }

    /// Whether there is no room only because so much is done since the first page of which something is not.
    pub(super) fn is_held_up(&self) -> bool {
        self.kept() > KEPT && self.unfinished() <= ROOM
    }

    /// What is not done of that page.
    pub(super) fn stragglers(&self) -> Vec<Receipt> {
        let Some(page) = self.pages.front() else { return Vec::new() };
        let receipt = |(index, _)| Receipt { page: self.first, index };
        page.events.iter().enumerate().filter(|(_, event)| !event.done).map(receipt).collect()
    }

    fn kept(&self) -> usize {
        self.pages.iter().map(|page| page.events.len()).sum()
    }

    /// Where delivery stands, to the single event.
    pub(super) fn cursor(&self) -> Cursor {
        let Position { from, to, after, done } = &self.finished;
        let Some(front) = self.pages.front() else {
            return Cursor {
                from: Snapshot::clone(from),
                to: to.as_deref().cloned(),
                after: *after,
                done: done.clone(),
            };
        };
        if self.partition {
            let finished =
                self.pages.iter().flat_map(|page| &page.events).filter(|event| event.done).map(|event| event.id);
            let mut done: Vec<_> = done.iter().copied().chain(finished).collect();
            done.sort_unstable();
            return Cursor { from: Snapshot::clone(from), to: Some(Snapshot::clone(&front.to)), after: *after, done };
        }
        let done_in =
            |page: &Page| page.events.iter().filter(|event| event.done).map(|event| event.id).collect::<Vec<_>>();
        let later = self.pages.iter().rev().find(|page| !Arc::ptr_eq(&page.to, &front.to) && !done_in(page).is_empty());
        if let (Some(later), 0, true) = (later, *after, done.is_empty()) {
            // One window from the first unfinished event's to the last finished one's: its order by id is not that of
            // the pages, so everything done is listed.
            let mut done: Vec<_> = self.pages.iter().flat_map(done_in).collect();
            done.sort_unstable();
            return Cursor { from: Snapshot::clone(from), to: Some(Snapshot::clone(&later.to)), after: 0, done };
        }
        let prefix = front.events.iter().take_while(|event| event.done).last();
        let after = prefix.map_or(*after, |event| event.id);
        let window = self.pages.iter().take_while(|page| Arc::ptr_eq(&page.to, &front.to));
        let mut done: Vec<_> = done.iter().copied().chain(window.flat_map(done_in)).filter(|&id| id > after).collect();
        done.sort_unstable();
        Cursor { from: Snapshot::clone(from), to: Some(Snapshot::clone(&front.to)), after, done }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::log::{Bits, Operation};

    fn event(id: i64, txid: u64) -> Event {
        Event {
            id,
            txid,
            place: txid,
            at: Timestamp::UNIX_EPOCH,
            capture: 1,
            operation: Operation::Insert,
            matched: Bits::new(0, &[]),
            old: None,
            new: None,
            context: None,
            weight: crate::log::Weight::default(),
        }
    }

    fn handed(id: i64, bytes: u64) -> Handed {
        Handed { id, at: Timestamp::from_second(id).unwrap(), bytes, done: false }
    }

    /// Of a byte each.
    fn weighed(ids: &[i64]) -> Vec<Handed> {
        ids.iter().map(|id| handed(*id, 1)).collect()
    }

    fn cut(xmin: u64, xmax: u64, xip: &str) -> Snapshot {
        format!("{xmin}:{xmax}:{xip}").parse().unwrap()
    }

    fn start(from: &Snapshot) -> Cursor {
        Cursor { from: from.clone(), to: None, after: 0, done: Vec::new() }
    }

    /// A log as a worker meets it: transactions commit between cuts, ids and txids in any order.
    #[derive(Clone, Debug)]
    struct History {
        cuts: Vec<Snapshot>,
        events: Vec<(i64, u64)>,
    }

    fn history() -> impl Strategy<Value = History> {
        // For each event, in which window its transaction commits; ids are given in another order.
        (proptest::collection::vec(0..4_usize, 1..40), any::<u64>()).prop_map(|(windows, seed)| {
            let mut ids: Vec<i64> = (1..=windows.len()).map(|n| i64::try_from(n).unwrap()).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut ids);
            let first = 100;
            let end = first + windows.len() as u64;
            let cuts = (0..=4)
                .map(|cut_at| {
                    let running = windows.iter().zip(first..).filter(|(window, _)| **window >= cut_at);
                    let xip: Vec<_> = running.map(|(_, txid)| txid).collect();
                    let xmin = xip.first().copied().unwrap_or(end);
                    cut(xmin, end, &xip.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
                })
                .collect();
            History { cuts, events: ids.into_iter().zip(first..).collect() }
        })
    }

    /// Reads as the session does: pages of a window in order of id, the next window only when the ledger allows it.
    struct Reader {
        ledger: Ledger,
        long: bool,
        out: Vec<(i64, Receipt)>,
    }

    impl Reader {
        fn new(cursor: &Cursor) -> Self {
            Self { ledger: Ledger::new(cursor), long: cursor.to.is_some(), out: Vec::new() }
        }

        /// Hands out one page, unless everything has been, or something must be waited for.
        fn read(&mut self, history: &History, page: usize) -> bool {
            let ledger = &mut self.ledger;
            let to = match ledger.to() {
                Some(to) => to.clone(),
                None if self.long && ledger.room(u64::MAX) != Room::Drained => return false,
                None => {
                    let Some(next) =
                        history.cuts.iter().find(|cut| **cut != **ledger.from() && ledger.from().is_within(cut))
                    else {
                        return false;
                    };
                    self.long = false;
                    Arc::new(next.clone())
                }
            };
            let from = ledger.from().clone();
            let after = ledger.after();
            let mut found: Vec<_> =
                history.events.iter().filter(|(id, txid)| to.has(*txid) && !from.has(*txid) && *id > after).collect();
            found.sort_unstable();
            let ends = found.len() < page;
            found.truncate(page);
            let last = found.last().map_or(after, |(id, _)| *id);
            let ids: Vec<_> =
                found.into_iter().filter(|(id, txid)| ledger.wants(&event(*id, *txid))).map(|(id, _)| *id).collect();
            let receipts = ledger.hand(Handout { to: &to, last, ends, events: weighed(&ids) });
            self.long |= !ends;
            self.out.extend(ids.into_iter().zip(receipts));
            true
        }
    }

    proptest! {
        /// However reading, finishing and stopping interleave: each event is delivered exactly once over clean stops.
        #[test]
        fn a_clean_stop_at_any_moment_loses_nothing_and_repeats_nothing(
            history in history(),
            lives in proptest::collection::vec(proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..30), 1..5),
            page in 1..6_usize,
        ) {
            let mut cursor = start(&history.cuts[0]);
            let mut delivered = BTreeSet::new();
            for life in lives {
                let mut reader = Reader::new(&cursor);
                for (read, which) in life {
                    if read {
                        reader.read(&history, page);
                    } else if !reader.out.is_empty() {
                        let (id, receipt) = reader.out.swap_remove(which.index(reader.out.len()));
                        prop_assert!(delivered.insert(id), "{id} twice");
                        reader.ledger.settle(receipt);
                    }
                }
                cursor = reader.ledger.cursor();
            }
            let mut reader = Reader::new(&cursor);
            loop {
                let read = reader.read(&history, page);
                for (id, receipt) in reader.out.drain(..) {
                    prop_assert!(delivered.insert(id), "{id} twice");
                    reader.ledger.settle(receipt);
                }
                if !read {
                    break;
                }
            }
            prop_assert_eq!(delivered.len(), history.events.len());
            prop_assert_eq!(reader.ledger.cursor(), start(history.cuts.last().unwrap()));
        }
    }

    proptest! {
        /// Partitions go through the windows of all cuts, one after the other, whatever any of them had done when it was stopped,
        /// and each delivers its own events once.
        #[test]
        fn partitions_read_the_same_windows_in_the_same_order_over_clean_stops(
            history in history(),
            lives in proptest::collection::vec(proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..30), 1..5),
            page in 1..6_usize,
        ) {
            let mut cursor = start(&history.cuts[0]);
            let mut delivered = BTreeSet::new();
            let mut met = Vec::<i64>::new();
            let lives = lives.into_iter().map(Some).chain([None]);
            for life in lives {
                let mut ledger = Ledger::of(&cursor, true);
                let mut out = Vec::<(i64, Receipt)>::new();
                let mut seen = BTreeSet::new();
                let mut steps = life.clone().unwrap_or_default().into_iter();
                loop {
                    let step = steps.next();
                    let (read, which) = match (&life, step) {
                        (Some(_), None) => break,
                        (_, Some((read, which))) => (read, Some(which)),
                        (None, None) => (out.is_empty(), None),
                    };
                    if read {
                        let (from, after) = (ledger.from().clone(), ledger.after());
                        let next = history.cuts.iter().rposition(|cut| *cut == *from).map(|at| at + 1);
                        let to = next.and_then(|next| history.cuts.get(next));
                        if to.is_none() && life.is_none() {
                            break;
                        }
                        let Some(to) = to else { continue };
                        prop_assert!(ledger.to().is_none_or(|known| **known == *to), "windows are those that were agreed on");
                        let mut found: Vec<_> =
                            history.events.iter().filter(|(id, txid)| to.has(*txid) && !from.has(*txid) && *id > after).collect();
                        found.sort_unstable();
                        let ends = found.len() < page;
                        found.truncate(page);
                        let last = found.last().map_or(after, |(id, _)| *id);
                        // Those of even numbers are its own.
                        let wanted = found.into_iter().filter(|(id, txid)| ledger.meets(&event(*id, *txid)) && id % 2 == 0);
                        let ids: Vec<_> = wanted.map(|(id, _)| *id).collect();
                        for id in &ids {
                            prop_assert!(seen.insert(*id), "{} twice", id);
                            if !met.contains(id) {
                                met.push(*id);
                            }
                        }
                        let receipts = ledger.hand(Handout { to: &Arc::new(to.clone()), last, ends, events: weighed(&ids) });
                        out.extend(ids.into_iter().zip(receipts));
                    } else if !out.is_empty() {
                        let (id, receipt) = out.swap_remove(which.map_or(0, |which| which.index(out.len())));
                        prop_assert!(delivered.insert(id), "{} delivered twice", id);
                        ledger.settle(receipt);
                    }
                }
                cursor = ledger.cursor();
            }
            prop_assert_eq!(delivered.len(), history.events.iter().filter(|(id, _)| id % 2 == 0).count());
            prop_assert_eq!(cursor, start(history.cuts.last().unwrap()));
            // As if it had never been stopped.
            let place = |id: i64| {
                let txid = history.events.iter().find(|(other, _)| *other == id).unwrap().1;
                (history.cuts.iter().position(|cut| cut.has(txid)), id)
            };
            prop_assert!(met.is_sorted_by_key(|id| place(*id)), "{:?}", met);
        }
    }

    #[test]
    fn within_a_page_the_finished_prefix_moves_after_and_the_rest_is_listed() {
        let (from, to) = (cut(10, 10, ""), Arc::new(cut(20, 20, "")));
        let mut ledger = Ledger::new(&start(&from));
        let receipts = ledger.hand(Handout { to: &to, last: 9, ends: false, events: weighed(&[2, 4, 6, 8]) });
        for at in [0, 1, 3] {
            ledger.settle(receipts[at]);
        }
        assert_eq!(ledger.cursor(), Cursor { from: from.clone(), to: Some(cut(20, 20, "")), after: 4, done: vec![8] });
        ledger.settle(receipts[2]);
        assert_eq!(ledger.cursor(), Cursor { from, to: Some(cut(20, 20, "")), after: 9, done: Vec::new() });
    }

    #[test]
    fn empty_windows_behind_an_unfinished_event_keep_nothing() {
        let mut ledger = Ledger::new(&start(&cut(1, 1, "")));
        let receipts =
            ledger.hand(Handout { to: &Arc::new(cut(2, 2, "")), last: 1, ends: true, events: weighed(&[1]) });
        for now in 3..1000 {
            ledger.hand(Handout { to: &Arc::new(cut(now, now, "")), last: 0, ends: true, events: Vec::new() });
        }
        assert_eq!(ledger.pages.len(), 1);
        ledger.settle(receipts[0]);
        assert_eq!(ledger.cursor(), start(&cut(999, 999, "")));
    }

    #[test]
    fn room_ends_before_memory_does() {
        let mut ledger = Ledger::new(&start(&cut(1, 1, "")));
        assert_eq!(ledger.room(u64::MAX), Room::Drained);
        let hand = |ledger: &mut Ledger, n: i64| {
            let events = weighed(&(n * 500..(n + 1) * 500).collect::<Vec<_>>());
            let xid = 2 + n.unsigned_abs();
            ledger.hand(Handout { to: &Arc::new(cut(xid, xid, "")), last: 0, ends: true, events })
        };
        // Of the unfinished: two pages, and one that waits.
        let first = hand(&mut ledger, 0);
        let mut receipts = first[1..].to_vec();
        for (n, room) in [(1, Room::Some), (2, Room::None)] {
            receipts.extend(hand(&mut ledger, n));
            assert_eq!(ledger.room(u64::MAX), room);
        }
        // Of those that are kept because the very first is not finished.
        for (n, room) in [(3, Room::Some), (4, Room::None)] {
            receipts.drain(..).for_each(|receipt| ledger.settle(receipt));
            assert_eq!((ledger.room(u64::MAX), ledger.is_held_up()), (Room::Some, false));
            receipts.extend(hand(&mut ledger, n));
            assert_eq!(ledger.room(u64::MAX), room);
        }
        receipts.drain(..).for_each(|receipt| ledger.settle(receipt));
        assert_eq!((ledger.unfinished(), ledger.room(u64::MAX)), (1, Room::None));
        assert_eq!((ledger.is_held_up(), ledger.stragglers()), (true, vec![first[0]]));
        ledger.settle(first[0]);
        assert_eq!((ledger.room(u64::MAX), ledger.is_held_up()), (Room::Drained, false));
    }

    #[test]
    fn few_events_that_are_large_leave_no_room_either() {
        let mut ledger = Ledger::new(&start(&cut(1, 1, "")));
        let events = vec![handed(1, 300), handed(2, 500)];
        let receipts = ledger.hand(Handout { to: &Arc::new(cut(2, 2, "")), last: 2, ends: true, events });
        assert_eq!((ledger.room(799), ledger.room(800)), (Room::None, Room::Some));
        assert_eq!(ledger.oldest().map(Timestamp::as_second), Some(1));
        ledger.settle(receipts[1]);
        assert_eq!((ledger.room(299), ledger.room(300)), (Room::None, Room::Some));
        ledger.settle(receipts[1]);
        ledger.settle(receipts[0]);
        assert_eq!((ledger.room(0), ledger.oldest()), (Room::Drained, None));
    }
}
