//! The same pages for other machines: over TLS, and to those that show a token.

use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{ConnectionShutdown, Handle};
use subtle::ConstantTimeEq;

use crate::config::{self, ConfigError};
use crate::crypto::Secret;

/// A token shorter than this is guessed too easily, in bytes.
const SHORTEST_TOKEN: usize = 16;
/// Who shows no token must not take the worker's file descriptors: a connection beyond so many is closed at once.
const MOST_CONNECTIONS: usize = 64;
/// The handshake, and then the first request, may take so long each. There is no second one on a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// These say no more than that the worker lives or works: probes come without a token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// What is below asks each for a token of its own.
const NAMED: &str = "/v1/";

/// Why nothing is served to other machines.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("telemetry.remote.listen {0}: {1}")]
    Listen(SocketAddr, io::Error),
    #[error("telemetry.remote: {certificate} and {key} are no certificate and its key: {error}")]
    Certificate { certificate: PathBuf, key: PathBuf, error: io::Error },
    #[error("telemetry.remote.token: {0}")]
    Secret(#[from] ConfigError),
    #[error("telemetry.remote.token: shorter than {SHORTEST_TOKEN} bytes")]
    Token,
}

type Token = Arc<RwLock<Secret<String>>>;

/// What is served to other machines, and what can be renewed of it.
#[derive(Clone)]
pub struct Remote {
    tls: RustlsConfig,
    token: Token,
}

impl Remote {
    /// Whether certificate, key and token are there and fit.
    pub async fn check(config: &config::Remote, folder: &Path) -> Result<(), RemoteError> {
        token(config, folder)?;
        tls(config, folder).await.map(|_| ())
    }

    /// Serves `pages` until the future is dropped. Gives the address too, for a port of 0.
    pub async fn serve(
        config: &config::Remote,
        folder: &Path,
        pages: Router,
    ) -> Result<(Remote, SocketAddr, impl Future<Output = io::Result<()>> + use<>), RemoteError>
    {
        let token = Arc::new(RwLock::new(token(config, folder)?));
        let tls = tls(config, folder).await?;
        let refused = |error| RemoteError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let pages = pages.layer(middleware::from_fn_with_state(Arc::clone(&token), guard));
        let handle = Handle::new();
        let bounded = Bounded(handle.clone());
        let acceptor = RustlsAcceptor::new(tls.clone()).handshake_timeout(PATIENCE);
        let server = axum_server::from_tcp(listener).map_err(refused)?;
        let server = server.acceptor(acceptor.acceptor(bounded)).handle(handle);
        let mut server = server.first_request_timeout(PATIENCE);
        server.http_builder().http1().header_read_timeout(PATIENCE);
        let serving = server.serve(pages.into_make_service());
        Ok((Remote { tls, token }, address, serving))
    }

    /// Takes in a renewed certificate and token; both or none.
    pub async fn renew(&self, config: &config::Remote, folder: &Path) -> Result<(), RemoteError> {
        let token = token(config, folder)?;
        let (certificate, key) = files(config, folder);
        let renewed = self.tls.reload_from_pem_file(&certificate, &key).await;
        renewed.map_err(|error| RemoteError::Certificate { certificate, key, error })?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }
}

fn files(config: &config::Remote, folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join(&config.certificate), folder.join(&config.key))
}

async fn tls(config: &config::Remote, folder: &Path) -> Result<RustlsConfig, RemoteError> {
    let (certificate, key) = files(config, folder);
    let read = RustlsConfig::from_pem_file(&certificate, &key).await;
    read.map_err(|error| RemoteError::Certificate { certificate, key, error })
}

fn token(config: &config::Remote, folder: &Path) -> Result<Secret<String>, RemoteError> {
    let token = config.token.read(folder)?;
    match token.expose().len() < SHORTEST_TOKEN {
        true => Err(RemoteError::Token),
        false => Ok(token),
    }
}

/// Takes connections as long as there are not too many, those in their handshake among them.
#[derive(Clone)]
struct Bounded(Handle<SocketAddr>);

impl<I, S> Accept<I, S> for Bounded {
    type Stream = I;
    type Service = S;
    type Future = Ready<io::Result<(I, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        ready(match self.0.connection_count() > MOST_CONNECTIONS {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok((stream, service)),
        })
    }
}

async fn guard(State(token): State<Token>, request: Request, next: Next) -> Response {
    if let Some(connection) = request.extensions().get::<ConnectionShutdown>() {
        // After the answer. A scrape in fifteen seconds may connect anew.
        connection.graceful_shutdown();
    }
    let path = request.uri().path();
    if OPEN.contains(&path) || path.starts_with(NAMED) || shows(&request, &token) {
        return next.run(request).await;
    }
    let challenge = [(WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, "Authorization: Bearer TOKEN\n").into_response()
}

fn shows(request: &Request, token: &Token) -> bool {
    let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let Some(shown) = header.and_then(|value| value.strip_prefix(b"Bearer ")) else {
        return false;
    };
    let token = token.read().unwrap_or_else(PoisonError::into_inner);
    bool::from(token.expose().as_bytes().ct_eq(shown))
}
