use std::{os::unix::fs::chown, path::Path};

use super::process::{Running, eventtrigger, folder, said, until, url};
use crate::{
    receiver::{Receiver, Reply},
    support::{Database, connect},
};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples/quickstart.yaml");

fn service(receiver: &Receiver) -> String {
    format!("orders-receiver.shop={}", receiver.url("/in"))
}

async fn orders(database: &Database) {
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
}

#[tokio::test]
async fn until_idle_delivers_everything_committed_and_ends_with_zero() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    orders(&database).await;
    let (url, service) = (url(&database.config), service(&receiver));
    let args = ["run", "-f", QUICKSTART, "--service", &service, "--database-url", &url, "--until-idle"];
    let (code, stdout, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("NAMESPACE   NAME     READY   REASON"), "{stdout}");
    assert!(!stdout.contains(&url) && !stderr.contains("secret"), "the URL is the user's own:\n{stdout}{stderr}");

    database.run("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 100) n").await;
    database.run("BEGIN; INSERT INTO orders VALUES (101, 'no'); ROLLBACK").await;
    database.run("UPDATE orders SET status = 'paid' WHERE id = 7; DELETE FROM orders WHERE id = 8").await;
    // A failure on the way is retried, and waited for.
    receiver.reply(|_, number| Reply::now(if number == 0 { 503 } else { 204 }));
    let (code, _, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!(code, Some(0), "{stderr}");
    let accepted = receiver.hits().into_iter().filter(|hit| hit.status == 204);
    let mut got: Vec<_> =
        accepted.map(|hit| format!("{} {}", hit.header("ce-type"), hit.header("ce-subject"))).collect();
    got.sort();
    let mut expected: Vec<_> = (1..=100).map(|n| format!("dev.eventtrigger.row.insert public.orders/{n}")).collect();
    expected.push("dev.eventtrigger.row.update public.orders/7".to_owned());
    expected.push("dev.eventtrigger.row.delete public.orders/8".to_owned());
    expected.sort();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn what_was_given_up_does_not_keep_until_idle_waiting() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    orders(&database).await;
    let (url, service) = (url(&database.config), service(&receiver));
    let args = ["run", "-f", QUICKSTART, "--service", &service, "--database-url", &url, "--until-idle"];
    assert_eq!(said(&mut eventtrigger(&args)).await.0, Some(0));
    receiver.reply(|_, _| Reply::now(400));
    database.run("INSERT INTO orders VALUES (1, 'new')").await;
    let (code, _, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!((code, receiver.hits().len()), (Some(0), 1));
    assert!(stderr.contains("dead=1"), "{stderr}");
}

#[tokio::test]
async fn a_table_that_is_made_later_is_captured_and_a_dropped_sql_trigger_is_back_within_seconds() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    let (url, service) = (url(&database.config), service(&receiver));
    let args = ["run", "-f", QUICKSTART, "--service", &service, "--database-url", &url];
    let mut run = Running::start(&mut eventtrigger(&args), folder.path());
    run.last_line("a table that is missing", |line| line.contains("False   TableNotFound   public.orders")).await;
    orders(&database).await;
    run.last_line("an EventTrigger that is ready", |line| line.contains("True    Ready")).await;
    let installed = database.sql_triggers().await;
    assert_eq!(installed.len(), 3, "{installed:?}");

    database
        .run("DROP TRIGGER \"00_eventlog_insert\" ON orders; ALTER TABLE orders DISABLE TRIGGER \"00_eventlog_delete\"")
        .await;
    until("the SQL triggers to be back", installed, async || database.sql_triggers().await).await;
    database.run("INSERT INTO orders VALUES (1, 'new')").await;
    receiver.until("the insert", |hits| hits.iter().any(|hit| hit.header("ce-subject") == "public.orders/1")).await;

    database.run("DROP TABLE orders").await;
    run.last_line("a table that is gone", |line| line.contains("False   TableNotFound")).await;
    orders(&database).await;
    run.last_line("the table that was made again", |line| line.contains("True    Ready")).await;
    database.run("INSERT INTO orders VALUES (2, 'new')").await;
    receiver.until("the insert", |hits| hits.iter().any(|hit| hit.header("ce-subject") == "public.orders/2")).await;
    assert_eq!(run.signal("-TERM").await.code(), Some(0));
}

