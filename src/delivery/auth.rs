//! What is sent to show that we may: fixed credentials, or tokens that an authorization server gives (RFC 6749 §4.4).

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use super::http::{Answer, Client, Silence, exchange};

/// Most of a token endpoint's answer: some tokens list all that they are good for.
const ANSWER: usize = 64 * 1024;
/// For this long the answer of a token endpoint that gave no token is taken for the next one: every event that waits would
/// ask anew, and some servers lock clients that are wrong too often.
const REFUSED: Duration = Duration::from_secs(1);
/// A token is replaced this long before it expires, or after nine tenths of a shorter life: it must be good when it arrives.
const MARGIN: Duration = Duration::from_mins(1);

/// `Authorization` of user and password (RFC 7617).
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The value as a header that is not shown.
pub(super) fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A client of an authorization server, and the token that it has.
pub(super) struct Tokens {
    endpoint: Uri,
    authorization: HeaderValue,
    form: Bytes,
    /// Locked while a token is asked for: the others wait for it instead of asking, too.
    held: Mutex<Held>,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Token(Arc<Token>),
    Refused {
        at: Instant,
        why: String,
    },
}

/// A token. `Debug` leaves it out.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) header: HeaderValue,
    /// When to get another one; never, if the server does not say how long it lives.
    until: Option<Instant>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(endpoint: Uri, id: &str, secret: &str, scopes: &[String], audience: Option<&str>) -> Self {
        // Both parts are encoded as in a form, before they are encoded for the header (RFC 6749 §2.3.1).
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !scopes.is_empty() {
            form.append_pair("scope", &scopes.join(" "));
        }
        if let Some(audience) = audience {
            form.append_pair("audience", audience);
        }
        Self {
            endpoint,
            authorization: sensitive(&basic(&encoded(id), &encoded(secret))).expect("base64 is visible ASCII"),
            form: form.finish().into(),
            held: Mutex::default(),
        }
    }

    /// A token that is still good, or why there is none. `unless` has proved not to be.
    pub(super) async fn token(
        &self,
        client: &Client,
        unless: Option<&Arc<Token>>,
        deadline: Instant,
    ) -> Result<Arc<Token>, String> {
        let late = |_| "the token endpoint did not answer in time".to_owned();
        let mut held = tokio::time::timeout_at(deadline, self.held.lock()).await.map_err(late)?;
        match &*held {
            Held::Token(token)
                if token.until.is_none_or(|until| Instant::now() < until)
                    && unless.is_none_or(|bad| !Arc::ptr_eq(bad, token)) =>
            {
                return Ok(token.clone());
            }
            Held::Refused { at, why } if at.elapsed() < REFUSED => return Err(why.clone()),
            _ => {}
        }
        let asked = Instant::now();
        match self.ask(client, deadline).await.and_then(|answer| read(&answer, asked)) {
            Ok(token) => {
                let token = Arc::new(token);
                *held = Held::Token(token.clone());
                Ok(token)
            }
            Err(why) => {
                *held = Held::Refused { at: asked, why: why.clone() };
                Err(why)
            }
        }
    }

    async fn ask(&self, client: &Client, deadline: Instant) -> Result<Answer, String> {
        let mut request = Request::new(Full::new(self.form.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let json = HeaderValue::from_static("application/json");
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().extend([
            (header::AUTHORIZATION, self.authorization.clone()),
            (header::ACCEPT, json),
            (header::CONTENT_TYPE, form),
        ]);
        exchange(client, request, ANSWER, deadline).await.map_err(|silence| match silence {
            Silence::Timeout => "the token endpoint did not answer in time".to_owned(),
            Silence::Connection(why) => format!("the token endpoint: {why}"),
        })
    }
}

/// The token in an answer (RFC 6749 §5). What the server says besides a status and the code of an error is not repeated: some
/// repeat what they were sent.
fn read(answer: &Answer, asked: Instant) -> Result<Token, String> {
    #[derive(Deserialize)]
    struct Given {
        access_token: String,
        token_type: String,
        expires_in: Option<Seconds>,
    }
    // A number, but some servers write text.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(f64),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    const CODES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let Answer { status, body, .. } = answer;
    if !status.is_success() {
        let code = serde_json::from_slice(body).ok().map(|refusal: Refusal| refusal.error);
        let code = CODES.iter().find(|known| code.as_ref().is_some_and(|code| code == *known));
        return Err(match code {
            Some(code) => format!("the token endpoint answered {status}: {code}"),
            None => format!("the token endpoint answered {status}"),
        });
    }
    let unusable = |why: &str| format!("the token endpoint answered {status}, and {why}");
    let given: Given = serde_json::from_slice(body).map_err(|_| unusable("no token of OAuth 2.0"))?;
    if !given.token_type.eq_ignore_ascii_case("bearer") {
        return Err(unusable("a token that is no bearer token"));
    }
    let header = sensitive(&format!("Bearer {}", given.access_token))
        .ok_or_else(|| unusable("a token that a header cannot carry"))?;
    let life = given.expires_in.and_then(|seconds| match seconds {
        Seconds::Number(seconds) => Some(seconds),
        Seconds::Text(text) => text.parse().ok(),
    });
    let life = life.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let until = life.and_then(|life| asked.checked_add(life.saturating_sub(MARGIN.min(life / 10))));
    Ok(Token { text: given.access_token, header, until })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use rstest::rstest;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() }
    }

    #[rstest]
    #[case::number(r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":3600}"#, Some(3540))]
    #[case::text(r#"{"access_token":"t0ken","token_type":"bearer","expires_in":"3600"}"#, Some(3540))]
    #[case::short(r#"{"access_token":"t0ken","token_type":"bearer","expires_in":10}"#, Some(9))]
    #[case::unknown(r#"{"access_token":"t0ken","token_type":"bearer"}"#, None)]
    #[case::absurd(r#"{"access_token":"t0ken","token_type":"bearer","expires_in":-1}"#, None)]
    fn a_token_is_good_until_shortly_before_it_expires(#[case] body: &str, #[case] seconds: Option<u64>) {
        let now = Instant::now();
        let token = read(&answer(200, body), now).unwrap();
        assert_eq!(token.header, "Bearer t0ken");
        assert!(token.header.is_sensitive());
        assert_eq!(token.until.map(|until| (until - now).as_secs()), seconds);
    }

    #[rstest]
    #[case(
        401,
        r#"{"error":"invalid_client","error_description":"s3cret is wrong"}"#,
        "the token endpoint answered 401 Unauthorized: invalid_client"
    )]
    #[case(400, r#"{"error":"s3cret"}"#, "the token endpoint answered 400 Bad Request")]
    #[case(503, "s3cret", "the token endpoint answered 503 Service Unavailable")]
    #[case(200, "s3cret", "the token endpoint answered 200 OK, and no token of OAuth 2.0")]
    #[case(
        200,
        r#"{"access_token":"s3cret","token_type":"mac"}"#,
        "the token endpoint answered 200 OK, and a token that is no bearer token"
    )]
    #[case(
        200,
        r#"{"access_token":"s3cret\n","token_type":"bearer"}"#,
        "the token endpoint answered 200 OK, and a token that a header cannot carry"
    )]
    fn without_a_token_the_status_is_named_and_nothing_else(
        #[case] status: u16,
        #[case] body: &str,
        #[case] said: &str,
    ) {
        assert_eq!(read(&answer(status, body), Instant::now()).err().unwrap(), said);
    }

    #[test]
    fn a_client_is_named_as_rfc_6749_says() {
        let scopes = ["a".to_owned(), "b".to_owned()];
        let tokens = Tokens::new(Uri::from_static("http://auth/"), "my id", "p:w", &scopes, Some("https://x/"));
        assert_eq!(tokens.form, "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Fx%2F");
        assert_eq!(tokens.authorization, basic("my+id", "p%3Aw").as_str());
        assert!(!format!("{tokens:?}").contains("p%3Aw"));
    }
}
