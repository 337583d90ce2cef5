//! Values of every type arrive in the log exactly as the row has them.
//!
//! Three judges: `row_to_json` of the row when it is read, under the same settings; PostgreSQL's way back from JSON to a
//! row, compared bit by bit; and, for types that Rust knows, the value that was generated.

use eventtrigger::name::Literal;
use proptest::{collection::vec, prelude::*, strategy::BoxedStrategy, test_runner::TestRunner};

use super::statements::captured;

/// How many values are generated; with the names of `names` a hundred thousand.
const VALUES: usize = 98_000;

/// Rows of a statement.
const ROWS: usize = 140;

/// Runs `property` often enough to see `total` things, `each` at a time.
pub(super) fn often<S: Strategy>(total: usize, each: usize, strategy: &S, property: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases: u32::try_from(total.div_ceil(each)).expect("few"),
        failure_persistence: None,
        // Each step back is a round of statements.
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let tried = TestRunner::new(config).run(strategy, |value| {
        property(value);
        Ok(())
    });
    tried.unwrap_or_else(|failed| panic!("{failed}"));
}

/// Any character but the one that PostgreSQL has not.
pub(super) fn text() -> impl Strategy<Value = String> {
    let any = any::<char>().prop_filter("PostgreSQL has no zero character", |c| *c != '\0');
    let hard = proptest::sample::select(vec![
        '"', '\'', '\\', '\n', '\t', '\r', '\u{7f}', '\u{1}', '\u{2028}', '{', ',', ' ', '\u{fffd}', '𝄞',
    ]);
    vec(prop_oneof![4 => any, 1 => hard], 0..12).prop_map(|text| text.into_iter().collect())
}

fn literal(text: &str) -> String {
    Literal(text).to_string()
}

/// Most often what `strategy` says, as text to be quoted; else one of `special`.
fn or(strategy: impl Strategy<Value = String> + 'static, special: &'static [&'static str]) -> BoxedStrategy<String> {
    let special = proptest::sample::select(special.to_vec()).prop_map(str::to_owned);
    prop_oneof![8 => strategy, 1 => special].prop_map(|text| literal(&text)).boxed()
}

fn numeric() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{1,40}(\\.[0-9]{0,30})?",
        "-?0\\.0{0,20}[0-9]{1,5}",
        Just("NaN".to_owned()),
        Just("-Infinity".to_owned())
    ]
}

/// Dates that PostgreSQL can hold, by their distance from one of them.
fn date() -> impl Strategy<Value = String> {
    (-2_400_000_i32..2_000_000).prop_map(|days| format!("(DATE '2000-01-01' + ({days}))"))
}

fn timestamp() -> impl Strategy<Value = String> {
    (date(), 0..86_400_u32, 0..1_000_000_u32)
        .prop_map(|(date, seconds, micros)| format!("({date} + INTERVAL '{seconds}.{micros:06} seconds')"))
}

fn interval() -> impl Strategy<Value = String> {
    (-5000_i32..5000, -5000_i32..5000, -900_000_i32..900_000, 0..1_000_000_u32).prop_map(
        |(months, days, seconds, micros)| format!("'{months} months {days} days {seconds}.{micros:06} seconds'"),
    )
}

/// JSON with its blanks, its order and its repeated names.
fn json() -> impl Strategy<Value = String> {
    let string = || text().prop_map(|text| serde_json::to_string(&text).expect("JSON"));
    let leaf = prop_oneof![
        string(),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
        Just("null".to_owned()),
        Just("true".to_owned()),
    ];
    let blank = || "[ \n\t]{0,2}";
    leaf.prop_recursive(3, 12, 4, move |inner| {
        let name = prop_oneof![Just("\"a\"".to_owned()), string()];
        let pair =
            (name, blank(), inner.clone()).prop_map(|(name, blank, value)| format!("{name}{blank}:{value}{blank}"));
        prop_oneof![
            (vec(inner, 0..4), blank())
                .prop_map(|(values, blank)| format!("[{blank}{}]", values.join(&format!("{blank},")))),
            (vec(pair, 0..4), blank()).prop_map(|(pairs, blank)| format!("{{{blank}{}}}", pairs.join(","))),
        ]
    })
}

/// JSON that is not `null`, which in the JSON of a row looks like NULL.
fn document() -> BoxedStrategy<String> {
    json().prop_filter("the way back makes it NULL", |json| json != "null").prop_map(|json| literal(&json)).boxed()
}

fn array(element: impl Strategy<Value = String> + 'static, kind: &'static str) -> BoxedStrategy<String> {
    let element = prop_oneof![5 => element, 1 => Just("NULL".to_owned())].boxed();
    let flat = vec(element.clone(), 0..5).prop_map(move |elements| format!("ARRAY[{}]::{kind}[]", elements.join(",")));
    let nested = vec((element.clone(), element), 1..4).prop_map(move |rows| {
        let rows: Vec<_> = rows.into_iter().map(|(a, b)| format!("[{a},{b}]")).collect();
        format!("ARRAY[{}]::{kind}[]", rows.join(","))
    });
    prop_oneof![flat, nested].boxed()
}

