//! Segments and retention: a new segment from time to time, and old ones dropped whole.
//!
//! A segment is filled, then closed (no function names it any more), then sealed (nobody can still be writing it, so
//! that its last transaction is known), then dropped when retention is over and no cursor needs it. No step takes a
//! lock that a writer of the newest segment waits for. Each can be broken off anywhere and is taken up the next time.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{Client, Row, error::SqlState, types::ToSql};

use super::{Admin, AdminError, failed, install::segment_name};
use crate::{
    capture::Plan,
    log::{Snapshot, snapshot::Txid},
    name::ObjectName,
};

/// Parts that the time and the size of retention are cut into: what is kept too long or too much is one of them.
const PARTS: u32 = 8;
/// How long a lock on a segment is waited for. Only readers stand behind us meanwhile.
const PATIENCE: &str = "50ms";
/// Dead letters that are deleted in one statement, and how many such at most in one go: nobody waits for it for long.
const EXPIRED: i64 = 1000;
const GOES: usize = 10;
/// Captures that are pointed to a new segment in one transaction.
const AT_A_TIME: i64 = 50;

/// How long events are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retention {
    /// An event is kept for so long after it was captured, and up to an eighth longer.
    pub period: Duration,
    /// Beyond so many bytes the oldest are dropped earlier.
    pub max_size: Option<u64>,
    /// Events that a trigger has not had yet are kept in any case, but not beyond so many bytes; `None`: without limit.
    pub max_held_size: Option<u64>,
    /// Dead letters are kept for so long after they were given up; `None`: until they are redriven or deleted.
    pub dead_letter_period: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { period: Duration::from_hours(7 * 24), max_size: None, max_held_size: None, dead_letter_period: None }
    }
}

/// What the log holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holding {
    /// Number of segments.
    pub segments: usize,
    /// Since when all events are in the log.
    pub since: Option<Timestamp>,
    /// Whom events are kept for although retention is over.
    pub held_by: Option<ObjectName>,
    /// Size of all segments.
    pub bytes: u64,
    /// For how long a segment has waited for transactions that may still write into it.
    pub held_open: Option<Duration>,
    /// Events that were dropped before a trigger had them, by trigger: how many.
    pub lost: Vec<(ObjectName, i64)>,
}

#[derive(Debug)]
struct Segment {
    number: i32,
    base: Txid,
    upto: Option<Txid>,
    /// Events up to this id came from another server, and their base.
    before: i64,
    before_base: Txid,
    has_events: bool,
    bytes: u64,
    opened_at: Timestamp,
    age: Duration,
    /// How long ago it was closed.
    closed_for: Option<Duration>,
    is_filled: bool,
    has_writers: bool,
}

impl Segment {
    fn read(row: &Row) -> Self {
        let seconds = |at: usize| row.get::<_, Option<f64>>(at).unwrap_or_default();
        let duration = |at: usize| Duration::try_from_secs_f64(seconds(at)).unwrap_or_default();
        let place = |number: i64| Txid::try_from(number).unwrap_or_default();
        Self {
            number: row.get(0),
            base: place(row.get(1)),
            upto: row.get::<_, Option<i64>>(2).map(place),
            has_events: row.get(3),
            bytes: u64::try_from(row.get::<_, i64>(4)).unwrap_or_default(),
            opened_at: Timestamp::try_from(row.get::<_, std::time::SystemTime>(5)).unwrap_or_default(),
            age: duration(6),
            closed_for: row.get::<_, Option<f64>>(7).map(|_| duration(7)),
            is_filled: row.get(8),
            has_writers: row.get(9),
            before: row.get(10),
            before_base: place(row.get(11)),
        }
    }

    /// Whether events that come from now on belong into another segment.
    fn is_full(&self, retention: &Retention) -> bool {
        let too_big = retention.max_size.is_some_and(|size| self.bytes >= size / u64::from(PARTS));
        self.has_events && (too_big || self.age >= retention.period / PARTS)
    }
}

/// Whether all segments but the newest may go as far as retention says; in order, so the first that may not ends it.
fn is_over(segment: &Segment, total: u64, retention: &Retention) -> bool {
    segment.closed_for.is_some_and(|closed| closed >= retention.period)
        || retention.max_size.is_some_and(|size| total > size)
}

