//! EventTriggers that are delivered in several partitions: cuts that these agree on, events that they meet at, and how their
//! number changes. Nothing of it is asked for the others.

use tokio_postgres::Transaction;

use super::{Lease, Worker, WorkerError, snapshot, wire::Xid8};
use crate::log::Snapshot;

/// So many cuts are forgotten together: until then they only take room.
const TIDY: i64 = 64;

/// An event that waits for other partitions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wait {
    /// The partition that waits.
    pub subscription: i32,
    /// For which event.
    pub event: i64,
    /// Its place in the log.
    pub place: u64,
    /// The other partitions, as bits.
    pub others: u32,
    /// Whether it is this one that sends the event.
    pub sends: bool,
}

impl Worker {
    /// Where the window that begins at `from` ends, for all partitions of the EventTrigger that this one is of: at `now`, if nobody was quicker. `None`
    /// if they have come to the last cut before the events are divided otherwise.
    pub async fn agree(
        &self,
        partition: i32,
        from: &Snapshot,
        now: &Snapshot,
    ) -> Result<Option<Snapshot>, WorkerError> {
        let (from, now) = (from.to_string(), now.to_string());
        let proposed = self.client.query_opt(include_str!("../sql/agree.sql"), &[&partition, &from, &now]).await;
        if proposed.map_err(agreeing)?.is_some_and(|row| row.get::<_, i64>(0) % TIDY == 0) {
            self.client.execute(include_str!("../sql/tidy.sql"), &[&partition]).await.map_err(agreeing)?;
        }
        self.following(partition, &from).await
    }

    /// The cut after `from` for all of these partitions, if there is one already.
    pub async fn next_cut(&self, partition: i32, from: &Snapshot) -> Result<Option<Snapshot>, WorkerError> {
        self.following(partition, &from.to_string()).await
    }

    async fn following(&self, partition: i32, from: &str) -> Result<Option<Snapshot>, WorkerError> {
        let row = self.client.query_opt(include_str!("../sql/following.sql"), &[&partition, &from]).await;
        row.map_err(agreeing)?.map(|row| snapshot(row.get(0))).transpose()
    }

    /// Those that wait no more.
    pub async fn met(&self, waits: &[Wait]) -> Result<Vec<(i32, i64)>, WorkerError> {
        let subscriptions: Vec<_> = waits.iter().map(|wait| wait.subscription).collect();
        let events: Vec<_> = waits.iter().map(|wait| wait.event).collect();
        let places: Vec<_> = waits.iter().map(|wait| Xid8(wait.place)).collect();
        let others: Vec<_> = waits.iter().map(|wait| wait.others.cast_signed()).collect();
        let sends: Vec<_> = waits.iter().map(|wait| wait.sends).collect();
        let meet = include_str!("../sql/meet.sql");
        let rows = self.client.query(meet, &[&subscriptions, &events, &places, &others, &sends]).await;
        let rows = rows.map_err(|source| WorkerError::Sql { doing: "look for other partitions", source })?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Divides the events of an EventTrigger as its definition says now, if that can be: nothing of it is parked, and all of its
    /// partitions have come to the same cut. Otherwise sees to it that they will. Tells whether anything changed.
    ///
    /// `lease` is that of a slot with one of its partitions. If that is the only one, nothing of it may be under way.
    pub async fn divide(&self, trigger: i32, lease: Lease) -> Result<bool, WorkerError> {
        let mut client = self.aside().await?;
        let Some(client) = client.as_mut() else { return Ok(false) };
        let transaction = client.transaction().await.map_err(dividing)?;
        if !self.moved(&transaction, &[lease], &[]).await.map_err(dividing)? {
            return Err(WorkerError::Fenced);
        }
        let changed = divide(&transaction, trigger).await.map_err(dividing)?;
        if changed {
            // Workers look at it.
            let count = "UPDATE meta SET definitions = definitions + 1";
            transaction.execute(count, &[]).await.map_err(dividing)?;
        }
        transaction.commit().await.map_err(dividing)?;
        Ok(changed)
    }
}

async fn divide(transaction: &Transaction<'_>, trigger: i32) -> Result<bool, tokio_postgres::Error> {
    // Each statement after these sees what others have committed until then, and nobody changes it any more.
    for lock in
        ["SELECT FROM spread WHERE trigger_id = $1 FOR UPDATE", "SELECT FROM cursor WHERE trigger_id = $1 FOR UPDATE"]
    {
        transaction.execute(lock, &[&trigger]).await?;
    }
    let differs = "SELECT coalesce(s.partitions, 1) <> coalesce((t.definition ->> 'partitions')::int4, 1)
                       OR coalesce(s.ordering::text <> (t.definition -> 'ordering')::text, false), s.upto IS NOT NULL
                   FROM trigger AS t LEFT JOIN spread AS s ON s.trigger_id = t.id WHERE t.id = $1";
    let Some(row) = transaction.query_opt(differs, &[&trigger]).await? else { return Ok(false) };
    let (differs, ends): (bool, bool) = (row.get(0), row.get(1));
    if !differs {
        // Somebody thought better of it.
        let go_on = "UPDATE spread SET upto = NULL WHERE trigger_id = $1 AND upto IS NOT NULL";
        return Ok(transaction.execute(go_on, &[&trigger]).await? > 0);
    }
    if let Some(row) = transaction.query_opt(include_str!("../sql/ready_to_divide.sql"), &[&trigger]).await? {
        let divide = "SELECT divide($1, $2::text::pg_snapshot, $3::text::pg_snapshot, $4, $5::text::int8[])";
        let (cut, target): (&str, Option<&str>) = (row.get(0), row.get(1));
        let (after, done): (i64, &str) = (row.get(2), row.get(3));
        transaction.execute(divide, &[&trigger, &cut, &target, &after, &done]).await?;
        return Ok(true);
    }
    if !ends {
        // What is parked may wait for long: until it is through, all goes on as before.
        let end = "UPDATE spread SET upto = (SELECT max(number) FROM cut WHERE trigger_id = $1)
                   WHERE trigger_id = $1 AND NOT EXISTS (
                       SELECT FROM cursor AS c JOIN parked AS p ON p.subscription = c.subscription WHERE c.trigger_id = $1)";
        transaction.execute(end, &[&trigger]).await?;
    }
    Ok(false)
}

fn agreeing(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "agree on a cut", source }
}

fn dividing(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "divide events into partitions", source }
}
