//! `veilstream reveal` and `approve`: what is sealed, shown to those who may see it, on the command line.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;

use super::{Exit, OrUsage, printable};
use crate::access::{AccessError, Actor, Answer, Asked, Desk, Outcome};
use crate::config::Config;
use crate::kafka::{ClientSettings, Trail};

/// Show encrypted values to whom the roles allow it; the audit trail has it first
///
/// Who asks is the operating system's user, whose roles stand under `users` in the file of roles.
#[derive(Args)]
pub struct Reveal {
    #[command(flatten)]
    place: Place,
    /// What the values are revealed for: one of `purposes` in the file of roles
    #[arg(long)]
    purpose: String,
    /// The view that the values stand in, as POLICY/VIEW
    #[arg(long, required_unless_present = "file")]
    view: Option<String>,
    /// Where they stand, as in the policy
    #[arg(long, required_unless_present = "file")]
    path: Option<String>,
    /// The class that they were sealed as, if the policy has the path in another now
    #[arg(long)]
    class: Option<String>,
    /// Of `mode: fpe`: the version of the key, if it was rotated since
    #[arg(long)]
    key_version: Option<u32>,
    /// Instead of VALUE: lines of JSON, `{"view": ..., "path": ..., "value": ...}`; `-` for standard input
    #[arg(long, conflicts_with_all = ["view", "path", "class", "key_version", "values"])]
    file: Option<PathBuf>,
    /// A second person's yes, as `veilstream approve` gave it
    #[arg(long)]
    approval: Option<String>,
    /// For scripts: a line of JSON for each value
    #[arg(long)]
    json: bool,
    /// The encrypted values
    #[arg(required_unless_present = "file")]
    values: Vec<String>,
}

/// Agree to what somebody else wants to see, after a look at what it is
#[derive(Args)]
pub struct Approve {
    #[command(flatten)]
    place: Place,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The request, as `veilstream reveal` gave it
    request: String,
}

#[derive(Args)]
struct Place {
    /// The worker's configuration, with `access`
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
}

impl Place {
    fn open(&self) -> Result<(Desk, Actor), Exit> {
        let config = Config::load(&self.config).or_usage()?;
        let access = config.access.clone();
        let access =
            access.ok_or_else(|| anyhow!("`access.roles`: nobody may reveal anything without"));
        let access = access.or_usage()?;
        let settings = ClientSettings::new(&config).or_usage()?;
        let plans = super::plans(&config)?;
        let mut actor = Actor::user();
        let trail = Trail::new(&settings, &config.audit.topic, &format!("cli-{}", actor.name));
        let desk = Desk::new(move || plans.in_force(), trail, &access);
        actor.roles = desk.roles_of_user(&actor.name);
        Ok((desk, actor))
    }
}

impl Reveal {
    pub fn run(self) -> Result<(), Exit> {
        let asked = crate::access::Reveal {
            values: self.asked().or_usage()?,
            purpose: self.purpose,
            approval: self.approval,
        };
        let (desk, actor) = self.place.open()?;
        let revealed = desk.reveal(&actor, &asked).map_err(exit)?;
        let mut out = std::io::stdout().lock();
        for (answer, asked) in revealed.answers.iter().zip(&asked.values) {
            show(&mut out, answer, asked, self.json)?;
        }
        out.flush()?;
        if let Some(request) = &revealed.request {
            match self.json {
                true => writeln!(out, "{}", serde_json::json!({ "request": request }))?,
                false => eprintln!(
                    "Somebody else who may see the same has to agree within the hour:\n\n  \
                     veilstream approve -c {} {request}\n\nand you ask again with --approval and what that gives.",
                    self.place.config.display()
                ),
            }
        }
        let of =
            |outcome| revealed.answers.iter().filter(|answer| answer.outcome == outcome).count();
        match of(Outcome::Revealed) == revealed.answers.len() {
            true => Ok(()),
            false => {
                let told = Outcome::ALL.iter().filter(|outcome| of(**outcome) > 0);
                let told: Vec<_> =
                    told.map(|outcome| format!("{} {}", of(*outcome), outcome.name())).collect();
                let who = format!("{} with the roles [{}]", actor.name, actor.roles.join(", "));
                Err(Exit::Failed(anyhow!("{who}: {}", told.join(", "))))
            }
        }
    }

