//! Segments: the log is cut into parts while it is written and read, and old parts go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventtrigger::{
    log::{Admin, Cursor, Event, Holding, Lease, Most, Move, Retention, Slot, Snapshot, Worker},
    name::{Ident, ObjectName, TableName},
};

use crate::support::{Database, everything, orders};

/// Every tending cuts a segment, if there is an event in the newest, and drops what may be dropped.
const AT_ONCE: Retention =
    Retention { period: Duration::ZERO, max_size: None, max_held_size: None, dead_letter_period: None };
/// The same, and nothing is dropped: an eighth of so much is cut, and all together is less.
const CUT: Retention = Retention {
    period: Duration::from_hours(1),
    max_size: Some(200_000),
    max_held_size: None,
    dead_letter_period: None,
};
const PAGE: usize = 100;

async fn numbers(database: &Database) -> Vec<i32> {
    let rows = database.client.query("SELECT number FROM eventlog.segment ORDER BY number", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// All events of a window, page by page.
async fn all(worker: &Worker, from: &Snapshot, to: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let after = events.last().map_or(0, |event: &Event| event.id);
        let page = worker.window(from, to, after, PAGE).await.unwrap();
        let ends = page.len() < PAGE;
        events.extend(page);
        if ends {
            return events;
        }
    }
}

/// Tends until the segments are `wanted`.
async fn tend_until(database: &Database, admin: &Admin, retention: &Retention, wanted: &[i32]) -> Holding {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let holding = admin.tend(retention).await.unwrap();
        let numbers = numbers(database).await;
        if numbers == wanted {
            return holding;
        }
        assert!(Instant::now() < deadline, "waited for segments {wanted:?}, there are {numbers:?}");
    }
}

async fn is_sealed(database: &Database, number: i32) -> bool {
    let sealed = "SELECT upto IS NOT NULL FROM eventlog.segment WHERE number = $1";
    database.client.query_one(sealed, &[&number]).await.unwrap().get(0)
}

async fn seal(database: &Database, admin: &Admin, number: i32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_sealed(database, number).await {
        admin.tend(&CUT).await.unwrap();
        assert!(Instant::now() < deadline, "waited for segment {number} to be sealed");
    }
}

fn ids(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.id).collect()
}

/// What delivery does when all is done: the trigger's cursor stands at this moment.
async fn catch_up(worker: &Worker, leases: &[Lease]) {
    let now = worker.pulse().await.unwrap().now;
    let cursor = Cursor { from: now, to: None, after: 0, done: Vec::new() };
    for subscription in worker.subscriptions().await.unwrap().0 {
        worker.commit(leases, &[Move { subscription: subscription.id, cursor: cursor.clone() }], &[]).await.unwrap();
    }
}

async fn with_worker() -> (Database, Admin, Worker, Vec<Lease>) {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let worker = database.worker().await;
    let leases = worker.take("test", Slot::all(), Duration::from_mins(1)).await.unwrap();
    (database, admin, worker, leases)
}

#[tokio::test]
async fn a_long_window_is_paged_in_order_and_may_be_entered_anywhere() {
    let (database, _admin, worker, _) = with_worker().await;
    let start = worker.pulse().await.unwrap().now;
    let long = database.another().await;
    long.batch_execute("BEGIN; INSERT INTO orders SELECT generate_series(1, 250)").await.unwrap();
    database.run("INSERT INTO orders SELECT generate_series(1001, 1730)").await;
    let middle = worker.pulse().await.unwrap().now;
    long.batch_execute("INSERT INTO orders SELECT generate_series(251, 500); COMMIT").await.unwrap();
    database.run("UPDATE orders SET status = 'x' WHERE id <= 20").await;
    let end = worker.pulse().await.unwrap().now;
    assert_eq!(ids(&all(&worker, &start, &middle).await), (251..=980).collect::<Vec<_>>());
    let late: Vec<i64> = (1..=250).chain(981..=1250).collect();
    assert_eq!(ids(&all(&worker, &middle, &end).await), late);
    assert_eq!(ids(&all(&worker, &start, &end).await), (1..=1250).collect::<Vec<_>>());
    // As after a restart: no page before it was read.
    let entered = worker.window(&start, &end, 777, PAGE).await.unwrap();
    assert_eq!(ids(&entered), (778..=877).collect::<Vec<_>>());
    // Two readers of the same window, one behind the other.
    let again = worker.window(&start, &end, 777, PAGE).await.unwrap();
    let on = worker.window(&start, &end, 877, PAGE).await.unwrap();
    assert_eq!((ids(&again), ids(&on)), ((778..=877).collect(), (878..=977).collect()));
}

