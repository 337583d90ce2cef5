//! The subcommands, as processes of their own; the database and the receiver are real.

mod deliver;
mod embedded;
mod plan;
mod process;
mod run;
mod samples;
mod traces;
