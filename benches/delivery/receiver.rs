//! Who is posted to: hyper in one thread, answering 204.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::measure;

/// No key is answered with 500.
const NO_KEY: i64 = -1;

/// What has arrived.
#[derive(Default)]
struct Arrivals {
    accepted: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    /// When the first and the last was accepted, in µs since 1970.
    first: AtomicU64,
    last: AtomicU64,
    poisoned: AtomicI64,
    /// From the time in the row, in µs.
    latencies: Mutex<Vec<u64>>,
}

/// A running receiver; it ends when it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    arrivals: Arc<Arrivals>,
    /// Of its thread, for the processor time.
    place: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(crate) fn start() -> Result<Self> {
        let arrivals = Arc::new(Arrivals { poisoned: NO_KEY.into(), ..Arrivals::default() });
        let stop = CancellationToken::new();
        let (sender, started) = mpsc::channel();
        let (shared, stopped) = (arrivals.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await?;
                    let _ = sender.send(Ok((listener.local_addr()?, measure::this_thread()?)));
                    let _ = stopped.run_until_cancelled(serve(listener, shared)).await;
                    Ok(())
                })
            });
            if let Err(error) = served {
                let _ = sender.send(Err(error));
            }
        });
        let (address, place) = started.recv().context("the receiver's thread ended")??;
        Ok(Self { address, arrivals, place, stop, thread: Some(thread) })
    }

    /// Where to post to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers 500 to every event of a key from now on.
    pub(crate) fn poison(&self, key: i64) {
        self.arrivals.poisoned.store(key, Relaxed);
    }

    /// Events that were answered with 204.
    pub(crate) fn accepted(&self) -> u64 {
        self.arrivals.accepted.load(Relaxed)
    }

    /// Events that were answered with 500.
    pub(crate) fn refused(&self) -> u64 {
        self.arrivals.refused.load(Relaxed)
    }

    /// Waits until so many are accepted. Returns whether they were.
    pub(crate) async fn until(&self, accepted: u64, patience: Duration) -> bool {
        let since = Instant::now();
        while self.accepted() < accepted && since.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.accepted() >= accepted
    }

    /// Events a second, from the first to the last that was accepted.
    pub(crate) fn rate(&self) -> f64 {
        self.rate_until(self.arrivals.last.load(Relaxed))
    }

    /// Events a second until so many were accepted; where that does not come about, until now.
    pub(crate) async fn rate_of(&self, accepted: u64, patience: Duration) -> f64 {
        if self.until(accepted, patience).await { self.rate() } else { self.rate_until(now()) }
    }

    fn rate_until(&self, end: u64) -> f64 {
        let Arrivals { accepted, first, .. } = &*self.arrivals;
        float(accepted.load(Relaxed).saturating_sub(1)) / float(end.saturating_sub(first.load(Relaxed)).max(1)) * 1e6
    }

    /// Of a body, in bytes.
    pub(crate) fn mean(&self) -> f64 {
        float(self.arrivals.bytes.load(Relaxed)) / float(self.accepted() + self.refused())
    }

    /// Of its thread, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        measure::cpu_at(&self.place)
    }

    /// Takes away what was recorded: from the time in the row to the arrival, in ms, the least first.
    pub(crate) fn latencies(&self) -> Vec<f64> {
        let mut taken = std::mem::take(&mut *self.arrivals.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        taken.sort_unstable();
        taken.into_iter().map(|latency| float(latency) / 1e3).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, arrivals: Arc<Arrivals>) {
    loop {
        // What cannot be accepted is the client's to notice.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, arrivals.clone()));
    }
}

async fn connection(stream: TcpStream, arrivals: Arc<Arrivals>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, &arrivals));
    // A client that goes away is none of its business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, arrivals: &Arrivals) -> Result<Response<Empty<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Empty::new());
    *response.status_mut() = arrivals.note(&body);
    Ok(response)
}

impl Arrivals {
    fn note(&self, body: &[u8]) -> StatusCode {
        let now = now();
        self.bytes.fetch_add(body.len() as u64, Relaxed);
        let poisoned = self.poisoned.load(Relaxed);
        if poisoned != NO_KEY && number(body, br#""key":"#) == u64::try_from(poisoned).ok() {
            self.refused.fetch_add(1, Relaxed);
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        // A batch is counted by what each of its events begins with.
        let events =
            if body.starts_with(b"[") { memchr::memmem::find_iter(body, br#"{"specversion""#).count() } else { 1 };
        if self.accepted.fetch_add(events as u64, Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
        self.last.store(now, Relaxed);
        if let Some(at) = number(body, br#""at":"#) {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.push(now.saturating_sub(at));
        }
        StatusCode::NO_CONTENT
    }
}

/// In µs since 1970, as the rows have it.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The number after the last place where `name` stands: the row after the change is the last in a body.
fn number(body: &[u8], name: &[u8]) -> Option<u64> {
    let place = body.windows(name.len()).rposition(|window| window == name)?;
    let digits = body[place + name.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A count, for arithmetic with others.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
