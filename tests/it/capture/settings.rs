//! Capture runs in the application's session, under its settings: which of them reach the values in the log.

use rstest::rstest;

use super::statements::captured;

const TABLE: &str = "CREATE TABLE v (id int PRIMARY KEY, f float8, g float4, b bytea, i interval, j interval, d date, t timestamptz, a timestamptz[],
    x xml, s text, r daterange)";

const ROW: &str = "INSERT INTO v VALUES (1, 0.1::float8 + 0.2::float8, 1.1, decode('00ff5c27', 'hex'), '-1 year -2 mons +3 days -04:05:06.789', '-3 days -04:05:06',
    '2001-02-03', '1900-01-01 00:00:00.000001+00', '{2001-02-03 04:05:06+00}', '<a>é</a>', E'\\\\ ''', '[2001-02-03,2001-04-05)')";

/// How the event that `settings` made reads in a session without settings: columns whose value is not the row's.
async fn inexact(settings: &str) -> Vec<String> {
    let (database, _admin) = captured(TABLE, &["v"]).await;
    let application = database.another().await;
    application.batch_execute(settings).await.unwrap();
    application.batch_execute(ROW).await.unwrap();
    let mut inexact = Vec::new();
    for column in ["f", "g", "b", "i", "j", "d", "t", "a", "x", "s", "r"] {
        let row = format!(
            "SELECT record_image_eq(ROW((json_populate_record(NULL::v, e.new)).{column}), ROW(v.{column})), e.new->>'{column}'
             FROM eventlog.event AS e, v"
        );
        // What cannot be read at all is not exact either.
        match database.client.query_one(&row, &[]).await {
            Ok(row) if row.get(0) => {}
            Ok(row) => inexact.push(format!("{column}: {}", row.get::<_, String>(1))),
            Err(error) => inexact.push(format!("{column}: {}", error.as_db_error().expect("an answer").message())),
        }
    }
    inexact
}

#[rstest]
#[case::none("SELECT")]
#[case::iso_8601("SET IntervalStyle = iso_8601")]
#[case::verbose("SET IntervalStyle = postgres_verbose")]
#[case::escape("SET bytea_output = escape")]
#[case::more_digits("SET extra_float_digits = 3")]
#[case::nepal("SET TimeZone = 'Asia/Kathmandu'")]
#[case::newfoundland("SET TimeZone = 'America/St_Johns'")]
#[case::backslashes("SET standard_conforming_strings = off; SET backslash_quote = on")]
#[case::documents("SET XML OPTION DOCUMENT; SET xmlbinary = hex")]
#[case::nothing_in_the_path("SET search_path = ''; SET search_path = pg_catalog, public")]
#[case::iso_day_first("SET DateStyle = 'ISO, DMY'")]
#[tokio::test]
async fn settings_that_change_how_a_value_is_written_do_not_change_the_value(#[case] settings: &str) {
    assert_eq!(inexact(settings).await, Vec::<String>::new());
}

/// PostgreSQL's own limits of `row_to_json`, each by a setting that is not its default: digits are cut off, the sign of the
/// SQL standard's interval stands for all that follows, and a range has its dates as the session writes them.
#[rstest]
#[case::fewer_digits("SET extra_float_digits = 0", &["f: 0.3"])]
#[case::one_digit("SET extra_float_digits = -15", &["f: 0.3", "g: 1"])]
#[case::sql_standard("SET IntervalStyle = sql_standard", &["j: -3 4:05:06"])]
#[case::dates_in_ranges("SET DateStyle = 'SQL, DMY'", &["r: [03/02/2001,05/04/2001)"])]
#[tokio::test]
async fn what_the_sessions_settings_take_from_a_value(#[case] settings: &str, #[case] what: &[&str]) {
    assert_eq!(inexact(settings).await, what);
}
