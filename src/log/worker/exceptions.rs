//! What delivery writes of events that failed: parked ones, dead letters, obstacles. A delivery that works writes none of it.

use std::{collections::BTreeMap, mem::discriminant, time::Duration};

use tokio_postgres::{Client, Row, Transaction, types::ToSql};

use super::{Lease, Most, Move, Slot, Worker, WorkerError, reader, slots, wire::Xid8};
use crate::log::{Bits, Event, Operation, Weight};

/// Bytes of events that one statement writes; one that is larger goes alone.
const STATEMENT: u64 = 1 << 20;

/// What went wrong with an attempt; bounded, without credentials.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Failure {
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// What it was, for people.
    pub error: String,
    /// The beginning of the response's body.
    pub response: String,
}

/// Something about an event that failed, or waits for one. Written in order.
#[derive(Clone, Debug)]
pub enum Exception {
    /// An event of the log is parked. The cursor may pass it in the same commit.
    Park {
        /// Whose delivery.
        subscription: i32,
        /// Its place among all events of the subscription.
        seq: i64,
        /// The group it waits in.
        root: u64,
        /// The event.
        event: std::sync::Arc<Event>,
        /// How often it was sent, and what came of it the last time; `None` if it only waits for another.
        failed: Option<(u32, Failure)>,
        /// Whether it is still to meet other partitions.
        meets: bool,
    },
    /// A partition has come to an event that another one sends: all before it is done, and what is after it waits.
    Arrive {
        /// The partition.
        subscription: i32,
        /// The event.
        event: i64,
    },
    /// That event was sent, or given up: the partition goes on.
    Depart {
        /// The partition.
        subscription: i32,
        /// The event.
        event: i64,
    },
    /// A lane waits in the group of another.
    Join {
        /// Whose delivery.
        subscription: i32,
        /// The lane.
        lane: u64,
        /// The group.
        root: u64,
    },
    /// One group becomes part of another.
    Merge {
        /// Whose delivery.
        subscription: i32,
        /// The group that ends.
        from: u64,
        /// The one that goes on.
        into: u64,
    },
    /// A group waits so long before its first event is tried again.
    Wait {
        /// Whose delivery.
        subscription: i32,
        /// The group.
        root: u64,
        /// From now.
        delay: Duration,
    },
    /// A parked event failed again.
    Failed {
        /// Whose delivery.
        subscription: i32,
        /// The event.
        seq: i64,
        /// How often it was sent by now.
        attempts: u32,
        /// What came of it the last time.
        failure: Failure,
    },
    /// A parked event is finished.
    Unpark {
        /// Whose delivery.
        subscription: i32,
        /// The event.
        seq: i64,
    },
    /// Nothing waits in a group any more.
    Clear {
        /// Whose delivery.
        subscription: i32,
        /// The group.
        root: u64,
    },
    /// An event is given up.
    Bury(DeadLetter),
    /// A dead letter is parked again, as an event that was never sent.
    Redrive {
        /// Whose delivery.
        subscription: i32,
        /// The event.
        event: i64,
        /// The group it waits in.
        root: u64,
    },
    /// The sink of a subscription takes nothing, or does again.
    Obstacle {
        /// Whose delivery.
        subscription: i32,
        /// Reason and message; `None`: events flow.
        obstacle: Option<(String, String)>,
        /// What the EventSink's annotation `eventtrigger.dev/resume` is now.
        resume: Option<String>,
    },
}

/// An event that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Whose delivery.
    pub subscription: i32,
    /// Its place among all events of the subscription.
    pub seq: i64,
    /// Its keys, as lanes.
    pub lanes: Vec<u64>,
    /// The event.
    pub event: std::sync::Arc<Event>,
    /// How often it was sent.
    pub attempts: u32,
    /// What came of it the last time.
    pub failure: Failure,
    /// Whether it was parked until now.
    pub parked: bool,
}

/// A parked event.
#[derive(Clone, Debug)]
pub struct Parked {
    /// Its place among all events of the subscription.
    pub seq: i64,
    /// How often it was sent.
    pub attempts: u32,
    /// The event, but for who matched. It has a place only if it is still to meet other partitions.
    pub event: Event,
    /// Whether it is still to meet other partitions.
    pub meets: bool,
}

