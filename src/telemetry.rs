//! Logs: to stderr, for people as text, for machines as JSON.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// How logs are written.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// What to log: a level, or levels by module such as `info,eventtrigger=debug`.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// How to write it. Default: text on a terminal, else JSON.
    #[arg(long, global = true, env = "EVENTTRIGGER_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Starts logging for the process.
///
/// # Errors
/// If the level cannot be read.
pub fn init(options: &LogOptions) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&options.log_level)?;
    let terminal = io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let logger = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    match format {
        LogFormat::Text => logger.init(),
        LogFormat::Json => logger.json().flatten_event(true).init(),
    }
    Ok(())
}
