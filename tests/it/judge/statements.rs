//! The statements that a connection of the judge's workload runs. Pure.

use std::fmt::Write as _;

use eventtrigger::name::Literal;
use fastrand::Rng;

/// `"Odd \"schema\" é"."t'able; -- $capture$"`.
const ODD: &str = "\"Odd \"\"schema\"\" é\".\"t'able; -- $capture$\"";

/// Writes one connection's statements.
#[derive(Debug)]
pub(super) struct Author {
    pub(super) lane: usize,
    pub(super) rng: Rng,
    major: u32,
    written: u64,
    /// Rows that everybody wants, or rather those that nobody is likely to want, because they stay locked for long.
    keys: Keys,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Keys {
    Any,
    Cold,
}

/// A new row's `uid` and `mark`.
struct Row {
    uid: u64,
    mark: String,
}

impl Author {
    pub(super) fn new(lane: usize, rng: Rng, major: u32) -> Self {
        Self { lane, rng, major, written: 0, keys: Keys::Any }
    }

    /// Up to `most` statements.
    pub(super) fn statements(&mut self, most: usize) -> Vec<String> {
        let mut statements = Vec::new();
        for _ in 0..self.rng.usize(1..=most) {
            match self.rng.u32(..20) {
                0 => {
                    statements.push("SAVEPOINT s".to_owned());
                    statements.push(self.statement());
                    statements.push("ROLLBACK TO s".to_owned());
                    statements.push(self.statement());
                }
                1 => {
                    statements.push("SAVEPOINT s".to_owned());
                    statements.push(self.statement());
                    statements.push("RELEASE s".to_owned());
                }
                2 => {
                    // An aborted subtransaction that nobody asked for, inside a live one.
                    let (kept, undone, instead) = (self.statement(), self.statement(), self.statement());
                    statements.push(format!(
                        "DO $do$ BEGIN {kept}; BEGIN {undone}; RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN {instead}; END; END $do$"
                    ));
                }
                _ => statements.push(self.statement()),
            }
        }
        statements
    }

    /// Statements on rows that others seldom want, for a transaction that holds its locks for long.
    pub(super) fn cold(&mut self, most: usize) -> Vec<String> {
        self.keys = Keys::Cold;
        let statements = self.statements(most);
        self.keys = Keys::Any;
        statements
    }

    /// Tells this write from every other.
    pub(super) fn mark(&mut self) -> String {
        self.written += 1;
        format!("{}-{}", self.lane, self.written)
    }

    fn row(&mut self) -> Row {
        let mark = self.mark();
        Row { uid: (self.lane as u64 + 1) << 32 | self.written, mark }
    }

    fn key(&mut self) -> u32 {
        match self.keys {
            Keys::Cold => 1000 + self.rng.u32(..2000),
            Keys::Any if self.rng.u32(..4) == 0 => self.rng.u32(..30),
            Keys::Any => self.rng.u32(..1500),
        }
    }

    fn statement(&mut self) -> String {
        match self.rng.u32(..100) {
            0..22 => self.account(),
            22..32 => self.keyless(),
            32..44 => self.family(),
            44..58 => self.region(),
            58..68 => self.odd(),
            // Its rows wait for each other: not for those who hold them for long.
            68..76 if self.keys == Keys::Any => self.ledger(),
            68..82 => self.wide(),
            82..93 => self.listen(),
            _ => self.exclude(),
        }
    }

    fn account(&mut self) -> String {
        let (key, other, amount) = (self.key(), self.key(), self.rng.u32(..100_000));
        let Row { uid, mark } = self.row();
        let amount = f64::from(amount) / 100.0;
        match self.rng.u32(..14) {
            0..3 => format!("INSERT INTO account (id, uid, mark, amount) VALUES ({key}, {uid}, '{mark}', {amount}) ON CONFLICT DO NOTHING"),
            // Fails where the row is there, and with it the transaction.
            3 => format!("INSERT INTO account (id, uid, mark) VALUES ({key}, {uid}, '{mark}')"),
            4..6 => format!(
                "INSERT INTO account (id, uid, mark, amount) SELECT n, {uid} + n * 1000000::bigint, '{mark}', {amount} FROM generate_series({key}, {key} + 3) AS n
                 ON CONFLICT (id) DO UPDATE SET version = account.version + 1, mark = excluded.mark"
            ),
            6 => format!("UPDATE account SET id = {other}, version = version + 1, mark = '{mark}' WHERE id = {key}"),
            7 => format!("UPDATE account SET version = version + 1, mark = '{mark}' WHERE id BETWEEN {key} AND {key} + 4"),
            8 => format!("UPDATE account SET amount = amount WHERE id = {key}"),
            9 => format!("DELETE FROM account WHERE id = {key}"),
            10 => format!(
                "WITH gone AS (DELETE FROM account WHERE id = {key} RETURNING uid, version, mark) INSERT INTO keyless (uid, version, mark, n) SELECT uid, version + 1, mark, {other} FROM gone"
            ),
            11 if self.major >= 15 => format!(
                "MERGE INTO account AS a USING (VALUES ({key}), ({other})) AS m (id) ON a.id = m.id
                 WHEN MATCHED AND a.version % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET version = a.version + 1, mark = '{mark}'
                 WHEN NOT MATCHED AND m.id = {key} THEN INSERT (id, uid, mark) VALUES (m.id, {uid}, '{mark}')"
            ),
            _ => format!("UPDATE account SET note = 'n{amount}', version = version + 1, mark = '{mark}' WHERE id = {key}"),
        }
    }

