//! Delivers one subscription's events: keeps their order, sends, decides with the sink's circuit what a failure means, parks
//! what must wait, gives up, and reports each end.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use smallvec::{SmallVec, smallvec};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    breaker::{Permit, Reason, Suspicion, Verdict},
    format,
    http::Http,
    lanes::{Keys, Lanes, Ticket},
    ledger::Receipt,
    metrics::Metrics,
    outlet::Outlet,
    parking::{Change, Parking},
    progress::{Monitor, Tally},
    retry::{Class, Decision, Ending, classify, decide, sign},
    sender::{self, Attempt},
    target::Target,
};
use crate::log::{Capture, DeadLetter, Event, Exception, Failure, Parked, ParkedLanes, Redriven};

/// Attempts of one subscription that no other can take away, however many sinks hang.
const OWN: usize = 4;
/// Attempts beyond [`OWN`] of all subscriptions together: a connection costs about 60 KiB.
const SHARED: usize = 256;
/// Orders taken in one go.
const ORDERS: usize = 64;
/// Parked events that are being tried at a time, at most: what they take of memory is bounded by it.
const REVIVED: usize = 256;
/// Backoff is held to this, so that adding it to a clock cannot overflow.
const LONGEST: Duration = Duration::from_hours(24 * 365);
/// Between two lines of the log about one trigger's failing attempts.
const QUIET: Duration = Duration::from_mins(1);

/// What a courier is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Deliver events of the log.
    Deliver(Vec<Item>),
    /// Parked events of a group, as asked for.
    Fetched(u64, Vec<(Parked, Arc<Capture>)>),
    /// Park dead letters.
    Redrive(Vec<Redriven>),
}

/// An event of the log.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) receipt: Receipt,
    pub(super) event: Arc<Event>,
    pub(super) capture: Arc<Capture>,
}

/// What a courier has to say.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) subscription: i32,
    /// Which of the subscription's couriers, for one may be followed by another.
    pub(super) courier: u64,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    /// What came of events, in order.
    Outcomes(Vec<Outcome>),
    /// It was told to stop, and nothing is under way any more.
    Stopped,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// An event of the log is done: delivered, or what precedes this says what else.
    Done(Receipt),
    /// To be written.
    Exception(Exception),
    /// The events of this group are due.
    Fetch(u64),
    /// So many parked events are not there any more.
    Empty(u64),
}

/// How a subscription's events are sent.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    pub(super) target: Arc<Target>,
    pub(super) outlet: Arc<Outlet>,
}

/// What all couriers share.
#[derive(Debug)]
pub(super) struct Office {
    client: Http,
    metrics: Metrics,
    tally: Arc<Tally>,
    reports: mpsc::UnboundedSender<Report>,
    /// Slots for attempts beyond a subscription's own.
    slots: Arc<Semaphore>,
}

impl Office {
    pub(super) fn new(client: Http, monitor: &Monitor, reports: mpsc::UnboundedSender<Report>) -> Self {
        let Monitor { metrics, tally, .. } = monitor;
        let slots = Arc::new(Semaphore::new(SHARED));
        Self { client, metrics: metrics.clone(), tally: tally.clone(), reports, slots }
    }
}

pub(super) struct Courier {
    pub(super) subscription: i32,
    pub(super) number: u64,
    pub(super) office: Arc<Office>,
    /// The session bounds what is in it: it hands out nothing that the ledger has no room for.
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) aim: watch::Receiver<Aim>,
    /// What is parked at its start.
    pub(super) parked: ParkedLanes,
    /// Start nothing more; finish what is under way.
    pub(super) stop: CancellationToken,
}

/// Where an event comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Log(Receipt),
    /// Its place among the parked ones.
    Parked(i64),
}

/// An unfinished event.
struct Load {
    source: Source,
    event: Arc<Event>,
    capture: Arc<Capture>,
    keys: Keys<String>,
    /// Those that count.
    attempts: u32,
    /// All of them.
    sent: u32,
}

/// Events of one request, in their order.
type Tickets = SmallVec<[Ticket; 1]>;

/// A request, and what is sent after it and not before it has ended: parts of a batch that failed as a whole.
struct Parcel {
    now: Tickets,
    /// Last one first.
    rest: Vec<Tickets>,
}

