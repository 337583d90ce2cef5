//! One attempt: a POST and how it ended.

use std::{error::Error as _, fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use reqwest::{Client, Response, redirect};

use super::{retry::Ending, target::Target};

/// Most of a response's body that is read; the rest is not waited for.
const BODY: usize = 4096;
/// Most of a failure's text that is kept, in bytes.
const DETAIL: usize = 1024;
/// Shorter than the shortest keep-alive in common use (Node's 5 s): a connection that the sink closes while a request
/// is on its way costs an attempt.
const IDLE: Duration = Duration::from_secs(4);

/// How an attempt ended, and what to keep of it for people.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ending: Ending,
    /// Empty if it was delivered. Bounded; neither URL nor secrets in it.
    pub(super) detail: String,
    /// How long the sink wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// The beginning of what it answered, unless it was delivered; bounded, without secrets.
    pub(super) body: String,
}

/// The HTTP client of all sinks: no redirects (a POST would become a GET, and go where nobody has allowed it), no
/// proxies from the environment, one pool of connections for each origin.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("eventtrigger/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Sends one event. `timeout` is from connecting to the end of the response.
pub(super) async fn post(client: &Client, target: &Target, headers: HeaderMap, body: Bytes) -> Attempt {
    let request =
        client.post(target.url.clone()).headers(headers).body(body).timeout(target.policy.timeout).send().await;
    let kept = |text: String| bounded(&target.redact(text));
    let without = |ending, detail| Attempt { ending, detail: kept(detail), retry_after: None, body: String::new() };
    match request {
        Ok(response) => {
            let status = response.status();
            let retry_after = retry_after(response.headers());
            // Read also after a success: only a connection that is read to the end can be used again.
            let text = beginning(response).await;
            let detail = match text.as_str() {
                _ if status.is_success() => String::new(),
                "" => status.to_string(),
                text => format!("{status}: {text}"),
            };
            let body = if status.is_success() { String::new() } else { kept(text) };
            Attempt { ending: Ending::Status(status.as_u16()), detail: kept(detail), retry_after, body }
        }
        Err(error) if error.is_timeout() => without(
            Ending::Timeout,
            format!("no response within {}", humantime::format_duration(target.policy.timeout)),
        ),
        Err(error) => without(Ending::Connection, causes(error)),
    }
}

/// What the sink asks to be waited for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The beginning of a response's body; what cannot be read in time is left out.
async fn beginning(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The text of an error and of what caused it, without the URL: that may hold a token.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// At most [`DETAIL`] bytes of it, and no control characters: PostgreSQL keeps no zero byte.
fn bounded(text: &str) -> String {
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    kept.truncate(kept.floor_char_boundary(DETAIL));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_text_is_bounded_and_without_control_characters() {
        assert_eq!(bounded("a\0b\nc"), "a b c");
        let kept = bounded(&"ä".repeat(2000));
        assert_eq!((kept.len(), kept.chars().all(|c| c == 'ä')), (DETAIL, true));
    }
}
