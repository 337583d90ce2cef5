//! One connection's life: holds slots, reads pages, hands them to couriers, and moves cursors.
//!
//! One loop owns everything. It never waits for the database or for a sink: statements run beside it and come back as
//! [`Io`], ends of events as [`Report`]s.

mod members;
mod pools;
mod reading;
mod slots;
mod spread;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use smallvec::SmallVec;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    members::{Member, State, Unsaved},
    pools::{Moves, Moving},
    reading::Page,
    slots::{Rounded, Slots},
    spread::{Agreed, Spread},
    watching::Watch,
};
use super::{
    Config,
    courier::{News, Office, Order, Outcome, Report},
    http::Http,
    metrics::Gauges,
    outlet::Outlets,
    pass::Pass,
    progress::Monitor,
};
use crate::log::{
    Capture, Exception, Most, Move, Parked, ParkedLanes, Pulse, Redriven, Slot, Snapshot, Subscription, Worker,
    WorkerError,
};

/// Between two looks at the log while there is more to read than was read.
const BUSY_PULSE: Duration = Duration::from_millis(16);
/// Otherwise the least and the most between two looks. The most is what an event may be late that comes after a long pause, and 20 looks a
/// second are all that an idle worker does. A look is one trivial statement, for which it is awake some 150 us, and the server as long.
const PULSE: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];
/// A look comes after this part of the time for which nothing was new: what comes after a pause is late by so little of it.
const PART: u32 = 250;
/// From an event's end to the commit that tells: what ends within it shares the commit, and what had ended is sent
/// again if the worker dies within it.
const LINGER: Duration = Duration::from_millis(50);
/// Between commits for subscriptions that had nothing to deliver: they only save reading again after a restart.
const TIDY: Duration = Duration::from_secs(1);
/// Events that failed and are not written yet, and bytes of them, beyond which nothing is read.
const EXCEPTIONS: usize = 2000;
const EXCEPTION_BYTES: u64 = 4 << 20;
/// Parked events of a group that are fetched at a time.
const FETCHED: Most = Most { events: 32, bytes: 1 << 20 };
/// Groups that are fetched from at a time.
const FETCHES: usize = 4;
/// Dead letters that are taken back at a time.
const REDRIVEN: usize = 1000;
/// Reports taken in one go, so that the loop comes round to the leases in between.
const REPORTS: usize = 256;

/// What a session is given.
pub(super) struct Given<'a> {
    pub(super) config: &'a Config,
    /// The worker's name, for people.
    pub(super) holder: &'a str,
    pub(super) client: Http,
    pub(super) monitor: &'a Monitor,
    /// For attempts that are under way at the end.
    pub(super) grace: Duration,
}

/// A statement that has come back.
enum Io {
    Pulse(Result<Pulse, WorkerError>),
    Definitions(Result<Definitions, WorkerError>),
    Parked(Result<(Vec<i32>, BTreeMap<i32, ParkedLanes>), WorkerError>),
    /// Parked events of a group, for a courier.
    Fetched(Fetch, Result<Fetched, WorkerError>),
    Redriven(Result<Vec<(i32, Redriven)>, WorkerError>),
    Page(u64, Result<Page, WorkerError>),
    /// About the newest event of the log.
    Newest(Result<i64, WorkerError>),
    Slots(Result<Rounded, WorkerError>),
    /// Where the next window of a pass of partitions ends.
    Agreed(u64, Result<Agreed, WorkerError>),
    /// Events that need not wait for other partitions any more.
    Met(Result<Vec<(i32, i64)>, WorkerError>),
    /// Whether events of a subscription were divided anew.
    Divided(i32, Result<bool, WorkerError>),
    /// What can go to other workers, or has come from them.
    Moving(Result<Moving, WorkerError>),
    /// Whether a subscription is other workers' now.
    HandedOver(i32, Result<bool, WorkerError>),
    Committed(Result<(), WorkerError>),
}

/// A group of which a courier wants events.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    subscription: i32,
    courier: u64,
    root: u64,
}

/// What is read when something of it has changed.
struct Definitions {
    /// All subscriptions, and their captures.
    subscriptions: Vec<Subscription>,
    captures: Vec<Capture>,
    /// Dead letters that are to be delivered again.
    redriven: Vec<(i32, Redriven)>,
    /// Whether there are to be more subscriptions, which other workers deliver yet.
    awaits: bool,
}

/// Parked events, captures that had to be asked for, and what was reserved.
type Fetched = (Vec<Parked>, Vec<Capture>, Most);

