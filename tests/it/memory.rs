//! What a worker holds is bounded by bytes, however large events are, and whatever becomes of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use eventtrigger::{
    log::definition::{Ordering, Sink},
    name::Ident,
};
use futures::StreamExt as _;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    delivery::trigger,
    process::Process,
    support::{Database, schema},
};

const EVENTS: usize = 400;
/// Parking takes a while for each.
const PARKED: usize = 100;
/// Peak resident memory of a worker, as docs/delivery.md promises it, in MiB. Events of 2 MB would take 800.
const BOUND: u64 = 128;
const DEADLINE: Duration = Duration::from_mins(3);

/// How the receiver behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mood {
    Hangs,
    /// The first event fails, and all others are refused for ever.
    Refuses,
    Answers,
}

/// Counts events, and keeps nothing of them.
struct Counter {
    mood: watch::Sender<Mood>,
    begun: watch::Sender<usize>,
    arrived: watch::Sender<usize>,
    /// Ids and lengths of bodies.
    ids: Mutex<BTreeSet<String>>,
    first: Mutex<Option<String>>,
    longest: Mutex<usize>,
    url: String,
}

impl Counter {
    async fn start(mood: Mood) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let counter = Arc::new(Self {
            mood: watch::Sender::new(mood),
            begun: watch::Sender::default(),
            arrived: watch::Sender::default(),
            ids: Mutex::default(),
            first: Mutex::default(),
            longest: Mutex::default(),
            url: format!("http://{}/", listener.local_addr().unwrap()),
        });
        let app = Router::new().fallback(receive).with_state(counter.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        counter
    }

    async fn until(&self, what: &str, of: &watch::Sender<usize>, count: usize) {
        let mut seen = of.subscribe();
        let waited = tokio::time::timeout(DEADLINE, seen.wait_for(|seen| *seen >= count)).await;
        assert!(waited.is_ok(), "waited for {what}: {} of {count}", *of.borrow());
    }
}

async fn receive(State(counter): State<Arc<Counter>>, headers: HeaderMap, body: Body) -> StatusCode {
    counter.begun.send_modify(|begun| *begun += 1);
    let (mut data, mut length) = (body.into_data_stream(), 0);
    while let Some(Ok(part)) = data.next().await {
        length += part.len();
    }
    let mut mood = counter.mood.subscribe();
    let _ = mood.wait_for(|mood| *mood != Mood::Hangs).await;
    let id = headers["ce-id"].to_str().unwrap().to_owned();
    if *counter.mood.borrow() == Mood::Refuses {
        let first = counter.first.lock().unwrap().get_or_insert_with(|| id.clone()).clone();
        return if id == first { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::UNPROCESSABLE_ENTITY };
    }
    counter.ids.lock().unwrap().insert(id);
    let mut longest = counter.longest.lock().unwrap();
    *longest = longest.max(length);
    let arrived = counter.ids.lock().unwrap().len();
    counter.arrived.send_replace(arrived);
    StatusCode::OK
}

/// Events of 2 MB, by turns of what compresses well and of what does not.
async fn fill(database: &Database, events: usize) {
    let row = "INSERT INTO orders (id, card, status) SELECT n, 'same', CASE WHEN n % 2 = 0 THEN repeat(md5(n::text), 62500) ELSE s.noise END
               FROM generate_series({from}, {from} + 9) AS n,
                   (SELECT string_agg(md5(g::text), '') AS noise FROM generate_series(1, 62500) AS g) AS s";
    for from in (0..events).step_by(10) {
        database.run(&row.replace("{from}", &from.to_string())).await;
    }
}

/// Hundreds of megabytes that nobody needs any more.
async fn tidy(database: &Database) {
    database.run(&format!("DROP SCHEMA {} CASCADE; DROP TABLE orders", schema())).await;
}

