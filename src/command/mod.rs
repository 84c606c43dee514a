//! The command line: one file per subcommand, which wires rooms together and prints.
//!
//! Exit codes: 0 done, 1 the work failed, 2 bad usage or configuration.

mod acl;
mod apply;
mod check;
mod config;
mod customers;
mod demo;
mod erase;
mod events;
mod explain;
mod health;
mod keys;
mod many;
mod operators;
mod preview;
mod quarantine;
mod reveal;
mod risk;
mod run;
mod topics;
mod traffic;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

/// Sanitizes CRM change events on Kafka: one raw topic in, one policy-checked stream per audience out.
#[derive(Parser)]
#[command(name = "veilstream", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Run(run::Run),
    Health(health::Health),
    Check(check::Check),
    #[command(subcommand)]
    Config(config::Config),
    Preview(preview::Preview),
    Explain(explain::Explain),
    Apply(apply::Apply),
    Risk(risk::Risk),
    Operators(operators::Operators),
    #[command(subcommand)]
    Keys(keys::Keys),
    #[command(subcommand)]
    Topics(topics::Topics),
    #[command(subcommand)]
    Acl(acl::Acl),
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    Reveal(reveal::Reveal),
    Approve(reveal::Approve),
    Erase(erase::Erase),
    Hold(erase::Hold),
    Release(erase::Release),
    Traffic(traffic::Traffic),
}

/// How a command ended other than well.
enum Exit {
    /// Status 1.
    Failed(anyhow::Error),
    /// Status 2.
    Usage(anyhow::Error),
    /// Status 2; everything has been said.
    Refused,
}

impl<E: Into<anyhow::Error>> From<E> for Exit {
    fn from(error: E) -> Self {
        Exit::Failed(error.into())
    }
}

/// Marks an error as one of usage or configuration.
trait OrUsage<T> {
    fn or_usage(self) -> Result<T, Exit>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> Result<T, Exit> {
        self.map_err(|error| Exit::Usage(error.into()))
    }
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Demo(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Health(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Preview(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Apply(command) => command.run(),
            Command::Risk(command) => command.run(),
            Command::Operators(command) => command.run(),
            Command::Keys(command) => command.run(),
            Command::Topics(command) => command.run(),
            Command::Acl(command) => command.run(),
            Command::Quarantine(command) => command.run(),
            Command::Reveal(command) => command.run(),
            Command::Approve(command) => command.run(),
            Command::Erase(command) => command.run(),
            Command::Hold(command) => command.run(),
            Command::Release(command) => command.run(),
            Command::Traffic(command) => command.run(),
        };
        let (error, code) = match done {
            Ok(()) => return ExitCode::SUCCESS,
            Err(Exit::Refused) => return ExitCode::from(2),
            Err(Exit::Failed(error)) => (error, 1),
            Err(Exit::Usage(error)) => (error, 2),
        };
        // A reader that has seen enough is no failure: `veilstream operators | head`.
        let pipe = error.downcast_ref::<std::io::Error>();
        if pipe.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("veilstream: {error:#}");
        ExitCode::from(code)
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// Text for a terminal: no control character of an event reaches it, but line ends and tabs.
fn printable(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => character.to_string(),
        control if control.is_control() => control.escape_unicode().to_string(),
        other => other.to_string(),
    };
    text.chars().map(shown).collect()
}

/// A policy from its file; mistakes are printed, all of them.
fn policy(file: &std::path::Path) -> Result<crate::policy::Policy, Exit> {
    crate::policy::Policy::load(file).map_err(|diagnostics| {
        eprintln!("{diagnostics}");
        Exit::Refused
    })
}

/// The policies, roles and keys of a configuration. Keys that are away are no wrong configuration.
fn plans(config: &crate::config::Config) -> Result<std::sync::Arc<crate::plans::Plans>, Exit> {
    use crate::plans::LoadError;
    let loaded = crate::plans::Plans::load(config);
    loaded.map(std::sync::Arc::new).map_err(|error| match &error {
        LoadError::Keys(keys) if keys.is_passing() => Exit::Failed(error.into()),
        _ => Exit::Usage(error.into()),
    })
}
