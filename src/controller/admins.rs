//! One connection to each EventLog's database, kept open, and a look at what it captures every few seconds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};

use super::{error::explain, pokes::Pokes};
use crate::{
    log::{Admin, AdoptError, CaptureState, ConnectConfig, Holding, Owner, Retention, ServerFacts},
    name::{Ident, ObjectName},
};

/// How often a database is looked at: what somebody changed by hand is noticed, and repaired, within this time.
const LOOK: Duration = Duration::from_secs(3);
/// How often a log's segments are tended: that often at most a new one is made, and old ones are dropped.
const TEND: Duration = Duration::from_secs(15);
/// How long a database may take to answer before its connection is given up.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

/// Open connections, by UID of the EventLog.
#[derive(Debug)]
pub(super) struct Admins {
    open: Mutex<HashMap<String, Entry>>,
    drift: Drift,
    pokes: Pokes,
}

/// What of a trigger's capture was found changed and is not repaired yet, for its Event.
type Drift = Arc<Mutex<HashMap<ObjectName, String>>>;

/// What a log is to be, as its EventLog says.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    pub(super) schema: Ident,
    pub(super) config: ConnectConfig,
    pub(super) retention: Retention,
    /// The server to adopt, if it is another one.
    pub(super) adopt: Option<String>,
}

/// A log's open connection.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) admin: Arc<Admin>,
    pub(super) facts: ServerFacts,
    pub(super) age: Age,
    /// What the log held when it was tended last; `None` before the first time.
    pub(super) holding: Option<Holding>,
}

#[derive(Debug)]
struct Entry {
    admin: Arc<Admin>,
    config: ConnectConfig,
    schema: Ident,
    facts: ServerFacts,
    retention: Arc<Mutex<Retention>>,
    holding: Arc<Mutex<Option<Holding>>>,
    /// Set by the watch: the connection may stand, but is of no use.
    broken: Arc<AtomicBool>,
    watch: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Whether a connection is new: then whatever waits for it must hear of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Age {
    New,
    Known,
}

impl Admins {
    pub(super) fn new(pokes: Pokes) -> Self {
        Self { open: Mutex::default(), drift: Arc::default(), pokes }
    }

    /// The log's connection; a new one if there is none, if it broke, or if the way to the database changed.
    pub(super) async fn open(&self, wanted: Wanted) -> Result<Opened, AdoptError> {
        let Wanted { owner, schema, config, retention, adopt } = wanted;
        let known = lock(&self.open)
            .get(&owner.uid)
            .filter(|entry| entry.config == config && entry.schema == schema)
            .filter(|entry| !entry.broken.load(Ordering::Relaxed))
            .map(|entry| {
                lock(&entry.retention).clone_from(&retention);
                let (admin, facts) = (entry.admin.clone(), entry.facts.clone());
                Opened { admin, facts, age: Age::Known, holding: lock(&entry.holding).clone() }
            });
        if let Some(opened) = known
            && !opened.admin.is_closed().await
        {
            return Ok(opened);
        }
        let (admin, facts) = Admin::open_or_adopt(&config, &schema, &owner, adopt.as_deref()).await?;
        let (admin, broken) = (Arc::new(admin), Arc::new(AtomicBool::new(false)));
        let (retention, holding) = (Arc::new(Mutex::new(retention)), Arc::default());
        let watch = Watch {
            log: owner.log.clone(),
            broken: broken.clone(),
            admin: Arc::downgrade(&admin),
            drift: self.drift.clone(),
            retention: retention.clone(),
            holding: Arc::clone(&holding),
            pokes: self.pokes.clone(),
        };
        let entry = Entry {
            admin: admin.clone(),
            config,
            schema,
            facts: facts.clone(),
            retention,
            holding,
            broken,
            watch: tokio::spawn(watch.run()),
        };
        lock(&self.open).insert(owner.uid, entry);
        Ok(Opened { admin, facts, age: Age::New, holding: None })
    }

    /// The log's connection, if it has one.
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Admin>> {
        lock(&self.open).get(uid).map(|entry| entry.admin.clone())
    }

    /// Closes the log's connection.
    pub(super) fn close(&self, uid: &str) {
        lock(&self.open).remove(uid);
    }

    /// What was found changed about `trigger` since the last time this was asked.
    pub(super) fn take_drift(&self, trigger: &ObjectName) -> Option<String> {
        lock(&self.drift).remove(trigger)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at one database for as long as its connection is the log's.
struct Watch {
    log: ObjectName,
    admin: Weak<Admin>,
    broken: Arc<AtomicBool>,
    drift: Drift,
    retention: Arc<Mutex<Retention>>,
    holding: Arc<Mutex<Option<Holding>>>,
    pokes: Pokes,
}

impl Watch {
    async fn run(self) {
        let mut before: Vec<(ObjectName, String)> = Vec::new();
        let mut tended: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(admin) = self.admin.upgrade() else { return };
            let Ok(found) = timeout(ANSWER, admin.look()).await else {
                tracing::warn!(log = %self.log, "the database does not answer");
                break;
            };
            match found {
                Ok(found) => {
                    let now = drifted(&found);
                    for (trigger, what) in now.iter().filter(|&one| !before.contains(one)) {
                        tracing::info!(%trigger, what, "capture has drifted");
                        lock(&self.drift).insert(trigger.clone(), what.clone());
                        self.pokes.trigger(trigger);
                    }
                    before = now;
                    if tended.is_none_or(|tended| tended.elapsed() >= TEND) {
                        tended = Some(Instant::now());
                        self.tend(&admin).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(log = %self.log, error = explain(&error), "failed to look at the captured tables");
                    break;
                }
            }
        }
        // The EventLog opens anew, or says why it cannot.
        self.broken.store(true, Ordering::Relaxed);
        self.pokes.log(&self.log);
    }
}

impl Watch {
    /// Tends the log's segments. Failing changes nothing for writers and workers: the log only stays longer than it should.
    async fn tend(&self, admin: &Admin) {
        let retention = lock(&self.retention).clone();
        match timeout(ANSWER, admin.tend(&retention)).await {
            Ok(Ok(now)) => {
                let before = lock(&self.holding).replace(now.clone());
                if before != Some(now) {
                    self.pokes.log(&self.log);
                }
            }
            Ok(Err(error)) => tracing::warn!(log = %self.log, error = explain(&error), "failed to tend the log"),
            Err(_) => tracing::warn!(log = %self.log, "tending the log takes too long"),
        }
    }
}

/// Each trigger whose capture differs, and how.
fn drifted(found: &[CaptureState]) -> Vec<(ObjectName, String)> {
    let differs = found.iter().filter(|state| !state.drift.is_empty());
    differs
        .flat_map(|state| {
            let what = format!("{}: {}", state.table.plain(), state.drift.join("; "));
            state.triggers.iter().map(move |trigger| (trigger.clone(), what.clone()))
        })
        .collect()
}
