//! One connection to each EventLog's database, kept open, and a look at what it captures every few seconds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};

use super::{error::explain, metrics::Metrics, pokes::Pokes};
use crate::{
    log::{
        Admin, AdminError, AdoptError, CaptureState, ConnectConfig, Hindrance, Holding, Owner, Retention, ServerFacts,
    },
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
    metrics: Metrics,
}

/// What of a trigger's capture was found changed and is not repaired yet, for its Event.
type Drift = Arc<Mutex<HashMap<ObjectName, String>>>;

/// EventTriggers of a log of which something is not delivered.
type Hindrances = BTreeMap<ObjectName, Hindrance>;

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
    hindrances: Arc<Mutex<Hindrances>>,
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
    pub(super) fn new(pokes: Pokes, metrics: Metrics) -> Self {
        Self { open: Mutex::default(), drift: Arc::default(), pokes, metrics }
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
        // Before any trigger asks: what an earlier controller told of them must not be taken back for a moment.
        let hindrances = admin.hindrances().await.unwrap_or_else(|error| {
            tracing::warn!(log = %owner.log, error = explain(&error), "failed to look at what is not delivered");
            Hindrances::default()
        });
        let hindrances = Arc::new(Mutex::new(hindrances));
        let watch = Watch {
            log: owner.log.clone(),
            broken: broken.clone(),
            admin: Arc::downgrade(&admin),
            drift: self.drift.clone(),
            retention: retention.clone(),
            holding: Arc::clone(&holding),
            hindrances: hindrances.clone(),
            pokes: self.pokes.clone(),
            metrics: self.metrics.clone(),
        };
        let entry = Entry {
            admin: admin.clone(),
            config,
            schema,
            facts: facts.clone(),
            retention,
            holding,
            hindrances,
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

    /// What is not delivered of `trigger`, as the log was found last.
    pub(super) fn hindrance(&self, uid: &str, trigger: &ObjectName) -> Hindrance {
        let open = lock(&self.open);
        open.get(uid).and_then(|entry| lock(&entry.hindrances).get(trigger).cloned()).unwrap_or_default()
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
    hindrances: Arc<Mutex<Hindrances>>,
    pokes: Pokes,
    metrics: Metrics,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.metrics.forget_log(&self.log);
    }
}

impl Watch {
    async fn run(self) {
        let mut before: Vec<(ObjectName, String)> = Vec::new();
        let mut tended: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(admin) = self.admin.upgrade() else { return };
            let look = async { Ok::<_, AdminError>((admin.look().await?, admin.hindrances().await?)) };
            let Ok(found) = timeout(ANSWER, look).await else {
                tracing::warn!(log = %self.log, "the database does not answer");
                break;
            };
            match found {
                Ok((found, hindrances)) => {
                    self.hinder(hindrances);
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
                    tracing::warn!(log = %self.log, error = explain(&error), "failed to look at the log");
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
    /// Notes what is not delivered; triggers of which that has changed tell it.
    fn hinder(&self, now: Hindrances) {
        let mut told = lock(&self.hindrances);
        let changed: Vec<_> = changed(&told, &now).into_iter().cloned().collect();
        *told = now;
        drop(told);
        for trigger in &changed {
            self.pokes.trigger(trigger);
        }
    }

    /// Tends the log's segments. Failing changes nothing for writers and workers: the log only stays longer than it should.
    async fn tend(&self, admin: &Admin) {
        let retention = lock(&self.retention).clone();
        match timeout(ANSWER, admin.tend(&retention)).await {
            Ok(Ok(now)) => {
                self.metrics.log(&self.log, &now);
                // What changes all the time is no reason to look at the EventLog.
                let now = Holding { bytes: 0, held_open: None, ..now };
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

/// Triggers of which something else is to be told: not those whose message alone is new.
fn changed<'a>(before: &'a Hindrances, now: &'a Hindrances) -> BTreeSet<&'a ObjectName> {
    let reason = |of: &Hindrances, trigger| of.get(trigger).and_then(Hindrance::reason);
    let all = before.keys().chain(now.keys());
    all.filter(|trigger| reason(before, trigger) != reason(now, trigger)).collect()
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::log::{Obstacle, Remedy};

    #[test]
    fn a_trigger_is_told_of_when_its_reason_comes_changes_or_goes_and_not_when_only_the_message_does() {
        let away = |reason, message: &str| {
            let (since, message) = (Timestamp::UNIX_EPOCH, message.to_owned());
            let obstacle = Some(Obstacle { reason, message, since, remedy: Remedy::Wait });
            Hindrance { obstacle, ..Hindrance::default() }
        };
        let dead = Hindrance { dead: true, ..Hindrance::default() };
        let of = |all: &[(&str, &Hindrance)]| -> Hindrances {
            all.iter().map(|(name, hindrance)| (ObjectName::new("shop", *name), (*hindrance).clone())).collect()
        };
        let (failing, other) = (away("SinkFailing", "500"), away("SinkFailing", "502"));
        let gone = away("SinkGone", "410");
        let before = of(&[("same", &failing), ("changes", &failing), ("goes", &dead)]);
        let now = of(&[("same", &other), ("changes", &gone), ("comes", &dead)]);
        let names: Vec<_> = changed(&before, &now).into_iter().map(|name| name.name.as_str()).collect();
        assert_eq!(names, ["changes", "comes", "goes"]);
    }
}
