//! One attempt: a POST and how it ended.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    auth::Token,
    format::Written,
    http::{Answer, Http, Silence, exchange},
    retry::Ending,
    signing,
    target::Target,
    traces,
};

/// Most of a response's body that is read; the rest is not waited for.
const BODY: usize = 4096;
/// Most of a text that is kept of a failure, in bytes.
const KEPT: usize = 1024;

/// How an attempt ended, and what to keep of it for people.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ending: Ending,
    /// Empty if it was delivered. Bounded; neither URL nor secrets in it.
    pub(super) detail: String,
    /// The beginning of what the sink answered, unless it took the event. Bounded; no secrets of ours in it.
    pub(super) body: String,
    /// How long the sink asked to be left alone, if it did.
    pub(super) retry_after: Option<Duration>,
}

impl Attempt {
    /// Why it failed, with what the sink said to it.
    pub(super) fn told(&self) -> String {
        let Self { detail, body, .. } = self;
        if body.is_empty() { detail.clone() } else { format!("{detail}: {body}") }
    }
}

/// Sends one request. The policy's timeout is from connecting, or from asking for a token, to the end of the response.
pub(super) async fn post(http: &Http, target: &Target, mut written: Written) -> Attempt {
    let Some(tracer) = traces::tracer() else { return attempt(http, target, written).await };
    // Not in the future of an attempt that is not traced: there are many, and this is large.
    let span = Box::new(traces::begin(tracer, target, &mut written.headers));
    let attempt = attempt(http, target, written).await;
    traces::end(*span, &attempt);
    attempt
}

async fn attempt(http: &Http, target: &Target, written: Written) -> Attempt {
    let deadline = Instant::now() + target.policy.timeout;
    let Some(tokens) = &target.tokens else {
        return concluded(send(http, target, written, None, deadline).await, target, &[]);
    };
    let client = target.token_client(http);
    let refused = |why: String| failed(Ending::Connection, bounded(&target.redact(why)));
    let first = match tokens.token(client, None, deadline).await {
        Ok(token) => token,
        Err(why) => return refused(why),
    };
    let outcome = send(http, target, written.clone(), Some(&first), deadline).await;
    if !outcome.as_ref().is_ok_and(|answer| answer.status == StatusCode::UNAUTHORIZED) {
        return concluded(outcome, target, &[&first]);
    }
    // It may have been revoked: one more try, with another one.
    let second = match tokens.token(client, Some(&first), deadline).await {
        Ok(token) => token,
        Err(why) => return refused(why),
    };
    concluded(send(http, target, written, Some(&second), deadline).await, target, &[&first, &second])
}

async fn send(
    http: &Http,
    target: &Target,
    written: Written,
    token: Option<&Token>,
    deadline: Instant,
) -> Result<Answer, Silence> {
    let Written { mut headers, body } = written;
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, token.header.clone());
    }
    signing::sign(&target.signing, &mut headers, &body, Timestamp::now().as_second());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.uri.clone();
    *request.headers_mut() = headers;
    exchange(target.client(http), request, BODY, deadline).await
}

/// `tokens` are those that the sink was sent.
fn concluded(outcome: Result<Answer, Silence>, target: &Target, tokens: &[&Token]) -> Attempt {
    let redact = |text: String| {
        let text = tokens.iter().fold(text, |text, token| text.replace(&token.text, "[redacted]"));
        bounded(&target.redact(text))
    };
    match outcome {
        Ok(answer) => answered(&answer, redact),
        Err(Silence::Timeout) => {
            let timeout = humantime::format_duration(target.policy.timeout);
            failed(Ending::Timeout, format!("no response within {timeout}"))
        }
        Err(Silence::Connection(why)) => failed(Ending::Connection, redact(why)),
    }
}

fn failed(ending: Ending, detail: String) -> Attempt {
    Attempt { ending, detail, body: String::new(), retry_after: None }
}

fn answered(answer: &Answer, redact: impl Fn(String) -> String) -> Attempt {
    let Answer { status, headers, body } = answer;
    let ending = Ending::Status(status.as_u16());
    if status.is_success() {
        return failed(ending, String::new());
    }
    let body = redact(String::from_utf8_lossy(body).into_owned());
    Attempt { ending, detail: status.to_string(), body, retry_after: retry_after(headers, SystemTime::now()) }
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3), which counts from the answer's own: clocks differ.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(after).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    // A date that has passed: at once.
    Some(date.duration_since(now).unwrap_or_default())
}

/// At most [`KEPT`] bytes of it, and no control characters: PostgreSQL keeps no zero byte.
fn bounded(text: &str) -> String {
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    kept.truncate(kept.floor_char_boundary(KEPT));
    kept
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn kept_text_is_bounded_and_without_control_characters() {
        assert_eq!(bounded("a\0b\nc"), "a b c");
        let kept = bounded(&"ä".repeat(2000));
        assert_eq!((kept.len(), kept.chars().all(|c| c == 'ä')), (KEPT, true));
    }

    #[rstest]
    #[case::seconds("120", None, Some(120))]
    #[case::spaces(" 5 ", None, Some(5))]
    #[case::date("Sun, 06 Nov 1994 08:49:47 GMT", None, Some(10))]
    #[case::old_form("Sunday, 06-Nov-94 08:49:47 GMT", None, Some(10))]
    #[case::passed("Sun, 06 Nov 1994 08:49:00 GMT", None, Some(0))]
    #[case::by_the_sinks_clock("Sun, 06 Nov 1994 08:50:00 GMT", Some("Sun, 06 Nov 1994 08:49:00 GMT"), Some(60))]
    #[case::negative("-1", None, None)]
    #[case::fraction("1.5", None, None)]
    #[case::words("later", None, None)]
    fn retry_after_is_seconds_or_a_date(#[case] after: &str, #[case] date: Option<&str>, #[case] seconds: Option<u64>) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // 06 Nov 1994 08:49:37
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