struct Session<'a> {
    given: Given<'a>,
    worker: Arc<Worker>,
    slots: Slots,
    office: Arc<Office>,
    gauges: Gauges,
    watch: Watch,
    members: BTreeMap<i32, Member>,
    /// Those of each EventTrigger.
    subscriptions: HashMap<i32, SmallVec<[i32; 1]>>,
    spread: Spread,
    moves: Moves,
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
    /// Whether a commit is on its way, and the slots that the last one concerns.
    committing: bool,
    writing: BTreeSet<Slot>,
    /// When what is done is to be written at the latest.
    due: Option<Instant>,
    tidied: Instant,
    /// When there were events.
    stirred: Instant,
    /// To be written, in order, and the bytes of events among them.
    exceptions: Vec<Exception>,
    exception_bytes: u64,
    /// Bytes that what is being read may have.
    reserved: u64,
    /// Groups that are being fetched from.
    fetching: usize,
    /// To be fetched once everything that was said before is written.
    fetches: Vec<Fetch>,
    /// Dead letters that were handed to a courier, and are still dead letters in the database.
    redriving: BTreeSet<(i32, i64)>,
    /// Of them, those that the commit on its way takes back.
    taken_back: Vec<(i32, i64)>,
    outlets: Outlets,
    stopping: bool,
}

