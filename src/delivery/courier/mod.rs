//! Delivers one subscription's events: keeps their order, sends, decides with the sink's circuit what a failure means, parks
//! what must wait, gives up, and reports each end.

mod meeting;
mod parking;
mod sending;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use smallvec::SmallVec;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use self::meeting::Meeting;
pub(super) use self::parking::{lanes, role};
use self::sending::{Idle, InFlight, OWN, Parcel, SHARED, Slots, Suspect};
use super::{
    breaker::Reason,
    http::Http,
    lanes::{FastHash, Keys, Lanes, Ticket},
    ledger::Receipt,
    metrics::{Counts, Metrics},
    outlet::Outlet,
    parking::Parking,
    progress::{Monitor, Tally},
    sender::Attempt,
    target::Target,
};
use crate::log::{Capture, Event, Exception, Parked, ParkedLanes, Partition, Redriven, Wait, partition::Role};

/// Orders taken in one go.
const ORDERS: usize = 64;
/// Backoff is held to this, so that adding it to a clock cannot overflow.
const LONGEST: Duration = Duration::from_hours(24 * 365);
/// Most that an obstacle's message repeats of how an attempt ended, in bytes.
const SAID: usize = 400;

/// What a courier is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Deliver events of the log.
    Deliver(Vec<Item>),
    /// Parked events of a group, as asked for.
    Fetched(u64, Vec<(Parked, Arc<Capture>)>),
    /// Park dead letters.
    Redrive(Vec<Redriven>),
    /// Other partitions have come to an event that waits for them.
    Met(i64),
    /// Park these events where they are: nothing is read any more until they are done, and they may take long.
    ParkUnderWay(Vec<Receipt>),
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
    /// An event waits for other partitions.
    Wait(Wait),
    /// Other partitions wait for what was said so far: it is to be written at once.
    Soon,
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
    /// Bytes of all requests under way.
    bodies: AtomicU64,
}

impl Office {
    pub(super) fn new(client: Http, monitor: &Monitor, reports: mpsc::UnboundedSender<Report>) -> Self {
        let Monitor { metrics, tally, .. } = monitor;
        let slots = Arc::new(Semaphore::new(SHARED));
        Self { client, metrics: metrics.clone(), tally: tally.clone(), reports, slots, bodies: AtomicU64::new(0) }
    }
}

pub(super) struct Courier {
    pub(super) subscription: i32,
    /// Which of its EventTrigger's events it delivers.
    pub(super) partition: Partition,
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
#[derive(Clone)]
struct Load {
    source: Source,
    event: Arc<Event>,
    capture: Arc<Capture>,
    keys: Keys<String>,
    /// Those that count.
    attempts: u32,
    /// All of them.
    sent: u32,
    /// What it is to this partition.
    role: Role,
    /// Whether it was fetched from where it was parked.
    revived: bool,
}

/// Events of one request, in their order.
type Tickets = SmallVec<[Ticket; 1]>;

struct Work {
    courier: Courier,
    aim: Aim,
    counts: Counts,
    lanes: Lanes<u64>,
    parking: Parking,
    /// Parked events that are being tried, and their bytes.
    revived: usize,
    revived_bytes: u64,
    /// Groups of which events were asked for, and have not come.
    asked: usize,
    /// What was parked and is gone on with: these are not fetched; and of them, those that ended while something was asked for.
    in_place: HashSet<i64>,
    ended: Vec<i64>,
    loads: HashMap<Ticket, Load, FastHash>,
    next: Ticket,
    /// Added to a ticket it is the event's place among all events of the subscription that are ever parked.
    base: i64,
    /// Attempts under way.
    attempts: FuturesUnordered<BoxFuture<'static, (Parcel, Attempt, InFlight)>>,
    /// Bytes of their requests.
    sending: u64,
    suspects: Vec<Suspect>,
    /// To be sent again as if they had not been: the sink was away.
    again: VecDeque<Parcel>,
    /// Of events that share a request: which one follows which of the same key. Only the last of them is in `lanes`.
    chained: HashMap<Ticket, Ticket, FastHash>,
    /// In `lanes`: events that concern other partitions, too, and that something may be before.
    crossings: BTreeSet<Ticket>,
    /// Those that nothing is before, and that wait for other partitions; and until when in memory.
    meetings: HashMap<i64, Meeting>,
    patience: VecDeque<(Instant, i64)>,
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

impl Courier {
    /// Works until it is told to stop, or until nobody is left to tell it anything.
    pub(super) async fn run(mut self) {
        let (subscription, courier, reports) = (self.subscription, self.number, self.office.reports.clone());
        let (own, shared) = (Arc::new(Semaphore::new(OWN)), self.office.slots.clone());
        let parked = std::mem::take(&mut self.parked);
        let aim = self.aim.borrow_and_update().clone();
        let counts = self.office.metrics.counts(&aim.target.trigger);
        let mut work = Work {
            courier: self,
            counts,
            aim,
            lanes: Lanes::new(),
            parking: Parking::default(),
            revived: 0,
            revived_bytes: 0,
            asked: 0,
            in_place: HashSet::new(),
            ended: Vec::new(),
            loads: HashMap::default(),
            next: 0,
            base: parked.next,
            attempts: FuturesUnordered::new(),
            sending: 0,
            suspects: Vec::new(),
            again: VecDeque::new(),
            chained: HashMap::default(),
            crossings: BTreeSet::new(),
            meetings: HashMap::new(),
            patience: VecDeque::new(),
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
        match obstacle.map(|(reason, message, resume)| (Reason::of(&reason), message, resume)) {
            None => {}
            Some((Some(reason), message, resume)) => {
                self.told = Some(reason);
                self.last = message;
                if reason != Reason::Gone || resume == self.aim.target.resume {
                    self.aim.outlet.restore(reason);
                }
            }
            // It was held, and this courier would not be here if it still were.
            Some((None, _, _)) => {
                let subscription = self.courier.subscription;
                self.exception(Exception::Obstacle { subscription, obstacle: None, resume: None });
            }
        }
    }

    async fn run(&mut self) {
        let stop = self.courier.stop.clone();
        let mut orders = Vec::new();
        while !stop.is_cancelled() {
            self.judge();
            self.lose_patience();
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
            Idle::Done | Idle::Slot | Idle::Sink | Idle::Memory => None,
        };
        let parked = if self.may_fetch() { self.parking.next_due() } else { None };
        let retry = match (idle, self.retries.peek()) {
            (Idle::Done, Some(Reverse((then, _)))) => Some(*then),
            _ => None,
        };
        let suspects = self.suspects.iter().map(|suspect| suspect.until);
        let patience = self.patience.front().map(|(until, _)| *until);
        suspects.chain(sink).chain(parked).chain(retry).chain(patience).min()
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Deliver(items) => items.into_iter().for_each(|item| self.admit(item)),
            Order::Fetched(root, events) => self.revive(root, events),
            Order::Redrive(letters) => letters.into_iter().for_each(|letter| self.redrive(letter)),
            Order::Met(event) => self.met(event),
            Order::ParkUnderWay(receipts) => self.park_under_way(&receipts),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        self.next - 1
    }

    fn exception(&mut self, exception: Exception) {
        self.outcomes.push(Outcome::Exception(exception));
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
    // Room for the advice: the note of a Kubernetes Event is cut at 1 kB.
    let last = &last[..last.floor_char_boundary(SAID)];
    format!("{last}; events wait in the log, no retry is spent; {what}")
}
