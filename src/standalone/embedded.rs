//! A PostgreSQL server of our own, for who has none at hand: downloaded once, initialised once, started and stopped.
//! It listens on 127.0.0.1 only, with passwords made up at its first start. Not for production.
//!
//! Its folder holds `data` (the cluster), `state.json` (port and passwords, mode 0600), `log`, and two lock files:
//! `start.lock` is held while the server is started or stopped, `use.lock` is shared by everybody who uses it. A server
//! whose starter was killed stays, and the next one adopts it; the last user who ends in good order stops it.

mod account;
mod binaries;
mod error;

use std::{
    fmt, fs,
    io::{self, Write},
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio_postgres::NoTls;

pub use self::error::EmbeddedError;
use self::{account::Account, error::Doing};
use crate::{
    api::TlsMode,
    log::ConnectConfig,
    name::{Ident, Literal},
};

/// Seconds that the server may take to recover and start, and to stop.
const PATIENCE: &str = "60";

/// The role that owns the database for applications, and the database.
const APP: &str = "app";

/// A major version of PostgreSQL that can be embedded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Major {
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    #[default]
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl Major {
    /// Every version there is.
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V14 => "14",
            Self::V15 => "15",
            Self::V16 => "16",
            Self::V17 => "17",
            Self::V18 => "18",
        })
    }
}

impl FromStr for Major {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|major| major.to_string() == written);
        found.ok_or_else(|| format!("{written:?} is not one of 14, 15, 16, 17 and 18"))
    }
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Major version.
    pub major: Major,
    /// The server's folder. Default: `/var/lib/eventtrigger/postgres-MAJOR` for root, else
    /// `$XDG_DATA_HOME/eventtrigger/postgres-MAJOR`.
    pub data_dir: Option<PathBuf>,
    /// Where programs are kept once downloaded. Default: `/var/cache/eventtrigger` for root, else
    /// `$XDG_CACHE_HOME/eventtrigger`.
    pub cache_dir: Option<PathBuf>,
    /// Settings of the server, over ours. A server that is adopted keeps those that it has.
    pub settings: Vec<(&'static str, &'static str)>,
}

/// What must survive the process that started the server.
#[derive(Deserialize, Serialize)]
struct State {
    port: u16,
    superuser_password: String,
    app_password: String,
}

/// A running server. Dropping it leaves the server as it is; see [`Embedded::stop`].
pub struct Embedded {
    folder: Folder,
    state: State,
    adopted: bool,
    /// Holds a shared lock for as long as this process uses the server.
    in_use: fs::File,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("folder", &self.folder.root)
            .field("port", &self.state.port)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Adopts the server of this folder if it runs, else starts it, after downloading and initialising what is missing.
    pub async fn start(options: Options) -> Result<Self, EmbeddedError> {
        let account = Account::of_the_server()?;
        let programs = binaries::ensure(options.major, options.cache_dir.as_deref()).await?;
        let root = match options.data_dir.clone() {
            Some(path) => std::path::absolute(&path).doing("resolve", &path)?,
            None => account::data_root()?.join(format!("postgres-{}", options.major)),
        };
        let folder = Folder { root, programs, account };
        folder.make()?;
        let start_lock = folder.lock("start.lock").await?;
        let (state, adopted) = match folder.running().await? {
            Some(state) => (state, true),
            None => (folder.launch(&options).await?, false),
        };
        let in_use = folder.open("use.lock")?;
        in_use.lock_shared().doing("lock", &folder.root.join("use.lock"))?;
        let server = Self { folder, state, adopted, in_use };
        server.provide_app().await?;
        drop(start_lock);
        Ok(server)
    }

    /// Whether the server was running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The server's folder.
    pub fn folder(&self) -> &Path {
        &self.folder.root
    }

    /// Database `app`, as the role `app` that owns it and is no superuser.
    pub fn config(&self) -> ConnectConfig {
        self.connect_config(APP, APP, &self.state.app_password)
    }

    /// Database `postgres`, as the superuser `postgres`.
    pub fn superuser_config(&self) -> ConnectConfig {
        self.connect_config("postgres", "postgres", &self.state.superuser_password)
    }

    fn connect_config(&self, user: &str, dbname: &str, password: &str) -> ConnectConfig {
        ConnectConfig {
            host: "127.0.0.1".to_owned(),
            port: self.state.port,
            dbname: dbname.to_owned(),
            user: user.to_owned(),
            password: Some(password.to_owned()),
            tls: TlsMode::Disable,
            ca: None,
        }
    }

