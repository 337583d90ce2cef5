//! Roles with as few rights as the documentation says.

use std::{sync::Arc, time::Duration};

use eventtrigger::log::{
    Admin, AdminError, Claim, Cursor, DeadLetter, Definition, Exception, Failure, Move, Retention, Slot, Worker,
    definition::{DeadLetterSink, OwnWorkers, Policy, Sink},
};

use crate::support::{Database, everything, orders, owner, root, schema};

/// The documentation's SQL blocks, for this test's database and roles.
fn script(database: &Database) -> Vec<String> {
    let name = &database.config.dbname;
    let text = include_str!("../../docs/roles.md");
    let blocks = text.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let adapted = |block: &str| {
        block
            .replace("DATABASE shop", &format!("DATABASE {name}"))
            .replace("ROLE app ", &format!("ROLE {name} "))
            .replace("eventtrigger_delivery", &format!("{name}_d"))
            .replace("TO eventtrigger;", &format!("TO {name}_o;"))
            .replace("ROLE eventtrigger ", &format!("ROLE {name}_o "))
            .replace("TO auditor", &format!("TO {name}_a"))
            .replace("change me, too", "secret")
            .replace("change me", "secret")
    };
    blocks.map(adapted).collect()
}

fn as_role(database: &Database, suffix: &str) -> eventtrigger::log::ConnectConfig {
    let user = format!("{}_{suffix}", database.config.user);
    eventtrigger::log::ConnectConfig { user, ..database.config.clone() }
}

async fn client(database: &Database, suffix: &str) -> tokio_postgres::Client {
    crate::support::connect(&crate::support::plain(&as_role(database, suffix))).await
}