impl Parcel {
    fn one(ticket: Ticket) -> Self {
        Self { now: smallvec![ticket], rest: Vec::new() }
    }

    /// The next part.
    fn next(mut self) -> Option<Self> {
        let now = self.rest.pop()?;
        Some(Self { now, rest: self.rest })
    }

    /// In two parts.
    fn split(mut self) -> Self {
        let second = self.now.drain(self.now.len().div_ceil(2)..).collect();
        self.rest.push(second);
        self
    }
}

/// A failed attempt of which it is not known yet whether it counts.
struct Suspect {
    parcel: Parcel,
    suspicion: Suspicion,
    until: Instant,
    failed: Failed,
}

/// A failed attempt.
struct Failed {
    failure: Failure,
    retry_after: Option<Duration>,
}

struct Work {
    courier: Courier,
    aim: Aim,
    lanes: Lanes<u64>,
    parking: Parking,
    /// Of parked events that are being tried.
    revived: usize,
    loads: HashMap<Ticket, Load>,
    next: Ticket,
    /// Added to a ticket it is the event's place among all events of the subscription that are ever parked.
    base: i64,
    /// Attempts under way.
    attempts: FuturesUnordered<BoxFuture<'static, (Parcel, Attempt, InFlight)>>,
    suspects: Vec<Suspect>,
    /// To be sent again as if they had not been: the sink was away.
    again: VecDeque<Parcel>,
    /// Of events that share a request: which one follows which of the same key. Only the last of them is in `lanes`.
    chained: HashMap<Ticket, Ticket>,
    /// Since when there is something to send, but not enough for a batch.
    gathering: Option<Instant>,
    /// Counts what is sent while the sink is away: by turns what has failed and what has not been sent yet, for it may be one
    /// that always fails.
    probes: u64,
    /// What is about every key is not parked: it waits here.
    retries: BinaryHeap<Reverse<(Instant, Ticket)>>,
    slots: Slots,
    outcomes: Vec<Outcome>,
    /// What the database was told about the sink.
    told: Option<Reason>,
    /// The last failure, for people.
    last: String,
    /// When a failing attempt was last logged.
    complained: Option<Instant>,
}

/// Where the right to start an attempt comes from.
struct Slots {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    /// Of the shared ones: waited for, and not used yet.
    spare: Option<OwnedSemaphorePermit>,
}

impl Slots {
    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        let slot = self.own.clone().try_acquire_owned().ok().or_else(|| self.spare.take());
        slot.or_else(|| self.shared.clone().try_acquire_owned().ok())
    }
}

/// Why nothing more is started.
enum Idle {
    /// There is nothing.
    Done,
    /// A slot is missing.
    Slot,
    /// The sink takes nothing before.
    Until(Instant),
    /// The sink takes nothing until something else ends.
    Sink,
}

impl Courier {
    /// Works until it is told to stop, or until nobody is left to tell it anything.
    pub(super) async fn run(mut self) {
        let (subscription, courier, reports) = (self.subscription, self.number, self.office.reports.clone());
        let (own, shared) = (Arc::new(Semaphore::new(OWN)), self.office.slots.clone());
        let parked = std::mem::take(&mut self.parked);
        let aim = self.aim.borrow_and_update().clone();
        let mut work = Work {
            courier: self,
            aim,
            lanes: Lanes::new(),
            parking: Parking::default(),
            revived: 0,
            loads: HashMap::new(),
            next: 0,
            base: parked.next,
            attempts: FuturesUnordered::new(),
            suspects: Vec::new(),
            again: VecDeque::new(),
            chained: HashMap::new(),
            gathering: None,
            probes: 0,
            retries: BinaryHeap::new(),
            slots: Slots { own, shared, spare: None },
            outcomes: Vec::new(),
            told: None,
            last: String::new(),
            complained: None,
        };
        work.restore(parked);
        work.run().await;
        let _ = reports.send(Report { subscription, courier, news: News::Stopped });
    }
}

