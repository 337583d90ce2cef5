//! What a reconcile may fail of: trying again may cure it.

use std::error::Error as _;

use crate::{log, resolve::LookupError};

/// Failed to do something with the API server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Reading an object that a resource names.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Anything else.
    #[error("failed to {doing}")]
    Api {
        /// What was being done, on what.
        doing: String,
        /// What the API server or the network said.
        source: kube::Error,
    },
}

/// Names what was being done when the API server failed us.
pub(super) fn failed(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Api { doing, source }
}

/// Whether the API server says that there is no such object.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An error and its causes in one line. A cause that its effect has already told is left out.
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // The database's own words, without the client's.
        let said = match error.downcast_ref::<tokio_postgres::Error>() {
            Some(error) => log::explain(error),
            None => error.to_string(),
        };
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl Error {
    /// In one line, for a condition.
    pub(super) fn explain(&self) -> String {
        match self {
            Self::Lookup(error) => {
                let why = error.source().map(|source| explain(source)).unwrap_or_default();
                format!("{error}: {why}")
            }
            Self::Api { .. } => explain(self),
        }
    }
}
