//! Tells whether what was committed is what arrived: all of it, nothing else, and for each row in order.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::record::Record;

/// One committed change of a row of the writer's table: `step` rises with each change of the same row.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Change {
    /// The row's `id`.
    pub key: i64,
    /// From the row's `version`; see [`Change::kept`] and [`Change::deleted`].
    pub step: i64,
}

impl Change {
    /// An insert or update that left the row with this version.
    pub fn kept(key: i64, version: i64) -> Self {
        Self { key, step: 2 * version }
    }

    /// A delete of the row, which had this version. It comes after the change that made the version.
    pub fn deleted(key: i64, version: i64) -> Self {
        Self { key, step: 2 * version + 1 }
    }

    /// The change that a request tells of; `None` if its body is no event of the writer's table.
    pub fn of(record: &Record) -> Option<Self> {
        let body = record.json();
        let of_row = |row: &serde_json::Value| Some((row["id"].as_i64()?, row["version"].as_i64()?));
        if body["op"] == "DELETE" {
            of_row(&body["old"]).map(|(key, version)| Self::deleted(key, version))
        } else {
            of_row(&body["new"]).map(|(key, version)| Self::kept(key, version))
        }
    }
}

/// What came of the committed changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Committed changes.
    pub written: usize,
    /// Of these, those that arrived and were accepted, each counted once.
    pub delivered: usize,
    /// Accepted requests that told of a change once more.
    pub duplicates: usize,
    /// Committed, never accepted.
    pub lost: Vec<Change>,
    /// Accepted, never committed.
    pub unexpected: Vec<Change>,
    /// Accepted for the first time after a later change of the same row.
    pub misordered: Vec<Change>,
    /// Accepted requests whose body could not be read as an event.
    pub unreadable: usize,
    /// Changes that arrived under more than one `ce-id`.
    pub renamed: Vec<Change>,
}

impl Verdict {
    /// Compares what was committed with what was accepted, in order of arrival.
    pub fn of(written: &[Change], records: &[Record]) -> Self {
        let expected: HashSet<Change> = written.iter().copied().collect();
        let mut verdict = Self { written: expected.len(), ..Self::default() };
        let mut ids: HashMap<Change, &str> = HashMap::new();
        let mut latest: HashMap<i64, i64> = HashMap::new();
        for record in records.iter().filter(|record| record.is_accepted()) {
            let Some(change) = Change::of(record) else {
                verdict.unreadable += 1;
                continue;
            };
            let id = record.header("ce-id").unwrap_or_default();
            if let Some(before) = ids.insert(change, id) {
                verdict.duplicates += 1;
                if before != id {
                    verdict.renamed.push(change);
                }
                continue;
            }
            if !expected.contains(&change) {
                verdict.unexpected.push(change);
                continue;
            }
            verdict.delivered += 1;
            let latest = latest.entry(change.key).or_insert(i64::MIN);
            if change.step < *latest {
                verdict.misordered.push(change);
            }
            *latest = change.step.max(*latest);
        }
        verdict.lost = expected.into_iter().filter(|change| !ids.contains_key(change)).collect();
        verdict.lost.sort_unstable();
        verdict
    }

    /// Whether every committed change arrived, in order and under one id, and nothing else did. Duplicates are allowed.
    pub fn is_good(&self) -> bool {
        let Self { written, delivered, duplicates: _, lost, unexpected, misordered, unreadable, renamed } = self;
        written == delivered
            && lost.is_empty()
            && unexpected.is_empty()
            && misordered.is_empty()
            && renamed.is_empty()
            && *unreadable == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written, delivered, duplicates, lost, unexpected, misordered, unreadable, renamed } = self;
        write!(f, "written={written} delivered={delivered} duplicates={duplicates} lost={}", lost.len())?;
        write!(f, " unexpected={} misordered={}", unexpected.len(), misordered.len())?;
        if *unreadable > 0 {
            write!(f, " unreadable={unreadable}")?;
        }
        if !renamed.is_empty() {
            write!(f, " renamed={}", renamed.len())?;
        }
        let examples = [("lost", lost), ("unexpected", unexpected), ("misordered", misordered), ("renamed", renamed)];
        for (what, changes) in examples {
            for Change { key, step } in changes.iter().take(3) {
                write!(
                    f,
                    "\n  {what}: row {key}, version {}{}",
                    step / 2,
                    if step % 2 == 0 { "" } else { ", deleted" }
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: &str, key: i64, version: i64, id: &str, status: u16) -> Record {
        let row = serde_json::json!({"id": key, "version": version});
        let body = match op {
            "DELETE" => serde_json::json!({"op": op, "old": row, "new": null}),
            _ => serde_json::json!({"op": op, "old": null, "new": row}),
        };
        Record {
            seq: 0,
            at_us: 0,
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: vec![("ce-id".to_owned(), id.to_owned())],
            body: body.to_string(),
            status: Some(status),
        }
    }

    const WRITTEN: [Change; 3] = [Change { key: 1, step: 2 }, Change { key: 1, step: 4 }, Change { key: 1, step: 5 }];

    #[test]
    fn all_arrived_in_order() {
        let records =
            [event("INSERT", 1, 1, "a", 200), event("UPDATE", 1, 2, "b", 200), event("DELETE", 1, 2, "c", 200)];
        let verdict = Verdict::of(&WRITTEN, &records);
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!((verdict.written, verdict.delivered, verdict.duplicates), (3, 3, 0));
    }

    #[test]
    fn a_second_delivery_is_a_duplicate_not_a_disorder() {
        let records = [
            event("INSERT", 1, 1, "a", 200),
            event("UPDATE", 1, 2, "b", 200),
            event("INSERT", 1, 1, "a", 200),
            event("DELETE", 1, 2, "c", 200),
        ];
        let verdict = Verdict::of(&WRITTEN, &records);
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!(verdict.duplicates, 1);
    }

    #[test]
    fn what_was_only_refused_is_lost() {
        let records = [event("INSERT", 1, 1, "a", 200), event("UPDATE", 1, 2, "b", 503)];
        let verdict = Verdict::of(&WRITTEN, &records);
        assert_eq!(verdict.lost, [WRITTEN[1], WRITTEN[2]]);
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_rolled_back_row_is_unexpected() {
        let records = [event("INSERT", -1, -1, "a", 200)];
        let verdict = Verdict::of(&[], &records);
        assert_eq!(verdict.unexpected.len(), 1);
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_first_delivery_after_a_later_change_is_misordered() {
        let records =
            [event("UPDATE", 1, 2, "b", 200), event("INSERT", 1, 1, "a", 200), event("DELETE", 1, 2, "c", 200)];
        let verdict = Verdict::of(&WRITTEN, &records);
        assert_eq!(verdict.misordered, [WRITTEN[0]]);
        assert!(!verdict.is_good());
    }

    #[test]
    fn an_event_whose_id_changes_is_told() {
        let records = [event("INSERT", 1, 1, "a", 200), event("INSERT", 1, 1, "z", 200)];
        let verdict = Verdict::of(&WRITTEN[..1], &records);
        assert_eq!(verdict.renamed, [WRITTEN[0]]);
        assert!(!verdict.is_good());
    }

    #[test]
    fn what_is_no_event_is_counted() {
        let mut record = event("INSERT", 1, 1, "a", 200);
        record.body = "hello".to_owned();
        assert_eq!(Verdict::of(&[], &[record]).unreadable, 1);
    }
}
