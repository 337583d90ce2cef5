//! The time for which one lease is held: reads pages, hands them to couriers, and moves cursors.
//!
//! One loop owns everything. It never waits for the database or for a sink: statements run beside it and come back as
//! [`Io`], ends of events as [`Report`]s.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    courier::{Courier, News, Office, Order, Report},
    ledger::{Handout, Ledger, Room},
    metrics::Gauges,
    pass::{Next, Pass},
    progress::{Held, Monitor},
    target::{Hold, Target},
};
use crate::log::{
    Capture, DeadLetter, Definition, Event, Lease, Move, Pulse, Snapshot, Subscription, Worker, WorkerError,
};

/// Between two looks at the log. It is most of the time from commit to POST when all is idle, and costs the server one
/// trivial statement.
const PULSE: Duration = Duration::from_millis(10);
/// Events of a page: few enough that a page of large rows fits into memory, enough that a page's fixed cost is small.
const PAGE: u16 = 500;
/// From an event's end to the commit that tells: what ends within it shares the commit, and what had ended is sent
/// again if the worker dies within it.
const LINGER: Duration = Duration::from_millis(50);
/// Between commits for subscriptions that had nothing to deliver: they only save reading again after a restart.
const TIDY: Duration = Duration::from_secs(1);
/// Reports taken in one go, so that the loop comes round to the lease in between.
const REPORTS: usize = 256;

/// What a session is given.
pub(super) struct Given<'a> {
    pub(super) config: &'a Config,
    pub(super) client: reqwest::Client,
    pub(super) monitor: &'a Monitor,
    /// For attempts that are under way at the end.
    pub(super) grace: Duration,
}

/// A statement that has come back.
enum Io {
    Pulse(Result<Pulse, WorkerError>),
    Definitions(Result<(Vec<Subscription>, Vec<Capture>), WorkerError>),
    Page(u64, Result<Page, WorkerError>),
    Committed(Result<(), WorkerError>),
}

struct Page {
    events: Vec<Event>,
    /// Captures that had to be asked for.
    captures: Vec<Capture>,
}

/// One subscription.
struct Member {
    definition: Definition,
    /// How its events are sent, or why they are not.
    target: Result<Arc<Target>, Hold>,
    ledger: Ledger,
    state: State,
    unsaved: Unsaved,
}

enum State {
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
enum Unsaved {
    Nothing,
    /// It passed over events that are not its own.
    Passed,
    /// Events are done.
    Done,
}

struct Session<'a> {
    given: Given<'a>,
    worker: Arc<Worker>,
    lease: Lease,
    office: Arc<Office>,
    gauges: Gauges,
    members: BTreeMap<i32, Member>,
    captures: Arc<HashMap<i32, Arc<Capture>>>,
    passes: BTreeMap<u64, Pass>,
    couriers: JoinSet<()>,
    /// Numbers couriers and passes.
    number: u64,
    io: FuturesUnordered<BoxFuture<'static, Io>>,
    pulse: Option<Arc<Snapshot>>,
    /// Which state of the definitions is known, and whether a newer one is on its way.
    definitions: Option<i64>,
    loading: bool,
    /// Whether a commit is on its way.
    committing: bool,
    /// When what is done is to be written at the latest.
    due: Option<Instant>,
    tidied: Instant,
    dead: Vec<DeadLetter>,
    stopping: bool,
}

/// Delivers until `shutdown`, then lets what is under way end, and says exactly what is done.
pub(super) async fn run(
    given: Given<'_>,
    worker: Arc<Worker>,
    lease: Lease,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let (sender, mut reports) = mpsc::unbounded_channel();
    let Monitor { metrics, tally, .. } = given.monitor;
    let office =
        Office { client: given.client.clone(), metrics: metrics.clone(), tally: tally.clone(), reports: sender };
    let mut session = Session {
        gauges: Gauges::new(metrics),
        office: Arc::new(office),
        given,
        worker,
        lease,
        members: BTreeMap::new(),
        captures: Arc::default(),
        passes: BTreeMap::new(),
        couriers: JoinSet::new(),
        number: 0,
        io: FuturesUnordered::new(),
        pulse: None,
        definitions: None,
        loading: false,
        committing: false,
        due: None,
        tidied: Instant::now(),
        dead: Vec::new(),
        stopping: false,
    };
    session.gauges.leases.set(1);
    session.deliver(&mut reports, shutdown).await
}

