//! Who is delivered to: definitions come, change and go, and couriers with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        courier::{Aim, Courier, Order},
        ledger::Ledger,
        pass::Pass,
        progress::Held,
        target::{Hold, Target},
    },
    Io, LINGER, Session,
    watching::Reading,
};
use crate::log::{Capture, Cursor, Definition, Exception, ParkedLanes, Partition, Redriven, Snapshot, Subscription};

/// One subscription.
pub(super) struct Member {
    pub(super) definition: Definition,
    pub(super) trigger: i32,
    pub(super) partition: Partition,
    /// Whether its events are to be divided otherwise.
    pub(super) divides: bool,
    /// Whether other workers are to deliver it.
    pub(super) departs: bool,
    /// How its events are sent, or why they are not.
    pub(super) aim: Result<Aim, Hold>,
    pub(super) ledger: Ledger,
    pub(super) state: State,
    pub(super) unsaved: Unsaved,
    /// Events that are parked.
    pub(super) parked: u64,
    /// Of a partition: when the last window was agreed on, and up to where there is nothing after it.
    pub(super) cut: Option<Instant>,
    pub(super) clear: Option<Arc<Snapshot>>,
    pub(super) reading: Reading,
    /// Since when nothing is read because of events that take long.
    pub(super) held_up: Option<Instant>,
}

pub(super) enum State {
    /// In no pass; nothing is under way.
    Resting,
    /// What is parked of it is being read.
    Joining,
    Active {
        courier: u64,
        pass: u64,
        orders: mpsc::UnboundedSender<Order>,
        aim: watch::Sender<Aim>,
        stop: CancellationToken,
        task: AbortHandle,
    },
    /// In no pass; attempts are ending.
    Leaving { courier: u64, task: AbortHandle },
    /// In no pass; nothing is under way, and its events are being divided otherwise.
    Dividing,
    /// In no pass; nothing is under way, and it is being handed over to other workers.
    Moving,
}

/// Where members stand that read together: the window they are in; of partitions the EventTrigger, and the very place.
type Place = (Option<Snapshot>, Option<(i32, Snapshot, i64)>);

/// What the database does not know of a member's cursor.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Unsaved {
    Nothing,
    /// It passed over events that are not its own.
    Passed,
    /// Events are done.
    Done,
}

impl Member {
    /// Whether it was handed all that is up to a cut. A partition need not stand there, if nothing was captured since.
    pub(super) fn is_at(&self, now: &Arc<Snapshot>) -> bool {
        self.ledger.to().is_none() && (now == self.ledger.from() || self.clear.as_ref() == Some(now))
    }
}

