//! `veilstream quarantine`: what could not be sanitized: list it, look at one, send it through again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::{Exit, OrUsage};
use crate::access::Actor;
use crate::audit::Access;
use crate::config::Config;
use crate::crypto::KeySource;
use crate::kafka::{ClientSettings, OwnedRecord, Reader, Trail, Writer};
use crate::keys;
use crate::quarantine::{self, Coordinates, Opened};

/// The header of a record that came back out of quarantine.
const REPLAYED: &str = "veilstream-replayed";

/// List, show and replay quarantined records
#[derive(Subcommand)]
pub enum Quarantine {
    /// What is in quarantine, and why; nothing is opened
    List {
        #[command(flatten)]
        place: Place,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Open one record; the access is entered into the audit trail first
    Show {
        #[command(flatten)]
        place: Place,
        /// TOPIC/PARTITION/OFFSET of the source, as `list` prints it
        record: String,
        /// Why it has to be seen; stands in the audit trail
        #[arg(long)]
        purpose: String,
    },
    /// Publish records to their source topic again, say after the policy was mended
    Replay {
        #[command(flatten)]
        place: Place,
        /// TOPIC/PARTITION/OFFSET of the source, as `list` prints it
        #[arg(required_unless_present = "all")]
        records: Vec<String>,
        /// All that quarantine holds
        #[arg(long, conflicts_with = "records")]
        all: bool,
        /// Why; stands in the audit trail
        #[arg(long)]
        purpose: String,
    },
}

#[derive(Args)]
pub struct Place {
    /// The worker's configuration
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
}

/// A quarantined record with where it came from.
struct Held {
    from: Coordinates,
    record: OwnedRecord,
}

impl Quarantine {
    pub fn run(self) -> Result<(), Exit> {
        match self {
            Quarantine::List { place, json } => list(&Desk::open(&place)?, json),
            Quarantine::Show { place, record, purpose } => {
                show(&Desk::open(&place)?, &record, &purpose)
            }
            Quarantine::Replay { place, records, all, purpose } => {
                replay(&Desk::open(&place)?, &records, all, &purpose)
            }
        }
    }
}

/// Who wants to open records, and whether they may.
struct Opener {
    actor: Actor,
    allowed: bool,
}

/// What the three have in common.
struct Desk {
    config: Config,
    settings: ClientSettings,
}

impl Desk {
    fn open(place: &Place) -> Result<Desk, Exit> {
        let config = Config::load(&place.config).or_usage()?;
        let settings = ClientSettings::new(&config).or_usage()?;
        Ok(Desk { config, settings })
    }

    /// All that is in quarantine, by where it came from: the latest of each.
    fn held(&self) -> anyhow::Result<Vec<Held>> {
        let topic = &self.config.quarantine.topic;
        let mut held = BTreeMap::new();
        let mut reader =
            Reader::open(&self.settings, topic).with_context(|| format!("topic {topic}"))?;
        let each = |record: Option<OwnedRecord>| {
            let Some(record) = record else { return true };
            let number = |name| record.header(name).and_then(|text| text.parse().ok());
            let topic = record.header(quarantine::TOPIC).map(str::to_owned);
            let parts = (topic, number(quarantine::PARTITION), number(quarantine::OFFSET));
            if let (Some(topic), Some(partition), Some(offset)) = parts {
                let from = Coordinates { topic, partition: partition as i32, offset };
                held.insert(from.clone(), Held { from, record });
            }
            true
        };
        reader.to_end(each)?;
        Ok(held.into_values().collect())
    }

    fn open_record(&self, keys: &dyn KeySource, held: &Held) -> anyhow::Result<Opened> {
        let value = held.record.value.as_deref().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| {
            anyhow!("{}: too large to be held; its digest stands for it", held.from)
        })?;
        quarantine::open(keys, &held.from, value).with_context(|| held.from.to_string())
    }

    /// The keys, for who may open quarantine: where there are roles, one of theirs has to say so.
    fn keys(&self) -> Result<(Opener, Arc<dyn KeySource>), Exit> {
        let mut actor = Actor::user();
        if self.config.access.is_none() {
            let keys = keys::open(&self.config).map_err(|error| match error.is_passing() {
                true => Exit::Failed(error.into()),
                false => Exit::Usage(error.into()),
            })?;
            return Ok((Opener { actor, allowed: true }, keys));
        }
        let plans = super::plans(&self.config)?;
        let roles = plans.roles.as_ref();
        actor.roles = roles.map(|roles| roles.of_user(&actor.name)).unwrap_or_default();
        let allowed = roles.is_some_and(|roles| roles.opens_quarantine(&actor.roles));
        Ok((Opener { actor, allowed }, Arc::clone(&plans.keys)))
    }

