//! One log under `run`: opened, installed, looked after, delivered from.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    fault::{Cure, Fault},
    options::Leftovers,
    table::Row,
    wanted::WantedLog,
};
use crate::{
    delivery::{self, Addresses, Phase, Progress},
    log::{Admin, AdminError, ConnectConfig, Hindrance, Holding},
    name::ObjectName,
};

/// How often the log's segments are tended.
const CARE: Duration = Duration::from_secs(15);
/// A database that does not answer within this is away.
const ANSWER: Duration = Duration::from_secs(30);

/// How far a log is from having nothing left to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Idleness {
    /// There is work left.
    Busy,
    /// Everything captured is delivered or given up.
    Idle,
    /// It will not get there until somebody changes something.
    Stuck,
}

/// What the database says to `question`, if it says anything.
async fn answer<T>(database: &ConnectConfig, question: impl Future<Output = T>) -> Result<T, Fault> {
    timeout(ANSWER, question).await.map_err(|_| {
        let message = format!("{database} does not answer");
        Fault { reason: "ConnectionFailed", message, cure: Cure::Retry }
    })
}

/// One log.
pub(super) struct Tended {
    wanted: WantedLog,
    connection: ConnectConfig,
    leftovers: Leftovers,
    admin: Option<Admin>,
    /// What is wrong with the log as a whole.
    trouble: Option<Fault>,
    /// EventTriggers that were tried, and how it ended.
    captured: BTreeMap<ObjectName, Result<(), Fault>>,
    /// EventTriggers of earlier runs that were mentioned.
    mentioned: BTreeSet<ObjectName>,
    delivery: Option<Delivery>,
    /// What the workers wrote down.
    hindrances: BTreeMap<ObjectName, Hindrance>,
    /// When the log's segments were tended last, and what the log held then.
    cared: Option<Instant>,
    holding: Holding,
}

