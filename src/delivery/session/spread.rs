//! EventTriggers in several partitions: their passes agree on windows with those of other workers, events that concern more than
//! one partition wait for the others, and the events are divided anew when the definition says so.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;

use super::{
    super::{
        courier::{Order, lanes, role},
        lanes::Keys,
        pass::Next,
    },
    Io, Session,
    members::{Member, State, Unsaved},
    reading::Start,
};
use crate::log::{Capture, Event, Snapshot, Wait, Worker, WorkerError};

/// Between two cuts of one EventTrigger: each is a row written.
const CUT: Duration = Duration::from_millis(5);
/// So long something must have waited before it is looked for less often.
const LONG: Duration = Duration::from_secs(1);
/// Between two looks whether other partitions have come, at first and after a while.
const MEET: Duration = Duration::from_millis(2);
const PATIENT: Duration = Duration::from_millis(50);
/// Waiting events that are asked for at a time.
const ASKED: usize = 1000;
/// Between two attempts to divide the events of an EventTrigger anew.
const DIVIDE: Duration = Duration::from_millis(250);

/// What a session remembers about partitions; nothing, if there are none.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Events that wait, by partition, and since when.
    waits: BTreeMap<(i32, i64), (Wait, Instant)>,
    /// Whether it is being asked for some.
    asking: bool,
    /// The last one that was asked for: every one's turn comes.
    asked: (i32, i64),
    /// Whether events are being divided, and when that was last begun.
    dividing: bool,
    divided: Option<Instant>,
}

/// Where a window ends.
pub(super) struct Agreed {
    from: Arc<Snapshot>,
    /// At the moment of asking.
    now: Arc<Snapshot>,
    to: Option<Snapshot>,
}

impl Spread {
    /// An event waits for other partitions.
    pub(super) fn wait(&mut self, wait: Wait) {
        self.waits.entry((wait.subscription, wait.event)).or_insert((wait, Instant::now()));
    }

    /// Forgets what waits of a subscription.
    pub(super) fn forget(&mut self, subscription: i32) {
        self.waits.retain(|(of, _), _| *of != subscription);
    }
}

impl Member {
    /// Whether the event is one of its partition's, or concerns it; `known` keeps the keys for other partitions.
    pub(super) fn concerns(&self, event: &Event, capture: &Capture, known: &OnceCell<Keys<u64>>) -> bool {
        if self.partition.is_whole() {
            return true;
        }
        let keys = known.get_or_init(|| lanes(event, capture, &self.definition.ordering));
        role(self.partition, keys, event.id).is_some()
    }
}

