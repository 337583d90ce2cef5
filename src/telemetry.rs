//! Logs: to stderr, for people as text, for machines as JSON.

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, reload};

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

/// Sets what is logged from now on.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Changes the level of this program's own lines while it runs. Those of libraries stay at `info`: at lower levels they would
/// show headers, and with them what is secret.
///
/// # Errors
/// If `level` is none; the text says which there are.
pub fn set_level(level: &str) -> Result<(), String> {
    let level: LevelFilter = level
        .trim()
        .parse()
        .map_err(|_| format!("{level:?} is no level; there are off, error, warn, info, debug and trace"))?;
    let Some(reload) = RELOAD.get() else { return Ok(()) };
    let filter = EnvFilter::builder().parse(format!("info,eventtrigger={level}")).map_err(|error| error.to_string())?;
    reload(filter).map_err(|error| error.to_string())
}

/// Starts logging for the process.
///
/// # Errors
/// If the level cannot be read.
pub fn init(options: &LogOptions) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&options.log_level)?;
    let terminal = io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let logger = fmt().with_writer(io::stderr).with_ansi(terminal);
    let reload: Reload = match format {
        LogFormat::Text => {
            let logger = logger.with_env_filter(filter).with_filter_reloading();
            let handle = logger.reload_handle();
            logger.init();
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let logger = logger.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = logger.reload_handle();
            logger.init();
            Box::new(move |filter| handle.reload(filter))
        }
    };
    let _ = RELOAD.set(reload);
    Ok(())
}