/// Delivers until `shutdown`, then lets what is under way end, and says exactly what is done.
pub(super) async fn run(
    given: Given<'_>,
    worker: Arc<Worker>,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let (sender, mut reports) = mpsc::unbounded_channel();
    let mut session = Session {
        gauges: Gauges::new(&given.monitor.metrics),
        watch: Watch::new(),
        office: Arc::new(Office::new(given.client.clone(), given.monitor, sender)),
        given,
        worker,
        slots: Slots::default(),
        members: BTreeMap::new(),
        subscriptions: HashMap::new(),
        spread: Spread::default(),
        moves: Moves::default(),
        captures: Arc::default(),
        passes: BTreeMap::new(),
        couriers: JoinSet::new(),
        number: 0,
        io: FuturesUnordered::new(),
        pulse: None,
        definitions: None,
        loading: false,
        committing: false,
        writing: BTreeSet::new(),
        due: None,
        tidied: Instant::now(),
        stirred: Instant::now(),
        exceptions: Vec::new(),
        exception_bytes: 0,
        reserved: 0,
        fetching: 0,
        fetches: Vec::new(),
        redriving: BTreeSet::new(),
        taken_back: Vec::new(),
        outlets: Outlets::default(),
        stopping: false,
    };
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
            // Before anything else: without the leases, what is under way is broken off.
            self.tend()?;
            let tending = self.slots.wake();
            tokio::select! {
                biased;
                () = sleep_until(tending.unwrap_or_else(tokio::time::Instant::now)), if tending.is_some() => continue,
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
        // Leases that are over make it worthless: nobody waits longer for a database that has gone silent.
        timeout(slots::LEASE, self.finish(reports)).await.unwrap_or_else(|_| Err(self.silent()))
    }

    /// The last commit: exactly what is done, so that nothing is sent twice.
    async fn finish(&mut self, reports: &mut mpsc::UnboundedReceiver<Report>) -> Result<(), WorkerError> {
        self.couriers.shutdown().await;
        while let Ok(report) = reports.try_recv() {
            self.hear(std::iter::once(report));
        }
        self.committed().await?;
        self.commit(Unsaved::Passed);
        self.committed().await?;
        // A page that nobody reads any more would hold up what comes after it on the connection.
        self.io.clear();
        // Everything is written: whether slots can be given up now or are lost with the connection changes little.
        if let Err(error) = self.worker.leave().await {
            tracing::debug!("failed to give up all slots: {error}");
        }
        Ok(())
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
                let found = found?;
                self.loading = false;
                if self.moves.outdated() {
                    self.load_definitions();
                    return Ok(());
                }
                self.moves.await_more(found.awaits);
                self.load(found.subscriptions, found.captures);
                self.redrive(found.redriven);
            }
            Io::Parked(found) => {
                let (ids, parked) = found?;
                self.join(ids, parked);
            }
            Io::Fetched(fetch, found) => self.revive(fetch, found?),
            Io::Redriven(found) => self.redrive(found?),
            Io::Page(pass, page) => self.hand_out(pass, page?),
            Io::Newest(newest) => self.note_newest(newest?),
            Io::Slots(rounded) => self.note_slots(rounded?),
            Io::Agreed(pass, agreed) => self.note_agreed(pass, agreed?),
            Io::Met(met) => self.note_met(met?),
            Io::Divided(id, changed) => self.note_divided(id, changed?),
            Io::Moving(moving) => self.note_moving(moving?),
            Io::HandedOver(id, changed) => self.note_handed_over(id, changed?),
            Io::Committed(result) => {
                result?;
                self.committing = false;
                self.given.monitor.metrics.commits.inc();
                self.committed_redriving();
                if !self.stopping {
                    self.settle_members();
                    self.hand_over();
                    for pass in self.passes.keys().copied().collect::<Vec<_>>() {
                        self.advance(pass);
                    }
                }
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
            self.load_definitions();
        }
        self.read_definitions();
        // The same cut stays the same pointer, which makes comparing members' positions with it cheap.
        if self.pulse.as_deref() != Some(&pulse.now) {
            self.pulse = Some(Arc::new(pulse.now));
        }
        self.relieve();
        self.merge();
        self.divide();
        self.look_for_moves();
        self.hand_over();
        for pass in self.passes.keys().copied().collect::<Vec<_>>() {
            self.advance(pass);
        }
        self.given.monitor.caught_up(self.is_caught_up());
        self.watch();
        self.gauges.passes.set(self.passes.len());
        self.gauges.unfinished.set(self.members.values().map(|member| member.ledger.unfinished()).sum());
        self.look(self.pause());
    }

    /// Until the next look at the log.
    fn pause(&self) -> Duration {
        if let Some(pause) = self.slots.pause() {
            return pause;
        }
        // Who is behind learns from the end of each page that there is more.
        if self.passes.values().any(Pass::is_behind) {
            return BUSY_PULSE;
        }
        let [least, most] = PULSE;
        (self.stirred.elapsed() / PART).clamp(least, most)
    }

    /// Reads cursors if slots were taken.
    fn read_definitions(&mut self) {
        if self.slots.must_read() && !self.loading {
            self.load_definitions();
        }
    }

    fn load_definitions(&mut self) {
        self.loading = true;
        self.slots.reading();
        let (worker, slots) = (self.worker.clone(), self.slots.wanted());
        self.io.push(async move { Io::Definitions(definitions(&worker, &slots).await) }.boxed());
    }

    /// Lets every member's attempts end, and reads no more.
    fn stop(&mut self) {
        self.stopping = true;
        self.slots.leave_all();
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
                News::Outcomes(outcomes) => {
                    self.due.get_or_insert_with(|| Instant::now() + LINGER);
                    for outcome in outcomes {
                        match outcome {
                            Outcome::Done(receipt) => {
                                member.ledger.settle(receipt);
                                member.unsaved = Unsaved::Done;
                            }
                            Outcome::Exception(exception) => {
                                member.parked = member.parked.saturating_add_signed(exception.parks());
                                self.exception_bytes += exception.bytes();
                                self.exceptions.push(exception);
                            }
                            Outcome::Empty(events) => member.parked = member.parked.saturating_sub(events),
                            Outcome::Wait(wait) => self.spread.wait(wait),
                            Outcome::Soon => self.due = Some(Instant::now()),
                            Outcome::Fetch(root) => self.fetches.push(Fetch { subscription, courier, root }),
                        }
                    }
                }
                News::Stopped => {
                    member.state = State::Resting;
                    self.spread.forget(subscription);
                    stopped = true;
                }
            }
        }
        self.meet();
        for pass in passes {
            self.advance(pass);
        }
        if stopped {
            self.settle_members();
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn commit_if_due(&mut self) {
        let now = Instant::now();
        // What is to be fetched may not be written yet.
        if !self.fetches.is_empty() && self.fetching < FETCHES && !self.committing {
            if self.exceptions.is_empty() {
                self.fetch();
            } else {
                self.due = Some(now);
            }
        }
        if self.due.is_some_and(|due| due <= now) {
            self.commit(Unsaved::Done);
        } else if now.duration_since(self.tidied) >= TIDY {
            self.commit(Unsaved::Passed);
        }
    }

    /// Reads what couriers have asked for.
    fn fetch(&mut self) {
        let now = self.fetches.len().min(FETCHES.saturating_sub(self.fetching));
        for fetch in self.fetches.drain(..now).collect::<Vec<_>>() {
            let (worker, captures) = (self.worker.clone(), self.captures.clone());
            let most = Most { bytes: self.share().min(FETCHED.bytes), ..FETCHED };
            self.fetching += 1;
            self.reserved += most.bytes;
            self.io.push(
                async move {
                    let Fetch { subscription, root, .. } = fetch;
                    let found = async {
                        let events = worker.fetch(subscription, root, most).await?;
                        let missing =
                            reading::missing(&worker, &captures, events.iter().map(|parked| parked.event.capture));
                        let captures = missing.await?;
                        Ok((events, captures, most))
                    };
                    Io::Fetched(fetch, found.await)
                }
                .boxed(),
            );
        }
    }

    /// Hands parked events to the courier that has asked for them, if it is still there.
    fn revive(&mut self, Fetch { subscription, courier, root }: Fetch, (events, captures, most): Fetched) {
        self.fetching -= 1;
        self.reserved = self.reserved.saturating_sub(most.bytes);
        self.learn(captures);
        let Some(Member { state: State::Active { courier: present, orders, .. }, .. }) =
            self.members.get(&subscription)
        else {
            return;
        };
        if *present != courier {
            return;
        }
        let known = |parked: Parked| Some((self.captures.get(&parked.event.capture)?.clone(), parked));
        let events = events.into_iter().filter_map(known).map(|(capture, parked)| (parked, capture)).collect();
        let _ = orders.send(Order::Fetched(root, events));
    }

    fn learn(&mut self, captures: Vec<Capture>) {
        if !captures.is_empty() {
            Arc::make_mut(&mut self.captures)
                .extend(captures.into_iter().map(|capture| (capture.id, Arc::new(capture))));
        }
    }

    /// Dead letters that were taken back are none any more; there may be further ones.
    fn committed_redriving(&mut self) {
        let written = std::mem::take(&mut self.taken_back);
        for letter in &written {
            self.redriving.remove(letter);
        }
        if !written.is_empty() && self.redriving.is_empty() && !self.stopping {
            self.look_for_redriven();
        }
    }

    fn look_for_redriven(&mut self) {
        let (worker, slots) = (self.worker.clone(), self.slots.wanted());
        self.io.push(async move { Io::Redriven(worker.redriven(&slots, REDRIVEN).await) }.boxed());
    }

    /// Writes the cursors of which at least so much is unsaved, and what failed. One commit at a time.
    fn commit(&mut self, at_least: Unsaved) {
        if self.committing {
            return;
        }
        if at_least == Unsaved::Passed {
            self.tidied = Instant::now();
        }
        self.due = None;
        let mut moves = Vec::new();
        for (&subscription, member) in self.members.iter_mut().filter(|(_, member)| member.unsaved >= at_least) {
            member.unsaved = Unsaved::Nothing;
            moves.push(Move { subscription, cursor: member.ledger.cursor() });
        }
        let exceptions = std::mem::take(&mut self.exceptions);
        self.exception_bytes = 0;
        if moves.is_empty() && exceptions.is_empty() {
            return;
        }
        self.complain(&exceptions);
        self.taken_back.extend(exceptions.iter().filter_map(|exception| match exception {
            Exception::Redrive { subscription, event, .. } => Some((*subscription, *event)),
            _ => None,
        }));
        self.committing = true;
        let concerned = moves.iter().map(|step| step.subscription);
        let concerned = concerned.chain(exceptions.iter().map(Exception::subscription));
        self.writing = concerned.map(Slot::of).collect();
        let (worker, leases) = (self.worker.clone(), self.slots.leases());
        self.io.push(async move { Io::Committed(worker.commit(&leases, &moves, &exceptions).await) }.boxed());
    }

    /// One line for a commit: many events may be given up at once.
    fn complain(&self, exceptions: &[Exception]) {
        let dead: Vec<_> = exceptions
            .iter()
            .filter_map(|exception| if let Exception::Bury(letter) = exception { Some(letter) } else { None })
            .collect();
        let Some(first) = dead.first() else { return };
        let trigger = self.members.get(&first.subscription).map(|member| member.definition.trigger.to_string());
        let (event, attempts, error) = (first.event.id, first.attempts, &first.failure.error);
        tracing::warn!(events = dead.len(), first = event, trigger, attempts, error, "events were given up");
    }
}

/// Reads the definitions, and which dead letters of these slots are to be delivered again.
async fn definitions(worker: &Worker, slots: &[Slot]) -> Result<Definitions, WorkerError> {
    worker.still_there().await?;
    let (subscriptions, captures) = worker.subscriptions().await?;
    let (redriven, awaits) = (worker.redriven(slots, REDRIVEN).await?, worker.awaits().await?);
    Ok(Definitions { subscriptions, captures, redriven, awaits })
}
