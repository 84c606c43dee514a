//! `veilstream erase`, `hold`, `release`: a person is forgotten, or may not be.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, OrUsage};
use crate::access::Actor;
use crate::config::Config;
use crate::erasure::{
    self, Act, Clerk, EraseError, Outcome, Registry, Step, Wish, Wisher, bound_ms, fixed,
};
use crate::kafka::ClientSettings;
use crate::plans::Plans;

/// Forget a person: destroy their keys, delete what compacted views hold, and see that nothing opens any more
///
/// The keys are destroyed at once. The rest begins when no worker can have one in use any more, which is waited for; it is
/// resumed by the workers, or by --finish, should this end before.
#[derive(Args)]
pub struct Erase {
    #[command(flatten)]
    whom: Whom,
    /// Why; it stays in the audit trail, and must not name the person
    #[arg(long, required_unless_present_any = ["status", "finish"])]
    reason: Option<String>,
    /// Leave the rest to the workers
    #[arg(long, conflicts_with_all = ["status", "finish"])]
    no_wait: bool,
    /// Only say how it stands with the person: active, held, erasing, erased
    #[arg(long, conflicts_with_all = ["reason", "finish"])]
    status: bool,
    /// Finish what is not done, of everybody
    #[arg(long, conflicts_with_all = ["subject", "reason"])]
    finish: bool,
}

/// Hold the erasure of a person up (legal hold): requests are refused until `release`
#[derive(Args)]
pub struct Hold {
    #[command(flatten)]
    whom: Whom,
    /// Why; it stays in the audit trail, and must not name the person
    #[arg(long)]
    reason: String,
}

/// End a hold; what was requested meanwhile has to be requested again
#[derive(Args)]
pub struct Release {
    #[command(flatten)]
    whom: Whom,
    /// Why; it stays in the audit trail, and must not name the person
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
struct Whom {
    /// The worker's configuration, with `key_store`
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// Whom the person is among, where the policies have several populations
    #[arg(long)]
    population: Option<String>,
    /// The person, as the policy's `subject` has it; `-` reads it from standard input, where no other process sees it
    subject: Option<String>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// How long is waited for another who is at it.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

struct Place {
    config: Config,
    settings: ClientSettings,
    plans: Arc<Plans>,
    registry: Registry,
    actor: Actor,
}

impl Whom {
    fn open(&self) -> Result<Place, Exit> {
        let config = Config::load(&self.config).or_usage()?;
        if config.key_store.is_none() {
            return Err(Exit::Usage(EraseError::NoStore.into()));
        }
        let settings = ClientSettings::new(&config).or_usage()?;
        let plans = super::plans(&config)?;
        let mut actor = Actor::user();
        if let Some(roles) = &plans.roles {
            actor.roles = roles.of_user(&actor.name);
        }
        let name = format!("cli-{}", actor.name);
        let registry = Registry::new(fixed(&plans), &settings, &config, &name);
        if !registry.allows(&actor.roles) {
            let by = Wisher { name: actor.name.clone(), by: actor.by.name() };
            registry.denied(&by).map_err(exit)?;
            let why = "no role of theirs has `erase: true` in the file of roles";
            return Err(Exit::Failed(anyhow!(
                "{} may not have anybody forgotten: {why}",
                actor.name
            )));
        }
        Ok(Place { config, settings, plans, registry, actor })
    }

    fn subject(&self) -> Result<String, Exit> {
        match self.subject.as_deref() {
            Some("-") => {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line)?;
                Ok(line.trim_end_matches(['\r', '\n']).to_owned())
            }
            Some(subject) => Ok(subject.to_owned()),
            None => Err(Exit::Usage(anyhow!("SUBJECT: who is it?"))),
        }
    }

    fn ask(&self, act: Act, reason: &str) -> Result<(Place, erasure::Whom, Outcome), Exit> {
        let place = self.open()?;
        let wish = Wish {
            subject: self.subject()?,
            population: self.population.clone(),
            reason: reason.to_owned(),
        };
        let by = Wisher { name: place.actor.name.clone(), by: place.actor.by.name() };
        let whom = place.registry.whom(&wish.subject, wish.population.as_deref()).map_err(exit)?;
        let outcome = place.registry.ask(act, &wish, &by).map_err(exit)?;
        Ok((place, whom, outcome))
    }

    fn say(&self, state: &str, receipt: &str, more: &str) -> Result<(), Exit> {
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::json!({ "state": state, "receipt": receipt }))?,
            false => writeln!(out, "{state}{more}\nreceipt {receipt}")?,
        }
        Ok(())
    }
}

impl Hold {
    pub fn run(self) -> Result<(), Exit> {
        let (_, _, outcome) = self.whom.ask(Act::Hold, &self.reason)?;
        match outcome {
            Outcome::Changed { receipt, change: true } => self.whom.say("held", &receipt, ""),
            Outcome::TooLate { .. } => {
                Err(Exit::Failed(anyhow!("it is too late: the person is forgotten")))
            }
            other => self.whom.say("held", other.receipt(), ", as before"),
        }
    }
}