/// What of a subscription is parked.
#[derive(Clone, Debug, Default)]
pub struct ParkedLanes {
    /// Above each `seq` that was ever given.
    pub next: i64,
    /// Groups: name, how many events, and how long until they are due.
    pub groups: Vec<(u64, u64, Duration)>,
    /// Lanes that wait in another's group: lane, group.
    pub joined: Vec<(u64, u64)>,
    /// What kept its events the last time: reason, message, resume.
    pub obstacle: Option<(String, String, Option<String>)>,
}

/// A dead letter that somebody wants delivered again.
#[derive(Clone, Debug)]
pub struct Redriven {
    /// The event.
    pub event: i64,
    /// Its keys.
    pub lanes: Vec<u64>,
}

impl Exception {
    /// Whose delivery it is about.
    pub fn subscription(&self) -> i32 {
        match self {
            Self::Park { subscription, .. }
            | Self::Join { subscription, .. }
            | Self::Merge { subscription, .. }
            | Self::Wait { subscription, .. }
            | Self::Failed { subscription, .. }
            | Self::Unpark { subscription, .. }
            | Self::Clear { subscription, .. }
            | Self::Bury(DeadLetter { subscription, .. })
            | Self::Redrive { subscription, .. }
            | Self::Arrive { subscription, .. }
            | Self::Depart { subscription, .. }
            | Self::Obstacle { subscription, .. } => *subscription,
        }
    }

    /// About what its event takes of memory, if it has one.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Park { event, .. } | Self::Bury(DeadLetter { event, .. }) => event.bytes(),
            _ => 0,
        }
    }

    /// How many events more are parked after it.
    pub fn parks(&self) -> i64 {
        match self {
            Self::Park { .. } | Self::Redrive { .. } => 1,
            Self::Unpark { .. } | Self::Bury(DeadLetter { parked: true, .. }) => -1,
            _ => 0,
        }
    }
}

