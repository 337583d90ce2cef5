//! A plan becomes SQL: one function and one SQL trigger for each operation.
//!
//! The functions run as their owner (`SECURITY DEFINER`) without a `search_path` of their own, which would cost each
//! statement 8 to 17 %: instead every name in them is qualified, operators too. They must not fail, ever, or the
//! application's statement would: what names a column stands behind `shape_is`, which is false from the moment the
//! table's columns are not those that the function was written for; then code without column names runs.

use std::fmt::Write as _;

use super::{
    Changes, Firing, Level, Plan, Shown, Wanted,
    changed::{Compare, Listeners, any_of},
    long,
};
use crate::{
    log::{Operation, definition::Context},
    name::{Ident, Literal},
};

/// A function's variable, if it has one. With the block's name, so that no column can be meant.
const MATCHED: &str = "eventtrigger.matched";
/// Its declaration.
const MATCHED_VARIABLE: &str = "  matched pg_catalog.varbit;\n";
/// Another variable, which is never set.
const NOTHING_VARIABLE: &str = "  nothing pg_catalog.record;\n";

/// The statements that bring a table's capture to a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Install {
    /// `CREATE OR REPLACE FUNCTION …` and its comment and rights; takes no lock on the table.
    pub functions: Vec<String>,
    /// The SQL triggers.
    pub triggers: Vec<SqlTrigger>,
}

/// A SQL trigger, and what makes it. Both statements block writers while they wait and run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SqlTrigger {
    /// Its name.
    pub name: Ident,
    /// For whose changes it fires.
    pub firing: Firing,
    /// `CREATE OR REPLACE TRIGGER …`, after which it fires for [`Firing::Origin`].
    pub create: String,
    /// `ALTER TABLE … ENABLE ALWAYS TRIGGER …`, if it is to fire always; only the table's owner may.
    pub enable: Option<String>,
}

