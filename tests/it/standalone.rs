//! `run` and `plan`, as a user starts them; the database and the receiver are real.

mod embedded;
mod plan;
mod process;
mod run;
mod samples;
