//! Snapshots as consistent cuts of the log: which transactions a cut has, and what lies between two cuts.
//!
//! A snapshot, as `pg_current_snapshot()` gives it, has every transaction below `xmin`, none from `xmax` on, and between
//! them those that are not in `xip`. Ids are 64 bits wide (`xid8`), so they never wrap.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A top-level transaction's id (`xid8`).
pub type Txid = u64;

/// A consistent cut of the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Snapshot {
    xmin: Txid,
    xmax: Txid,
    /// In progress when the snapshot was taken; ascending, each in `xmin..xmax`.
    xip: Vec<Txid>,
}

/// What one cut has and an older one has not, as an index finds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Between {
    /// First id of the range; everything in the range that the newer cut has belongs to the window.
    pub start: Txid,
    /// First id after the range.
    pub end: Txid,
    /// Ids below `start` that were in progress in the older cut and are not in the newer: the late ones.
    pub late: Vec<Txid>,
}

impl Snapshot {
    /// Whether the cut has this transaction, if it committed.
    pub fn has(&self, txid: Txid) -> bool {
        txid < self.xmin || txid < self.xmax && self.xip.binary_search(&txid).is_err()
    }

    /// What `self` has and `older` has not. The range and the late ids do not overlap.
    pub fn since(&self, older: &Self) -> Between {
        let late = older.xip.iter().copied().filter(|&txid| self.has(txid)).collect();
        Between { start: older.xmax, end: self.xmax.max(older.xmax), late }
    }

    /// The cut that has every transaction below `txid` and no other.
    pub fn below(txid: Txid) -> Self {
        Self { xmin: txid, xmax: txid, xip: Vec::new() }
    }

    /// The first id that the cut has not for sure, and all from there on.
    pub fn end(&self) -> Txid {
        self.xmax
    }

    /// Below it the cut has every transaction.
    pub fn complete_below(&self) -> Txid {
        self.xmin
    }

    /// The ids at or above `complete_below` and below `end` that the cut has not.
    pub fn missing(&self) -> &[Txid] {
        &self.xip
    }

    /// From a server's own numbers to places in a log that was on other servers before: each is `base` higher.
    #[must_use]
    pub fn raised(&self, base: Txid) -> Self {
        let raise = |txid: Txid| txid.saturating_add(base);
        Self { xmin: raise(self.xmin), xmax: raise(self.xmax), xip: self.xip.iter().copied().map(raise).collect() }
    }

    /// From places back to the numbers of the server whose `base` it is. What was on servers before ends at 0.
    #[must_use]
    pub fn lowered(&self, base: Txid) -> Self {
        let lower = |txid: Txid| txid.saturating_sub(base);
        let xip = self.xip.iter().copied().filter(|&txid| txid >= base).map(lower).collect();
        Self { xmin: lower(self.xmin), xmax: lower(self.xmax), xip }
    }

    /// Whether every transaction that `self` has is in `newer` too.
    pub fn is_within(&self, newer: &Self) -> bool {
        self.xmax <= newer.xmax && newer.xip.iter().all(|&txid| !self.has(txid))
    }
}

/// A snapshot that PostgreSQL would not have written.
#[derive(Debug, thiserror::Error)]
#[error("not a snapshot: {0:?}")]
pub struct NotASnapshot(String);

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    /// Reads `xmin:xmax:xip,…`.
    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        let wrong = || NotASnapshot(text.to_owned());
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let number = |part: &str| part.parse::<Txid>().map_err(|_| wrong());
        let xip = xip.split(',').filter(|part| !part.is_empty()).map(number).collect::<Result<Vec<_>, _>>()?;
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let in_order =
            xip.windows(2).all(|pair| pair[0] < pair[1]) && xip.iter().all(|txid| (xmin..xmax).contains(txid));
        if xmin > xmax || !in_order {
            return Err(wrong());
        }
        Ok(Self { xmin, xmax, xip })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (n, txid) in self.xip.iter().enumerate() {
            write!(f, "{}{txid}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.to_string()
    }
}

impl TryFrom<String> for Snapshot {
    type Error = NotASnapshot;

    fn try_from(text: String) -> Result<Self, NotASnapshot> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A history: transactions that begin in order of id and end in any order; the state after each step is a snapshot.
    fn history() -> impl Strategy<Value = Vec<Snapshot>> {
        proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60).prop_map(|steps| {
            let (mut next, mut running, mut cuts) = (10, BTreeSet::new(), Vec::new());
            for (begins, which) in steps {
                if begins || running.is_empty() {
                    running.insert(next);
                    next += 1;
                } else {
                    let ended = *which.get(&running.iter().copied().collect::<Vec<_>>());
                    running.remove(&ended);
                }
                let xmin = running.first().copied().unwrap_or(next);
                cuts.push(Snapshot { xmin, xmax: next, xip: running.iter().copied().collect() });
            }
            cuts
        })
    }

    proptest! {
        #[test]
        fn a_window_has_what_the_newer_cut_has_and_the_older_has_not((cuts, i, j) in (history(), any::<prop::sample::Index>(), any::<prop::sample::Index>())) {
            let (i, j) = (i.index(cuts.len()), j.index(cuts.len()));
            let (older, newer) = (&cuts[i.min(j)], &cuts[i.max(j)]);
            let Between { start, end, late } = newer.since(older);
            for txid in 1..100 {
                let in_window = late.contains(&txid) || (start..end).contains(&txid) && newer.has(txid);
                prop_assert_eq!(in_window, newer.has(txid) && !older.has(txid), "txid {}", txid);
                prop_assert!(!(late.contains(&txid) && (start..end).contains(&txid)));
            }
            prop_assert!(older.is_within(newer));
        }

        #[test]
        fn windows_of_a_history_have_each_transaction_once(cuts in history()) {
            let mut seen = BTreeSet::new();
            for pair in cuts.windows(2) {
                let Between { start, end, late } = pair[1].since(&pair[0]);
                for txid in (start..end).filter(|&txid| pair[1].has(txid)).chain(late) {
                    prop_assert!(seen.insert(txid), "txid {} twice", txid);
                }
            }
        }

        #[test]
        fn a_raised_cut_has_the_same_transactions_and_comes_after_all_of_the_servers_before(cuts in history()) {
            for cut in &cuts {
                let raised = cut.raised(1000);
                for txid in 1..100 {
                    prop_assert_eq!(raised.has(txid + 1000), cut.has(txid));
                    prop_assert!(raised.has(txid), "of another server");
                }
                prop_assert_eq!(&raised.lowered(1000), cut);
            }
            for older in &cuts {
                prop_assert!(older.is_within(&Snapshot::below(1000)));
                prop_assert!(Snapshot::below(1000).is_within(&older.raised(1000)));
            }
        }

        #[test]
        fn text_survives_a_round_trip(cuts in history()) {
            for cut in cuts {
                prop_assert_eq!(cut.to_string().parse::<Snapshot>().unwrap(), cut);
            }
        }
    }

    #[test]
    fn what_postgres_would_not_write_is_refused() {
        for wrong in ["", "1:2", "3:2:", "1:5:4,2", "1:5:7", "1:5:2,2", "a:b:", "1:2::3"] {
            assert!(wrong.parse::<Snapshot>().is_err(), "{wrong}");
        }
    }
}
