//! Dead letters on their way to a dead letter sink. Which those are, and when they are due, is in the database: they are claimed
//! for a while, by whichever worker comes first.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Failure, Worker, WorkerError, exceptions::parked};
use crate::{
    log::{Definition, Event},
    name::ObjectName,
};

/// A dead letter that the dead letter sink has not had.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Number of its EventTrigger.
    pub subscription: i32,
    /// The EventTrigger, as it is now.
    pub definition: Definition,
    /// The event, but for who matched.
    pub event: Event,
    /// The URL that did not take it.
    pub destination: String,
    /// What came of the last attempt.
    pub failure: Failure,
    /// Tells this claim from others.
    claim: String,
}

impl Forward {
    /// Of its rows.
    pub fn bytes(&self) -> usize {
        [&self.event.old, &self.event.new].into_iter().flatten().map(String::len).sum()
    }
}

/// How much is claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Of one EventTrigger, at most.
    pub each: usize,
    /// In all.
    pub all: usize,
    /// Bytes of all together.
    pub bytes: usize,
    /// Whether a single one may be larger.
    pub larger: bool,
    /// EventTriggers that are left out.
    pub not: Vec<i32>,
    /// The EventTriggers after this one come first.
    pub after: i32,
}

impl Worker {
    /// Claims dead letters that are due.
    pub async fn claim(&self, claim: &Claim) -> Result<Vec<Forward>, WorkerError> {
        let failed = |source| WorkerError::Sql { doing: "claim dead letters to be forwarded", source };
        // Nearly always there are none, and this is all that it costs.
        let some = "SELECT EXISTS (SELECT FROM dead_letter WHERE forward IS NOT NULL AND forward_at <= now())";
        if !self.client.query_one(some, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(Vec::new());
        }
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (each, all, bytes) = (number(claim.each), number(claim.all), number(claim.bytes));
        let client = self.aside().await?;
        let Some(client) = client.as_ref() else { return Ok(Vec::new()) };
        let rows = client
            .query(
                include_str!("../sql/claim.sql"),
                &[&each, &all, &bytes, &claim.larger, &claim.not, &claim.after, &self.pool],
            )
            .await
            .map_err(failed)?;
        let readable = |row: &Row| match forward(row) {
            Ok(forward) => Some(Forward { event: forward.event.weighed(self.reader.scale()), ..forward }),
            // It waits; the others go on.
            Err(error) => {
                tracing::error!(schema = self.schema(), trigger = row.get::<_, i32>(10), "{error}");
                None
            }
        };
        Ok(rows.iter().filter_map(readable).collect())
    }

    /// Notes that the dead letter sink has it, or that it is to be sent again after `again`.
    pub async fn forwarded(&self, forward: &Forward, again: Option<Duration>) -> Result<(), WorkerError> {
        let ObjectName { namespace, name } = &forward.definition.trigger;
        let client = self.aside().await?;
        let Some(client) = client.as_ref() else { return Ok(()) };
        let seconds = again.map(|again| again.as_secs_f64());
        client
            .execute(
                include_str!("../sql/forwarded.sql"),
                &[namespace, name, &forward.event.id, &forward.claim, &seconds],
            )
            .await
            .map_err(|source| WorkerError::Sql { doing: "write what became of a forwarded dead letter", source })?;
        Ok(())
    }
}

fn forward(row: &Row) -> Result<Forward, WorkerError> {
    let definition = serde_json::from_str(row.get(11))
        .map_err(|error| WorkerError::Corrupt { what: "a definition", why: error.to_string() })?;
    Ok(Forward {
        subscription: row.get(10),
        definition,
        event: parked(row, None)?.event,
        destination: row.get(12),
        failure: Failure {
            status: row.get::<_, Option<i32>>(14).and_then(|status| u16::try_from(status).ok()),
            error: row.get(15),
            response: row.get::<_, Option<String>>(16).unwrap_or_default(),
        },
        claim: row.get(13),
    })
}