impl Admin {
    /// Makes a new segment if it is time, brings older ones forward, and drops what need not be kept. To be called every
    /// few seconds; does next to nothing if there is nothing to do.
    pub async fn tend(&self, retention: &Retention) -> Result<Holding, AdminError> {
        let mut client = self.client.lock().await;
        let mut segments = self.segments(&client).await?;
        if segments.last().is_some_and(|newest| newest.is_full(retention)) {
            self.add_segment(&mut client).await?;
            segments = self.segments(&client).await?;
        }
        let Some(newest) = segments.last() else { return Ok(Holding::default()) };
        self.fill(&mut client, newest.number).await?;
        for segment in
            self.older(&client).await?.iter().filter(|segment| !segment.is_filled && segment.closed_for.is_none())
        {
            client.execute(&self.sql(include_str!("../sql/close.sql")), &[&segment.number]).await.map_err(tending)?;
        }
        let is_done =
            |segment: &&Segment| segment.closed_for.is_some() && !segment.has_writers && segment.upto.is_none();
        for segment in self.older(&client).await?.iter().filter(is_done) {
            self.seal(&mut client, segment).await?;
        }
        let held_by = self.retain(&mut client, retention).await?;
        self.expire(&client, retention).await?;
        let segments = self.segments(&client).await?;
        Ok(Holding {
            since: segments.first().map(|oldest| oldest.opened_at),
            segments: segments.len(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            held_open: segments
                .iter()
                .filter(|segment| segment.has_writers)
                .filter_map(|segment| segment.closed_for)
                .max(),
            held_by,
            lost: self.lost(&client).await?,
        })
    }

    async fn segments(&self, client: &Client) -> Result<Vec<Segment>, AdminError> {
        let rows = client.query(&self.sql(include_str!("../sql/segments.sql")), &[]).await.map_err(tending)?;
        Ok(rows.iter().map(Segment::read).collect())
    }

    /// All but the newest.
    async fn older(&self, client: &Client) -> Result<Vec<Segment>, AdminError> {
        let mut segments = self.segments(client).await?;
        segments.pop();
        Ok(segments)
    }

    async fn add_segment(&self, client: &mut Client) -> Result<(), AdminError> {
        let transaction = self.begin(client).await?;
        let add = self.sql("SELECT :schema.add_segment()");
        let number: i32 = transaction.query_one(&add, &[]).await.map_err(tending)?.get(0);
        tracing::debug!(schema = self.schema.as_str(), number, "new segment");
        // Readers hear of the segment with the count, and captures fill it only after this commit.
        self.commit(transaction, true).await
    }

    /// Points the functions of every capture to the newest segment. Replacing a function locks no table.
    async fn fill(&self, client: &mut Client, newest: i32) -> Result<(), AdminError> {
        let stale = self.sql(
            "SELECT id, plan, coalesce(state = :schema.state(relation), false) FROM :schema.capture
             WHERE NOT retired AND segment <> $1 AND id > $2 ORDER BY id LIMIT $3",
        );
        // What had drifted before must still be seen to have: only a state that was right is written anew.
        let update = self.sql(
            "UPDATE :schema.capture SET segment = $2, state = CASE WHEN $3 THEN :schema.state(relation) ELSE state END
             WHERE id = $1",
        );
        let mut last = 0;
        loop {
            let transaction = self.begin(client).await?;
            let rows = transaction.query(&stale, &[&newest, &last, &AT_A_TIME]).await.map_err(tending)?;
            let Some(row) = rows.last() else { return Ok(()) };
            last = row.get(0);
            for row in rows {
                let (id, in_order): (i32, bool) = (row.get(0), row.get(2));
                // A plan that another version wrote is installed anew by the next reconcile.
                let Ok(plan) = serde_json::from_str::<Plan>(row.get(1)) else { continue };
                for function in plan.sql(&self.schema, &segment_name(newest), id).functions {
                    transaction.batch_execute(&function).await.map_err(tending)?;
                }
                transaction.execute(&update, &[&id, &newest, &in_order]).await.map_err(tending)?;
            }
            self.commit(transaction, true).await?;
        }
    }

    /// Writes down the end of a closed segment. The lock proves that nobody is writing: also prepared transactions have one.
    async fn seal(&self, client: &mut Client, segment: &Segment) -> Result<(), AdminError> {
        let transaction = self.begin(client).await?;
        let table = format!("{}.{}", self.schema, segment_name(segment.number));
        let lock = format!("SET LOCAL lock_timeout = '{PATIENCE}'; LOCK TABLE {table} IN SHARE MODE");
        if let Err(error) = transaction.batch_execute(&lock).await {
            return if is_locked(&error) { Ok(()) } else { Err(tending(error)) };
        }
        let upto = self.sql(&format!(
            "UPDATE :schema.segment SET upto = base + coalesce((SELECT e.txid::text::bigint + 1 FROM {table} AS e ORDER BY e.txid DESC LIMIT 1), 0)
             WHERE number = $1",
        ));
        transaction.execute(&upto, &[&segment.number]).await.map_err(tending)?;
        self.commit(transaction, true).await
    }

    /// Drops the oldest segments as far as retention says and nobody needs them; tells who does.
    async fn retain(&self, client: &mut Client, retention: &Retention) -> Result<Option<ObjectName>, AdminError> {
        loop {
            let segments = self.segments(client).await?;
            let total = segments.iter().map(|segment| segment.bytes).sum();
            let Some((oldest, _)) = segments.split_first().filter(|(_, newer)| !newer.is_empty()) else {
                return Ok(None);
            };
            let Some(upto) = oldest.upto.filter(|_| is_over(oldest, total, retention)) else { return Ok(None) };
            let needed_by = self.needed_by(client, oldest, upto).await?;
            if needed_by.is_some() && retention.max_held_size.is_none_or(|size| total <= size) {
                return Ok(needed_by);
            }
            if !self.drop_segment(client, oldest, needed_by.is_some()).await? {
                return Ok(None);
            }
        }
    }

    /// A trigger that has not had every event of a sealed segment.
    async fn needed_by(
        &self,
        client: &Client,
        segment: &Segment,
        upto: Txid,
    ) -> Result<Option<ObjectName>, AdminError> {
        let cursors = self.sql(
            "SELECT t.namespace, t.name, c.cut::text FROM :schema.cursor AS c JOIN :schema.trigger AS t ON t.id = c.trigger_id
             WHERE pg_catalog.pg_snapshot_xmin(c.cut) < $1::text::pg_catalog.xid8 ORDER BY pg_catalog.pg_snapshot_xmin(c.cut)",
        );
        for row in client.query(&cursors, &[&upto.to_string()]).await.map_err(tending)? {
            // A transaction that has ended long ago, without an event of this log, may stand in the cut as running.
            let Ok(cut) = row.get::<_, &str>(2).parse::<Snapshot>() else { continue };
            let before = (segment.before > 0).then_some((segment.before_base, "<="));
            for (base, side) in before.into_iter().chain([(segment.base, ">")]) {
                let cut = cut.lowered(base);
                let lacks = self.sql(&format!(
                    "SELECT EXISTS (SELECT FROM :schema.{} WHERE txid >= $1::text::pg_catalog.xid8 AND id {side} $3
                         AND NOT pg_catalog.pg_visible_in_snapshot(txid, $2::text::pg_catalog.pg_snapshot))",
                    segment_name(segment.number)
                ));
                let of: [&(dyn ToSql + Sync); 3] =
                    [&cut.complete_below().to_string(), &cut.to_string(), &segment.before];
                if client.query_one(&lacks, &of).await.map_err(tending)?.get(0) {
                    return Ok(Some(ObjectName::new(row.get::<_, String>(0), row.get::<_, String>(1))));
                }
            }
        }
        Ok(None)
    }

