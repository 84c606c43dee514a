//! Arguments in, exit code out.
#![forbid(unsafe_code)]

use clap::Parser;

fn main() -> std::process::ExitCode {
    veilstream::telemetry::quiet_panics();
    veilstream::command::Cli::parse().run()
}
