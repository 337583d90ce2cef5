//! The decision after an attempt: done, again later, or given up. Pure.

use std::time::Duration;

use crate::{api::BackoffPolicy, log::definition::Policy};

/// Backoff is spread by this much to either side, so that what failed together is not tried again together.
const JITTER: f64 = 0.1;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// The sink answered.
    Status(u16),
    /// Nothing was heard in time.
    Timeout,
    /// No connection, or it broke.
    Connection,
}

/// What an ending means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// The sink has the event.
    Delivered,
    /// It may work later.
    Retryable,
    /// It will not work later either.
    Final,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    /// The event is delivered.
    Done,
    /// Try again after this delay.
    Again(Duration),
    /// The event becomes a dead letter.
    GiveUp,
}

/// Knative's table (<https://knative.dev/docs/eventing/event-delivery/>): 404, 408, 409, 425, 429, 5xx, and no answer
/// at all are worth another attempt; other 4xx and redirects, which are never followed, are not.
///
/// Ours: 401 and 403 are retried too, for they mostly tell of credentials that somebody is about to mend, not of the event.
pub(super) fn classify(ending: Ending) -> Class {
    match ending {
        Ending::Status(200..=299) => Class::Delivered,
        Ending::Status(401 | 403 | 404 | 408 | 409 | 425 | 429 | 500..) | Ending::Timeout | Ending::Connection => {
            Class::Retryable
        }
        Ending::Status(_) => Class::Final,
    }
}

/// What follows attempt number `attempts`, counted from 1. `random` is in `0.0..1.0`.
pub(super) fn decide(policy: &Policy, ending: Ending, attempts: u32, random: f64) -> Decision {
    match classify(ending) {
        Class::Delivered => Decision::Done,
        Class::Retryable if attempts <= policy.retry => Decision::Again(backoff(policy, attempts - 1, random)),
        Class::Retryable | Class::Final => Decision::GiveUp,
    }
}

/// Delay before retry `n`, counted from 0: `delay · (n + 1)` or `delay · 2ⁿ`, at most `max`, then spread by [`JITTER`].
///
/// Saturates instead of overflowing: Knative's formula passes 34 years at n = 30.
pub(super) fn backoff(policy: &Policy, n: u32, random: f64) -> Duration {
    let factor = match policy.backoff {
        BackoffPolicy::Linear => n.saturating_add(1),
        BackoffPolicy::Exponential => 2_u32.saturating_pow(n),
    };
    policy.delay.saturating_mul(factor).min(policy.max).mul_f64(1.0 + JITTER * (2.0 * random - 1.0))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn policy(backoff: BackoffPolicy) -> Policy {
        Policy { retry: 2, backoff, delay: Duration::from_secs(1), max: Duration::from_mins(5), ..Policy::default() }
    }

    #[rstest]
    #[case(200, Class::Delivered)]
    #[case(299, Class::Delivered)]
    #[case(301, Class::Final)]
    #[case(400, Class::Final)]
    #[case(401, Class::Retryable)]
    #[case(403, Class::Retryable)]
    #[case(404, Class::Retryable)]
    #[case(408, Class::Retryable)]
    #[case(409, Class::Retryable)]
    #[case(410, Class::Final)]
    #[case(422, Class::Final)]
    #[case(425, Class::Retryable)]
    #[case(429, Class::Retryable)]
    #[case(500, Class::Retryable)]
    #[case(599, Class::Retryable)]
    fn a_status_has_a_class(#[case] status: u16, #[case] class: Class) {
        assert_eq!(classify(Ending::Status(status)), class);
    }

    #[rstest]
    #[case(BackoffPolicy::Linear, 0, 1)]
    #[case(BackoffPolicy::Linear, 4, 5)]
    #[case(BackoffPolicy::Linear, u32::MAX, 300)]
    #[case(BackoffPolicy::Exponential, 0, 1)]
    #[case(BackoffPolicy::Exponential, 3, 8)]
    #[case(BackoffPolicy::Exponential, 30, 300)]
    #[case(BackoffPolicy::Exponential, u32::MAX, 300)]
    fn the_delay_grows_up_to_its_cap(#[case] kind: BackoffPolicy, #[case] n: u32, #[case] seconds: u64) {
        assert_eq!(backoff(&policy(kind), n, 0.5), Duration::from_secs(seconds));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let policy = policy(BackoffPolicy::Linear);
        assert_eq!(backoff(&policy, 0, 0.0), Duration::from_millis(900));
        assert!(backoff(&policy, 0, 0.999_999) < Duration::from_millis(1101));
    }

    #[test]
    fn the_longest_delay_does_not_overflow() {
        let policy = Policy { delay: Duration::MAX / 2, max: Duration::MAX / 2, ..policy(BackoffPolicy::Exponential) };
        assert!(backoff(&policy, 40, 1.0) > Duration::from_hours(1));
    }

    #[test]
    fn retry_counts_attempts_after_the_first() {
        let policy = policy(BackoffPolicy::Linear);
        let after = |attempts| decide(&policy, Ending::Timeout, attempts, 0.5);
        assert_eq!(after(1), Decision::Again(Duration::from_secs(1)));
        assert_eq!(after(2), Decision::Again(Duration::from_secs(2)));
        assert_eq!(after(3), Decision::GiveUp);
        assert_eq!(decide(&policy, Ending::Status(400), 1, 0.5), Decision::GiveUp);
        assert_eq!(decide(&policy, Ending::Status(204), 3, 0.5), Decision::Done);
    }
}
