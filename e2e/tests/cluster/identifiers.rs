//! Names of any spelling, and SQL where names and values are meant: everything works as written, nothing of it is run.

use serde_json::{Value, json};

use super::{
    cluster::text,
    scene::{Scene, event_sink, trigger},
};

/// As PostgreSQL wants a name.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Ends a statement, a literal, an identifier, a dollar quote and a comment, and drops the canary.
const SQL: &str = "x'; DROP TABLE canary; --\"; DROP TABLE canary; /* $$ $1 \\";

/// Fails if somebody ran what stood in a string.
async fn canary_lives(scene: &Scene) {
    let row = scene.database.query_one("SELECT to_regclass('public.canary') IS NOT NULL", &[]).await.expect("look");
    assert!(row.get::<_, bool>(0), "the canary is dead: SQL in a string was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_tables_and_columns_of_any_spelling_work() {
    let scene = Scene::new("spelling").await;
    scene.run("CREATE TABLE canary (id int)").await;
    scene.log(json!({})).await;
    let long = "n".repeat(63);
    // 63 bytes that are 21 characters: PostgreSQL counts bytes.
    let wide = "表".repeat(21);
    let names = [
        r#"quo"ted"#,
        "it's",
        "dot.ted",
        "with space",
        "CamelCase",
        "percent%s",
        "dollar$$",
        "back\\slash",
        "select",
        "Straße🚚",
        &long,
        &wide,
        "a'; DROP TABLE canary; --",
    ];
    for (n, name) in names.iter().enumerate() {
        let (schema, table, column) = (format!("{n}{name}"), *name, *name);
        let schema: String = schema.chars().take(20).collect();
        let (qualified, quoted_column) = (format!("{}.{}", quoted(&schema), quoted(table)), quoted(column));
        scene.run(&format!("CREATE SCHEMA {}", quoted(&schema))).await;
        scene
            .run(&format!("CREATE TABLE {qualified} ({quoted_column} text PRIMARY KEY, other text, hidden text)"))
            .await;
        let spec = json!({
            "table": {"schema": schema, "name": table},
            "on": {"insert": {}, "update": {"columns": [column, "other"]}, "delete": {}},
            "columns": {"include": [column]},
        });
        scene.trigger(&format!("t{n}"), spec).await;
    }
    for (n, name) in names.iter().enumerate() {
        scene.ready("EventTrigger", &format!("t{n}")).await;
        let schema: String = format!("{n}{name}").chars().take(20).collect();
        let (qualified, column) = (format!("{}.{}", quoted(&schema), quoted(name)), quoted(name));
        let value = quoted(name).replace('\'', "''").replace('"', "");
        scene.run(&format!("INSERT INTO {qualified} VALUES (E'{}', '1', 'h')", value.replace('\\', "\\\\"))).await;
        scene.run(&format!("UPDATE {qualified} SET hidden = 'unseen'")).await;
        scene.run(&format!("UPDATE {qualified} SET other = '2'")).await;
        scene.run(&format!("DELETE FROM {qualified} WHERE {column} IS NOT NULL")).await;
    }
    let records = scene.accepted(names.len() * 3).await;
    assert_eq!(records.len(), names.len() * 3);
    for (n, name) in names.iter().enumerate() {
        let end = format!("/t{n}");
        let ours: Vec<_> =
            records.iter().filter(|it| it.header("ce-eventtrigger").is_some_and(|by| by.ends_with(&end))).collect();
        let kinds: Vec<_> = ours.iter().map(|record| text(&record.json(), "/op").to_owned()).collect();
        assert_eq!(kinds, ["INSERT", "UPDATE", "DELETE"], "of {name}");
        for record in ours {
            let body = record.json();
            assert_eq!(body["table"]["name"], *name);
            let row = if body["new"].is_null() { &body["old"] } else { &body["new"] };
            assert_eq!(row.as_object().expect("a row").keys().collect::<Vec<_>>(), [name], "columns of {name}");
            let subject = record.header("ce-subject").expect("ce-subject");
            assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()), "ce-subject of {name}: {subject}");
        }
    }
    canary_lives(&scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_any_string_of_a_resource_is_never_run() {
    let scene = Scene::new("injection").await;
    scene.run("CREATE TABLE canary (id int); CREATE TABLE orders (id bigint PRIMARY KEY, status text)").await;
    let sql: String = SQL.chars().take(60).collect();
    scene.log(json!({"tables": [{"schema": sql, "name": sql}, {"schema": "*", "name": "*"}]})).await;
    scene.ready("EventLog", "shop").await;
    scene.secret("sql", &[("token", &sql)]).await;

    let absent = [
        ("schema", json!({"table": {"schema": sql}})),
        ("table", json!({"table": {"name": sql}})),
        ("column", json!({"on": {"update": {"columns": [sql]}}})),
        ("include", json!({"columns": {"include": [sql]}})),
        ("exclude", json!({"columns": {"exclude": [sql]}})),
        ("log", json!({"eventLogRef": {"name": sql}})),
        ("service", json!({"sink": {"ref": {"name": sql}}})),
        ("port", json!({"sink": {"ref": {"port": sql}}})),
        ("namespace", json!({"sink": {"ref": {"namespace": sql}}})),
        ("kind", json!({"sink": {"ref": {"kind": sql}}})),
        ("version", json!({"sink": {"ref": {"apiVersion": sql}}})),
    ];
    for (name, more) in absent {
        // Refused at apply, or told by the condition.
        if scene.cluster.apply(&scene.namespace, &trigger(name, more)).await.is_ok() {
            scene
                .condition("EventTrigger", name, "Ready", |found| {
                    found["status"] != "True" && found["status"].is_string()
                })
                .await;
        }
    }

    // Where strings are values: in the sink's path and headers, which the log's schema holds.
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver"});
    let headers = json!([
        {"name": "X-Sql", "value": sql},
        {"name": "X-Secret", "valueFrom": {"secretKeyRef": {"name": "sql", "key": "token"}}},
    ]);
    scene.sink("sql", json!({"ref": service, "uri": "/x';DROP%20TABLE%20canary;--", "headers": headers})).await;
    let spec = json!({"table": {"schema": "public"}, "sink": {"ref": event_sink("sql")}});
    scene.trigger("works", spec).await;
    scene.ready("EventTrigger", "works").await;
    scene.database.execute("INSERT INTO orders VALUES (1, $1)", &[&SQL]).await.expect("insert");
    let records = scene.accepted(1).await;
    assert_eq!(records[0].header("x-sql"), Some(sql.as_str()));
    assert_eq!(records[0].header("x-secret"), Some(sql.as_str()));
    assert_eq!(records[0].json()["new"], json!({"id": 1, "status": SQL}));
    assert_ne!(records[0].json()["new"], Value::Null);
    canary_lives(&scene).await;
    scene.end().await;
}
