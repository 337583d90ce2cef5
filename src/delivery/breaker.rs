//! The circuit of one sink: tells an outage from a poisonous event. Pure; the time is passed in.
//!
//! A sink that fails for one event while it takes others has a problem with that event: the event's retries are counted.
//! A sink that takes nothing any more is away: its circuit opens, nothing is sent but a probe now and then, no retry is
//! counted, and events stay where they are. A failure is judged by what else happens: the next success speaks against the
//! event, failures of several keys without a success between them, or nobody listening for a while, against the sink.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Keys that fail without a success between them before the sink is held to be away.
const KEYS: usize = 5;
/// How long a failure waits for something that tells what it means.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Before the first probe; doubled after each that fails.
const FIRST: Duration = Duration::from_secs(1);
/// A sink that is back is found within this, and a tenth.
const LONGEST: Duration = Duration::from_secs(30);
/// The same for a sink that refuses our credentials: they are mended by a change of configuration, which is noticed at once.
const LONGEST_REFUSED: Duration = Duration::from_mins(5);
/// Requests at a time when a sink is back, doubled by as many successes: what waited must not fell it again.
const RAMP: u32 = 1;
/// A ramp this high is over; no limit is higher.
const RAMPED: u32 = 1024;

/// What a failed attempt says about its sink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    /// Nobody answered, or a proxy did for nobody: no connection, 502, 503, 504.
    Unreachable,
    /// The sink answered that it failed, or not in time.
    Failed,
    /// It refused who we are: 401, 403.
    Refused,
    /// It said that it will never come back: 410.
    Gone,
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    /// See [`Sign::Unreachable`].
    Unreachable,
    /// See [`Sign::Failed`].
    Failing,
    /// See [`Sign::Refused`].
    Unauthorized,
    /// See [`Sign::Gone`]; until a person resumes it.
    Gone,
}

impl Reason {
    const ALL: [Self; 4] = [Self::Unreachable, Self::Failing, Self::Unauthorized, Self::Gone];

    /// The reverse of [`Reason::name`].
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// As the condition of the EventTrigger has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "SinkUnreachable",
            Self::Failing => "SinkFailing",
            Self::Unauthorized => "SinkUnauthorized",
            Self::Gone => "SinkGone",
        }
    }
}

/// What is to become of an event whose attempt failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is the event's fault: the attempt counts.
    Event,
    /// It is the sink's: the attempt never was.
    Sink,
    /// It is to be asked again, at this time at the latest.
    Undecided(Instant),
}

/// A failed attempt that waits for its verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    sign: Sign,
    successes: u64,
    until: Instant,
}

/// Whether something may be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Permit {
    Yes,
    /// Not before.
    NotUntil(Instant),
    /// Not before something else ends, or changes.
    Wait,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Closed {
        ramp: u32,
        ramped: u32,
    },
    Open {
        reason: Reason,
        until: Instant,
        wait: Duration,
    },
    /// One attempt is under way.
    Probing {
        reason: Reason,
        wait: Duration,
    },
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Counted over the breaker's life.
    successes: u64,
    /// Keys that failed since the last success, as far as they need to be known.
    failing: BTreeSet<u64>,
    in_flight: u32,
    /// Of `in_flight`, the most.
    limit: u32,
}

impl Breaker {
    /// Of a sink that takes so many requests at a time.
    pub(super) fn new(limit: u32) -> Self {
        let state = State::Closed { ramp: RAMPED, ramped: 0 };
        Self { state, successes: 0, failing: BTreeSet::new(), in_flight: 0, limit }
    }