/// Name of the SQL trigger of an operation. Triggers of one kind run in order of name: the zeros put ours before those
/// of the application, whose own writes to the row then come later in the log, too.
pub fn trigger_name(schema: &Ident, operation: Operation) -> Ident {
    // Names end at 63 bytes: 3 before, at most 9 behind.
    let mut stem = schema.as_str();
    while stem.len() > 51 {
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
                (Level::Statement, Operation::Truncate) => ("", "STATEMENT"),
                (Level::Statement, Operation::Delete) => (" REFERENCING OLD TABLE AS eventtrigger_rows", "STATEMENT"),
                (Level::Statement, _) => (" REFERENCING NEW TABLE AS eventtrigger_rows", "STATEMENT"),
            };
            let trigger = format!(
                "CREATE OR REPLACE TRIGGER {name} AFTER {} ON {}{referencing} FOR EACH {level} EXECUTE FUNCTION {schema}.{function}()",
                wanted.operation, self.table
            );
            let firing = wanted.firing();
            let enable =
                (firing == Firing::Always).then(|| format!("ALTER TABLE {} ENABLE ALWAYS TRIGGER {name}", self.table));
            install.triggers.push(SqlTrigger { name, firing, create: trigger, enable });
        }
        install
    }

    fn body(&self, wanted: &Wanted, schema: &Ident, segment: &Ident, capture: i32) -> String {
        let replicated = wanted.replicated.iter().map(|when| Wanted { when: when.clone(), ..wanted.clone() });
        let declares = wanted.decides_first() || replicated.into_iter().any(|wanted| wanted.decides_first());
        // A record that is null: `NULL` would be an expression, which is prepared anew in every transaction.
        let (nothing, variable) = match (wanted.level, wanted.operation) {
            (Level::Row, Operation::Insert) => ("OLD", ""),
            (Level::Row, Operation::Update) => ("eventtrigger.nothing", NOTHING_VARIABLE),
            (Level::Row, Operation::Delete | Operation::Truncate) | (Level::Statement, _) => ("NEW", ""),
        };
        let variables = format!("{}{variable}", if declares { MATCHED_VARIABLE } else { "" });
        let mut body =
            if variables.is_empty() { String::new() } else { format!("<<eventtrigger>>\nDECLARE\n{variables}") };
        body.push_str("BEGIN\n");
        match &wanted.replicated {
            Some(replicated) if *replicated != wanted.when => {
                // The condition of PostgreSQL's own `ENABLE TRIGGER`.
                body.push_str("  IF pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.=) 'replica' THEN\n");
                let replicated = Wanted { when: replicated.clone(), ..wanted.clone() };
                self.ways(&mut body, "    ", &replicated, schema, segment, capture);
                body.push_str("  ELSE\n");
                self.ways(&mut body, "    ", wanted, schema, segment, capture);
                body.push_str("  END IF;\n");
            }
            _ => self.ways(&mut body, "  ", wanted, schema, segment, capture),
        }
        let _ = write!(body, "  RETURN {nothing};\nEND\n");
        body
    }

    /// The fast way and the one that cannot fail, with what decides between them; only one if they are the same.
    fn ways(&self, body: &mut String, indent: &str, wanted: &Wanted, schema: &Ident, segment: &Ident, capture: i32) {
        let op = wanted.operation.code();
        let (fast, safe) = match wanted.level {
            Level::Statement => {
                (self.statement(wanted, schema, Path::Fast), self.statement(wanted, schema, Path::Safe))
            }
            Level::Row => (self.row(wanted, schema, Path::Fast), self.row(wanted, schema, Path::Safe)),
        };
        let insert = |indent: &str, matched: &str, Image { old, new, context, from }: &Image| {
            let (column, context) =
                if context.is_empty() { ("", String::new()) } else { (", context", format!(", {context}")) };
            format!(
                "{indent}INSERT INTO {schema}.{segment} (capture, op, matched, old, new{column})\n\
                 {indent}SELECT {capture}, '{op}', {matched}, {old}, {new}{context}{from};\n"
            )
        };
        let part = |indent: &str, Part { first, condition, matched, image, long }: &Part| {
            let first = first.as_ref().map(|first| format!("{indent}{MATCHED} := {first};\n")).unwrap_or_default();
            let write = |indent: &str| match long {
                None => insert(indent, matched, image),
                Some(LongRows::Afterwards(bounded)) => {
                    let (usual, long) =
                        (insert(indent, matched, image), insert(&format!("{indent}    "), matched, bounded));
                    format!(
                        "{usual}{indent}IF {PUT_OFF} THEN\n{indent}  IF {schema}.were_put_off() THEN\n{long}{indent}  END IF;\n{indent}END IF;\n"
                    )
                }
                Some(LongRows::Instead(may_be, bounded)) => {
                    let inner = format!("{indent}  ");
                    let (long, usual) = (insert(&inner, matched, bounded), insert(&inner, matched, image));
                    format!("{indent}IF {may_be} THEN\n{long}{indent}ELSE\n{usual}{indent}END IF;\n")
                }
            };
            match condition {
                None => first + &write(indent),
                Some(condition) => {
                    format!("{first}{indent}IF {condition} THEN\n{}{indent}END IF;\n", write(&format!("{indent}  ")))
                }
            }
        };
        if fast == safe {
            body.push_str(&part(indent, &fast));
        } else {
            let (oid, inner) = (self.oid, format!("{indent}  "));
            let _ = writeln!(body, "{indent}IF {schema}.shape_is('{oid}'::pg_catalog.regclass, '{}') THEN", self.shape);
            body.push_str(&part(&inner, &fast));
            let _ = writeln!(body, "{indent}ELSE");
            body.push_str(&part(&inner, &safe));
            let _ = writeln!(body, "{indent}END IF;");
        }
    }

    /// What is kept of the session, and the names of `omitted` columns; empty if there is nothing to keep.
    fn context(&self, schema: &Ident, omitted: Option<&str>) -> String {
        let Context { role, application, settings, .. } = &self.context;
        let mut parts = Vec::new();
        if *role {
            parts.push(format!("'role', {schema}.acting_role()"));
        }
        if *application {
            parts.push(format!("'application', {schema}.setting('application_name')"));
        }
        if !settings.is_empty() {
            let names = settings.iter().map(|name| Literal(name).to_string()).collect::<Vec<_>>();
            let values = names.iter().map(|name| format!("{schema}.setting({name})")).collect::<Vec<_>>();
            parts.push(format!(
                "'settings', pg_catalog.json_object(ARRAY[{}]::pg_catalog.text[], ARRAY[{}])",
                names.join(", "),
                values.join(", ")
            ));
        }
        if let Some(omitted) = omitted {
            parts.push(format!("'omitted', {omitted}"));
        }
        if parts.is_empty() {
            return String::new();
        }
        format!("pg_catalog.json_strip_nulls(pg_catalog.json_build_object({}))", parts.join(", "))
    }

    fn statement(&self, wanted: &Wanted, schema: &Ident, path: Path) -> Part {
        let null = "NULL".to_owned();
        let matched = format!("B'{}'", fixed(&wanted.when));
        let context = self.context(schema, None);
        // It is found out once, not for each row.
        let context = if context.is_empty() { context } else { format!("(SELECT {context})") };
        if wanted.operation == Operation::Truncate {
            let image = Image { old: null.clone(), new: null, context, from: String::new() };
            return Part { first: None, condition: None, matched, image, long: None };
        }
        // `r.*` and not `r`: a column of that name would come first.
        let mut from = " FROM eventtrigger_rows AS r".to_owned();
        let shown = match (&self.shown, path) {
            (Shown::All, _) => "pg_catalog.row_to_json(r.*)".to_owned(),
            (Shown::Only(names), Path::Fast) => {
                let _ = write!(from, " CROSS JOIN LATERAL (SELECT {}) AS s", list(names, |name| format!("r.{name}")));
                "pg_catalog.row_to_json(s.*)".to_owned()
            }
            (Shown::Only(names), Path::Safe) => pick(schema, "pg_catalog.row_to_json(r.*)", names),
        };
        let image = |shown: String, context: String, from: String| {
            let (old, new) =
                if wanted.operation == Operation::Delete { (shown, null.clone()) } else { (null.clone(), shown) };
            Image { old, new, context, from }
        };
        // What a long row takes stands in a statement of its own, which is run only if there is one: PostgreSQL prepares all
        // that is in a statement for each run, also what it does not come to, and that would cost more than the capture.
        let mut usual_from = from.clone();
        let long = self.long.as_ref().map(|long| {
            let (may_be, bounded, omitted) = match path {
                Path::Fast => {
                    let omitted = format!("pg_catalog.to_json({})", long.omitted(schema, "r"));
                    (long.may_be(&["r"]), long.bounded(schema, "r"), omitted)
                }
                Path::Safe => (long::whole_may_be("r.*"), NOTHING.to_owned(), EVERYTHING.to_owned()),
            };
            let _ = write!(usual_from, " WHERE ({may_be}) IS NOT TRUE OR {schema}.put_off()");
            let from = format!(" FROM eventtrigger_rows AS r WHERE {may_be}");
            LongRows::Afterwards(image(bounded, self.context(schema, Some(&omitted)), from))
        });
        Part { first: None, condition: None, matched, image: image(shown, context, usual_from), long }
    }

    fn row(&self, wanted: &Wanted, schema: &Ident, path: Path) -> Part {
        let rows: &[&str] = match wanted.operation {
            Operation::Insert => &["NEW"],
            Operation::Update => &["OLD", "NEW"],
            Operation::Delete => &["OLD"],
            Operation::Truncate => &[],
        };
        let image = |show: &mut dyn FnMut(&str) -> String, context: String| {
            let mut of = |row: &str| if rows.contains(&row) { show(row) } else { "NULL".to_owned() };
            Image { old: of("OLD"), new: of("NEW"), context, from: String::new() }
        };
        let mut from = Vec::new();
        let mut usual = |row: &str| match (&self.shown, path) {
            (Shown::All, _) => format!("pg_catalog.row_to_json({row})"),
            (Shown::Only(names), Path::Fast) => {
                let alias = if row == "OLD" { "o" } else { "n" };
                from.push(format!("(SELECT {}) AS {alias}", list(names, |name| format!("{row}.{name} AS {name}"))));
                format!("pg_catalog.row_to_json({alias}.*)")
            }
            (Shown::Only(names), Path::Safe) => pick(schema, &format!("pg_catalog.row_to_json({row})"), names),
        };
        let mut usual = image(&mut usual, self.context(schema, None));
        if !from.is_empty() {
            usual.from = format!(" FROM {}", from.join(", "));
        }
        let long = self.long.as_ref().map(|long| match path {
            Path::Fast => {
                let omitted = rows
                    .iter()
                    .map(|row| long.omitted(schema, row))
                    .reduce(|old, new| format!("pg_catalog.array_cat({old}, {new})"));
                let omitted = format!("pg_catalog.to_json({})", omitted.unwrap_or_default());
                let bounded = image(&mut |row| long.bounded(schema, row), self.context(schema, Some(&omitted)));
                LongRows::Instead(long.may_be(rows), bounded)
            }
            Path::Safe => {
                let nothing = image(&mut |_| NOTHING.to_owned(), self.context(schema, Some(EVERYTHING)));
                let may_be = rows.iter().map(|row| long::whole_may_be(row)).collect::<Vec<_>>().join(" OR ");
                LongRows::Instead(may_be, nothing)
            }
        });
        let changed = |names: &[&Ident]| match path {
            Path::Fast => self.changed(names),
            Path::Safe => self.safely_changed(schema, names),
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
        Part { first, condition, matched, image: usual, long }
    }

    /// A condition: one of these columns has changed.
    fn changed(&self, names: &[&Ident]) -> String {
        // Two long values together might not fit into one record.
        let is_long = |name: &Ident| {
            self.long.as_ref().is_some_and(|long| long.unlimited.iter().any(|(unlimited, _)| unlimited == name))
        };
        let columns: Vec<_> = names.iter().map(|name| (*name, self.compare(name))).collect();
        any_of(&columns, is_long)
    }

    /// The same while the columns are not known.
    fn safely_changed(&self, schema: &Ident, names: &[&Ident]) -> String {
        let differ =
            format!("{schema}.differ(pg_catalog.row_to_json(OLD), pg_catalog.row_to_json(NEW), {})", array(names));
        match self.long {
            None => differ,
            Some(_) => format!(
                "(CASE WHEN {} OR {} THEN true ELSE {differ} END)",
                long::whole_may_be("OLD"),
                long::whole_may_be("NEW")
            ),
        }
    }
}