impl Worker {
    /// Writes new positions, and what failed, in one transaction. `leases` are those of all slots that it concerns; there
    /// may be more.
    ///
    /// # Errors
    /// [`WorkerError::Fenced`] if one that it concerns is no longer ours; then nothing was written.
    pub async fn commit(&self, leases: &[Lease], moves: &[Move], exceptions: &[Exception]) -> Result<(), WorkerError> {
        let leases = slots::concerned(leases, moves, exceptions)?;
        if exceptions.is_empty() {
            return self.advance(&leases, moves).await;
        }
        let mut client = self.aside().await?;
        let Some(client) = client.as_mut() else { return Ok(()) };
        let failed = |source| WorkerError::Sql { doing: "write what failed", source };
        let transaction = client.transaction().await.map_err(failed)?;
        if !self.moved(&transaction, &leases, moves).await.map_err(failed)? {
            return Err(WorkerError::Fenced);
        }
        for alike in exceptions.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
            write(&transaction, alike).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// What is parked of these subscriptions.
    pub async fn parked(&self, subscriptions: &[i32]) -> Result<BTreeMap<i32, ParkedLanes>, WorkerError> {
        let failed = |source| WorkerError::Sql { doing: "read what is parked", source };
        let mut found = BTreeMap::<i32, ParkedLanes>::new();
        let next =
            "SELECT c.subscription, greatest((SELECT max(p.seq) FROM parked AS p WHERE p.subscription = c.subscription), (SELECT max(d.seq)
                 FROM dead_letter AS d WHERE d.trigger_namespace = t.namespace AND d.trigger_name = t.name), 0) + 1,
                 o.reason, o.message, o.resume
             FROM cursor AS c JOIN trigger AS t ON t.id = c.trigger_id LEFT JOIN obstacle AS o ON o.subscription = c.subscription
             WHERE c.subscription = ANY ($1)";
        for row in self.client.query(next, &[&subscriptions]).await.map_err(failed)? {
            let of = found.entry(row.get(0)).or_default();
            of.next = row.get(1);
            if let (Some(reason), Some(message)) = (row.get(2), row.get(3)) {
                of.obstacle = Some((reason, message, row.get(4)));
            }
        }
        let lanes = "SELECT l.subscription, l.lane, l.root, greatest(extract(epoch FROM l.due - now()), 0)::float8, CASE WHEN l.lane = l.root
                 THEN (SELECT count(*) FROM parked AS p WHERE p.subscription = l.subscription AND p.lane = l.lane) END
             FROM parked_lane AS l WHERE l.subscription = ANY ($1)";
        for row in self.client.query(lanes, &[&subscriptions]).await.map_err(failed)? {
            let of = found.entry(row.get(0)).or_default();
            let (lane, root) = (lane(row.get(1)), lane(row.get(2)));
            if lane == root {
                let due = Duration::try_from_secs_f64(row.get(3)).unwrap_or_default();
                of.groups.push((root, row.get::<_, i64>(4).unsigned_abs(), due));
            } else {
                of.joined.push((lane, root));
            }
        }
        Ok(found)
    }

    /// The first events of a group, in order; one at least.
    pub async fn fetch(&self, subscription: i32, root: u64, most: Most) -> Result<Vec<Parked>, WorkerError> {
        let limit = i64::try_from(most.events).unwrap_or(i64::MAX);
        let bytes = i64::try_from(most.bytes).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 4] = [&subscription, &root.cast_signed(), &limit, &bytes];
        let rows = self
            .client
            .query(&self.statements.fetch, &parameters)
            .await
            .map_err(|source| WorkerError::Sql { doing: "read parked events", source })?;
        let weighed = |parked: Parked| Parked { event: parked.event.weighed(self.reader.scale()), ..parked };
        rows.iter().map(|row| Ok(weighed(parked(row, row.get(10))?))).collect()
    }

    /// Dead letters that are to be delivered again by whoever holds these slots, in order, each with its subscription.
    pub async fn redriven(&self, slots: &[Slot], limit: usize) -> Result<Vec<(i32, Redriven)>, WorkerError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .client
            .query(
                "SELECT c.subscription, d.event_id, d.lanes FROM dead_letter AS d
                 JOIN trigger AS t ON t.namespace = d.trigger_namespace AND t.name = d.trigger_name
                 JOIN cursor AS c ON c.trigger_id = t.id LEFT JOIN spread AS s ON s.trigger_id = t.id
                 WHERE d.redrive AND c.pool = $4 AND c.subscription % $2 = ANY ($3)
                   AND (s.trigger_id IS NULL OR (d.lanes[1] >> 33 & 2147483647) % s.partitions = c.partition)
                 ORDER BY c.subscription, d.seq LIMIT $1",
                &[&limit, &slots::modulus(), &slots::numbers(slots), &self.pool],
            )
            .await
            .map_err(|source| WorkerError::Sql { doing: "read dead letters to be redriven", source })?;
        let redriven = |row: &Row| {
            let lanes = row.get::<_, Vec<i64>>(2).into_iter().map(lane).collect();
            (row.get(0), Redriven { event: row.get(1), lanes })
        };
        Ok(rows.iter().map(redriven).collect())
    }

    /// A connection of its own, for transactions of several statements: the first one's statements are pipelined.
    pub(super) async fn aside(&self) -> Result<tokio::sync::MutexGuard<'_, Option<Client>>, WorkerError> {
        let mut client = self.aside.lock().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            let connected = self.config.connect("eventtrigger deliver failures").await?;
            // A worker that is stopped in the middle of a transaction must not lock its leases for longer than they last.
            let settings = format!(
                "{}; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'",
                reader::settings(&self.schema)
            );
            connected
                .batch_execute(&settings)
                .await
                .map_err(|source| WorkerError::Sql { doing: "prepare the worker's statements", source })?;
            *client = Some(connected);
        }
        Ok(client)
    }
}

fn lane(number: i64) -> u64 {
    number.cast_unsigned()
}

