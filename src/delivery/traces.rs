//! Attempts as spans of OpenTelemetry, sent by OTLP over HTTP to a collector, if one was named.
//!
//! A span's parent is the trace that the application was in when it made the change (`spec.context.traceparent`), and the sink is
//! told the span in its stead: so the receiver's own spans hang below the attempt. Without a collector there are none of these.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};
use tokio::{runtime::Handle, time::Instant};

use super::{
    AddressOptions, Addresses, Place,
    format::{TRACEPARENT, cloudevents::TYPE},
    http::{Answer, Client, Http, exchange},
    retry::Ending,
    sender::Attempt,
    signing,
    target::Target,
};

/// How long a collector may take; the specification's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// Most of a collector's answer that is read.
const ANSWER: usize = 16 * 1024;

/// Where spans of attempts go. The variables are OpenTelemetry's own, and so are the words.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct TraceOptions {
    /// Collector of OpenTelemetry that gets a span of each attempt, by OTLP over HTTP, such as <http://otel-collector:4318>. Default:
    /// none, and nothing is traced.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub traces_endpoint: Option<String>,

    /// Which traces it gets: `always_on`, `always_off`, `traceidratio`, or one of these with `parentbased_` before it. Default:
    /// `parentbased_always_on`, all but those that the application does not sample.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "SAMPLER")]
    pub traces_sampler: Option<String>,

    /// The part of them that `traceidratio` means, such as 0.01. Default: 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO")]
    pub traces_sampler_arg: Option<String>,
}

impl TraceOptions {
    /// As the arguments of another process; none if nothing is traced.
    pub fn arguments(&self) -> Vec<String> {
        let Self { traces_endpoint, traces_sampler, traces_sampler_arg } = self;
        if said(traces_endpoint.as_ref()).is_none() {
            return Vec::new();
        }
        let all = [("endpoint", traces_endpoint), ("sampler", traces_sampler), ("sampler-arg", traces_sampler_arg)];
        all.into_iter().filter_map(|(name, value)| Some(format!("--traces-{name}={}", said(value.as_ref())?))).collect()
    }

    fn sampler(&self) -> Result<Sampler, TraceError> {
        let wrong = |option: &'static str, value: &str| TraceError::Option { option, value: value.to_owned() };
        let ratio = match said(self.traces_sampler_arg.as_ref()) {
            None => 1.0,
            Some(ratio) => ratio.parse().map_err(|_| wrong("--traces-sampler-arg", ratio))?,
        };
        let name = said(self.traces_sampler.as_ref()).unwrap_or("parentbased_always_on");
        let root = match name.strip_prefix("parentbased_").unwrap_or(name) {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio),
            _ => return Err(wrong("--traces-sampler", name)),
        };
        Ok(if name.starts_with("parentbased_") { Sampler::ParentBased(Box::new(root)) } else { root })
    }
}

