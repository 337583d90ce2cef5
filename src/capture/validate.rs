//! Does a definition fit its table? Says what to change where it does not.

use super::{Kind, Problem, TableFacts};
use crate::{
    log::definition::{Columns, Definition, Ordering, Updates},
    name::{Ident, TableName},
};

/// How many names a message offers.
const OFFERED: usize = 8;

/// The first thing in which `definition` does not fit the table.
///
/// # Errors
/// What to change.
pub fn validate(definition: &Definition, facts: &TableFacts) -> Result<(), Problem> {
    let table = facts.name.plain();
    let refused = |what: &str, remedy: &str| Problem {
        reason: "TableNotSupported",
        message: format!("spec.table: {table} is {what}, whose changes cannot be captured; {remedy}"),
    };
    match facts.kind {
        Kind::Table | Kind::Partitioned => {}
        Kind::View => return Err(refused("a view", "name the table under it")),
        Kind::MaterializedView => return Err(refused("a materialized view", "name the tables under it")),
        Kind::Foreign => return Err(refused("a foreign table", "make the EventTrigger where the table is local")),
        Kind::Temporary => return Err(refused("a temporary table", "name a table that outlives its session")),
        Kind::System => {
            return Err(refused("a system table or part of an event log", "name a table of the application"));
        }
        Kind::Other => return Err(refused("not a table", "name a table")),
    }
    let columns_exist = |field: &str, names: &[Ident]| match names.iter().find(|name| !facts.has(name)) {
        None => Ok(()),
        Some(missing) => Err(Problem {
            reason: "ColumnNotFound",
            message: format!(
                "{field}: {table} has no column {:?}; {}",
                missing.as_str(),
                offer(missing.as_str(), facts.columns.iter().map(|column| column.name.as_str().to_owned()), "it has"),
            ),
        }),
    };
    if let Some(Updates::Of(names)) = &definition.on.update {
        columns_exist("spec.on.update.columns", names)?;
    }
    match &definition.columns {
        Columns::All => {}
        Columns::Include(names) => columns_exist("spec.columns.include", names)?,
        Columns::Exclude(names) => {
            columns_exist("spec.columns.exclude", names)?;
            if let Some(key) = facts.key.iter().find(|key| names.contains(key)) {
                return Err(Problem {
                    reason: "KeyColumnExcluded",
                    message: format!(
                        "spec.columns.exclude: {:?} is in the primary key of {table}, which names the row in ce-subject and \
                         orders its events; take it off the list",
                        key.as_str()
                    ),
                });
            }
            if facts.columns.iter().all(|column| names.contains(&column.name)) {
                return Err(Problem {
                    reason: "NoColumnLeft",
                    message: format!("spec.columns.exclude: names every column of {table}; leave at least one"),
                });
            }
        }
    }
    let Ordering::Columns(names) = &definition.ordering else { return Ok(()) };
    columns_exist("spec.ordering.key", names)?;
    let shown = |name: &Ident| match &definition.columns {
        Columns::All => true,
        Columns::Include(shown) => shown.contains(name) || facts.key.contains(name),
        Columns::Exclude(hidden) => !hidden.contains(name),
    };
    match names.iter().find(|name| !shown(name)) {
        None => Ok(()),
        Some(hidden) => Err(Problem {
            reason: "OrderingColumnNotShown",
            message: format!(
                "spec.ordering.key: {:?} is not among the columns that spec.columns shows, but events would be ordered, and \
                 named in ce-partitionkey, by its values; show it, or order by other columns",
                hidden.as_str()
            ),
        }),
    }
}

/// There is no such table; `known` are those there are.
pub fn not_found(table: &TableName, known: impl IntoIterator<Item = TableName>) -> Problem {
    Problem {
        reason: "TableNotFound",
        message: format!(
            "spec.table: there is no table {}; {}",
            table.plain(),
            offer(&table.plain(), known.into_iter().map(|name| name.plain()), "there are")
        ),
    }
}

/// `names`, the nearest to `wrong` first, as the end of a sentence.
fn offer(wrong: &str, names: impl Iterator<Item = String>, verb: &str) -> String {
    let mut names: Vec<_> = names.collect();
    if names.is_empty() {
        return "there is none at all that this role can see; make it, or GRANT the role USAGE on its schema"
            .to_owned();
    }
    let fewer = names.len().saturating_sub(OFFERED);
    if fewer > 0 {
        names.sort_by_cached_key(|name| {
            (strsim::damerau_levenshtein(&name.to_lowercase(), &wrong.to_lowercase()), name.clone())
        });
        names.truncate(OFFERED);
    }
    let more = if fewer > 0 { format!(" and {fewer} more") } else { String::new() };
    format!("{verb}: {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::capture::plan::tests::{definition, facts};

    fn idents(names: &[&str]) -> Vec<Ident> {
        names.iter().copied().map(Ident::new).collect()
    }

    #[rstest]
    #[case::view(
        Kind::View,
        "spec.table: public.orders is a view, whose changes cannot be captured; name the table under it"
    )]
    #[case::temporary(
        Kind::Temporary,
        "spec.table: public.orders is a temporary table, whose changes cannot be captured; name a table that outlives its session"
    )]
    fn what_is_no_table_is_refused(#[case] kind: Kind, #[case] message: &str) {
        let problem = validate(&definition(1), &TableFacts { kind, ..facts() }).unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), ("TableNotSupported", message));
    }

    #[test]
    fn a_missing_column_is_named_with_those_there_are() {
        let mut wrong = definition(1);
        wrong.on.update = Some(Updates::Of(idents(&["statsu"])));
        assert_eq!(
            validate(&wrong, &facts()).unwrap_err().message,
            "spec.on.update.columns: public.orders has no column \"statsu\"; it has: id, status, total, card"
        );
    }

    #[test]
    fn the_key_cannot_be_excluded() {
        let mut wrong = definition(1);
        wrong.columns = Columns::Exclude(idents(&["card", "id"]));
        assert_eq!(validate(&wrong, &facts()).unwrap_err().reason, "KeyColumnExcluded");
    }

    #[test]
    fn of_many_tables_the_nearest_are_offered() {
        let known = (0..20)
            .map(|n| TableName::new("public", format!("something{n}")))
            .chain([TableName::new("public", "orders")]);
        let message = not_found(&TableName::new("public", "ordres"), known).message;
        assert!(
            message.starts_with("spec.table: there is no table public.ordres; there are: public.orders, "),
            "{message}"
        );
        assert!(message.ends_with(" and 13 more"), "{message}");
    }
}
