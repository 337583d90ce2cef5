//! Where events go: a `Destination` and the objects it names become a URL, headers and a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use url::Url;

use super::{LookupError, Objects, Problem, Secrets, Stop, headers, part, security::Found, service};
use crate::{
    api::{self, Destination, DestinationRef, EventSink},
    log::definition::{Batch, DeadLetterSink, Format, Limits, Mode, Policy, Sink, StatusRule},
};

const CROSS_NAMESPACE: &str = "CrossNamespaceNotAllowed";
const INVALID: &str = "InvalidSink";
const NOT_ALLOWED: &str = "SinkNotAllowed";
const NOT_FOUND: &str = "SinkNotFound";
const NO_ADDRESS: &str = "AddressNotReady";
const NOT_WATCHED: &str = "NamespaceNotWatched";

/// A sink whose every part has been found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Where to send, and with which headers.
    pub sink: Sink,
    /// The policy of the EventSink, if it is one.
    pub delivery: api::Delivery,
    /// Where events go that were given up, if it is an EventSink that says so.
    pub dead_letters: Option<DeadLetterSink>,
    /// The values that come from Secrets.
    pub secrets: Secrets,
}

/// The sink of an EventTrigger in `namespace`.
pub async fn destination(
    destination: &Destination,
    namespace: &str,
    objects: &impl Objects,
) -> Result<Result<Target, Problem>, LookupError> {
    part(of_destination(destination, namespace, objects).await)
}

/// The dead letter sink of an EventTrigger in `namespace`.
pub async fn dead_letters(
    destination: &Destination,
    namespace: &str,
    objects: &impl Objects,
) -> Result<Result<(DeadLetterSink, Secrets), Problem>, LookupError> {
    part(of_dead_letters(destination, namespace, objects).await)
}

/// An EventSink itself.
pub async fn event_sink(sink: &EventSink, objects: &impl Objects) -> Result<Result<Target, Problem>, LookupError> {
    part(of_event_sink(sink, objects).await)
}

async fn of_destination(destination: &Destination, namespace: &str, objects: &impl Objects) -> Result<Target, Stop> {
    let Destination { reference, uri } = destination;
    let place = Place { namespace, prefix: "spec.sink.", objects };
    match reference {
        Some(reference) if is_event_sink(reference) => {
            let sink = place.referred_event_sink(reference).await?;
            let mut target = of_event_sink(&sink, objects).await.map_err(|stop| named(&sink, stop))?;
            target.sink.url = place.join(&target.sink.url, uri.as_deref())?;
            Ok(target)
        }
        _ => Ok(Target {
            sink: Sink::to(place.url(reference.as_ref(), uri.as_deref()).await?),
            delivery: api::Delivery::default(),
            dead_letters: None,
            secrets: Secrets::default(),
        }),
    }
}

/// What failed at the end is told on its own, and so is where that goes if it fails: a chain ends here.
async fn of_dead_letters(
    Destination { reference, uri }: &Destination,
    namespace: &str,
    objects: &impl Objects,
) -> Result<(DeadLetterSink, Secrets), Stop> {
    let place = Place { namespace, prefix: "spec.delivery.deadLetterSink.", objects };
    let Some(reference) = reference.as_ref().filter(|reference| is_event_sink(reference)) else {
        let sink = Sink::to(place.url(reference.as_ref(), uri.as_deref()).await?);
        return Ok((DeadLetterSink { sink, policy: Policy::default() }, Secrets::default()));
    };
    let sink = place.referred_event_sink(reference).await?;
    let Target { sink, delivery, secrets, .. } = itself(&sink, objects).await.map_err(|stop| named(&sink, stop))?;
    let url = place.join(&sink.url, uri.as_deref())?;
    Ok((DeadLetterSink { sink: Sink { url, ..sink }, policy: Policy::from_api(&delivery) }, secrets))
}

async fn of_event_sink(sink: &EventSink, objects: &impl Objects) -> Result<Target, Stop> {
    let mut target = itself(sink, objects).await?;
    if let Some(destination) = &target.delivery.dead_letter_sink {
        let namespace = sink.namespace().unwrap_or_default();
        let (dead_letters, secrets) = of_dead_letters(destination, &namespace, objects).await?;
        target.dead_letters = Some(dead_letters);
        target.secrets.0.extend(secrets.0);
    }
    Ok(target)
}

/// A problem of an EventSink that another resource refers to.
fn named(sink: &EventSink, stop: Stop) -> Stop {
    let name = format!("{}/{}", sink.namespace().unwrap_or_default(), sink.name_any());
    match stop {
        Stop::Problem(Problem { reason, message }) => {
            Problem { reason, message: format!("EventSink {name}: {message}") }.into()
        }
        lookup @ Stop::Lookup(_) => lookup,
    }
}

