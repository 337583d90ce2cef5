//! awa with the HTTP worker that it comes with: puts jobs into its queue, or works them off until it is killed.
//!
//! ```text
//! peer-awa fill <database URL> <jobs>
//! peer-awa work <database URL> <sink URL>
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail};
use awa::{
    Client, HttpWorkerConfig, HttpWorkerMode, InsertOpts, JobArgs, QueueConfig,
    model::insert::{insert_many_copy_from_pool, params_with},
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};

const QUEUE: &str = "bench";
/// Jobs under way: as many as the clients without a database have.
const WORKERS: u32 = 64;
/// Jobs of an insert.
const STEP: i64 = 1000;

/// Its worker posts this in an envelope; together they have about 300 bytes.
#[derive(Debug, Deserialize, Serialize)]
struct Hook {
    key: i64,
    at: i64,
    note: String,
}

impl JobArgs for Hook {
    fn kind() -> &'static str {
        "hook"
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, database, last] = arguments.as_slice() else { bail!("peer-awa fill|work <database URL> <jobs|sink URL>") };
    let pool = PgPoolOptions::new().max_connections(20).connect(database).await.context("connect")?;
    match what.as_str() {
        "fill" => fill(&pool, last.parse()?).await,
        "work" => work(pool, last.clone()).await,
        other => bail!("{other}?"),
    }
}

async fn fill(pool: &PgPool, jobs: i64) -> Result<()> {
    awa::migrations::run(pool).await.context("migrate")?;
    let mut next = 0;
    while next < jobs {
        let until = jobs.min(next + STEP);
        let some: Result<Vec<_>, _> = (next..until)
            .map(|n| {
                let hook = Hook { key: 10_000 + n % 10_000, at: 1_767_225_600_000_120, note: "x".repeat(187) };
                params_with(&hook, InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() })
            })
            .collect();
        insert_many_copy_from_pool(pool, &some?).await?;
        next = until;
    }
    Ok(())
}

async fn work(pool: PgPool, url: String) -> Result<()> {
    let mode = HttpWorkerMode::Sync { response_timeout: Duration::from_secs(30) };
    let client = Client::builder(pool)
        .queue(QUEUE, QueueConfig { max_workers: WORKERS, ..QueueConfig::default() })
        .http_worker(Hook::kind(), HttpWorkerConfig { url, mode, ..HttpWorkerConfig::default() })
        .build()?;
    client.start().await?;
    tokio::signal::ctrl_c().await?;
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
