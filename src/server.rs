//! Probes and metrics over HTTP, for the controller and the delivery workers alike.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{get, put},
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Version 1.0 of the text format, as Prometheus asks for it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the process can do its work; if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// `/livez`: the process answers. `/readyz`: 200, or 503 and the reason as text. `/metrics`: what `registry` has. `/loglevel`:
/// takes a level by `PUT`, as text.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/loglevel", put(log_level))
        .route("/metrics", get(metrics).with_state(registry))
}

/// Answers until `shutdown`.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let app = router(readiness, registry);
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn log_level(level: String) -> (StatusCode, String) {
    match crate::telemetry::set_level(&level) {
        Ok(()) => {
            tracing::info!(level = level.trim(), "the log level was changed");
            (StatusCode::OK, "ok\n".to_owned())
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus_client::metrics::counter::Counter;

    use super::*;

    async fn get(at: std::net::SocketAddr, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn probes_and_metrics_are_answered_until_shutdown() {
        let state = Arc::new(Mutex::new(Err("no database".to_owned())));
        let readiness = state.clone();
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("things", "Things", counter.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let readiness: Readiness = Arc::new(move || readiness.lock().unwrap().clone());
        let server = tokio::spawn(serve(listener, readiness, Arc::new(registry), shutdown.clone()));

        assert_eq!(get(at, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(get(at, "/readyz").await, (503, "no database\n".to_owned()));
        *state.lock().unwrap() = Ok(());
        assert_eq!(get(at, "/readyz").await.0, 200);
        counter.inc();
        let (status, body) = get(at, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("\nthings_total 1\n") && body.ends_with("# EOF\n"), "{body}");

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