    /// Durably, before anything is shown. An error where it is denied.
    fn audit(
        &self,
        what: &'static str,
        purpose: &str,
        by: Opener,
        records: &[&Held],
    ) -> anyhow::Result<()> {
        let Opener { actor, allowed } = by;
        let access = Access {
            by: actor.by.name(),
            roles: actor.roles,
            what,
            purpose: purpose.to_owned(),
            allowed,
            approved_by: None,
            records: records.iter().map(|held| held.from.to_string()).collect(),
            values: Vec::new(),
            actor: actor.name,
        };
        let name = format!("cli-{}", access.actor);
        let trail = Trail::new(&self.settings, &self.config.audit.topic, &name);
        trail.write(|auditor| auditor.accessed(&access))?;
        match allowed {
            true => Ok(()),
            false => Err(anyhow!(
                "{} may not open quarantine: no role of theirs has `quarantine: true` in the file of roles",
                access.actor
            )),
        }
    }
}

fn list(desk: &Desk, json: bool) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    let held = desk.held()?;
    for Held { from, record } in &held {
        let of = |name| record.header(name).unwrap_or_default();
        if json {
            let entry = serde_json::json!({
                "record": from.to_string(),
                "stage": of(quarantine::STAGE),
                "reason": of(quarantine::REASON),
                "path": record.header(quarantine::PATH),
                "policy": of(crate::rewrite::POLICY_HEADER),
                "timestamp_ms": record.timestamp_ms,
            });
            writeln!(out, "{entry}")?;
        } else {
            let (stage, reason, path) =
                (of(quarantine::STAGE), of(quarantine::REASON), of(quarantine::PATH));
            writeln!(
                out,
                "{from}  {reason} ({stage}) {path}  {}",
                of(crate::rewrite::POLICY_HEADER)
            )?;
        }
    }
    if !json {
        writeln!(out, "{} records in {}", held.len(), desk.config.quarantine.topic)?;
    }
    Ok(())
}

fn show(desk: &Desk, wanted: &str, purpose: &str) -> Result<(), Exit> {
    let (by, keys) = desk.keys()?;
    let held = desk.held()?;
    let found = held.iter().find(|held| held.from.to_string() == wanted);
    let found = found.ok_or_else(|| anyhow!("{wanted} is not in quarantine"))?;
    if !by.allowed {
        return Ok(desk.audit("quarantine-show", purpose, by, &[found])?);
    }
    let opened = desk.open_record(keys.as_ref(), found)?;
    desk.audit("quarantine-show", purpose, by, &[found])?;
    let mut out = std::io::stdout().lock();
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        None => "(none)".to_owned(),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => super::printable(text),
            Err(_) => bytes.escape_ascii().to_string(),
        },
    };
    writeln!(out, "key: {}", text(&opened.key))?;
    for (name, value) in &opened.headers {
        writeln!(out, "header {name}: {}", text(value))?;
    }
    writeln!(out, "value: {}", text(&opened.value))?;
    Ok(())
}

fn replay(desk: &Desk, wanted: &[String], all: bool, purpose: &str) -> Result<(), Exit> {
    let (by, keys) = desk.keys()?;
    let held = desk.held()?;
    let chosen: Vec<&Held> =
        held.iter().filter(|held| all || wanted.contains(&held.from.to_string())).collect();
    if !all && chosen.len() < wanted.len() {
        let known = |one: &&String| !chosen.iter().any(|held| held.from.to_string() == **one);
        let missing = wanted.iter().find(known).cloned().unwrap_or_default();
        return Err(anyhow!("{missing} is not in quarantine").into());
    }
    if !by.allowed {
        return Ok(desk.audit("quarantine-replay", purpose, by, &chosen)?);
    }
    let mut opened = Vec::new();
    let mut unheld = 0;
    for held in &chosen {
        match held.record.value.as_deref() {
            None | Some([]) => unheld += 1,
            Some(_) => opened.push((*held, desk.open_record(keys.as_ref(), held)?)),
        }
    }
    let chosen: Vec<&Held> = opened.iter().map(|(held, _)| *held).collect();
    desk.audit("quarantine-replay", purpose, by, &chosen)?;
    let writer = Writer::open(&desk.settings)?;
    let progress = indicatif::ProgressBar::new(opened.len() as u64);
    for (held, opened) in opened {
        let mut headers = opened.headers;
        headers.push((REPLAYED.into(), Some(held.from.to_string().into_bytes())));
        let record = OwnedRecord {
            timestamp_ms: opened.timestamp_ms,
            key: opened.key,
            value: opened.value,
            headers,
            ..OwnedRecord::default()
        };
        writer.write(&held.from.topic, &record)?;
        progress.inc(1);
    }
    writer.flush()?;
    progress.finish_and_clear();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} records published to their source topics again", chosen.len())?;
    if unheld > 0 {
        writeln!(out, "{unheld} were too large to be held, and have to come from their source")?;
    }
    Ok(())
}
