//! Our worker: `eventtrigger deliver` in a process of its own, as the controller runs it.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventtrigger::delivery::Config;
use tempfile::NamedTempFile;
use tokio::{process::Child, time::timeout};

use crate::{
    log::{owner, schema},
    measure,
    server::Server,
};

/// Far more than a worker takes to end what is under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running worker; dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    pid: u32,
    /// Lives as long as the worker may read it.
    _config: NamedTempFile,
}

impl Worker {
    pub(crate) fn start(server: &Server, dbname: &str) -> Result<Self> {
        let config =
            Config { owner: owner(), schema: schema(), connection: server.config(dbname), secrets: BTreeMap::new() };
        let file = NamedTempFile::new()?;
        serde_json::to_writer(&file, &config)?;
        let program = std::env::var("BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_eventtrigger").to_owned());
        let mut command = tokio::process::Command::new(program);
        command
            .args(["deliver", "--allow-addresses=127.0.0.0/8", "--listen", "127.0.0.1:0", "--config"])
            .arg(file.path());
        // Attempts that fail on purpose are warned of.
        command.env("RUST_LOG", "error").stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("start a worker")?;
        let pid = child.id().context("the worker has ended")?;
        Ok(Self { child, pid, _config: file })
    }

    /// Processor time so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        measure::process(self.pid)
    }

    /// In memory now, in MiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        measure::memory(self.pid, "VmRSS")
    }

    /// The most that was ever in memory, in MiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        measure::memory(self.pid, "VmHWM")
    }

    /// As Kubernetes stops a Pod. Returns how long it took.
    pub(crate) async fn terminate(mut self) -> Result<Duration> {
        let began = Instant::now();
        // Of the shell, for the standard library sends no signal but SIGKILL.
        let mut kill = tokio::process::Command::new("sh");
        ensure!(kill.args(["-c", &format!("kill -TERM {}", self.pid)]).status().await?.success(), "kill failed");
        let status = timeout(PATIENCE, self.child.wait()).await.context("the worker does not end")??;
        ensure!(status.success(), "the worker ended with {status}");
        Ok(began.elapsed())
    }

    /// As a node that fails.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