#[tokio::test]
async fn four_hundred_events_of_two_megabytes_wait_and_are_delivered_in_bounded_memory() {
    let (database, admin) = Database::with_orders().await;
    let counter = Counter::start(Mood::Hangs).await;
    let mut definition = trigger("large", counter.url.clone());
    definition.policy.timeout = DEADLINE;
    admin.install("u1", &definition).await.unwrap();
    fill(&database, EVENTS).await;
    let worker = Process::start(&database.config, &[]);
    counter.until("requests to begin", &counter.begun, 2).await;
    // It reads as long as it has room.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hanging = worker.peak();
    counter.mood.send_replace(Mood::Answers);
    counter.until("all to arrive", &counter.arrived, EVENTS).await;
    let delivered = worker.peak();
    println!("peak: {hanging} MiB while the receiver hangs, {delivered} MiB when all are delivered");
    assert!(*counter.longest.lock().unwrap() > 2_000_000);
    assert!(hanging <= BOUND && delivered <= BOUND, "{hanging} MiB, {delivered} MiB");
    worker.stop().await;
    tidy(&database).await;
}

#[tokio::test]
async fn large_events_of_many_eventtriggers_whose_receivers_hang_leave_room_for_the_one_that_answers() {
    let (database, admin) = Database::with_orders().await;
    let (hangs, answers) = (Counter::start(Mood::Hangs).await, Counter::start(Mood::Answers).await);
    for n in 0..20 {
        // Sinks of their own: what one does says nothing of another.
        let mut definition = trigger(&format!("hangs-{n}"), String::new());
        definition.sink = Some(Sink { name: Some(format!("shop/hangs-{n}")), ..Sink::to(hangs.url.clone()) });
        definition.policy.timeout = DEADLINE;
        admin.install(&format!("u{n}"), &definition).await.unwrap();
    }
    admin.install("answers", &trigger("answers", answers.url.clone())).await.unwrap();
    fill(&database, EVENTS).await;
    let worker = Process::start(&database.config, &[]);
    answers.until("all to arrive", &answers.arrived, EVENTS).await;
    let peak = worker.peak();
    println!("peak: {peak} MiB with 20 receivers that hang and one that answers");
    // Each EventTrigger may have one event when memory is scarce, twice while it is sent.
    assert!(peak <= BOUND + 20 * 4, "{peak} MiB");
    worker.kill().await;
    tidy(&database).await;
}

#[tokio::test]
async fn large_events_that_are_parked_behind_another_and_then_given_up_take_no_more() {
    let (database, admin) = Database::with_orders().await;
    let counter = Counter::start(Mood::Refuses).await;
    let mut definition = trigger("large", counter.url.clone());
    definition.ordering = Ordering::Columns(vec![Ident::new("card")]);
    definition.policy.retry = 1;
    // As long as it takes until all are parked.
    (definition.policy.delay, definition.policy.max) = (Duration::from_hours(1), Duration::from_hours(1));
    admin.install("u1", &definition).await.unwrap();
    fill(&database, PARKED).await;
    let worker = Process::start(&database.config, &[]);
    let behind = format!("SELECT count(*) = {PARKED} FROM eventlog.parked");
    tokio::time::timeout(DEADLINE, until(&database, &behind)).await.expect("waited for all to be parked");
    definition.policy.delay = Duration::from_millis(100);
    admin.install("u1", &definition).await.unwrap();
    let dead = format!("SELECT count(*) = {PARKED} FROM eventlog.dead_letter");
    tokio::time::timeout(DEADLINE, until(&database, &dead)).await.expect("waited for all to be given up");
    let peak = worker.peak();
    println!("peak: {peak} MiB when all were parked and given up");
    assert!(peak <= BOUND, "{peak} MiB");
    worker.stop().await;
    tidy(&database).await;
}

async fn until(database: &Database, sql: &str) {
    while !database.client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_bound_is_delivered_alone() {
    let (database, admin) = Database::with_orders().await;
    let counter = Counter::start(Mood::Answers).await;
    let mut definition = trigger("large", counter.url.clone());
    definition.policy.timeout = DEADLINE;
    admin.install("u1", &definition).await.unwrap();
    let noise = "SELECT string_agg(md5(g::text), '') FROM generate_series(1, 1000000) AS g";
    database.run(&format!("INSERT INTO orders VALUES (1); INSERT INTO orders (id, status) SELECT 2, ({noise}); INSERT INTO orders VALUES (3)")).await;
    let worker = Process::start(&database.config, &[]);
    counter.until("all to arrive", &counter.arrived, 3).await;
    let (longest, peak) = (*counter.longest.lock().unwrap() / 1_000_000, worker.peak());
    println!("peak: {peak} MiB with one event of {longest} MB");
    assert!(longest >= 32);
    worker.stop().await;
    tidy(&database).await;
}
