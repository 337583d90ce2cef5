//! Events that were given up: how long they are kept, and where else they go.

use std::time::Duration;

use eventtrigger::log::Retention;

use crate::{
    delivery::{Running, trigger},
    receiver::{Receiver, Reply},
    support::Database,
};

async fn letters(database: &Database) -> Vec<i64> {
    let rows = database.client.query("SELECT event_id FROM eventlog.dead_letter ORDER BY 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn dead_letters_go_when_their_period_is_over_but_not_those_that_somebody_still_waits_for() {
    let (database, admin) = Database::with_orders().await;
    let receiver = Receiver::start().await;
    admin.install("u1", &trigger("all", receiver.url("/"))).await.unwrap();
    receiver.reply(|_, _| Reply::now(422));
    let mut worker = Running::start(&database);
    database.run("INSERT INTO orders SELECT generate_series(1, 1500)").await;
    worker.caught_up().await;
    worker.stop().await;
    let age = "UPDATE eventlog.dead_letter SET at = now() - interval '1 day' WHERE event_id > 1";
    database.run(age).await;
    database.run("UPDATE eventlog.dead_letter SET redrive = true WHERE event_id = 2").await;
    database.run("UPDATE eventlog.dead_letter SET forward = 'http://a/' WHERE event_id = 3").await;
    admin.tend(&Retention::default()).await.unwrap();
    assert_eq!(letters(&database).await.len(), 1500, "kept until somebody says otherwise");
    let hour = Retention { dead_letter_period: Some(Duration::from_hours(1)), ..Retention::default() };
    admin.tend(&hour).await.unwrap();
    assert_eq!(letters(&database).await, [1, 2, 3]);
}