pub(super) fn parked(row: &Row, meets: Option<Xid8>) -> Result<Parked, WorkerError> {
    let corrupt = |what, why: String| WorkerError::Corrupt { what, why };
    let code = char::from(row.get::<_, i8>(6).cast_unsigned());
    let txid = row.get::<_, Xid8>(3).0;
    // Only what is read from the log has a place in it, and what is to be looked for there.
    Ok(Parked {
        meets: meets.is_some(),
        seq: row.get(0),
        attempts: row.get::<_, i32>(1).unsigned_abs(),
        event: Event {
            id: row.get(2),
            txid,
            place: meets.map_or(0, |Xid8(place)| place),
            at: jiff::Timestamp::try_from(row.get::<_, std::time::SystemTime>(4))
                .map_err(|error| corrupt("a time", error.to_string()))?,
            capture: row.get(5),
            operation: Operation::from_code(code).ok_or_else(|| corrupt("an operation", code.to_string()))?,
            matched: Bits::new(0, &[]),
            old: row.get(7),
            new: row.get(8),
            context: row.get(9),
            weight: Weight::default(),
        },
    })
}

/// Columns of an event, as arrays.
#[derive(Default)]
struct Events<'a> {
    ids: Vec<i64>,
    txids: Vec<Xid8>,
    at: Vec<std::time::SystemTime>,
    captures: Vec<i32>,
    operations: Vec<String>,
    old: Vec<Option<&'a str>>,
    new: Vec<Option<&'a str>>,
    context: Vec<Option<&'a str>>,
}

impl<'a> Events<'a> {
    fn push(&mut self, event: &'a Event) {
        self.ids.push(event.id);
        self.txids.push(Xid8(event.txid));
        self.at.push(event.at.into());
        self.captures.push(event.capture);
        self.operations.push(event.operation.code().to_string());
        self.old.push(event.old.as_deref());
        self.new.push(event.new.as_deref());
        self.context.push(event.context.as_deref());
    }
}

/// Columns of a failure, as arrays.
#[derive(Default)]
struct Failures<'a> {
    attempts: Vec<i32>,
    status: Vec<Option<i32>>,
    errors: Vec<Option<&'a str>>,
    responses: Vec<Option<&'a str>>,
}

impl<'a> Failures<'a> {
    fn push(&mut self, attempts: u32, failure: Option<&'a Failure>) {
        self.attempts.push(i32::try_from(attempts).unwrap_or(i32::MAX));
        self.status.push(failure.and_then(|failure| failure.status).map(i32::from));
        self.errors.push(failure.map(|failure| failure.error.as_str()));
        self.responses.push(failure.map(|failure| failure.response.as_str()).filter(|text| !text.is_empty()));
    }
}

/// Some that are alike, as arrays: each kind fills those that its statement takes.
#[derive(Default)]
struct Arrays<'a> {
    of: Vec<i32>,
    first: Vec<i64>,
    second: Vec<i64>,
    events: Events<'a>,
    failures: Failures<'a>,
    delays: Vec<f64>,
    lanes: Vec<String>,
    parked: Vec<bool>,
    meets: Vec<Option<Xid8>>,
    texts: [Vec<Option<&'a str>>; 3],
}

