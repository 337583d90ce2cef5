//! What others use for the same end: job queues in PostgreSQL whose workers post. `benches/peers` has their programs.
//!
//! None of them keeps an order by key while it is this fast, and filling their queues is not counted.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::{
    measure,
    receiver::{Receiver, float},
    server::Server,
    throughput::{PATIENCE, Turn},
};

/// A job queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// graphile-worker, batching, in two processes: the most that two processors give it.
    Graphile,
    /// pg-boss, in batches, without a pause between them.
    PgBoss,
    /// awa with its own HTTP worker.
    Awa,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Graphile, Self::PgBoss, Self::Awa];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Graphile => "graphile",
            Self::PgBoss => "pg-boss",
            Self::Awa => "awa",
        }
    }

    fn dbname(self) -> &'static str {
        match self {
            Self::Graphile => "graphile",
            Self::PgBoss => "pgboss",
            Self::Awa => "awa",
        }
    }

    /// Whether `benches/peers/install.sh` has run.
    pub(crate) fn is_installed(self) -> bool {
        self.program().is_file()
    }

    /// Jobs of a turn, so that each takes some seconds.
    fn jobs(self, events: u32) -> u32 {
        match self {
            Self::Graphile | Self::PgBoss => events / 2,
            Self::Awa => events / 4,
        }
    }

    fn processes(self) -> usize {
        match self {
            Self::Graphile => 2,
            Self::PgBoss | Self::Awa => 1,
        }
    }

    /// Works a backlog off.
    pub(crate) async fn turn(self, server: &Server, events: u32) -> Result<Turn> {
        let (dbname, jobs) = (self.dbname(), self.jobs(events));
        let database = server.url(dbname);
        server.run("postgres", &format!("DROP DATABASE IF EXISTS {dbname} WITH (FORCE)")).await?;
        server.run("postgres", &format!("CREATE DATABASE {dbname}")).await?;
        self.fill(server, &database, jobs).await?;
        server.run(dbname, "ANALYZE; CHECKPOINT").await?;
        let receiver = Receiver::start()?;
        let mut workers = Vec::new();
        for _ in 0..self.processes() {
            workers.push(self.work(&database, &receiver.url()).spawn().with_context(|| format!("start {self:?}"))?);
        }
        let arrived = receiver.until(jobs.into(), PATIENCE).await;
        ensure!(arrived, "{} of {jobs} jobs in {PATIENCE:?}", receiver.accepted());
        let pids: Vec<_> = workers.iter().filter_map(Child::id).collect();
        let cpu = pids.iter().map(|pid| measure::process(*pid)).sum::<Result<f64>>()?;
        let peak = pids.iter().map(|pid| measure::memory(*pid, "VmHWM")).sum::<Result<f64>>()?;
        let turn = Turn::of(&receiver, Some(cpu / float(receiver.accepted()) * 1e6), Some(peak))?;
        for mut worker in workers {
            worker.kill().await?;
        }
        Ok(turn)
    }

    async fn fill(self, server: &Server, database: &str, jobs: u32) -> Result<()> {
        let mut command = self.command(database);
        match self {
            Self::Graphile => command.arg("--schema-only"),
            Self::PgBoss | Self::Awa => command.arg("fill"),
        };
        match self {
            Self::Graphile => {}
            Self::PgBoss => drop(command.arg(jobs.to_string())),
            Self::Awa => drop(command.arg(database).arg(jobs.to_string())),
        }
        let output = command.output().await.with_context(|| format!("run {self:?}"))?;
        ensure!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        if self == Self::Graphile {
            let sql = include_str!("sql/graphile.sql").replace(":jobs", &jobs.to_string());
            server.run(self.dbname(), &sql).await?;
        }
        Ok(())
    }

    fn work(self, database: &str, url: &str) -> Command {
        let mut command = self.command(database);
        command.env("SINK_URL", url);
        match self {
            Self::Graphile => {}
            Self::PgBoss => drop(command.arg("work")),
            Self::Awa => drop(command.args(["work", database, url])),
        }
        command
    }

    fn command(self, database: &str) -> Command {
        let mut command = Command::new(self.program());
        match self {
            Self::Graphile => {
                command.arg(self.folder().join("node_modules/graphile-worker/dist/cli.js"));
            }
            Self::PgBoss => drop(command.arg("main.mjs")),
            Self::Awa => {}
        }
        command.current_dir(self.folder()).env("DATABASE_URL", database).env("NODE_ENV", "production");
        // A line for each job, of some.
        command.env("NO_LOG_SUCCESS", "1").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command
    }

    fn folder(self) -> PathBuf {
        let name = match self {
            Self::Graphile => "graphile-worker",
            Self::PgBoss => "pg-boss",
            Self::Awa => "awa",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(name)
    }

    /// What is run. Node.js is npm's, so that all machines have the same.
    fn program(self) -> PathBuf {
        match self {
            Self::Graphile | Self::PgBoss => self.folder().join("node_modules/.bin/node"),
            Self::Awa => self.folder().join("release/peer-awa"),
        }
    }
}
