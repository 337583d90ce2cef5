//! A part of a window, bounded in events and in bytes.
//!
//! Rows come with their short values. Long ones, of which it is not known before they are unpacked how long they are, are
//! left where they are; then as many of them are fetched as there is room for, by a sum that the server forms.

use tokio_postgres::Row;

use super::{
    WorkerError,
    wire::{Json, Moment, Tid, VarBit, Xid8},
};
use crate::log::{Event, Operation, Weight, snapshot::Txid};

/// What is read of an event, in the order of [`found`]. In place of long values stands where they are, and how many bytes
/// the server stores of them.
pub(super) const COLUMNS: &str = "id, txid, at, capture, op, matched, CASE WHEN long IS NULL THEN old END, \
    CASE WHEN long IS NULL THEN new END, CASE WHEN long IS NULL THEN context END, \
    CASE WHEN long IS NOT NULL THEN concat_ws(' ', segment, ctid, long) END";
/// The columns that may be long.
const VALUES: [&str; 3] = ["old", "new", "context"];
/// Values of a row up to so many bytes are short, unless they are compressed. A page of such rows is within its bound.
const SHORT: u64 = Most::PAGE.bytes / 512 - Event::FIXED;

/// How much may be read in one go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Most {
    /// Events.
    pub events: usize,
    /// Their bytes. An event that has more comes alone.
    pub bytes: u64,
}

impl Most {
    /// A page: enough that its fixed cost is small.
    pub const PAGE: Self = Self { events: 500, bytes: 4 << 20 };
}

/// A part of a window.
#[derive(Debug)]
pub struct Page {
    /// In order of id.
    pub events: Vec<Event>,
    /// Whether there were any, those included that were left out.
    pub passed: bool,
    /// Whether the window has no more.
    pub ends: bool,
}

/// An event, perhaps without its values.
pub(super) struct Found {
    pub(super) event: Event,
    pub(super) far: Option<Far>,
}

/// Where an event's values are.
pub(super) struct Far {
    pub(super) segment: i32,
    pub(super) ctid: Tid,
    /// In bytes; it may be less than they have.
    stored: u64,
}

impl Found {
    /// Takes in the values, from a row of [`long`].
    pub(super) fn take(&mut self, row: &Row) {
        let text = |at| row.get::<_, Option<Json>>(at).map(|json| json.0);
        self.event.old = text(1);
        self.event.new = text(2);
        self.event.context = text(3);
        self.far = None;
    }

    fn bytes(&self) -> u64 {
        self.event.bytes() + self.far.as_ref().map_or(0, |far| far.stored)
    }
}

/// How many of the first of them, at least one, have so many bytes together, as far as that can be said.
pub(super) fn fitting(found: &[Found], bytes: u64) -> usize {
    let mut sum = 0_u64;
    let fit = found.iter().take_while(|one| {
        sum = sum.saturating_add(one.bytes());
        sum <= bytes
    });
    fit.count().max(1)
}

/// A segment's rows of which `condition` is true, with what [`COLUMNS`] needs. Nothing is unpacked for it.
pub(super) fn measured(segment: i32, condition: &str) -> String {
    let stored = VALUES.map(|value| format!("coalesce(pg_column_size({value}), 0)")).join(" + ");
    let packed = VALUES.map(|value| format!("pg_column_compression({value})")).join(", ");
    let columns = VALUES.join(", ");
    // OFFSET 0 keeps the planner from measuring anew wherever `long` is mentioned.
    format!(
        "SELECT id, txid, at, capture, op, matched, {columns}, {segment} AS segment, ctid,
             CASE WHEN {stored} > {SHORT} OR coalesce({packed}) IS NOT NULL THEN {stored} END AS long
         FROM event_{segment} WHERE {condition} OFFSET 0"
    )
}

/// The values of rows of a segment, in order of id ($1: their places): so many as have $2 bytes together, the first also
/// if it has more and $3. What is not compressed is measured without being read.
pub(super) fn long(segment: i32) -> String {
    let bytes = VALUES.map(|value| {
        format!(
            "coalesce(CASE WHEN pg_column_compression({value}) IS NULL THEN pg_column_size({value}) ELSE octet_length({value}::text) END, 0)"
        )
    });
    let (values, bytes) = (VALUES.join(", "), bytes.join(" + "));
    format!(
        "SELECT id, {values} FROM (
             SELECT id, {values}, sum(bytes) OVER so_far AS upto, row_number() OVER so_far AS place
             FROM (SELECT id, {values}, {bytes} AS bytes FROM event_{segment} WHERE ctid = ANY ($1)) AS e
             WINDOW so_far AS (ORDER BY id ROWS UNBOUNDED PRECEDING)
         ) AS w WHERE upto <= $2::int8 OR place = 1 AND $3::boolean ORDER BY id"
    )
}

/// An event from a row of [`COLUMNS`]; `base` leads from its transaction to its place in the log.
pub(super) fn found(row: &Row, base: Txid) -> Result<Found, WorkerError> {
    let corrupt = |what, why: String| WorkerError::Corrupt { what, why };
    let code = char::from(row.get::<_, i8>(4).cast_unsigned());
    let txid = row.get::<_, Xid8>(1).0;
    let text = |at| row.get::<_, Option<Json>>(at).map(|json| json.0);
    let far = |text: &str| {
        let mut words = text.split(' ');
        let segment = words.next()?.parse().ok()?;
        Some(Far { segment, ctid: words.next()?.parse().ok()?, stored: words.next()?.parse().ok()? })
    };
    let far = match row.get::<_, Option<&str>>(9) {
        None => None,
        Some(text) => Some(far(text).ok_or_else(|| corrupt("where an event's values are", text.to_owned()))?),
    };
    let event = Event {
        id: row.get(0),
        txid,
        place: base + txid,
        at: row.try_get::<_, Moment>(2).map_err(|error| corrupt("a time", error.to_string()))?.0,
        capture: row.get(3),
        operation: Operation::from_code(code).ok_or_else(|| corrupt("an operation", code.to_string()))?,
        matched: row.get::<_, VarBit>(5).0,
        old: text(6),
        new: text(7),
        context: text(8),
        weight: Weight::default(),
    };
    Ok(Found { event, far })
}