impl Session<'_> {
    async fn deliver(
        &mut self,
        reports: &mut mpsc::UnboundedReceiver<Report>,
        shutdown: &CancellationToken,
    ) -> Result<(), WorkerError> {
        self.look(Duration::ZERO);
        let mut batch = Vec::new();
        let mut deadline = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !self.stopping => {
                    self.stop();
                    deadline = Some(tokio::time::Instant::now() + self.given.grace);
                }
                () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break,
                Some(io) = self.io.next() => self.come_back(io)?,
                Some(ended) = self.couriers.join_next() => {
                    if let Err(panic) = ended && panic.is_panic() {
                        std::panic::resume_unwind(panic.into_panic());
                    }
                }
                _ = reports.recv_many(&mut batch, REPORTS) => self.hear(batch.drain(..)),
            }
            if self.stopping && self.members.values().all(|member| matches!(member.state, State::Resting)) {
                break;
            }
            self.commit_if_due();
        }
        self.finish(reports).await
    }

    /// The last commit: exactly what is done, so that nothing is sent twice.
    async fn finish(&mut self, reports: &mut mpsc::UnboundedReceiver<Report>) -> Result<(), WorkerError> {
        self.couriers.shutdown().await;
        while let Ok(report) = reports.try_recv() {
            self.hear(std::iter::once(report));
        }
        self.committed().await?;
        self.commit(Unsaved::Passed);
        self.committed().await
    }

    /// Waits for the commit that is on its way, if there is one.
    async fn committed(&mut self) -> Result<(), WorkerError> {
        while self.committing
            && let Some(io) = self.io.next().await
        {
            if let Io::Committed(_) = io {
                self.come_back(io)?;
            }
        }
        Ok(())
    }

    /// Takes in what a statement brought.
    fn come_back(&mut self, io: Io) -> Result<(), WorkerError> {
        match io {
            Io::Pulse(pulse) => self.note_pulse(pulse?),
            Io::Definitions(found) => {
                let (subscriptions, captures) = found?;
                self.loading = false;
                self.load(subscriptions, captures);
            }
            Io::Page(pass, page) => self.hand_out(pass, page?),
            Io::Committed(result) => {
                result?;
                self.committing = false;
                self.given.monitor.metrics.commits.inc();
            }
        }
        Ok(())
    }

    /// Takes a pulse after a while.
    fn look(&mut self, wait: Duration) {
        let worker = self.worker.clone();
        self.io.push(
            async move {
                sleep(wait).await;
                Io::Pulse(worker.pulse().await)
            }
            .boxed(),
        );
    }

    fn note_pulse(&mut self, pulse: Pulse) {
        if self.stopping {
            return;
        }
        if self.definitions != Some(pulse.definitions) && !self.loading {
            // The number is from before the reading: a change in between is seen as one more.
            self.definitions = Some(pulse.definitions);
            self.loading = true;
            let worker = self.worker.clone();
            self.io.push(async move { Io::Definitions(worker.subscriptions().await) }.boxed());
        }
        // The same cut stays the same pointer, which makes comparing members' positions with it cheap.
        if self.pulse.as_deref() != Some(&pulse.now) {
            self.pulse = Some(Arc::new(pulse.now));
        }
        self.merge();
        for pass in self.passes.keys().copied().collect::<Vec<_>>() {
            self.advance(pass);
        }
        self.given.monitor.caught_up(self.is_caught_up());
        self.gauges.passes.set(self.passes.len());
        self.gauges.unfinished.set(self.members.values().map(|member| member.ledger.unfinished()).sum());
        self.look(PULSE);
    }

    fn is_caught_up(&self) -> bool {
        let done = |member: &Member| match &member.target {
            Err(Hold::Suspended) => true,
            Err(_) => false,
            Ok(_) => {
                member.ledger.room() == Room::Drained
                    && member.ledger.to().is_none()
                    && self.pulse.as_ref().is_some_and(|now| now == member.ledger.from())
            }
        };
        !self.loading && self.definitions.is_some() && self.members.values().all(done)
    }

    /// Applies definitions: to those that are known at once, also to events under way.
    fn load(&mut self, subscriptions: Vec<Subscription>, captures: Vec<Capture>) {
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
    fn settle_members(&mut self) {
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
            members.into_iter().for_each(|id| self.join(id, pass));
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
    fn leave(&mut self, id: i32) {
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

    /// Lets every member's attempts end, and reads no more.
    fn stop(&mut self) {
        self.stopping = true;
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.leave(id);
        }
        self.passes.clear();
    }

    /// Takes in what couriers say.
    fn hear(&mut self, reports: impl Iterator<Item = Report>) {
        let mut passes = BTreeSet::new();
        let mut stopped = false;
        for Report { subscription, courier, news } in reports {
            let Some(member) = self.members.get_mut(&subscription) else { continue };
            match &member.state {
                State::Active { courier: present, pass, .. } if *present == courier => drop(passes.insert(*pass)),
                State::Leaving { courier: present, .. } if *present == courier => {}
                _ => continue,
            }
            match news {
                News::Done { receipt, dead } => {
                    member.ledger.settle(receipt);
                    member.unsaved = Unsaved::Done;
                    self.dead.extend(dead);
                    self.due.get_or_insert_with(|| Instant::now() + LINGER);
                }
                News::Stopped => {
                    member.state = State::Resting;
                    stopped = true;
                }
            }
        }
        passes.into_iter().for_each(|pass| self.advance(pass));
        if stopped {
            self.settle_members();
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn add_pass(&mut self, pass: Pass) -> u64 {
        let number = self.next_number();
        self.passes.insert(number, pass);
        number
    }

    /// Members of a pass that are split off or merged follow it.
    fn follow(&mut self, members: &BTreeSet<i32>, number: u64) {
        for id in members {
            if let Some(Member { state: State::Active { pass, .. }, .. }) = self.members.get_mut(id) {
                *pass = number;
            }
        }
    }

    /// Makes one pass of those that are near the end of the log.
    fn merge(&mut self) {
        let room = |id| self.members[&id].ledger.room();
        let mut near = self.passes.iter().filter(|(_, pass)| pass.is_near(room)).map(|(id, _)| *id);
        let Some(first) = near.next() else { return };
        for id in near.collect::<Vec<_>>() {
            let Some(other) = self.passes.remove(&id) else { continue };
            self.follow(other.members(), first);
            if let Some(pass) = self.passes.get_mut(&first) {
                pass.merge(&other);
            }
        }
    }

    fn split(&mut self, id: u64, late: &BTreeSet<i32>) {
        let Some(pass) = self.passes.get_mut(&id) else { return };
        for alone in pass.split(late) {
            let members = alone.members().clone();
            let number = self.add_pass(alone);
            self.follow(&members, number);
        }
    }

    /// Lets a pass read its next page, if it may and there is one.
    fn advance(&mut self, id: u64) {
        let (Some(now), Some(pass)) = (&self.pulse, self.passes.get_mut(&id)) else { return };
        let Some(start) = Start::of(pass.members().iter().map(|id| (*id, &self.members[id].ledger))) else {
            self.passes.remove(&id);
            return;
        };
        if !start.apart.is_empty() {
            return self.split(id, &start.apart);
        }
        let to = match pass.to() {
            Some(to) => to.clone(),
            None if start.from == *now => return,
            None => now.clone(),
        };
        match pass.next(Instant::now(), |id| self.members[&id].ledger.room()) {
            Next::Wait => {}
            Next::Split(late) => {
                tracing::debug!(?late, "slower than others: goes on alone");
                self.split(id, &late);
            }
            Next::Read => {
                pass.begin(to.clone());
                let (worker, captures) = (self.worker.clone(), self.captures.clone());
                self.io.push(
                    async move { Io::Page(id, read(&worker, &captures, &start.from, &to, start.after).await) }.boxed(),
                );
            }
        }
    }

    /// Gives each member of a pass its part of a page.
    fn hand_out(&mut self, id: u64, page: Page) {
        for capture in page.captures {
            Arc::make_mut(&mut self.captures).insert(capture.id, Arc::new(capture));
        }
        let Some(pass) = self.passes.get_mut(&id) else { return };
        let Some(to) = pass.to().cloned() else { return };
        let ends = page.events.len() < usize::from(PAGE);
        let nothing = page.events.is_empty();
        let last = page.events.last().map_or(0, |event| event.id);
        let mut parts = BTreeMap::<i32, Vec<(Arc<Event>, Arc<Capture>)>>::new();
        for event in page.events.into_iter().map(Arc::new) {
            let Some(capture) = self.captures.get(&event.capture) else { continue };
            for (position, subscription) in capture.subscriptions.iter().enumerate() {
                let mine = event.matched.has(position) && pass.members().contains(subscription);
                if mine && self.members[subscription].ledger.wants(&event) {
                    parts.entry(*subscription).or_default().push((event.clone(), capture.clone()));
                }
            }
        }
        for id in pass.members() {
            let Some(member) = self.members.get_mut(id) else { continue };
            let part = parts.remove(id).unwrap_or_default();
            let ids = part.iter().map(|(event, _)| event.id).collect();
            let receipts = member.ledger.hand(Handout { to: &to, last, ends, ids });
            if !nothing {
                member.unsaved = member.unsaved.max(Unsaved::Passed);
            }
            let State::Active { orders, .. } = &member.state else { continue };
            for (receipt, (event, capture)) in receipts.into_iter().zip(part) {
                // A courier ends before its session only by a panic, which ends the session too.
                let _ = orders.send(Order { receipt, event, capture });
            }
        }
        pass.end(ends);
        self.advance(id);
    }

    fn commit_if_due(&mut self) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.commit(Unsaved::Done);
        } else if now.duration_since(self.tidied) >= TIDY {
            self.commit(Unsaved::Passed);
        }
    }

    /// Writes the cursors of which at least so much is unsaved, and the events that were given up. One commit at a time.
    fn commit(&mut self, least: Unsaved) {
        if self.committing {
            return;
        }
        if least == Unsaved::Passed {
            self.tidied = Instant::now();
        }
        self.due = None;
        let mut moves = Vec::new();
        for (&subscription, member) in self.members.iter_mut().filter(|(_, member)| member.unsaved >= least) {
            member.unsaved = Unsaved::Nothing;
            moves.push(Move { subscription, cursor: member.ledger.cursor() });
        }
        let dead = std::mem::take(&mut self.dead);
        if moves.is_empty() && dead.is_empty() {
            return;
        }
        self.committing = true;
        let (worker, lease) = (self.worker.clone(), self.lease);
        self.io.push(async move { Io::Committed(worker.commit(lease, &moves, &dead).await) }.boxed());
    }
}

/// Where a pass reads on.
struct Start {
    from: Arc<Snapshot>,
    after: i64,
    /// Members whose cut neither has nor is in `from`: two snapshots of transactions that were just ending.
    apart: BTreeSet<i32>,
}

impl Start {
    fn of<'a>(members: impl Iterator<Item = (i32, &'a Ledger)> + Clone) -> Option<Self> {
        let oldest = members
            .clone()
            .map(|(_, ledger)| ledger.from())
            .reduce(|oldest, from| if !Arc::ptr_eq(oldest, from) && from.is_within(oldest) { from } else { oldest })?;
        let beyond = |from: &Arc<Snapshot>| Arc::ptr_eq(oldest, from) || oldest.is_within(from);
        let apart = members.clone().filter(|(_, ledger)| !beyond(ledger.from())).map(|(id, _)| id).collect();
        let after = members.map(|(_, ledger)| ledger.after()).min()?;
        Some(Self { from: oldest.clone(), after, apart })
    }
}

/// Reads a page, and the captures that it needs and that are not known.
async fn read(
    worker: &Worker,
    known: &HashMap<i32, Arc<Capture>>,
    from: &Snapshot,
    to: &Snapshot,
    after: i64,
) -> Result<Page, WorkerError> {
    let events = worker.window(from, to, after, PAGE.into()).await?;
    let needed: BTreeSet<_> = events.iter().map(|event| event.capture).filter(|id| !known.contains_key(id)).collect();
    let mut captures = Vec::new();
    for id in needed {
        let capture = worker.capture(id).await?;
        captures.push(capture.ok_or_else(|| WorkerError::Corrupt {
            what: "the log",
            why: format!("events of capture {id}, which is not there"),
        })?);
    }
    Ok(Page { events, captures })
}
