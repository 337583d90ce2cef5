//! EventTriggers that get workers of their own, or have none any more. Who delivers one hands it over once a worker lives that
//! takes it, and nothing of it is under way. If nobody delivers it, who is to do so fetches it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::FutureExt as _;

use super::{
    Io, Session,
    members::{State, Unsaved},
    slots::LEASE,
};
use crate::log::WorkerError;

/// Between two looks while something is to come or to go: most of the time that a move takes.
const LOOK: Duration = Duration::from_millis(250);

/// What a session remembers of subscriptions that move; nothing, if none does.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Whether some are still to come.
    awaits: bool,
    /// Those that can go: their workers live.
    going: BTreeSet<i32>,
    /// Whether it is being asked for them, and when that was last begun.
    asking: bool,
    asked: Option<Instant>,
    /// Whether what is being read was written before the last one went.
    outdated: bool,
}

/// What a look brought.
pub(super) struct Moving {
    departing: Vec<i32>,
}

impl Moves {
    /// Whether a subscription is to come to rest here, for it can go.
    pub(super) fn go(&self, id: i32) -> bool {
        self.going.contains(&id)
    }

    pub(super) fn awaits(&self) -> bool {
        self.awaits
    }

    pub(super) fn await_more(&mut self, awaits: bool) {
        self.awaits = awaits;
    }

    pub(super) fn forget(&mut self, id: i32) {
        self.going.remove(&id);
    }

    /// Whether definitions that were just read must be read again: they may name a subscription that has gone since.
    pub(super) fn outdated(&mut self) -> bool {
        std::mem::take(&mut self.outdated)
    }
}

impl Session<'_> {
    /// Looks what can go or come, if anything is to and it is time.
    pub(super) fn look_for_moves(&mut self) {
        let recently = self.moves.asked.is_some_and(|at| at.elapsed() < LOOK);
        if self.moves.asking || recently || self.stopping {
            return;
        }
        let awaits = self.moves.awaits;
        let departs = self.members.iter().any(|(id, member)| member.departs && self.slots.delivers(*id));
        if !awaits && !departs {
            if !self.moves.going.is_empty() {
                self.moves.going.clear();
                self.settle_members();
            }
            return;
        }
        (self.moves.asking, self.moves.asked) = (true, Some(Instant::now()));
        let worker = self.worker.clone();
        let look = async move {
            // Whatever comes is a change of the definitions, and seen as such.
            if awaits {
                worker.fetch_over().await?;
            }
            let departing = if departs { worker.departing(LEASE).await? } else { Vec::new() };
            Ok::<_, WorkerError>(Moving { departing })
        };
        self.io.push(async move { Io::Moving(look.await) }.boxed());
    }

    /// Lets those come to rest that can go, and those go on that cannot any more.
    pub(super) fn note_moving(&mut self, Moving { departing }: Moving) {
        self.moves.asking = false;
        let ours = departing.into_iter().filter(|id| self.members.get(id).is_some_and(|member| member.departs));
        self.moves.going = ours.filter(|id| self.slots.delivers(*id)).collect();
        self.settle_members();
        self.hand_over();
    }

    /// Hands those over that have come to rest.
    pub(super) fn hand_over(&mut self) {
        if self.moves.going.is_empty() || self.stopping {
            return;
        }
        for id in self.moves.going.iter().copied().collect::<Vec<_>>() {
            let Some(lease) = self.slots.lease(id).filter(|_| self.slots.delivers(id)) else { continue };
            let Some(member) = self.members.get_mut(&id) else { continue };
            if !matches!(member.state, State::Resting) || member.unsaved != Unsaved::Nothing {
                continue;
            }
            if self.exceptions.iter().any(|exception| exception.subscription() == id) {
                self.due = Some(Instant::now());
                continue;
            }
            if self.committing && self.writing.contains(&lease.slot) {
                continue;
            }
            member.state = State::Moving;
            let worker = self.worker.clone();
            self.io.push(async move { Io::HandedOver(id, worker.hand_over(id, lease).await) }.boxed());
        }
    }

    /// Forgets one that has gone. One that has not, because somebody thought better of it, goes on.
    pub(super) fn note_handed_over(&mut self, id: i32, changed: bool) {
        self.moves.forget(id);
        if changed {
            if let Some(member) = self.members.get(&id) {
                tracing::info!(trigger = %member.definition.trigger, "handed over to other workers");
            }
            self.forget(id);
            self.redriving.retain(|(of, _)| *of != id);
            self.moves.outdated |= self.loading;
            self.tell_held();
        } else if let Some(member) = self.members.get_mut(&id) {
            member.state = State::Resting;
            self.settle_members();
        }
    }
}