struct Delivery {
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl Tended {
    pub(super) fn new(wanted: WantedLog, connection: ConnectConfig, leftovers: Leftovers) -> Self {
        let (captured, mentioned) = (BTreeMap::new(), BTreeSet::new());
        Self {
            wanted,
            connection,
            leftovers,
            admin: None,
            trouble: None,
            captured,
            mentioned,
            delivery: None,
            hindrances: BTreeMap::new(),
            cared: None,
            holding: Holding::default(),
        }
    }

    /// One round: opens the log if it is not open, installs what is not as it should be.
    pub(super) async fn tend(&mut self) {
        let before = self.trouble.clone();
        self.trouble = self.round().await.err();
        let log = &self.wanted.owner.log;
        match &self.trouble {
            Some(fault) if before.as_ref() != Some(fault) => tracing::warn!(%log, "EventLog: {}", fault.message),
            None if before.is_some() => tracing::info!(%log, "EventLog: recovered"),
            _ => {}
        }
        if self.trouble.is_some() {
            // Whatever state it is in: the next round begins with a new one.
            self.admin = None;
        }
    }

    async fn round(&mut self) -> Result<(), Fault> {
        let admin = match self.admin.take() {
            Some(admin) if !admin.is_closed().await => admin,
            _ => self.open().await?,
        };
        let admin = self.admin.insert(admin);
        let states = answer(&self.connection, admin.look()).await?.map_err(|error| Fault::from(&error))?;
        self.hindrances = answer(&self.connection, admin.hindrances()).await?.map_err(|error| Fault::from(&error))?;
        let mut intact = BTreeSet::new();
        for state in &states {
            if state.drift.is_empty() {
                intact.extend(&state.triggers);
            } else {
                tracing::info!(table = state.table.plain(), "repairing: {}", state.drift.join("; "));
            }
        }
        for trigger in &self.wanted.triggers {
            let name = &trigger.definition.trigger;
            if self.captured.get(name) == Some(&Ok(())) && intact.contains(name) {
                continue;
            }
            let installed = admin.install(&trigger.uid, &trigger.definition);
            let outcome = match answer(&self.connection, installed).await? {
                Ok(_) => Ok(()),
                Err(error @ AdminError::Sql { .. }) if admin.is_closed().await => return Err(Fault::from(&error)),
                Err(error) => Err(Fault::from(&error)),
            };
            let before = self.captured.insert(name.clone(), outcome.clone());
            match outcome {
                Err(fault) if before != Some(Err(fault.clone())) => {
                    tracing::warn!(trigger = %name, "EventTrigger: {}", fault.message);
                }
                Ok(()) if before != Some(Ok(())) => {
                    tracing::info!(trigger = %name, table = trigger.definition.table.plain(), "EventTrigger: captured");
                }
                _ => {}
            }
        }
        let wanted: BTreeSet<_> = self.wanted.triggers.iter().map(|trigger| &trigger.definition.trigger).collect();
        for leftover in states.iter().flat_map(|state| &state.triggers).filter(|name| !wanted.contains(name)) {
            match self.leftovers {
                Leftovers::Remove => {
                    let removed = answer(&self.connection, admin.remove(leftover)).await?;
                    removed.map_err(|error| Fault::from(&error))?;
                    tracing::info!(trigger = %leftover, "EventTrigger: removed, as no manifest has it any more");
                }
                Leftovers::Keep if self.mentioned.insert(leftover.clone()) => tracing::warn!(
                    trigger = %leftover,
                    "EventTrigger: it is in no manifest, but its changes go on being captured and delivered; --prune removes it"
                ),
                Leftovers::Keep => {}
            }
        }
        if self.cared.is_none_or(|cared| cared.elapsed() >= CARE) {
            self.cared = Some(Instant::now());
            let holding = answer(&self.connection, admin.tend(&self.wanted.retention)).await?;
            self.hold(holding.map_err(|error| Fault::from(&error))?);
        }
        Ok(())
    }

    /// Mentions what retention could not do, once.
    fn hold(&mut self, holding: Holding) {
        let log = &self.wanted.owner.log;
        for (trigger, events) in holding.lost.iter().filter(|lost| !self.holding.lost.contains(lost)) {
            tracing::error!(%log, %trigger, events, "events were dropped undelivered, as retention.maxHeldSize says");
        }
        if let Some(trigger) = holding.held_by.as_ref().filter(|trigger| self.holding.held_by.as_ref() != Some(trigger))
        {
            tracing::warn!(%log, %trigger, "the log keeps more than retention says: the trigger has not had its oldest events");
        }
        self.holding = holding;
    }

    async fn open(&mut self) -> Result<Admin, Fault> {
        let WantedLog { owner, schema, adopt, .. } = &self.wanted;
        let opening = Admin::open_or_adopt(&self.connection, schema, owner, adopt.as_deref());
        let opened = answer(&self.connection, opening).await?;
        let (admin, facts) = opened.map_err(|error| Fault::from(&error))?;
        tracing::info!(log = %owner.log, database = %self.connection, server = facts.version, "EventLog: open");
        Ok(admin)
    }

    /// Starts delivery, once the log is there and every EventTrigger had its chance: a worker that knew none of them
    /// would call itself idle.
    pub(super) fn deliver(&mut self, addresses: &Addresses, metrics: &delivery::Metrics, shutdown: &CancellationToken) {
        if self.delivery.is_some() || self.admin.is_none() || self.trouble.is_some() {
            return;
        }
        let WantedLog { owner, schema, secrets, .. } = &self.wanted;
        let config = delivery::Config {
            owner: owner.clone(),
            schema: schema.clone(),
            connection: self.connection.clone(),
            secrets: secrets.0.clone(),
        };
        let holder = format!("eventtrigger run, process {}", std::process::id());
        let options =
            delivery::Options { holder, grace: delivery::Options::GRACE, addresses: addresses.clone(), only: None };
        let (monitor, progress) = delivery::Monitor::new(metrics);
        let task = tokio::spawn(delivery::run(config, options, monitor, shutdown.clone()));
        self.delivery = Some(Delivery { progress, task });
    }

    /// Waits until delivery has something new to tell; for ever, if there is none.
    pub(super) async fn changed(&mut self) {
        let told = match &mut self.delivery {
            Some(delivery) => delivery.progress.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it can deliver; if not, why.
    pub(super) fn progress(&self) -> Option<watch::Receiver<Progress>> {
        self.delivery.as_ref().map(|delivery| delivery.progress.clone())
    }

    /// Waits for delivery's end, after its shutdown.
    pub(super) async fn end(self) -> Progress {
        let Some(Delivery { progress, task }) = self.delivery else { return Progress::default() };
        if let Err(panic) = task.await {
            tracing::error!("delivery: {panic}");
        }
        progress.borrow().clone()
    }

    pub(super) fn idleness(&self) -> Idleness {
        let faults = self.captured.values().filter_map(|outcome| outcome.as_ref().err()).chain(&self.trouble);
        let cures: Vec<_> = faults.map(|fault| fault.cure).collect();
        if cures.contains(&Cure::Change) {
            return Idleness::Stuck;
        }
        let Some(delivery) = &self.delivery else { return Idleness::Busy };
        let progress = delivery.progress.borrow();
        match (&progress.phase, progress.held.is_empty(), progress.caught_up) {
            _ if delivery.task.is_finished() => Idleness::Stuck,
            (Phase::Delivering, false, _) => Idleness::Stuck,
            (Phase::Delivering, true, true) if cures.is_empty() => Idleness::Idle,
            _ => Idleness::Busy,
        }
    }

    /// A row for each EventTrigger.
    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |trigger: &super::wanted::WantedTrigger| {
            let definition = &trigger.definition;
            let (ready, reason) = self.ready(&definition.trigger, definition.suspend);
            let ObjectName { namespace, name } = definition.trigger.clone();
            let sink = definition.sink.as_ref().map(|sink| sink.url.clone()).unwrap_or_default();
            Row([namespace, name, ready.to_owned(), reason.to_owned(), definition.table.plain(), sink])
        };
        self.wanted.triggers.iter().map(row).collect()
    }

    /// As the condition `Ready` would be: its status and reason.
    fn ready(&self, name: &ObjectName, suspend: bool) -> (&'static str, &'static str) {
        if let Some(fault) = &self.trouble {
            return ("False", fault.reason);
        }
        match self.captured.get(name) {
            None => return ("False", "Pending"),
            Some(Err(fault)) => return ("False", fault.reason),
            Some(Ok(())) if suspend => return ("True", "Suspended"),
            Some(Ok(())) => {}
        }
        let Some(delivery) = &self.delivery else { return ("False", "WorkersStarting") };
        let progress = delivery.progress.borrow();
        if progress.held.iter().any(|held| held.trigger == *name) {
            return ("False", "SinkNotResolved");
        }
        match progress.phase {
            Phase::Starting => return ("False", "WorkersStarting"),
            Phase::Away(_) | Phase::Stopped => return ("False", "WorkersUnavailable"),
            Phase::StandingBy | Phase::Delivering => {}
        }
        // The messages are in the workers' own lines.
        let hindrance = self.hindrances.get(name);
        match (hindrance.and_then(Hindrance::reason), hindrance.is_some_and(|found| found.obstacle.is_some())) {
            (Some(reason), true) => ("False", reason),
            (Some(reason), false) => ("True", reason),
            (None, _) => ("True", "Ready"),
        }
    }
}
