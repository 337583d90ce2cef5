//! The ceiling: clients that post what our worker posts, without a database, without order, without a record of anything.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest::redirect;
use tokio::task::JoinSet;

use crate::{
    measure,
    receiver::{Receiver, float},
};

/// Requests under way.
const IN_FLIGHT: usize = 64;

const BODY: &str = concat!(
    r#"{"op":"UPDATE","table":{"schema":"public","name":"item"},"#,
    r#""old":{"key":12345,"at":1767225600000120,"note":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},"#,
    r#""new":{"key":12345,"at":1767225600000120,"note":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},"txid":"12345"}"#
);
const BARE: [(&str, &str); 1] = [("content-type", "application/json")];
const EVENT: [(&str, &str); 12] = [
    ("content-type", "application/json"),
    ("user-agent", "eventtrigger/0.1.0"),
    ("ce-specversion", "1.0"),
    ("ce-source", "/namespaces/bench/eventlogs/bench"),
    ("ce-eventtrigger", "bench/item"),
    ("ce-id", "6f1c6b1e-8f0e-4d6f-9d0a-0e4d1b0a7c55-123456"),
    ("ce-type", "dev.eventtrigger.row.update"),
    ("ce-subject", "public.item/12345"),
    ("ce-time", "2026-01-01T00:00:00.000120Z"),
    ("ce-sequence", "00000000000000123456"),
    ("ce-partitionkey", "12345"),
    ("accept", "*/*"),
];

/// Which client, and what it sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Raw {
    /// reqwest, as our worker sets it up; all headers of a `CloudEvent`.
    Reqwest,
    /// The same with no header but the body's type.
    Bare,
    /// The client beneath reqwest; all headers of a `CloudEvent`.
    Hyper,
}

impl Raw {
    pub(crate) const ALL: [Self; 3] = [Self::Reqwest, Self::Bare, Self::Hyper];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reqwest => "reqwest",
            Self::Bare => "bare",
            Self::Hyper => "hyper",
        }
    }

    fn headers(self) -> Result<HeaderMap> {
        let all: &[(&str, &str)] = match self {
            Self::Bare => &BARE,
            Self::Reqwest | Self::Hyper => &EVENT,
        };
        all.iter().map(|(name, value)| Ok((name.parse::<HeaderName>()?, HeaderValue::from_static(value)))).collect()
    }

    /// Posts for so long, in a thread of its own; returns the processor time of each post, in µs.
    pub(crate) async fn run(self, receiver: &Receiver, during: Duration) -> Result<f64> {
        let (url, (sender, done)) = (receiver.url(), tokio::sync::oneshot::channel());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let cpu = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(self.post(&url, during))?;
                measure::cpu_at(&measure::this_thread()?)
            });
            let _ = sender.send(cpu);
        });
        let cpu = done.await.context("the client's thread ended")??;
        thread.join().map_err(|_| anyhow!("the client's thread panicked"))?;
        Ok(cpu / float(receiver.accepted()) * 1e6)
    }

    async fn post(self, url: &str, during: Duration) -> Result<()> {
        let end = Instant::now() + during;
        let (url, headers) = (url.parse::<reqwest::Url>()?, self.headers()?);
        let client = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let legacy: Legacy<_, Full<Bytes>> = Legacy::builder(TokioExecutor::new()).build(connector);
        let mut loops = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            match self {
                Self::Reqwest | Self::Bare => {
                    let (client, url, headers) = (client.clone(), url.clone(), headers.clone());
                    loops.spawn(async move {
                        while Instant::now() < end {
                            let request = client.post(url.clone()).headers(headers.clone()).body(BODY);
                            request.send().await?.bytes().await?;
                        }
                        anyhow::Ok(())
                    });
                }
                Self::Hyper => {
                    let (legacy, uri, headers) = (legacy.clone(), url.as_str().parse::<Uri>()?, headers.clone());
                    loops.spawn(async move {
                        while Instant::now() < end {
                            let mut request = Request::new(Full::from(BODY));
                            *request.method_mut() = Method::POST;
                            *request.uri_mut() = uri.clone();
                            *request.headers_mut() = headers.clone();
                            legacy.request(request).await?.into_body().collect().await?;
                        }
                        anyhow::Ok(())
                    });
                }
            }
        }
        while let Some(ended) = loops.join_next().await {
            ended??;
        }
        Ok(())
    }
}
