//! Delivers one subscription's events: keeps their order, sends, waits, tries again, gives up, and reports each end.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    format::{self, Item},
    http::Http,
    lanes::{Keys, Lanes, Ticket},
    ledger::Receipt,
    metrics::Metrics,
    progress::{Monitor, Tally},
    retry::{Decision, Ending, decide},
    sender::{self, Attempt},
    target::Target,
};
use crate::log::{Capture, DeadLetter, Event};

/// Attempts under way for one subscription, at most. At a sink's usual 10 ms it allows 3,000 events a second, and a
/// sink that hangs ties up no more connections than this.
const IN_FLIGHT: usize = 32;
/// Of them, those that no other subscription can take away, however many sinks hang.
const OWN: usize = 4;
/// Attempts beyond [`OWN`] of all subscriptions together: a connection costs about 60 KiB.
const SHARED: usize = 256;
/// Backoff is held to this, so that adding it to a clock cannot overflow.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// An event to deliver.
#[derive(Debug)]
pub(super) struct Order {
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
    /// An event is delivered, or given up.
    Done { receipt: Receipt, dead: Option<DeadLetter> },
    /// It was told to stop, and nothing is under way any more.
    Stopped,
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
    pub(super) target: watch::Receiver<Arc<Target>>,
    /// Start nothing more; finish what is under way.
    pub(super) stop: CancellationToken,
}

/// Between two lines of the log about one trigger's failing attempts.
const QUIET: Duration = Duration::from_mins(1);

/// An unfinished event.
struct Load {
    order: Order,
    keys: Keys<String>,
    attempts: u32,
}

struct Work {
    courier: Courier,
    lanes: Lanes<String>,
    loads: HashMap<Ticket, Load>,
    next: Ticket,
    /// Attempts under way.
    attempts: FuturesUnordered<BoxFuture<'static, (Ticket, Attempt)>>,
    /// When to try again.
    retries: BinaryHeap<Reverse<(Instant, Ticket)>>,
    slots: Slots,
    /// When a failing attempt was last logged.
    complained: Option<Instant>,
}

/// Where the right to start an attempt comes from.
struct Slots {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    /// Of the shared ones: waited for, and not used yet.
    spare: Option<OwnedSemaphorePermit>,
    /// There was something to start, and only a shared slot was missing.
    starved: bool,
}

impl Slots {
    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        let slot = self.own.clone().try_acquire_owned().ok().or_else(|| self.spare.take());
        let slot = slot.or_else(|| self.shared.clone().try_acquire_owned().ok());
        self.starved = slot.is_none();
        slot
    }
}

impl Courier {
    /// Works until it is told to stop, or until nobody is left to tell it anything.
    pub(super) async fn run(self) {
        let (subscription, courier, reports) = (self.subscription, self.number, self.office.reports.clone());
        let (own, shared) = (Arc::new(Semaphore::new(OWN)), self.office.slots.clone());
        let mut work = Work {
            courier: self,
            lanes: Lanes::new(),
            loads: HashMap::new(),
            next: 0,
            attempts: FuturesUnordered::new(),
            retries: BinaryHeap::new(),
            slots: Slots { own, shared, spare: None, starved: false },
            complained: None,
        };
        work.run().await;
        let _ = reports.send(Report { subscription, courier, news: News::Stopped });
    }
}

