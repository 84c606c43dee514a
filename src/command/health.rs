//! `veilstream health`: asks a worker on this machine, for the health check of a container.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::{Exit, OrUsage};
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(5);

/// Ask a worker on this machine whether it lives; status 0 if it does
#[derive(Args)]
pub struct Health {
    /// The worker's configuration: it says where to ask
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// Ask whether it works, or could: `/readyz` instead of `/healthz`
    #[arg(long)]
    ready: bool,
}

impl Health {
    pub fn run(self) -> Result<(), Exit> {
        let config = Config::load(&self.config).or_usage()?;
        let page = if self.ready { "/readyz" } else { "/healthz" };
        Ok(ask(&config, page)?)
    }
}

fn ask(config: &Config, page: &str) -> Result<(), anyhow::Error> {
    let address = config.telemetry.listen;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no worker answers at {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => print!("{body}"),
        Some("503") => bail!("{}", body.trim_end()),
        _ => bail!("what answers at {address} is no worker"),
    }
    Ok(())
}
