//! Names of any spelling arrive in the log as they are: schemas, tables and columns, shown, left out and listened to.

use std::collections::BTreeSet;

use eventtrigger::{
    log::definition::{Columns, Definition, Updates},
    name::{Ident, TableName},
};
use proptest::prelude::*;

use super::{
    exact::{often, text},
    statements::captured,
};
use crate::support::everything;

/// With the values of `exact` a hundred thousand.
const NAMES: usize = 2_000;

/// A name as PostgreSQL takes it: not empty, at most 63 bytes, no zero.
fn name() -> impl Strategy<Value = String> {
    const HARD: &[&str] = &[
        "$capture$",
        "$$",
        "\"",
        "''",
        "\\",
        "a\nb",
        "NEW",
        "new",
        "OLD",
        "old",
        "r",
        "s",
        "n",
        "o",
        "eventtrigger_rows",
        "select",
        "tg_op",
        "found",
        "capture",
        "matched",
        "e",
        "value",
        "key",
        "--",
        "/*",
        "*/",
        ";",
        " ",
        "%I",
        "{}",
        "$1",
        "?",
        ":schema",
        "row",
        "null",
        "ctid ",
        "пример",
        "é",
        "e\u{301}",
        "🦀",
        "\u{200b}",
    ];
    let any = text().prop_map(|text| {
        let mut end = text.len().min(63);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    });
    let long = proptest::sample::select(vec!["x", "é", "🦀", "\""]).prop_map(|piece| piece.repeat(63 / piece.len()));
    let hard = proptest::sample::select(HARD).prop_map(str::to_owned);
    prop_oneof![6 => any, 1 => long, 2 => hard].prop_filter("a name has a character", |name| !name.is_empty())
}

#[derive(Debug)]
struct Named {
    table: TableName,
    columns: Vec<String>,
    /// Of the columns but the first, which is the key: what is listened to, and what is left out.
    listen: usize,
    exclude: Option<usize>,
}

fn named() -> impl Strategy<Value = Named> {
    let columns = proptest::collection::btree_set(name(), 20..45)
        .prop_map(|names| names.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    let schema = name().prop_filter("system schemas begin so", |name| !name.starts_with("pg_"));
    (schema, name(), columns, any::<prop::sample::Index>(), any::<Option<prop::sample::Index>>()).prop_map(
        |(schema, table, columns, listen, exclude)| {
            let of = |index: prop::sample::Index| 1 + index.index(columns.len() - 1);
            let (listen, exclude) = (of(listen), exclude.map(of));
            Named { table: TableName::new(schema, table), columns, listen, exclude }
        },
    )
}

#[test]
fn names_of_any_spelling_are_captured_exactly() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, admin) = runtime.block_on(captured("", &[]));
    often(NAMES, 25, &named(), |Named { table, columns, listen, exclude }| {
        let quoted: Vec<_> = columns.iter().map(|name| Ident::new(name.clone()).to_string()).collect();
        let (key, listened) = (&quoted[0], &quoted[listen]);
        let definition = Definition {
            columns: exclude.map_or(Columns::All, |at| Columns::Exclude(vec![Ident::new(columns[at].clone())])),
            ..everything("names", table.clone())
        };
        let mut other = everything("other", table.clone());
        other.on.update = Some(Updates::Of(vec![Ident::new(columns[listen].clone())]));
        other.columns = Columns::Include(vec![Ident::new(columns[listen].clone())]);
        let shown: BTreeSet<_> = (0..columns.len()).filter(|at| Some(*at) != exclude || *at == listen).collect();
        runtime.block_on(async {
            let make = format!(
                "CREATE SCHEMA IF NOT EXISTS {}; CREATE TABLE {table} ({}, PRIMARY KEY ({key}))",
                table.schema,
                quoted.iter().map(|name| format!("{name} int")).collect::<Vec<_>>().join(", ")
            );
            database.run(&make).await;
            admin.install("u1", &definition).await.unwrap();
            admin.install("u2", &other).await.unwrap();
            let values: Vec<_> = (0..columns.len()).map(|n| n.to_string()).collect();
            database.run(&format!("TRUNCATE eventlog.event; INSERT INTO {table} VALUES ({})", values.join(","))).await;
            database.run(&format!("UPDATE {table} SET {key} = 0")).await;
            database
                .run(&format!("UPDATE {table} SET {listened} = {listened}; UPDATE {table} SET {listened} = 1000"))
                .await;
            database.run(&format!("DELETE FROM {table}")).await;
            let row = |changed: bool| {
                let value = |at: &usize| (columns[*at].clone(), if changed && *at == listen { 1000 } else { *at });
                shown.iter().map(value).collect::<Vec<_>>()
            };
            let (before, after, none) = (Some(row(false)), Some(row(true)), None);
            let expected = [
                ("I", "11", &none, &before),
                ("U", "10", &before, &before),
                ("U", "10", &before, &before),
                ("U", "11", &before, &after),
                ("D", "11", &after, &none),
            ];
            let logged = "SELECT op::text, matched::text, old::text, new::text FROM eventlog.event ORDER BY id";
            let logged = database.client.query(logged, &[]).await.unwrap();
            assert_eq!(logged.len(), expected.len(), "{table}");
            for (logged, (op, matched, old, new)) in logged.iter().zip(expected) {
                let read = |text: Option<&str>| text.map(members);
                assert_eq!((logged.get::<_, &str>(0), logged.get::<_, &str>(1)), (op, matched));
                assert_eq!((&read(logged.get(2)), &read(logged.get(3))), (old, new));
            }
            assert!(!admin.install("u2", &other).await.unwrap().changed, "{table} is not found as it was installed");
            admin.remove(&definition.trigger).await.unwrap();
            admin.remove(&other.trigger).await.unwrap();
            database.run(&format!("DROP TABLE {table}")).await;
        });
    });
}

/// Names and numbers of a JSON object, in order.
fn members(text: &str) -> Vec<(String, usize)> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    object.into_iter().map(|(name, value)| (name, usize::try_from(value.as_u64().unwrap()).unwrap())).collect()
}
