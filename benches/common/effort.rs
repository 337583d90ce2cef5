//! How much is measured: the environment makes a run shorter or longer.

use std::{env, fmt::Display, str::FromStr};

use anyhow::{Result, anyhow};

/// A number from the environment.
pub(crate) fn variable<T: FromStr<Err: Display>>(name: &str, default: T) -> Result<T> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|error| anyhow!("{name}: {text:?}: {error}")),
        Err(_) => Ok(default),
    }
}

/// The parts that are to run, by `BENCH_ONLY`; all if it names none.
pub(crate) struct Parts(Vec<String>);

impl Parts {
    pub(crate) fn from_environment() -> Self {
        let only = env::var("BENCH_ONLY").unwrap_or_default();
        Self(only.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|only| only == part)
    }
}