fn range(
    bound: impl Strategy<Value = String> + 'static,
    of: &'static str,
    kind: &'static str,
) -> BoxedStrategy<String> {
    let bounds = proptest::sample::select(vec!["[]", "[)", "(]", "()"]);
    let bound = prop_oneof![5 => bound, 1 => Just("NULL".to_owned())].boxed();
    let range = (bound.clone(), bound, bounds).prop_map(move |(a, b, bounds)| {
        format!(
            "(SELECT {kind}(least(a, b), greatest(a, b), '{bounds}') FROM (SELECT {a}::{of} AS a, {b}::{of} AS b) AS s)"
        )
    });
    prop_oneof![8 => range, 1 => Just(format!("'empty'::{kind}"))].boxed()
}

/// The columns of the table: name, type, and SQL expressions for their values.
fn columns() -> Vec<(&'static str, &'static str, BoxedStrategy<String>)> {
    let float = |nan: &'static [&'static str]| or(any::<f64>().prop_map(|number| format!("{number:e}")), nan);
    let single = any::<f32>().prop_map(|number| format!("{number:e}"));
    let bytes = || {
        vec(any::<u8>(), 0..24)
            .prop_map(|bytes| bytes.iter().fold("\\x".to_owned(), |hex, byte| hex + &format!("{byte:02x}")))
    };
    let integer = || any::<i64>().prop_map(|number| format!("'{number}'::bigint"));
    let small = || any::<i32>().prop_map(|number| format!("'{number}'::int"));
    let quoted = || text().prop_map(|text| literal(&text));
    let with_zone = || timestamp().prop_map(|timestamp| format!("({timestamp})::timestamptz"));
    vec![
        ("a_text", "text", quoted().boxed()),
        ("a_bytea", "bytea", bytes().prop_map(|hex| literal(&hex)).boxed()),
        ("a_bigint", "bigint", integer().boxed()),
        ("a_float8", "float8", float(&["NaN", "Infinity", "-Infinity", "-0", "5e-324", "0.1"])),
        ("a_float4", "float4", or(single, &["NaN", "-Infinity", "-0", "1e-45", "0.1"])),
        ("a_numeric", "numeric", or(numeric(), &["NaN", "Infinity", "-0.00", "1e100"])),
        ("a_boolean", "boolean", any::<bool>().prop_map(|yes| yes.to_string()).boxed()),
        ("a_char", "char(20)", quoted().boxed()),
        (
            "a_date",
            "date",
            prop_oneof![8 => date(), 1 => Just("'infinity'".to_owned()), 1 => Just("'-infinity'".to_owned())].boxed(),
        ),
        ("a_timestamp", "timestamp", prop_oneof![8 => timestamp(), 1 => Just("'-infinity'".to_owned())].boxed()),
        ("a_timestamptz", "timestamptz", prop_oneof![8 => with_zone(), 1 => Just("'infinity'".to_owned())].boxed()),
        ("a_time", "time", timestamp().prop_map(|timestamp| format!("({timestamp})::time")).boxed()),
        ("a_interval", "interval", interval().boxed()),
        ("a_uuid", "uuid", any::<u128>().prop_map(|bits| format!("'{bits:032x}'")).boxed()),
        (
            "a_inet",
            "inet",
            (any::<std::net::IpAddr>(), 0..=32_u8).prop_map(|(ip, bits)| format!("'{ip}/{bits}'")).boxed(),
        ),
        ("a_varbit", "varbit", "[01]{0,70}".prop_map(|bits| format!("B'{bits}'")).boxed()),
        ("a_point", "point", (any::<f64>(), any::<f64>()).prop_map(|(x, y)| format!("'({x:e},{y:e})'")).boxed()),
        ("a_json", "json", document()),
        ("a_jsonb", "jsonb", document()),
        ("a_xml", "xml", quoted_xml()),
        (
            "an_enum",
            "mood",
            proptest::sample::select(vec!["'sad'", "'\"so'' so\\'", "''"]).prop_map(str::to_owned).boxed(),
        ),
        ("a_domain", "short", "[a-z\"\\\\]{0,5}".prop_map(|text| literal(&text)).boxed()),
        (
            "a_pair",
            "pair",
            (small(), quoted(), array(quoted(), "text"))
                .prop_map(|(a, b, c)| format!("ROW({a}, {b}, {c})::pair"))
                .boxed(),
        ),
        ("pairs", "pair[]", array((small(), quoted()).prop_map(|(a, b)| format!("ROW({a}, {b}, NULL)::pair")), "pair")),
        ("texts", "text[]", array(quoted(), "text")),
        ("numerics", "numeric[]", array(numeric().prop_map(|number| literal(&number)), "numeric")),
        ("blobs", "bytea[]", array(bytes().prop_map(|hex| literal(&hex)), "bytea")),
        // Objects, because of an array in an array the way back cannot tell whose dimension it is.
        ("jsons", "json[]", array(json().prop_map(|json| literal(&format!("{{\"x\" :{json}}}"))), "json")),
        ("times", "timestamptz[]", array(with_zone(), "timestamptz")),
        (
            "an_int8range",
            "int8range",
            range(
                (-1_000_000_000_000_i64..1_000_000_000_000).prop_map(|number| format!("({number})")),
                "bigint",
                "int8range",
            ),
        ),
        (
            "a_numrange",
            "numrange",
            range("-?[0-9]{1,20}\\.[0-9]{0,9}".prop_map(|number| format!("({number})")), "numeric", "numrange"),
        ),
        ("a_tstzrange", "tstzrange", range(with_zone(), "timestamptz", "tstzrange")),
        (
            "a_multirange",
            "int4multirange",
            vec(-1000_i32..1000, 0..4)
                .prop_map(|starts| {
                    let ranges: Vec<_> = starts.iter().map(|start| format!("[{start},{})", start + 7)).collect();
                    format!("'{{{}}}'", ranges.join(","))
                })
                .boxed(),
        ),
        ("a_lsn", "pg_lsn", any::<(u32, u32)>().prop_map(|(high, low)| format!("'{high:X}/{low:X}'")).boxed()),
        (
            "a_tsvector",
            "tsvector",
            quoted().prop_map(|text| format!("array_to_tsvector(array_remove(ARRAY[{text}], ''))")).boxed(),
        ),
    ]
}

