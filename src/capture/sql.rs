//! A plan becomes SQL: one function and one SQL trigger for each operation.
//!
//! The functions run as their owner (`SECURITY DEFINER`) without a `search_path` of their own, which would cost each
//! statement 8 to 17 %: instead every name in them is qualified, operators too. They must not fail, ever, or the
//! application's statement would: what names a column stands behind `shape_is`, which is false from the moment the
//! table's columns are not those that the function was written for; then code without column names runs.

use std::fmt::Write as _;

use super::{
    Changes, Level, Plan, Shown, Wanted,
    changed::{Compare, Listeners, any_of},
};
use crate::{
    log::Operation,
    name::{Ident, Literal},
};

/// A function's variable, if it has one. With the block's name, so that no column can be meant.
const MATCHED: &str = "eventtrigger.matched";
/// Its declaration.
const VARIABLE: &str = "<<eventtrigger>>\nDECLARE\n  matched pg_catalog.varbit;\n";

/// The statements that bring a table's capture to a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Install {
    /// `CREATE OR REPLACE FUNCTION …` and its comment and rights; takes no lock on the table.
    pub functions: Vec<String>,
    /// For each SQL trigger: its name, and `CREATE OR REPLACE TRIGGER …`, which blocks writers while it waits and runs.
    pub triggers: Vec<(Ident, String)>,
}

/// Name of the SQL trigger of an operation. Triggers of one kind run in order of name: the zeros put ours before those
/// of the application, whose own writes to the row then come later in the log, too.
pub fn trigger_name(schema: &Ident, operation: Operation) -> Ident {
    // Names end at 63 bytes: 3 before, at most 7 behind.
    let mut stem = schema.as_str();
    while stem.len() > 53 {
        stem = &stem[..stem.len() - stem.chars().next_back().map_or(1, char::len_utf8)];
    }
    Ident::new(format!("00_{stem}_{}", operation.to_string().to_lowercase()))
}

/// Name of the function that captures an operation of a table.
pub fn function_name(oid: u32, operation: Operation) -> Ident {
    Ident::new(format!("capture_{oid}_{}", operation.to_string().to_lowercase()))
}

impl Wanted {
    /// Whether the bits are found out before it is known if the row is written at all: several triggers listen to columns
    /// of their own, and none wants every change.
    fn decides_first(&self) -> bool {
        let listeners = Listeners::new(&self.when);
        !listeners.unconditional() && listeners.groups.len() > 1
    }
}

impl Plan {
    fn compare(&self, column: &Ident) -> Compare {
        self.compare.iter().find(|(name, _)| name == column).map_or(Compare::Image, |(_, compare)| *compare)
    }

    /// The SQL of this plan for capture number `capture`, in the log's `schema`, filling `segment`.
    pub fn sql(&self, schema: &Ident, segment: &Ident, capture: i32) -> Install {
        let mut install = Install { functions: Vec::new(), triggers: Vec::new() };
        for wanted in &self.operations {
            let function = function_name(self.oid, wanted.operation);
            let body = self.body(wanted, schema, segment, capture);
            let tag = dollar_tag(&body);
            install.functions.push(format!(
                "CREATE OR REPLACE FUNCTION {schema}.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS {tag}\n{body}{tag}"
            ));
            install.functions.push(format!("REVOKE ALL ON FUNCTION {schema}.{function}() FROM PUBLIC"));
            install.functions.push(format!(
                "COMMENT ON FUNCTION {schema}.{function}() IS {}",
                Literal(&format!(
                    "eventtrigger: captures {} of {}; generated, do not edit",
                    wanted.operation,
                    self.table.plain()
                ))
            ));
            let name = trigger_name(schema, wanted.operation);
            let (referencing, level) = match (wanted.level, wanted.operation) {
                (Level::Row, _) => ("", "ROW"),
                (Level::Statement, Operation::Delete) => (" REFERENCING OLD TABLE AS eventtrigger_rows", "STATEMENT"),
                (Level::Statement, _) => (" REFERENCING NEW TABLE AS eventtrigger_rows", "STATEMENT"),
            };
            let trigger = format!(
                "CREATE OR REPLACE TRIGGER {name} AFTER {} ON {}{referencing} FOR EACH {level} EXECUTE FUNCTION {schema}.{function}()",
                wanted.operation, self.table
            );
            install.triggers.push((name, trigger));
        }
        install
    }

