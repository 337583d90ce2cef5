//! Which slots are held: what others leave is taken, what is theirs is given up once nothing of it is under way, and all is
//! renewed while it is held.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::time::Instant;

use super::{
    super::{
        progress::Phase,
        share::{self, Holder, Plan, Seen},
    },
    Io, Session, Unsaved,
    members::State,
};
use crate::log::{ConnectError, Exception, Lease, Slot, Worker, WorkerError};

/// For how long slots are taken: a holder that hangs is replaced after it. One whose connection breaks is at once.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// Between renewals: two may fail before the leases are over.
const RENEWAL: Duration = Duration::from_secs(3);
/// Before the leases are over by our clock, nothing may be under way: the server's clock may run a little faster.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two looks at who else there is: most of the time that a hand-over takes.
const LOOK: Duration = Duration::from_millis(250);
/// Before the next look when another worker was quicker, or a slot's row was locked.
const AGAIN: Duration = Duration::from_millis(20);

/// The slots of one session.
#[derive(Debug, Default)]
pub(super) struct Slots {
    held: BTreeMap<Slot, Held>,
    /// When to look for others next; not before the definitions are known, which say what the slots are good for.
    next: Option<Instant>,
    renewal: Option<Instant>,
    /// The leases are over by our clock.
    over: Option<Instant>,
    /// Whether statements about slots are on their way. One at a time: what is renewed is all that is held.
    busy: bool,
    /// Whether each slot was held by a living worker when last looked.
    shared_out: bool,
    retired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: i64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Taken. Another worker may have moved its cursors since they were read.
    Taken,
    /// Its cursors are being read.
    Reading,
    /// It is delivered.
    Ready,
    /// It is given up when nothing of it is under way any more.
    Leaving,
}

/// What is done about slots in one go.
struct Round {
    holder: String,
    begun: Instant,
    renew: Option<Vec<Lease>>,
    give: Vec<Lease>,
    retire: bool,
    /// Slots that are used, and those held but about to be given up; `None`: do not look for others.
    look: Option<(BTreeSet<Slot>, BTreeSet<Slot>)>,
}

/// What came of it.
pub(super) struct Rounded {
    begun: Instant,
    renewed: bool,
    given: Vec<Lease>,
    retired: bool,
    looked: Option<Looked>,
}

struct Looked {
    taken: Vec<Lease>,
    leave: Vec<Slot>,
    /// Whether nobody was quicker.
    all: bool,
    shared_out: bool,
}

impl Slots {
    /// Whether the slot is ours, so that its EventTriggers' state is worth telling.
    pub(super) fn holds(&self, subscription: i32) -> bool {
        self.held.contains_key(&Slot::of(subscription))
    }

    /// The right to deliver a subscription.
    pub(super) fn lease(&self, subscription: i32) -> Option<Lease> {
        let slot = Slot::of(subscription);
        self.held.get(&slot).map(|held| Lease { slot, epoch: held.epoch })
    }

    /// Whether a subscription may be delivered.
    pub(super) fn delivers(&self, subscription: i32) -> bool {
        self.held.get(&Slot::of(subscription)).is_some_and(|held| held.stage == Stage::Ready)
    }

    /// Those that are delivered, or will be when their cursors are read.
    pub(super) fn wanted(&self) -> Vec<Slot> {
        self.held.iter().filter(|(_, held)| held.stage != Stage::Leaving).map(|(slot, _)| *slot).collect()
    }

    /// Whether cursors must be read.
    pub(super) fn must_read(&self) -> bool {
        self.held.values().any(|held| held.stage == Stage::Taken)
    }

    /// Definitions and cursors will be read from here on.
    pub(super) fn reading(&mut self) {
        self.step(Stage::Taken, Stage::Reading);
    }

    /// Whether the cursor that was just read is that of a slot that was taken before.
    pub(super) fn is_fresh(&self, subscription: i32) -> bool {
        self.held.get(&Slot::of(subscription)).is_some_and(|held| held.stage == Stage::Reading)
    }

    /// Definitions and cursors were read, and are known.
    pub(super) fn read(&mut self) {
        self.step(Stage::Reading, Stage::Ready);
        self.next.get_or_insert_with(Instant::now);
    }

    /// All are to be given up.
    pub(super) fn leave_all(&mut self) {
        self.held.values_mut().for_each(|held| held.stage = Stage::Leaving);
        // At once.
        self.next = Some(Instant::now());
    }