    /// The URI that `psql` takes; it holds the password.
    pub fn uri(&self) -> String {
        let State { port, app_password, .. } = &self.state;
        format!("postgresql://{APP}:{app_password}@127.0.0.1:{port}/{APP}")
    }

    /// Stops the server, unless another process uses it too.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        let _start_lock = self.folder.lock("start.lock").await?;
        self.in_use.unlock().doing("unlock", &self.folder.root.join("use.lock"))?;
        if self.in_use.try_lock().is_err() {
            return Ok(());
        }
        self.folder.pg_ctl(&["stop", "--mode=fast", "--wait", "--timeout", PATIENCE]).await
    }

    /// Makes the application's role and database, unless an earlier start did.
    async fn provide_app(&self) -> Result<(), EmbeddedError> {
        let failed = |doing| {
            let folder = self.folder.root.clone();
            move |source| EmbeddedError::Sql { doing, folder, source }
        };
        let client = connect(&self.superuser_config()).await.map_err(failed("log in"))?;
        let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1), \
                      EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
        let found = client.query_one(exists, &[&APP]).await.map_err(failed("look for role app"))?;
        let (role, app) = (Literal(&self.state.app_password), Ident::new(APP));
        if !found.get::<_, bool>(0) {
            let create = format!("CREATE ROLE {app} LOGIN PASSWORD {role}");
            client.batch_execute(&create).await.map_err(failed("make role app"))?;
        }
        if !found.get::<_, bool>(1) {
            let create = format!("CREATE DATABASE {app} OWNER {app}");
            client.batch_execute(&create).await.map_err(failed("make database app"))?;
        }
        Ok(())
    }
}

async fn connect(config: &ConnectConfig) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .dbname(&config.dbname)
        .password(config.password.as_deref().unwrap_or_default())
        .connect_timeout(std::time::Duration::from_secs(10))
        .connect(NoTls)
        .await?;
    // Ends with the client; a broken connection shows at the next statement.
    tokio::spawn(connection);
    Ok(client)
}

/// A server's folder, the programs that serve it, and who runs them.
struct Folder {
    root: PathBuf,
    programs: PathBuf,
    account: Account,
}

impl Folder {
    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Makes the folder; takes an existing one only if it is empty or ours, because it is given to another account.
    fn make(&self) -> Result<(), EmbeddedError> {
        let root = &self.root;
        fs::create_dir_all(root).doing("make folder", root)?;
        let ours = root.join("start.lock").exists();
        if !ours && fs::read_dir(root).doing("read folder", root)?.next().is_some() {
            return Err(EmbeddedError::ForeignFolder(root.clone()));
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).doing("restrict folder", root)?;
        self.account.give(root)
    }

    fn open(&self, name: &str) -> Result<fs::File, EmbeddedError> {
        let path = self.root.join(name);
        let mut options = fs::OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(&path).doing("open", &path)
    }

    /// Waits for a lock; it is released with the file.
    async fn lock(&self, name: &str) -> Result<fs::File, EmbeddedError> {
        let file = self.open(name)?;
        let path = self.root.join(name);
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked.unwrap_or_else(|panic| Err(io::Error::other(panic))).doing("lock", &path)
    }

    /// The state of the server, if it runs.
    async fn running(&self) -> Result<Option<State>, EmbeddedError> {
        let Some(state) = self.read_state()? else { return Ok(None) };
        let runs = self.data().join("postmaster.pid").exists() && self.pg_ctl(&["status"]).await.is_ok();
        Ok(runs.then_some(state))
    }

    fn read_state(&self) -> Result<Option<State>, EmbeddedError> {
        let path = self.root.join("state.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from).doing("read", &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing("read", &path),
        }
    }