impl Work {
    /// Takes over what is in the database.
    fn restore(&mut self, parked: ParkedLanes) {
        let now = Instant::now();
        let ParkedLanes { next: _, groups, joined, obstacle } = parked;
        for (root, waiting, due) in groups {
            self.parking.restore(root, waiting, now + due.min(LONGEST));
        }
        for (lane, root) in joined {
            self.parking.restore_lane(lane, root);
        }
        self.lanes.set_parked(self.parking.waiting() > 0);
        if let Some((reason, message, resume)) = obstacle
            && let Some(reason) = Reason::of(&reason)
        {
            self.told = Some(reason);
            self.last = message;
            if reason != Reason::Gone || resume == self.aim.target.resume {
                self.aim.outlet.restore(reason);
            }
        }
    }

    async fn run(&mut self) {
        let stop = self.courier.stop.clone();
        let mut orders = Vec::new();
        while !stop.is_cancelled() {
            self.judge();
            self.fetch();
            let mut idle = self.start();
            self.tell();
            self.report();
            let outlet = self.aim.outlet.clone();
            let freed = outlet.freed();
            tokio::pin!(freed);
            if matches!(idle, Idle::Sink) {
                // Whatever was freed before this is seen by asking again.
                freed.as_mut().enable();
                idle = self.start();
            }
            let wake = self.wake(&idle);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some((parcel, attempt, in_flight)) = self.attempts.next() => {
                    self.settle(parcel, attempt, in_flight);
                    while let Some(Some((parcel, attempt, in_flight))) = self.attempts.next().now_or_never() {
                        self.settle(parcel, attempt, in_flight);
                    }
                }
                Ok(()) = self.courier.aim.changed() => self.hurry(),
                count = self.courier.orders.recv_many(&mut orders, ORDERS) => {
                    if count == 0 {
                        return;
                    }
                    orders.drain(..).for_each(|order| self.take(order));
                }
                Ok(slot) = self.slots.shared.clone().acquire_owned(), if matches!(idle, Idle::Slot) => {
                    self.slots.spare = Some(slot);
                }
                () = &mut freed, if matches!(idle, Idle::Sink) => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
        }
        while let Some((parcel, attempt, in_flight)) = self.attempts.next().await {
            self.settle(parcel, attempt, in_flight);
        }
        self.report();
    }