#[tokio::test]
async fn a_page_that_was_asked_for_ahead_of_time_is_left_where_larger_events_or_a_smaller_page_come_between() {
    let (database, _admin, worker, _) = with_worker().await;
    let start = worker.pulse().await.unwrap().now;
    // Of the large ones a page has some 200.
    database
        .run(
            "INSERT INTO orders SELECT n, CASE WHEN n BETWEEN 1701 AND 2300 THEN repeat('x', 20000) END
             FROM generate_series(1, 4000) AS n",
        )
        .await;
    let end = worker.pulse().await.unwrap().now;
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    loop {
        let after = seen.last().copied().unwrap_or(0);
        let small = seen.len() > 3300 && !pages.contains(&10);
        let most = if small { Most { events: 10, ..Most::PAGE } } else { Most::PAGE };
        let page = worker.page(&start, &end, after, most, &Arc::default()).await.unwrap();
        seen.extend(ids(&page.events));
        let rows = page.events.iter().filter_map(|event| event.new.as_ref());
        let bytes: usize = rows.map(String::len).sum();
        assert!(page.events.len() <= most.events && bytes <= 4 << 20, "{} events, {bytes} bytes", page.events.len());
        pages.push(page.events.len());
        if page.ends {
            break;
        }
    }
    assert_eq!(seen, (1..=4000).collect::<Vec<_>>(), "{pages:?}");
    assert!(pages[3] > 200 && pages[3] < 500, "the first page with large ones was cut: {pages:?}");
}

#[tokio::test]
async fn captures_that_a_reader_does_not_need_are_left_out_of_its_pages() {
    let (database, admin, worker, _) = with_worker().await;
    database.run("CREATE TABLE returns (id int PRIMARY KEY)").await;
    let returns = TableName { name: Ident::new("returns"), ..orders() };
    admin.install("u2", &everything("returns", returns)).await.unwrap();
    let start = worker.pulse().await.unwrap().now;
    let late = database.another().await;
    let both = |from: i32, to: i32| {
        format!(
            "INSERT INTO orders SELECT generate_series({from}, {to}); INSERT INTO returns SELECT generate_series({from}, {to});"
        )
    };
    late.batch_execute(&format!("BEGIN; {}", both(1, 10))).await.unwrap();
    database.run(&both(11, 200)).await;
    let middle = worker.pulse().await.unwrap().now;
    late.batch_execute("COMMIT").await.unwrap();
    database.run(&both(201, 300)).await;
    let end = worker.pulse().await.unwrap().now;
    let captures = worker.subscriptions().await.unwrap().1;
    let of = |table: &str| captures.iter().find(|one| one.table.name.as_str() == table).expect("a capture").id;
    let (orders, returns) = (of("orders"), of("returns"));
    let page = async |from: &Snapshot, after, without: &[i32]| {
        let most = Most { events: PAGE, bytes: u64::MAX };
        let page = worker.page(from, &end, after, most, &Arc::new(without.iter().copied().collect())).await.unwrap();
        (page.events.iter().map(|event| (event.id, event.capture)).collect::<Vec<_>>(), page.ends)
    };
    // What it is alone with; by one page and by several.
    for (only, without) in [(orders, returns), (returns, orders)] {
        let (mut after, mut events) = (0, Vec::new());
        loop {
            let (next, ends) = page(&start, after, &[without]).await;
            events.extend(next);
            after = events.last().expect("events").0;
            if ends {
                break;
            }
        }
        assert_eq!((events.len(), events.iter().filter(|event| event.1 == only).count()), (300, 300));
        assert!(events.is_sorted());
        let (rest, _) = page(&middle, 0, &[without]).await;
        assert_eq!(
            (rest.len(), rest.iter().filter(|event| event.1 == only).count()),
            (100, 100),
            "110, of which a page"
        );
    }
    assert_eq!(page(&start, 0, &[orders, returns]).await, (Vec::new(), true));
    // Who needs something else does not go on with what another has sifted.
    let mut after = 0;
    for _ in 0..2 {
        after = page(&start, after, &[returns]).await.0.last().expect("events").0;
    }
    let (whole, _) = page(&start, after, &[]).await;
    assert!(whole.iter().any(|event| event.1 == returns));
    let (on, _) = page(&start, after, &[orders]).await;
    assert!(on.iter().all(|event| event.1 == returns));
}

