//! Slots: the parts of a pool's delivery, each held by one worker at a time.

use std::{collections::BTreeSet, time::Duration};

use super::{Exception, Move, Worker, WorkerError};

/// Advisory locks of this class, with the log's schema in it, are held by the sessions of workers.
pub(super) const CLASS: i32 = 0x6576_6c67;
/// Slots of a pool; as many rows has the table `lease` for it. More workers than slots are of no use.
const SLOTS: i32 = 16;

/// One of the fixed number of parts that the EventTriggers of a pool are divided into.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Slot(i32);

impl Slot {
    /// The slot of a subscription: its number modulo 16, so that those of a log, numbered one after another, are spread
    /// evenly. All of its events are delivered by whoever holds the slot. Only what concerns several partitions of an
    /// EventTrigger needs agreement.
    pub fn of(subscription: i32) -> Self {
        Self(subscription.rem_euclid(SLOTS))
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..SLOTS).map(Self)
    }
}

/// The right to deliver the events of a slot; the number rises with every holder, and fences the ones before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Of what.
    pub slot: Slot,
    /// This holder's number.
    pub epoch: i64,
}

/// Who shares a log's delivery.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Survey {
    /// Number of the worker that asked.
    pub me: i32,
    /// Numbers of those that live, ascending, the one that asked among them.
    pub living: Vec<i32>,
    /// Who holds each slot, if anybody does.
    pub holders: Vec<(Slot, Option<i32>)>,
}

impl Worker {
    /// This worker's number, from the first call on; `holder` names it for people.
    async fn enter(&self, holder: &str) -> Result<i32, WorkerError> {
        let enter = async || {
            let row = self.client.query_one(include_str!("../sql/enter.sql"), &[&holder, &CLASS, &self.pool]).await;
            row.map(|row| row.get(0)).map_err(holding)
        };
        self.number.get_or_try_init(enter).await.copied()
    }

    /// Takes those slots, for `length`, that no living worker holds; which it got.
    ///
    /// A holder whose connection is gone loses its slots at once, one that has stopped when `length` is over.
    pub async fn take(
        &self,
        holder: &str,
        slots: impl IntoIterator<Item = Slot>,
        length: Duration,
    ) -> Result<Vec<Lease>, WorkerError> {
        let number = self.enter(holder).await?;
        let slots: Vec<_> = slots.into_iter().map(|Slot(slot)| slot).collect();
        let take = include_str!("../sql/take.sql");
        let rows =
            self.client.query(take, &[&number, &holder, &length.as_secs_f64(), &CLASS, &slots, &self.pool]).await;
        let lease = |row: &tokio_postgres::Row| Lease { slot: Slot(row.get(0)), epoch: row.get(1) };
        Ok(rows.map_err(holding)?.iter().map(lease).collect())
    }

    /// Says that this worker lives, and holds its slots for `length` from now.
    ///
    /// # Errors
    /// [`WorkerError::Fenced`] if one of them is no longer ours.
    pub async fn renew(&self, leases: &[Lease], length: Duration) -> Result<(), WorkerError> {
        let number = self.number.get().copied().unwrap_or_default();
        let (slots, epochs) = arrays(leases);
        let renewed = self
            .client
            .execute(&self.statements.renew, &[&number, &length.as_secs_f64(), &CLASS, &slots, &epochs, &self.pool])
            .await
            .map_err(holding)?;
        if usize::try_from(renewed) == Ok(leases.len()) { Ok(()) } else { Err(WorkerError::Fenced) }
    }

    /// Who else delivers. A worker counts as living for `length` after it was heard of, if its connection lasts.
    pub async fn survey(&self, holder: &str, length: Duration) -> Result<Survey, WorkerError> {
        let me = self.enter(holder).await?;
        let row = self
            .client
            .query_one(&self.statements.survey, &[&me, &length.as_secs_f64(), &CLASS, &self.pool])
            .await
            .map_err(holding)?;
        let holders: Vec<Option<i32>> = row.get(1);
        Ok(Survey { me, living: row.get(0), holders: (0..).map(Slot).zip(holders).collect() })
    }

    /// Gives slots up, so that another worker need not wait.
    pub async fn give(&self, leases: &[Lease]) -> Result<(), WorkerError> {
        let (slots, epochs) = arrays(leases);
        self.client.execute(include_str!("../sql/give.sql"), &[&slots, &epochs, &self.pool]).await.map_err(holding)?;
        Ok(())
    }

    /// Takes no share any more: others need not leave slots to this worker. It keeps what it holds.
    pub async fn retire(&self) -> Result<(), WorkerError> {
        let Some(number) = self.number.get() else { return Ok(()) };
        self.client.execute("DELETE FROM worker WHERE number = $1", &[number]).await.map_err(holding)?;
        Ok(())
    }

    /// Gives up everything it holds, whatever that is.
    pub async fn leave(&self) -> Result<(), WorkerError> {
        let Some(number) = self.number.get() else { return Ok(()) };
        let give = "UPDATE lease SET worker = 0, holder = '', until = '-infinity' WHERE worker = $1";
        self.client.execute(give, &[number]).await.map_err(holding)?;
        self.retire().await
    }
}

/// Of `leases` those of the slots that a commit concerns.
///
/// # Errors
/// [`WorkerError::Fenced`] if it concerns one that is not among them.
pub(super) fn concerned(leases: &[Lease], moves: &[Move], exceptions: &[Exception]) -> Result<Vec<Lease>, WorkerError> {
    let subscriptions = moves.iter().map(|step| step.subscription);
    let subscriptions = subscriptions.chain(exceptions.iter().map(Exception::subscription));
    let slots: BTreeSet<_> = subscriptions.map(Slot::of).collect();
    let leases: Vec<_> = leases.iter().copied().filter(|lease| slots.contains(&lease.slot)).collect();
    if leases.len() == slots.len() { Ok(leases) } else { Err(WorkerError::Fenced) }
}

/// Leases, as statements take them.
pub(super) fn arrays(leases: &[Lease]) -> (Vec<i32>, Vec<i64>) {
    leases.iter().map(|lease| (lease.slot.0, lease.epoch)).unzip()
}

/// Numbers of slots, as statements take them.
pub(super) fn numbers(slots: &[Slot]) -> Vec<i32> {
    slots.iter().map(|slot| slot.0).collect()
}

/// So many slots there are, for statements.
pub(super) fn modulus() -> i32 {
    SLOTS
}

fn holding(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "hold slots of the log", source }
}
