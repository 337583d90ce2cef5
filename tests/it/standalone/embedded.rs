//! The embedded server: started, adopted, stopped, for real.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use eventtrigger::standalone::embedded::{Embedded, EmbeddedError, Major, Options};

use crate::support::{connect, plain, test_data};

/// A new server's folder, removed with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(test_data(&format!("{name}-{}", std::process::id())))
    }

    fn options(&self) -> Options {
        let settings = vec![("fsync", "off")];
        Options { data_dir: Some(self.0.clone()), settings, ..Options::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn postmaster_started(server: &Embedded) -> String {
    let client = connect(&plain(&server.superuser_config())).await;
    client.query_one("SELECT pg_postmaster_start_time()::text", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_user_vanished_is_adopted_with_its_rows_and_stopped_by_its_last_user() {
    let folder = Folder::new("adopted");
    let first = Embedded::start(folder.options()).await.unwrap();
    assert!(!first.adopted());
    let client = connect(&plain(&first.config())).await;
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await.unwrap();
    drop(client);
    let (started, config) = (postmaster_started(&first).await, first.config());
    // What kill -9 leaves: the server, and no lock.
    drop(first);

    let second = Embedded::start(folder.options()).await.unwrap();
    assert!(second.adopted());
    assert_eq!((postmaster_started(&second).await, second.config()), (started.clone(), config.clone()));
    let third = Embedded::start(folder.options()).await.unwrap();
    third.stop().await.unwrap();
    assert_eq!(postmaster_started(&second).await, started, "a server in use was stopped");
    second.stop().await.unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", config.port)).is_err(), "the server still listens");

    let fourth = Embedded::start(folder.options()).await.unwrap();
    assert!(!fourth.adopted());
    assert_eq!(fourth.config(), config, "port and password change only if they must");
    let client = connect(&plain(&fourth.config())).await;
    assert_eq!(client.query_one("SELECT id FROM kept", &[]).await.unwrap().get::<_, i32>(0), 7);
    fourth.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_is_started_again_with_its_rows() {
    let folder = Folder::new("crashed");
    let server = Embedded::start(folder.options()).await.unwrap();
    let client = connect(&plain(&server.config())).await;
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await.unwrap();
    let pid = std::fs::read_to_string(folder.0.join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
    while std::path::Path::new("/proc").join(pid).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    drop(server);
    let server = Embedded::start(folder.options()).await.unwrap();
    let client = connect(&plain(&server.config())).await;
    assert_eq!(client.query_one("SELECT id FROM kept", &[]).await.unwrap().get::<_, i32>(0), 7);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_owns_its_database_and_is_no_superuser() {
    let folder = Folder::new("roles");
    let server = Embedded::start(folder.options()).await.unwrap();
    let app = connect(&server.uri().parse().unwrap()).await;
    let query = "SELECT rolsuper, current_database()::text, pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, \
                 current_setting('listen_addresses') \
                 FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()";
    let row = app.query_one(query, &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0));
    let facts: Vec<String> = (1..5).map(|column| row.get(column)).collect();
    assert_eq!(facts, ["app", "app", "UTF8", "127.0.0.1"]);
    let mut wrong = plain(&server.config());
    wrong.password("wrong");
    let error = wrong.connect(tokio_postgres::NoTls).await.err().expect("a wrong password was accepted");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INVALID_PASSWORD));
    let mode = |name| std::fs::metadata(folder.0.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state.json"), mode("")), (0o600, 0o700));
    assert_ne!(std::fs::metadata(folder.0.join("data")).unwrap().uid(), 0, "the server runs as root");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_version_is_refused_and_left_alone() {
    let folder = Folder::new("version");
    Embedded::start(folder.options()).await.unwrap().stop().await.unwrap();
    let refused = Embedded::start(Options { major: Major::V16, ..folder.options() }).await.unwrap_err();
    let expected =
        format!("{} was made by PostgreSQL 15; pass --postgres 15, or another --data-dir", folder.0.display());
    assert_eq!(refused.to_string(), expected);
    Embedded::start(folder.options()).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_holds_something_else_is_refused_and_keeps_its_owner() {
    let folder = Folder::new("foreign");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("thesis.txt"), "years of work").unwrap();
    let before = std::fs::metadata(&folder.0).unwrap();
    let refused = Embedded::start(folder.options()).await.unwrap_err();
    assert!(matches!(refused, EmbeddedError::ForeignFolder(_)), "{refused}");
    let after = std::fs::metadata(&folder.0).unwrap();
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
}
