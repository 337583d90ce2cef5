//! The binary as a process of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use eventtrigger::log::ConnectConfig;
use tokio::process::{Child, Command};

/// How long anything may take to come.
const DEADLINE: Duration = Duration::from_mins(1);

/// A folder for one test, which the server's account can pass through.
pub(crate) fn folder() -> tempfile::TempDir {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().prefix("eventtrigger-test-").permissions(permissions).tempdir().expect("make a folder")
}

/// The binary, with no environment that could change what it does.
pub(crate) fn eventtrigger(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventtrigger"));
    command
        .args(args)
        .env_remove("EVENTTRIGGER_DATABASE_URL")
        .env_remove("K_SINK")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .env_remove("K_CE_OVERRIDES")
        .env("EVENTTRIGGER_LOG_FORMAT", "text")
        .env("RUST_LOG", "info");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a command that ended said: its code, standard output and standard error.
pub(crate) async fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("waited for the command to end");
    let output = output.expect("start the command");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A command that runs until it is ended.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Self {
        let (stdout, stderr) = (folder.join("stdout"), folder.join("stderr"));
        let open = |path: &Path| File::create(path).expect("make a file");
        let child = command.stdout(open(&stdout)).stderr(open(&stderr)).spawn().expect("start the command");
        Self { child, stdout, stderr }
    }

    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).expect("read its output")
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("read its log")
    }

    /// Waits until its last line fits.
    pub(crate) async fn last_line(&mut self, what: &str, fits: impl Fn(&str) -> bool) {
        let waited = async {
            while !self.stdout().lines().last().is_some_and(&fits) {
                if let Some(status) = self.child.try_wait().expect("ask for its state") {
                    panic!("it ended with {status} instead of {what}:\n{}{}", self.stdout(), self.stderr());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(DEADLINE, waited).await;
        assert!(came.is_ok(), "waited for {what}:\n{}{}", self.stdout(), self.stderr());
    }

    pub(crate) async fn signal(mut self, signal: &str) -> ExitStatus {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args([signal, &pid]).status().expect("run kill");
        assert!(sent.success());
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("waited for the end:\n{}", self.stderr())).expect("wait for its end")
    }
}

pub(crate) fn url(config: &ConnectConfig) -> String {
    let ConnectConfig { host, port, dbname, user, password, .. } = config;
    format!("postgresql://{user}:{}@{host}:{port}/{dbname}", password.as_deref().unwrap_or_default())
}

/// Repeats a question until the answer is `wanted`.
pub(crate) async fn until<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, ask: impl AsyncFn() -> T) {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let answer = ask().await;
        if answer == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "waited for {what}; it is {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
