//! `probe`: asks a URL whether all is well. For `helm test`, and for images that hold nothing but this program.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, Error as HttpError},
    rt::TokioExecutor,
};
use tokio::time::{Instant, sleep, timeout};

/// Bytes that an answer is read up to: what readiness says is a line.
const ANSWER: usize = 4096;
/// Between two of several questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Ample for a probe, which is answered from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of `eventtrigger probe`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProbeOptions {
    /// What to get, such as <http://127.0.0.1:8080/readyz>.
    pub url: Uri,
    /// Ask again and again until all is well, for as long as this, such as 30s. Default: once.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", value_name = "DURATION")]
    pub within: Duration,
}

/// Why all is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers.
    #[error("failed to get {url}")]
    Connect {
        /// What was asked for.
        url: Uri,
        /// Why.
        source: HttpError,
    },
    /// Nobody answers in time.
    #[error("no answer from {url} within {PATIENCE:?}")]
    Timeout {
        /// What was asked for.
        url: Uri,
    },
    /// The answer breaks off.
    #[error("failed to read the answer of {url}")]
    Read {
        /// What was asked for.
        url: Uri,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answers that all is not well.
    #[error("{url} answers {status}: {text}")]
    Refused {
        /// What was asked for.
        url: Uri,
        /// Its status.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// The answer could not be printed.
    #[error("failed to print the answer")]
    Print(#[source] io::Error),
}

/// Prints what a URL answers; fails unless that is a success (2xx).
pub async fn probe(ProbeOptions { url, within }: ProbeOptions, out: &mut impl io::Write) -> Result<(), ProbeError> {
    let end = Instant::now() + within;
    loop {
        match ask(&url).await {
            Ok(text) => return out.write_all(text.as_bytes()).map_err(ProbeError::Print),
            Err(_) if Instant::now() < end => sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// What a URL answers, if that is a success.
async fn ask(url: &Uri) -> Result<String, ProbeError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let ask = async {
        let failed = |source| ProbeError::Connect { url: url.clone(), source };
        let response = client.get(url.clone()).await.map_err(failed)?;
        let status = response.status();
        let text = match Limited::new(response.into_body(), ANSWER).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            // The status is what counts.
            Err(error) if error.is::<LengthLimitError>() => String::new(),
            Err(source) => return Err(ProbeError::Read { url: url.clone(), source }),
        };
        Ok((status, text))
    };
    let (status, text) = timeout(PATIENCE, ask).await.map_err(|_| ProbeError::Timeout { url: url.clone() })??;
    if !status.is_success() {
        return Err(ProbeError::Refused { url: url.clone(), status, text: text.trim().to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server;

    /// What is asked about a process that is ready, or not because of `why`.
    async fn answer(path: &str, why: Option<&'static str>) -> Result<String, ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap()).parse().unwrap();
        let readiness: server::Readiness = Arc::new(move || why.map_or(Ok(()), |why| Err(why.to_owned())));
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, readiness, Arc::new(Registry::default()), stop.clone()));
        let mut out = Vec::new();
        let asked = probe(ProbeOptions { url, within: Duration::ZERO }, &mut out).await;
        stop.cancel();
        asked.map(|()| String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_probe_succeeds_where_all_is_well_and_says_why_where_it_is_not() {
        assert_eq!(answer("/readyz", None).await.unwrap(), "ok\n");
        let refused = answer("/readyz", Some("no database")).await.unwrap_err().to_string();
        assert!(refused.ends_with("/readyz answers 503 Service Unavailable: no database"), "{refused}");
        assert!(answer("/nowhere", None).await.unwrap_err().to_string().contains("404"));
    }

    #[tokio::test]
    async fn a_probe_of_nobody_fails() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = format!("http://{free}/readyz").parse().unwrap();
        let options = ProbeOptions { url, within: Duration::ZERO };
        assert!(matches!(probe(options, &mut Vec::new()).await, Err(ProbeError::Connect { .. })));
    }

    #[tokio::test]
    async fn a_probe_may_wait_for_somebody_to_come() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = format!("http://{free}/readyz").parse().unwrap();
        let mut out = Vec::new();
        let come = async {
            sleep(PAUSE / 2).await;
            let listener = TcpListener::bind(free).await.unwrap();
            let stop = CancellationToken::new();
            server::serve(listener, Arc::new(|| Ok(())), Arc::new(Registry::default()), stop).await
        };
        tokio::select! {
            asked = probe(ProbeOptions { url, within: Duration::from_mins(1) }, &mut out) => asked.unwrap(),
            ended = come => panic!("{ended:?}"),
        }
        assert_eq!(out, b"ok\n");
    }
}
