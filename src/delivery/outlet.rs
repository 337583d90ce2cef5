//! What all that is sent to one sink shares: its circuit, its limits. Named by the EventSink; without one, by the URL.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::sync::Notify;

use super::breaker::{Breaker, Permit, Reason, Sign, Suspicion, Verdict};
use crate::log::definition::{Limits, Sink};

/// One sink's.
#[derive(Debug)]
pub(super) struct Outlet {
    limits: Limits,
    breaker: Mutex<Breaker>,
    rate: Option<DefaultDirectRateLimiter>,
    /// Wakes those who were told [`Permit::Wait`].
    freed: Notify,
}

impl Outlet {
    fn new(limits: Limits) -> Self {
        // A burst of a hundredth of a second's: receivers that set a limit mean it.
        let quota = |rate: NonZeroU32| {
            Quota::per_second(rate).allow_burst(NonZeroU32::new(rate.get() / 100).unwrap_or(NonZeroU32::MIN))
        };
        let rate = limits.per_second.and_then(NonZeroU32::new).map(|rate| RateLimiter::direct(quota(rate)));
        Self { limits, breaker: Mutex::new(Breaker::new(limits.in_flight)), rate, freed: Notify::new() }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Breaker::permit`].
    pub(super) fn permit(&self, now: Instant) -> Permit {
        let mut breaker = self.breaker();
        let permit = breaker.permit(now);
        if permit == Permit::Yes
            && let Some(rate) = &self.rate
            && let Err(early) = rate.check()
        {
            breaker.broken_off(now);
            return Permit::NotUntil(now + early.wait_time_from(DefaultClock::default().now()));
        }
        permit
    }

    /// See [`Breaker::succeeded`].
    pub(super) fn succeeded(&self) {
        self.breaker().succeeded();
        self.freed.notify_waiters();
    }

    /// See [`Breaker::failed`].
    pub(super) fn failed(&self, sign: Sign, key: u64, wait: Option<Duration>) -> (Suspicion, Verdict) {
        let judged = self.breaker().failed(sign, key, wait, Instant::now(), fastrand::f64());
        self.freed.notify_waiters();
        judged
    }

    /// See [`Breaker::judge`].
    pub(super) fn judge(&self, suspicion: &Suspicion) -> Verdict {
        let judged = self.breaker().judge(suspicion, Instant::now(), fastrand::f64());
        if judged == Verdict::Sink {
            self.freed.notify_waiters();
        }
        judged
    }

    /// See [`Breaker::broken_off`].
    pub(super) fn broken_off(&self) {
        self.breaker().broken_off(Instant::now());
        self.freed.notify_waiters();
    }

    /// See [`Breaker::resume`].
    pub(super) fn resume(&self) {
        self.breaker().resume(Instant::now());
        self.freed.notify_waiters();
    }

    /// See [`Breaker::restore`].
    pub(super) fn restore(&self, reason: Reason) {
        self.breaker().restore(reason, Instant::now());
    }

    /// See [`Breaker::reason`].
    pub(super) fn reason(&self) -> Option<Reason> {
        self.breaker().reason()
    }

    /// Resolves when it is worth asking again. To be awaited only after a further [`Outlet::permit`] since it was enabled.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

/// All sinks of one worker.
#[derive(Debug, Default)]
pub(super) struct Outlets(Mutex<HashMap<String, Weak<Outlet>>>);

impl Outlets {
    /// That of a sink. With other limits it begins anew.
    pub(super) fn of(&self, sink: &Sink) -> Arc<Outlet> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = sink.name.as_ref().unwrap_or(&sink.url);
        if let Some(outlet) = known.get(key).and_then(Weak::upgrade).filter(|outlet| outlet.limits == sink.limits) {
            return outlet;
        }
        known.retain(|_, outlet| outlet.strong_count() > 0);
        let outlet = Arc::new(Outlet::new(sink.limits));
        known.insert(key.clone(), Arc::downgrade(&outlet));
        outlet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_to_the_same_sink_shares_its_limits() {
        let outlets = Outlets::default();
        let named = |name: &str, url: &str| Sink { name: Some(name.to_owned()), ..Sink::to(url) };
        let one = outlets.of(&named("shop/billing", "http://billing/a"));
        assert!(Arc::ptr_eq(&one, &outlets.of(&named("shop/billing", "http://billing/b"))));
        assert!(!Arc::ptr_eq(&one, &outlets.of(&named("bank/billing", "http://billing/a"))));
        assert!(!Arc::ptr_eq(&one, &outlets.of(&Sink::to("http://billing/a"))));
        let limits = Limits { in_flight: 1, per_second: None };
        assert!(!Arc::ptr_eq(&one, &outlets.of(&Sink { limits, ..named("shop/billing", "http://billing/a") })));
    }

    #[test]
    fn requests_are_limited_in_number_and_in_rate() {
        let now = Instant::now();
        let outlet = Outlet::new(Limits { in_flight: 2, per_second: None });
        assert_eq!([(); 3].map(|()| outlet.permit(now)), [Permit::Yes, Permit::Yes, Permit::Wait]);
        outlet.succeeded();
        assert_eq!(outlet.permit(now), Permit::Yes);
        let outlet = Outlet::new(Limits { in_flight: 64, per_second: Some(10) });
        assert_eq!(outlet.permit(now), Permit::Yes);
        let Permit::NotUntil(then) = outlet.permit(now) else { panic!("a second one at once") };
        assert!((50..=100).contains(&(then - now).as_millis()), "{:?}", then - now);
    }
}
