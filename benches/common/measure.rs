//! What something costs: processor time, time on the clock, memory.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use tokio_postgres::Client;

/// Ticks a second of the times in `/proc/<pid>/stat`: `USER_HZ`, which Linux has at 100 on every processor it runs on.
const TICKS: f64 = 100.0;

/// What something cost, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of the backend's processor time.
    pub(crate) cpu: f64,
    /// On the clock.
    pub(crate) wall: f64,
}

impl Cost {
    /// Of each of `n`, in microseconds.
    pub(crate) fn each(self, n: u32) -> Self {
        let part = 1e6 / f64::from(n);
        Self { cpu: self.cpu * part, wall: self.wall * part }
    }

    /// The lesser of each: whatever else the machine does only adds.
    pub(crate) fn least(costs: &[Self]) -> Self {
        let least = |of: fn(&Self) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
        Self { cpu: least(|cost| cost.cpu), wall: least(|cost| cost.wall) }
    }
}

/// Measures what runs in some backends between now and [`Meter::stop`].
pub(crate) struct Meter {
    pids: Vec<i32>,
    cpu: f64,
    since: Instant,
}

impl Meter {
    /// Of the backend behind `client`.
    pub(crate) async fn start(client: &Client) -> Result<Self> {
        Self::of(vec![client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0)])
    }

    /// Of some backends together.
    pub(crate) fn of(pids: Vec<i32>) -> Result<Self> {
        Ok(Self { cpu: cpu_of(&pids)?, pids, since: Instant::now() })
    }

    /// What it has cost since.
    pub(crate) fn stop(self) -> Result<Cost> {
        let wall = self.since.elapsed().as_secs_f64();
        Ok(Cost { cpu: cpu_of(&self.pids)? - self.cpu, wall })
    }
}

/// Seconds of processor time of a process's children that have ended: a server's sessions, programs that we ran.
pub(crate) fn children(pid: &str) -> Result<f64> {
    // cutime and cstime.
    ticks(&Path::new("/proc").join(pid), 13)
}

/// How many children a process has.
pub(crate) fn processes(pid: &str) -> Result<usize> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("list child processes")?;
    Ok(children.split_whitespace().count())
}

/// Seconds of processor time of all threads that a process has.
pub(crate) fn process(pid: u32) -> Result<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
    threads.map(|thread| cpu_at(&thread?.path())).sum()
}

/// Names the calling thread, for [`cpu_at`].
pub(crate) fn this_thread() -> Result<PathBuf> {
    Ok(Path::new("/proc").join(fs::read_link("/proc/thread-self")?))
}

/// A line of `/proc/<pid>/status` that is in kB, as MiB: `VmRSS` is what is in memory, `VmHWM` the most that ever was.
pub(crate) fn memory(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(found.with_context(|| format!("/proc/<pid>/status has no {line}"))?.parse::<f64>()? / 1024.0)
}

fn cpu_of(pids: &[i32]) -> Result<f64> {
    pids.iter().map(|&pid| cpu(pid)).sum()
}

/// Seconds of processor time that a process of one thread has had.
fn cpu(pid: i32) -> Result<f64> {
    cpu_at(&Path::new("/proc").join(pid.to_string()))
}

/// Seconds of processor time that a thread has had: by the scheduler in nanoseconds, where the kernel tells, else user
/// and system time in ticks.
pub(crate) fn cpu_at(thread: &Path) -> Result<f64> {
    if let Ok(text) = fs::read_to_string(thread.join("schedstat")) {
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
        return Ok(nanoseconds.context("schedstat starts with no number")? / 1e9);
    }
    // utime and stime.
    ticks(thread, 11)
}

/// The sum of two fields of a process's or thread's `stat`, in seconds; the first is the one so many places after the name.
fn ticks(of: &Path, place: usize) -> Result<f64> {
    let stat = fs::read_to_string(of.join("stat")).context("the process is gone")?;
    // The second field is the program's name in brackets, which may hold anything (proc(5)).
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let ticks = fields.split_whitespace().skip(place).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS)
}
