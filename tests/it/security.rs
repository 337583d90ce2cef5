//! Sinks that ask who calls, and that are asked who they are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use eventtrigger::log::definition::{Auth, ClientCredentials, HeaderValue, SecretName, Sink};
use http::{StatusCode, Version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rstest::rstest;
use rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::pem::PemObject as _, server::WebPkiClientVerifier};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    delivery::{Running, config, trigger},
    receiver::{Receiver, Reply},
    support::Database,
};

fn named(key: &str) -> SecretName {
    SecretName::new("shop", "partner", key)
}

/// Delivers one insertion to a sink.
async fn deliver(sink: Sink, secrets: &[(&str, &str)]) -> (Database, Running) {
    let (database, admin) = Database::with_orders().await;
    let mut definition = trigger("all", sink.url.clone());
    definition.sink = Some(sink);
    admin.install("u1", &definition).await.unwrap();
    let mut config = config(&database);
    config.secrets.extend(secrets.iter().map(|(key, value)| (named(key), (*value).to_owned())));
    let worker = Running::with(config, Duration::from_secs(10));
    database.run("INSERT INTO orders VALUES (1)").await;
    (database, worker)
}

/// An authority, and what it signed.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, from)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A sink at localhost over TLS that wants a certificate of `authority`'s; tells which version of HTTP each request has.
async fn secured(authority: &Authority, protocols: &[&str]) -> (String, mpsc::UnboundedReceiver<Version>) {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let (certificate, key) = authority.sign("localhost");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", tcp.local_addr().unwrap().port());
    let (sender, receiver) = mpsc::unbounded_channel();
    let app = Router::new().fallback(async move |version: Version, _: String| {
        let _ = sender.send(version);
        StatusCode::NO_CONTENT
    });
    tokio::spawn(async move { axum::serve(Tls { tcp, acceptor: Arc::new(config).into() }, app).await });
    (url, receiver)
}

#[rstest]
#[case::both(&["h2", "http/1.1"], Version::HTTP_2)]
#[case::the_old_one(&["http/1.1"], Version::HTTP_11)]
#[case::none(&[], Version::HTTP_11)]
#[tokio::test]
async fn a_sink_of_a_private_authority_gets_our_certificate_by_the_protocol_that_it_offers(
    #[case] protocols: &[&str],
    #[case] version: Version,
) {
    let authority = Authority::new();
    let (url, mut requests) = secured(&authority, protocols).await;
    let (certificate, key) = authority.sign("eventtrigger");
    let auth = Auth::Certificate { certificate: named("tls.crt"), key: named("tls.key") };
    let authorities = vec![HeaderValue::Literal(authority.pem.clone())];
    let sink = Sink { url, auth: Some(auth), authorities, ..Sink::default() };
    let (_database, worker) = deliver(sink, &[("tls.crt", &certificate), ("tls.key", &key)]).await;
    let seen = tokio::time::timeout(Duration::from_secs(30), requests.recv()).await.expect("waited for the request");
    assert_eq!(seen, Some(version));
    worker.stop().await;
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// We trust the public authorities only.
    NotTrusted,
    /// We show no certificate.
    Anonymous,
    /// We show one that the sink's authority did not sign.
    Stranger,
}

#[rstest]
#[tokio::test]
async fn without_trust_on_either_side_nothing_is_sent(
    #[values(Fault::NotTrusted, Fault::Anonymous, Fault::Stranger)] fault: Fault,
) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (url, mut requests) = secured(&authority, &["h2"]).await;
    let (certificate, key) = if matches!(fault, Fault::Stranger) { &stranger } else { &authority }.sign("eventtrigger");
    let auth = Auth::Certificate { certificate: named("tls.crt"), key: named("tls.key") };
    let sink = Sink {
        url,
        auth: (!matches!(fault, Fault::Anonymous)).then_some(auth),
        authorities: match fault {
            Fault::NotTrusted => Vec::new(),
            _ => vec![HeaderValue::Literal(authority.pem.clone())],
        },
        ..Sink::default()
    };
    let (_database, mut worker) = deliver(sink, &[("tls.crt", &certificate), ("tls.key", &key)]).await;
    worker.until("a failed attempt", |progress| progress.attempts > 0).await;
    worker.stop().await;
    assert!(requests.try_recv().is_err());
}

/// What an authorization server is asked, and how often.
#[derive(Clone)]
struct Server {
    asked: Arc<AtomicUsize>,
    requests: mpsc::UnboundedSender<(HeaderMap, String)>,
    /// So many requests are refused first.
    refusals: usize,
}

