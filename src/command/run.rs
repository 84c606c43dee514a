//! `veilstream run`: the worker.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, OrUsage};
use crate::config::Config;
use crate::telemetry;
use crate::worker::Worker;

/// Run the worker until SIGTERM; SIGHUP or a changed file reloads the policies
#[derive(Args)]
pub struct Run {
    /// The configuration; config/worker.yaml shows every option
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
}

impl Run {
    pub fn run(self) -> Result<(), Exit> {
        let config = Config::load(&self.config).or_usage()?;
        telemetry::start_logs(config.telemetry.log_format, &config.telemetry.log_level)
            .or_usage()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
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
