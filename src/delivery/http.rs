//! The HTTP client: one POST there, the status and the beginning of the answer back.
//!
//! No redirects (a POST would become a GET, and go where nobody has allowed it), no proxies, HTTP/2 where TLS agrees on
//! it, and every address checked at the moment that it is connected to.

use std::{
    error::Error,
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::{
    addresses::{Addresses, Refused},
    fence::{Fence, Fenced},
    tls,
};

/// Shorter than the shortest keep-alive in common use (Node's 5 s): a connection that the sink closes while a request
/// is on its way costs an attempt.
const IDLE: Duration = Duration::from_secs(4);
/// Between pings of an HTTP/2 connection with requests under way: one that is dead would take every later request with it.
const PING: Duration = Duration::from_secs(10);
/// For all addresses of a name together, in equal parts: one that does not answer must not use up the attempt.
const CONNECT: Duration = Duration::from_secs(10);
/// Most of an answer's head, and of what is read ahead of a body: answers are small, connections are many.
const BUFFER: usize = 32 * 1024;

type Failure = Box<dyn Error + Send + Sync>;

/// Connections to the sinks that share TLS settings, one pool for each origin.
pub(super) type Client = legacy::Client<HttpsConnector<Guarded>, Full<Bytes>>;

/// The client of all sinks that have no TLS settings of their own, and what others are made from.
#[derive(Clone)]
pub(super) struct Http {
    common: Client,
    addresses: Arc<Addresses>,
    fence: Fence,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Its beginning.
    pub(super) body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Silence {
    Timeout,
    /// What went wrong, without the URL: that may hold a token.
    Connection(String),
}

impl Http {
    pub(super) fn new(addresses: Addresses) -> Self {
        let (addresses, fence) = (Arc::new(addresses), Fence::new());
        Self { common: client(tls::anonymous(tls::public()), addresses.clone(), fence.clone()), addresses, fence }
    }

    /// Of sinks without TLS settings of their own.
    pub(super) fn common(&self) -> &Client {
        &self.common
    }

    /// Another client, under the same rules.
    pub(super) fn with(&self, tls: ClientConfig) -> Client {
        client(tls, self.addresses.clone(), self.fence.clone())
    }

    /// What all its connections stand behind.
    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }
}

/// Sends a request, and reads the first `most` bytes of the body that comes back, both until `deadline`.
pub(super) async fn exchange(
    client: &Client,
    request: Request<Full<Bytes>>,
    most: usize,
    deadline: Instant,
) -> Result<Answer, Silence> {
    let answer = timeout_at(deadline, client.request(request)).await.map_err(|_| Silence::Timeout)?;
    let (head, mut rest) = answer.map_err(|error| Silence::Connection(explain(&error)))?.into_parts();
    let mut body = Vec::new();
    // Read also after a success: only a connection that is read to the end can be used again. What cannot be read in time
    // is left out: the status is what counts.
    while body.len() < most {
        match timeout_at(deadline, rest.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    body.extend_from_slice(&data[..data.len().min(most - body.len())]);
                }
            }
            Ok(None | Some(Err(_))) | Err(_) => break,
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn client(tls: ClientConfig, addresses: Arc<Addresses>, fence: Fence) -> Client {
    let resolver = Resolver { system: GaiResolver::new(), addresses: addresses.clone() };
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    // TLS goes over it, too.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(Guarded { tcp, addresses, fence });
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(BUFFER)
        .http2_initial_stream_window_size(u32::try_from(BUFFER).unwrap_or(u32::MAX))
        .http2_initial_connection_window_size(u32::try_from(4 * BUFFER).unwrap_or(u32::MAX))
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(connector)
}

/// Connects to addresses that may be connected to. A name's are checked by [`Resolver`], so that what is checked is what
/// is connected to: a name that leads elsewhere a moment later gains nothing.
#[derive(Clone)]
pub(super) struct Guarded {
    tcp: HttpConnector<Resolver>,
    addresses: Arc<Addresses>,
    fence: Fence,
}

impl Service<Uri> for Guarded {
    type Response = Fenced<<HttpConnector<Resolver> as Service<Uri>>::Response>;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Self::Response, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        // Of an address that stands in the URL the resolver is not asked.
        let written = to.host().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        if let Some(Err(refused)) = written.map(|address| self.addresses.check(address)) {
            return std::future::ready(Err(refused.into())).boxed();
        }
        let (connecting, fence) = (self.tcp.call(to), self.fence.clone());
        async move { Ok(Fenced::new(connecting.await?, fence)) }.boxed()
    }
}

/// Looks a name up, and keeps of its addresses those that may be connected to.
#[derive(Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    addresses: Arc<Addresses>,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Self::Response, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.system.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (looking, addresses) = (self.system.call(name), self.addresses.clone());
        async move { Ok(permitted(looking.await?, &addresses)?.into_iter()) }.boxed()
    }
}