/// A condition: a row may have been put off. The setting is unknown, and so null, in a session that never did, and empty in
/// one that has; to compare it, or to ask the log's function, costs a statement of one row twice as much.
const PUT_OFF: &str = "pg_catalog.current_setting('eventtrigger.put_off', true) IS NOT NULL";
/// In place of a row that might be too long, while its columns are not known.
const NOTHING: &str = "'{}'::pg_catalog.json";
/// What is omitted then.
const EVERYTHING: &str = "'[\"*\"]'::pg_catalog.json";

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
    image: Image,
    /// What is written of rows that may be too long.
    long: Option<LongRows>,
}

/// Rows that may be too long.
#[derive(Debug, Eq, PartialEq)]
enum LongRows {
    /// This, instead of the usual, if the condition holds.
    Instead(String, Image),
    /// This, after the others, for those that the usual has put off. A function that is handed such a row could write it in
    /// its place, but none that cannot fail: a `record` holds at most 1 GB, and what a row has stored apart may be more;
    /// columns as arguments are at most 100, and keep their types from being dropped.
    Afterwards(Image),
}

/// What is written of a row.
#[derive(Debug, Eq, PartialEq)]
struct Image {
    old: String,
    new: String,
    /// Empty: nothing.
    context: String,
    from: String,
}