    fn step(&mut self, from: Stage, to: Stage) {
        self.held.values_mut().filter(|held| held.stage == from).for_each(|held| held.stage = to);
    }

    /// Rights for a commit.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.held.iter().map(|(&slot, held)| Lease { slot, epoch: held.epoch }).collect()
    }

    /// Whether everything that is to be delivered here is, as far as slots say.
    pub(super) fn is_settled(&self) -> bool {
        self.shared_out && !self.held.is_empty() && self.held.values().all(|held| held.stage == Stage::Ready)
    }

    /// Until the next look at the log of one that delivers nothing: it only needs to know what has changed of the definitions.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.held.is_empty().then_some(LOOK)
    }

    /// When the loop has something to do about slots, whatever else happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.busy { self.over } else { self.over.into_iter().chain(self.next).min() }
    }
}

impl Session<'_> {
    /// Does what is due: it comes round after everything that happens.
    ///
    /// # Errors
    /// If the leases are over, because the server has not answered for that long: the connection is half dead, and another one
    /// may work. Then nothing may be under way any more.
    pub(super) fn tend(&mut self) -> Result<(), WorkerError> {
        let now = Instant::now();
        if self.slots.over.is_some_and(|over| over <= now) {
            return Err(self.silent());
        }
        let Some(next) = self.slots.next.filter(|_| !self.slots.busy) else { return Ok(()) };
        let give = self.quiet();
        if next > now && give.is_empty() {
            return Ok(());
        }
        let slots = &mut self.slots;
        let due = slots.renewal.is_none_or(|renewal| renewal <= now);
        let keep: Vec<_> = slots.leases().into_iter().filter(|lease| !give.contains(lease)).collect();
        let leaving = slots.held.iter().filter(|(_, held)| held.stage == Stage::Leaving).map(|(slot, _)| *slot);
        let used = self.members.keys().map(|&id| Slot::of(id));
        let round = Round {
            holder: self.given.holder.to_owned(),
            begun: now,
            renew: due.then_some(keep),
            give,
            retire: self.stopping && !slots.retired,
            look: (!self.stopping).then(|| (used.collect(), leaving.collect())),
        };
        slots.busy = true;
        if slots.over.is_none() {
            self.hold_until(now + LEASE - MARGIN);
        }
        let worker = self.worker.clone();
        self.io.push(async move { Io::Slots(round.run(&worker).await) }.boxed());
        Ok(())
    }

    /// The server has not answered for as long as leases last.
    pub(super) fn silent(&self) -> WorkerError {
        ConnectError::Timeout { to: self.given.config.connection.to_string(), seconds: LEASE.as_secs() }.into()
    }

    /// The leases hold until then by our clock, and so long bytes may go out.
    fn hold_until(&mut self, over: Instant) {
        self.slots.over = Some(over);
        self.given.client.fence().open_until(over);
    }

    /// Takes in what came of a round.
    pub(super) fn note_slots(&mut self, rounded: Rounded) {
        let Rounded { begun, renewed, given, retired, looked } = rounded;
        let now = Instant::now();
        let before = self.slots.held.len();
        self.slots.busy = false;
        self.slots.retired |= retired;
        if renewed {
            self.hold_until(begun + LEASE - MARGIN);
            self.slots.renewal = Some(begun + RENEWAL);
        }
        let mut wait = LOOK;
        let moved = !given.is_empty() || looked.as_ref().is_some_and(|looked| !looked.taken.is_empty());
        for Lease { slot, .. } in given {
            self.slots.held.remove(&slot);
            self.forsake(slot);
        }
        if let Some(Looked { taken, leave, all, shared_out }) = looked {
            self.slots.shared_out = shared_out;
            let stage = if self.stopping { Stage::Leaving } else { Stage::Taken };
            let taken = taken.into_iter().map(|Lease { slot, epoch }| (slot, Held { epoch, stage }));
            self.slots.held.extend(taken);
            for slot in leave {
                self.give_up(slot);
            }
            if !all {
                wait = AGAIN;
            }
        }
        self.slots.next = Some(now + wait);
        self.gauges.slots.set(self.slots.held.len());
        if self.stopping {
            return;
        }
        if moved {
            let (log, slots) = (&self.given.config.owner.log, self.slots.held.len());
            tracing::info!(%log, before, slots, "slots were shared out anew");
            self.tell_held();
        }
        self.read_definitions();
        let phase = if self.slots.held.is_empty() { Phase::StandingBy } else { Phase::Delivering };
        self.given.monitor.phase(phase);
    }

    /// Lets attempts of a slot end, so that another worker can have it.
    fn give_up(&mut self, slot: Slot) {
        if let Some(held) = self.slots.held.get_mut(&slot) {
            held.stage = Stage::Leaving;
        }
        for id in self.members.keys().copied().filter(|&id| Slot::of(id) == slot).collect::<Vec<_>>() {
            self.leave(id);
        }
    }

    /// Of a slot that is another's from here on nothing is to be remembered.
    fn forsake(&mut self, slot: Slot) {
        for (_, member) in self.members.iter_mut().filter(|(id, _)| Slot::of(**id) == slot) {
            member.ledger = member.ledger.anew();
            member.parked = 0;
        }
        self.redriving.retain(|(id, _)| Slot::of(*id) != slot);
    }

    /// Of the slots that are to be given up, those of which nothing is under way and everything is written.
    fn quiet(&mut self) -> Vec<Lease> {
        let leaving = self.slots.held.iter().filter(|(_, held)| held.stage == Stage::Leaving);
        let leaving: Vec<_> = leaving.map(|(&slot, held)| Lease { slot, epoch: held.epoch }).collect();
        let mut quiet = Vec::new();
        let mut unwritten = false;
        for lease in leaving {
            let mut members: Vec<_> = self.members.iter_mut().filter(|(id, _)| Slot::of(**id) == lease.slot).collect();
            let rest = members.iter().all(|(_, member)| matches!(member.state, State::Resting));
            if !rest || self.committing && self.writing.contains(&lease.slot) {
                continue;
            }
            let mut exceptions = self.exceptions.iter().map(Exception::subscription);
            if exceptions.any(|id| Slot::of(id) == lease.slot)
                || members.iter().any(|(_, member)| member.unsaved != Unsaved::Nothing)
            {
                // Whichever commit is next shall have them.
                let unsaved = members.iter_mut().filter(|(_, member)| member.unsaved != Unsaved::Nothing);
                unsaved.for_each(|(_, member)| member.unsaved = Unsaved::Done);
                unwritten = true;
            } else {
                quiet.push(lease);
            }
        }
        if unwritten {
            self.commit(Unsaved::Done);
        }
        quiet
    }
}