    /// When to look again though nothing happens.
    fn wake(&mut self, idle: &Idle) -> Option<Instant> {
        let sink = match idle {
            Idle::Until(then) => Some(*then),
            Idle::Done | Idle::Slot | Idle::Sink => None,
        };
        let parked = if self.may_fetch() { self.parking.next_due() } else { None };
        let retry = match (idle, self.retries.peek()) {
            (Idle::Done, Some(Reverse((then, _)))) => Some(*then),
            _ => None,
        };
        let suspects = self.suspects.iter().map(|suspect| suspect.until);
        suspects.chain(sink).chain(parked).chain(retry).min()
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Deliver(items) => items.into_iter().for_each(|item| self.admit(item)),
            Order::Fetched(root, events) => self.revive(root, events),
            Order::Redrive(letters) => letters.into_iter().for_each(|letter| self.redrive(letter)),
        }
    }

    fn admit(&mut self, Item { receipt, event, capture }: Item) {
        let ticket = self.ticket();
        let keys = format::keys(&event, &capture, &self.aim.target.ordering);
        let (keys, wrong) = match keys {
            Ok(keys) => (keys, None),
            Err(error) => (Keys::None, Some(error.to_string())),
        };
        let lanes = lanes_of(&keys);
        let load = Load { source: Source::Log(receipt), event, capture, keys, attempts: 0, sent: 0 };
        if let Some(error) = wrong {
            return self.give_up(ticket, &load, &lanes, Failure { error, ..Failure::default() });
        }
        let waits = !self.lanes.is_barred() && lanes.iter().any(|lane| self.parking.root(*lane).is_some());
        if waits {
            self.park(ticket, &lanes, load, None);
            return;
        }
        self.lanes.admit(ticket, lanes);
        self.loads.insert(ticket, load);
    }

    /// Takes parked events back in, behind whatever of their keys is here.
    fn revive(&mut self, root: u64, events: Vec<(Parked, Arc<Capture>)>) {
        let root = self.parking.root(root).unwrap_or(root);
        if events.is_empty() {
            let mut changes = Vec::new();
            let gone = self.parking.emptied(root, &mut changes);
            self.change(changes);
            self.outcomes.push(Outcome::Empty(gone));
            self.lanes.set_parked(self.parking.waiting() > 0);
            return;
        }
        self.parking.fetched(root, u32::try_from(events.len()).unwrap_or(u32::MAX));
        self.revived += events.len();
        for (Parked { seq, attempts, event }, capture) in events {
            let ticket = self.ticket();
            // The ordering may have changed meanwhile; what could not be read then was not parked.
            let keys = format::keys(&event, &capture, &self.aim.target.ordering).unwrap_or(Keys::None);
            let lanes = lanes_of(&keys);
            self.lanes.readmit(ticket, lanes);
            let load =
                Load { source: Source::Parked(seq), event: Arc::new(event), capture, keys, attempts, sent: attempts };
            self.loads.insert(ticket, load);
        }
    }

    fn redrive(&mut self, Redriven { event, lanes }: Redriven) {
        let mut changes = Vec::new();
        let first = lanes.first().copied().unwrap_or_else(|| alone(event));
        let root = self.parking.park(first, lanes.get(1).copied(), &mut changes);
        self.change(changes);
        let subscription = self.courier.subscription;
        self.exception(Exception::Redrive { subscription, event, root });
        self.put_off(root, Duration::ZERO);
        self.lanes.set_parked(true);
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        self.next - 1
    }

    /// Asks for parked events that are due.
    fn fetch(&mut self) {
        let now = Instant::now();
        while self.may_fetch()
            && let Some(root) = self.parking.fetch(now)
        {
            self.outcomes.push(Outcome::Fetch(root));
        }
    }

    /// While the sink is away one event is enough, for the probe.
    fn may_fetch(&self) -> bool {
        let away = self.aim.outlet.reason();
        away != Some(Reason::Gone)
            && self.revived < REVIVED
            && (away.is_none() || !self.lanes.has_next() && self.again.is_empty() && self.attempts.is_empty())
    }

    /// Starts what may be started: what has waited longest first.
    fn start(&mut self) -> Idle {
        loop {
            let now = Instant::now();
            let due = self.retries.peek().is_some_and(|Reverse((at, _))| *at <= now);
            if !due && self.again.is_empty() {
                if !self.lanes.has_next() {
                    self.slots.spare = None;
                    return Idle::Done;
                }
                if let Some(then) = self.gather_until(now) {
                    return Idle::Until(then);
                }
            }
            let Some(slot) = self.slots.take() else { return Idle::Slot };
            match self.aim.outlet.permit(now) {
                Permit::Yes => {}
                Permit::NotUntil(then) => return Idle::Until(then),
                Permit::Wait => return Idle::Sink,
            }
            let in_flight = InFlight::new(&self.courier.office.metrics, &self.aim.outlet, slot);
            let away = self.aim.outlet.reason().is_some();
            self.probes += u64::from(away);
            let parcel = if due {
                self.retries.pop().map(|Reverse((_, ticket))| Parcel::one(ticket))
            } else if away && self.probes.is_multiple_of(2) {
                self.gather().or_else(|| self.again.pop_front())
            } else {
                self.again.pop_front().or_else(|| self.gather())
            };
            if let Some(parcel) = parcel {
                self.send(parcel, in_flight);
            }
        }
    }

    /// Until when a batch waits for more events.
    fn gather_until(&mut self, now: Instant) -> Option<Instant> {
        let batch = self.aim.target.batch()?;
        let full = self.lanes.ready() >= usize::try_from(batch.max_events).unwrap_or(usize::MAX);
        let until = *self.gathering.get_or_insert(now) + batch.linger;
        (!full && now < until).then_some(until)
    }

    /// Takes the events of the next request.
    fn gather(&mut self) -> Option<Parcel> {
        self.gathering = None;
        let mut last = self.lanes.next()?;
        let Some(batch) = self.aim.target.batch() else { return Some(Parcel::one(last)) };
        let (most, mut room) = (usize::try_from(batch.max_events).unwrap_or(usize::MAX), batch.max_bytes);
        let size = |ticket| self.loads.get(&ticket).map_or(0, |load| bytes(&load.event));
        let mut now: Tickets = smallvec![last];
        room = room.saturating_sub(size(last));
        while now.len() < most {
            let follower = self.lanes.follower(last);
            let Some(next) = follower.or_else(|| self.lanes.peek()).filter(|next| size(*next) <= room) else { break };
            if follower.is_some() {
                self.lanes.follow(last);
                self.chained.insert(last, next);
            } else {
                self.lanes.next();
            }
            room -= size(next);
            now.push(next);
            last = next;
        }
        Some(Parcel { now, rest: Vec::new() })
    }

    /// Starts an attempt.
    fn send(&mut self, mut parcel: Parcel, in_flight: InFlight) {
        let target = self.aim.target.clone();
        // Some may have been parked, because one of their key before them was.
        parcel.now.retain(|ticket| self.loads.contains_key(ticket));
        let Office { client, metrics, tally, .. } = &*self.courier.office;
        for ticket in &parcel.now {
            let Some(load) = self.loads.get_mut(ticket) else { continue };
            if load.sent > 0 {
                metrics.retries.inc();
                tally.retries();
            }
            load.sent = load.sent.saturating_add(1);
        }
        if parcel.now.is_empty() {
            return self.go_on(parcel);
        }
        let written = {
            let loads = parcel.now.iter().filter_map(|ticket| self.loads.get(ticket));
            let items: SmallVec<[format::Item<'_>; 1]> = loads
                .map(|Load { event, capture, keys, sent, .. }| format::Item { event, capture, keys, attempt: *sent })
                .collect();
            target.write(&items)
        };
        let written = match written {
            Ok(written) => written,
            Err(_) if parcel.now.len() > 1 => return self.again.push_front(parcel.split()),
            Err(error) => {
                let ticket = parcel.now[0];
                self.finish(ticket, Some(Failure { error: error.to_string(), ..Failure::default() }));
                return self.go_on(parcel);
            }
        };
        let client = client.clone();
        let attempt = async move {
            let attempt = sender::post(&client, &target, written).await;
            (parcel, attempt, in_flight)
        };
        self.attempts.push(attempt.boxed());
    }

    /// A request has ended, and its events with it: what was to come after it may go.
    fn go_on(&mut self, parcel: Parcel) {
        self.again.extend(parcel.next());
    }

    /// Decides after an attempt.
    fn settle(&mut self, parcel: Parcel, attempt: Attempt, in_flight: InFlight) {
        let Office { metrics, tally, .. } = &*self.courier.office;
        metrics.attempt(attempt.ending);
        tally.attempt();
        let statuses = &self.aim.target.statuses;
        let class = classify(statuses, attempt.ending);
        if class == Class::Delivered {
            in_flight.succeeded();
            let now = Timestamp::now();
            for ticket in &parcel.now {
                if let Some(load) = self.loads.get(ticket) {
                    // Two machines' clocks: less than nothing is nothing.
                    metrics.delivery(now.duration_since(load.event.at).try_into().unwrap_or_default());
                    tally.delivered();
                }
            }
            for ticket in &parcel.now {
                self.finish(*ticket, None);
            }
            return self.go_on(parcel);
        }
        let told = attempt.told();
        let Attempt { ending, detail, retry_after, body } = attempt;
        let status = match ending {
            Ending::Status(status) => Some(status),
            Ending::Timeout | Ending::Connection => None,
        };
        let failed = Failed { failure: Failure { status, error: detail, response: body }, retry_after };
        if class == Class::Final {
            // The sink is there: it has answered.
            in_flight.succeeded();
            return self.refuse(parcel, failed);
        }
        let key = parcel
            .now
            .first()
            .and_then(|ticket| self.loads.get(ticket))
            .map_or(0, |load| lanes_of(&load.keys).iter().next().copied().unwrap_or_else(|| alone(load.event.id)));
        let asked = retry_after.map(|asked| asked.min(self.aim.target.policy.retry_after_max));
        let (suspicion, verdict) = in_flight.failed(sign(statuses, ending), key, asked);
        self.last = told;
        self.decide(parcel, suspicion, verdict, failed);
    }

    /// The sink will never take this request. Of a batch it is not known which event is at fault: its halves are sent apart.
    fn refuse(&mut self, parcel: Parcel, Failed { failure, .. }: Failed) {
        if parcel.now.len() > 1 {
            return self.again.push_front(parcel.split());
        }
        if let Some(load) = parcel.now.first().and_then(|ticket| self.loads.get_mut(ticket)) {
            load.attempts += 1;
        }
        if let Some(ticket) = parcel.now.first() {
            self.finish(*ticket, Some(failure));
        }
        self.go_on(parcel);
    }

    /// Looks again at failures whose meaning was not clear.
    fn judge(&mut self) {
        if self.suspects.is_empty() {
            return;
        }
        for Suspect { parcel, suspicion, failed, .. } in std::mem::take(&mut self.suspects) {
            let verdict = self.aim.outlet.judge(&suspicion);
            self.decide(parcel, suspicion, verdict, failed);
        }
    }

    fn decide(&mut self, parcel: Parcel, suspicion: Suspicion, verdict: Verdict, failed: Failed) {
        match verdict {
            Verdict::Undecided(until) => self.suspects.push(Suspect { parcel, suspicion, until, failed }),
            Verdict::Sink => self.again.push_back(parcel),
            Verdict::Event if parcel.now.len() > 1 => self.again.push_front(parcel.split()),
            Verdict::Event => {
                if let Some(ticket) = parcel.now.first() {
                    self.count(*ticket, failed);
                }
                self.go_on(parcel);
            }
        }
    }

    /// A failed attempt counts: the event is parked until it may be tried again, or given up.
    fn count(&mut self, ticket: Ticket, Failed { failure, retry_after }: Failed) {
        self.complain(&failure);
        let Some(load) = self.loads.get_mut(&ticket) else { return };
        load.attempts = load.attempts.saturating_add(1);
        let attempts = load.attempts;
        let delay = match decide(&self.aim.target.policy, attempts, retry_after, fastrand::f64()) {
            Decision::GiveUp => return self.finish(ticket, Some(failure)),
            Decision::Again(delay) => delay.min(LONGEST),
        };
        if matches!(load.keys, Keys::All) {
            self.retries.push(Reverse((Instant::now() + delay, ticket)));
            return;
        }
        let mut failure = Some((attempts, failure));
        let mut root = None;
        for (waiting, lanes) in self.withdraw(ticket) {
            let Some(load) = self.loads.remove(&waiting) else { continue };
            let failed = if waiting == ticket { failure.take() } else { None };
            let group = match load.source {
                Source::Log(_) => Some(self.park(waiting, &lanes, load, failed)),
                Source::Parked(seq) => self.repark(seq, &lanes, &load, failed),
            };
            if waiting == ticket {
                root = group;
            }
        }
        if let Some(root) = root.and_then(|root| self.parking.root(root)) {
            self.put_off(root, delay);
        }
        self.lanes.set_parked(self.parking.waiting() > 0);
    }

    /// Takes out an event that was handed out, and all that waits for it, also in the same request.
    fn withdraw(&mut self, ticket: Ticket) -> Vec<(Ticket, Keys<u64>)> {
        let (mut withdrawn, mut last) = (Vec::new(), ticket);
        while let Some(next) = self.chained.remove(&last) {
            withdrawn.extend(self.loads.get(&last).map(|load| (last, lanes_of(&load.keys))));
            last = next;
        }
        withdrawn.extend(self.lanes.withdraw(last));
        withdrawn
    }

    /// Parks an event of the log; returns its group.
    fn park(&mut self, ticket: Ticket, lanes: &Keys<u64>, load: Load, failed: Option<(u32, Failure)>) -> u64 {
        let Source::Log(receipt) = load.source else { return 0 };
        let mut changes = Vec::new();
        let (first, second) = pair(lanes, load.event.id);
        let root = self.parking.park(first, second, &mut changes);
        self.change(changes);
        self.courier.office.metrics.parked.inc();
        let (subscription, seq) = (self.courier.subscription, self.seq(ticket));
        self.exception(Exception::Park { subscription, seq, root, event: load.event, failed });
        self.outcomes.push(Outcome::Done(receipt));
        root
    }

    /// Lets a parked event wait on; returns its group.
    fn repark(&mut self, seq: i64, lanes: &Keys<u64>, load: &Load, failed: Option<(u32, Failure)>) -> Option<u64> {
        let (first, _) = pair(lanes, load.event.id);
        let root = self.parking.root(first)?;
        self.revived -= 1;
        if let Some((attempts, failure)) = failed {
            let subscription = self.courier.subscription;
            self.exception(Exception::Failed { subscription, seq, attempts, failure });
            // It is not due at once when the others of its group are back.
            self.parking.failed(root, Instant::now() + LONGEST);
        }
        self.parking.put_back(first, Instant::now());
        Some(root)
    }

    /// A group waits before its first event is tried again.
    fn put_off(&mut self, root: u64, delay: Duration) {
        self.parking.failed(root, Instant::now() + delay);
        let subscription = self.courier.subscription;
        self.exception(Exception::Wait { subscription, root, delay });
    }

    /// Place of an event among all that are ever parked.
    fn seq(&self, ticket: Ticket) -> i64 {
        self.base.saturating_add(i64::try_from(ticket).unwrap_or(i64::MAX))
    }

    fn change(&mut self, changes: Vec<Change>) {
        let subscription = self.courier.subscription;
        for change in changes {
            self.exception(match change {
                Change::Join { lane, root } => Exception::Join { subscription, lane, root },
                Change::Merge { from, into } => Exception::Merge { subscription, from, into },
                Change::Clear { root } => Exception::Clear { subscription, root },
            });
        }
    }

    fn exception(&mut self, exception: Exception) {
        self.outcomes.push(Outcome::Exception(exception));
    }

    /// An event has come to its end: with a cause, it is given up.
    fn finish(&mut self, ticket: Ticket, given_up: Option<Failure>) {
        if self.chained.remove(&ticket).is_none() {
            self.lanes.finish(ticket);
        }
        let Some(load) = self.loads.remove(&ticket) else { return };
        match given_up {
            None => self.leave(&load, false),
            Some(failure) => {
                let lanes = lanes_of(&load.keys);
                self.give_up(ticket, &load, &lanes, failure);
            }
        }
    }

    /// Notes that an event needs no more work; `buried`: what else is written of it takes it out of the parked ones.
    fn leave(&mut self, load: &Load, buried: bool) {
        let subscription = self.courier.subscription;
        match load.source {
            Source::Log(receipt) => self.outcomes.push(Outcome::Done(receipt)),
            Source::Parked(seq) => {
                if !buried {
                    self.exception(Exception::Unpark { subscription, seq });
                }
                self.revived -= 1;
                let mut changes = Vec::new();
                let (first, _) = pair(&lanes_of(&load.keys), load.event.id);
                self.parking.finish(first, Instant::now(), &mut changes);
                self.change(changes);
                self.lanes.set_parked(self.parking.waiting() > 0);
            }
        }
    }

    fn give_up(&mut self, ticket: Ticket, load: &Load, lanes: &Keys<u64>, failure: Failure) {
        self.courier.office.metrics.dead.inc();
        self.courier.office.tally.dead();
        let (seq, parked) = match load.source {
            Source::Log(_) => (self.seq(ticket), false),
            Source::Parked(seq) => (seq, true),
        };
        self.exception(Exception::Bury(DeadLetter {
            subscription: self.courier.subscription,
            seq,
            lanes: lanes.iter().copied().collect(),
            event: load.event.clone(),
            attempts: load.attempts,
            failure,
            parked,
        }));
        self.leave(load, true);
    }

    /// Lets the database know whether the sink takes events.
    fn tell(&mut self) {
        let reason = self.aim.outlet.reason();
        if reason == self.told {
            return;
        }
        self.told = reason;
        let trigger = &self.aim.target.trigger;
        if let Some(reason) = reason {
            tracing::warn!(%trigger, reason = reason.name(), "the sink takes no events: {}", self.last);
        } else {
            tracing::info!(%trigger, "the sink takes events again");
        }
        let obstacle = reason.map(|reason| (reason.name().to_owned(), advice(reason, &self.last)));
        let (subscription, resume) = (self.courier.subscription, self.aim.target.resume.clone());
        self.exception(Exception::Obstacle { subscription, obstacle, resume });
    }

    fn report(&mut self) {
        if self.outcomes.is_empty() {
            return;
        }
        let Courier { subscription, number, .. } = self.courier;
        let news = News::Outcomes(std::mem::take(&mut self.outcomes));
        let _ = self.courier.office.reports.send(Report { subscription, courier: number, news });
    }

    /// Says why an attempt failed, now and then.
    fn complain(&mut self, failure: &Failure) {
        let trigger = &self.aim.target.trigger;
        if self.complained.is_none_or(|at| at.elapsed() > QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!(%trigger, "attempts fail and will be repeated: {}", failure.error);
        }
    }

    /// The definition changed: what waits is tried at once, for whoever mended a sink looks whether it helped.
    fn hurry(&mut self) {
        let aim = self.courier.aim.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.aim, aim);
        let Aim { target, outlet } = &self.aim;
        if outlet.reason() != Some(Reason::Gone)
            || target.resume != before.target.resume
            || target.uri != before.target.uri
        {
            outlet.resume();
        }
        let now = Instant::now();
        self.parking.hurry(now);
        self.retries = self.retries.drain().map(|Reverse((_, ticket))| Reverse((now, ticket))).collect();
    }
}