    /// Why nothing is sent; `None` while events flow.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { reason, .. } | State::Probing { reason, .. } => Some(reason),
            State::Gone => Some(Reason::Gone),
        }
    }

    /// Asks to send something; after `Yes`, one of [`Breaker::succeeded`], [`Breaker::failed`] and
    /// [`Breaker::broken_off`] follows.
    pub(super) fn permit(&mut self, now: Instant) -> Permit {
        match self.state {
            State::Closed { ramp, .. } if self.in_flight < ramp.min(self.limit) => {}
            State::Closed { .. } | State::Probing { .. } | State::Gone => return Permit::Wait,
            State::Open { until, .. } if now < until => return Permit::NotUntil(until),
            State::Open { reason, wait, .. } => self.state = State::Probing { reason, wait },
        }
        self.in_flight += 1;
        Permit::Yes
    }

    /// The sink has answered to one event, whatever it thinks of it: it is there.
    pub(super) fn succeeded(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.successes += 1;
        self.failing.clear();
        self.state = match self.state {
            State::Closed { ramp, ramped } if ramp < RAMPED => {
                let ramped = ramped + 1;
                if ramped >= ramp {
                    State::Closed { ramp: ramp * 2, ramped: 0 }
                } else {
                    State::Closed { ramp, ramped }
                }
            }
            closed @ State::Closed { .. } => closed,
            State::Open { .. } | State::Probing { .. } => State::Closed { ramp: RAMP, ramped: 0 },
            State::Gone => State::Gone,
        };
    }

    /// An attempt for `key` failed. `random` is in `0.0..1.0`; `wait` is what the sink asked for.
    pub(super) fn failed(
        &mut self,
        sign: Sign,
        key: u64,
        wait: Option<Duration>,
        now: Instant,
        random: f64,
    ) -> (Suspicion, Verdict) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let suspicion = Suspicion { sign, successes: self.successes, until: now + PATIENCE };
        if self.failing.len() < KEYS {
            self.failing.insert(key);
        }
        match (self.state, sign) {
            (_, Sign::Gone) => self.state = State::Gone,
            (State::Probing { reason, wait: before }, _) => {
                let longest = if reason == Reason::Unauthorized { LONGEST_REFUSED } else { LONGEST };
                self.open(of(sign), (before * 2).min(longest).max(wait.unwrap_or_default()), now, random);
            }
            (State::Closed { .. }, Sign::Refused) => self.open(Reason::Unauthorized, FIRST, now, random),
            (State::Closed { .. }, _) if self.failing.len() >= KEYS => {
                self.open(of(sign), FIRST.max(wait.unwrap_or_default()), now, random);
            }
            (State::Closed { .. } | State::Open { .. } | State::Gone, _) => {}
        }
        (suspicion, self.judge(&suspicion, now, random))
    }

    /// What a failure means by now.
    pub(super) fn judge(&mut self, suspicion: &Suspicion, now: Instant, random: f64) -> Verdict {
        let Suspicion { sign, successes, until } = *suspicion;
        if !matches!(self.state, State::Closed { .. }) {
            return Verdict::Sink;
        }
        if self.successes > successes {
            return Verdict::Event;
        }
        if now < until {
            return Verdict::Undecided(until);
        }
        if sign == Sign::Failed {
            return Verdict::Event;
        }
        self.open(of(sign), FIRST, now, random);
        Verdict::Sink
    }

    /// An attempt ended, or never began, that says nothing about the sink.
    pub(super) fn broken_off(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let State::Probing { reason, wait } = self.state {
            self.state = State::Open { reason, until: now, wait };
        }
    }

    /// As it was left by another worker: a sink that was away is probed at once.
    pub(super) fn restore(&mut self, reason: Reason, now: Instant) {
        if matches!(self.state, State::Closed { .. }) {
            self.state = match reason {
                Reason::Gone => State::Gone,
                reason => State::Open { reason, until: now, wait: FIRST },
            };
        }
    }

    /// Somebody has changed something about the sink: try at once.
    pub(super) fn resume(&mut self, now: Instant) {
        if let State::Open { reason, wait, .. } = self.state {
            self.state = State::Open { reason, until: now, wait };
        } else if self.state == State::Gone {
            self.state = State::Open { reason: Reason::Gone, until: now, wait: FIRST };
        }
    }

    fn open(&mut self, reason: Reason, wait: Duration, now: Instant, random: f64) {
        self.state = State::Open { reason, until: now + wait.mul_f64(0.9 + 0.2 * random), wait };
    }
}

