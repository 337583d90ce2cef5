//! The decision after an attempt: done, again later, or given up. Pure.

use std::time::Duration;

use super::breaker::Sign;
use crate::{
    api::BackoffPolicy,
    log::definition::{Policy, StatusRule},
};

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

/// What to do with an event whose attempt failed, and counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    /// Try again after this delay.
    Again(Duration),
    /// The event becomes a dead letter.
    GiveUp,
}

/// Knative's table (<https://knative.dev/docs/eventing/event-delivery/>): 404, 408, 409, 425, 429, 5xx, and no answer
/// at all are worth another attempt; other 4xx and redirects, which are never followed, are not. What `rules` says comes first.
///
/// Ours: 401, 403 and 410 are about the sink, not the event; see [`sign`].
pub(super) fn classify(rules: &[StatusRule], ending: Ending) -> Class {
    let Ending::Status(status) = ending else { return Class::Retryable };
    if (200..=299).contains(&status) {
        return Class::Delivered;
    }
    if let Some(rule) = rules.iter().find(|rule| (rule.from..=rule.to).contains(&status)) {
        return if rule.retry { Class::Retryable } else { Class::Final };
    }
    match status {
        401 | 403 | 404 | 408 | 409 | 410 | 425 | 429 | 500.. => Class::Retryable,
        _ => Class::Final,
    }
}

/// What a retryable ending says about the sink.
pub(super) fn sign(rules: &[StatusRule], ending: Ending) -> Sign {
    let is_ruled = |status: u16| rules.iter().any(|rule| (rule.from..=rule.to).contains(&status));
    match ending {
        Ending::Connection | Ending::Status(502..=504) => Sign::Unreachable,
        // Somebody has said that these are to be retried: then they are about the event.
        Ending::Status(status) if is_ruled(status) => Sign::Failed,
        Ending::Status(401 | 403) => Sign::Refused,
        Ending::Status(410) => Sign::Gone,
        Ending::Status(_) | Ending::Timeout => Sign::Failed,
    }
}

/// What follows attempt number `attempts` that failed, counted from 1. `asked` is what the sink wants to be waited for, by
/// `Retry-After`: it is honoured up to the policy's limit, if it is longer than the backoff. `random` is in `0.0..1.0`.
pub(super) fn decide(policy: &Policy, attempts: u32, asked: Option<Duration>, random: f64) -> Decision {
    if attempts > policy.retry {
        return Decision::GiveUp;
    }
    let asked = asked.unwrap_or_default().min(policy.retry_after_max);
    Decision::Again(backoff(policy, attempts - 1, random).max(asked))
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
    #[case(410, Class::Retryable)]
    #[case(422, Class::Final)]
    #[case(425, Class::Retryable)]
    #[case(429, Class::Retryable)]
    #[case(500, Class::Retryable)]
    #[case(599, Class::Retryable)]
    fn a_status_has_a_class(#[case] status: u16, #[case] class: Class) {
        assert_eq!(classify(&[], Ending::Status(status)), class);
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
    fn a_sinks_own_classes_come_first_but_success_stays_success() {
        let rules = [
            StatusRule { from: 404, to: 404, retry: false },
            StatusRule { from: 400, to: 499, retry: true },
            StatusRule { from: 500, to: 599, retry: false },
        ];
        let class = |status| classify(&rules, Ending::Status(status));
        assert_eq!([class(404), class(422), class(503)], [Class::Final, Class::Retryable, Class::Final]);
        assert_eq!([class(204), class(302)], [Class::Delivered, Class::Final]);
        assert_eq!(classify(&rules, Ending::Timeout), Class::Retryable);
        assert_eq!((sign(&rules, Ending::Status(401)), sign(&[], Ending::Status(401))), (Sign::Failed, Sign::Refused));
    }

    #[rstest]
    #[case(Ending::Connection, Sign::Unreachable)]
    #[case(Ending::Status(503), Sign::Unreachable)]
    #[case(Ending::Status(500), Sign::Failed)]
    #[case(Ending::Status(429), Sign::Failed)]
    #[case(Ending::Timeout, Sign::Failed)]
    #[case(Ending::Status(403), Sign::Refused)]
    #[case(Ending::Status(410), Sign::Gone)]
    fn an_ending_is_a_sign(#[case] ending: Ending, #[case] expected: Sign) {
        assert_eq!(sign(&[], ending), expected);
    }

    #[test]
    fn retry_counts_attempts_after_the_first() {
        let policy = policy(BackoffPolicy::Linear);
        let after = |attempts| decide(&policy, attempts, None, 0.5);
        assert_eq!(after(1), Decision::Again(Duration::from_secs(1)));
        assert_eq!(after(2), Decision::Again(Duration::from_secs(2)));
        assert_eq!(after(3), Decision::GiveUp);
    }

    #[test]
    fn what_the_sink_asks_to_wait_is_waited_up_to_a_limit() {
        let policy = Policy { retry_after_max: Duration::from_mins(1), ..policy(BackoffPolicy::Linear) };
        let after = |seconds| decide(&policy, 1, Some(Duration::from_secs(seconds)), 0.5);
        assert_eq!(after(30), Decision::Again(Duration::from_secs(30)));
        assert_eq!(after(3600), Decision::Again(Duration::from_mins(1)));
        assert_eq!(after(0), Decision::Again(Duration::from_secs(1)), "the backoff is longer");
        assert_eq!(decide(&policy, 3, Some(Duration::from_secs(1)), 0.5), Decision::GiveUp);
    }
}
