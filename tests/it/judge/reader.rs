//! Readers: cursors that start, stop and crash while others write. This is the only place of the judge that reads the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use eventtrigger::log::{Capture, Cursor, Event, Lease, Move, Slot, Snapshot, Subscription, Worker, WorkerError};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::compare::Journal;
use crate::support::{Database, owner, schema};

/// Events of a page.
const PAGE: usize = 500;

/// Where the readers are to stop; nowhere while others write.
pub(super) type Goal = watch::Receiver<Option<Snapshot>>;

/// What a reader of its own was to get and got.
#[derive(Debug)]
pub(super) struct Read {
    /// Where it began.
    pub(super) from: Snapshot,
    pub(super) journal: Journal,
}

/// Connects, again if the new backend was among those that were killed.
async fn connect(database: &Arc<Database>) -> Worker {
    let mut tries = 0;
    loop {
        match Worker::connect(&database.config, &schema(), &owner().uid).await {
            Ok(worker) => return worker,
            Err(error) if tries == 9 => panic!("connect a worker: {error:?}"),
            Err(_) => tries += 1,
        }
    }
}

/// One page beyond `cursor`, and the cursor behind it.
async fn page(worker: &Worker, cursor: &Cursor) -> Result<(Vec<Event>, Cursor), WorkerError> {
    let Some(to) = &cursor.to else { return Ok((Vec::new(), cursor.clone())) };
    let events = worker.window(&cursor.from, to, cursor.after, PAGE).await?;
    let next = if events.len() < PAGE {
        Cursor { from: to.clone(), to: None, after: 0, done: Vec::new() }
    } else {
        Cursor { after: events.last().map_or(cursor.after, |event| event.id), ..cursor.clone() }
    };
    Ok((events, next))
}

/// With a window under way: to the goal once there is one, else to this moment.
async fn aimed(worker: &Worker, cursor: &Cursor, goal: &Goal) -> Result<Cursor, WorkerError> {
    if cursor.to.is_some() {
        return Ok(cursor.clone());
    }
    let goal = goal.borrow().clone();
    let to = match goal {
        Some(goal) if cursor.from.is_within(&goal) => goal,
        // The cut may be newer than the goal already; then there is nothing of ours beyond the goal.
        _ => worker.pulse().await?.now,
    };
    Ok(Cursor { to: Some(to), ..cursor.clone() })
}

fn at(cut: Snapshot) -> Cursor {
    Cursor { from: cut, to: None, after: 0, done: Vec::new() }
}

fn arrived(cursor: &Cursor, goal: &Goal) -> bool {
    cursor.to.is_none() && goal.borrow().as_ref().is_some_and(|goal| goal.is_within(&cursor.from))
}

/// A pause, so that windows have different sizes.
async fn pause(most: u64) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..=most))).await;
}

/// Reads everything from `from` to the goal: the events in the order that the log hands out.
pub(super) async fn all(database: Arc<Database>, from: Snapshot, goal: Goal) -> Vec<Event> {
    let mut worker = connect(&database).await;
    let mut cursor = at(from);
    let mut all = Vec::new();
    while !arrived(&cursor, &goal) {
        // A page that failed was not read.
        let Ok((events, next)) = step(&worker, &cursor, &goal).await else {
            worker = connect(&database).await;
            continue;
        };
        all.extend(events);
        cursor = next;
        if cursor.to.is_none() {
            pause(20).await;
        }
    }
    all
}

