//! Figures and targets: as tables for people, and as JSON for programs.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Prints what is measured and writes it to `target/bench/<name>.json`. An interrupted run returns, too: servers and
/// workers are stopped when they are dropped.
pub(crate) async fn publish(name: &str, measured: impl Future<Output = Result<Report>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let report = tokio::select! {
        report = measured => report?,
        _ = tokio::signal::ctrl_c() => return Err(anyhow!("interrupted")),
        _ = terminate.recv() => return Err(anyhow!("terminated")),
    };
    println!("{}", report.table());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench").join(name).with_extension("json");
    report.write(&file)?;
    println!("written to {}", file.display());
    Ok(())
}

/// One number.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    case: String,
    contender: String,
    metric: String,
    value: f64,
    unit: String,
}

/// What a number must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// Something to be met.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    what: String,
    value: f64,
    rule: Rule,
}

impl Target {
    /// `what` says of which case, and what `value` is.
    pub(crate) fn new(what: String, value: f64, rule: Rule) -> Self {
        Self { what, value, rule }
    }

    fn met(&self) -> bool {
        match self.rule {
            Rule::AtMost(limit) => self.value <= limit,
            Rule::AtLeast(limit) => self.value >= limit,
        }
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    targets: Vec<Target>,
}

impl Report {
    /// Adds a number.
    pub(crate) fn figure(&mut self, case: &str, contender: &str, metric: &str, value: f64, unit: &str) {
        let [case, contender, metric, unit] = [case, contender, metric, unit].map(str::to_owned);
        self.figures.push(Figure { case, contender, metric, value, unit });
    }

    /// Adds a target.
    pub(crate) fn target(&mut self, target: Target) {
        self.targets.push(target);
    }

    /// A number that was added.
    pub(crate) fn value(&self, case: &str, contender: &str, metric: &str) -> Option<f64> {
        let is = |figure: &&Figure| figure.case == case && figure.contender == contender && figure.metric == metric;
        self.figures.iter().find(is).map(|figure| figure.value)
    }

    /// Cases as rows and contenders as columns, a table for each metric; then the targets.
    fn table(&self) -> String {
        let mut text = String::new();
        for (metric, unit) in distinct(self.figures.iter().map(|figure| (&figure.metric, &figure.unit))) {
            let of_metric = || self.figures.iter().filter(|figure| &figure.metric == metric && &figure.unit == unit);
            let contenders = distinct(of_metric().map(|figure| &figure.contender));
            let cases = distinct(of_metric().map(|figure| &figure.case));
            let width = cases.iter().map(|case| case.chars().count()).max().unwrap_or_default();
            let _ = write!(text, "\n{:width$}", format!("{metric}, {unit}"));
            for contender in &contenders {
                let _ = write!(text, " {contender:>10}");
            }
            text.push('\n');
            for case in cases {
                let _ = write!(text, "{case:width$}");
                for contender in &contenders {
                    let number = self.value(case, contender, metric).map(short).unwrap_or_default();
                    let _ = write!(text, " {number:>10}");
                }
                text.push('\n');
            }
        }
        text.push_str("\ntargets\n");
        for target in &self.targets {
            let (sign, limit) = match target.rule {
                Rule::AtMost(limit) => ('≤', limit),
                Rule::AtLeast(limit) => ('≥', limit),
            };
            let verdict = if target.met() { "met   " } else { "missed" };
            let _ = writeln!(text, "{verdict} {:6.2} {sign} {limit:.2}  {}", target.value, target.what);
        }
        text
    }

    /// Writes the numbers as a JSON array.
    fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(file, serde_json::to_string_pretty(&self.figures)? + "\n")?)
    }
}

/// With as many places as say something.
fn short(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Each once, in order of appearance.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}