    /// Drops a segment, if nobody reads it just now.
    async fn drop_segment(&self, client: &mut Client, segment: &Segment, needed: bool) -> Result<bool, AdminError> {
        let transaction = self.begin(client).await?;
        let number = segment.number;
        if needed {
            let lose = self.sql(&include_str!("../sql/lose.sql").replace(":number", &number.to_string()));
            let triggers = transaction.execute(&lose, &[]).await.map_err(tending)?;
            tracing::warn!(schema = self.schema.as_str(), number, triggers, "dropping events that were not delivered");
        }
        let drop = format!(
            "SET LOCAL lock_timeout = '{PATIENCE}'; DROP TABLE {}.{}; DELETE FROM {}.segment WHERE number = {number}",
            self.schema,
            segment_name(number),
            self.schema
        );
        match transaction.batch_execute(&drop).await {
            Ok(()) => self.commit(transaction, true).await.map(|()| true),
            Err(error) if is_locked(&error) => Ok(false),
            Err(error) => Err(tending(error)),
        }
    }

    /// Deletes dead letters that have been kept long enough; what is left of very many is for the next time.
    async fn expire(&self, client: &Client, retention: &Retention) -> Result<(), AdminError> {
        let Some(period) = retention.dead_letter_period else { return Ok(()) };
        let expire = self.sql(include_str!("../sql/expire.sql"));
        for _ in 0..GOES {
            let gone = client.execute(&expire, &[&period.as_secs_f64(), &EXPIRED]).await.map_err(tending)?;
            if gone > 0 {
                tracing::info!(
                    schema = self.schema.as_str(),
                    gone,
                    "dead letters were deleted, as retention.deadLetterPeriod says"
                );
            }
            if gone < EXPIRED.unsigned_abs() {
                break;
            }
        }
        Ok(())
    }

    async fn lost(&self, client: &Client) -> Result<Vec<(ObjectName, i64)>, AdminError> {
        let lost = self.sql(
            "SELECT trigger_namespace, trigger_name, sum(events)::bigint FROM :schema.lost GROUP BY 1, 2 ORDER BY 1, 2",
        );
        let rows = client.query(&lost, &[]).await.map_err(tending)?;
        let read = |row: &Row| (ObjectName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2));
        Ok(rows.iter().map(read).collect())
    }
}

fn is_locked(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

fn tending(source: tokio_postgres::Error) -> AdminError {
    failed("tend the log's segments", "", source)
}
