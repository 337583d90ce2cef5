//! What the receiver remembers of each request, within bounds.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// One request, as it came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number, from 1; gaps mean that older records were dropped.
    pub seq: u64,
    /// When it had arrived, in microseconds since 1970.
    pub at_us: u64,
    /// The method.
    pub method: String,
    /// The path, and the query if there was one.
    pub path: String,
    /// Names in lower case and values, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
    /// The status that it was answered with; `None` if it was left without an answer.
    pub status: Option<u16>,
}

impl Record {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether the sender was told that all is well.
    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// What it weighs in memory, roughly: what the bound of [`Records`] counts.
    fn weight(&self) -> usize {
        /// Of the structs and allocations around the text.
        const FIXED: usize = 200;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        FIXED + self.path.len() + self.body.len() + headers
    }
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How many requests there were.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Count {
    /// All requests since the start, or since the records were deleted.
    pub received: u64,
    /// Those that were answered with a status from 200 to 299.
    pub accepted: u64,
    /// Those whose records are gone, because they would not fit.
    pub dropped: u64,
}

/// The newest records, as many as fit into a number of bytes.
#[derive(Debug)]
pub struct Records {
    kept: VecDeque<Record>,
    weight: usize,
    limit: usize,
    next: u64,
    count: Count,
}

impl Records {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), weight: 0, limit, next: 1, count: Count::default() }
    }

    /// Adds a request; its number is given here.
    pub fn add(&mut self, mut record: Record) {
        record.seq = self.next;
        self.next += 1;
        self.count.received += 1;
        self.count.accepted += u64::from(record.is_accepted());
        self.weight += record.weight();
        self.kept.push_back(record);
        while self.weight > self.limit {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.weight -= oldest.weight();
            self.count.dropped += 1;
        }
    }

    /// Records with a number above `seq`, at most `limit` of them.
    pub fn since(&self, seq: u64, limit: usize) -> Vec<Record> {
        let start = self.kept.partition_point(|record| record.seq <= seq);
        self.kept.range(start..).take(limit).cloned().collect()
    }

    /// How many there were.
    pub fn count(&self) -> Count {
        self.count
    }

    /// Forgets all; numbers go on rising, so that `since` stays right.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.weight = 0;
        self.count = Count::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str, status: u16) -> Record {
        Record {
            seq: 0,
            at_us: 0,
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: vec![("ce-id".to_owned(), "1".to_owned())],
            body: body.to_owned(),
            status: Some(status),
        }
    }

    #[test]
    fn the_oldest_go_when_memory_is_full_and_numbers_stay() {
        let mut records = Records::new(3_000);
        for _ in 0..10 {
            records.add(record(&"x".repeat(1_000), 200));
        }
        assert_eq!(records.count(), Count { received: 10, accepted: 10, dropped: 8 });
        assert_eq!(records.since(0, 100).iter().map(|record| record.seq).collect::<Vec<_>>(), [9, 10]);
    }

    #[test]
    fn since_leaves_out_what_was_seen() {
        let mut records = Records::new(100_000);
        for _ in 0..5 {
            records.add(record("", 200));
        }
        assert_eq!(records.since(3, 100).iter().map(|record| record.seq).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(records.since(0, 2).iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2]);
        assert!(records.since(5, 100).is_empty());
    }

    #[test]
    fn deleted_records_do_not_come_back_and_numbers_go_on() {
        let mut records = Records::new(100_000);
        records.add(record("", 503));
        assert_eq!(records.count(), Count { received: 1, accepted: 0, dropped: 0 });
        records.clear();
        records.add(record("", 200));
        assert_eq!(records.since(0, 10)[0].seq, 2);
        assert_eq!(records.count(), Count { received: 1, accepted: 1, dropped: 0 });
    }
}
