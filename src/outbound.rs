//! Requests that the worker makes of other machines: which addresses it takes, and whom it trusts there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig};

/// An address, and whether it is of this machine, which needs no TLS for what is secret.
pub struct Endpoint {
    pub uri: Uri,
    pub host: String,
    pub is_here: bool,
}

impl Endpoint {
    /// `http` or `https`, without a user in it; None otherwise.
    pub fn parse(text: &str) -> Option<Endpoint> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().to_owned();
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return None;
        }
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
        Some(Endpoint { uri, host, is_here })
    }

    /// Whether a secret may be sent there.
    pub fn is_safe(&self) -> bool {
        self.is_here || self.uri.scheme_str() == Some("https")
    }
}

/// A client that trusts the authorities of a PEM file, or the system's. An answer is an answer, whatever its status.
/// The error says what is wrong with the file.
pub fn agent(authorities: Option<&Path>, patience: Duration) -> Result<Agent, String> {
    let roots = match authorities {
        None => RootCerts::PlatformVerifier,
        Some(file) => read(file)?,
    };
    Ok(Agent::config_builder()
        .timeout_global(Some(patience))
        .http_status_as_error(false)
        // Headers are for this address alone, and the way to it is not the environment's to say.
        .max_redirects(0)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
        .new_agent())
}

fn read(file: &Path) -> Result<RootCerts, String> {
    let pem = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(one) = item.map_err(|error| error.to_string())? {
            certificates.push(one);
        }
    }
    match certificates.is_empty() {
        true => Err("holds no certificate".to_owned()),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
