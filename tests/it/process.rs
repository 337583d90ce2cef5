//! A worker in a process of its own, as the controller starts it: what happens to it happens to nothing else.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use eventtrigger::{delivery::Config, log::ConnectConfig};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};

use crate::support::{owner, schema};

/// Far more than a worker takes to end what is under way.
const DEADLINE: Duration = Duration::from_mins(1);

/// A running worker; dropping it kills it.
pub(crate) struct Process {
    child: Child,
    /// Lives as long as the worker may read it.
    _config: NamedTempFile,
}

impl Process {
    /// With some environment besides its own.
    pub(crate) fn start(connection: &ConnectConfig, environment: &[(&str, &str)]) -> Self {
        let config =
            Config { owner: owner(), schema: schema(), connection: connection.clone(), secrets: BTreeMap::new() };
        let file = NamedTempFile::new().expect("make a file");
        serde_json::to_writer(&file, &config).expect("write the configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_eventtrigger"));
        command.args(["deliver", "--allow-addresses=127.0.0.0/8", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(file.path()).envs(environment.iter().copied());
        // Attempts that fail on purpose are warned of.
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        Self { child: command.spawn().expect("start a worker"), _config: file }
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        // Of the shell, for the standard library sends no signal but SIGKILL.
        let sent = std::process::Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.expect("run kill").success(), "kill {signal}");
    }

    /// The most memory that it ever had, in MiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") / 1024
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(mut self) {
        self.signal("-TERM");
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("waited for the worker to end");
        assert!(status.expect("wait for its end").success());
    }

    /// As SIGKILL does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("kill the worker");
    }
}