    fn keyless(&mut self) -> String {
        let n = self.rng.u32(..500);
        let Row { uid, mark } = self.row();
        match self.rng.u32(..6) {
            0..3 => format!("INSERT INTO keyless (uid, mark, n) VALUES ({uid}, '{mark}', {n})"),
            3 => format!(
                "UPDATE keyless SET n = {}, version = version + 1, mark = '{mark}' WHERE n = {n}",
                self.rng.u32(..500)
            ),
            4 => format!("UPDATE keyless SET version = version + 1, mark = '{mark}' WHERE n = {n}"),
            _ => format!("DELETE FROM keyless WHERE n = {n}"),
        }
    }

    /// Parents, children and theirs: cascades.
    fn family(&mut self) -> String {
        let (key, other) = (self.key(), self.key());
        let Row { uid, mark } = self.row();
        match self.rng.u32(..12) {
            0..3 => {
                format!("INSERT INTO parent (id, uid, mark) VALUES ({key}, {uid}, '{mark}') ON CONFLICT DO NOTHING")
            }
            3..6 => format!(
                "INSERT INTO child (id, uid, mark, parent) SELECT {other}, {uid}, '{mark}', (SELECT id FROM parent WHERE id >= {key} ORDER BY id LIMIT 1) ON CONFLICT DO NOTHING"
            ),
            6..8 => format!(
                "INSERT INTO grandchild (id, uid, mark, child) SELECT {other}, {uid}, '{mark}', (SELECT id FROM child WHERE id >= {key} ORDER BY id LIMIT 1) ON CONFLICT DO NOTHING"
            ),
            8 => format!("UPDATE parent SET id = {other}, version = version + 1, mark = '{mark}' WHERE id = {key}"),
            9 => format!("DELETE FROM parent WHERE id BETWEEN {key} AND {key} + 2"),
            10 => format!("DELETE FROM child WHERE id = {key}"),
            _ => format!("UPDATE child SET version = version + 1, mark = '{mark}' WHERE id = {key}"),
        }
    }

    fn region(&mut self) -> String {
        const AREAS: [&str; 4] = ["north", "south", "east", "west"];
        let key = self.key();
        let (area, other) = (AREAS[self.rng.usize(..4)], AREAS[self.rng.usize(..4)]);
        let partition = match area {
            "north" => "region_north",
            "south" => "region_south",
            _ => "region_rest",
        };
        let table = if self.rng.bool() { partition } else { "region" };
        let Row { uid, mark } = self.row();
        match self.rng.u32(..8) {
            0..3 => format!(
                "INSERT INTO {table} (area, id, uid, mark) VALUES ('{area}', {key}, {uid}, '{mark}') ON CONFLICT DO NOTHING"
            ),
            3 => format!(
                "UPDATE {table} SET version = version + 1, mark = '{mark}' WHERE area = '{area}' AND id = {key}"
            ),
            // To another partition: a row leaves one and enters the other.
            4 => format!(
                "UPDATE region SET area = '{other}', version = version + 1, mark = '{mark}' WHERE id = {key} AND area = '{area}'"
            ),
            5 => format!("UPDATE region SET id = id + 1, version = version + 1, mark = '{mark}' WHERE id = {key}"),
            6 => format!("DELETE FROM {table} WHERE id = {key} AND area = '{area}'"),
            _ => {
                format!("UPDATE region SET version = version + 1, mark = '{mark}' WHERE id BETWEEN {key} AND {key} + 3")
            }
        }
    }

