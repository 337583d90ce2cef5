//! How the receiver answers: well, until it is told otherwise.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the receiver was told to do. Nothing set: every request is answered with 200.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Behaviour {
    /// The status of answers that fail (or of every answer, if no `failFirst` or `failEvery` picks them); default 503 for those that fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `Retry-After` of answers that fail: seconds, or a date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// Every answer waits this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Only the first so many requests fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_first: Option<u64>,
    /// Only every so manyth request fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_every: Option<u64>,
    /// Those that fail get no answer at all: the connection stays open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hang: bool,
    /// Only requests to this path are counted and concerned; all if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// What is done with one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Waits first.
    pub delay: Duration,
    /// The status; `None` leaves the request without an answer.
    pub status: Option<u16>,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
}

impl Behaviour {
    /// Whether a request to `path` is concerned.
    pub fn concerns(&self, path: &str) -> bool {
        self.path.as_deref().is_none_or(|only| path.split('?').next() == Some(only))
    }

    /// The answer to the `n`th request that is concerned, counted from 1.
    pub fn answer(&self, n: u64) -> Answer {
        let Self { status, retry_after, delay_ms, fail_first, fail_every, hang, path: _ } = self;
        let delay = Duration::from_millis(delay_ms.unwrap_or(0));
        let fails = match (fail_first, fail_every) {
            (None, None) => status.is_some() || *hang,
            (first, every) => {
                first.is_some_and(|first| n <= first) || every.is_some_and(|every| every > 0 && n.is_multiple_of(every))
            }
        };
        if !fails {
            return Answer { delay, status: Some(200), retry_after: None };
        }
        let status = (!hang).then(|| status.unwrap_or(503));
        Answer { delay, status, retry_after: retry_after.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(behaviour: &str, requests: u64) -> Vec<Option<u16>> {
        let behaviour: Behaviour = serde_json::from_str(behaviour).unwrap();
        (1..=requests).map(|n| behaviour.answer(n).status).collect()
    }

    #[test]
    fn without_orders_all_is_well() {
        assert_eq!(statuses("{}", 2), [Some(200), Some(200)]);
    }

    #[test]
    fn a_status_alone_is_every_answer() {
        assert_eq!(statuses(r#"{"status":410}"#, 2), [Some(410), Some(410)]);
    }

    #[test]
    fn the_first_fail_and_then_all_is_well() {
        assert_eq!(statuses(r#"{"failFirst":2}"#, 3), [Some(503), Some(503), Some(200)]);
    }

    #[test]
    fn every_third_fails() {
        assert_eq!(
            statuses(r#"{"status":500,"failEvery":3}"#, 6),
            [Some(200), Some(200), Some(500), Some(200), Some(200), Some(500)]
        );
    }

    #[test]
    fn hanging_requests_get_no_answer() {
        assert_eq!(statuses(r#"{"hang":true,"failFirst":1}"#, 2), [None, Some(200)]);
    }

    #[test]
    fn only_the_named_path_is_concerned_whatever_its_query() {
        let behaviour: Behaviour = serde_json::from_str(r#"{"path":"/a"}"#).unwrap();
        assert!(behaviour.concerns("/a") && behaviour.concerns("/a?b=c") && !behaviour.concerns("/ab"));
    }

    #[test]
    fn a_misspelt_order_is_refused() {
        assert!(serde_json::from_str::<Behaviour>(r#"{"failfirst":2}"#).is_err());
    }
}
