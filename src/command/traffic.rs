//! `veilstream traffic`: made-up CRM changes, for trying things out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::customers::Customers;
use super::{Exit, OrUsage};
use crate::config::Config;
use crate::kafka::{ClientSettings, Writer};

/// Write made-up CRM changes to a topic, until SIGTERM or Ctrl-C
#[derive(Args)]
pub struct Traffic {
    /// The configuration: it says where the cluster is
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// The topic; everything in it is made up
    #[arg(long, default_value = "crm.customers.raw")]
    topic: String,
    /// Events a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// End after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
}

impl Traffic {
    pub fn run(self) -> Result<(), Exit> {
        let config = Config::load(&self.config).or_usage()?;
        let settings = ClientSettings::new(&config).or_usage()?;
        let writer = Writer::open(&settings)?;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = {
            let (stop, rate, topic) = (Arc::clone(&stop), self.rate, self.topic.clone());
            std::thread::spawn(move || write(&writer, &topic, rate, &stop))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(until_told(self.seconds, || writing.is_finished()))?;
        stop.store(true, Ordering::Relaxed);
        let written = writing.join().map_err(|_| anyhow::anyhow!("the writer failed"))?;
        let written = written.with_context(|| format!("writing to {}", self.topic))?;
        println!("{written} events written to {}", self.topic);
        Ok(())
    }
}

async fn until_told(seconds: Option<u64>, ended: impl Fn() -> bool) -> Result<(), std::io::Error> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let end = Duration::from_secs(seconds.unwrap_or(u64::from(u32::MAX)));
    let end = tokio::time::sleep(end);
    tokio::pin!(end);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            () = &mut end => return Ok(()),
            _ = tick.tick() => if ended() { return Ok(()) },
        }
    }
}

/// Writes customers' changes at a steady rate until told to stop; gives how many records.
pub fn write(writer: &Writer, topic: &str, rate: u32, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut customers = Customers::new();
    let began = Instant::now();
    let mut written = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while written < due {
            for record in customers.next() {
                writer.write(topic, &record)?;
                written += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    writer.flush()?;
    Ok(written)
}
