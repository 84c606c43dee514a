//! `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;

use super::Metrics;

/// Whether the worker lives, and whether it could take work.
#[derive(Default)]
pub struct Health {
    lanes: Vec<AtomicBool>,
    stopping: AtomicBool,
}

impl Health {
    pub fn new(lanes: usize) -> Health {
        Health {
            lanes: (0..lanes).map(|_| AtomicBool::new(false)).collect(),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn set_ready(&self, lane: usize, ready: bool) {
        if let Some(flag) = self.lanes.get(lane) {
            flag.store(ready, Ordering::Relaxed);
        }
    }

    /// From now on not ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn ready(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
            && self.lanes.iter().all(|lane| lane.load(Ordering::Relaxed))
    }
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// All that is served.
pub fn pages(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    let metrics_page = |State(shared): State<Shared>| async move {
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.text())
    };
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Shared { metrics, health })
}

/// Serves `pages` until the future is dropped. Gives the address too, for a port of 0.
pub async fn serve(
    listen: SocketAddr,
    pages: Router,
) -> std::io::Result<(SocketAddr, impl Future<Output = std::io::Result<()>>)> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    Ok((address, async move { axum::serve(listener, pages).await }))
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.health.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: a lane starts, waits for the broker or a topic, tries again, or stops\n",
        )
    }
}

async fn index() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><meta charset=utf-8><title>veilstream</title><h1>veilstream ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul><li><a href=/metrics>metrics</a><li><a href=/readyz>ready</a><li><a href=/healthz>alive</a></ul>"
    ))
}