/// Characters that XML has, escaped.
fn quoted_xml() -> BoxedStrategy<String> {
    "[ a-z<>&\"'éß𝄞]{0,9}"
        .prop_map(|text| {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            literal(&format!("<a b='1'>{escaped}</a>"))
        })
        .boxed()
}

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', '\"so'' so\\', '');
    CREATE DOMAIN short AS text CHECK (length(value) <= 5);
    CREATE TYPE pair AS (a int, \"B \"\"b\" text, c text[]);";

/// Rows of `v` whose events are not exactly the row: what is in the log, and what was to be.
const INEXACT: &str = "SELECT concat_ws(' ', e.op, coalesce(e.new, e.old), 'instead of', row_to_json(v.*))
    FROM eventlog.event AS e JOIN v ON v.id = (coalesce(e.new, e.old)->>'id')::int
    CROSS JOIN LATERAL (VALUES (e.old), (e.new)) AS j (row)
    WHERE j.row IS NOT NULL AND (
        j.row::text <> row_to_json(v.*)::text
        OR record_image_ne(json_populate_record(NULL::v, j.row), v.*))";

#[test]
fn values_of_every_type_are_captured_exactly() {
    let columns = columns();
    let names: Vec<_> = columns.iter().map(|(name, ..)| *name).collect();
    let table: Vec<_> = columns.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
    let each = columns.len() * ROWS;
    let row: Vec<_> = columns
        .into_iter()
        .map(|(_, _, value)| prop_oneof![12 => value, 1 => Just("NULL".to_owned())].boxed())
        .collect();
    // What Rust knows itself comes beside, to be compared with the value and not with another text of it.
    let known = (text(), vec(any::<u8>(), 0..40), any::<i64>(), any::<f64>());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sql = format!(
        "SET TimeZone = 'UTC'; {TYPES} CREATE TABLE v (id int PRIMARY KEY, r_text text, r_bytea bytea, r_bigint bigint, r_float8 float8, {})",
        table.join(", ")
    );
    let (database, _admin) = runtime.block_on(captured(&sql, &["v"]));
    often(VALUES, each, &vec((row, known), ROWS), |rows| {
        let values: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(id, (row, (text, bytes, integer, float)))| {
                let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                format!("({id}, {}, '\\x{hex}', '{integer}', '{float:e}', {})", literal(text), row.join(", "))
            })
            .collect();
        runtime.block_on(async {
            let insert = format!(
                "INSERT INTO v (id, r_text, r_bytea, r_bigint, r_float8, {}) VALUES {}",
                names.join(", "),
                values.join(",\n")
            );
            database.run("TRUNCATE v, eventlog.event").await;
            // Statement triggers capture the one, row triggers the other, the row before and after.
            database.run(&insert).await;
            database.run("UPDATE v SET id = id").await;
            let inexact = database.client.query(INEXACT, &[]).await.unwrap();
            assert!(inexact.is_empty(), "{} of {}: {}", inexact.len(), rows.len(), inexact[0].get::<_, String>(0));
            let logged = database
                .client
                .query("SELECT new::text FROM eventlog.event WHERE op = 'I' ORDER BY id", &[])
                .await
                .unwrap();
            assert_eq!(logged.len(), rows.len());
            for (logged, (_, (text, bytes, integer, float))) in logged.iter().zip(&rows) {
                let row: serde_json::Value = serde_json::from_str(logged.get(0)).unwrap();
                assert_eq!(row["r_text"].as_str(), Some(text.as_str()));
                let hex = bytes.iter().fold("\\x".to_owned(), |hex, byte| hex + &format!("{byte:02x}"));
                assert_eq!(row["r_bytea"].as_str(), Some(hex.as_str()));
                assert_eq!(row["r_bigint"].as_i64(), Some(*integer));
                assert_eq!(row["r_float8"].as_f64().map(f64::to_bits), Some(float.to_bits()), "{float:e}");
            }
        });
    });
}
