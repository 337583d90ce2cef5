//! Why a step did not come through, and what happens then: a value, as a reconcile goes on and tells it.

use std::time::Duration;

use super::{
    error::{Error, explain},
    status::Progress,
};
use crate::{
    api::condition::Verdict,
    log::{AdminError, AdoptError},
    resolve::Problem,
};

/// A step that did not come through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Trouble {
    pub(super) problem: Problem,
    pub(super) progress: Progress,
}

impl Trouble {
    /// Somebody must change something.
    pub(super) fn stalled(problem: Problem) -> Self {
        Self { problem, progress: Progress::Stalled }
    }

    /// Waiting, or trying again, may be enough.
    pub(super) fn retry(reason: &'static str, message: impl Into<String>) -> Self {
        Self { problem: Problem::new(reason, message), progress: Progress::Reconciling }
    }

    fn of(problem: Problem, terminal: bool) -> Self {
        Self { problem, progress: if terminal { Progress::Stalled } else { Progress::Reconciling } }
    }

    /// As a condition that does not hold.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::no(self.problem.reason, self.problem.message.clone())
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::retry("ApiServerError", error.explain())
    }
}

impl From<&AdoptError> for Trouble {
    fn from(error: &AdoptError) -> Self {
        Self::of(Problem::new(error.reason(), explain(error)), error.is_terminal())
    }
}

impl From<&AdminError> for Trouble {
    fn from(error: &AdminError) -> Self {
        Self::of(Problem::new(error.reason(), explain(error)), error.is_terminal())
    }
}

/// When an object is looked at again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// When something changes.
    Settled,
    /// After this long: nothing tells when what it waits for changes.
    After(Duration),
    /// After a delay that grows with every failure, up to this.
    Backoff(Duration),
}
