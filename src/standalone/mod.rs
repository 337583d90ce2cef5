//! `run` and `plan`: the same resources from files, without a cluster.

mod database;
pub mod embedded;
mod fault;
pub mod manifests;
mod objects;
mod options;
mod plan;
mod run;
mod table;
mod tended;
mod wanted;

use std::process::ExitCode;

pub use database::DatabaseError;
pub use options::{Input, Leftovers, PlanOptions, RunOptions};
pub use plan::plan;
pub use run::run;

use self::{
    manifests::{Manifests, Mistake},
    wanted::WantedLog,
};

/// How a command ended that said itself what there was to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Well.
    Success,
    /// Not.
    Failure,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Success => Self::SUCCESS,
            Ending::Failure => Self::FAILURE,
        }
    }
}

/// Reads and checks the manifests; says every mistake. `None` if there was one.
async fn checked(input: &Input) -> anyhow::Result<Option<(Manifests, Vec<WantedLog>)>> {
    let (files, settings) = (input.files.clone(), input.settings());
    let loaded = tokio::task::spawn_blocking(move || {
        manifests::read(&files).and_then(|sources| manifests::load(&sources, &settings))
    });
    let outcome = match loaded.await? {
        Ok(manifests) => wanted::wanted(&manifests).await.map(|logs| (manifests, logs)),
        Err(mistakes) => Err(mistakes),
    };
    match outcome {
        Ok((manifests, logs)) => {
            manifests.notes.iter().for_each(|note| eprintln!("{note}"));
            Ok(Some((manifests, logs)))
        }
        Err(mistakes) => {
            refuse(&mistakes);
            Ok(None)
        }
    }
}

/// Says every mistake, and what did not happen because of it.
fn refuse(mistakes: &[Mistake]) {
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    let count = mistakes.len();
    eprintln!("{count} mistake{}; nothing was changed.", if count == 1 { "" } else { "s" });
}
