//! `eventtrigger plan`: the SQL that `run` would run first.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::{
    Ending, checked,
    database::Database,
    manifests::{Manifests, Mistake},
    options::PlanOptions,
    refuse, wanted,
};
use crate::{
    log::{Admin, AdminError, ConnectConfig, Definition, PlanError},
    resolve::Problem,
};

/// Prints the SQL, and changes nothing.
pub async fn plan(options: PlanOptions, shutdown: CancellationToken) -> anyhow::Result<Ending> {
    let Some((manifests, logs)) = checked(&options.input).await? else { return Ok(Ending::Failure) };
    let database = tokio::select! {
        database = Database::open(&options.input) => database?,
        () = shutdown.cancelled() => return Ok(Ending::Failure),
    };
    let config = database.config();
    let (mut script, mut mistakes) = (String::new(), Vec::new());
    for log in &logs {
        let definitions = log.triggers.iter().map(|trigger| trigger.definition.clone()).collect();
        let (sql, found) = of_log(&manifests, &config, log, definitions).await?;
        script.push_str(&sql);
        mistakes.extend(found);
    }
    database.close().await?;
    if !mistakes.is_empty() {
        refuse(&mistakes);
        return Ok(Ending::Failure);
    }
    if script.trim().is_empty() {
        script = format!("-- Nothing to do: {config} is as the manifests want it.\n");
    }
    std::io::stdout().lock().write_all(script.as_bytes())?;
    Ok(Ending::Success)
}

/// The SQL of one log, or everything of it that does not fit: a plan ends at the first, so the rest is planned again.
async fn of_log(
    manifests: &Manifests,
    config: &ConnectConfig,
    log: &wanted::WantedLog,
    mut definitions: Vec<Definition>,
) -> Result<(String, Vec<Mistake>), PlanError> {
    let mut mistakes = Vec::new();
    loop {
        match Admin::plan(config, &log.schema, &log.owner, &definitions).await {
            Ok(script) => return Ok((script, mistakes)),
            Err(PlanError::Install { trigger, source: AdminError::Invalid(problem) })
                if definitions.iter().any(|definition| definition.trigger == trigger) =>
            {
                definitions.retain(|definition| definition.trigger != trigger);
                let problem = Problem::new(problem.reason, problem.message);
                mistakes.push(wanted::mistake(manifests, "EventTrigger", &trigger, &problem));
            }
            Err(error) => return Err(error),
        }
    }
}
