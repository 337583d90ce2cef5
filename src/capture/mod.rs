//! What the database does at each change: facts of a table and the definitions on it become a plan, the plan becomes SQL.
//! All of it pure; [`crate::log::Admin`] runs it.

mod changed;
mod facts;
mod long;
mod plan;
mod sql;
mod validate;

pub use changed::Compare;
pub use facts::{Column, Kind, Rights, Size, TableFacts};
pub use long::Long;
pub use plan::{Changes, Firing, Level, Plan, Shown, Wanted};
pub use sql::{Install, SqlTrigger, function_name, trigger_name};
pub use validate::{not_found, validate};

/// A definition asks for what its table has not: a value, because trying again does not help.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// CamelCase reason of the condition.
    pub reason: &'static str,
    /// Field, value and remedy.
    pub message: String,
}
