//! Rows too long to be written as JSON: a value of PostgreSQL ends at 1 GB, and so does a row of the log with its `old` and `new`.
//!
//! Of every row the values of unlimited types are looked at, without fetching or unpacking them; only if they might be too
//! long together their real length is found out, and the longest are left out. The bounds below hold for any content:
//! JSON has at most six bytes (`\u0001`) for one of text, and compression makes at most 255 bytes of one (LZ4's, pglz's are 91).

use serde::{Deserialize, Serialize};

use super::{Size, sql::list};
use crate::name::{Ident, Literal};

/// Bytes that the values of unlimited types of one row may have together, unpacked: six times as many, twice (old and new),
/// are 805 MB. The log's function `oversize` knows the same number.
const TOGETHER: usize = 64 << 20;
/// Bytes of a row, as it is stored, up to which it is written whole while its columns are not known.
const STORED: usize = TOGETHER;

/// What is needed of a table that has columns of unlimited types.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Long {
    /// Every column that enters the log, in order.
    pub shown: Vec<Ident>,
    /// Those of unlimited types.
    pub unlimited: Vec<(Ident, Size)>,
}

impl Long {
    /// A condition: one of the rows `rows` (an alias, or `OLD` or `NEW`) may be too long. It has as few steps as can be, by one
    /// comparison for all that have the same limit: a statement prepares each of them anew whenever it runs, which costs more
    /// than to evaluate them for one row. Null if there is nothing to be long.
    pub(super) fn may_be(&self, rows: &[&str]) -> String {
        let share = TOGETHER / self.unlimited.len();
        let test = |size: Size| match size {
            // Text knows its length without being fetched; of others only the stored one is known.
            Size::Limited | Size::Text => ("octet_length", share),
            Size::Json | Size::Jsonb => ("pg_column_size", share / 255),
            // What has the most text for its bytes is an array of nulls: 5 characters for a bit, with `weight` 7 · 6 for a byte.
            Size::Other => ("pg_column_size", share / 255 / 7),
        };
        let mut tests: Vec<((&str, usize), Vec<String>)> = Vec::new();
        for (row, (name, size)) in rows.iter().flat_map(|row| self.unlimited.iter().map(move |column| (row, column))) {
            let test = test(*size);
            let length = format!("pg_catalog.{}({row}.{name})", test.0);
            match tests.iter_mut().find(|(known, _)| *known == test) {
                Some((_, lengths)) => lengths.push(length),
                None => tests.push((test, vec![length])),
            }
        }
        let compare = |((_, limit), lengths): &((&str, usize), Vec<String>)| match lengths.as_slice() {
            [length] => format!("{length} OPERATOR(pg_catalog.>=) {limit}"),
            // Leaves nulls out.
            lengths => format!("GREATEST({}) OPERATOR(pg_catalog.>=) {limit}", lengths.join(", ")),
        };
        tests.iter().map(compare).collect::<Vec<_>>().join(" OR ")
    }

    /// The names of the columns of `row` that are to be left out, as an array.
    pub(super) fn omitted(&self, schema: &Ident, row: &str) -> String {
        let names = self.unlimited.iter().map(|(name, _)| Literal(name.as_str()).to_string()).collect::<Vec<_>>();
        let weight = |(name, size): &(Ident, Size)| {
            let value = format!("{row}.{name}");
            match size {
                Size::Limited | Size::Text => format!("pg_catalog.octet_length({value})"),
                Size::Json => format!("pg_catalog.octet_length({value}::pg_catalog.text)"),
                // An array holds its elements unpacked; a jsonb ends at 256 MB, so that it can always be in one.
                Size::Jsonb => format!("pg_catalog.pg_column_size(ARRAY[{value}])"),
                Size::Other => format!("{schema}.weight({value})"),
            }
        };
        let weights = self.unlimited.iter().map(weight).collect::<Vec<_>>();
        format!(
            "{schema}.oversize(ARRAY[{}]::pg_catalog.text[], ARRAY[{}]::pg_catalog.int8[])",
            names.join(", "),
            weights.join(", ")
        )
    }

    /// `row` as JSON, with null for what is left out.
    pub(super) fn bounded(&self, schema: &Ident, row: &str) -> String {
        let column = |name: &Ident| {
            if self.unlimited.iter().any(|(unlimited, _)| unlimited == name) {
                let literal = Literal(name.as_str());
                format!("CASE WHEN {literal} OPERATOR(pg_catalog.<>) ALL (o.names) THEN {row}.{name} END AS {name}")
            } else {
                format!("{row}.{name} AS {name}")
            }
        };
        format!(
            "(SELECT pg_catalog.row_to_json(s.*) FROM (SELECT {} AS names) AS o CROSS JOIN LATERAL (SELECT {}) AS s)",
            self.omitted(schema, row),
            list(&self.shown, column)
        )
    }
}

/// A condition that names no column: the whole of `row` may be too long. What is stored in so many bytes is, once unpacked,
/// usually well below the limit.
pub(super) fn whole_may_be(row: &str) -> String {
    format!("pg_catalog.pg_column_size({row}) OPERATOR(pg_catalog.>=) {STORED}")
}
