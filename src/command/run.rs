//! `veilstream run`: the worker.

use std::io::Write;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};

use super::{Exit, OrUsage};
use crate::cluster::{self, Finding, Level};
use crate::config::Config;
use crate::kafka::ClientSettings;
use crate::plans::policies;
use crate::telemetry::{self, Remote, Traces};
use crate::worker::Worker;

/// Run the worker until SIGTERM; SIGHUP or a changed file reloads the policies
#[derive(Args)]
pub struct Run {
    /// The configuration; config/worker.yaml shows every option
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// Only look whether configuration, policies, keys and the live cluster fit, and say what to mend
    #[arg(long)]
    check: bool,
    /// With --check: for scripts
    #[arg(long, requires = "check")]
    json: bool,
}

impl Run {
    pub fn run(self) -> Result<(), Exit> {
        let config = Config::load(&self.config).or_usage()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        if self.check {
            if let Some(remote) = &config.telemetry.remote {
                runtime.block_on(Remote::check(remote, &config.folder)).or_usage()?;
            }
            if let Some(traces) = &config.telemetry.traces {
                Traces::check(traces, &config.folder).or_usage()?;
            }
            return check(&config, self.json);
        }
        telemetry::start_logs(config.telemetry.log_format, &config.telemetry.log_level)
            .or_usage()?;
        runtime.block_on(async {
            let ended = match Worker::start(config, None).await {
                Ok(worker) => worker.run().await,
                Err(error) => Err(error),
            };
            ended.map_err(|error| match error.is_configuration() {
                true => Exit::Usage(error.into()),
                false => Exit::Failed(error.into()),
            })
        })
    }
}

fn check(config: &Config, json: bool) -> Result<(), Exit> {
    let policies = policies(config).or_usage()?;
    super::plans(config)?;
    let settings = ClientSettings::new(config).or_usage()?;
    let findings = cluster::check(config, &policies, &settings);
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{:#}", serde_json::to_value(&findings)?)?,
        false => show(&mut out, &findings)?,
    }
    match findings.iter().filter(|finding| finding.level == Level::Error).count() {
        0 => Ok(()),
        errors => Err(Exit::Failed(anyhow!("{errors} of {} checks failed", findings.len()))),
    }
}

fn show(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for Finding { level, what, found, fix } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "ERROR",
        };
        let told = if fix.is_empty() { found.clone() } else { format!("{found}\n-> {fix}") };
        table.add_row([level, what, &told]);
    }
    writeln!(out, "{table}")
}
