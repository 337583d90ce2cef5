//! How long an object that failed waits, and that each waits on its own.

use std::{collections::HashMap, sync::Mutex, time::Duration};

/// The first delay.
const FIRST: Duration = Duration::from_secs(1);

/// Failures in a row, by UID.
#[derive(Debug, Default)]
pub(super) struct Backoffs(Mutex<HashMap<String, u32>>);

impl Backoffs {
    /// The delay after one more failure: doubled each time, at most `cap`.
    pub(super) fn failed(&self, uid: &str, cap: Duration) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = counts.entry(uid.to_owned()).or_default();
        let delay = delay(*count, cap);
        *count = count.saturating_add(1);
        spread(delay, fastrand::f64())
    }

    /// The object is well, or gone.
    pub(super) fn settled(&self, uid: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(uid);
    }
}

fn delay(failures: u32, cap: Duration) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(cap)
}

/// ±10 %, so that objects that failed together do not come back together.
fn spread(delay: Duration, random: f64) -> Duration {
    delay.mul_f64(0.9 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_mins(5);

    #[test]
    fn delays_double_up_to_the_cap() {
        let seconds: Vec<_> = (0..10).map(|failures| delay(failures, CAP).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(delay(u32::MAX, CAP), CAP);
    }

    #[test]
    fn each_object_has_its_own_count_and_success_resets_it() {
        let backoffs = Backoffs::default();
        for _ in 0..5 {
            backoffs.failed("a", CAP);
        }
        assert!(backoffs.failed("b", CAP) < Duration::from_secs(2));
        assert!(backoffs.failed("a", CAP) > Duration::from_secs(20));
        backoffs.settled("a");
        assert!(backoffs.failed("a", CAP) < Duration::from_secs(2));
    }
}
