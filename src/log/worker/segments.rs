//! Which segments a window lies in: reading costs the same however many there are. Pure.

use crate::log::snapshot::{Between, Snapshot, Txid};

/// Events of one segment: all, or those up to an id or beyond it, where the segment came with a copy from another server
/// and was written on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ids {
    All,
    UpTo(i64),
    Beyond(i64),
}

/// One part of the log, as a reader needs to know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    /// Its table is `event_<number>`.
    pub(super) number: i32,
    pub(super) ids: Ids,
    /// What its transactions' ids are below their places in the log.
    pub(super) base: Txid,
    /// Above the place of each of its transactions; `None` while there may come more.
    pub(super) upto: Option<Txid>,
}

/// The segments, as of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    /// The state of the definitions that they are at least as new as.
    pub(super) definitions: Option<i64>,
    /// Of the server that the log is on.
    pub(super) base: Txid,
    pub(super) all: Vec<Segment>,
}

/// A window in a server's own numbers, and the segments to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) segments: Vec<(i32, Ids)>,
    pub(super) base: Txid,
    pub(super) between: Between,
    pub(super) to: Snapshot,
}

impl Segments {
    /// The end of the window that begins at `from`: `now`, or where the log moved to another server, if that comes first.
    /// No window reaches over such a place, because ids from both sides of it cannot be compared.
    pub(super) fn until(&self, from: &Snapshot, now: &Snapshot) -> Snapshot {
        let moves = self.all.iter().map(|segment| segment.base).chain([self.base]);
        match moves.filter(|&base| from.end() < base).min() {
            Some(base) => Snapshot::below(base),
            None => now.clone(),
        }
    }

    /// Where the events between two cuts are. Neither lies beyond a move to another server from the other.
    pub(super) fn part(&self, from: &Snapshot, to: &Snapshot) -> Part {
        let bases = self.all.iter().map(|segment| segment.base).chain([self.base]);
        let base = bases.filter(|&base| base < to.end()).max().unwrap_or(0);
        let between = to.since(from);
        let first = between.late.first().copied().unwrap_or(between.start).min(between.start);
        let holds = |segment: &&Segment| segment.base == base && segment.upto.is_none_or(|upto| upto > first);
        let segments = self.all.iter().filter(holds).map(|segment| (segment.number, segment.ids)).collect();
        let lower = |txid: Txid| txid.saturating_sub(base);
        let late = between.late.iter().copied().filter(|&txid| txid >= base).map(lower).collect();
        let between = Between { start: lower(between.start), end: lower(between.end), late };
        Part { segments, base, between, to: to.lowered(base) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    fn segments(base: Txid, all: &[(i32, Txid, Option<Txid>)]) -> Segments {
        let all = all.iter().map(|&(number, base, upto)| Segment { number, ids: Ids::All, base, upto }).collect();
        Segments { definitions: None, base, all }
    }

    #[test]
    fn only_segments_that_may_hold_events_of_the_window_are_read() {
        let segments = segments(0, &[(1, 0, Some(100)), (2, 0, Some(200)), (3, 0, None), (4, 0, None)]);
        let numbers = |from, to| {
            segments.part(&cut(from), &cut(to)).segments.iter().map(|(number, _)| *number).collect::<Vec<_>>()
        };
        assert_eq!(numbers("50:50:", "300:300:"), [1, 2, 3, 4]);
        assert_eq!(numbers("100:100:", "300:300:"), [2, 3, 4]);
        assert_eq!(numbers("250:250:", "300:300:"), [3, 4]);
        assert_eq!(numbers("150:250:150", "300:300:"), [2, 3, 4], "a transaction of segment 2 has ended since");
        assert_eq!(numbers("150:250:150", "150:300:150"), [3, 4], "it is still running");
    }

    #[test]
    fn no_window_reaches_from_one_server_to_another() {
        let segments = segments(1000, &[(1, 0, Some(900)), (2, 1000, None)]);
        let now = cut("1020:1030:1020");
        assert_eq!(segments.until(&cut("50:60:55"), &now), Snapshot::below(1000));
        assert_eq!(segments.until(&Snapshot::below(1000), &now), now);
        let old = segments.part(&cut("50:60:55"), &Snapshot::below(1000));
        assert_eq!(
            (old.segments, old.between),
            (vec![(1, Ids::All)], Between { start: 60, end: 1000, late: vec![55] })
        );
        let new = segments.part(&Snapshot::below(1000), &now);
        assert_eq!((new.segments, new.between), (vec![(2, Ids::All)], Between { start: 0, end: 30, late: vec![] }));
        assert_eq!(new.to, cut("20:30:20"));
    }
}