/// An EventSink but for what it says of dead letters.
async fn itself(sink: &EventSink, objects: &impl Objects) -> Result<Target, Stop> {
    let namespace = sink.namespace().unwrap_or_default();
    let place = Place { namespace: &namespace, prefix: "spec.", objects };
    if sink.spec.reference.as_ref().is_some_and(is_event_sink) {
        return Err(Problem::new(
            INVALID,
            "spec.ref.kind: an EventSink cannot refer to an EventSink; refer to what that one refers to",
        )
        .into());
    }
    let url = place.url(sink.spec.reference.as_ref(), sink.spec.uri.as_deref()).await?;
    let (headers, mut secrets) = headers::headers(&sink.spec.headers, &namespace, objects).await?;
    let mut found = Found { namespace: &namespace, objects, secrets: &mut secrets };
    let spec = &sink.spec;
    let limits = spec.limits.clone().unwrap_or_default();
    let target = Sink {
        headers,
        format: spec.format.as_ref().map(format).unwrap_or_default(),
        signing: found.signing(spec.signing.as_ref()).await?,
        auth: found.auth(spec).await?,
        authorities: found.authorities(spec).await?,
        name: Some(format!("{namespace}/{}", sink.name_any())),
        limits: Limits {
            in_flight: limits.in_flight.unwrap_or(Limits::default().in_flight),
            per_second: limits.per_second,
        },
        statuses: spec.status_codes.as_ref().map(rules).unwrap_or_default(),
        resume: sink.annotations().get(RESUME).cloned(),
        ..Sink::to(url)
    };
    let delivery = spec.delivery.clone().unwrap_or_default();
    Ok(Target { sink: target, delivery, dead_letters: None, secrets })
}

/// Of a sink that said that it is gone: another value makes it be tried again.
pub(super) const RESUME: &str = "eventtrigger.dev/resume";

/// Codes before classes, retries before the others: the first that fits counts.
fn rules(codes: &api::StatusCodes) -> Vec<StatusRule> {
    let api::StatusCodes { retry, terminal } = codes;
    let all = retry.iter().map(|code| (code, true)).chain(terminal.iter().map(|code| (code, false)));
    let rule = |(code, retry): (&String, bool)| match code.strip_suffix("xx") {
        Some(class) => {
            class.parse::<u16>().ok().map(|class| StatusRule { from: class * 100, to: class * 100 + 99, retry })
        }
        None => code.parse().ok().map(|code| StatusRule { from: code, to: code, retry }),
    };
    let mut rules: Vec<_> = all.filter_map(rule).collect();
    rules.sort_by_key(|rule| rule.to - rule.from);
    rules
}

fn format(api::Format { cloud_events, hasura }: &api::Format) -> Format {
    if let Some(api::Hasura { trigger_name }) = hasura {
        return Format::Hasura { trigger: trigger_name.clone() };
    }
    let api::CloudEvents { mode, batch } = cloud_events.clone().unwrap_or_default();
    let api::Batch { max_events, max_bytes, linger } = batch.unwrap_or_default();
    Format::CloudEvents(match mode.unwrap_or_default() {
        api::CloudEventsMode::Binary => Mode::Binary,
        api::CloudEventsMode::Structured => Mode::Structured,
        api::CloudEventsMode::Batch => Mode::Batch(Batch {
            max_events: max_events.unwrap_or(100),
            max_bytes: max_bytes.as_ref().map_or(1 << 20, api::Size::get),
            linger: linger.as_ref().map_or(std::time::Duration::ZERO, api::Duration::get),
        }),
    })
}

fn is_event_sink(reference: &DestinationRef) -> bool {
    let group = reference.api_version.as_deref().map(|version| version.split('/').next().unwrap_or_default());
    reference.kind == "EventSink" && group.is_none_or(|group| group == api::GROUP)
}

/// Where a destination stands: the namespace and the field that its messages name.
struct Place<'a, O> {
    namespace: &'a str,
    prefix: &'static str,
    objects: &'a O,
}