#[tokio::test]
async fn segments_are_cut_under_writers_and_readers_and_nothing_is_lost() {
    let (database, admin, worker, _) = with_worker().await;
    let start = worker.pulse().await.unwrap().now;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (client, done) = (database.another().await, done.clone());
        writers.push(tokio::spawn(async move {
            let mut rows = 0;
            while !done.load(Ordering::Relaxed) {
                let id = writer * 1_000_000 + rows;
                client
                    .batch_execute(&format!("BEGIN; INSERT INTO orders VALUES ({id}); UPDATE orders SET status = 'x' WHERE id = {id}; COMMIT"))
                    .await
                    .unwrap();
                rows += 1;
            }
            rows
        }));
    }
    let (mut from, mut read) = (start, Vec::new());
    while numbers(&database).await.len() < 9 {
        admin.tend(&CUT).await.unwrap();
        let to = worker.pulse().await.unwrap().now;
        read.extend(all(&worker, &from, &to).await);
        from = to;
    }
    done.store(true, Ordering::Relaxed);
    let mut rows = 0;
    for writer in writers {
        rows += writer.await.unwrap();
    }
    let to = worker.pulse().await.unwrap().now;
    read.extend(all(&worker, &from, &to).await);
    let mut numbers = ids(&read);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((numbers.len(), read.len()), (rows * 2, rows * 2));
}

#[tokio::test]
async fn a_segment_goes_when_its_time_is_over_and_every_trigger_has_had_it() {
    let (database, admin, worker, leases) = with_worker().await;
    database.run("INSERT INTO orders VALUES (1)").await;
    seal(&database, &admin, 1).await;
    let holding = admin.tend(&AT_ONCE).await.unwrap();
    assert_eq!((holding.held_by, holding.segments), (Some(ObjectName::new("shop", "all")), 2));
    catch_up(&worker, &leases).await;
    let holding = tend_until(&database, &admin, &AT_ONCE, &[2]).await;
    assert_eq!((holding.held_by, holding.segments, holding.lost.len()), (None, 1, 0));
    // The worker reads on, though segment 1 is gone.
    let from = worker.pulse().await.unwrap().now;
    database.run("INSERT INTO orders VALUES (2)").await;
    let to = worker.pulse().await.unwrap().now;
    assert_eq!(ids(&all(&worker, &from, &to).await), [2]);
}

#[tokio::test]
async fn a_transaction_without_an_event_that_a_cursor_saw_running_holds_nothing() {
    let (database, admin, worker, leases) = with_worker().await;
    let idle = database.another().await;
    idle.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    database.run("INSERT INTO orders VALUES (1)").await;
    catch_up(&worker, &leases).await;
    idle.batch_execute("COMMIT").await.unwrap();
    tend_until(&database, &admin, &AT_ONCE, &[2]).await;
}

#[tokio::test]
async fn a_segment_is_not_sealed_while_a_transaction_may_still_write_it() {
    let (database, admin, worker, leases) = with_worker().await;
    let start = worker.pulse().await.unwrap().now;
    let (writer, prepared, idle) = (database.another().await, database.another().await, database.another().await);
    let late = format!("late_{}", database.config.dbname);
    writer.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    let prepare = format!("BEGIN; INSERT INTO orders VALUES (2); PREPARE TRANSACTION '{late}'");
    prepared.batch_execute(&prepare).await.unwrap();
    idle.batch_execute("BEGIN; SELECT 1").await.unwrap();
    database.run("INSERT INTO orders VALUES (3)").await;
    let tended = async || {
        for _ in 0..3 {
            admin.tend(&AT_ONCE).await.unwrap();
        }
        is_sealed(&database, 1).await
    };
    catch_up(&worker, &leases).await;
    assert!(!tended().await, "three transactions may write it");
    writer.batch_execute("COMMIT").await.unwrap();
    assert!(!tended().await, "two transactions may write it");
    idle.batch_execute("COMMIT").await.unwrap();
    assert!(!tended().await, "the prepared transaction has written it");
    prepared.batch_execute(&format!("COMMIT PREPARED '{late}'")).await.unwrap();
    seal(&database, &admin, 1).await;
    admin.tend(&AT_ONCE).await.unwrap();
    assert_eq!(numbers(&database).await, [1, 2], "the late ones were not delivered yet");
    let now = worker.pulse().await.unwrap().now;
    assert_eq!(ids(&all(&worker, &start, &now).await), [1, 2, 3]);
}