/// A variable of the environment that is empty is as good as none, to OpenTelemetry.
fn said(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

/// Why attempts cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// An option that is none.
    #[error("{option} cannot be {value:?}; see --help")]
    Option {
        /// Which.
        option: &'static str,
        /// What it is.
        value: String,
    },
    /// An endpoint that is none.
    #[error("failed to use the collector of --traces-endpoint")]
    Endpoint(#[from] ExporterBuildError),
}

/// The process has one, whatever it delivers.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Sends spans until it is ended.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts if there is a collector. Wants a runtime that goes on.
    ///
    /// # Errors
    /// If an option cannot be used.
    pub fn start(options: &TraceOptions) -> Result<Option<Self>, TraceError> {
        let Some(endpoint) = said(options.traces_endpoint.as_ref()) else { return Ok(None) };
        // Not a sink's address: whoever starts this program says where spans go, and may say loopback.
        let http = Http::new(Addresses::new(Place::Local, &AddressOptions::default()));
        let (client, runtime, fails) = (http.common().clone(), Handle::current(), AtomicBool::new(false));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_http_client(Collector { client, runtime, fails })
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(options.sampler()?)
            .with_resource(resource())
            .build();
        let _ = TRACER.set(provider.tracer("eventtrigger"));
        tracing::info!(endpoint, "attempts are traced");
        Ok(Some(Self(provider)))
    }

    /// Sends what has not been sent yet, unless that takes too long.
    pub async fn end(self) {
        // On a thread of its own: it waits for requests that this one may have to carry.
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Who sends the spans: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, or the program's name.
fn resource() -> Resource {
    let found = Resource::builder().build();
    let named = found.get(&"service.name".into()).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if named { builder.build() } else { builder.with_service_name("eventtrigger").build() }
}

/// The process's tracer, if attempts are traced.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Begins the span of an attempt, and tells it to the sink.
pub(super) fn begin(tracer: &SdkTracer, target: &Target, headers: &mut HeaderMap) -> Span {
    let mut attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("eventtrigger.trigger", target.trigger.to_string()),
    ];
    // Not the whole URL: its path or query may hold a token.
    attributes.extend(target.uri.host().map(|host| KeyValue::new("server.address", host.to_owned())));
    attributes.extend(target.uri.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    attributes.extend(text(signing::ID).map(|id| KeyValue::new("cloudevents.event_id", id)));
    attributes.extend(text(TYPE).map(|kind| KeyValue::new("cloudevents.event_type", kind)));
    let parent = headers.get(TRACEPARENT).and_then(|header| parent(header.to_str().ok()?));
    let parent = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
    let builder = tracer.span_builder("POST").with_kind(SpanKind::Client).with_attributes(attributes);
    let span = builder.start_with_context(tracer, &parent);
    if let Ok(header) = HeaderValue::try_from(traceparent(span.span_context())) {
        headers.insert(TRACEPARENT, header);
    }
    span
}

/// Ends it with what came of the attempt.
pub(super) fn end(mut span: Span, attempt: &Attempt) {
    let failure = match attempt.ending {
        Ending::Status(status) => {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            (!(200..300).contains(&status)).then(|| status.to_string())
        }
        Ending::Timeout => Some("timeout".to_owned()),
        Ending::Connection => Some("connection".to_owned()),
    };
    if let Some(kind) = failure {
        span.set_attribute(KeyValue::new("error.type", kind));
        span.set_status(Status::error(attempt.detail.clone()));
    }
    span.end();
}

/// A trace context in the form of its header, which has been checked: <https://www.w3.org/TR/trace-context/>.
fn parent(header: &str) -> Option<SpanContext> {
    let mut parts = header.split('-').skip(1);
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Sends what the exporter has, on the runtime of whoever started it: the exporter runs on a thread of its own.
struct Collector {
    client: Client,
    runtime: Handle,
    fails: AtomicBool,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, deadline) = (self.client.clone(), Instant::now() + TIMEOUT);
        let exchange = async move { exchange(&client, request.map(Full::new), ANSWER, deadline).await };
        let outcome = self.runtime.spawn(exchange).await?;
        let why = match &outcome {
            Ok(answer) if answer.status.is_success() => None,
            Ok(answer) => Some(answer.status.to_string()),
            Err(silence) => Some(format!("{silence:?}")),
        };
        // Once for each time that it begins and ends: a collector may be away for hours.
        match (self.fails.swap(why.is_some(), Ordering::Relaxed), &why) {
            (false, Some(why)) => tracing::warn!(why, "the collector takes no spans; those of this time are lost"),
            (true, None) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        match outcome {
            Ok(Answer { status, headers, body }) => {
                let mut response = Response::new(body.into());
                (*response.status_mut(), *response.headers_mut()) = (status, headers);
                Ok(response)
            }
            Err(_) => Err(why.unwrap_or_default().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn options(endpoint: &str, sampler: &str, arg: &str) -> TraceOptions {
        let [traces_endpoint, traces_sampler, traces_sampler_arg] =
            [endpoint, sampler, arg].map(|text| Some(text.to_owned()));
        TraceOptions { traces_endpoint, traces_sampler, traces_sampler_arg }
    }

    #[test]
    fn workers_are_told_of_a_collector_and_of_nothing_without_one() {
        assert_eq!(options("", "always_on", "").arguments(), Vec::<String>::new());
        assert_eq!(TraceOptions::default().arguments(), Vec::<String>::new());
        let told = ["--traces-endpoint=http://otel:4318", "--traces-sampler=traceidratio", "--traces-sampler-arg=0.5"];
        assert_eq!(options("http://otel:4318", "traceidratio", "0.5").arguments(), told);
        assert_eq!(options("http://otel:4318", "", "").arguments(), told[..1]);
    }

    #[rstest]
    #[case("", "", "ParentBased(AlwaysOn)")]
    #[case("always_off", "", "AlwaysOff")]
    #[case("traceidratio", "0.25", "TraceIdRatioBased(0.25)")]
    #[case("parentbased_traceidratio", "", "ParentBased(TraceIdRatioBased(1.0))")]
    #[case("xray", "", "--traces-sampler cannot be \"xray\"; see --help")]
    #[case("traceidratio", "half", "--traces-sampler-arg cannot be \"half\"; see --help")]
    fn samplers_have_the_names_of_opentelemetry(#[case] name: &str, #[case] arg: &str, #[case] expected: &str) {
        let found = options("http://a/", name, arg).sampler();
        assert_eq!(found.map_or_else(|error| error.to_string(), |sampler| format!("{sampler:?}")), expected);
    }

    #[test]
    fn a_trace_context_is_read_and_written() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(&parent(header).unwrap()), header);
        // A later version's flags and parts are not ours to pass on.
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff";
        assert_eq!(traceparent(&parent(later).unwrap()), header);
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(traceparent(&parent(unsampled).unwrap()), unsampled);
    }
}