#[tokio::test]
async fn roles_with_the_documented_rights_do_all_there_is_to_do() {
    let database = Database::new().await;
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let root = root(&database.config.dbname).await;
    let blocks = script(&database);
    let [operator, workers, audit] = &blocks[..] else { panic!("{blocks:?}") };
    root.batch_execute(operator).await.unwrap();
    root.batch_execute(workers).await.unwrap();

    let (admin, _) = Admin::open(&as_role(&database, "o"), &schema(), &owner()).await.unwrap();
    let install = async |definition: &Definition| admin.install("u", definition).await;
    let forwarded = DeadLetterSink { sink: Sink::to("http://a/"), policy: Policy::default() };
    install(&Definition {
        sink: Some(Sink::to("http://b/")),
        dead_letter_sink: Some(forwarded),
        ..everything("all", orders())
    })
    .await
    .unwrap();
    database.run("CREATE TABLE later (id int PRIMARY KEY)").await;
    let later = everything("later", eventtrigger::name::TableName::new("public", "later"));
    install(&later).await.unwrap();
    admin.remove(&later.trigger).await.unwrap();
    let delivery = as_role(&database, "d");
    assert!(Worker::connect(&delivery, &schema(), &owner().uid).await.is_err(), "it was not granted anything yet");
    admin.allow(&delivery.user).await.unwrap();
    admin.allow(&delivery.user).await.unwrap();
    let missing = admin.allow("nobody there").await.unwrap_err();
    assert!(matches!(missing, AdminError::Invalid(_)), "{missing}");

    // The application's role has no right on the log, and its changes are in it.
    database.run("INSERT INTO orders VALUES (1); UPDATE orders SET status = 'x'").await;
    assert!(database.client.batch_execute("SELECT FROM eventlog.event").await.is_err());
    // A worker delivers, also from a segment that is younger than its rights.
    let worker = Worker::connect(&delivery, &schema(), &owner().uid).await.unwrap();
    let leases = worker.take("test", Slot::all(), Duration::from_mins(1)).await.unwrap();
    worker.survey("test", Duration::from_mins(1)).await.unwrap();
    worker.renew(&leases, Duration::from_mins(1)).await.unwrap();
    let cut = Retention { period: Duration::ZERO, max_size: None, max_held_size: None, dead_letter_period: None };
    admin.tend(&cut).await.unwrap();
    database.run("DELETE FROM orders").await;
    let (subscriptions, _) = worker.subscriptions().await.unwrap();
    let now = worker.pulse().await.unwrap().now;
    let mut events = worker.window(&subscriptions[0].cursor.from, &now, 0, 100).await.unwrap();
    assert_eq!(events.len(), 3);
    let cursor = Cursor { from: now, to: None, after: 0, done: Vec::new() };
    let subscription = subscriptions[0].id;
    let (event, failure) = (Arc::new(events.remove(0)), Failure::default());
    let letter = DeadLetter { subscription, seq: 1, lanes: Vec::new(), event, attempts: 1, failure, parked: false };
    worker.commit(&leases, &[Move { subscription, cursor }], &[Exception::Bury(letter)]).await.unwrap();
    assert_eq!(worker.dead().await.unwrap().len(), 1);
    // What was given up is claimed by one worker at a time, and then forwarded.
    let claim = Claim { each: 1, all: 1, bytes: 1, larger: true, not: Vec::new(), after: 0 };
    let claimed = worker.claim(&claim).await.unwrap().remove(0);
    assert_eq!(claimed.destination, "http://b/");
    assert!(worker.claim(&claim).await.unwrap().is_empty());
    worker.forwarded(&claimed, Some(Duration::ZERO)).await.unwrap();
    // The earlier claim is over, and says nothing any more.
    let again = worker.claim(&claim).await.unwrap().remove(0);
    worker.forwarded(&claimed, Some(Duration::ZERO)).await.unwrap();
    assert!(worker.claim(&claim).await.unwrap().is_empty());
    worker.forwarded(&again, None).await.unwrap();
    assert!(worker.claim(&claim).await.unwrap().is_empty());
    // An EventTrigger goes to workers of its own, and back when there are none.
    let its_own = Definition { own_workers: Some(OwnWorkers::Running), ..everything("all", orders()) };
    install(&its_own).await.unwrap();
    let lease = *leases.iter().find(|lease| lease.slot == Slot::of(subscription)).unwrap();
    let own = Worker::of(&delivery, &schema(), &owner().uid, Some(&its_own.trigger)).await.unwrap();
    own.survey("test", Duration::from_mins(1)).await.unwrap();
    assert_eq!(worker.departing(Duration::from_mins(1)).await.unwrap(), [subscription]);
    assert!(worker.hand_over(subscription, lease).await.unwrap());
    install(&everything("all", orders())).await.unwrap();
    assert!(worker.awaits().await.unwrap() && worker.fetch_over().await.unwrap());
    assert!(!worker.awaits().await.unwrap() && !worker.fetch_over().await.unwrap());
    worker.leave().await.unwrap();
    let delivery = client(&database, "d").await;
    for forbidden in [
        "SELECT FROM orders",
        "INSERT INTO eventlog.event_2 (capture, op, matched) VALUES (1, 'I', B'1')",
        "DELETE FROM eventlog.event",
        "UPDATE eventlog.event SET old = NULL",
        "UPDATE eventlog.trigger SET uid = ''",
        "DELETE FROM eventlog.lost",
    ] {
        assert!(delivery.batch_execute(forbidden).await.is_err(), "{forbidden}");
    }

    root.batch_execute(&format!("CREATE ROLE {}_a LOGIN PASSWORD 'secret'; {audit}", database.config.user))
        .await
        .unwrap();
    let auditor = client(&database, "a").await;
    let seen: i64 = auditor.query_one("SELECT count(*) FROM eventlog.events", &[]).await.unwrap().get(0);
    assert_eq!(seen, 3);
    assert!(auditor.batch_execute("SELECT FROM eventlog.event").await.is_err());
    for role in ["o", "d", "a"] {
        let role = format!("{}_{role}", database.config.user);
        root.batch_execute(&format!(
            "REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        ))
        .await
        .unwrap();
    }
}
