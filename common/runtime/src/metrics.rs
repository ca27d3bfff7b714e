//! Prometheus metrics: what roles count with the `metrics` crate, served as text on one address.

use std::net::SocketAddr;
use std::sync::OnceLock;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::stop::Stop;

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts counting; before it, counting goes nowhere.
pub fn start() {
    if let Ok(handle) = PrometheusBuilder::new().install_recorder() {
        let _ = HANDLE.set(handle);
    }
}

/// All metrics in Prometheus' text form.
#[must_use]
pub fn text() -> String {
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Serves `GET /metrics` and `GET /healthz` on `listen` until the stop; plain HTTP, for the operator's network.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(listen: SocketAddr, stop: Stop) -> std::io::Result<()> {
    serve_on(tokio::net::TcpListener::bind(listen).await?, stop);
    Ok(())
}

/// [`serve`] on a listener that is open already.
pub fn serve_on(listener: tokio::net::TcpListener, stop: Stop) {
    let router = Router::new().route("/metrics", get(|| async { text() })).route("/healthz", get(|| async { "ok\n" }));
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).with_graceful_shutdown(async move { stop.told().await }).await;
    });
}
