//! The application behind PgBouncer in transaction mode: each of its transactions may run in another session.

use std::{
    net::TcpListener,
    os::unix::fs::chown,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};

use crate::support::{Database, everything, orders, programs};

/// PgBouncer in front of one database, with fewer sessions than its clients; ends with the value.
struct Bouncer {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bouncer {
    fn start(database: &Database) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let eventtrigger::log::ConnectConfig { host, port: server, dbname, user, password, .. } = &database.config;
        let password = password.as_deref().unwrap_or_default();
        let config = folder.path().join("pgbouncer.ini");
        std::fs::write(
            &config,
            format!(
                "[databases]\napp = host={host} port={server} dbname={dbname} user={user} password={password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 50\n"
            ),
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root.
        if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
            for path in [folder.path(), &config] {
                chown(path, Some(65534), None).unwrap();
            }
            command.args(["--user", "nobody"]);
        }
        let process = command.arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, port, _folder: folder }
    }

    async fn connect(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut config = tokio_postgres::Config::new();
            match config.host("127.0.0.1").port(self.port).user("any").dbname("app").connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) => assert!(Instant::now() < deadline, "waited for PgBouncer: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn an_application_behind_pgbouncer_in_transaction_mode_is_captured() {
    if !programs(&["pgbouncer"]) {
        return;
    }
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let bouncer = Bouncer::start(&database);
    let mut clients = Vec::new();
    for n in 0..8 {
        let client = bouncer.connect().await;
        clients.push(tokio::spawn(async move {
            for i in 0..25 {
                let id = n * 100 + i;
                let last = if i % 5 == 4 { "ROLLBACK" } else { "COMMIT" };
                let transaction = format!(
                    "BEGIN; SET LOCAL search_path = pg_catalog; INSERT INTO public.orders VALUES ({id}, 'new'); \
                     UPDATE public.orders SET status = 'paid' WHERE id = {id}; {last}"
                );
                client.batch_execute(&transaction).await.unwrap();
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let counted = "SELECT count(*), count(DISTINCT txid), count(DISTINCT coalesce(new ->> 'id', old ->> 'id')), \
                   (SELECT count(*) FROM orders) FROM eventlog.event";
    let row = database.client.query_one(counted, &[]).await.unwrap();
    let found: Vec<i64> = (0..4).map(|at| row.get(at)).collect();
    assert_eq!(found, [320, 160, 160, 160]);
    // A repair while the pool keeps its sessions, each with plans of its own.
    let client = bouncer.connect().await;
    client.batch_execute("ALTER TABLE orders DROP COLUMN card; INSERT INTO orders VALUES (1000)").await.unwrap();
    admin.install("u1", &everything("all", orders())).await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (1001)").await.unwrap();
    let logged = database.logged().await;
    assert_eq!(
        logged[320..],
        [r#"I 1 - {"id":1000,"status":null,"total":null}"#, r#"I 1 - {"id":1001,"status":null,"total":null}"#]
    );
}