#[tokio::test]
async fn what_the_sink_does_not_take_is_printed_and_ends_when_it_does() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    orders(&database).await;
    let (url, service) = (url(&database.config), service(&receiver));
    let args = ["run", "-f", QUICKSTART, "--service", &service, "--database-url", &url];
    let mut run = Running::start(&mut eventtrigger(&args), folder.path());
    run.last_line("an EventTrigger that is ready", |line| line.contains("True    Ready")).await;
    receiver.reply(|_, _| Reply::now(503));
    database.run("INSERT INTO orders SELECT generate_series(1, 10)").await;
    run.last_line("an outage", |line| line.contains("False   SinkUnreachable")).await;
    receiver.reply(|hit, _| Reply::now(if hit.header("ce-partitionkey") == "1" { 422 } else { 200 }));
    run.last_line("a dead letter", |line| line.contains("True    DeadLetters")).await;
    receiver.reply(|_, _| Reply::now(200));
    database.run("SELECT eventlog.redrive('shop', 'orders')").await;
    run.last_line("an EventTrigger that is ready", |line| line.contains("True    Ready")).await;
    assert_eq!(run.signal("-TERM").await.code(), Some(0));
}

#[tokio::test]
async fn a_table_that_was_changed_is_repaired_or_reported_within_ten_seconds() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    orders(&database).await;
    let (url, service) = (url(&database.config), service(&receiver));
    let args = ["run", "-f", QUICKSTART, "--service", &service, "--database-url", &url];
    let mut run = Running::start(&mut eventtrigger(&args), folder.path());
    run.last_line("an EventTrigger that is ready", |line| line.contains("True    Ready")).await;
    let root = crate::support::root(&database.config.dbname).await;
    let user = &database.config.user;
    let intact = "SELECT count(*) FROM eventlog.capture WHERE NOT retired AND state = eventlog.state(relation)";
    let app = database.another().await;
    for (number, (change, reported)) in [
        ("ALTER TABLE orders ADD COLUMN more text", None),
        ("ALTER TABLE orders ALTER COLUMN status TYPE varchar(50)", None),
        ("ALTER TABLE orders RENAME COLUMN more TO less", None),
        ("ALTER TABLE orders DROP COLUMN less", None),
        ("ALTER TABLE orders DISABLE TRIGGER USER", None),
        ("ALTER TABLE orders RENAME TO sold", Some("TableRenamed")),
        ("ALTER TABLE sold RENAME TO orders", None),
        ("CREATE SCHEMA archive; ALTER TABLE orders SET SCHEMA archive", Some("TableRenamed")),
        ("ALTER TABLE archive.orders SET SCHEMA public", None),
        (&format!("ALTER TABLE orders OWNER TO postgres; GRANT INSERT ON orders TO \"{user}\""), None),
        ("DROP TRIGGER \"00_eventlog_update\" ON orders", Some("NotPermitted")),
        (&format!("GRANT ALL ON orders TO \"{user}\""), None),
        ("DROP TABLE orders", Some("TableNotFound")),
        (&format!("CREATE TABLE orders (id int PRIMARY KEY); ALTER TABLE orders OWNER TO \"{user}\""), None),
    ]
    .into_iter()
    .enumerate()
    {
        let since = std::time::Instant::now();
        root.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        if let Some(reason) = reported {
            run.last_line(change, |line| line.contains(&format!("False   {reason} "))).await;
        } else {
            until(change, 1, async || app.query_one(intact, &[]).await.unwrap().get::<_, i64>(0)).await;
            run.last_line(change, |line| line.contains("True    Ready")).await;
        }
        assert!(since.elapsed() < std::time::Duration::from_secs(10), "{change} took {:?}", since.elapsed());
        if reported.is_none() {
            app.execute("INSERT INTO orders (id) VALUES ($1)", &[&i32::try_from(number).unwrap()]).await.unwrap();
            let subject = format!("public.orders/{number}");
            receiver.until(change, |hits| hits.iter().any(|hit| hit.header("ce-subject") == subject)).await;
        }
    }
    assert_eq!(run.signal("-TERM").await.code(), Some(0));
}

