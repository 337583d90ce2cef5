//! Who is delivered to: definitions come, change and go, and couriers with them.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        courier::{Courier, Order},
        ledger::{Ledger, Room},
        pass::Pass,
        progress::Held,
        target::{Hold, Target},
    },
    Session,
};
use crate::log::{Capture, Definition, Snapshot, Subscription};

/// One subscription.
pub(super) struct Member {
    pub(super) definition: Definition,
    /// How its events are sent, or why they are not.
    pub(super) target: Result<Arc<Target>, Hold>,
    pub(super) ledger: Ledger,
    pub(super) state: State,
    pub(super) unsaved: Unsaved,
}

pub(super) enum State {
    /// In no pass; nothing is under way.
    Resting,
    Active {
        courier: u64,
        pass: u64,
        orders: mpsc::UnboundedSender<Order>,
        target: watch::Sender<Arc<Target>>,
        stop: CancellationToken,
        task: AbortHandle,
    },
    /// In no pass; attempts are ending.
    Leaving { courier: u64, task: AbortHandle },
}

/// What the database does not know of a member's cursor.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Unsaved {
    Nothing,
    /// It passed over events that are not its own.
    Passed,
    /// Events are done.
    Done,
}

impl Session<'_> {
    /// Applies definitions: to those that are known at once, also to events under way.
    pub(super) fn load(&mut self, subscriptions: Vec<Subscription>, captures: Vec<Capture>) {
        // A new cursor may be ahead of the last pulse; the next one is ahead of every cursor.
        self.pulse = None;
        let captures = captures.into_iter().map(|capture| (capture.id, Arc::new(capture)));
        // Added, not replaced: a page on its way may have events of an older one.
        Arc::make_mut(&mut self.captures).extend(captures);
        let ids: BTreeSet<_> = subscriptions.iter().map(|subscription| subscription.id).collect();
        for id in self.members.keys().copied().filter(|id| !ids.contains(id)).collect::<Vec<_>>() {
            self.forget(id);
        }
        for Subscription { id, definition, cursor } in subscriptions {
            let target = Target::new(&definition, self.given.config, self.worker.log_id()).map(Arc::new);
            match self.members.get_mut(&id) {
                Some(member) if member.definition == definition => {}
                Some(member) => {
                    member.definition = definition;
                    member.target = target;
                    if let (State::Active { target: sender, .. }, Ok(target)) = (&member.state, &member.target) {
                        sender.send_replace(target.clone());
                    }
                }
                None => {
                    let ledger = Ledger::new(&cursor);
                    let member =
                        Member { definition, target, ledger, state: State::Resting, unsaved: Unsaved::Nothing };
                    self.members.insert(id, member);
                }
            }
        }
        let held = self.members.values().filter_map(|member| match &member.target {
            Ok(_) | Err(Hold::Suspended) => None,
            Err(hold) => Some(Held { trigger: member.definition.trigger.clone(), why: hold.to_string() }),
        });
        let held: Vec<_> = held.collect();
        self.gauges.held.set(held.len());
        self.given.monitor.held(held);
        self.settle_members();
    }

    /// Starts couriers for members that have a target and none, and stops those of members without.
    pub(super) fn settle_members(&mut self) {
        if self.stopping {
            return;
        }
        // Those that were stopped in the middle of the same window read the rest of it together.
        let mut fresh = Vec::<(Option<Snapshot>, BTreeSet<i32>)>::new();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            let member = &self.members[&id];
            match (&member.state, &member.target) {
                (State::Resting, Ok(_)) => {
                    let to = member.ledger.cursor().to;
                    match fresh.iter_mut().find(|(known, _)| *known == to) {
                        Some((_, members)) => drop(members.insert(id)),
                        None => fresh.push((to, [id].into())),
                    }
                }
                (State::Active { .. }, Err(_)) => self.leave(id),
                _ => {}
            }
        }
        for (to, members) in fresh {
            let pass = self.add_pass(Pass::new(members.clone(), to.map(Arc::new)));
            for id in members {
                self.join(id, pass);
            }
        }
    }

    /// Gives a member a courier.
    fn join(&mut self, id: i32, pass: u64) {
        let courier = self.next_number();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Ok(target) = &member.target else { return };
        let (orders, receiver) = mpsc::unbounded_channel();
        let (target, target_receiver) = watch::channel(target.clone());
        let stop = CancellationToken::new();
        let hired = Courier {
            subscription: id,
            number: courier,
            office: self.office.clone(),
            orders: receiver,
            target: target_receiver,
            stop: stop.clone(),
        };
        member.ledger = Ledger::new(&member.ledger.cursor());
        let task = self.couriers.spawn(hired.run());
        member.state = State::Active { courier, pass, orders, target, stop, task };
    }

    /// Takes a member out of its pass, and lets its attempts end.
    pub(super) fn leave(&mut self, id: i32) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let State::Active { courier, pass, stop, task, .. } = &member.state else { return };
        stop.cancel();
        if let Some(pass) = self.passes.get_mut(pass) {
            pass.remove(id);
        }
        member.state = State::Leaving { courier: *courier, task: task.clone() };
    }

    /// Forgets a member whose definition is gone, and breaks its attempts off.
    fn forget(&mut self, id: i32) {
        self.leave(id);
        if let Some(Member { state: State::Leaving { task, .. }, .. }) = self.members.remove(&id) {
            task.abort();
        }
        self.dead.retain(|dead| dead.subscription != id);
    }

    pub(super) fn is_caught_up(&self) -> bool {
        let done = |member: &Member| match &member.target {
            Err(Hold::Suspended) => matches!(member.state, State::Resting),
            Err(_) => false,
            Ok(_) => {
                member.ledger.room() == Room::Drained
                    && member.ledger.to().is_none()
                    && self.pulse.as_ref().is_some_and(|now| now == member.ledger.from())
            }
        };
        !self.loading && self.definitions.is_some() && self.members.values().all(done)
    }
}
