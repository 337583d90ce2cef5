//! The controller's connection to the log: makes the schema, owns it, installs and removes what EventTriggers want.

mod adopt;
mod catalog;
mod difference;
mod hindrance;
mod install;
mod open;
mod plan;
mod segments;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_postgres::{Client, error::SqlState};

pub use adopt::AdoptError;
pub use hindrance::{DEAD_LETTER_SINK_FAILING, DEAD_LETTERS, EVENTS_PARKED, Hindrance, Obstacle, Remedy};
pub use open::{ADOPT, OpenError, ServerFacts};
pub use plan::PlanError;
pub use segments::{Holding, Retention};

use super::connect::explain;
use crate::name::{Ident, ObjectName, TableName};

/// Who owns a log: written into its schema, so that a copy of the database delivers nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// UID of the EventLog.
    pub uid: String,
    /// Its namespace and name: `ce-source` comes from them.
    pub log: ObjectName,
}

/// Why something was not installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The trigger asks for what the table has not; the user must act. Holds the reason and the sentence of the condition.
    #[error("{}", .0.message)]
    Invalid(crate::capture::Problem),
    /// A long transaction holds the table; nothing was changed; try again.
    #[error("table {0} is locked by a long transaction; will try again")]
    Locked(String),
    /// The role may not do what is needed; the text says which GRANT helps.
    #[error("{0}")]
    NotPermitted(String),
    /// A statement failed, or the connection broke.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// Something in the log's schema is not as this binary writes it.
    #[error("failed to read the definitions in the log's schema")]
    Corrupt(#[source] serde_json::Error),
}

impl AdminError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(problem) => problem.reason,
            Self::NotPermitted(_) => "NotPermitted",
            Self::Locked(_) => "TableLocked",
            Self::Sql { .. } => "DatabaseError",
            Self::Corrupt(_) => "LogCorrupt",
        }
    }

    /// Whether it stays wrong until a person changes something.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::NotPermitted(_) | Self::Corrupt(_) => true,
            Self::Locked(_) | Self::Sql { .. } => false,
        }
    }
}

/// What is in the database after an install.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installed {
    /// Names of the SQL triggers on the table.
    pub sql_triggers: Vec<String>,
    /// Whether anything had to be changed.
    pub changed: bool,
}

/// The state of one table's capture, as a look into the catalog finds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaptureState {
    /// The table.
    pub table: TableName,
    /// The EventTriggers that want it.
    pub triggers: Vec<ObjectName>,
    /// What differs from what was installed, for people; empty if nothing does.
    pub drift: Vec<String>,
}

/// The controller's connection to one log.
#[derive(Debug)]
pub struct Admin {
    client: Mutex<Client>,
    schema: Ident,
    owner: Owner,
}

impl Admin {
    /// A statement of the log's schema, written into a `.sql` file with `:schema` for its quoted name.
    fn sql(&self, text: &str) -> String {
        in_schema(text, &self.schema)
    }
}

fn in_schema(text: &str, schema: &Ident) -> String {
    text.replace(":schema", &schema.to_string())
}

/// The error of doing something, told apart by what helps: waiting, a GRANT, or neither.
fn failed(doing: impl Into<String>, table: &str, source: tokio_postgres::Error) -> AdminError {
    let doing = doing.into();
    match source.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => AdminError::Locked(table.to_owned()),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            AdminError::NotPermitted(format!("failed to {doing}: {}", explain(&source)))
        }
        _ => AdminError::Sql { doing, source },
    }
}
