//! Every type of column, shown and listened to.

use eventtrigger::{
    log::definition::Updates,
    name::{Ident, TableName},
};
use rstest::rstest;

use super::statements::captured;
use crate::support::{Database, everything};

const TYPES: &str = "CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"');
    CREATE TYPE pair AS (a int, b text)";

#[rstest]
#[case::domains("positive", "7", "7")]
#[case::enums("mood", "'it''s \"ok\"'", r#""it's \"ok\"""#)]
#[case::arrays("int[]", "'{{1,NULL},{3,4}}'", "[[1,null],[3,4]]")]
#[case::arrays_of_text("text[]", r#"ARRAY['a"b', NULL, 'NULL', '']"#, r#"["a\"b",null,"NULL",""]"#)]
#[case::composites("pair", "ROW(1, NULL)", r#"{"a":1,"b":null}"#)]
#[case::arrays_of_composites("pair[]", "ARRAY[ROW(1, 'x')::pair]", r#"[{"a":1,"b":"x"}]"#)]
#[case::ranges("int4range", "'[1,5)'", r#""[1,5)""#)]
#[case::multiranges("int4multirange", "'{[1,3),[5,)}'", r#""{[1,3),[5,)}""#)]
#[case::json_as_it_was_written("json", r#"'{"b" : 1,"a":[ 1.50 ],"b":2}'"#, r#"{"b" : 1,"a":[ 1.50 ],"b":2}"#)]
#[case::jsonb("jsonb", r#"'{"b" : 1,"a":[ 1.50 ]}'"#, r#"{"a": [1.50], "b": 1}"#)]
#[case::xml("xml", r#"'<a b="1">&amp;</a>'"#, r#""<a b=\"1\">&amp;</a>""#)]
#[case::bytea("bytea", r"'\x00ff41'", r#""\\x00ff41""#)]
#[case::numeric_keeps_its_zeros("numeric", "'12345678901234567890.1200'", "12345678901234567890.1200")]
#[case::numeric_nan("numeric", "'NaN'", r#""NaN""#)]
#[case::numeric_infinity("numeric", "'-Infinity'", r#""-Infinity""#)]
#[case::float_nan("float8", "'NaN'", r#""NaN""#)]
#[case::float_infinity("float8", "'Infinity'", r#""Infinity""#)]
#[case::float("float8", "0.1::float8 + 0.2::float8", "0.30000000000000004")]
#[case::bigint("bigint", "-9223372036854775808", "-9223372036854775808")]
#[case::boolean("boolean", "true", "true")]
#[case::timestamptz("timestamptz", "'2024-02-29 12:34:56.789012+02'", r#""2024-02-29T10:34:56.789012+00:00""#)]
#[case::timestamp_infinity("timestamp", "'infinity'", r#""infinity""#)]
#[case::date_before_christ("date", "'0044-03-15 BC'", r#""0044-03-15 BC""#)]
#[case::interval("interval", "'1 year -2 days 03:04:05.6'", r#""1 year -2 days +03:04:05.6""#)]
#[case::uuid("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#)]
#[case::inet("inet", "'::ffff:1.2.3.4/128'", r#""::ffff:1.2.3.4""#)]
#[case::bits("bit varying", "B'0101'", r#""0101""#)]
#[case::money("money", "'12.34'", r#""$12.34""#)]
#[case::points_which_have_no_equality("point", "'(1,2)'", r#""(1,2)""#)]
#[case::tsvector("tsvector", "'a:1 b'", r#""'a':1 'b'""#)]
#[case::char_keeps_its_blanks("char(3)", "'a'", r#""a  ""#)]
#[case::single_byte_char("\"char\"", "'x'", r#""x""#)]
#[tokio::test]
async fn a_value_is_shown_as_postgres_writes_json_and_listened_to_safely(
    #[case] kind: &str,
    #[case] value: &str,
    #[case] json: &str,
) {
    let database = Database::new().await;
    database
        .run(&format!("SET TimeZone = 'UTC'; {TYPES}; CREATE TABLE t (id int PRIMARY KEY, v {kind}, other int)"))
        .await;
    let admin = database.admin().await;
    let mut definition = everything("t", TableName::new("public", "t"));
    definition.on.update = Some(Updates::Of(vec![Ident::new("v")]));
    admin.install("u", &definition).await.unwrap();
    database.run("INSERT INTO t VALUES (1)").await;
    // NULL to a value, the same value, no value at all touched, and back to NULL, twice.
    database.run(&format!("UPDATE t SET v = {value}")).await;
    database.run(&format!("UPDATE t SET v = {value}, other = 1")).await;
    database.run("UPDATE t SET other = 2").await;
    database.run("UPDATE t SET v = NULL; UPDATE t SET v = NULL").await;
    assert_eq!(
        database.logged().await[1..],
        [
            format!(r#"U 1 {{"id":1,"v":null,"other":null}} {{"id":1,"v":{json},"other":null}}"#),
            format!(r#"U 1 {{"id":1,"v":{json},"other":2}} {{"id":1,"v":null,"other":2}}"#),
        ]
    );
}

#[tokio::test]
async fn values_that_are_equal_and_yet_others_are_a_change() {
    let (database, admin) = captured("CREATE TABLE t (id int PRIMARY KEY, n numeric, j json, f float8)", &[]).await;
    let mut definition = everything("t", TableName::new("public", "t"));
    definition.on.update = Some(Updates::Of(["n", "j", "f"].map(Ident::new).into()));
    admin.install("u", &definition).await.unwrap();
    database.run(r#"INSERT INTO t VALUES (1, 1.0, '{"a":1}', 0)"#).await;
    for change in ["n = 1.00", r#"j = '{"a": 1}'"#, "f = '-0'"] {
        database.run(&format!("UPDATE t SET {change}")).await;
    }
    assert_eq!(database.logged().await.len(), 4);
}