#[tokio::test]
async fn neither_cutting_nor_dropping_waits_for_a_writer_or_makes_one_wait() {
    let (database, admin, worker, leases) = with_worker().await;
    database.run("INSERT INTO orders VALUES (1)").await;
    let (writer, reader) = (database.another().await, database.another().await);
    writer.batch_execute("SET lock_timeout = '1ms'; BEGIN; INSERT INTO orders VALUES (2)").await.unwrap();
    admin.tend(&CUT).await.unwrap();
    writer.batch_execute("INSERT INTO orders VALUES (3); COMMIT").await.unwrap();
    seal(&database, &admin, 1).await;
    catch_up(&worker, &leases).await;
    // Somebody reads the whole log for an hour; meanwhile nothing is dropped, and writers go on.
    reader.batch_execute("BEGIN; SELECT count(*) FROM eventlog.events").await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO orders VALUES (4)").await.unwrap();
    admin.tend(&AT_ONCE).await.unwrap();
    assert!(numbers(&database).await.contains(&1));
    writer.batch_execute("INSERT INTO orders VALUES (5)").await.unwrap();
    reader.batch_execute("COMMIT").await.unwrap();
    // The writer's transaction is still open.
    let deadline = Instant::now() + Duration::from_secs(20);
    while numbers(&database).await.contains(&1) {
        admin.tend(&AT_ONCE).await.unwrap();
        assert!(Instant::now() < deadline, "waited for segment 1 to be dropped");
    }
    writer.batch_execute("INSERT INTO orders VALUES (6); COMMIT").await.unwrap();
}

#[tokio::test]
async fn beyond_the_limit_a_slow_triggers_events_go_and_it_is_written_down_how_many() {
    let (database, admin, worker, leases) = with_worker().await;
    catch_up(&worker, &leases).await;
    database.run("INSERT INTO orders SELECT generate_series(1, 700)").await;
    seal(&database, &admin, 1).await;
    let within = Retention { max_held_size: Some(1 << 40), ..AT_ONCE };
    let holding = admin.tend(&within).await.unwrap();
    assert_eq!((holding.held_by, holding.lost), (Some(ObjectName::new("shop", "all")), vec![]));
    let beyond = Retention { max_held_size: Some(1), ..AT_ONCE };
    let holding = tend_until(&database, &admin, &beyond, &[2]).await;
    assert_eq!(holding.lost, [(ObjectName::new("shop", "all"), 700)]);
}

#[tokio::test]
async fn what_was_filled_before_a_cut_that_broke_off_is_pointed_on_by_the_next() {
    let (database, admin, _, _) = with_worker().await;
    // A controller dies after the new segment was made.
    database.run("SELECT eventlog.add_segment(); INSERT INTO orders VALUES (1)").await;
    assert_eq!(database.logged().await.len(), 1);
    admin.tend(&CUT).await.unwrap();
    database.run("INSERT INTO orders VALUES (2)").await;
    let where_to = "SELECT tableoid::regclass::text FROM eventlog.event ORDER BY id";
    let rows = database.client.query(where_to, &[]).await.unwrap();
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(tables, ["eventlog.event_1", "eventlog.event_2"]);
    // It is no drift.
    assert!(admin.look().await.unwrap().iter().all(|state| state.drift.is_empty()));
    assert!(!admin.install("u1", &everything("all", orders())).await.unwrap().changed);
}

#[tokio::test]
async fn drift_that_came_before_a_cut_is_still_seen_after_it() {
    let (database, admin, _, _) = with_worker().await;
    database.run("INSERT INTO orders VALUES (1); ALTER TABLE orders DISABLE TRIGGER \"00_eventlog_delete\"").await;
    admin.tend(&CUT).await.unwrap();
    assert_eq!(numbers(&database).await.len(), 2);
    assert_eq!(admin.look().await.unwrap()[0].drift, ["SQL trigger 00_eventlog_delete was disabled"]);
}

#[tokio::test]
async fn the_view_tells_people_who_changed_what() {
    let (database, admin, _, _) = with_worker().await;
    let mut paid = everything("paid", orders());
    paid.on.insert = false;
    admin.install("u2", &paid).await.unwrap();
    database.run("INSERT INTO orders VALUES (7, 'new'); UPDATE orders SET status = 'paid'; DELETE FROM orders").await;
    admin.remove(&paid.trigger).await.unwrap();
    let rows = database
        .client
        .query(
            "SELECT concat_ws(' ', op, table_schema, table_name, key, coalesce(old ->> 'status', '-'), coalesce(new ->> 'status', '-'), triggers)
             FROM eventlog.events WHERE \"time\" > now() - interval '1 hour' AND txid IS NOT NULL ORDER BY id",
            &[],
        )
        .await
        .unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        lines,
        [
            r#"INSERT public orders { "id" : 7 } - new {shop/all}"#,
            r#"UPDATE public orders { "id" : 7 } new paid {shop/all,shop/paid}"#,
            r#"DELETE public orders { "id" : 7 } paid - {shop/all,shop/paid}"#,
        ]
    );
}