/// A cursor of its own that begins after a while, and whose reader stops and crashes all the while.
pub(super) async fn own(database: Arc<Database>, root: Arc<Client>, goal: Goal, delay: Duration) -> Read {
    tokio::time::sleep(delay).await;
    let mut worker = connect(&database).await;
    let from = worker.pulse().await.expect("look").now;
    let mut read = Read { from: from.clone(), journal: Journal::default() };
    let mut acknowledged = at(from);
    while !arrived(&acknowledged, &goal) {
        let life = read.journal.begin();
        let mut cursor = acknowledged.clone();
        // Lives of a few pages; the last one lasts until the goal.
        for _ in 0..fastrand::u32(1..40) {
            let Ok((events, next)) = step(&worker, &cursor, &goal).await else { break };
            read.journal.deliver(life, events.iter().map(|event| event.id));
            cursor = next;
            // Several pages may be under way before the first is acknowledged.
            if fastrand::u32(..4) > 0 || arrived(&cursor, &goal) {
                acknowledged = cursor.clone();
                read.journal.acknowledge(life);
            }
            if arrived(&acknowledged, &goal) {
                break;
            }
            pause(20).await;
        }
        match fastrand::u32(..8) {
            // Killed by the server: whatever it does next fails.
            0 => kill_workers(&root, &database, 1).await,
            1 => worker = connect(&database).await,
            // It crashed and comes back, or stopped between two pages.
            _ => {}
        }
        if worker.is_closed() || step(&worker, &acknowledged, &goal).await.is_err() {
            worker = connect(&database).await;
        }
    }
    read
}

async fn step(worker: &Worker, cursor: &Cursor, goal: &Goal) -> Result<(Vec<Event>, Cursor), WorkerError> {
    page(worker, &aimed(worker, cursor, goal).await?).await
}

/// Kills the backends of some delivery workers, whoever they are.
async fn kill_workers(root: &Client, database: &Database, most: i64) {
    let kill = "SELECT pg_terminate_backend(pid) FROM (
        SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'eventtrigger deliver' ORDER BY random() LIMIT $2) AS w";
    root.query(kill, &[&database.config.dbname, &most]).await.expect("kill workers");
}

/// What the deliverers of all EventTriggers did, by the trigger's name.
pub(super) type Journals = Arc<Mutex<BTreeMap<String, Journal>>>;

/// A deliverer's life with some slots.
struct Life {
    leases: Vec<Lease>,
    subscriptions: Vec<(Subscription, usize)>,
    captures: HashMap<i32, Capture>,
}

/// Delivers for all EventTriggers, as a delivery worker does, in competition with others: slots are lost by crashes, by
/// dead connections, and by being late.
pub(super) async fn deliverer(database: Arc<Database>, root: Arc<Client>, goal: Goal, journals: Journals) {
    let mut worker = connect(&database).await;
    loop {
        if worker.is_closed() {
            worker = connect(&database).await;
        }
        // Others may have the rest, at the same time.
        let some: Vec<_> = Slot::all().filter(|_| fastrand::bool()).collect();
        let Ok(leases) = worker.take("judge", some, Duration::from_secs(30)).await else { continue };
        if leases.is_empty() {
            if goal.borrow().is_some() && done(&worker, &goal).await {
                return;
            }
            pause(10).await;
            continue;
        }
        if live(&worker, leases, &goal, &journals, &root, &database).await.is_ok() && worker.leave().await.is_ok() {
            if goal.borrow().is_some() && done(&worker, &goal).await {
                return;
            }
            continue;
        }
        // As a crash does: the connection is cut.
        worker = connect(&database).await;
    }
}

async fn done(worker: &Worker, goal: &Goal) -> bool {
    let read = worker.subscriptions().await;
    read.is_ok_and(|(subscriptions, _)| subscriptions.iter().all(|one| arrived(&one.cursor, goal)))
}

