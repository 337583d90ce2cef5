//! `deliver` as a process of its own, as the controller starts it.

use std::collections::BTreeMap;

use eventtrigger::{
    delivery::Config,
    log::definition::{Header, HeaderValue, SecretName, Sink},
};

use super::process::{Running, eventtrigger, folder, said, until};
use crate::{
    receiver::Receiver,
    support::{Database, everything, orders, owner, schema},
};

/// An address where nobody listens, for a moment at least.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_worker_delivers_with_the_secrets_of_its_file_answers_probes_and_ends_with_zero() {
    // Of this process, whose client asks the probes.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ((database, admin), receiver, folder) = (Database::with_orders().await, Receiver::start().await, folder());
    let secret = SecretName::new("shop", "billing", "token");
    let header = Header { name: "Authorization".to_owned(), value: HeaderValue::Secret(secret.clone()) };
    let mut definition = everything("all", orders());
    definition.sink = Some(Sink { headers: vec![header], ..Sink::to(receiver.url("/")) });
    admin.install("u1", &definition).await.unwrap();
    let config = Config {
        owner: owner(),
        schema: schema(),
        connection: database.config.clone(),
        secrets: BTreeMap::from([(secret, "Bearer s3cret".to_owned())]),
    };
    let file = folder.path().join("delivery.json");
    std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
    let address = free_address();
    let loopback = "--allow-addresses=127.0.0.0/8";
    let args = ["deliver", "--config", file.to_str().unwrap(), "--listen", &address, loopback];
    let worker = Running::start(&mut eventtrigger(&args), folder.path());
    let get = async |path: &str| match reqwest::get(format!("http://{address}{path}")).await {
        Ok(response) => (response.status().as_u16(), response.text().await.unwrap()),
        Err(_) => (0, String::new()),
    };
    until("the worker to be ready", 200, async || get("/readyz").await.0).await;
    assert_eq!(get("/livez").await.0, 200);
    database.run("INSERT INTO orders VALUES (1, 'new', 1, 'x')").await;
    let hits = receiver.until("the insert", |hits| hits.len() == 1).await;
    assert_eq!(hits[0].header("authorization"), "Bearer s3cret");
    let delivered = "eventtrigger_events_delivered_total{namespace=\"shop\",trigger=\"all\"} 1\n";
    until("the metric", true, async || get("/metrics").await.1.contains(delivered)).await;
    // More is said from now on, but nothing that is secret.
    let put = async |level: &'static str| {
        let request = reqwest::Client::new().put(format!("http://{address}/loglevel")).body(level);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((put("loud").await, put("trace").await), (400, 200));
    database.run("INSERT INTO orders SELECT n, 'new', 1, 'x' FROM generate_series(2, 5000) n").await;
    receiver.until("a backlog", |hits| hits.len() == 5000).await;
    let said = worker.stderr();
    assert!(said.contains("DEBUG") && said.contains("listing a long window"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(worker.signal("-TERM").await.code(), Some(0));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_refused_without_repeating_it() {
    let folder = folder();
    let file = folder.path().join("delivery.json");
    std::fs::write(&file, "{\"owner\": \"s3cret\"}").unwrap();
    let args = ["deliver", "--config", file.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let (code, _, stderr) = said(&mut eventtrigger(&args)).await;
    let expected = format!(
        "eventtrigger: the configuration {} is not as the controller writes it (line 1, column 18)\n",
        file.display()
    );
    assert_eq!((code, stderr), (Some(1), expected));
}
