//! Values of tens of megabytes are captured; what is too long for JSON is left out, and no statement fails of it.

use eventtrigger::name::TableName;
use rstest::rstest;

use crate::support::{Database, everything};

/// A table of one column of each kind.
async fn documents(kind: &str) -> Database {
    let database = Database::new().await;
    let of = if kind == "partitioned" { " PARTITION BY LIST (id)" } else { "" };
    database
        .run(&format!(
            "CREATE DOMAIN note AS text;
             CREATE TABLE documents (id int PRIMARY KEY, body text, raw bytea, plain json, tree jsonb, list int[], title varchar(20), note note){of}"
        ))
        .await;
    if kind == "partitioned" {
        database.run("CREATE TABLE documents_1 PARTITION OF documents DEFAULT").await;
    }
    let admin = database.admin().await;
    let mut all = everything("all", TableName::new("public", "documents"));
    if kind == "listened to" {
        let columns = ["body", "raw", "plain"].map(eventtrigger::name::Ident::new).to_vec();
        all.on.update = Some(eventtrigger::log::definition::Updates::Of(columns));
    }
    admin.install("u1", &all).await.unwrap();
    database
}

/// Of each event: operation, lengths of the old and the new row, what was left out.
async fn logged(database: &Database) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', op::text, coalesce(octet_length(old::text), 0), coalesce(octet_length(new::text), 0), \
               (SELECT string_agg(name, ',') FROM json_array_elements_text(context -> 'omitted') AS o (name))) \
               FROM eventlog.event ORDER BY id";
    database.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A row of nothing but its `id`, which is of one digit.
const EMPTY: usize =
    r#"{"id":1,"body":null,"raw":null,"plain":null,"tree":null,"list":null,"title":null,"note":null}"#.len();

#[rstest]
#[case::by_statement("plain")]
#[case::by_row("partitioned")]
#[tokio::test]
async fn a_value_of_tens_of_megabytes_is_captured_whole(#[case] kind: &str) {
    let database = documents(kind).await;
    database.run("INSERT INTO documents (id, body) VALUES (1, repeat('abcd', 10000000))").await;
    database.run("UPDATE documents SET title = 'x'; DELETE FROM documents").await;
    let one = EMPTY - 4 + 2 + 40_000_000;
    assert_eq!(
        logged(&database).await,
        [format!("I 0 {one}"), format!("U {one} {}", one - 1), format!("D {} 0", one - 1)]
    );
}

/// Each of the first two would be more than 1 GB as JSON, alone or as old and new; the others are longer than is promised.
#[rstest]
#[case("plain", "body", "repeat(E'\\x01', 180000000)")]
#[case("listened to", "body", "repeat(E'\\x01', 180000000)")]
#[case("plain", "list", "array_fill(NULL::int, ARRAY[134000000])")]
#[case("listened to", "raw", "convert_to(repeat('x', 70000000), 'UTF8')")]
#[case("plain", "plain", "('\"' || repeat('x', 70000000) || '\"')::json")]
#[case("plain", "tree", "jsonb_build_array(repeat('x', 70000000))")]
#[case("plain", "note", "repeat('x', 70000000)")]
#[tokio::test]
async fn a_value_that_is_too_long_is_left_out_and_named(#[case] kind: &str, #[case] column: &str, #[case] value: &str) {
    let database = documents(kind).await;
    database.run(&format!("INSERT INTO documents (id, title, {column}) VALUES (1, 'y', {value})")).await;
    database.run(&format!("UPDATE documents SET {column} = NULL; DELETE FROM documents")).await;
    let one = EMPTY - 1;
    let expected = [format!("I 0 {one} {column}"), format!("U {one} {one} {column}"), format!("D {one} 0")];
    assert_eq!(logged(&database).await, expected);
}

#[tokio::test]
async fn of_values_that_are_too_long_together_the_longest_is_left_out() {
    let database = documents("plain").await;
    database
        .run(
            "INSERT INTO documents (id, body, raw, plain, note) VALUES
             (1, repeat('x', 30000000), convert_to(repeat('x', 31000000), 'UTF8'), '{}', repeat('x', 20000000)), (2, 'a', 'b', '[]', '')",
        )
        .await;
    let sql = "SELECT new ->> 'raw' IS NULL, octet_length(new ->> 'body'), octet_length(new ->> 'note'), new ->> 'plain', \
               context::text FROM eventlog.event ORDER BY (new ->> 'id')::int";
    let rows = database.client.query(sql, &[]).await.unwrap();
    let first = &rows[0];
    assert!(first.get::<_, bool>(0));
    assert_eq!((first.get(1), first.get(2), first.get(3)), (30_000_000, 20_000_000, "{}"));
    assert_eq!(first.get::<_, &str>(4), r#"{"omitted":["raw"]}"#);
    assert_eq!((rows[1].get::<_, bool>(0), rows[1].get::<_, Option<&str>>(4)), (false, None));
}

/// The setting by which a statement learns of such rows stays behind in the session.
#[tokio::test]
async fn a_session_that_had_a_long_row_captures_each_later_one_once() {
    let database = documents("plain").await;
    for id in [1, 2] {
        let long = "(jsonb_build_array(repeat('x', 70000000)))";
        database
            .run(&format!("INSERT INTO documents (id, tree) SELECT {id}, {long} UNION ALL SELECT {id} + 3, '{{}}'"))
            .await;
        database.run(&format!("INSERT INTO documents (id) VALUES ({id} + 6)")).await;
    }
    let sql = "SELECT array_agg(new ->> 'id' ORDER BY id), string_agg(context::text, ' ') FROM eventlog.event";
    let row = database.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<&str>>(0), ["4", "1", "7", "5", "2", "8"]);
    assert_eq!(row.get::<_, &str>(1), r#"{"omitted":["tree"]} {"omitted":["tree"]}"#);
}

#[tokio::test]
async fn while_columns_are_not_known_a_long_row_is_captured_without_them() {
    let database = documents("listened to").await;
    database.run("ALTER TABLE documents ADD COLUMN more text").await;
    database
        .run("ALTER TABLE documents ALTER more SET STORAGE EXTERNAL; INSERT INTO documents (id, more) VALUES (1, repeat(E'\\x01', 180000000))")
        .await;
    database.run("UPDATE documents SET title = 'z'; UPDATE documents SET more = NULL; DELETE FROM documents").await;
    let one = EMPTY + r#","more":null"#.len();
    assert_eq!(logged(&database).await, ["I 0 2 *", "U 2 2 *", &format!("U 2 {} *", 2), &format!("D {} 0", one - 1)]);
}
