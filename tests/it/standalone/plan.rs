use super::process::{eventtrigger, folder, said, url};
use crate::support::Database;

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples/quickstart.yaml");
const SERVICE: &str = "orders-receiver.shop=http://127.0.0.1:1";

#[tokio::test]
async fn a_plan_is_sql_that_can_be_run_and_it_changes_nothing_itself() {
    let database = Database::new().await;
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let url = url(&database.config);
    let args = ["plan", "-f", QUICKSTART, "--service", SERVICE, "--database-url", &url];
    let (code, sql, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(database.sql_triggers().await, Vec::<String>::new());
    let schemas = "SELECT FROM pg_namespace WHERE nspname = 'eventlog'";
    assert!(database.client.query(schemas, &[]).await.unwrap().is_empty(), "the plan made the schema");
    database.run(&sql).await;
    assert_eq!(database.sql_triggers().await.len(), 3);
}

#[tokio::test]
async fn what_is_installed_needs_no_plan() {
    let database = Database::new().await;
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let url = url(&database.config);
    let manifests = ["-f", QUICKSTART, "--service", SERVICE, "--database-url", &url];
    let run = [&["run", "--until-idle"], &manifests[..]].concat();
    assert_eq!(said(&mut eventtrigger(&run)).await.0, Some(0));
    let (code, sql, _) = said(&mut eventtrigger(&[&["plan"], &manifests[..]].concat())).await;
    let expected = format!("-- Nothing to do: {} is as the manifests want it.\n", database.config);
    assert_eq!((code, sql), (Some(0), expected));
}

#[tokio::test]
async fn every_table_that_does_not_fit_is_said_with_its_line() {
    let (database, folder) = (Database::new().await, folder());
    database
        .run(
            "CREATE TABLE orders (id int PRIMARY KEY, status text, total int); CREATE VIEW customers AS SELECT 1 AS id",
        )
        .await;
    let quickstart = std::fs::read_to_string(QUICKSTART).unwrap().replace("update: {}", "update: {columns: [statsu]}");
    let columns = QUICKSTART.replace("quickstart", "columns");
    let file = folder.path().join("quickstart.yaml");
    std::fs::write(&file, quickstart).unwrap();
    let (url, file) = (url(&database.config), file.to_str().unwrap());
    let args = ["plan", "-f", file, "-f", &columns, "--service", SERVICE, "--database-url", &url];
    let (code, stdout, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let expected = format!(
        "{columns}:24: EventTrigger shop/customers: spec.table: public.customers is a view, whose changes cannot be captured; name the table under it\n\
         {file}:31: EventTrigger shop/orders: spec.on.update.columns: public.orders has no column \"statsu\"; it has: id, status, total\n\
         2 mistakes; nothing was changed.\n"
    );
    assert_eq!(stderr, expected);
}