impl Release {
    pub fn run(self) -> Result<(), Exit> {
        let (_, _, outcome) = self.whom.ask(Act::Release, &self.reason)?;
        match outcome {
            Outcome::Changed { receipt, change: false } => {
                self.whom.say("released", &receipt, ": nothing was held")
            }
            other => self.whom.say("released", other.receipt(), ""),
        }
    }
}

impl Erase {
    pub fn run(self) -> Result<(), Exit> {
        if self.status {
            let place = self.whom.open()?;
            let whom = place.registry.whom(&self.whom.subject()?, self.whom.population.as_deref());
            let whom = whom.map_err(exit)?;
            let state = place.registry.state(&whom).map_err(exit)?.unwrap_or("unknown");
            return self.whom.say(state, &whom.receipt, "");
        }
        if self.finish {
            let place = self.whom.open()?;
            return self.wait(&place, None);
        }
        let (place, whom, outcome) =
            self.whom.ask(Act::Erase, self.reason.as_deref().unwrap_or_default())?;
        match outcome {
            Outcome::Held { receipt } => {
                self.whom.say("held", &receipt, "")?;
                Err(Exit::Failed(anyhow!(
                    "nothing is destroyed: it is held up; see `veilstream release`"
                )))
            }
            Outcome::Already { receipt, done: true } => {
                self.whom.say("erased", &receipt, ", before")
            }
            Outcome::Erasing { receipt, keys } => {
                let destroyed = format!(": {keys} keys destroyed");
                if self.no_wait {
                    return self.whom.say("erasing", &receipt, &destroyed);
                }
                self.wait(&place, Some(&whom))
            }
            other => match self.no_wait {
                true => self.whom.say("erasing", other.receipt(), ""),
                false => self.wait(&place, Some(&whom)),
            },
        }
    }

    /// Works on the list until this one is done, by whomever, or nothing is left.
    fn wait(&self, place: &Place, whom: Option<&erasure::Whom>) -> Result<(), Exit> {
        let clerk = Clerk {
            config: &place.config,
            settings: &place.settings,
            plans: Arc::clone(&place.plans),
        };
        let store = place.plans.keys.erasures().ok_or(EraseError::NoStore).or_usage()?;
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        let told = |step: &Step| {
            bar.set_message(match step {
                Step::Search(view, 0) => format!("looking through {view}"),
                Step::Search(view, records) => format!("looking through {view}: {records} records"),
                Step::Bury(view, count) => format!("deleting {count} records of {view}"),
                Step::Verify => "trying whether anything opens".into(),
                Step::Publish | Step::Close => "closing".into(),
            });
            true
        };
        let (mut done, mut tombstones) = (0, 0);
        let bound = Duration::from_millis(bound_ms(&place.config).unsigned_abs());
        let until = Instant::now() + bound + PATIENCE;
        loop {
            let worked = clerk.work(&told).map_err(exit)?;
            done += worked.done;
            tombstones += worked.tombstones;
            let left = match whom {
                Some(whom) => store.state(whom.subject).map(|state| state == Some("erasing")),
                None => store.unfinished().map(|left| left > 0),
            };
            if !left.map_err(|error| exit(error.into()))? {
                break;
            }
            if worked.failed > 0 {
                return Err(Exit::Failed(anyhow!(
                    "the keys are destroyed, but {} erasures are not done; the workers try again",
                    worked.failed
                )));
            }
            if Instant::now() > until {
                return Err(Exit::Failed(anyhow!(
                    "the keys are destroyed, and another is at the rest for long: see `--status` later"
                )));
            }
            let wait_ms = worked.wait_ms.unwrap_or(1000).clamp(100, 1000);
            bar.set_message(match worked.wait_ms {
                Some(wait) => {
                    format!("until no worker has the keys any more: {} s", wait / 1000 + 1)
                }
                None => "another is at it".into(),
            });
            std::thread::sleep(Duration::from_millis(wait_ms.unsigned_abs()));
        }
        bar.finish_and_clear();
        if let Some(whom) = whom {
            return self.whom.say("erased", &whom.receipt, "");
        }
        let mut out = std::io::stdout().lock();
        match self.whom.json {
            true => {
                let said = serde_json::json!({ "done": done, "tombstones": tombstones });
                writeln!(out, "{said}")?;
            }
            false => writeln!(
                out,
                "{done} erasures done, {tombstones} records deleted from compacted views"
            )?,
        }
        Ok(())
    }
}

fn exit(error: EraseError) -> Exit {
    match error {
        EraseError::Invalid(_) | EraseError::NoStore => Exit::Usage(error.into()),
        _ => Exit::Failed(error.into()),
    }
}
