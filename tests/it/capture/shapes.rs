//! Tables of every shape.

use super::statements::captured;
use crate::support::everything;
use eventtrigger::name::TableName;

#[tokio::test]
async fn a_table_without_a_key_is_captured_also_rows_that_are_equal() {
    let (database, _admin) = captured("CREATE TABLE t (n int)", &["t"]).await;
    database.run("INSERT INTO t VALUES (1), (1); UPDATE t SET n = 2; DELETE FROM t").await;
    assert_eq!(
        database.logged().await,
        [
            r#"I 1 - {"n":1}"#,
            r#"I 1 - {"n":1}"#,
            r#"U 1 {"n":1} {"n":2}"#,
            r#"U 1 {"n":1} {"n":2}"#,
            r#"D 1 {"n":2} -"#,
            r#"D 1 {"n":2} -"#,
        ]
    );
}

const PARTITIONED: &str = "CREATE TABLE t (area text, id int, n int, PRIMARY KEY (area, id)) PARTITION BY LIST (area);
    CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a');
    CREATE TABLE t_b PARTITION OF t FOR VALUES IN ('b') PARTITION BY RANGE (id);
    CREATE TABLE t_b_low PARTITION OF t_b FOR VALUES FROM (0) TO (100)";

#[tokio::test]
async fn partitions_are_captured_however_they_are_written_to() {
    let (database, _admin) = captured(PARTITIONED, &["t"]).await;
    // Through the table, a partition, and a partition of a partition.
    database.run("INSERT INTO t VALUES ('a', 1, 0), ('b', 2, 0); INSERT INTO t_a VALUES ('a', 3, 0)").await;
    database.run("INSERT INTO t_b VALUES ('b', 4, 0); INSERT INTO t_b_low VALUES ('b', 5, 0)").await;
    let mut ids: Vec<_> = database.logged().await;
    ids.sort();
    assert_eq!(ids.len(), 5, "{ids:#?}");
    database.run("UPDATE t_b_low SET n = 1 WHERE id = 5; DELETE FROM t WHERE id = 5").await;
    assert_eq!(
        database.logged().await[5..],
        [r#"U 1 {"area":"b","id":5,"n":0} {"area":"b","id":5,"n":1}"#, r#"D 1 {"area":"b","id":5,"n":1} -"#,]
    );
}

#[tokio::test]
async fn a_row_that_moves_to_another_partition_is_deleted_and_inserted() {
    let (database, _admin) = captured(PARTITIONED, &["t"]).await;
    database.run("INSERT INTO t VALUES ('a', 1, 0); UPDATE t SET area = 'b'").await;
    assert_eq!(
        database.logged().await[1..],
        [r#"D 1 {"area":"a","id":1,"n":0} -"#, r#"I 1 - {"area":"b","id":1,"n":0}"#]
    );
}

#[tokio::test]
async fn partitions_that_come_later_are_captured_at_once_and_those_that_leave_no_longer() {
    let (database, admin) = captured(PARTITIONED, &["t"]).await;
    database.run("CREATE TABLE t_c PARTITION OF t FOR VALUES IN ('c')").await;
    // Its columns are in another order, one is gone, and it brings rows.
    database
        .run(
            "CREATE TABLE t_d (gone text, n int, id int NOT NULL, area text NOT NULL); ALTER TABLE t_d DROP COLUMN gone;
             INSERT INTO t_d VALUES (7, 1, 'd'); ALTER TABLE t ATTACH PARTITION t_d FOR VALUES IN ('d')",
        )
        .await;
    database.run("INSERT INTO t VALUES ('c', 1, 0); INSERT INTO t_d VALUES (8, 2, 'd'); UPDATE t SET n = 9 WHERE area = 'd' AND id = 1").await;
    assert_eq!(
        database.logged().await,
        [
            r#"I 1 - {"area":"c","id":1,"n":0}"#,
            r#"I 1 - {"n":8,"id":2,"area":"d"}"#,
            r#"U 1 {"n":7,"id":1,"area":"d"} {"n":9,"id":1,"area":"d"}"#,
        ]
    );
    database.run("ALTER TABLE t DETACH PARTITION t_d; INSERT INTO t_d VALUES (1, 3, 'd'); UPDATE t_d SET n = 2; DELETE FROM t_d").await;
    assert_eq!(database.logged().await.len(), 3);
    database.run("INSERT INTO t VALUES ('c', 2, 0)").await;
    assert_eq!(database.logged().await.len(), 4);
    // Nothing of it needs a repair.
    assert!(!admin.install("t", &everything("t", TableName::new("public", "t"))).await.unwrap().changed);
}

#[tokio::test]
async fn a_single_partition_can_be_captured_alone() {
    let (database, _admin) = captured(PARTITIONED, &["t_a"]).await;
    database.run("INSERT INTO t VALUES ('a', 1, 0), ('b', 2, 0); UPDATE t SET n = 1; DELETE FROM t").await;
    assert_eq!(
        database.logged().await,
        [
            r#"I 1 - {"area":"a","id":1,"n":0}"#,
            r#"U 1 {"area":"a","id":1,"n":0} {"area":"a","id":1,"n":1}"#,
            r#"D 1 {"area":"a","id":1,"n":1} -"#,
        ]
    );
}

#[tokio::test]
async fn with_inheritance_a_tables_rows_are_its_own_and_not_its_childrens() {
    let tables = "CREATE TABLE base (id int, n int); CREATE TABLE derived (more text) INHERITS (base)";
    let (database, admin) = captured(tables, &["base"]).await;
    database.run("INSERT INTO base VALUES (1, 0); INSERT INTO derived VALUES (2, 0, 'x')").await;
    database.run("UPDATE base SET n = 1; DELETE FROM base").await;
    let own = [r#"I 1 - {"id":1,"n":0}"#, r#"U 1 {"id":1,"n":0} {"id":1,"n":1}"#, r#"D 1 {"id":1,"n":1} -"#];
    assert_eq!(database.logged().await, own);
    admin.install("derived", &everything("derived", TableName::new("public", "derived"))).await.unwrap();
    database.run("INSERT INTO derived VALUES (3, 0, 'y'); UPDATE base SET n = 1; DELETE FROM base").await;
    assert_eq!(
        database.logged().await[3..],
        [
            r#"I 1 - {"id":3,"n":0,"more":"y"}"#,
            r#"U 1 {"id":3,"n":0,"more":"y"} {"id":3,"n":1,"more":"y"}"#,
            r#"D 1 {"id":3,"n":1,"more":"y"} -"#,
        ]
    );
}
