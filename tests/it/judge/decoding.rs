//! Reads what `test_decoding` writes, and tells which JSON the log is to hold for it: PostgreSQL's logical decoding and
//! its `row_to_json` are two ways from one row to text, and the rules between them are written down here once more. Pure.

use std::fmt::Write as _;

use eventtrigger::{log::Operation, name::TableName};

/// A line of `test_decoding`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A transaction begins.
    Begin(u32),
    /// It is over.
    Commit,
    /// A row of a table changed.
    Change { table: TableName, operation: Operation, old: Vec<Column>, new: Vec<Column> },
}

/// A column's value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    /// As `format_type` gives it.
    pub(super) kind: String,
    pub(super) value: Value,
}

/// What `test_decoding` says of a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Null,
    /// Out of line, and not written again: the old row has it.
    Unchanged,
    /// As the type's output function wrote it.
    Text(String),
}

/// Reads a line; `None` if it is none of those that a change makes.
pub(super) fn line(text: &str) -> Option<Line> {
    if let Some(xid) = text.strip_prefix("BEGIN ") {
        return Some(Line::Begin(xid.parse().ok()?));
    }
    if text.starts_with("COMMIT ") {
        return Some(Line::Commit);
    }
    let mut rest = Rest(text.strip_prefix("table ")?);
    let schema = rest.ident()?;
    rest.skip(".")?;
    let table = TableName::new(schema, rest.ident()?);
    rest.skip(": ")?;
    let operation = Operation::ALL.into_iter().find(|operation| rest.skip(&format!("{operation}:")).is_some())?;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    if rest.skip(" old-key:").is_some() {
        old = rest.columns()?;
        rest.skip(" new-tuple:")?;
    }
    let columns = rest.columns()?;
    if operation == Operation::Delete {
        old = columns;
    } else {
        new = columns;
    }
    rest.0.is_empty().then_some(Line::Change { table, operation, old, new })
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(what)?;
        Some(())
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    /// Text between quotes, in which a quote is doubled.
    fn quoted(&mut self, quote: char) -> Option<String> {
        self.0 = self.0.strip_prefix(quote)?;
        let mut text = String::new();
        loop {
            let end = self.0.find(quote)?;
            text.push_str(self.take(end));
            self.take(1);
            match self.0.strip_prefix(quote) {
                Some(rest) => self.0 = rest,
                None => return Some(text),
            }
            text.push(quote);
        }
    }

    fn ident(&mut self) -> Option<String> {
        if self.0.starts_with('"') {
            return self.quoted('"');
        }
        let end = self.0.find(['.', ':', '[', ' ']).unwrap_or(self.0.len());
        Some(self.take(end).to_owned())
    }

    fn columns(&mut self) -> Option<Vec<Column>> {
        let mut columns = Vec::new();
        while !self.0.is_empty() && !self.0.starts_with(" new-tuple:") {
            self.skip(" ")?;
            let name = self.ident()?;
            self.skip("[")?;
            let end = self.0.find("]:")?;
            let kind = self.take(end).to_owned();
            self.skip("]:")?;
            columns.push(Column { name, kind, value: self.value()? });
        }
        Some(columns)
    }

    fn value(&mut self) -> Option<Value> {
        if self.0.starts_with("B'") {
            self.take(1);
        }
        if self.0.starts_with('\'') {
            return self.quoted('\'').map(Value::Text);
        }
        let end = self.0.find(' ').unwrap_or(self.0.len());
        Some(match self.take(end) {
            "null" => Value::Null,
            "unchanged-toast-datum" => Value::Unchanged,
            text => Value::Text(text.to_owned()),
        })
    }
}

/// The JSON that PostgreSQL writes for a value of this type, in a session whose time zone is UTC.
pub(super) fn json(kind: &str, text: &str) -> String {
    if let Some(element) = kind.strip_suffix("[]") {
        let mut rest = Rest(text);
        return array(&mut rest, element).filter(|_| rest.0.is_empty()).expect("an array");
    }
    // Without what is in brackets: numeric(10,2).
    match kind.split('(').next().unwrap_or(kind).trim_end() {
        "json" | "jsonb" | "boolean" => text.to_owned(),
        "smallint" | "integer" | "bigint" | "real" | "double precision" | "numeric"
            if text.ends_with(|c: char| c.is_ascii_digit()) =>
        {
            text.to_owned()
        }
        // XML Schema's form: a T between date and time, and the zone with minutes.
        "timestamp with time zone" if text.ends_with("+00") => format!("\"{}:00\"", text.replacen(' ', "T", 1)),
        "timestamp without time zone" => format!("\"{}\"", text.replacen(' ', "T", 1)),
        _ => escaped(text),
    }
}