    fn body(&self, wanted: &Wanted, schema: &Ident, segment: &Ident, capture: i32) -> String {
        let op = wanted.operation.code();
        let insert = format!("INSERT INTO {schema}.{segment} (capture, op, matched, old, new)");
        let (fast, safe) = match wanted.level {
            Level::Statement => {
                (self.statement(wanted, schema, Path::Fast), self.statement(wanted, schema, Path::Safe))
            }
            Level::Row => (self.row(wanted, schema, Path::Fast), self.row(wanted, schema, Path::Safe)),
        };
        let mut body = format!("{}BEGIN\n", if wanted.decides_first() { VARIABLE } else { "" });
        let write = |body: &mut String, indent: &str, part: &Part| {
            let Part { first, condition, matched, old, new, from } = part;
            if let Some(first) = first {
                let _ = writeln!(body, "{indent}{MATCHED} := {first};");
            }
            let inner = if condition.is_some() { format!("{indent}  ") } else { indent.to_owned() };
            if let Some(condition) = condition {
                let _ = writeln!(body, "{indent}IF {condition} THEN");
            }
            let _ = writeln!(body, "{inner}{insert}\n{inner}SELECT {capture}, '{op}', {matched}, {old}, {new}{from};");
            if condition.is_some() {
                let _ = writeln!(body, "{indent}END IF;");
            }
        };
        if fast == safe {
            write(&mut body, "  ", &fast);
        } else {
            let oid = self.oid;
            let _ = writeln!(body, "  IF {schema}.shape_is('{oid}'::pg_catalog.regclass, '{}') THEN", self.shape);
            write(&mut body, "    ", &fast);
            body.push_str("  ELSE\n");
            write(&mut body, "    ", &safe);
            body.push_str("  END IF;\n");
        }
        body.push_str("  RETURN NULL;\nEND\n");
        body
    }

    fn statement(&self, wanted: &Wanted, schema: &Ident, path: Path) -> Part {
        // `r.*` and not `r`: a column of that name would come first.
        let (shown, from) = match (&self.shown, path) {
            (Shown::All, _) => ("pg_catalog.row_to_json(r.*)".to_owned(), " FROM eventtrigger_rows AS r".to_owned()),
            (Shown::Only(names), Path::Fast) => {
                let columns = list(names, |name| format!("r.{name}"));
                (
                    "pg_catalog.row_to_json(s.*)".to_owned(),
                    format!(" FROM eventtrigger_rows AS r CROSS JOIN LATERAL (SELECT {columns}) AS s"),
                )
            }
            (Shown::Only(names), Path::Safe) => {
                (pick(schema, "pg_catalog.row_to_json(r.*)", names), " FROM eventtrigger_rows AS r".to_owned())
            }
        };
        let null = "NULL".to_owned();
        let (old, new) = if wanted.operation == Operation::Delete { (shown, null) } else { (null, shown) };
        let matched = format!("B'{}'", fixed(&wanted.when));
        Part { first: None, condition: None, matched, old, new, from }
    }

    fn row(&self, wanted: &Wanted, schema: &Ident, path: Path) -> Part {
        let has = match wanted.operation {
            Operation::Insert => (false, true),
            Operation::Update => (true, true),
            Operation::Delete => (true, false),
        };
        let mut from = Vec::new();
        let mut shown = |there: bool, row: &str| match (&self.shown, path) {
            _ if !there => "NULL".to_owned(),
            (Shown::All, _) => format!("pg_catalog.row_to_json({row})"),
            (Shown::Only(names), Path::Fast) => {
                let alias = if row == "OLD" { "o" } else { "n" };
                from.push(format!("(SELECT {}) AS {alias}", list(names, |name| format!("{row}.{name} AS {name}"))));
                format!("pg_catalog.row_to_json({alias}.*)")
            }
            (Shown::Only(names), Path::Safe) => pick(schema, &format!("pg_catalog.row_to_json({row})"), names),
        };
        let (old, new) = (shown(has.0, "OLD"), shown(has.1, "NEW"));
        let changed = |names: &[&Ident]| match path {
            Path::Fast => any_of(&names.iter().map(|name| (*name, self.compare(name))).collect::<Vec<_>>()),
            Path::Safe => {
                format!("{schema}.differ(pg_catalog.row_to_json(OLD), pg_catalog.row_to_json(NEW), {})", array(names))
            }
        };
        let listeners = Listeners::new(&wanted.when);
        let (first, condition, matched) = match listeners.groups.as_slice() {
            _ if wanted.decides_first() => {
                let condition = format!("{MATCHED} OPERATOR(pg_catalog.<>) B'{}'", listeners.always);
                (Some(listeners.matched(changed)), Some(condition), MATCHED.to_owned())
            }
            // With a single condition, whoever has one matches when the row is written at all.
            [(columns, mask)] if !listeners.unconditional() => (None, Some(changed(columns)), format!("B'{mask}'")),
            _ => (None, None, listeners.matched(changed)),
        };
        let from = if from.is_empty() { String::new() } else { format!(" FROM {}", from.join(", ")) };
        Part { first, condition, matched, old, new, from }
    }
}

