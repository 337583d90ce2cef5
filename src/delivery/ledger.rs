//! What one subscription was handed and what of it is done: pages in, receipts in, a cursor out. Pure.
//!
//! Pages may be handed out while earlier ones are still under way, also of later windows, so that one slow event does
//! not hold what comes after it.

use std::{collections::VecDeque, sync::Arc};

use crate::log::{Cursor, Event, Snapshot};

/// Unfinished events up to which there is room for another page: one page in work and one waiting.
const ROOM: usize = 500;
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
    pub(super) ids: Vec<i64>,
}

/// A [`Cursor`] whose snapshots are shared.
#[derive(Clone, Debug)]
struct Position {
    from: Arc<Snapshot>,
    to: Option<Arc<Snapshot>>,
    after: i64,
    done: Vec<i64>,
}

#[derive(Debug)]
struct Page {
    to: Arc<Snapshot>,
    events: Vec<(i64, bool)>,
    unfinished: usize,
    /// The position once this page and all before it are done.
    end: Position,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Everything up to here is done.
    finished: Position,
    /// Everything up to here was handed out.
    handed: Position,
    /// What lies between both: pages that have unfinished events, or follow one that has.
    pages: VecDeque<Page>,
    /// Number of the first of `pages`.
    first: u64,
}

impl Ledger {
    pub(super) fn new(cursor: &Cursor) -> Self {
        let mut done = cursor.done.clone();
        done.sort_unstable();
        let position = Position {
            from: Arc::new(cursor.from.clone()),
            to: cursor.to.clone().map(Arc::new),
            after: cursor.after,
            done,
        };
        Self { finished: position.clone(), handed: position, pages: VecDeque::new(), first: 0 }
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

    /// Notes a page; the receipts are those of its events, in their order.
    ///
    /// A window may follow one of which events are unfinished only if that one was a single page and not resumed
    /// ([`Room::Drained`] is to be waited for otherwise): a cursor can skip single events of a window only from its start.
    pub(super) fn hand(&mut self, handout: Handout<'_>) -> Vec<Receipt> {
        let Handout { to, last, ends, ids } = handout;
        if ends {
            self.handed = Position { from: to.clone(), to: None, after: 0, done: Vec::new() };
        } else {
            self.handed.to = Some(to.clone());
            self.handed.after = last;
            self.handed.done.retain(|&id| id > last);
        }
        let end = self.handed.clone();
        if ids.is_empty() {
            match self.pages.back_mut() {
                Some(page) => page.end = end,
                None => self.finished = end,
            }
            return Vec::new();
        }
        let page = self.first + self.pages.len() as u64;
        let receipts = (0..ids.len()).map(|index| Receipt { page, index }).collect();
        let events: Vec<_> = ids.into_iter().map(|id| (id, false)).collect();
        self.pages.push_back(Page { to: to.clone(), unfinished: events.len(), events, end });
        receipts
    }

    /// Notes that an event is done.
    pub(super) fn settle(&mut self, receipt: Receipt) {
        let page = receipt.page.checked_sub(self.first).and_then(|at| self.pages.get_mut(usize::try_from(at).ok()?));
        let Some(page) = page else { return };
        let Some((_, done @ false)) = page.events.get_mut(receipt.index) else { return };
        *done = true;
        page.unfinished -= 1;
        while let Some(page) = self.pages.pop_front_if(|page| page.unfinished == 0) {
            self.finished = page.end;
            self.first += 1;
        }
    }

    pub(super) fn unfinished(&self) -> usize {
        self.pages.iter().map(|page| page.unfinished).sum()
    }

    pub(super) fn room(&self) -> Room {
        let kept: usize = self.pages.iter().map(|page| page.events.len()).sum();
        match self.unfinished() {
            0 => Room::Drained,
            unfinished if unfinished <= ROOM && kept <= KEPT => Room::Some,
            _ => Room::None,
        }
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
        let done_in = |page: &Page| page.events.iter().filter(|(_, done)| *done).map(|(id, _)| *id).collect::<Vec<_>>();
        let later = self.pages.iter().rev().find(|page| !Arc::ptr_eq(&page.to, &front.to) && !done_in(page).is_empty());
        if let (Some(later), 0, true) = (later, *after, done.is_empty()) {
            // One window from the first unfinished event's to the last finished one's: its order by id is not that of
            // the pages, so everything done is listed.
            let mut done: Vec<_> = self.pages.iter().flat_map(done_in).collect();
            done.sort_unstable();
            return Cursor { from: Snapshot::clone(from), to: Some(Snapshot::clone(&later.to)), after: 0, done };
        }
        let prefix = front.events.iter().take_while(|(_, done)| *done).last();
        let after = prefix.map_or(*after, |(id, _)| *id);
        let window = self.pages.iter().take_while(|page| Arc::ptr_eq(&page.to, &front.to));
        let mut done: Vec<_> = done.iter().copied().chain(window.flat_map(done_in)).filter(|&id| id > after).collect();
        done.sort_unstable();
        Cursor { from: Snapshot::clone(from), to: Some(Snapshot::clone(&front.to)), after, done }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
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
            matched: Bits::new(0, Vec::new()),
            old: None,
            new: None,
        }
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
                None if self.long && ledger.room() != Room::Drained => return false,
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
            let receipts = ledger.hand(Handout { to: &to, last, ends, ids: ids.clone() });
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

    #[test]
    fn within_a_page_the_finished_prefix_moves_after_and_the_rest_is_listed() {
        let (from, to) = (cut(10, 10, ""), Arc::new(cut(20, 20, "")));
        let mut ledger = Ledger::new(&start(&from));
        let receipts = ledger.hand(Handout { to: &to, last: 9, ends: false, ids: vec![2, 4, 6, 8] });
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
        let receipts = ledger.hand(Handout { to: &Arc::new(cut(2, 2, "")), last: 1, ends: true, ids: vec![1] });
        for now in 3..1000 {
            ledger.hand(Handout { to: &Arc::new(cut(now, now, "")), last: 0, ends: true, ids: Vec::new() });
        }
        assert_eq!(ledger.pages.len(), 1);
        ledger.settle(receipts[0]);
        assert_eq!(ledger.cursor(), start(&cut(999, 999, "")));
    }

    #[test]
    fn room_ends_before_memory_does() {
        let mut ledger = Ledger::new(&start(&cut(1, 1, "")));
        assert_eq!(ledger.room(), Room::Drained);
        let page = |n: i64| (n * 500..(n + 1) * 500).collect::<Vec<_>>();
        let first = ledger.hand(Handout { to: &Arc::new(cut(2, 2, "")), last: 499, ends: true, ids: page(0) });
        assert_eq!(ledger.room(), Room::Some);
        let mut receipts = first[1..].to_vec();
        for n in 1..=4_i64 {
            let xid = 2 + n.unsigned_abs();
            receipts.extend(ledger.hand(Handout {
                to: &Arc::new(cut(xid, xid, "")),
                last: 0,
                ends: true,
                ids: page(n),
            }));
            assert_eq!(ledger.room(), Room::None);
            receipts.drain(..).for_each(|receipt| ledger.settle(receipt));
        }
        assert_eq!((ledger.unfinished(), ledger.room()), (1, Room::None));
        ledger.settle(first[0]);
        assert_eq!(ledger.room(), Room::Drained);
    }
}
