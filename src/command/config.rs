//! `veilstream config`: the options, and what a file and the environment make of them.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::{Exit, OrUsage};
use crate::config::{self, Reference};

/// Show the configuration: its options, its schema, what is in force
#[derive(Subcommand)]
pub enum Config {
    /// The configuration that a worker would run with: the file, the environment over it, defaults
    Show {
        /// The configuration; config/worker.yaml shows every option
        #[arg(short, long, env = "VEILSTREAM_CONFIG")]
        config: PathBuf,
    },
    /// The JSON Schema of worker.yaml, for editors
    Schema,
    /// Every option with type, unit, default and reload behaviour, as Markdown
    Options,
}

impl Config {
    pub fn run(self) -> Result<(), Exit> {
        let mut out = std::io::stdout().lock();
        match self {
            Config::Show { config } => {
                let config = config::Config::load(&config).or_usage()?;
                write!(out, "{}", serde_saphyr::to_string(&config)?)?;
            }
            Config::Schema => writeln!(out, "{:#}", config::schema())?,
            Config::Options => write!(out, "{}", Reference::new().markdown())?,
        }
        Ok(())
    }
}
