//! EventSinks: resolved for those who refer to them, and to say whether they could.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    context::Context,
    error::Error,
    run::{Kind, LONGEST},
    status::{self, Progress, conclude},
    trouble::{Next, Trouble},
};
use crate::{
    api::{
        Address, Delivery, Destination, DestinationRef, EventSink, EventSinkStatus,
        condition::{SINK_RESOLVED, Verdict},
    },
    resolve,
};

/// How soon an object of a kind that is not watched is looked at again: while there is no address, and later.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(1)];

impl Kind for EventSink {
    async fn reconcile(sink: Arc<Self>, ctx: Arc<Context>) -> Result<Next, Error> {
        if sink.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Settled);
        }
        let url = match resolve::event_sink(&sink, &ctx.cluster).await {
            Ok(Ok(target)) => Ok(target.sink.url),
            Ok(Err(problem)) => Err(Trouble::stalled(problem)),
            Err(error) => Err(Error::from(error).into()),
        };
        let old = sink.status.as_ref();
        let address = url.map(|url| Address { url, ca_certs: sink.spec.ca_certs.clone() });
        let new = status(old, &address, sink.metadata.generation.unwrap_or_default(), status::now());
        if status::write(&ctx.client, &ctx.own, &*sink, &new).await? {
            let before = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
            ctx.events.readiness(&*sink, before, &new.conditions).await;
        }
        let itself = Destination { reference: sink.spec.reference.clone(), uri: None };
        Ok(next(address.as_ref().err(), &itself, sink.spec.delivery.as_ref()))
    }
}

fn status(
    old: Option<&EventSinkStatus>,
    address: &Result<Address, Trouble>,
    generation: i64,
    now: Timestamp,
) -> EventSinkStatus {
    let (resolved, ready, progress) = match address {
        Ok(_) => (Verdict::yes("Resolved", ""), Verdict::yes("Ready", ""), Progress::Done),
        Err(trouble) => (trouble.verdict(), trouble.verdict(), trouble.progress),
    };
    let mut conditions = old.map(|old| old.conditions.clone()).unwrap_or_default();
    conclude(&mut conditions, [(SINK_RESOLVED, resolved)], ready, progress, generation, now);
    EventSinkStatus { observed_generation: generation, conditions, address: address.as_ref().ok().cloned() }
}

/// When a sink at `destination`, with that of its dead letters, is resolved again.
pub(super) fn next(trouble: Option<&Trouble>, destination: &Destination, delivery: Option<&Delivery>) -> Next {
    let dead_letters = delivery.and_then(|delivery| delivery.dead_letter_sink.as_ref());
    let mut references = [Some(destination), dead_letters].into_iter().flatten().filter_map(|to| to.reference.as_ref());
    match trouble {
        Some(Trouble { progress: Progress::Reconciling, .. }) => Next::Backoff(LONGEST),
        trouble if references.any(|reference| !is_watched(reference)) => {
            Next::After(ASK_AGAIN[usize::from(trouble.is_none())])
        }
        _ => Next::Settled,
    }
}

/// Services and EventSinks are watched; any other kind is only asked for its address.
fn is_watched(reference: &DestinationRef) -> bool {
    let api = reference.api_version.as_deref();
    match reference.kind.as_str() {
        "Service" => api.is_none_or(|api| api == "v1"),
        "EventSink" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::condition::{READY, RECONCILING, STALLED},
        resolve::Problem,
    };

    fn kinds(status: &EventSinkStatus) -> Vec<(&str, &str, &str)> {
        let conditions = status.conditions.iter();
        conditions.map(|found| (found.type_.as_str(), found.status.as_str(), found.reason.as_str())).collect()
    }

    #[test]
    fn a_sink_stalls_while_somebody_must_act_and_gets_an_address_when_they_did() {
        let missing = Err(Trouble::stalled(Problem::new("SecretNotFound", "spec.headers[0]: …")));
        let stalled = status(None, &missing, 1, Timestamp::UNIX_EPOCH);
        assert_eq!(
            kinds(&stalled),
            [
                (SINK_RESOLVED, "False", "SecretNotFound"),
                (STALLED, "True", "SecretNotFound"),
                (READY, "False", "SecretNotFound")
            ]
        );
        assert_eq!(stalled.address, None);
        let later = Timestamp::from_second(60).unwrap();
        let address = Address { url: "http://a/".to_owned(), ca_certs: Some("PEM".to_owned()) };
        let ready = status(Some(&stalled), &Ok(address.clone()), 1, later);
        assert_eq!(kinds(&ready), [(SINK_RESOLVED, "True", "Resolved"), (READY, "True", "Ready")]);
        // As Knative's Addressable has it.
        let told = serde_json::to_value(&ready.address).unwrap();
        assert_eq!(told, serde_json::json!({"url": "http://a/", "CACerts": "PEM"}));
        assert_eq!(status(Some(&ready), &Ok(address), 1, Timestamp::MAX), ready);
    }

    #[test]
    fn what_trying_again_may_cure_is_reconciling() {
        let away = Err(Trouble::retry("ApiServerError", "…"));
        let status = status(None, &away, 1, Timestamp::UNIX_EPOCH);
        assert_eq!(kinds(&status)[1], (RECONCILING, "True", "ApiServerError"));
        let nowhere = Destination { reference: None, uri: None };
        assert_eq!(next(away.as_ref().err(), &nowhere, None), Next::Backoff(LONGEST));
    }
}