    fn asked(&self) -> anyhow::Result<Vec<Asked>> {
        let Some(file) = &self.file else {
            let of = |value: &String| Asked {
                view: self.view.clone().unwrap_or_default(),
                path: self.path.clone().unwrap_or_default(),
                value: value.clone(),
                class: self.class.clone(),
                version: self.key_version,
            };
            return Ok(self.values.iter().map(of).collect());
        };
        let input: Box<dyn BufRead> = match file.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => {
                let file = std::fs::File::open(file).with_context(|| file.display().to_string())?;
                Box::new(std::io::BufReader::new(file))
            }
        };
        let mut asked = Vec::new();
        for (at, line) in input.lines().enumerate() {
            let line = line.with_context(|| file.display().to_string())?;
            if line.trim().is_empty() {
                continue;
            }
            // serde's own words may quote what stands there.
            let one = serde_json::from_str(&line).map_err(|wrong| {
                anyhow!(
                    "{}:{}:{}: expected {{\"view\": \"POLICY/VIEW\", \"path\": \"PATH\", \"value\": \"...\"}}",
                    file.display(),
                    at + 1,
                    wrong.column()
                )
            })?;
            asked.push(one);
        }
        Ok(asked)
    }
}

impl Approve {
    pub fn run(self) -> Result<(), Exit> {
        let (desk, actor) = self.place.open()?;
        let ticket = desk.request(&self.request).map_err(exit)?;
        eprintln!(
            "{} asks, for the purpose {}, to see:",
            printable(&ticket.actor),
            printable(&ticket.purpose)
        );
        for (view, class) in &ticket.grants {
            eprintln!("  {class} of {view}");
        }
        if !self.yes {
            if !std::io::stdin().is_terminal() {
                return Err(Exit::Usage(anyhow!("nobody is there to be asked: say --yes")));
            }
            eprint!("Agree? (yes/no) ");
            let mut said = String::new();
            std::io::stdin().read_line(&mut said)?;
            if said.trim() != "yes" {
                return Err(Exit::Failed(anyhow!("nothing was agreed to")));
            }
        }
        let approval = desk.approve(&actor, &self.request).map_err(exit)?;
        let approval = approval.ok_or_else(|| {
            anyhow!(
                "{} may not agree: it is their own request, or more than they may see",
                actor.name
            )
        })?;
        writeln!(std::io::stdout(), "{approval}")?;
        Ok(())
    }
}

fn exit(error: AccessError) -> Exit {
    match error {
        AccessError::Invalid(_) => Exit::Usage(error.into()),
        _ => Exit::Failed(error.into()),
    }
}

fn show(out: &mut impl Write, answer: &Answer, asked: &Asked, json: bool) -> std::io::Result<()> {
    let value = answer.value.as_ref().map(|value| String::from_utf8_lossy(value.expose()));
    let outcome = answer.outcome.name();
    match json {
        true => {
            let names = serde_json::json!({ "view": asked.view, "path": asked.path });
            let names = names.to_string();
            let names = names.trim_end_matches('}');
            write!(out, "{names},\"outcome\":\"{outcome}\"")?;
            if let Some(value) = value {
                write!(out, ",\"value\":{value}")?;
            }
            if answer.unauthenticated {
                write!(out, ",\"unauthenticated\":true")?;
            }
            writeln!(out, "}}")
        }
        false => match value {
            Some(value) => writeln!(out, "{}", printable(&value)),
            None => writeln!(out, "({outcome})"),
        },
    }
}