#[tokio::test]
async fn wrong_manifests_are_refused_as_a_whole_and_nothing_is_installed() {
    let (database, folder) = (Database::new().await, folder());
    orders(&database).await;
    let good = std::fs::read_to_string(QUICKSTART).unwrap();
    std::fs::write(folder.path().join("a.yaml"), &good).unwrap();
    let wrong = good
        .replace("name: orders\n", "name: more\n")
        .replace("insert: {}", "insrt: {}")
        .replace("spec:\n  eventLogRef", "spec:\n  paused: true\n  eventLogRef");
    let wrong = &wrong[wrong.find("apiVersion: eventtrigger.dev/v1alpha1\nkind: EventTrigger").unwrap()..];
    std::fs::write(folder.path().join("b.yaml"), wrong).unwrap();
    let (url, path) = (url(&database.config), folder.path().to_str().unwrap());
    let args = [
        "run",
        "-f",
        path,
        "--service",
        "orders-receiver.shop=http://127.0.0.1:1",
        "--database-url",
        &url,
        "--until-idle",
    ];
    let (code, stdout, stderr) = said(&mut eventtrigger(&args)).await;
    let fields = "captureReplicated, ceOverrides, columns, context, delivery, deployment, eventLogRef, on, ordering, partitions, reclaimPolicy, sink, suspend, table";
    let expected = format!(
        "{path}/b.yaml:7: EventTrigger shop/more: spec.paused: there is no such field; use one of: {fields}\n\
         {path}/b.yaml:10: EventTrigger shop/more: spec.on.insrt: there is no such field; did you mean insert? (of: delete, insert, truncate, update)\n\
         2 mistakes; nothing was changed.\n"
    );
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(1), "", expected.as_str()));
    assert_eq!(database.sql_triggers().await, Vec::<String>::new());
    let schemas = database.client.query("SELECT FROM pg_namespace WHERE nspname = 'eventlog'", &[]).await.unwrap();
    assert!(schemas.is_empty(), "the log's schema was made");
}

#[tokio::test]
async fn until_idle_ends_with_one_when_a_table_is_missing() {
    let database = Database::new().await;
    let url = url(&database.config);
    let args = [
        "run",
        "-f",
        QUICKSTART,
        "--service",
        "orders-receiver.shop=http://127.0.0.1:1",
        "--database-url",
        &url,
        "--until-idle",
    ];
    let (code, stdout, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!(code, Some(1));
    assert!(
        stdout.ends_with("shop        orders   False   TableNotFound   public.orders   http://127.0.0.1:1/\n"),
        "{stdout}"
    );
    assert!(stderr.contains("spec.table: there is no table public.orders"), "{stderr}");
}

#[tokio::test]
async fn a_wrong_password_is_told_without_the_password() {
    let database = Database::new().await;
    let mut config = database.config.clone();
    config.password = Some("not-the-one".to_owned());
    let url = url(&config);
    let args = [
        "run",
        "-f",
        QUICKSTART,
        "--service",
        "orders-receiver.shop=http://127.0.0.1:1",
        "--database-url",
        &url,
        "--until-idle",
    ];
    let (code, stdout, stderr) = said(&mut eventtrigger(&args)).await;
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("False   ConnectionFailed"), "{stdout}");
    assert!(stderr.contains("password authentication failed") && !stderr.contains("not-the-one"), "{stderr}");
}

#[tokio::test]
async fn a_trigger_that_left_the_manifests_goes_on_until_it_is_pruned() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    orders(&database).await;
    database.run("CREATE TABLE customers (id int PRIMARY KEY)").await;
    let (url, service) = (url(&database.config), service(&receiver));
    let good = std::fs::read_to_string(QUICKSTART).unwrap();
    let other = good.replace("name: orders}", "name: customers}").replace("  name: orders\n", "  name: customers\n");
    let file = folder.path().join("other.yaml");
    std::fs::write(&file, other).unwrap();
    let run = async |path: &str, more: &[&str]| {
        let mut args = vec!["run", "-f", path, "--service", &service, "--database-url", &url, "--until-idle"];
        args.extend(more);
        let (code, _, stderr) = said(&mut eventtrigger(&args)).await;
        assert_eq!(code, Some(0), "{stderr}");
        stderr
    };
    run(QUICKSTART, &[]).await;
    let mentioned = run(file.to_str().unwrap(), &[]).await;
    assert!(mentioned.contains("--prune removes it") && mentioned.contains("shop/orders"), "{mentioned}");
    assert_eq!(database.sql_triggers().await.len(), 6);
    run(file.to_str().unwrap(), &["--prune"]).await;
    assert_eq!(database.sql_triggers().await.len(), 3);
}