async fn authorization_server(refusals: usize) -> (String, mpsc::UnboundedReceiver<(HeaderMap, String)>) {
    let (requests, receiver) = mpsc::unbounded_channel();
    let server = Server { asked: Arc::default(), requests, refusals };
    let answer = async |State(server): State<Server>, headers: HeaderMap, body: String| {
        let number = server.asked.fetch_add(1, Ordering::SeqCst);
        let _ = server.requests.send((headers, body));
        if number < server.refusals {
            return (StatusCode::UNAUTHORIZED, r#"{"error": "invalid_client"}"#.to_owned());
        }
        let token = format!("token-number-{}", number - server.refusals);
        (StatusCode::OK, format!(r#"{{"access_token": "{token}", "token_type": "Bearer", "expires_in": 3600}}"#))
    };
    let app = Router::new().route("/token", post(answer)).with_state(server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, receiver)
}

fn client(token_url: String) -> Auth {
    Auth::OAuth2(ClientCredentials {
        token_url,
        client_id: HeaderValue::Literal("shop".to_owned()),
        client_secret: named("client"),
        scopes: vec!["orders.write".to_owned()],
        audience: None,
    })
}

#[tokio::test]
async fn a_token_is_kept_and_replaced_once_the_sink_refuses_it() {
    let (token_url, mut asked) = authorization_server(0).await;
    let receiver = Receiver::start().await;
    // The first token is revoked after two events.
    let revoked = AtomicUsize::new(0);
    receiver.reply(move |hit, _| {
        let first = hit.header("authorization") == "Bearer token-number-0";
        Reply::now(if first && revoked.fetch_add(1, Ordering::SeqCst) >= 2 { 401 } else { 200 })
    });
    let sink = Sink { url: receiver.url("/"), auth: Some(client(token_url)), ..Sink::default() };
    let (database, mut worker) = deliver(sink, &[("client", "s3cret-of-client")]).await;
    for id in 2..5 {
        receiver.until("the one before", |hits| hits.iter().filter(|hit| hit.status == 200).count() == id - 1).await;
        database.run(&format!("INSERT INTO orders VALUES ({id})")).await;
    }
    let hits = receiver.until("all four", |hits| hits.iter().filter(|hit| hit.status == 200).count() == 4).await;
    let progress = worker.caught_up().await;
    worker.stop().await;
    // The refused one was no attempt of its own.
    assert_eq!((progress.attempts, progress.retries), (4, 0));
    let tokens: Vec<_> = hits.iter().map(|hit| (hit.header("authorization"), hit.status)).collect();
    let (first, second) = ("Bearer token-number-0", "Bearer token-number-1");
    assert_eq!(tokens, [(first, 200), (first, 200), (first, 401), (second, 200), (second, 200)]);
    let (headers, form) = asked.recv().await.unwrap();
    assert_eq!(headers["authorization"], "Basic c2hvcDpzM2NyZXQtb2YtY2xpZW50");
    assert_eq!(form, "grant_type=client_credentials&scope=orders.write");
    assert!(asked.recv().await.is_some() && asked.try_recv().is_err(), "two tokens were needed");
}

#[tokio::test]
async fn while_there_is_no_token_events_wait_and_it_is_said_why_without_a_secret() {
    let (token_url, _asked) = authorization_server(1000).await;
    let receiver = Receiver::start().await;
    let sink = Sink { url: receiver.url("/"), auth: Some(client(token_url)), ..Sink::default() };
    let (database, admin) = Database::with_orders().await;
    let mut definition = trigger("all", receiver.url("/"));
    definition.sink = Some(sink);
    definition.policy.retry = 1;
    admin.install("u1", &definition).await.unwrap();
    let mut config = config(&database);
    config.secrets.insert(named("client"), "s3cret-of-client".to_owned());
    let worker = Running::with(config, Duration::from_secs(10));
    database.run("INSERT INTO orders VALUES (1)").await;
    // Nothing is wrong with the event: it waits, and no retry is spent.
    database.until("an obstacle", "SELECT count(*) = 1 FROM eventlog.obstacle").await;
    worker.stop().await;
    let message: String = database.client.query_one("SELECT message FROM eventlog.obstacle", &[]).await.unwrap().get(0);
    let said = "the token endpoint answered 401 Unauthorized: invalid_client";
    assert!(message.contains(said) && !message.contains("s3cret"), "{message}");
    assert!(receiver.hits().is_empty());
}