impl<O: Objects> Place<'_, O> {
    async fn url(&self, reference: Option<&DestinationRef>, uri: Option<&str>) -> Result<String, Stop> {
        match (reference, uri) {
            (Some(reference), uri) => Ok(self.join(&self.address(reference).await?, uri)?),
            (None, Some(uri)) => Ok(self.absolute(uri)?),
            (None, None) => {
                let field = self.prefix.trim_end_matches('.');
                Err(Problem::new(INVALID, format!("{field}: set ref, uri or both")).into())
            }
        }
    }

    fn absolute(&self, uri: &str) -> Result<String, Problem> {
        let fault = match Url::parse(uri) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") => "is neither http nor https".to_owned(),
            // Not repeated: it may hold a password.
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                let message =
                    format!("{}uri: holds a user or password; send them as a header from a Secret", self.prefix);
                return Err(Problem::new(INVALID, message));
            }
            Ok(url) => return Ok(url.into()),
            Err(error) => format!("is not an absolute URI ({error})"),
        };
        let message = format!("{}uri: {uri:?} {fault}; write it as http://billing.example.com/orders", self.prefix);
        Err(Problem::new(INVALID, message))
    }

    /// `base` with `uri` resolved against it (RFC 3986 §5.2). It stays on the base's host: a reference names where
    /// events may go, and `//elsewhere`, or a spelling of it that URL parsers also take (`/\elsewhere`), must not
    /// lead away from it.
    fn join(&self, base: &str, uri: Option<&str>) -> Result<String, Problem> {
        let invalid = |message: String| Problem::new(INVALID, format!("{}{message}", self.prefix));
        let base =
            Url::parse(base).map_err(|error| invalid(format!("ref: its address {base:?} is not a URL ({error})")))?;
        let Some(uri) = uri else { return Ok(base.into()) };
        let joined = base.join(uri).map_err(|error| invalid(format!("uri: {uri:?} is not a URI ({error})")))?;
        if joined.origin() != base.origin() || !joined.username().is_empty() || joined.password().is_some() {
            let message =
                "with ref, it must be a path relative to it, such as /hooks/orders; for an absolute URI leave ref out";
            return Err(invalid(format!("uri: {message}")));
        }
        Ok(joined.into())
    }

    async fn address(&self, reference: &DestinationRef) -> Result<String, Stop> {
        let DestinationRef { api_version, kind, name, namespace, port } = reference;
        let Self { prefix, objects, .. } = self;
        let field = format!("{prefix}ref");
        let namespace = namespace.as_deref().unwrap_or(self.namespace);
        if namespace != self.namespace {
            let message = format!(
                "{field}.namespace: {kind} {namespace}/{name} is in another namespace; make an EventSink in {namespace} \
                 that refers to it and whose allowedNamespaces has {:?}, and refer to that",
                self.namespace
            );
            return Err(Problem::new(CROSS_NAMESPACE, message).into());
        }
        let missing = || {
            let message = format!("{field}: there is no {kind} {namespace}/{name}; create it, or correct the name");
            Stop::from(Problem::new(NOT_FOUND, message))
        };
        if kind == "Service" && matches!(api_version.as_deref(), None | Some("v1")) {
            if let Some(url) = objects.service_url(namespace, name) {
                return Ok(url);
            }
            let mut found = objects.service(namespace, name).await?.ok_or_else(missing)?;
            found.metadata =
                ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.to_owned()), ..found.metadata };
            return Ok(service::url(&found, &field, port.as_ref())?);
        }
        if port.is_some() {
            return Err(Problem::new(
                INVALID,
                format!("{field}.port: only a Service has ports; leave it out for a {kind}"),
            )
            .into());
        }
        let Some(api_version) = api_version else {
            let message = format!("{field}.apiVersion: say which {kind} is meant, such as eventing.knative.dev/v1");
            return Err(Problem::new(INVALID, message).into());
        };
        let found = objects.address(api_version, kind, namespace, name).await?.ok_or_else(missing)?;
        let Some(url) = found else {
            let message =
                format!("{field}: {kind} {namespace}/{name} has no status.address.url yet; see its own status");
            return Err(Problem::new(NO_ADDRESS, message).into());
        };
        Ok(url)
    }

    /// An EventSink resolves in its own namespace, with its own Secrets, and says who may use it.
    async fn referred_event_sink(&self, reference: &DestinationRef) -> Result<EventSink, Stop> {
        let DestinationRef { api_version: _, kind: _, name, namespace, port } = reference;
        if port.is_some() {
            return Err(Problem::new(
                INVALID,
                format!("{}ref.port: an EventSink has its own; leave it out", self.prefix),
            )
            .into());
        }
        let namespace = namespace.as_deref().unwrap_or(self.namespace);
        let field = format!("{}ref", self.prefix);
        if !self.objects.reaches(namespace) {
            let message = format!(
                "{field}.namespace: this controller does not look after namespace {namespace}; add it to its watchNamespaces, \
                 or use an EventSink in one that it does"
            );
            return Err(Problem::new(NOT_WATCHED, message).into());
        }
        let found = self.objects.sink(namespace, name).await?;
        let sink = if namespace == self.namespace {
            let missing = || {
                let message =
                    format!("{field}: there is no EventSink {namespace}/{name}; create it, or correct the name");
                Problem::new(NOT_FOUND, message)
            };
            found.ok_or_else(missing)?
        } else {
            // One answer for both cases: whether it exists is not for everybody to know.
            let refused = || {
                let message = format!(
                    "{field}: EventSink {namespace}/{name} does not exist or does not allow namespace {here}; add {here:?} \
                     to its allowedNamespaces",
                    here = self.namespace
                );
                Problem::new(NOT_ALLOWED, message)
            };
            found.filter(|sink| allows(sink, self.namespace)).ok_or_else(refused)?
        };
        Ok(sink)
    }
}

