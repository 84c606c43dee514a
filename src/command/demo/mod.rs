//! `veilstream demo`: an embedded broker, believable traffic, the worker, and what it makes of them.

/// Prints a line, if anybody still reads.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

mod screen;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::{Exit, traffic};
use crate::config::{Config, LogFormat};
use crate::kafka::{ClientSettings, EmbeddedBroker, Writer};
use crate::keys::Keyset;
use crate::telemetry;
use crate::worker::Worker;
use screen::Screen;

const POLICY: &str = include_str!("../../../config/policies/crm-customers.yaml");
const RAW: &str = "crm.customers.raw";
const TOPICS: [&str; 5] = [
    RAW,
    "crm.customers.analytics",
    "crm.customers.fraud",
    "veilstream.quarantine",
    "veilstream.audit",
];

/// See it work: an embedded broker, generated CRM traffic, the worker
#[derive(Args)]
pub struct Demo {
    /// End after so many seconds, with a summary; without it, at Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
    /// Events a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Where the metrics are served
    #[arg(long, default_value = "127.0.0.1:9464")]
    listen: std::net::SocketAddr,
}

impl Demo {
    pub fn run(self) -> Result<(), Exit> {
        telemetry::start_logs(LogFormat::Text, "warn")?;
        let folder = std::env::temp_dir().join(format!("veilstream-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let done = self.in_folder(&folder);
        let _ = std::fs::remove_dir_all(&folder);
        done
    }

    fn in_folder(&self, folder: &Path) -> Result<(), Exit> {
        let broker = EmbeddedBroker::start().context("the embedded broker")?;
        for topic in TOPICS {
            broker.create_topic(topic, 3)?;
        }
        let config = self.configuration(folder, &broker.bootstrap())?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        say!("veilstream {}: a demo of itself\n", env!("CARGO_PKG_VERSION"));
        say!(
            "  broker      librdkafka's mock cluster inside this process, on {}",
            broker.bootstrap()
        );
        say!(
            "              (no real transactions: the worker runs at-least-once here, exactly-once on Kafka)"
        );
        say!(
            "  traffic     {} events/s of customers created, changed, deleted; some are malformed",
            self.rate
        );
        say!("  policy      config/policies/crm-customers.yaml: views `analytics` and `fraud`");
        say!("  samples     green: as it came; yellow: treated; —: not in the view");
        let screen = Screen::new();
        let settings = ClientSettings::new(&config)?;
        let stop = Arc::new(AtomicBool::new(false));
        let worker = runtime.block_on(Worker::start(config, Some(Box::new(screen.clone()))))?;
        say!("  metrics     http://{}/metrics", worker.address);
        match self.seconds {
            Some(seconds) => say!("  ends        in {seconds} s\n"),
            None => say!("  ends        with Ctrl-C\n"),
        }
        let writer = Writer::open(&settings)?;
        let generator = {
            let (stop, rate) = (Arc::clone(&stop), self.rate);
            std::thread::spawn(move || traffic::write(&writer, RAW, rate, &stop))
        };
        let began = Instant::now();
        runtime.block_on(self.watch(&screen));
        stop.store(true, Ordering::Relaxed);
        let produced = generator.join().map_err(|_| anyhow::anyhow!("the generator failed"))??;
        // What was produced is worked off before the summary is drawn.
        let patience = Instant::now() + Duration::from_secs(10);
        while screen.seen() < produced && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        runtime.block_on(worker.stop())?;
        screen.summary(produced, began.elapsed());
        if screen.seen() < produced {
            return Err(
                anyhow::anyhow!("{} of {produced} events were dealt with", screen.seen()).into()
            );
        }
        Ok(())
    }

    /// Shows samples until the time is up.
    async fn watch(&self, screen: &Screen) {
        let end =
            self.seconds.map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
        let mut tick = tokio::time::interval(Duration::from_secs(2));
        tick.tick().await;
        loop {
            let over = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return,
                () = over => return,
                _ = tick.tick() => screen.show(),
            }
        }
    }

    fn configuration(&self, folder: &Path, bootstrap: &str) -> Result<Config, Exit> {
        std::fs::write(folder.join("policy.yaml"), POLICY)?;
        Keyset::generate().create(&folder.join("keys.json"))?;
        let text = format!(
            "kafka:\n  bootstrap: {bootstrap}\n  group_protocol: consumer\n\
             delivery: at-least-once\nlanes: 1\npolicies: [policy.yaml]\nkeys: keys.json\n\
             quarantine: {{ topic: veilstream.quarantine }}\naudit: {{ topic: veilstream.audit }}\n\
             telemetry: {{ listen: \"{}\" }}\n",
            self.listen
        );
        let file = folder.join("worker.yaml");
        std::fs::write(&file, text)?;
        Ok(Config { embedded: true, ..Config::load(&file)? })
    }
}