    fn write_state(&self, state: &State) -> Result<(), EmbeddedError> {
        let path = self.root.join("state.json.new");
        let bytes = serde_json::to_vec_pretty(state).map_err(io::Error::from).doing("write", &path)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path).doing("open", &path)?;
        file.write_all(&bytes).doing("write", &path)?;
        fs::rename(&path, self.root.join("state.json")).doing("rename", &path)
    }

    /// Starts the server, on the port that it had if that is free; initialises it if this is its first start.
    async fn launch(&self, options: &Options) -> Result<State, EmbeddedError> {
        let mut state = match self.read_state()? {
            Some(state) if self.data().exists() => state,
            _ => self.initialise().await?,
        };
        let version = self.data().join("PG_VERSION");
        let found = fs::read_to_string(&version).doing("read", &version)?.trim().to_owned();
        if found != options.major.to_string() {
            return Err(EmbeddedError::OtherVersion { folder: self.root.clone(), found });
        }
        state.port = free_port(state.port).doing("find a free port on 127.0.0.1 for", &self.root)?;
        self.write_state(&state)?;
        self.configure(state.port, &options.settings)?;
        let log = self.root.join("log");
        let log_argument = log.display().to_string();
        let written_before = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let start = ["start", "--wait", "--timeout", PATIENCE, "--silent", "--log", &log_argument];
        match self.pg_ctl(&start).await {
            Ok(()) => Ok(state),
            Err(EmbeddedError::Program { program, user, said }) => {
                let log = fs::read(&log).unwrap_or_default();
                let log = log.get(usize::try_from(written_before).unwrap_or(0)..).unwrap_or_default();
                let said = format!("{said}\n{}", String::from_utf8_lossy(log).trim());
                Err(EmbeddedError::Program { program, user, said })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a new cluster beside, then moves it into place: one that is there is whole.
    async fn initialise(&self) -> Result<State, EmbeddedError> {
        let state = State { port: 0, superuser_password: new_password(), app_password: new_password() };
        let making = self.root.join("data.new");
        if making.exists() {
            fs::remove_dir_all(&making).doing("remove unfinished", &making)?;
        }
        let password = self.root.join("password.new");
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.create(true).write(true).truncate(true).mode(0o600).open(&password).doing("open", &password)?;
        file.write_all(state.superuser_password.as_bytes()).doing("write", &password)?;
        self.account.give(&password)?;
        let initialised = self
            .run("initdb", |initdb| {
                initdb
                    .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
                    .arg("--pwfile")
                    .arg(&password)
                    .arg("--pgdata")
                    .arg(&making)
            })
            .await;
        fs::remove_file(&password).doing("remove", &password)?;
        initialised?;
        let main = making.join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(&main).doing("open", &main)?;
        file.write_all(b"\n# Written at each start by eventtrigger.\ninclude 'eventtrigger.conf'\n")
            .doing("write", &main)?;
        self.write_state(&state)?;
        let data = self.data();
        if data.exists() {
            // Its passwords are lost, so nobody can use it; it may still hold somebody's rows.
            let aside = self.root.join("data.without-state");
            fs::rename(&data, &aside).doing("set aside", &data)?;
        }
        fs::rename(&making, &data).doing("rename", &making)?;
        Ok(state)
    }

    fn configure(&self, port: u16, settings: &[(&str, &str)]) -> Result<(), EmbeddedError> {
        let ours = [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", "")];
        let port = port.to_string();
        let listen = [("port", port.as_str())];
        let all = ours.iter().chain(settings).chain(&listen);
        let lines: Vec<_> = all.map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''"))).collect();
        let text = lines.join("\n") + "\n";
        let path = self.data().join("eventtrigger.conf");
        fs::write(&path, text).doing("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).doing("restrict", &path)?;
        self.account.give(&path)
    }

    async fn pg_ctl(&self, args: &[&str]) -> Result<(), EmbeddedError> {
        self.run("pg_ctl", |pg_ctl| pg_ctl.arg("--pgdata").arg(self.data()).args(args)).await
    }

    /// Runs one of the server's programs to its end, as the server's account.
    ///
    /// `pg_ctl` gives the server a session of its own, so that Ctrl-C at our terminal does not reach it.
    async fn run(
        &self,
        program: &'static str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<(), EmbeddedError> {
        let path = self.programs.join("bin").join(program);
        // A file, not a pipe: the server inherits it from pg_ctl, and reading a pipe would last as long as the server.
        let said = self.root.join(format!("{program}.out"));
        let output = fs::File::create(&said).doing("open", &said)?;
        let errors = output.try_clone().doing("open", &said)?;
        let mut command = Command::new(&path);
        with(&mut command)
            // Its messages are shown to people as they are; and nothing of our environment changes what it does.
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir(&self.root)
            .stdin(std::process::Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C while it works is for us to handle: an interrupted start is adopted or cleaned up by the next.
            .process_group(0)
            .kill_on_drop(true);
        self.account.run_as(&mut command);
        let status = command.status().await.doing("run", &path)?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&said).unwrap_or_default().trim().to_owned();
        Err(EmbeddedError::Program { program, user: self.account.name().to_owned(), said })
    }
}

/// `before` if nobody listens there, else any other.
fn free_port(before: u16) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", before)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

/// 128 bits from the operating system, in hex: needs no escaping in a URI.
fn new_password() -> String {
    let mut bytes = [0; 16];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).expect("the system has random numbers");
    format!("{:032x}", u128::from_be_bytes(bytes))
}