fn allows(sink: &EventSink, namespace: &str) -> bool {
    sink.spec.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        log::definition::{Header, HeaderValue, SecretName},
        resolve::testing::{Manifests, from_yaml},
    };

    const WORLD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec: {ports: [{port: 8080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {ports: [{port: 443}]}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: bank}
stringData: {token: Bearer t0p, line: "x\n", text: "ü"}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: pay, namespace: bank}
spec:
  ref: {kind: Service, name: vault}
  uri: /pay/in
  headers: [{name: Authorization, valueFrom: {secretKeyRef: {name: keys, key: token}}}, {name: X-From, value: shop}]
  delivery: {retry: 3}
  allowedNamespaces: [shop]
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: closed, namespace: bank}
spec: {uri: "http://bank.example.com/"}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: line, namespace: bank}
spec: {uri: "http://bank.example.com/", headers: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: line}}}]}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: text, namespace: bank}
spec: {uri: "http://bank.example.com/", headers: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: text}}}]}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: keyless, namespace: bank}
spec: {uri: "http://bank.example.com/", headers: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: gone}}}], allowedNamespaces: ["*"]}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: loop, namespace: bank}
spec: {ref: {kind: EventSink, name: pay}}
---
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default, namespace: shop}
status: {address: {url: "http://broker.knative.svc/shop/default"}}
---
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: new, namespace: shop}
"#;

    async fn resolved(namespace: &str, destination: &str) -> Result<Target, Problem> {
        super::destination(&from_yaml(destination), namespace, &Manifests::new(WORLD)).await.unwrap()
    }

    #[rstest]
    #[case("{uri: 'https://billing.example.com/a?b=c'}", "https://billing.example.com/a?b=c")]
    #[case("{ref: {apiVersion: v1, kind: Service, name: billing}}", "http://billing.shop.svc:8080/")]
    #[case(
        "{ref: {kind: Service, name: billing, port: http}, uri: /hooks/orders}",
        "http://billing.shop.svc:8080/hooks/orders"
    )]
    #[case("{ref: {kind: Service, name: billing}, uri: 'hooks?x=1'}", "http://billing.shop.svc:8080/hooks?x=1")]
    #[case(
        "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default}}",
        "http://broker.knative.svc/shop/default"
    )]
    #[case(
        "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default}, uri: other}",
        "http://broker.knative.svc/shop/other"
    )]
    #[case(
        "{ref: {apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, name: pay, namespace: bank}}",
        "https://vault.bank.svc/pay/in"
    )]
    #[case("{ref: {kind: EventSink, name: pay, namespace: bank}, uri: out}", "https://vault.bank.svc/pay/out")]
    #[tokio::test]
    async fn a_destination_becomes_a_url(#[case] destination: &str, #[case] url: &str) {
        assert_eq!(resolved("shop", destination).await.unwrap().sink.url, url);
    }

    #[tokio::test]
    async fn an_event_sink_brings_its_headers_policy_and_secrets() {
        let target = resolved("shop", "{ref: {kind: EventSink, name: pay, namespace: bank}}").await.unwrap();
        let secret = SecretName("bank/keys/token".to_owned());
        let headers = vec![
            Header { name: "Authorization".to_owned(), value: HeaderValue::Secret(secret.clone()) },
            Header { name: "X-From".to_owned(), value: HeaderValue::Literal("shop".to_owned()) },
        ];
        assert_eq!(target.sink.headers, headers);
        assert_eq!(target.delivery.retry, Some(3));
        assert_eq!(target.secrets.0.get(&secret).map(String::as_str), Some("Bearer t0p"));
        assert!(!format!("{target:?}").contains("t0p"));
    }

    #[rstest]
    #[case("{}", INVALID, "spec.sink: set ref, uri or both")]
    #[case("{uri: /x}", INVALID, r#"spec.sink.uri: "/x" is not an absolute URI (relative URL without a base); write it as http://billing.example.com/orders"#)]
    #[case(
        "{uri: 'ftp://h/x'}",
        INVALID,
        r#"spec.sink.uri: "ftp://h/x" is neither http nor https; write it as http://billing.example.com/orders"#
    )]
    #[case(
        "{uri: 'http://u:secret@h/x'}",
        INVALID,
        "spec.sink.uri: holds a user or password; send them as a header from a Secret"
    )]
    #[case(
        "{ref: {kind: Service, name: gone}}",
        NOT_FOUND,
        "spec.sink.ref: there is no Service shop/gone; create it, or correct the name"
    )]
    #[case("{ref: {kind: Service, name: vault, namespace: bank}}", CROSS_NAMESPACE, r#"spec.sink.ref.namespace: Service bank/vault is in another namespace; make an EventSink in bank that refers to it and whose allowedNamespaces has "shop", and refer to that"#)]
    #[case(
        "{ref: {kind: EventSink, name: gone}}",
        NOT_FOUND,
        "spec.sink.ref: there is no EventSink shop/gone; create it, or correct the name"
    )]
    #[case("{ref: {kind: EventSink, name: closed, namespace: bank}}", NOT_ALLOWED, r#"spec.sink.ref: EventSink bank/closed does not exist or does not allow namespace shop; add "shop" to its allowedNamespaces"#)]
    #[case("{ref: {kind: EventSink, name: gone, namespace: bank}}", NOT_ALLOWED, r#"spec.sink.ref: EventSink bank/gone does not exist or does not allow namespace shop; add "shop" to its allowedNamespaces"#)]
    #[case("{ref: {kind: EventSink, name: keyless, namespace: bank}}", "SecretKeyNotFound", r#"EventSink bank/keyless: spec.headers[0].valueFrom: Secret bank/keys has no key "gone"; it has: line, text, token"#)]
    #[case(
        "{ref: {kind: EventSink, name: pay, port: 80}}",
        INVALID,
        "spec.sink.ref.port: an EventSink has its own; leave it out"
    )]
    #[case(
        "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: new}}",
        NO_ADDRESS,
        "spec.sink.ref: Broker shop/new has no status.address.url yet; see its own status"
    )]
    #[case(
        "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: gone}}",
        NOT_FOUND,
        "spec.sink.ref: there is no Broker shop/gone; create it, or correct the name"
    )]
    #[case(
        "{ref: {kind: Broker, name: default}}",
        INVALID,
        "spec.sink.ref.apiVersion: say which Broker is meant, such as eventing.knative.dev/v1"
    )]
    #[case(
        "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default, port: 80}}",
        INVALID,
        "spec.sink.ref.port: only a Service has ports; leave it out for a Broker"
    )]
    #[tokio::test]
    async fn a_problem_names_field_value_and_remedy(
        #[case] destination: &str,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let problem = resolved("shop", destination).await.unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), (reason, message));
    }

    #[rstest]
    #[case("//evil.example.com/x")]
    #[case("/\\\\evil.example.com/x")]
    #[case("\\\\\\\\evil.example.com/x")]
    #[case("http://evil.example.com/x")]
    #[case("/\\t/evil.example.com/x")]
    #[case("https:evil.example.com")]
    #[tokio::test]
    async fn a_relative_uri_never_leaves_the_host_that_the_reference_names(#[case] uri: &str) {
        let problem = resolved("shop", &format!("{{ref: {{kind: Service, name: billing}}, uri: \"{uri}\"}}")).await;
        assert_eq!(problem.unwrap_err().reason, INVALID);
    }

    #[rstest]
    #[case(
        "loop",
        INVALID,
        "EventSink bank/loop: spec.ref.kind: an EventSink cannot refer to an EventSink; refer to what that one refers to"
    )]
    #[case("line", "InvalidHeader", r#"EventSink bank/line: spec.headers[0].valueFrom: the value of key "line" in Secret bank/keys ends with a line break; write it without one (echo -n, printf)"#)]
    #[case("text", "InvalidHeader", r#"EventSink bank/text: spec.headers[0].valueFrom: the value of key "text" in Secret bank/keys holds characters that a header cannot carry; use visible ASCII"#)]
    #[tokio::test]
    async fn a_faulty_event_sink_is_named(#[case] name: &str, #[case] reason: &str, #[case] message: &str) {
        let problem = resolved("bank", &format!("{{ref: {{kind: EventSink, name: {name}}}}}")).await.unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), (reason, message));
    }
}
