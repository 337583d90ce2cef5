//! A throw-away PostgreSQL 15 from Debian's package, on a Unix socket in a folder of its own.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventtrigger::{api::TlsMode, log::ConnectConfig};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::measure::{children, processes};

/// Where Debian and Ubuntu have the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Only part of the socket's name: no port is opened.
const PORT: u16 = 5432;
/// The role that owns everything and writes: a superuser, because `pgq` is an extension.
const ROLE: &str = "bench";

/// What the server runs with besides its defaults. Durable as in production; what would strike one contender's run and
/// not the next one's is out of the way.
pub(crate) const SETTINGS: [(&str, &str); 7] = [
    ("shared_buffers", "2GB"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("autovacuum", "off"),
    ("max_wal_size", "32GB"),
    ("checkpoint_timeout", "1d"),
    ("jit", "off"),
];

/// A running server; dropping it stops it and removes its folder.
pub(crate) struct Server {
    folder: TempDir,
    account: Option<(u32, u32)>,
}

impl Server {
    /// Makes and starts it. As root it runs as `postgres`, because PostgreSQL refuses to run as root.
    pub(crate) fn start() -> Result<Self> {
        let account = if fs::metadata("/proc/self")?.uid() == 0 { Some(account("postgres")?) } else { None };
        // Not in the target folder: a socket's path ends at 107 bytes, and `postgres` cannot look into root's home.
        let folder = tempfile::Builder::new().prefix("eventtrigger-bench-").tempdir_in("/tmp")?;
        if let Some((uid, gid)) = account {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let server = Self { folder, account };
        server.program("initdb", &["--username", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])?;
        let settings = SETTINGS.map(|(name, value)| format!("{name} = '{value}'\n")).concat();
        let own = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = {PORT}\nmax_connections = 100\n",
            server.folder().display()
        );
        let file = server.data().join("postgresql.conf");
        fs::write(&file, fs::read_to_string(&file)? + &own + &settings)?;
        let log = server.folder().join("log").display().to_string();
        server.program("pg_ctl", &["start", "--wait", "--silent", "--log", &log, "-D"])?;
        Ok(server)
    }

    /// Its folder, which the server's account may write into.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How the library reaches a database of it.
    pub(crate) fn config(&self, dbname: &str) -> ConnectConfig {
        ConnectConfig {
            host: self.folder().display().to_string(),
            port: PORT,
            dbname: dbname.to_owned(),
            user: ROLE.to_owned(),
            password: None,
            tls: TlsMode::Disable,
            ca: None,
        }
    }

    /// How programs reach a database of it, as a libpq URI.
    pub(crate) fn url(&self, dbname: &str) -> String {
        format!("postgres://{ROLE}@localhost:{PORT}/{dbname}?host={}", self.folder().display())
    }

    /// A session in a database of it; the connection's task ends with the client.
    pub(crate) async fn connect(&self, dbname: &str) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.folder()).port(PORT).user(ROLE).dbname(dbname);
        let (client, connection) = config.connect(NoTls).await.with_context(|| format!("connect to {dbname}"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs a script in a database, in a session of its own.
    pub(crate) async fn run(&self, dbname: &str, sql: &str) -> Result<()> {
        self.connect(dbname).await?.batch_execute(sql).await.with_context(|| format!("run in {dbname}: {sql}"))
    }

    /// `pgbench` with the server's address, for a database of it.
    pub(crate) fn pgbench(&self, dbname: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(Path::new(PROGRAMS).join("pgbench"));
        command.arg("--host").arg(self.folder()).args(["--port", &PORT.to_string(), "--username", ROLE]);
        command.env("PGDATABASE", dbname).kill_on_drop(true);
        command
    }

    /// Waits until no session is left but one's own, then tells the seconds of processor time of all that have ended. What
    /// a session has used is known only when its process is gone, which is a little after its client.
    pub(crate) async fn sessions(&self) -> Result<f64> {
        let file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let postmaster = file.lines().next().context("postmaster.pid is empty")?;
        let client = self.connect("postgres").await?;
        let own = "SELECT count(*) FROM pg_stat_activity WHERE backend_type <> 'client backend'";
        let own: i64 = client.query_one(own, &[]).await?.get(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while i64::try_from(processes(postmaster)?)? > own + 1 {
            ensure!(Instant::now() < deadline, "sessions are left 30 s after their clients");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        children(postmaster)
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Runs a program of the server to its end; the last argument is the data folder.
    fn program(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(Path::new(PROGRAMS).join(name));
        command.args(arguments).arg(self.data()).current_dir(self.folder()).env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        // Not `output`, which waits until the server too has closed the pipe that it inherits.
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let status = command.status().with_context(|| format!("run {name}"))?;
        ensure!(status.success(), "{name} failed");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.program("pg_ctl", &["stop", "--wait", "--silent", "--mode=immediate", "-D"]) {
            eprintln!("failed to stop the server in {}: {error}", self.folder().display());
        }
    }
}

/// Numbers of an account. An entry of `/etc/passwd` is `name:password:uid:gid:…` (passwd(5)).
fn account(name: &str) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let entry = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut fields = entry.with_context(|| format!("there is no account {name}"))?.split(':').skip(1);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).context("/etc/passwd: not a number");
    Ok((number()?, number()?))
}
