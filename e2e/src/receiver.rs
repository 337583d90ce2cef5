//! An HTTP server that records every request it gets, and answers as it is told on a second port.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderValue, Response, StatusCode, header::RETRY_AFTER},
    routing::get,
};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::{
    behaviour::Behaviour,
    record::{Count, Record, Records, now_us},
};

/// Largest body that is taken; larger ones are answered with 413.
const BODY_LIMIT: usize = 8 << 20;
/// Records of one answer of `GET /records`.
const PAGE: usize = 10_000;

/// The receiver's memory, shared by both ports.
#[derive(Clone, Debug)]
pub struct Receiver {
    state: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    behaviour: Behaviour,
    /// Requests that the behaviour concerned, since it was told.
    concerned: u64,
}

impl Receiver {
    /// Remembers at most `memory` bytes of requests.
    pub fn new(memory: usize) -> Self {
        let inner = Inner { records: Records::new(memory), behaviour: Behaviour::default(), concerned: 0 };
        Self { state: Arc::new(Mutex::new(inner)) }
    }

    /// Takes any request to any path on `listener`, until the process or the task ends.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        axum::serve(listener, Router::new().fallback(receive).with_state(self.clone())).await
    }

    /// Takes orders on `listener`: `GET /records?since=N&limit=N`, `DELETE /records`, `GET /count`, `GET` and `PUT
    /// /behaviour`.
    pub async fn serve_control(&self, listener: TcpListener) -> io::Result<()> {
        let routes = Router::new()
            .route("/records", get(records).delete(forget))
            .route("/count", get(count))
            .route("/behaviour", get(behaviour).put(behave))
            .with_state(self.clone());
        axum::serve(listener, routes).await
    }

    /// Starts both on free ports of the loopback; returns where they are.
    pub async fn start(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let (listener, control) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let addresses = (listener.local_addr()?, control.local_addr()?);
        let (receiver, controlled) = (self.clone(), self.clone());
        tokio::spawn(async move { receiver.serve(listener).await });
        tokio::spawn(async move { controlled.serve_control(control).await });
        Ok(addresses)
    }

    /// Answers in this way from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut inner = self.inner();
        inner.behaviour = behaviour;
        inner.concerned = 0;
    }

    /// Records with a number above `seq`, at most `limit` of them.
    pub fn since(&self, seq: u64, limit: usize) -> Vec<Record> {
        self.inner().records.since(seq, limit)
    }

    /// How many requests there were.
    pub fn count(&self) -> Count {
        self.inner().records.count()
    }

    /// The lock is held for a few copies only, and nothing in between panics.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, None);
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let todo = {
        let mut inner = receiver.inner();
        let todo = if inner.behaviour.concerns(&path) {
            inner.concerned += 1;
            inner.behaviour.answer(inner.concerned)
        } else {
            Behaviour::default().answer(1)
        };
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        inner.records.add(Record {
            seq: 0,
            at_us: now_us(),
            method: head.method.to_string(),
            path,
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
            status: todo.status,
        });
        todo
    };
    tokio::time::sleep(todo.delay).await;
    match todo.status {
        Some(status) => answer(StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT), todo.retry_after),
        None => std::future::pending().await,
    }
}

fn answer(status: StatusCode, retry_after: Option<String>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Some(value) = retry_after.and_then(|value| HeaderValue::from_str(&value).ok()) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
}

async fn records(State(receiver): State<Receiver>, Query(page): Query<Page>) -> Json<Vec<Record>> {
    Json(receiver.since(page.since, page.limit.unwrap_or(PAGE)))
}

async fn forget(State(receiver): State<Receiver>) -> StatusCode {
    receiver.inner().records.clear();
    StatusCode::NO_CONTENT
}

async fn count(State(receiver): State<Receiver>) -> Json<Count> {
    Json(receiver.count())
}

async fn behaviour(State(receiver): State<Receiver>) -> Json<Behaviour> {
    Json(receiver.inner().behaviour.clone())
}

async fn behave(State(receiver): State<Receiver>, Json(behaviour): Json<Behaviour>) -> StatusCode {
    receiver.behave(behaviour);
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::Control;

    async fn started() -> (String, Control) {
        let (listen, control) = Receiver::new(1 << 20).start().await.unwrap();
        (format!("http://{listen}/hooks/orders?a=b"), Control::new(format!("http://{control}")).unwrap())
    }

    fn client() -> reqwest::Client {
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().unwrap()
    }

    #[tokio::test]
    async fn a_request_is_recorded_as_it_came() {
        let (url, control) = started().await;
        let answer = client().post(url).header("Ce-Id", "x-1").body("{\"new\":1}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let records = control.since(0).await.unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].method.as_str(), records[0].path.as_str()), ("POST", "/hooks/orders?a=b"));
        assert_eq!(records[0].header("ce-id"), Some("x-1"));
        assert_eq!((records[0].body.as_str(), records[0].status), ("{\"new\":1}", Some(200)));
        assert!(now_us() - records[0].at_us < 10_000_000);
    }

    #[tokio::test]
    async fn it_fails_as_told_and_recovers() {
        let (url, control) = started().await;
        let told = r#"{"status":429,"retryAfter":"7","failFirst":1}"#;
        control.behave(&serde_json::from_str(told).unwrap()).await.unwrap();
        let client = client();
        let answer = client.post(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &HeaderValue::from_static("7")));
        assert_eq!(client.post(&url).send().await.unwrap().status(), 200);
        assert_eq!(control.count().await.unwrap(), Count { received: 2, accepted: 1, dropped: 0 });
        control.clear().await.unwrap();
        assert_eq!(control.count().await.unwrap(), Count::default());
    }

    #[tokio::test]
    async fn a_hanging_request_times_out_and_is_recorded_without_an_answer() {
        let (url, control) = started().await;
        control.behave(&serde_json::from_str(r#"{"hang":true}"#).unwrap()).await.unwrap();
        assert!(client().post(url).timeout(Duration::from_millis(200)).send().await.unwrap_err().is_timeout());
        let records = control.since(0).await.unwrap();
        assert_eq!((records.len(), records[0].status), (1, None));
    }

    #[tokio::test]
    async fn a_misspelt_order_is_refused_by_name() {
        let (_, control) = started().await;
        let url = format!("{}/behaviour", control.base());
        let request = client().put(url).header("content-type", "application/json").body(r#"{"stauts":500}"#);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 422);
        assert!(answer.text().await.unwrap().contains("stauts"));
    }
}