/// Who matches where nothing needs to be compared.
fn fixed(when: &[Changes]) -> String {
    when.iter().map(|changes| if *changes == Changes::Never { '0' } else { '1' }).collect()
}

pub(super) fn list<N: std::borrow::Borrow<Ident>>(names: &[N], write: impl Fn(&Ident) -> String) -> String {
    names.iter().map(|name| write(name.borrow())).collect::<Vec<_>>().join(", ")
}

fn array<N: std::borrow::Borrow<Ident>>(names: &[N]) -> String {
    format!("ARRAY[{}]::pg_catalog.text[]", list(names, |name| Literal(name.as_str()).to_string()))
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
        capture::{
            Size,
            plan::tests::{definition, facts},
        },
        log::definition::{Columns, Operations, Updates},
    };

    fn idents(names: &[&str]) -> Vec<Ident> {
        names.iter().copied().map(Ident::new).collect()
    }

    fn script(plan: &Plan) -> String {
        let Install { functions, triggers } = plan.sql(&Ident::new("eventlog"), &Ident::new("event_1"), 7);
        let triggers = triggers.into_iter().flat_map(|trigger| [Some(trigger.create), trigger.enable]).flatten();
        functions.into_iter().chain(triggers).map(|sql| sql + ";\n").collect()
    }

    #[test]
    fn one_trigger_of_everything() {
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &definition(1))])));
    }

    #[test]
    fn two_triggers_with_columns_and_conditions() {
        let (mut one, mut two) = (definition(1), definition(2));
        one.on =
            Operations { insert: true, update: Some(Updates::Of(idents(&["status"]))), delete: false, truncate: true };
        one.columns = Columns::Include(idents(&["status"]));
        two.on = Operations {
            insert: false,
            update: Some(Updates::Of(idents(&["status", "total"]))),
            delete: true,
            truncate: false,
        };
        two.columns = Columns::Exclude(idents(&["card"]));
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &one), (2, &two)])));
    }

    #[test]
    fn two_triggers_that_ask_who_it_was() {
        let (mut one, mut two) = (definition(1), definition(2));
        one.on.update = None;
        let traceparent = Some("app.trace".to_owned());
        one.context = Context { role: true, traceparent, ..Context::default() };
        let settings = ["app.user", "app.trace"].map(str::to_owned).to_vec();
        two.context = Context { application: true, settings, ..Context::default() };
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &one), (2, &two)])));
    }

    #[test]
    fn one_of_two_triggers_wants_replicated_changes() {
        let (mut one, mut two) = (definition(1), definition(2));
        one.on = Operations { update: Some(Updates::Of(idents(&["status"]))), ..Operations::default() };
        two.on = Operations { update: Some(Updates::All), truncate: true, ..Operations::default() };
        two.replicated = true;
        insta::assert_snapshot!(script(&Plan::new(&facts(), [(1, &one), (2, &two)])));
    }

    #[test]
    fn a_table_with_columns_of_unlimited_types() {
        let mut facts = facts();
        for (column, size) in [(1, Size::Text), (3, Size::Jsonb)] {
            facts.columns[column].size = size;
        }
        let (mut one, mut two) = (definition(1), definition(2));
        one.on.update = Some(Updates::Of(idents(&["status", "card", "id"])));
        one.on.delete = false;
        two.on = Operations { insert: true, ..Operations::default() };
        two.context.role = true;
        insta::assert_snapshot!(script(&Plan::new(&facts, [(1, &one), (2, &two)])));
        one.columns = Columns::Exclude(idents(&["status", "card"]));
        assert_eq!(Plan::new(&facts, [(1, &one)]).long, None);
    }

    #[test]
    fn names_of_sql_triggers_fit_and_stay_distinct() {
        let long = Ident::new("é".repeat(31));
        for operation in Operation::ALL {
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