/// What the condition says of a sink that takes nothing, `last` being how the last attempt ended.
fn advice(reason: Reason, last: &str) -> String {
    let what = match reason {
        Reason::Unreachable | Reason::Failing => "look at the receiver; it is tried again every 30 s at most",
        Reason::Unauthorized => {
            "correct the credentials of the sink (headers, auth), which takes effect at once; they are tried again every 5 min at most"
        }
        Reason::Gone => {
            "it answered 410, which says that it is gone for good; to send to it again, annotate its EventSink, or the \
             EventTrigger if it has none, with eventtrigger.dev/resume and any new value, or correct its address"
        }
    };
    format!("{last}; events wait in the log, no retry is spent; {what}")
}

/// Keys by their hash. It is written to the database, so it must stay the same over versions and machines.
fn lanes_of(keys: &Keys<String>) -> Keys<u64> {
    keys.map(|key| xxh3_64(key.as_bytes()))
}

/// The lanes in which an event is parked: one that has no order waits for itself alone.
fn pair(lanes: &Keys<u64>, event: i64) -> (u64, Option<u64>) {
    match lanes {
        Keys::One(lane) => (*lane, None),
        Keys::Both(old, new) => (*old, Some(*new)),
        Keys::None | Keys::All => (alone(event), None),
    }
}

