//! What is sent, and what its end means: requests are put together, started while the sink and the slots allow it, and judged.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use jiff::Timestamp;
use smallvec::{SmallVec, smallvec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    super::{
        breaker::{Permit, Sign, Suspicion, Verdict},
        format,
        lanes::Ticket,
        outlet::Outlet,
        retry::{Class, Ending, classify, sign},
        sender::{self, Attempt},
    },
    Load, Office, Tickets, Work,
    parking::{alone, lanes_of},
};
use crate::log::Failure;

/// Attempts of one subscription that no other can take away, however many sinks hang.
pub(super) const OWN: usize = 4;
/// Attempts beyond [`OWN`] of all subscriptions together: a connection costs about 60 KiB.
pub(super) const SHARED: usize = 256;
/// Bytes of all requests under way, beyond which a subscription that has as many as [`SCARCE`] under way starts no further one.
const BODIES: u64 = 16 << 20;
const SCARCE: u64 = 64 << 10;
/// Between two lines of the log about one trigger's failing attempts.
const QUIET: Duration = Duration::from_mins(1);

/// A request, and what is sent after it and not before it has ended: parts of a batch that failed as a whole.
pub(super) struct Parcel {
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
pub(super) struct Suspect {
    parcel: Parcel,
    suspicion: Suspicion,
    pub(super) until: Instant,
    failed: Failed,
}

/// A failed attempt.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) retry_after: Option<Duration>,
}

/// Where the right to start an attempt comes from.
pub(super) struct Slots {
    pub(super) own: Arc<Semaphore>,
    pub(super) shared: Arc<Semaphore>,
    /// Of the shared ones: waited for, and not used yet.
    pub(super) spare: Option<OwnedSemaphorePermit>,
}

impl Slots {
    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        let slot = self.own.clone().try_acquire_owned().ok().or_else(|| self.spare.take());
        slot.or_else(|| self.shared.clone().try_acquire_owned().ok())
    }
}

/// Why nothing more is started.
pub(super) enum Idle {
    /// There is nothing.
    Done,
    /// A slot is missing.
    Slot,
    /// The sink takes nothing before.
    Until(Instant),
    /// The sink takes nothing until something else ends.
    Sink,
    /// Too much is under way already, also of this subscription.
    Memory,
}

impl Work {
    /// Starts what may be started: what has waited longest first.
    pub(super) fn start(&mut self) -> Idle {
        loop {
            if !self.crossings.is_empty() {
                self.meet();
            }
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
            if self.sending >= SCARCE && self.courier.office.bodies.load(Relaxed) >= BODIES {
                return Idle::Memory;
            }
            let Some(slot) = self.slots.take() else { return Idle::Slot };
            match self.aim.outlet.permit(now) {
                Permit::Yes => {}
                Permit::NotUntil(then) => return Idle::Until(then),
                Permit::Wait => return Idle::Sink,
            }
            let in_flight = InFlight::new(&self.courier.office, &self.aim.outlet, slot);
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
        let size = |ticket| self.loads.get(&ticket).map_or(0, |load| format::cloudevents::length(&load.event) as u64);
        let mut now: Tickets = smallvec![last];
        room = room.saturating_sub(size(last));
        while now.len() < most {
            let follower = self.lanes.follower(last);
            let Some(next) = follower.or_else(|| self.lanes.peek()).filter(|next| size(*next) <= room) else { break };
            if self.crossings.contains(&next) {
                break;
            }
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
    fn send(&mut self, mut parcel: Parcel, mut in_flight: InFlight) {
        let target = self.aim.target.clone();
        // Some may have been parked, because one of their key before them was.
        parcel.now.retain(|ticket| self.loads.contains_key(ticket));
        let Office { client, tally, .. } = &*self.courier.office;
        for ticket in &parcel.now {
            let Some(load) = self.loads.get_mut(ticket) else { continue };
            if load.sent > 0 {
                self.counts.retries.inc();
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
        in_flight.weigh(written.body.len() as u64);
        self.sending += in_flight.bytes;
        self.counts.sent.inc_by(in_flight.bytes);
        let attempt = async move {
            let attempt = sender::post(&client, &target, written).await;
            (parcel, attempt, in_flight)
        };
        self.attempts.push(attempt.boxed());
    }

    /// Sends an event that waited, before those that have just come.
    pub(super) fn send_again(&mut self, ticket: Ticket) {
        self.again.push_back(Parcel::one(ticket));
    }

    /// A request has ended, and its events with it: what was to come after it may go.
    pub(super) fn go_on(&mut self, parcel: Parcel) {
        self.again.extend(parcel.next());
    }

    /// Decides after an attempt.
    pub(super) fn settle(&mut self, parcel: Parcel, attempt: Attempt, in_flight: InFlight) {
        self.sending = self.sending.saturating_sub(in_flight.bytes);
        let tally = &self.courier.office.tally;
        self.counts.attempt(attempt.ending);
        tally.attempt();
        let statuses = &self.aim.target.statuses;
        let class = classify(statuses, attempt.ending);
        if class == Class::Delivered {
            in_flight.succeeded();
            let now = Timestamp::now();
            for ticket in &parcel.now {
                if let Some(load) = self.loads.get(ticket) {
                    // Two machines' clocks: less than nothing is nothing.
                    self.counts.delivery(now.duration_since(load.event.at).try_into().unwrap_or_default());
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
    pub(super) fn judge(&mut self) {
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

    /// Says why an attempt failed, now and then.
    pub(super) fn complain(&mut self, failure: &Failure) {
        let trigger = &self.aim.target.trigger;
        if self.complained.is_none_or(|at| at.elapsed() > QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!(%trigger, "attempts fail and will be repeated: {}", failure.error);
        }
    }
}

/// One attempt's part of what is limited, for as long as it lives, also if it is dropped.
pub(super) struct InFlight {
    office: Arc<Office>,
    /// Of the request's body.
    bytes: u64,
    outlet: Option<Arc<Outlet>>,
    _slot: OwnedSemaphorePermit,
}

impl InFlight {
    fn new(office: &Arc<Office>, outlet: &Arc<Outlet>, slot: OwnedSemaphorePermit) -> Self {
        office.metrics.in_flight.inc();
        Self { office: office.clone(), bytes: 0, outlet: Some(outlet.clone()), _slot: slot }
    }

    fn weigh(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.office.bodies.fetch_add(bytes, Relaxed);
    }

    fn succeeded(mut self) {
        if let Some(outlet) = self.outlet.take() {
            outlet.succeeded();
        }
    }

    fn failed(mut self, sign: Sign, key: u64, wait: Option<Duration>) -> (Suspicion, Verdict) {
        let outlet = self.outlet.take().expect("an attempt ends once");
        outlet.failed(sign, key, wait)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.office.metrics.in_flight.dec();
        self.office.bodies.fetch_sub(self.bytes, Relaxed);
        if let Some(outlet) = self.outlet.take() {
            outlet.broken_off();
        }
    }
}