fn of(sign: Sign) -> Reason {
    match sign {
        Sign::Unreachable => Reason::Unreachable,
        Sign::Failed => Reason::Failing,
        Sign::Refused => Reason::Unauthorized,
        Sign::Gone => Reason::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Sink {
        breaker: Breaker,
        now: Instant,
    }

    impl Sink {
        fn new() -> Self {
            Self { breaker: Breaker::new(64), now: Instant::now() }
        }

        fn fails(&mut self, sign: Sign, key: u64) -> (Suspicion, Verdict) {
            assert_eq!(self.breaker.permit(self.now), Permit::Yes);
            self.breaker.failed(sign, key, None, self.now, 0.5)
        }

        fn works(&mut self) {
            assert_eq!(self.breaker.permit(self.now), Permit::Yes);
            self.breaker.succeeded();
        }

        fn judge(&mut self, suspicion: &Suspicion) -> Verdict {
            self.breaker.judge(suspicion, self.now, 0.5)
        }
    }

    #[test]
    fn one_event_that_fails_while_others_work_is_at_fault_itself() {
        let mut sink = Sink::new();
        for _ in 0..20 {
            let (suspicion, verdict) = sink.fails(Sign::Failed, 7);
            assert_eq!(verdict, Verdict::Undecided(sink.now + PATIENCE));
            sink.works();
            assert_eq!(sink.judge(&suspicion), Verdict::Event);
        }
        assert_eq!(sink.breaker.reason(), None);
    }

    #[test]
    fn failures_of_several_keys_without_a_success_are_the_sinks() {
        let mut sink = Sink::new();
        let suspicions: Vec<_> = (0..KEYS as u64).map(|key| sink.fails(Sign::Failed, key)).collect();
        assert_eq!(suspicions.last().unwrap().1, Verdict::Sink);
        assert!(suspicions.iter().all(|(suspicion, _)| sink.judge(suspicion) == Verdict::Sink));
        assert_eq!(sink.breaker.reason(), Some(Reason::Failing));
        assert_eq!(sink.breaker.permit(sink.now), Permit::NotUntil(sink.now + SECOND));
    }

    #[test]
    fn a_single_event_that_fails_and_nothing_else_to_compare_is_judged_by_how_it_fails() {
        let mut sink = Sink::new();
        let (suspicion, _) = sink.fails(Sign::Failed, 1);
        sink.now += PATIENCE;
        assert_eq!(sink.judge(&suspicion), Verdict::Event);
        let (suspicion, _) = sink.fails(Sign::Unreachable, 1);
        sink.now += PATIENCE;
        assert_eq!(sink.judge(&suspicion), Verdict::Sink);
        assert_eq!(sink.breaker.reason(), Some(Reason::Unreachable));
    }

    #[test]
    fn slow_failures_of_several_keys_add_up_to_an_outage() {
        let mut sink = Sink::new();
        for key in 0..KEYS as u64 - 1 {
            sink.fails(Sign::Failed, key);
            sink.now += 10 * SECOND;
            assert_eq!(sink.breaker.reason(), None);
        }
        assert_eq!(sink.fails(Sign::Failed, 99).1, Verdict::Sink);
    }

    #[test]
    fn an_open_circuit_lets_one_probe_through_ever_more_rarely() {
        let mut sink = Sink::new();
        (0..KEYS as u64).for_each(|key| {
            sink.fails(Sign::Unreachable, key);
        });
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(sink.breaker.permit(sink.now), Permit::NotUntil(sink.now + wait * SECOND));
            sink.now += wait * SECOND;
            assert_eq!(sink.breaker.permit(sink.now), Permit::Yes);
            assert_eq!(sink.breaker.permit(sink.now), Permit::Wait, "one at a time");
            assert_eq!(sink.breaker.failed(Sign::Unreachable, 1, None, sink.now, 0.5).1, Verdict::Sink);
        }
    }

    #[test]
    fn a_sink_that_is_back_gets_its_backlog_at_a_growing_pace() {
        let mut sink = Sink::new();
        (0..KEYS as u64).for_each(|key| {
            sink.fails(Sign::Unreachable, key);
        });
        sink.now += 2 * SECOND;
        sink.works();
        assert_eq!(sink.breaker.reason(), None);
        let mut at_once = Vec::new();
        for _ in 0..6 {
            let mut permits = 0;
            while permits < 100 && sink.breaker.permit(sink.now) == Permit::Yes {
                permits += 1;
            }
            at_once.push(permits);
            (0..permits).for_each(|_| sink.breaker.succeeded());
        }
        assert_eq!(at_once, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn what_the_sink_asked_to_wait_is_waited() {
        let mut sink = Sink::new();
        (1..KEYS as u64).for_each(|key| {
            sink.fails(Sign::Unreachable, key);
        });
        assert_eq!(sink.breaker.permit(sink.now), Permit::Yes);
        sink.breaker.failed(Sign::Unreachable, 0, Some(60 * SECOND), sink.now, 0.5);
        assert_eq!(sink.breaker.permit(sink.now), Permit::NotUntil(sink.now + 60 * SECOND));
    }

    #[test]
    fn refused_credentials_open_the_circuit_at_once_and_gone_closes_the_sink_until_it_is_resumed() {
        let mut sink = Sink::new();
        assert_eq!(sink.fails(Sign::Refused, 1).1, Verdict::Sink);
        assert_eq!(sink.breaker.reason(), Some(Reason::Unauthorized));
        sink.breaker.resume(sink.now);
        sink.works();
        assert_eq!(sink.breaker.reason(), None);
        assert_eq!(sink.fails(Sign::Gone, 1).1, Verdict::Sink);
        sink.now += 1000 * SECOND;
        assert_eq!((sink.breaker.permit(sink.now), sink.breaker.reason()), (Permit::Wait, Some(Reason::Gone)));
        sink.breaker.resume(sink.now);
        sink.works();
        assert_eq!(sink.breaker.reason(), None);
    }

    #[test]
    fn a_success_that_was_under_way_when_the_circuit_opened_closes_it() {
        let mut sink = Sink::new();
        assert_eq!(sink.breaker.permit(sink.now), Permit::Yes);
        (0..KEYS as u64).for_each(|key| {
            sink.fails(Sign::Failed, key);
        });
        sink.breaker.succeeded();
        assert_eq!(sink.breaker.reason(), None);
    }
}