/// About as many as an event takes in a batch.
fn bytes(event: &Event) -> u64 {
    let rows = [&event.old, &event.new, &event.context].into_iter().flatten();
    // Its attributes.
    512 + rows.map(|row| row.len() as u64).sum::<u64>()
}

/// A lane for one event.
fn alone(event: i64) -> u64 {
    // Spread, so that it is hardly ever that of a key.
    event.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One attempt's part of what is limited, for as long as it lives, also if it is dropped.
struct InFlight {
    metrics: Metrics,
    outlet: Option<Arc<Outlet>>,
    _slot: OwnedSemaphorePermit,
}

impl InFlight {
    fn new(metrics: &Metrics, outlet: &Arc<Outlet>, slot: OwnedSemaphorePermit) -> Self {
        metrics.in_flight.inc();
        Self { metrics: metrics.clone(), outlet: Some(outlet.clone()), _slot: slot }
    }

    fn succeeded(mut self) {
        if let Some(outlet) = self.outlet.take() {
            outlet.succeeded();
        }
    }

    fn failed(mut self, sign: super::breaker::Sign, key: u64, wait: Option<Duration>) -> (Suspicion, Verdict) {
        let outlet = self.outlet.take().expect("an attempt ends once");
        outlet.failed(sign, key, wait)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if let Some(outlet) = self.outlet.take() {
            outlet.broken_off();
        }
    }
}