impl Work {
    async fn run(&mut self) {
        let stop = self.courier.stop.clone();
        let mut orders = Vec::new();
        while !stop.is_cancelled() {
            self.start();
            // With no slot free, a slot comes before any retry.
            let free = !self.slots.starved && self.attempts.len() < IN_FLIGHT;
            let due = self.retries.peek().filter(|_| free).map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some((ticket, attempt)) = self.attempts.next() => self.settle(ticket, &attempt),
                Ok(()) = self.courier.target.changed() => self.hurry(),
                count = self.courier.orders.recv_many(&mut orders, IN_FLIGHT) => {
                    if count == 0 {
                        return;
                    }
                    orders.drain(..).for_each(|order| self.admit(order));
                }
                Ok(slot) = self.slots.shared.clone().acquire_owned(), if self.slots.starved => {
                    self.slots.spare = Some(slot);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        while let Some((ticket, attempt)) = self.attempts.next().await {
            self.settle(ticket, &attempt);
        }
    }

    fn admit(&mut self, order: Order) {
        match format::keys(&order.event, &order.capture) {
            Ok(keys) => {
                self.lanes.admit(self.next, keys.clone());
                self.loads.insert(self.next, Load { order, keys, attempts: 0 });
                self.next += 1;
            }
            Err(error) => self.give_up(&Load { order, keys: Keys::None, attempts: 0 }, None, error.to_string()),
        }
    }

    /// Fills the free slots: retries that are due first, for they block their keys.
    fn start(&mut self) {
        let now = Instant::now();
        self.slots.starved = false;
        while self.attempts.len() < IN_FLIGHT {
            let due = self.retries.peek().is_some_and(|Reverse((at, _))| *at <= now);
            if !due && !self.lanes.has_next() {
                break;
            }
            let Some(slot) = self.slots.take() else { return };
            let ticket = if due { self.retries.pop().map(|Reverse((_, ticket))| ticket) } else { self.lanes.next() };
            if let Some(ticket) = ticket {
                self.send(ticket, slot);
            }
        }
        self.slots.spare = None;
    }

    /// Starts an attempt.
    fn send(&mut self, ticket: Ticket, slot: OwnedSemaphorePermit) {
        let Some(load) = self.loads.get_mut(&ticket) else { return };
        // Not marked as seen: the loop is to learn of a change too.
        let target = self.courier.target.borrow().clone();
        let Order { event, capture, .. } = &load.order;
        let attempt = load.attempts.saturating_add(1);
        let written = match target.write(&[Item { event, capture, keys: &load.keys, attempt }]) {
            Ok(written) => written,
            Err(error) => return self.finish(ticket, Some((None, error.to_string()))),
        };
        load.attempts = attempt;
        let Office { client, metrics, tally, .. } = &*self.courier.office;
        if load.attempts > 1 {
            metrics.retries.inc();
            tally.retries();
        }
        let (client, in_flight) = (client.clone(), InFlight::new(metrics));
        let attempt = async move {
            let attempt = sender::post(&client, &target, written).await;
            drop((in_flight, slot));
            (ticket, attempt)
        };
        self.attempts.push(attempt.boxed());
    }

    /// Decides after an attempt.
    fn settle(&mut self, ticket: Ticket, attempt: &Attempt) {
        let Office { metrics, tally, .. } = &*self.courier.office;
        metrics.attempt(attempt.ending);
        tally.attempt();
        let Some(load) = self.loads.get(&ticket) else { return };
        let policy = self.courier.target.borrow().policy.clone();
        match decide(&policy, attempt.ending, load.attempts, fastrand::f64()) {
            Decision::Done => {
                let latency = Timestamp::now().duration_since(load.order.event.at);
                // Two machines' clocks: less than nothing is nothing.
                metrics.delivery(latency.try_into().unwrap_or_default());
                tally.delivered();
                self.finish(ticket, None);
            }
            Decision::Again(delay) => {
                self.retries.push(Reverse((Instant::now() + delay.min(LONGEST), ticket)));
                self.complain(attempt);
            }
            Decision::GiveUp => {
                let status = match attempt.ending {
                    Ending::Status(status) => Some(status),
                    Ending::Timeout | Ending::Connection => None,
                };
                self.finish(ticket, Some((status, attempt.told())));
            }
        }
    }

    /// An event has come to its end: with a cause, it was given up.
    fn finish(&mut self, ticket: Ticket, given_up: Option<(Option<u16>, String)>) {
        self.lanes.finish(ticket);
        let Some(load) = self.loads.remove(&ticket) else { return };
        match given_up {
            None => self.report(News::Done { receipt: load.order.receipt, dead: None }),
            Some((status, error)) => self.give_up(&load, status, error),
        }
    }

    fn give_up(&self, load: &Load, status: Option<u16>, error: String) {
        let Load { order: Order { receipt, event, .. }, attempts, .. } = load;
        self.courier.office.metrics.dead.inc();
        self.courier.office.tally.dead();
        let dead = DeadLetter {
            subscription: self.courier.subscription,
            event: event.id,
            attempts: *attempts,
            status,
            error,
            old: event.old.clone(),
            new: event.new.clone(),
            context: event.context.clone(),
        };
        self.report(News::Done { receipt: *receipt, dead: Some(dead) });
    }

    fn report(&self, news: News) {
        let Courier { subscription, number, .. } = self.courier;
        let _ = self.courier.office.reports.send(Report { subscription, courier: number, news });
    }

    /// Says why an attempt failed, now and then.
    fn complain(&mut self, attempt: &Attempt) {
        let trigger = &self.courier.target.borrow().trigger;
        if self.complained.is_none_or(|at| at.elapsed() > QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!(%trigger, "attempts fail and will be repeated: {}", attempt.told());
        }
    }

    /// The definition changed: what waits is tried at once, for whoever mended a sink looks whether it helped.
    fn hurry(&mut self) {
        let now = Instant::now();
        self.retries = self.retries.drain().map(|Reverse((_, ticket))| Reverse((now, ticket))).collect();
    }
}

/// Counts one attempt as under way for as long as it lives, also if it is dropped.
struct InFlight(Metrics);

impl InFlight {
    fn new(metrics: &Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
