//! Events of one row stand in the log in the order in which the row changed, whoever changed it.

use rstest::rstest;

use super::statements::captured;

/// Rows of `t`, and a trigger of the application on it that writes other rows of `t`.
fn touching(when: &str, action: &str) -> String {
    format!(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, next int);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action}; RETURN NEW; END $$;
         CREATE TRIGGER touch {when} UPDATE ON t FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION touch();
         INSERT INTO t VALUES (1, 0, 2), (2, 0, 3), (3, 0, 1)"
    )
}

/// The values of `n` that row `id` takes, in the order of the log.
async fn values(database: &crate::support::Database, id: i32) -> Vec<(i32, i32)> {
    let sql = "SELECT (old->>'n')::int, (new->>'n')::int FROM eventlog.event WHERE (new->>'id')::int = $1 ORDER BY id";
    let rows = database.client.query(sql, &[&id]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[rstest]
#[case::before("BEFORE")]
#[case::after("AFTER")]
#[tokio::test]
async fn a_statement_on_one_row_whose_trigger_writes_others_is_in_order(#[case] when: &str) {
    let sql = touching(when, "UPDATE t SET n = n + 10 WHERE id = NEW.next");
    let (database, _admin) = captured(&sql, &["t"]).await;
    for id in [1, 2, 3, 1] {
        database.run(&format!("UPDATE t SET n = n + 1 WHERE id = {id}")).await;
    }
    assert_eq!(values(&database, 1).await, [(0, 1), (1, 11), (11, 12)]);
    assert_eq!(values(&database, 2).await, [(0, 10), (10, 11), (11, 21)]);
}

#[tokio::test]
async fn a_cascade_to_rows_of_the_same_statement_is_in_order() {
    let (database, _admin) = captured(
        "CREATE TABLE t (id int PRIMARY KEY, n int, parent int REFERENCES t ON UPDATE CASCADE);
         INSERT INTO t VALUES (1, 0, NULL), (2, 0, 1), (3, 0, 2)",
        &["t"],
    )
    .await;
    // Each row is changed by the statement, and all but the first by the cascade, too.
    database.run("UPDATE t SET id = id + 10, n = 1").await;
    let sql = "SELECT old::text, new::text FROM eventlog.event ORDER BY id";
    let rows = database.client.query(sql, &[]).await.unwrap();
    for id in [11, 12, 13] {
        let of = |text: &str| text.contains(&format!("\"id\":{id},")) || text.contains(&format!("\"id\":{},", id - 10));
        let chain: Vec<(String, String)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).filter(|(_, new): &(String, String)| of(new)).collect();
        assert_eq!(chain.len(), if id == 11 { 1 } else { 2 });
        assert!(chain.windows(2).all(|pair| pair[0].1 == pair[1].0), "{chain:#?}");
    }
}

/// The one order that is not kept. PostgreSQL runs the row triggers of a statement row by row: the application's, on the
/// first row, runs before ours on the second. Whoever needs the order can tell it from the values before and after.
#[tokio::test]
async fn rows_of_one_statement_that_its_own_triggers_write_again_are_the_exception() {
    let sql = touching("AFTER", "UPDATE t SET n = n + 10 WHERE id = NEW.next");
    let (database, _admin) = captured(&sql, &["t"]).await;
    database.run("UPDATE t SET n = n + 1").await;
    assert_eq!(values(&database, 1).await, [(0, 1), (1, 11)]);
    assert_eq!(values(&database, 2).await, [(1, 11), (0, 1)]);
}
