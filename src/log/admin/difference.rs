//! What a plan changes on one table, for a person to read: comments of SQL, so that the script stays a script. Pure.

use std::fmt::Write as _;

use similar::TextDiff;

use crate::capture::{Firing, Install, SqlTrigger};

/// Lines around a change of a function.
const AROUND: usize = 1;

/// What of a table's capture is in the database.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// SQL triggers that call our functions: name, definition as PostgreSQL writes it, and for what it is enabled, as
    /// `pg_trigger.tgenabled` has it.
    pub(super) triggers: Vec<(String, String, String)>,
    /// Their functions: name and body.
    pub(super) functions: Vec<(String, String)>,
}

/// What the manifests want of the EventTriggers on the table.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// There is none of this name.
    pub(super) new: Vec<String>,
    /// There is one, and it says something else.
    pub(super) changed: Vec<String>,
    /// In the log, and in no manifest: they stay as they are.
    pub(super) others: Vec<String>,
}

/// The difference, as lines that begin with `--`; empty if there is none.
pub(super) fn difference(wishes: &Wishes, standing: &Standing, install: &Install) -> String {
    let mut text = String::new();
    let marked = [("+", &wishes.new), ("~", &wishes.changed)];
    for (mark, name) in marked.into_iter().flat_map(|(mark, names)| names.iter().map(move |name| (mark, name))) {
        line(&mut text, &format!("  {mark} EventTrigger {name}"));
    }
    for SqlTrigger { name, firing, create: statement, .. } in &install.triggers {
        let found = standing.triggers.iter().find(|(standing, ..)| standing == name.as_str());
        match found {
            None => line(&mut text, &format!("  + SQL trigger {name}: {}", when(statement))),
            Some((_, _, enabled)) if *enabled != firing.code().to_string() => {
                let replicated = if *firing == Firing::Always { ", for replicated changes, too" } else { "" };
                line(&mut text, &format!("  ~ SQL trigger {name}: enabled{replicated}"));
            }
            Some((_, definition, _)) if when(definition) != when(statement) => {
                line(&mut text, &format!("  ~ SQL trigger {name}: {}, was {}", when(statement), when(definition)));
            }
            Some(_) => {}
        }
    }
    for (name, ..) in &standing.triggers {
        if !install.triggers.iter().any(|wanted| wanted.name.as_str() == name) {
            line(&mut text, &format!("  - SQL trigger {name:?}"));
        }
    }
    for (name, body) in install.functions.iter().filter_map(|statement| function(statement)) {
        match standing.functions.iter().find(|(standing, _)| *standing == name) {
            None => line(&mut text, &format!("  + function {name}")),
            Some((_, before)) if before.trim() != body.trim() => {
                line(&mut text, &format!("  ~ function {name}"));
                let diff = TextDiff::from_lines(before.trim_start_matches('\n'), body);
                for hunk in diff.unified_diff().context_radius(AROUND).iter_hunks() {
                    for change in hunk.iter_changes() {
                        line(&mut text, &format!("      {} {}", change.tag(), change.value().trim_end()));
                    }
                }
            }
            Some(_) => {}
        }
    }
    if !text.is_empty() && !wishes.others.is_empty() {
        line(&mut text, &format!("  = in the log, and in no manifest: {}", wishes.others.join(", ")));
    }
    text
}

/// A line break in a name would end the comment.
fn line(text: &mut String, what: &str) {
    let _ = writeln!(text, "--{}", what.replace(['\n', '\r'], " "));
}

/// `AFTER … FOR EACH …` of a `CREATE TRIGGER`, without the table.
fn when(statement: &str) -> String {
    let after = statement.split_once(" AFTER ").map_or(statement, |(_, after)| after);
    let event = after.split_once(" ON ").map_or(after, |(event, _)| event);
    let level = if statement.contains("FOR EACH ROW") { "ROW" } else { "STATEMENT" };
    format!("AFTER {event} FOR EACH {level}")
}

/// Name and body of a `CREATE OR REPLACE FUNCTION` as capture writes it.
fn function(statement: &str) -> Option<(String, &str)> {
    let rest = statement.strip_prefix("CREATE OR REPLACE FUNCTION ")?;
    let (name, rest) = rest.split_once("() RETURNS trigger")?;
    let (_, rest) = rest.split_once(" AS $")?;
    let (tag, body) = rest.split_once("$\n")?;
    let name = name.rsplit_once('.').map_or(name, |(_, name)| name).trim_matches('"').to_owned();
    Some((name, body.strip_suffix(&format!("${tag}$"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Ident;

    fn install(body: &str) -> Install {
        Install {
            functions: vec![
                format!("CREATE OR REPLACE FUNCTION \"eventlog\".\"capture_7_delete\"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $capture$\n{body}$capture$"),
                "COMMENT ON FUNCTION x() IS ''".to_owned(),
            ],
            triggers: vec![SqlTrigger {
                name: Ident::new("00_eventlog_delete"),
                firing: Firing::Origin,
                enable: None,
                create: "CREATE OR REPLACE TRIGGER \"00_eventlog_delete\" AFTER DELETE ON \"a\".\"b\" REFERENCING OLD TABLE AS r FOR EACH STATEMENT EXECUTE FUNCTION f()".to_owned(),
            }],
        }
    }

    #[test]
    fn what_is_new_changed_and_gone_is_told() {
        let nothing = Standing::default();
        let wishes =
            Wishes { new: vec!["shop/paid".to_owned()], others: vec!["shop/old".to_owned()], ..Wishes::default() };
        insta::assert_snapshot!(difference(&wishes, &nothing, &install("BEGIN\n  one;\nEND\n")), @r#"
        --  + EventTrigger shop/paid
        --  + SQL trigger "00_eventlog_delete": AFTER DELETE FOR EACH STATEMENT
        --  + function capture_7_delete
        --  = in the log, and in no manifest: shop/old
        "#);
        let standing = Standing {
            triggers: vec![
                (
                    "00_eventlog_delete".to_owned(),
                    "CREATE TRIGGER x AFTER DELETE ON a.b FOR EACH ROW EXECUTE FUNCTION f()".to_owned(),
                    "O".to_owned(),
                ),
                ("00_eventlog_insert".to_owned(), String::new(), "O".to_owned()),
            ],
            functions: vec![("capture_7_delete".to_owned(), "\nBEGIN\n  one;\n  two;\nEND\n".to_owned())],
        };
        insta::assert_snapshot!(difference(&Wishes::default(), &standing, &install("BEGIN\n  one;\n  three\r;\nEND\n")), @r#"
        --  ~ SQL trigger "00_eventlog_delete": AFTER DELETE FOR EACH STATEMENT, was AFTER DELETE FOR EACH ROW
        --  - SQL trigger "00_eventlog_insert"
        --  ~ function capture_7_delete
        --          one;
        --      -   two;
        --      +   three
        --      + ;
        --        END
        "#);
    }

    #[test]
    fn nothing_is_said_of_what_stays() {
        let standing = Standing {
            triggers: vec![("00_eventlog_delete".to_owned(), install("").triggers[0].create.clone(), "O".to_owned())],
            functions: vec![("capture_7_delete".to_owned(), "\nBEGIN\nEND\n".to_owned())],
        };
        let wishes = Wishes { others: vec!["shop/old".to_owned()], ..Wishes::default() };
        assert_eq!(difference(&wishes, &standing, &install("BEGIN\nEND\n")), "");
    }
}
