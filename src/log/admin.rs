//! The controller's connection to the log: makes the schema, owns it, installs and removes what EventTriggers want.

use serde::{Deserialize, Serialize};

use super::{ConnectConfig, ConnectError, Definition};
use crate::name::{Ident, ObjectName, TableName};

/// Who owns a log: written into its schema, so that a copy of the database delivers nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// UID of the EventLog.
    pub uid: String,
    /// Its namespace and name: `ce-source` comes from them.
    pub log: ObjectName,
}

/// What the server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerFacts {
    /// `server_version`, such as `15.18`.
    pub version: String,
    /// Version of the log's schema.
    pub schema_version: i32,
}

/// Why a log could not be opened. [`OpenError::is_terminal`] tells whether trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The log is somebody else's; the text says whose, and what to do.
    #[error("{0}")]
    OwnedByAnother(String),
    /// A newer controller made the schema.
    #[error(
        "the log's schema has version {found}, and this controller knows up to {known}; install a newer controller"
    )]
    NewerSchema {
        /// In the database.
        found: i32,
        /// In this binary.
        known: i32,
    },
    /// The server is too old.
    #[error("the server is PostgreSQL {0}; 14 or newer is needed")]
    TooOld(String),
    /// The role may not do what is needed; the text says which GRANT helps.
    #[error("{0}")]
    NotPermitted(String),
    /// A statement failed.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: tokio_postgres::Error,
    },
}

impl OpenError {
    /// Whether it stays wrong until a person changes something.
    pub fn is_terminal(&self) -> bool {
        todo!()
    }
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
    _private: (),
}

impl Admin {
    /// Connects, makes or migrates the schema, and takes ownership of a new or released one.
    pub async fn open(config: &ConnectConfig, schema: &Ident, owner: &Owner) -> Result<(Self, ServerFacts), OpenError> {
        let _ = (config, schema, owner);
        todo!()
    }

    /// Whether the connection still works.
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Writes a definition, and brings the SQL triggers of its table to what all of the table's definitions want, in one
    /// transaction. Changes nothing if nothing differs. Waits briefly for locks, then gives up with [`AdminError::Locked`].
    ///
    /// `uid` is the EventTrigger's; a definition of the same namespace and name with another UID is taken over.
    pub async fn install(&self, uid: &str, definition: &Definition) -> Result<Installed, AdminError> {
        let _ = (uid, definition);
        todo!()
    }

    /// Removes an EventTrigger's definition and cursor, and what of its table's capture nobody else wants.
    pub async fn remove(&self, trigger: &ObjectName) -> Result<(), AdminError> {
        let _ = trigger;
        todo!()
    }

    /// Looks at every captured table: one query, nothing is changed.
    pub async fn look(&self) -> Result<Vec<CaptureState>, AdminError> {
        todo!()
    }

    /// The SQL that [`Admin::install`] would run for these definitions, changing nothing. One script for a person to read.
    pub async fn plan(&self, definitions: &[Definition]) -> Result<String, AdminError> {
        let _ = definitions;
        todo!()
    }

    /// Leaves the log in place, ready to be taken over by an EventLog of the same namespace and name.
    pub async fn release(&self) -> Result<(), AdminError> {
        todo!()
    }

    /// Drops the schema and every SQL trigger that fills it.
    pub async fn drop_log(self) -> Result<(), AdminError> {
        todo!()
    }
}