/// Which of a function's two ways: with the columns' names, or safe whatever the columns are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Path {
    Fast,
    Safe,
}

/// One way's INSERT.
#[derive(Debug, Eq, PartialEq)]
struct Part {
    /// What the function's variable is set to, if it has one.
    first: Option<String>,
    condition: Option<String>,
    matched: String,
    old: String,
    new: String,
    from: String,
}

/// Who matches where nothing needs to be compared.
fn fixed(when: &[Changes]) -> String {
    when.iter().map(|changes| if *changes == Changes::Never { '0' } else { '1' }).collect()
}

fn list<N: std::borrow::Borrow<Ident>>(names: &[N], write: impl Fn(&Ident) -> String) -> String {
    names.iter().map(|name| write(name.borrow())).collect::<Vec<_>>().join(", ")
}

fn array<N: std::borrow::Borrow<Ident>>(names: &[N]) -> String {
    format!("ARRAY[{}]::text[]", list(names, |name| Literal(name.as_str()).to_string()))
}

fn pick(schema: &Ident, row: &str, names: &[Ident]) -> String {
    format!("{schema}.pick({row}, {})", array(names))
}

/// A dollar quote that the body does not hold: a column's name may hold any.
fn dollar_tag(body: &str) -> String {
    let mut tag = String::from("$capture$");
    while body.contains(&tag) {
        tag.insert(tag.len() - 1, '_');
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        capture::plan::tests::{definition, facts},
        log::definition::{Columns, Operations, Updates},
    };

    fn idents(names: &[&str]) -> Vec<Ident> {
        names.iter().copied().map(Ident::new).collect()
    }

    fn script(plan: &Plan) -> String {
        let Install { functions, triggers } = plan.sql(&Ident::new("eventlog"), &Ident::new("event_1"), 7);
        functions.into_iter().chain(triggers.into_iter().map(|(_, sql)| sql)).map(|sql| sql + ";\n").collect()
    }

    #[test]
    fn one_trigger_of_everything() {
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &definition(1))])));
    }

    #[test]
    fn two_triggers_with_columns_and_conditions() {
        let (mut one, mut two) = (definition(1), definition(2));
        one.on = Operations { insert: true, update: Some(Updates::Of(idents(&["status"]))), delete: false };
        one.columns = Columns::Include(idents(&["status"]));
        two.on = Operations { insert: false, update: Some(Updates::Of(idents(&["status", "total"]))), delete: true };
        two.columns = Columns::Exclude(idents(&["card"]));
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &one), (2, &two)])));
    }

    #[test]
    fn names_of_sql_triggers_fit_and_stay_distinct() {
        let long = Ident::new("é".repeat(31));
        for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
            let name = trigger_name(&long, operation);
            assert!(
                name.as_str().len() <= 63 && name.as_str().ends_with(&operation.to_string().to_lowercase()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_column_cannot_close_the_functions_body() {
        let mut hostile = facts();
        hostile.columns[1].name = Ident::new("$capture$; DROP TABLE x; \"' --");
        let mut one = definition(1);
        one.columns = Columns::Include(vec![hostile.columns[1].name.clone()]);
        let sql = script(&Plan::new(&hostile, [(1, &one)]));
        assert!(sql.contains("AS $capture_$\n"), "{sql}");
    }
}