impl<'a> Arrays<'a> {
    fn push(&mut self, exception: &'a Exception) {
        match exception {
            Exception::Park { subscription, seq, root, event, failed, meets } => {
                self.meets.push(meets.then_some(Xid8(event.place)));
                self.of.push(*subscription);
                self.first.push(*seq);
                self.second.push(root.cast_signed());
                self.events.push(event);
                let (attempts, failure) =
                    failed.as_ref().map_or((0, None), |(attempts, failure)| (*attempts, Some(failure)));
                self.failures.push(attempts, failure);
            }
            Exception::Join { subscription, lane: one, root: other }
            | Exception::Merge { subscription, from: one, into: other } => {
                self.of.push(*subscription);
                self.first.push(one.cast_signed());
                self.second.push(other.cast_signed());
            }
            Exception::Wait { subscription, root, delay } => {
                self.of.push(*subscription);
                self.first.push(root.cast_signed());
                self.delays.push(delay.as_secs_f64());
            }
            Exception::Failed { subscription, seq, attempts, failure } => {
                self.of.push(*subscription);
                self.first.push(*seq);
                self.failures.push(*attempts, Some(failure));
            }
            Exception::Unpark { subscription, seq } => {
                self.of.push(*subscription);
                self.first.push(*seq);
            }
            Exception::Clear { subscription, root } => {
                self.of.push(*subscription);
                self.first.push(root.cast_signed());
            }
            Exception::Bury(letter) => {
                self.of.push(letter.subscription);
                self.first.push(letter.seq);
                self.events.push(&letter.event);
                self.failures.push(letter.attempts, Some(&letter.failure));
                let lanes: Vec<_> = letter.lanes.iter().map(|lane| lane.cast_signed()).collect();
                self.lanes.push(super::array(&lanes));
                self.parked.push(letter.parked);
            }
            Exception::Arrive { subscription, event } | Exception::Depart { subscription, event } => {
                self.of.push(*subscription);
                self.first.push(*event);
            }
            Exception::Redrive { subscription, event, root } => {
                self.of.push(*subscription);
                self.first.push(*event);
                self.second.push(root.cast_signed());
            }
            Exception::Obstacle { subscription, obstacle, resume } => {
                self.of.push(*subscription);
                let (reason, message) =
                    obstacle.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())).unzip();
                for (texts, text) in self.texts.iter_mut().zip([reason, message, resume.as_deref()]) {
                    texts.push(text);
                }
            }
        }
    }

    /// The statement that writes them, and what it takes.
    fn statement(&self, kind: &Exception) -> (&'static str, Vec<&(dyn ToSql + Sync)>) {
        let Self { of, first, second, events, failures, delays, lanes, parked, meets, texts } = self;
        let Events { ids, txids, at, captures, operations, old, new, context } = events;
        let Failures { attempts, status, errors, responses } = failures;
        match kind {
            Exception::Park { .. } => (
                include_str!("../sql/park.sql"),
                vec![
                    of, first, second, ids, txids, at, captures, operations, old, new, context, attempts, status,
                    errors, responses, meets,
                ],
            ),
            Exception::Arrive { .. } => (include_str!("../sql/arrive.sql"), vec![of, first]),
            Exception::Depart { .. } => (include_str!("../sql/depart.sql"), vec![of, first]),
            Exception::Join { .. } => (include_str!("../sql/join.sql"), vec![of, first, second]),
            Exception::Merge { .. } => (include_str!("../sql/merge.sql"), vec![of, first, second]),
            Exception::Wait { .. } => (include_str!("../sql/wait.sql"), vec![of, first, delays]),
            Exception::Failed { .. } => {
                (include_str!("../sql/failed.sql"), vec![of, first, attempts, status, errors, responses])
            }
            Exception::Unpark { .. } => (include_str!("../sql/unpark.sql"), vec![of, first]),
            Exception::Clear { .. } => (include_str!("../sql/clear.sql"), vec![of, first]),
            Exception::Bury(_) => (
                include_str!("../sql/bury.sql"),
                vec![
                    of, first, ids, txids, at, captures, operations, old, new, context, attempts, status, errors,
                    responses, lanes, parked,
                ],
            ),
            Exception::Redrive { .. } => (include_str!("../sql/redrive.sql"), vec![of, first, second]),
            Exception::Obstacle { .. } => {
                (include_str!("../sql/obstacle.sql"), vec![of, &texts[0], &texts[1], &texts[2]])
            }
        }
    }
}

/// How many of the first of them go into one statement: the driver copies them.
fn together(alike: &[Exception]) -> usize {
    // One after the other: a group that another was merged into may itself be merged.
    if matches!(alike, [Exception::Merge { .. }, ..]) {
        return 1;
    }
    let mut sum = 0;
    let fit = alike.iter().take_while(|exception| {
        sum += exception.bytes();
        sum <= STATEMENT
    });
    fit.count().max(1)
}

/// Writes some that are alike. Their statements are prepared each time: failures are rare, or come in long arrays.
async fn write(transaction: &Transaction<'_>, alike: &[Exception]) -> Result<(), tokio_postgres::Error> {
    let mut left = alike;
    while !left.is_empty() {
        let (some, rest) = left.split_at(together(left));
        left = rest;
        let mut arrays = Arrays::default();
        for exception in some {
            arrays.push(exception);
        }
        let (sql, parameters) = arrays.statement(&some[0]);
        transaction.execute(sql, &parameters).await?;
    }
    Ok(())
}