impl Session<'_> {
    /// Asks where the next window of a pass of partitions ends, if the pass may read it.
    pub(super) fn agree(&mut self, id: u64) {
        let share = self.share();
        let (Some(now), Some(pass)) = (self.pulse.clone(), self.passes.get_mut(&id)) else { return };
        let Some(Start { from, .. }) = Start::of(pass.members().iter().map(|id| (*id, &self.members[id].ledger)))
        else {
            return;
        };
        match pass.next(Instant::now(), |id| self.members[&id].ledger.room(share)) {
            Next::Wait => return,
            Next::Split(late) => return self.split(id, &late),
            Next::Read => {}
        }
        let of = pass.members().iter().filter_map(|id| self.members.get(id));
        let last = of.filter_map(|member| member.cut).max();
        if last.is_some_and(|last| last.elapsed() < CUT) {
            return;
        }
        let Some(partition) = pass.members().first().copied() else { return };
        pass.ask();
        let worker = self.worker.clone();
        self.io.push(
            async move {
                let to = next(&worker, partition, &from, &now).await;
                Io::Agreed(id, to.map(|to| Agreed { from, now, to }))
            }
            .boxed(),
        );
    }

    /// Reads the window that was agreed on.
    pub(super) fn note_agreed(&mut self, id: u64, Agreed { from, now, to }: Agreed) {
        let Some(pass) = self.passes.get_mut(&id) else { return };
        pass.told();
        let start = Start::of(pass.members().iter().map(|id| (*id, &self.members[id].ledger)));
        let Some(start) = start.filter(|start| start.from == from && start.apart.is_empty()) else { return };
        let members = pass.members().clone();
        for id in members {
            let Some(member) = self.members.get_mut(&id) else { continue };
            match to {
                Some(_) => member.cut = Some(Instant::now()),
                // Nothing was captured until then.
                None => member.clear = Some(now.clone()),
            }
        }
        if let Some(to) = to {
            self.read_page(id, start, Arc::new(to));
        }
    }

    /// Asks whether other partitions have come. What was said before must be written by then: they wait for that, too.
    pub(super) fn meet(&mut self) {
        if self.spread.asking || self.spread.waits.is_empty() || self.stopping {
            return;
        }
        let after = self.spread.waits.range((Bound::Excluded(self.spread.asked), Bound::Unbounded));
        let waits: Vec<_> = after.chain(&self.spread.waits).take(ASKED.min(self.spread.waits.len())).collect();
        let Some((last, _)) = waits.last() else { return };
        let fresh = waits.iter().any(|(_, (_, since))| since.elapsed() < LONG);
        let pause = if fresh { MEET } else { PATIENT };
        self.spread.asked = **last;
        let waits: Vec<_> = waits.into_iter().map(|(_, (wait, _))| *wait).collect();
        self.spread.asking = true;
        let worker = self.worker.clone();
        self.io.push(
            async move {
                tokio::time::sleep(pause).await;
                Io::Met(worker.met(&waits).await)
            }
            .boxed(),
        );
    }

    /// Tells couriers whose events wait no more.
    pub(super) fn note_met(&mut self, met: Vec<(i32, i64)>) {
        self.spread.asking = false;
        for (subscription, event) in met {
            self.spread.waits.remove(&(subscription, event));
            if let Some(Member { state: State::Active { orders, .. }, .. }) = self.members.get(&subscription) {
                let _ = orders.send(Order::Met(event));
            }
        }
        self.meet();
    }

    /// Whether the member is to end, so that its events can be divided: the only partition can at any cut.
    pub(super) fn ends_to_divide(member: &Member) -> bool {
        member.divides && member.partition.is_whole() && member.parked == 0
    }

    /// Has the cursor of a member written that is to be divided.
    pub(super) fn written_soon(&mut self, id: i32) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.unsaved != Unsaved::Nothing {
            member.unsaved = Unsaved::Done;
            self.due = Some(Instant::now());
        }
    }

    /// Divides events anew, if some are to be and it is time to try.
    pub(super) fn divide(&mut self) {
        let recently = self.spread.divided.is_some_and(|at| at.elapsed() < DIVIDE);
        if self.spread.dividing || recently || self.stopping {
            return;
        }
        let written = self.exceptions.is_empty() && !self.committing;
        let ready = self.members.iter().find(|(id, member)| {
            let rests = matches!(member.state, State::Resting) && member.unsaved == Unsaved::Nothing && written;
            member.divides && self.slots.delivers(**id) && (rests || !member.partition.is_whole())
        });
        let Some((&id, member)) = ready else { return };
        let (trigger, whole) = (member.trigger, member.partition.is_whole());
        let Some(lease) = self.slots.lease(id) else { return };
        if whole && let Some(member) = self.members.get_mut(&id) {
            member.state = State::Dividing;
        }
        self.spread.dividing = true;
        self.spread.divided = Some(Instant::now());
        let worker = self.worker.clone();
        self.io.push(async move { Io::Divided(id, worker.divide(trigger, lease).await) }.boxed());
    }

    pub(super) fn note_divided(&mut self, id: i32, changed: bool) {
        self.spread.dividing = false;
        if let Some(member) = self.members.get_mut(&id)
            && matches!(member.state, State::Dividing)
        {
            member.state = State::Resting;
            // Something of it is parked: it goes on until that is through.
            member.parked = member.parked.max(u64::from(!changed));
        }
        if changed && !self.loading {
            self.load_definitions();
        } else {
            self.settle_members();
        }
    }
}

/// The cut after `from`, if there is one, or is to be one: while nothing is captured, none is.
async fn next(
    worker: &Worker,
    partition: i32,
    from: &Snapshot,
    now: &Snapshot,
) -> Result<Option<Snapshot>, WorkerError> {
    if let Some(to) = worker.next_cut(partition, from).await? {
        return Ok(Some(to));
    }
    let to = worker.until(from, now);
    // Another worker may have agreed on a cut that is newer than our look at the log.
    if !from.is_within(&to) || !worker.any(from, &to).await? {
        return Ok(None);
    }
    worker.agree(partition, from, &to).await
}
