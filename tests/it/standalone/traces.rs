//! What a collector of OpenTelemetry gets.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode as Outcome},
};
use prost::Message as _;
use tokio::net::TcpListener;

use super::process::{eventtrigger, folder, said, url};
use crate::{
    receiver::{Receiver, Reply},
    support::Database,
};

const QUICKSTART: &str = include_str!("../../../config/samples/quickstart.yaml");
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What came, as the protocol says it: a POST of protobuf to /v1/traces.
type Got = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

async fn collect(State(got): State<Got>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!((uri.path(), headers["content-type"].as_bytes()), ("/v1/traces", &b"application/x-protobuf"[..]));
    got.lock().unwrap().push(ExportTraceServiceRequest::decode(body).expect("protobuf"));
    StatusCode::OK
}

/// Starts a collector: where it is, and what it gets.
async fn collector() -> (String, Got) {
    let got = Got::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(collect).with_state(got.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), got)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|found| found.value.as_ref()?.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn each_attempt_is_a_span_below_the_applications_trace_and_above_the_receivers() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let (endpoint, got) = collector().await;
    let traced = QUICKSTART.replace("  sink:\n", "  context: {traceparent: app.traceparent}\n  sink:\n");
    let file = folder.path().join("traced.yaml");
    std::fs::write(&file, traced).unwrap();
    let (url, service) = (url(&database.config), format!("orders-receiver.shop={}", receiver.url("/in?token=s3cret")));
    let file = file.to_str().unwrap();
    let args = ["run", "-f", file, "--service", &service, "--database-url", &url, "--until-idle"];
    assert_eq!(said(&mut eventtrigger(&args)).await.0, Some(0));
    let header = format!("00-{TRACE}-{PARENT}-01");
    database
        .run(&format!(
            "BEGIN; SELECT set_config('app.traceparent', '{header}', true); INSERT INTO orders VALUES (1); COMMIT"
        ))
        .await;
    receiver.reply(|_, before| Reply::now(if before == 0 { 503 } else { 204 }));
    let traced = async || {
        let mut command = eventtrigger(&args);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        said(&mut command).await
    };
    let (code, stdout, stderr) = traced().await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let requests = std::mem::take(&mut *got.lock().unwrap());
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert_eq!(service.value.clone().unwrap().value, Some(Value::StringValue("eventtrigger".to_owned())));
    let spans = |requests: Vec<ExportTraceServiceRequest>| -> Vec<Span> {
        let all = requests.into_iter().flat_map(|request| request.resource_spans);
        all.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    };
    let spans_of = spans(requests);
    let hits = receiver.hits();
    assert_eq!((spans_of.len(), hits.len()), (2, 2), "{spans_of:#?}");
    for (span, hit) in spans_of.iter().zip(&hits) {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!(span.kind(), SpanKind::Client);
        // The receiver goes on below the attempt; the event still says where it comes from.
        assert_eq!(hit.header("traceparent"), format!("00-{TRACE}-{}-01", hex(&span.span_id)));
        assert_eq!(hit.header("ce-traceparent"), header);
        assert_eq!(attribute(span, "cloudevents.event_id"), hit.id());
        assert_eq!(attribute(span, "eventtrigger.trigger"), "shop/orders");
        assert_eq!(attribute(span, "http.response.status_code"), hit.status.to_string());
        assert!(!format!("{span:?}").contains("s3cret"), "{span:?}");
    }
    let outcomes: Vec<_> = spans_of.iter().map(|span| span.status.clone().unwrap_or_default().code()).collect();
    assert_eq!(outcomes, [Outcome::Error, Outcome::Unset]);

    // One of which the application said nothing begins a trace; one that it does not sample is not sent.
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    database.run("INSERT INTO orders VALUES (2)").await;
    database
        .run(&format!(
            "BEGIN; SELECT set_config('app.traceparent', '{unsampled}', true); INSERT INTO orders VALUES (3); COMMIT"
        ))
        .await;
    receiver.reply(|_, _| Reply::now(204));
    assert_eq!(traced().await.0, Some(0));
    let spans_of = spans(std::mem::take(&mut *got.lock().unwrap()));
    let [span] = &spans_of[..] else { panic!("{spans_of:#?}") };
    assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE);
    let hits = receiver.hits();
    let header = |subject: &str| {
        hits.iter().find(|hit| hit.header("ce-subject") == subject).unwrap().header("traceparent").to_owned()
    };
    assert_eq!(header("public.orders/2"), format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)));
    assert!(
        header("public.orders/3").starts_with(&format!("00-{TRACE}-")) && header("public.orders/3").ends_with("-00")
    );
}

#[tokio::test]
async fn a_collector_that_is_away_delays_no_event() {
    let (database, receiver, folder) = (Database::new().await, Receiver::start().await, folder());
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let file = folder.path().join("quickstart.yaml");
    std::fs::write(&file, QUICKSTART).unwrap();
    let (url, service) = (url(&database.config), format!("orders-receiver.shop={}", receiver.url("/in")));
    let args = ["run", "-f", file.to_str().unwrap(), "--service", &service, "--database-url", &url, "--until-idle"];
    let run = async || {
        let mut command = eventtrigger(&args);
        // Nobody listens there.
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        said(&mut command).await
    };
    assert_eq!(run().await.0, Some(0));
    database.run("INSERT INTO orders SELECT generate_series(1, 100)").await;
    let (code, _, stderr) = run().await;
    assert_eq!((code, receiver.hits().len()), (Some(0), 100), "{stderr}");
    assert_eq!(stderr.matches("the collector takes no spans").count(), 1, "{stderr}");
}