/// As PostgreSQL's `escape_json`: only what JSON demands.
pub(super) fn escaped(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// An array's text, `{1,NULL,{"a b"}}`, as JSON.
fn array(rest: &mut Rest<'_>, element: &str) -> Option<String> {
    rest.skip("{")?;
    let mut elements = Vec::new();
    while rest.skip("}").is_none() {
        if !elements.is_empty() {
            rest.skip(",")?;
        }
        if rest.0.starts_with('{') {
            elements.push(array(rest, element)?);
            continue;
        }
        let mut text = String::new();
        let quoted = rest.skip("\"").is_some();
        loop {
            let next = rest.0.chars().next()?;
            if quoted && next == '"' {
                rest.take(1);
                break;
            }
            if !quoted && matches!(next, ',' | '}') {
                break;
            }
            rest.take(usize::from(next == '\\'));
            let next = rest.0.chars().next()?;
            text.push_str(rest.take(next.len_utf8()));
        }
        let text = match element {
            "boolean" if text == "t" => "true",
            "boolean" if text == "f" => "false",
            _ => &text,
        };
        elements.push(if !quoted && text == "NULL" { "null".to_owned() } else { json(element, text) });
    }
    Some(format!("[{}]", elements.join(",")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn column(name: &str, kind: &str, value: &str) -> Column {
        Column { name: name.to_owned(), kind: kind.to_owned(), value: Value::Text(value.to_owned()) }
    }

    #[test]
    fn transactions_are_read() {
        assert_eq!(line("BEGIN 771"), Some(Line::Begin(771)));
        assert_eq!(line("COMMIT 771"), Some(Line::Commit));
        assert_eq!(line("table public.t: TRUNCATE: (no-flags)"), None);
    }

    #[test]
    fn a_change_is_read_whatever_its_names_and_values() {
        let text = "table \"Odd \"\"é\".\"a.b: \": UPDATE: old-key: \"the \"\"k\"\"\"[text]:'it''s: [x]:' n[integer]:-7 new-tuple: \
                    \"the \"\"k\"\"\"[text]:'two\nlines' n[integer]:null big[text]:unchanged-toast-datum bits[bit varying]:B'101' \
                    at[timestamp with time zone]:'2024-01-02 03:04:05+00' words[character varying[]]:'{a,\"b c\"}'";
        let with = |name: &str, kind: &str, value| Column { name: name.to_owned(), kind: kind.to_owned(), value };
        let expected = Line::Change {
            table: TableName::new("Odd \"é", "a.b: "),
            operation: Operation::Update,
            old: vec![column("the \"k\"", "text", "it's: [x]:"), column("n", "integer", "-7")],
            new: vec![
                column("the \"k\"", "text", "two\nlines"),
                with("n", "integer", Value::Null),
                with("big", "text", Value::Unchanged),
                column("bits", "bit varying", "101"),
                column("at", "timestamp with time zone", "2024-01-02 03:04:05+00"),
                column("words", "character varying[]", "{a,\"b c\"}"),
            ],
        };
        assert_eq!(line(text), Some(expected));
    }

    #[test]
    fn inserts_have_a_new_row_and_deletes_an_old_one() {
        let one = || vec![column("id", "bigint", "1")];
        let change =
            |operation, old, new| Some(Line::Change { table: TableName::new("public", "t"), operation, old, new });
        assert_eq!(line("table public.t: INSERT: id[bigint]:1"), change(Operation::Insert, Vec::new(), one()));
        assert_eq!(line("table public.t: DELETE: id[bigint]:1"), change(Operation::Delete, one(), Vec::new()));
    }

    #[rstest]
    #[case("bigint", "-1", "-1")]
    #[case("numeric(10,2)", "1.50", "1.50")]
    #[case("double precision", "1e+20", "1e+20")]
    #[case("double precision", "-Infinity", "\"-Infinity\"")]
    #[case("numeric", "NaN", "\"NaN\"")]
    #[case("boolean", "true", "true")]
    #[case("json", "{\"a\" : 1}", "{\"a\" : 1}")]
    #[case("text", "a\"\\\n\u{1}é", "\"a\\\"\\\\\\n\\u0001é\"")]
    #[case("bytea", "\\xff", "\"\\\\xff\"")]
    #[case("timestamp with time zone", "2024-01-02 03:04:05.6+00", "\"2024-01-02T03:04:05.6+00:00\"")]
    #[case("timestamp with time zone", "infinity", "\"infinity\"")]
    #[case("numeric[]", "{1.0,NULL,NaN}", "[1.0,null,\"NaN\"]")]
    #[case("text[]", r#"{{a,"b c"},{NULL,"NULL"}}"#, r#"[["a","b c"],[null,"NULL"]]"#)]
    #[case("text[]", r#"{"a\"b","c\\d",""}"#, r#"["a\"b","c\\d",""]"#)]
    #[case("text[]", "{}", "[]")]
    #[case("boolean[]", "{t,f}", "[true,false]")]
    fn json_is_what_postgres_writes(#[case] kind: &str, #[case] text: &str, #[case] expected: &str) {
        assert_eq!(json(kind, text), expected);
    }
}