/// Those that may be connected to; why not, if there are some and none may.
fn permitted(found: impl Iterator<Item = SocketAddr>, addresses: &Addresses) -> Result<Vec<SocketAddr>, Refused> {
    let mut refused = None;
    let permitted = |address: &SocketAddr| match addresses.check(address.ip()) {
        Ok(()) => true,
        Err(error) => {
            refused.get_or_insert(error);
            false
        }
    };
    let kept: Vec<_> = found.filter(permitted).collect();
    match refused {
        Some(refused) if kept.is_empty() => Err(refused),
        _ => Ok(kept),
    }
}

/// What went wrong, in the words of whoever knows best.
fn explain(error: &legacy::Error) -> String {
    let mut text = if error.is_connect() { "no connection" } else { "no answer" }.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return refused.to_string();
        }
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::delivery::addresses::{AddressOptions, Place};

    fn http(place: Place) -> Http {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Http::new(Addresses::new(place, &AddressOptions::default()))
    }

    async fn post(http: &Http, url: &str) -> Result<Answer, Silence> {
        let request = Request::post(url).body(Full::from("{}")).unwrap();
        exchange(http.common(), request, 4096, Instant::now() + Duration::from_secs(20)).await
    }

    /// A port that nobody listens at for longer than it takes to ask.
    fn closed_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn an_address_is_refused_whether_it_is_written_or_looked_up() {
        let http = http(Place::Cluster);
        let port = closed_port();
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
            let Err(Silence::Connection(why)) = post(&http, &format!("http://{host}:{port}/")).await else {
                panic!("{host} was tried")
            };
            assert!(why.contains("must not be connected to") && why.contains("--allow-addresses"), "{host}: {why}");
        }
    }

    #[tokio::test]
    async fn a_failure_says_what_failed_and_not_where_to() {
        let Err(Silence::Connection(why)) =
            post(&http(Place::Local), &format!("http://127.0.0.1:{}/hook?token=s3cret", closed_port())).await
        else {
            panic!("somebody answered")
        };
        assert!(why.starts_with("no connection: ") && why.contains("refused") && !why.contains("s3cret"), "{why}");
    }

    #[tokio::test]
    async fn nothing_goes_out_once_the_leases_are_over_not_even_by_a_connection_that_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(|| std::future::ready(StatusCode::NO_CONTENT));
        let server = tokio::spawn(async { axum::serve(listener, app).await });
        let http = http(Place::Local);
        http.fence().open_until(Instant::now() + Duration::from_mins(1));
        assert_eq!(post(&http, &url).await.unwrap().status, StatusCode::NO_CONTENT);
        http.fence().open_until(Instant::now());
        let Err(Silence::Connection(why)) = post(&http, &url).await else { panic!("it was sent") };
        assert!(why.contains("leases are over"), "{why}");
        http.fence().open_until(Instant::now() + Duration::from_mins(1));
        assert_eq!(post(&http, &url).await.unwrap().status, StatusCode::NO_CONTENT);
        server.abort();
    }

    #[test]
    fn of_a_names_addresses_those_that_are_refused_are_left_out() {
        let addresses = Addresses::new(Place::Cluster, &AddressOptions::default());
        let found = |text: &str| text.split(' ').map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let kept = permitted(found("127.0.0.1:80 10.0.0.1:80 [::1]:80").into_iter(), &addresses).unwrap();
        assert_eq!(kept, found("10.0.0.1:80"));
        let refused = permitted(found("127.0.0.1:80 [::1]:80").into_iter(), &addresses).unwrap_err();
        assert!(refused.to_string().starts_with("127.0.0.1 "), "{refused}");
    }
}