    fn odd(&mut self) -> String {
        let (key, number) = (self.key() % 300, self.rng.u32(..3));
        let text = self.text();
        let Row { uid, mark } = self.row();
        let mut key = format!("k''{key} é");
        if self.rng.u32(..8) == 0 {
            key.push_str("\n\t\"");
        }
        let is = format!("\"the \"\"key\"\"\" = '{key}' AND \"select\" = {number}");
        match self.rng.u32(..6) {
            0..2 => format!(
                "INSERT INTO {ODD} AS o (\"the \"\"key\"\"\", \"select\", uid, mark, \"$capture$\") VALUES ('{key}', {number}, {uid}, '{mark}', {text})
                 ON CONFLICT (\"the \"\"key\"\"\", \"select\") DO UPDATE SET version = o.version + 1, mark = excluded.mark"
            ),
            2..4 => format!("UPDATE {ODD} SET \"$capture$\" = {text}, version = version + 1, mark = '{mark}' WHERE {is}"),
            4 => format!("UPDATE {ODD} SET \"select\" = \"select\" + 1, version = version + 1, mark = '{mark}' WHERE {is}"),
            _ => format!("DELETE FROM {ODD} WHERE {is}"),
        }
    }

    fn ledger(&mut self) -> String {
        let (key, link, amount) = (self.key() % 400, self.rng.u32(..400), self.rng.u32(..1_000_000));
        let amount = f64::from(amount) / 1000.0;
        let Row { uid, mark } = self.row();
        // The row itself, too.
        let link = if self.rng.u32(..6) == 0 { key } else { link };
        match self.rng.u32(..5) {
            0..2 => format!(
                "INSERT INTO ledger (id, uid, mark, link, amount) VALUES ({key}, {uid}, '{mark}', {link}, {amount}) ON CONFLICT DO NOTHING"
            ),
            2..4 => format!(
                "UPDATE ledger SET amount = {amount}, link = {link}, version = version + 1, mark = '{mark}' WHERE id = {key}"
            ),
            _ => format!("DELETE FROM ledger WHERE id = {key}"),
        }
    }

    fn wide(&mut self) -> String {
        let key = self.key() % 800;
        let Row { uid, mark } = self.row();
        match self.rng.u32(..5) {
            0..2 => {
                let (words, big) = (self.text(), self.big());
                let [doc, docb, numbers, exact, inexact, at, day, bytes, span, range, flags] = self.values();
                format!(
                    "INSERT INTO wide (id, uid, mark, doc, docb, words, numbers, exact, inexact, at, day, bytes, span, range, flags, big, yes)
                     VALUES ({key}, {uid}, '{mark}', {doc}, {docb}, ARRAY[{words}, NULL], {numbers}, {exact}, {inexact}, {at}, {day}, {bytes}, {span}, {range}, {flags}, {big}, {key} % 2 = 0)
                     ON CONFLICT (id) DO UPDATE SET doc = excluded.doc, exact = excluded.exact, version = wide.version + 1, mark = excluded.mark"
                )
            }
            2 => {
                let (words, big) = (self.text(), self.big());
                format!(
                    "UPDATE wide SET big = {big}, words = words || {words}::text, version = version + 1, mark = '{mark}' WHERE id = {key} AND cardinality(words) < 9"
                )
            }
            3 => {
                let [doc, docb, numbers, exact, inexact, at, ..] = self.values();
                format!(
                    "UPDATE wide SET doc = {doc}, docb = {docb}, numbers = {numbers}, exact = {exact}, inexact = {inexact}, at = {at}, version = version + 1, mark = '{mark}' WHERE id = {key}"
                )
            }
            _ => format!("DELETE FROM wide WHERE id = {key}"),
        }
    }

    fn listen(&mut self) -> String {
        let key = self.key();
        let (status, doc) = (self.rng.u32(..3), self.rng.u32(..3));
        let spaces = " ".repeat(self.rng.usize(..3));
        let Row { uid, mark } = self.row();
        match self.rng.u32(..9) {
            0..3 => format!(
                "INSERT INTO listen (id, uid, mark, status, doc, amount) VALUES ({key}, {uid}, '{mark}', nullif('s{status}', 's0'), '{{\"d\":{spaces}{doc}}}', {status}.{doc}) ON CONFLICT DO NOTHING"
            ),
            3 => format!(
                "UPDATE listen SET status = nullif('s{status}', 's0'), version = version + 1, mark = '{mark}' WHERE id = {key}"
            ),
            4 => format!(
                "UPDATE listen SET doc = '{{\"d\":{spaces}{doc}}}', version = version + 1, mark = '{mark}' WHERE id = {key}"
            ),
            5 => format!(
                "UPDATE listen SET amount = {doc}.{}, version = version + 1, mark = '{mark}' WHERE id = {key}",
                "0".repeat(1 + spaces.len())
            ),
            6 => format!(
                "UPDATE listen SET noise = {status}, version = version + 1, mark = '{mark}' WHERE id BETWEEN {key} AND {key} + 5"
            ),
            7 => format!(
                "UPDATE listen SET status = nullif('s{status}', 's0'), doc = NULL, version = version + 1, mark = '{mark}' WHERE id BETWEEN {key} AND {key} + 2"
            ),
            _ => format!("DELETE FROM listen WHERE id = {key}"),
        }
    }

    fn exclude(&mut self) -> String {
        let key = self.key();
        let text = self.text();
        let Row { uid, mark } = self.row();
        match self.rng.u32(..5) {
            0..2 => format!(
                "INSERT INTO exclude (id, uid, mark, secret, shown) VALUES ({key}, {uid}, '{mark}', 'top secret', {text}) ON CONFLICT (id) DO UPDATE SET secret = excluded.secret || exclude.version, version = exclude.version + 1, mark = excluded.mark"
            ),
            2..4 => format!(
                "UPDATE exclude SET shown = {text}, secret = 'top secret', version = version + 1, mark = '{mark}' WHERE id = {key}"
            ),
            _ => format!("DELETE FROM exclude WHERE id = {key}"),
        }
    }

    /// A text literal, or NULL.
    fn text(&mut self) -> String {
        const PIECES: [&str; 12] = ["a", "B c", "'", "\"", "\\", "\n", "\t", "é", "🦀", "\u{1}", "null", ", }]: "];
        let mut text = String::new();
        for _ in 0..self.rng.usize(..6) {
            text.push_str(PIECES[self.rng.usize(..PIECES.len())]);
        }
        if text.len() > 20 { "NULL".to_owned() } else { Literal(&text).to_string() }
    }

    /// A value of several kB, mostly none.
    fn big(&mut self) -> String {
        if self.rng.u32(..6) > 0 {
            return "NULL".to_owned();
        }
        let (from, rows) = (self.rng.u32(..), self.rng.u32(70..200));
        format!("(SELECT string_agg(md5((n + {from})::text), '') FROM generate_series(1, {rows}::bigint) AS n)")
    }

    /// Literals for `doc`, `docb`, `numbers`, `exact`, `inexact`, `at`, `day`, `bytes`, `span`, `range` and `flags`.
    fn values(&mut self) -> [String; 11] {
        let rng = &mut self.rng;
        let mut bytes = String::new();
        for _ in 0..rng.usize(..20) {
            let _ = write!(bytes, "{:02x}", rng.u8(..));
        }
        let number = |rng: &mut Rng| match rng.u32(..8) {
            0 => "NaN".to_owned(),
            1 => format!("-{}.{:03}", rng.u64(..), rng.u32(..1000)),
            2 => format!("{}.00", rng.u32(..10)),
            3 => format!("0.{:012}", rng.u64(..1_000_000_000_000)),
            _ => rng.i32(..).to_string(),
        };
        let (one, two, exact) = (number(rng), number(rng), number(rng));
        let doc = format!("'{{\"b\" :  [1, {}, \"x\\u00e9\"], \"a\": {{\"b\": null, \"b\": 1.50}} }}'", rng.u32(..100));
        let inexact = match rng.u32(..6) {
            0 => "'NaN'".to_owned(),
            1 => "'-Infinity'".to_owned(),
            2 => format!("{}e{}", rng.f64(), rng.i32(-300..300)),
            _ => rng.f64().to_string(),
        };
        let at = match rng.u32(..6) {
            0 => "'infinity'".to_owned(),
            1 => "'-infinity'".to_owned(),
            _ => format!("to_timestamp({}.{:06})", rng.u32(..), rng.u32(..1_000_000)),
        };
        let (from, to) = (rng.i32(-1000..0), rng.i32(0..1000));
        [
            doc.clone(),
            doc,
            format!("'{{{{{one},NULL}},{{{two},1}}}}'"),
            format!("'{exact}'"),
            inexact,
            at,
            format!("DATE '2000-01-01' + {}", rng.i32(-100_000..100_000)),
            format!("'\\x{bytes}'::bytea"),
            format!(
                "'{} months {} days {}.{:06} seconds'",
                rng.i32(-100..100),
                rng.i32(-100..100),
                rng.u32(..9999),
                rng.u32(..1_000_000)
            ),
            format!("int8range({from}, {to}, '[]')"),
            format!("B'{:b}'", rng.u16(..)),
        ]
    }
}
