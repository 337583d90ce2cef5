//! Why a step did not come through, in the words that the controller's conditions have.

use std::error::Error;

use crate::log::{AdminError, OpenError};

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

impl From<&OpenError> for Fault {
    fn from(error: &OpenError) -> Self {
        let reason = match error {
            OpenError::Connect(_) => "ConnectionFailed",
            OpenError::OwnedByAnother(_) => "OwnedByAnother",
            OpenError::NewerSchema { .. } => "NewerSchema",
            OpenError::TooOld(_) => "ServerTooOld",
            OpenError::NotPermitted(_) => "NotPermitted",
            OpenError::Sql { .. } => "DatabaseError",
        };
        let cure = if error.is_terminal() { Cure::Change } else { Cure::Retry };
        Self { reason, message: explain(error), cure }
    }
}

impl From<&AdminError> for Fault {
    fn from(error: &AdminError) -> Self {
        let (reason, cure) = match error {
            AdminError::Invalid(problem) => (problem.reason, Cure::Change),
            AdminError::NotPermitted(_) => ("NotPermitted", Cure::Change),
            AdminError::Locked(_) => ("TableLocked", Cure::Retry),
            AdminError::Sql { .. } => ("DatabaseError", Cure::Retry),
            AdminError::Corrupt(_) => ("LogCorrupt", Cure::Change),
        };
        Self { reason, message: explain(error), cure }
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
