//! Pools: the workers of a log, and those that an EventTrigger has of its own. Each has slots of its own, so that what is held,
//! shared and fenced in one is nothing to the others. A subscription is one pool's, and goes to another by one update of its
//! cursor: made by whoever holds its slot, or, if nobody does, by who is to deliver it from then on.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Lease, Worker, WorkerError, slots::CLASS};
use crate::name::ObjectName;

/// The pool of the workers that an EventTrigger has of its own.
pub(super) async fn number(client: &Client, trigger: &ObjectName) -> Result<i32, WorkerError> {
    let find = "SELECT id FROM trigger WHERE namespace = $1 AND name = $2";
    let found = client.query_opt(find, &[&trigger.namespace, &trigger.name]).await;
    let found = found.map_err(|source| WorkerError::Sql { doing: "look for the EventTrigger", source })?;
    found.map(|row| row.get(0)).ok_or_else(|| {
        WorkerError::NotOurs(format!(
            "there is no EventTrigger {trigger} in the log; the controller has not written it yet"
        ))
    })
}

impl Worker {
    /// Whether the EventTrigger whose own worker this is, is still there. One of the same name that was made anew has another
    /// number: its workers begin anew, too.
    ///
    /// # Errors
    /// [`WorkerError::NotOurs`] if it is not.
    pub async fn still_there(&self) -> Result<(), WorkerError> {
        let Some(trigger) = &self.only else { return Ok(()) };
        if number(&self.client, trigger).await? == self.pool {
            return Ok(());
        }
        Err(WorkerError::NotOurs(format!("EventTrigger {trigger} was made anew")))
    }

    /// Whether subscriptions that this pool is to deliver are still another's.
    pub async fn awaits(&self) -> Result<bool, WorkerError> {
        let any = "SELECT EXISTS (SELECT FROM cursor AS c JOIN trigger AS t ON t.id = c.trigger_id
                       WHERE t.pool = $1 AND c.pool <> t.pool)";
        Ok(self.client.query_one(any, &[&self.pool]).await.map_err(moving)?.get(0))
    }

    /// Takes those over whose slot nobody holds where they are; tells whether there were any.
    pub async fn fetch_over(&self) -> Result<bool, WorkerError> {
        let fetch = include_str!("../sql/fetch_over.sql");
        Ok(!self.client.query(fetch, &[&self.pool, &CLASS]).await.map_err(moving)?.is_empty())
    }

    /// Subscriptions of this pool that another one is to deliver, and can: one of its workers lives, which it does for `length`
    /// after it was heard of.
    pub async fn departing(&self, length: Duration) -> Result<Vec<i32>, WorkerError> {
        let departing = include_str!("../sql/departing.sql");
        let rows = self.client.query(departing, &[&self.pool, &length.as_secs_f64(), &CLASS]).await;
        Ok(rows.map_err(moving)?.iter().map(|row| row.get(0)).collect())
    }

    /// Hands a subscription over to the pool that is to deliver it; whether it is that one's now. `lease` is that of its slot.
    /// Nothing of it may be under way, and its cursor must be written.
    ///
    /// # Errors
    /// [`WorkerError::Fenced`] if the slot is no longer ours; then nothing was written.
    pub async fn hand_over(&self, subscription: i32, lease: Lease) -> Result<bool, WorkerError> {
        let mut client = self.aside().await?;
        let Some(client) = client.as_mut() else { return Ok(false) };
        let transaction = client.transaction().await.map_err(moving)?;
        if !self.moved(&transaction, &[lease], &[]).await.map_err(moving)? {
            return Err(WorkerError::Fenced);
        }
        let hand_over = include_str!("../sql/hand_over.sql");
        let changed = transaction.execute(hand_over, &[&subscription, &self.pool]).await.map_err(moving)? > 0;
        if changed {
            // Workers look at it.
            let count = "UPDATE meta SET definitions = definitions + 1";
            transaction.execute(count, &[]).await.map_err(moving)?;
        }
        transaction.commit().await.map_err(moving)?;
        Ok(changed)
    }
}

fn moving(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "move EventTriggers from some workers to others", source }
}