/// The whole of it as root and as nobody: who is not root tests only the latter.
#[tokio::test]
async fn without_a_database_url_a_server_is_started_adopted_after_kill_9_and_stopped_in_the_end() {
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    embedded_run(None).await;
    if root {
        embedded_run(Some(65534)).await;
    }
}

async fn embedded_run(uid: Option<u32>) {
    let (folder, receiver) = (folder(), Receiver::start().await);
    let data = folder.path().join("postgres");
    // Nobody may not be able to look into the checkout.
    let (binary, sample) = (folder.path().join("eventtrigger"), folder.path().join("quickstart.yaml"));
    std::fs::copy(env!("CARGO_BIN_EXE_eventtrigger"), &binary).unwrap();
    std::fs::copy(QUICKSTART, &sample).unwrap();
    if let Some(uid) = uid {
        chown(folder.path(), Some(uid), None).unwrap();
    }
    let service = service(&receiver);
    let command = |more: &[&str]| {
        let mut command = tokio::process::Command::new(&binary);
        command
            .args(["run", "--log-format", "text", "--service", &service, "-f"])
            .arg(&sample)
            .arg("--data-dir")
            .arg(&data);
        command.args(more).kill_on_drop(true).current_dir(folder.path());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid).env("XDG_CACHE_HOME", "/var/cache");
        }
        command
    };
    let mut first = Running::start(&mut command(&[]), folder.path());
    first.last_line("the first status", |line| line.contains("TableNotFound")).await;
    let stdout = first.stdout();
    let address =
        stdout.lines().find_map(|line| line.trim().strip_prefix("postgresql://")).expect("the URL is printed");
    let client = connect(&format!("postgresql://{address}").parse().unwrap()).await;
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, status text)").await.unwrap();
    first.last_line("an EventTrigger that is ready", |line| line.contains("True    Ready")).await;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data.join("data")).unwrap());
    assert!(owner != 0 && uid.is_none_or(|uid| uid == owner), "the server runs as {owner}");
    first.signal("-KILL").await;

    client.batch_execute("INSERT INTO orders VALUES (1, 'new')").await.unwrap();
    drop(client);
    let (code, stdout, stderr) = said(&mut command(&["--until-idle"])).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("was running already") && stdout.contains(address), "{stdout}");
    receiver.until("the insert", |hits| hits.iter().any(|hit| hit.header("ce-subject") == "public.orders/1")).await;
    assert!(!data.join("data/postmaster.pid").exists(), "the server was not stopped");
}

#[tokio::test]
async fn a_download_that_fails_names_the_way_without_one() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let args = [
        "run",
        "-f",
        QUICKSTART,
        "--service",
        "orders-receiver.shop=http://127.0.0.1:1",
        "--cache-dir",
        cache.to_str().unwrap(),
    ];
    let mut command = eventtrigger(&args);
    // Nobody listens there.
    command.env("HTTPS_PROXY", "http://127.0.0.1:1").arg("--data-dir").arg(folder.path().join("data"));
    let (code, _, stderr) = said(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("failed to download PostgreSQL 15.19.0") && stderr.contains("pass --database-url"),
        "{stderr}"
    );
    assert!(Path::new(&cache).read_dir().unwrap().next().is_none(), "something was left in the cache");
}

#[tokio::test]
async fn what_a_sink_binding_puts_into_the_environment_is_where_events_go() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    orders(&database).await;
    let unbound = std::fs::read_to_string(QUICKSTART).expect("the sample");
    let at = unbound.find("  sink:\n").expect("its sink stands last");
    let file = folder.path().join("unbound.yaml");
    std::fs::write(&file, &unbound[..at]).expect("write a manifest");
    let url = url(&database.config);
    let args = ["run", "-f", file.to_str().expect("a path"), "--database-url", &url, "--until-idle"];
    let run = async || {
        let mut command = eventtrigger(&args);
        command.env("K_SINK", receiver.url("/bound")).env("K_CE_OVERRIDES", r#"{"extensions":{"region":"eu"}}"#);
        said(&mut command).await
    };
    assert_eq!(run().await.0, Some(0));
    database.run("INSERT INTO orders VALUES (1, 'new')").await;
    let (code, _, stderr) = run().await;
    assert_eq!(code, Some(0), "{stderr}");
    let hits = receiver.hits();
    assert_eq!((hits.len(), hits[0].header("ce-region")), (1, "eu"));
    assert!(said(&mut eventtrigger(&args)).await.2.contains("spec.sink: is missing"));
}
