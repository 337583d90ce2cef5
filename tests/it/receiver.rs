//! A sink in the test's own process: records what it gets, and answers as it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{AppendHeaders, IntoResponse},
};
use tokio::{net::TcpListener, sync::watch};

/// Far more than anything takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A request that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// When it came.
    pub(crate) at: Instant,
    pub(crate) answered: Instant,
    /// What was answered.
    pub(crate) status: u16,
}

impl Hit {
    /// The value of a header; empty if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    pub(crate) fn id(&self) -> &str {
        self.header("ce-id")
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.header("ce-sequence").parse().expect("ce-sequence is a number")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) after: Duration,
    /// The header `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u32>,
}

impl Reply {
    pub(crate) fn now(status: u16) -> Self {
        Self::after(status, Duration::ZERO)
    }

    pub(crate) fn after(status: u16, after: Duration) -> Self {
        Self { status, after, retry_after: None }
    }

    /// Of a receiver that is slow now and then, and fails seldom.
    pub(crate) fn at_random() -> Self {
        match fastrand::u16(0..1000) {
            0..20 => Self::now(500),
            20..200 => Self::after(200, Duration::from_millis(fastrand::u64(1..30))),
            _ => Self::now(200),
        }
    }
}

/// Decides on a request, given how often its event has been answered before.
type Behaviour = Arc<dyn Fn(&Hit, usize) -> Reply + Send + Sync>;

struct Inner {
    behaviour: Mutex<Behaviour>,
    hits: watch::Sender<Vec<Hit>>,
    /// Path and partition key of each request that is under way, and how many began by path.
    open: Mutex<BTreeSet<(String, String)>>,
    begun: watch::Sender<BTreeMap<String, usize>>,
    /// How often each path and id was answered.
    answered: Mutex<BTreeMap<(String, String), usize>>,
    overlaps: Mutex<usize>,
    /// Requests under way, now and at most.
    at_once: Mutex<(usize, usize)>,
    late: Mutex<usize>,
    released: watch::Sender<bool>,
}

pub(crate) struct Receiver {
    inner: Arc<Inner>,
    port: u16,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner {
            behaviour: Mutex::new(Arc::new(|_, _| Reply::now(200))),
            hits: watch::Sender::default(),
            open: Mutex::default(),
            begun: watch::Sender::default(),
            answered: Mutex::default(),
            overlaps: Mutex::default(),
            at_once: Mutex::default(),
            late: Mutex::default(),
            released: watch::Sender::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let app = Router::new().fallback(receive).layer(DefaultBodyLimit::disable()).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { inner, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Answers like this from now on.
    pub(crate) fn reply(&self, behaviour: impl Fn(&Hit, usize) -> Reply + Send + Sync + 'static) {
        *locked(&self.inner.behaviour) = Arc::new(behaviour);
    }

    /// Ends every delay, also of requests to come.
    pub(crate) fn release(&self) {
        self.inner.released.send_replace(true);
    }

    /// Every request that was answered, in that order.
    pub(crate) fn hits(&self) -> Vec<Hit> {
        self.inner.hits.borrow().clone()
    }

    /// How many requests for a path came, answered or not.
    pub(crate) fn begun(&self, path: &str) -> usize {
        self.inner.begun.borrow().get(path).copied().unwrap_or(0)
    }

    /// How often two requests with the same path and partition key were under way together.
    pub(crate) fn overlaps(&self) -> usize {
        *locked(&self.inner.overlaps)
    }

    /// How many requests were answered that nobody waited for any more, at least: later than a timeout of 300 ms.
    pub(crate) fn late(&self) -> usize {
        *locked(&self.inner.late)
    }

    /// How many requests were under way together, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        locked(&self.inner.at_once).1
    }

    /// Waits until so many requests for a path came.
    pub(crate) async fn begins(&self, path: &str, count: usize) {
        let mut begun = self.inner.begun.subscribe();
        let waited = begun.wait_for(|begun| begun.get(path).is_some_and(|begun| *begun >= count));
        tokio::time::timeout(DEADLINE, waited).await.expect("waited for requests to begin").expect("the receiver runs");
    }

    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut(&[Hit]) -> bool) -> Vec<Hit> {
        let mut hits = self.inner.hits.subscribe();
        let waited = tokio::time::timeout(DEADLINE, hits.wait_for(|hits| condition(hits))).await;
        let Ok(found) = waited.map(|found| found.expect("the receiver runs").clone()) else {
            panic!("waited for: {what}; there are {} hits", self.inner.hits.borrow().len());
        };
        found
    }
}

/// A test that failed while it held a lock has said why; the others go on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(State(inner): State<Arc<Inner>>, uri: Uri, headers: HeaderMap, body: String) -> impl IntoResponse {
    let now = Instant::now();
    let mut hit = Hit { path: uri.to_string(), headers, body, at: now, answered: now, status: 0 };
    inner.begun.send_modify(|begun| *begun.entry(hit.path.clone()).or_default() += 1);
    let key = (hit.path.clone(), hit.header("ce-partitionkey").to_owned());
    if !locked(&inner.open).insert(key.clone()) {
        *locked(&inner.overlaps) += 1;
    }
    {
        let mut at_once = locked(&inner.at_once);
        at_once.0 += 1;
        at_once.1 = at_once.1.max(at_once.0);
    }
    let before = locked(&inner.answered).get(&(hit.path.clone(), hit.id().to_owned())).copied().unwrap_or(0);
    let behaviour = locked(&inner.behaviour).clone();
    let reply = behaviour(&hit, before);
    if !reply.after.is_zero() {
        let mut released = inner.released.subscribe();
        let _ = tokio::time::timeout(reply.after, released.wait_for(|released| *released)).await;
    }
    locked(&inner.open).remove(&key);
    locked(&inner.at_once).0 -= 1;
    *locked(&inner.late) += usize::from(hit.at.elapsed() >= Duration::from_millis(300));
    *locked(&inner.answered).entry((hit.path.clone(), hit.id().to_owned())).or_default() += 1;
    hit.status = reply.status;
    hit.answered = Instant::now();
    let answer = format!("got {:?} {}", hit.headers, hit.body);
    inner.hits.send_modify(|hits| hits.push(hit));
    let wait = reply.retry_after.map(|seconds| ("retry-after", seconds.to_string()));
    (StatusCode::from_u16(reply.status).expect("a status"), AppendHeaders(wait), answer)
}
