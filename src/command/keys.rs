//! `veilstream keys`: the local keyset.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::{Exit, OrUsage};
use crate::keys::Keyset;

/// Make and list the keys of a local keyset
#[derive(Subcommand)]
pub enum Keys {
    /// Make a keyset file, readable by its owner alone
    Init {
        /// Where; a file that is there is never overwritten
        file: PathBuf,
    },
    /// List a keyset's keys, without the keys themselves
    List {
        /// The keyset
        file: PathBuf,
    },
}

impl Keys {
    pub fn run(self) -> Result<(), Exit> {
        let mut out = std::io::stdout();
        match self {
            Keys::Init { file } => {
                Keyset::generate().create(&file).or_usage()?;
                writeln!(out, "{}: made, mode 0600", file.display())?;
                writeln!(
                    out,
                    "Keep a copy in a safe place: without it, nothing that was encrypted can be opened."
                )?;
            }
            Keys::List { file } => {
                for (purpose, status, id, version) in Keyset::load(&file).or_usage()?.entries() {
                    writeln!(out, "{id}  version {version}  {:<10}  {status:?}", purpose.name())?;
                }
            }
        }
        Ok(())
    }
}
