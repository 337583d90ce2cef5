//! Why a step did not come through, in the words that the controller's conditions have.

use std::error::Error;

use crate::log::{AdminError, AdoptError};

/// A step that did not come through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fault {
    /// CamelCase.
    pub(super) reason: &'static str,
    /// With the remedy, if there is one.
    pub(super) message: String,
    pub(super) cure: Cure,
}

/// What helps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cure {
    /// Trying again may.
    Retry,
    /// Somebody must change something.
    Change,
}

impl Fault {
    fn of(reason: &'static str, error: &(dyn Error + 'static), terminal: bool) -> Self {
        Self { reason, message: explain(error), cure: if terminal { Cure::Change } else { Cure::Retry } }
    }
}

impl From<&AdoptError> for Fault {
    fn from(error: &AdoptError) -> Self {
        Self::of(error.reason(), error, error.is_terminal())
    }
}

impl From<&AdminError> for Fault {
    fn from(error: &AdminError) -> Self {
        Self::of(error.reason(), error, error.is_terminal())
    }
}

/// An error with its causes, each said once.
pub(super) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