/// `Ok` if it ended in good order, with everything acknowledged.
async fn live(
    worker: &Worker,
    leases: Vec<Lease>,
    goal: &Goal,
    journals: &Journals,
    root: &Client,
    database: &Database,
) -> Result<(), WorkerError> {
    let (subscriptions, captures) = worker.subscriptions().await?;
    let begin = |one: Subscription| {
        let life = journals.lock().unwrap().entry(one.definition.trigger.name.clone()).or_default().begin();
        (one, life)
    };
    let ours = |one: &Subscription| leases.iter().any(|lease| lease.slot == Slot::of(one.id));
    let mut life = Life {
        subscriptions: subscriptions.into_iter().filter(ours).map(begin).collect(),
        captures: captures.into_iter().map(|capture| (capture.id, capture)).collect(),
        leases,
    };
    for _ in 0..fastrand::u32(1..30) {
        let moves = life.round(worker, goal, journals).await?;
        match fastrand::u32(..16) {
            // It crashes between delivering and acknowledging.
            0 => return Err(WorkerError::Fenced),
            1 => kill_workers(root, database, 2).await,
            2 => {
                // It stops for longer than its leases last.
                worker.renew(&life.leases, Duration::from_millis(20)).await?;
                pause(60).await;
            }
            _ => {}
        }
        worker.commit(&life.leases, &moves, &[]).await?;
        for (one, number) in &life.subscriptions {
            let mut journals = journals.lock().unwrap();
            journals.get_mut(&one.definition.trigger.name).expect("a journal").acknowledge(*number);
        }
        worker.renew(&life.leases, Duration::from_secs(30)).await?;
        if life.subscriptions.iter().all(|(one, _)| arrived(&one.cursor, goal)) {
            break;
        }
        pause(20).await;
    }
    Ok(())
}

impl Life {
    /// One page for every subscription; those at the same place share it.
    async fn round(&mut self, worker: &Worker, goal: &Goal, journals: &Journals) -> Result<Vec<Move>, WorkerError> {
        let mut pages: Vec<(Cursor, Vec<Event>, Cursor)> = Vec::new();
        for at in 0..self.subscriptions.len() {
            let cursor = self.subscriptions[at].0.cursor.clone();
            let known = pages.iter().position(|(from, ..)| *from == cursor);
            let known = if let Some(known) = known {
                known
            } else {
                let (events, next) = step(worker, &cursor, goal).await?;
                for event in &events {
                    if !self.captures.contains_key(&event.capture) {
                        let capture = worker.capture(event.capture).await?.expect("the event's capture");
                        self.captures.insert(capture.id, capture);
                    }
                }
                pages.push((cursor, events, next));
                pages.len() - 1
            };
            let (_, events, next) = &pages[known];
            let (one, life) = &mut self.subscriptions[at];
            let mine = events.iter().filter(|event| wanted_by(event, &self.captures).any(|wants| wants == one.trigger));
            let mut journals = journals.lock().unwrap();
            let journal = journals.get_mut(&one.definition.trigger.name).expect("a journal");
            journal.deliver(*life, mine.map(|event| event.id));
            one.cursor = next.clone();
        }
        let step = |(one, _): &(Subscription, usize)| Move { subscription: one.id, cursor: one.cursor.clone() };
        Ok(self.subscriptions.iter().map(step).collect())
    }
}

/// Numbers of the EventTriggers that want an event.
pub(super) fn wanted_by(event: &Event, captures: &HashMap<i32, Capture>) -> impl Iterator<Item = i32> {
    let numbers = captures[&event.capture].triggers.iter().enumerate();
    numbers.filter(|(position, _)| event.matched.has(*position)).map(|(_, number)| *number)
}

/// All captures, and the names of the EventTriggers by number.
pub(super) async fn names(database: &Arc<Database>) -> (HashMap<i32, Capture>, HashMap<i32, String>) {
    let (subscriptions, captures) = connect(database).await.subscriptions().await.expect("subscriptions");
    let captures = captures.into_iter().map(|capture| (capture.id, capture)).collect();
    (captures, subscriptions.into_iter().map(|one| (one.trigger, one.definition.trigger.name)).collect())
}

/// The log's cut at this moment.
pub(super) async fn now(database: &Arc<Database>) -> Snapshot {
    connect(database).await.pulse().await.expect("look").now
}