impl Round {
    async fn run(self, worker: &Arc<Worker>) -> Result<Rounded, WorkerError> {
        let Self { holder, begun, renew, give, retire, look } = self;
        if !give.is_empty() {
            worker.give(&give).await?;
        }
        if retire {
            worker.retire().await?;
        }
        if let Some(leases) = &renew {
            worker.renew(leases, LEASE).await?;
        }
        let looked = match look {
            Some((used, leaving)) => Some(look_around(worker, &holder, &used, &leaving).await?),
            None => None,
        };
        Ok(Rounded { begun, renewed: renew.is_some(), given: give, retired: retire, looked })
    }
}

/// Looks who there is, and takes what is to be taken.
async fn look_around(
    worker: &Worker,
    holder: &str,
    used: &BTreeSet<Slot>,
    leaving: &BTreeSet<Slot>,
) -> Result<Looked, WorkerError> {
    let survey = worker.survey(holder, LEASE).await?;
    let rank = survey.living.iter().filter(|&&other| other < survey.me).count();
    let slots = survey.holders.iter().map(|&(slot, number)| {
        let holder = match number {
            None => Holder::Nobody,
            Some(number) if number == survey.me && !leaving.contains(&slot) => Holder::Me,
            Some(_) => Holder::Other,
        };
        Seen { slot, holder, used: used.contains(&slot) }
    });
    let slots: Vec<_> = slots.collect();
    let Plan { take, give } = share::plan(rank, survey.living.len(), &slots);
    let free = slots.iter().filter(|seen| seen.holder == Holder::Nobody).count();
    let wanted = take.len();
    let taken = if take.is_empty() { Vec::new() } else { worker.take(holder, take, LEASE).await? };
    let (all, shared_out) = (taken.len() == wanted, taken.len() == free);
    Ok(Looked { taken, leave: give, all, shared_out })
}