impl Session<'_> {
    /// Applies definitions: to those that are known at once, also to events under way.
    pub(super) fn load(&mut self, subscriptions: Vec<Subscription>, captures: Vec<Capture>) {
        // A new cursor may be ahead of the last pulse; the next one is ahead of every cursor.
        self.pulse = None;
        let captures = captures.into_iter().map(|capture| (capture.id, Arc::new(capture)));
        // Added, not replaced: a page on its way may have events of an older one.
        Arc::make_mut(&mut self.captures).extend(captures);
        self.subscriptions.clear();
        for Subscription { id, trigger, .. } in &subscriptions {
            self.subscriptions.entry(*trigger).or_default().push(*id);
        }
        let ids: BTreeSet<_> = subscriptions.iter().map(|subscription| subscription.id).collect();
        for id in self.members.keys().copied().filter(|id| !ids.contains(id)).collect::<Vec<_>>() {
            self.forget(id);
        }
        for Subscription { id, trigger, partition, divides, departs, definition, cursor } in subscriptions {
            let target = Target::new(&definition, self.given.config, self.worker.log_id()).map(Arc::new);
            let aim = target.and_then(|target| {
                let sink = definition.sink.as_ref().ok_or(Hold::NoSink)?;
                Ok(Aim { target, outlet: self.outlets.of(sink) })
            });
            let fresh = self.slots.is_fresh(id);
            if fresh && let Some(member) = self.members.get_mut(&id) {
                // What was known of it is from before another worker delivered it.
                member.ledger = Ledger::of(&cursor, !partition.is_whole());
            }
            if let Some(member) = self.members.get_mut(&id) {
                (member.divides, member.departs) = (divides, departs);
                if !departs {
                    // Somebody thought better of it.
                    self.moves.forget(id);
                }
            }
            match self.members.get_mut(&id) {
                // What holds it is told again by whoever gets it.
                Some(member) if member.definition == definition && !fresh => continue,
                Some(member) if member.definition == definition => {}
                Some(member) => {
                    member.definition = definition;
                    member.aim = aim;
                    if let (State::Active { aim: sender, .. }, Ok(aim)) = (&member.state, &member.aim) {
                        sender.send_replace(aim.clone());
                    }
                }
                None => {
                    let member = Member {
                        definition,
                        trigger,
                        partition,
                        divides,
                        departs,
                        aim,
                        ledger: Ledger::of(&cursor, !partition.is_whole()),
                        state: State::Resting,
                        unsaved: Unsaved::Nothing,
                        parked: 0,
                        cut: None,
                        clear: None,
                        reading: Reading::default(),
                        held_up: None,
                    };
                    self.members.insert(id, member);
                }
            }
            self.tell_hold(id);
        }
        self.slots.read();
        self.tell_held();
        self.settle_members();
    }

    /// Says whose events wait for somebody to configure something.
    pub(super) fn tell_held(&mut self) {
        let ours = self.members.iter().filter(|(id, _)| self.slots.holds(**id));
        let held = ours.filter_map(|(_, member)| match &member.aim {
            Ok(_) | Err(Hold::Suspended) => None,
            Err(hold) => Some(Held { trigger: member.definition.trigger.clone(), why: hold.to_string() }),
        });
        let mut held: Vec<_> = held.collect();
        // Partitions of one EventTrigger are held for the same reason.
        held.dedup();
        self.gauges.held.set(held.len());
        self.given.monitor.held(held);
    }

    /// Writes down why a member is held, unless whoever reads that knows it already. Its next courier takes it back.
    fn tell_hold(&mut self, id: i32) {
        let Some(Member { aim: Err(hold), .. }) = self.members.get(&id) else { return };
        if matches!(hold, Hold::Suspended | Hold::NoSink) || !self.slots.holds(id) {
            return;
        }
        let message = format!(
            "{hold}; events wait in the log; workers are started anew when a Secret changes: if this stays, look at their pods"
        );
        let obstacle = Some((Hold::REASON.to_owned(), message));
        self.exceptions.push(Exception::Obstacle { subscription: id, obstacle, resume: None });
        self.due.get_or_insert_with(|| Instant::now() + LINGER);
    }

    /// Starts couriers for members that have a target, whose slot is ours, and that have none; stops those of members without
    /// a target. Those of a slot that is given up were stopped when that was decided.
    pub(super) fn settle_members(&mut self) {
        if self.stopping {
            return;
        }
        // What an earlier courier has parked must be written before it is read.
        let written = self.exceptions.is_empty() && !self.committing;
        let mut joining = Vec::new();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            match (&member.state, &member.aim) {
                (State::Active { .. }, _) if self.moves.go(id) => self.leave(id),
                (State::Resting, _) if self.moves.go(id) => self.written_soon(id),
                (State::Active { .. }, Ok(_)) if Self::ends_to_divide(member) => self.leave(id),
                (State::Resting, Ok(_)) if Self::ends_to_divide(member) => self.written_soon(id),
                (State::Resting, Ok(_)) if written && self.slots.delivers(id) => {
                    member.state = State::Joining;
                    joining.push(id);
                }
                (State::Active { .. }, Err(_)) => self.leave(id),
                _ => {}
            }
        }
        if !joining.is_empty() {
            let worker = self.worker.clone();
            self.io
                .push(async move { Io::Parked(worker.parked(&joining).await.map(|parked| (joining, parked))) }.boxed());
        }
    }

    /// Gives couriers to members; each takes over what is parked.
    pub(super) fn join(&mut self, ids: Vec<i32>, mut parked: BTreeMap<i32, ParkedLanes>) {
        // Those that were stopped in the middle of the same window read the rest of it together.
        let mut fresh = Vec::<(Place, BTreeSet<i32>)>::new();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if !matches!(member.state, State::Joining) {
                continue;
            }
            if self.stopping || member.aim.is_err() || self.moves.go(id) || !self.slots.delivers(id) {
                member.state = State::Resting;
                continue;
            }
            // Partitions of one EventTrigger read together what they need to read at all.
            let Cursor { from, to, after, .. } = member.ledger.cursor();
            let spread = (!member.partition.is_whole()).then_some((member.trigger, from, after));
            match fresh.iter_mut().find(|((known, place), _)| *known == to && *place == spread) {
                Some((_, members)) => drop(members.insert(id)),
                None => fresh.push(((to, spread), [id].into())),
            }
        }
        // A courier that has gone may have been given some that it did not park.
        self.redriving.retain(|(id, _)| !fresh.iter().any(|(_, members)| members.contains(id)));
        self.look_for_redriven();
        for ((to, spread), members) in fresh {
            let pass = Pass::new(members.clone(), to.map(Arc::new)).of(spread.map(|(trigger, ..)| trigger));
            let pass = self.add_pass(pass);
            for id in members {
                self.hire(id, pass, parked.remove(&id).unwrap_or_default());
            }
        }
    }

    /// Gives a member a courier.
    fn hire(&mut self, id: i32, pass: u64, parked: ParkedLanes) {
        let courier = self.next_number();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Ok(aim) = member.aim.clone() else { return };
        let waiting = parked.groups.iter().map(|(_, waiting, _)| waiting).sum();
        let (orders, receiver) = mpsc::unbounded_channel();
        let (aim, aim_receiver) = watch::channel(aim);
        let stop = CancellationToken::new();
        let hired = Courier {
            subscription: id,
            partition: member.partition,
            number: courier,
            office: self.office.clone(),
            orders: receiver,
            aim: aim_receiver,
            parked,
            stop: stop.clone(),
        };
        member.ledger = member.ledger.anew();
        member.parked = waiting;
        let task = self.couriers.spawn(hired.run());
        member.state = State::Active { courier, pass, orders, aim, stop, task };
    }

    /// Hands dead letters that are to be delivered again to their couriers.
    pub(super) fn redrive(&mut self, redriven: Vec<(i32, Redriven)>) {
        let mut parts = BTreeMap::<i32, Vec<Redriven>>::new();
        for (id, letter) in redriven {
            let active = self.members.get(&id).is_some_and(|member| matches!(member.state, State::Active { .. }));
            // Asked for twice before it was written, it is still one.
            if active && self.redriving.insert((id, letter.event)) {
                parts.entry(id).or_default().push(letter);
            }
        }
        for (id, letters) in parts {
            if let Some(Member { state: State::Active { orders, .. }, .. }) = self.members.get(&id) {
                let _ = orders.send(Order::Redrive(letters));
            }
        }
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
    pub(super) fn forget(&mut self, id: i32) {
        self.leave(id);
        self.spread.forget(id);
        self.moves.forget(id);
        let Some(member) = self.members.remove(&id) else { return };
        if let State::Leaving { task, .. } = member.state {
            task.abort();
        }
        // Other partitions of it may go on here.
        if self.members.values().all(|other| other.trigger != member.trigger) {
            self.given.monitor.metrics.forget(&member.definition.trigger);
        }
    }

    /// Of what this worker is to deliver.
    pub(super) fn is_caught_up(&self) -> bool {
        let done = |member: &Member| match &member.aim {
            Err(Hold::Suspended) => matches!(member.state, State::Resting),
            Err(_) => false,
            Ok(_) => {
                member.ledger.is_drained()
                    && member.parked == 0
                    && self.pulse.as_ref().is_some_and(|now| member.is_at(now))
                    && !member.divides
            }
        };
        let written = self.exceptions.is_empty() && !self.committing && self.redriving.is_empty();
        let mut ours = self.members.iter().filter(|(id, _)| self.slots.holds(**id));
        let known = !self.loading && self.definitions.is_some() && self.slots.is_settled() && !self.moves.awaits();
        known && written && ours.all(|(_, member)| done(member))
    }
}
