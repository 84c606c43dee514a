//! `veilstream acl`: what Kafka allows the worker and the readers of views: planned, made, and held against the cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, OrUsage, printable};
use crate::cluster::acl::{self, Comparison, Outsider, Reached};
use crate::cluster::{self, Kind, Wanted};
use crate::config::Config;
use crate::kafka::{Admin, Binding, ClientSettings, KafkaProblem, Pattern, Permission, Resource};
use crate::plans::{policies, roles};
use crate::policy::{Policy, Topics};

/// How long brokers have to hear of what has changed.
const SETTLED: Duration = Duration::from_secs(10);

/// Plan, make and audit what Kafka allows the worker and the roles
#[derive(Subcommand)]
pub enum Acl {
    /// Show what would be allowed, and what is allowed beyond; nothing is changed
    Plan(Place),
    /// Allow what is missing
    Apply {
        #[command(flatten)]
        place: Place,
        /// Take away what the worker and the principals of roles are allowed beyond
        #[arg(long)]
        prune: bool,
    },
    /// Find what differs, and who else may read or write these topics; status 1 if anything is found
    Audit(Place),
}

#[derive(Args)]
pub struct Place {
    /// The worker's configuration; `access` names the roles
    #[arg(short, long, env = "VEILSTREAM_CONFIG")]
    config: PathBuf,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// What was asked, and what the cluster answered.
struct Look {
    admin: Admin,
    bootstrap: String,
    topics: Vec<Wanted>,
    managed: BTreeSet<String>,
    /// What the reader should know.
    notes: Vec<String>,
    there: Vec<Binding>,
    comparison: Comparison,
}

impl Acl {
    pub fn run(self) -> Result<(), Exit> {
        match self {
            Acl::Plan(place) => plan(&Look::at(&place.config)?, place.json, "-"),
            Acl::Apply { place, prune } => {
                let look = Look::at(&place.config)?;
                plan(&look, place.json, if prune { "-" } else { "!" })?;
                if !place.json && !prune && !look.comparison.excess.is_empty() {
                    writeln!(std::io::stdout(), "# ! is allowed beyond: --prune takes it away")?;
                }
                look.change(prune)
            }
            Acl::Audit(place) => audit(&Look::at(&place.config)?, place.json),
        }
    }
}

impl Look {
    fn at(file: &std::path::Path) -> Result<Look, Exit> {
        let config = Config::load(file).or_usage()?;
        let policies = policies(&config).or_usage()?;
        let roles = roles(&config, &policies).or_usage()?.ok_or_else(|| {
            let file = file.display();
            Exit::Usage(anyhow!(
                "{file}: `access.roles` is needed, the file that says who reads what"
            ))
        })?;
        let worker = acl::principal(&config).or_usage()?;
        let settings = ClientSettings::new(&config).or_usage()?;
        let admin = Admin::open(&settings).or_usage()?;
        let bootstrap = config.kafka.bootstrap.clone();
        let failed = |error| reached(&bootstrap, error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Topics that a pattern matches are known when the cluster has been asked.
        let cluster = runtime.block_on(admin.state(&BTreeSet::new())).map_err(failed)?;
        let there = admin.acls().map_err(failed)?;
        let cluster = acl::with_allowed(cluster, &worker, &there);
        let topics = cluster::wanted(&config, &policies, &cluster);
        let wanted = acl::wanted(&config, &policies, &roles, &topics, &worker).or_usage()?;
        let managed = acl::managed(&worker, &roles);
        let comparison = acl::compare(&wanted, &managed, &there);
        let told = config.access.as_ref().is_some_and(|access| access.principal.is_some());
        let by = if told { "access.principal" } else { "kafka.security.sasl" };
        let mut notes = vec![format!("the worker is {worker}, by {by}")];
        notes.extend(policies.iter().filter_map(|policy| pattern(policy, &topics)));
        let idle = roles.roles.iter().filter(|role| role.principals.is_empty());
        notes.extend(idle.map(|role| {
            format!("the role {} has no principals: Kafka allows it nothing", role.name)
        }));
        Ok(Look { admin, bootstrap, topics, managed, notes, there, comparison })
    }

    fn change(&self, prune: bool) -> Result<(), Exit> {
        let Comparison { missing, excess, .. } = &self.comparison;
        let gone = if prune { excess.as_slice() } else { &[] };
        let (gone, unknown): (Vec<_>, Vec<_>) = gone.iter().cloned().partition(Binding::is_known);
        let failed = |error| reached(&self.bootstrap, error);
        self.admin.allow(missing).map_err(failed)?;
        self.admin.disallow(&gone).map_err(failed)?;
        if !(missing.is_empty() && gone.is_empty()) {
            self.settle(missing, &gone)?;
        }
        match unknown.len() {
            0 => Ok(()),
            some => Err(Exit::Failed(anyhow!(
                "{some} ACLs are of a kind that is not known here: remove them with kafka-acls"
            ))),
        }
    }

    /// Waits until the broker that is asked has heard of it from its controller.
    fn settle(&self, made: &[Binding], gone: &[Binding]) -> Result<(), Exit> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let there = self.admin.acls().map_err(|error| reached(&self.bootstrap, error))?;
            let known: BTreeSet<&Binding> = there.iter().collect();
            if made.iter().all(|one| known.contains(one))
                && !gone.iter().any(|one| known.contains(one))
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let late =
                    "the ACLs are changed, and the broker that is asked does not show it yet";
                return Err(Exit::Failed(anyhow!("{late}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn reached(bootstrap: &str, error: KafkaProblem) -> anyhow::Error {
    anyhow!("the cluster at {bootstrap}: {error}")
}

/// A pattern is allowed as the topics that there are: the next one has to be allowed as well.
fn pattern(policy: &Policy, topics: &[Wanted]) -> Option<String> {
    let Topics::Pattern(text) = &policy.topics else { return None };
    let matches = regex::Regex::new(text).ok()?;
    let sources = topics.iter().filter(|one| one.kind == Kind::Source);
    let names = sources.map(|one| one.spec.name.as_str()).filter(|name| matches.is_match(name));
    let names: Vec<_> = names.collect();
    let name = &policy.name;
    Some(match names.is_empty() {
        true => format!("{text} of {name} matches no topic yet: plan again when one is there"),
        false => {
            let names = names.join(", ");
            format!("{text} of {name} matches now: {names}; plan again when there are more")
        }
    })
}

#[derive(Serialize)]
struct Change<'b> {
    change: &'static str,
    #[serde(flatten)]
    binding: &'b Binding,
}

/// `excess` is the mark of what is allowed beyond.
fn plan(look: &Look, json: bool, excess: &str) -> Result<(), Exit> {
    let Comparison { missing, kept, denied, .. } = &look.comparison;
    let beyond = &look.comparison.excess;
    let mut out = std::io::stdout().lock();
    if json {
        let lists = [("none", kept), ("add", missing), ("excess", beyond), ("denied", denied)];
        let changes = lists
            .iter()
            .flat_map(|(change, list)| list.iter().map(|binding| Change { change, binding }));
        let changes: Vec<_> = changes.collect();
        let plan = serde_json::json!({ "notes": look.notes, "acls": changes });
        writeln!(out, "{plan:#}")?;
        return Ok(());
    }
    look.notes.iter().try_for_each(|note| writeln!(out, "# {}", printable(note)))?;
    show(&mut out, " ", kept, ": as it should be")?;
    show(&mut out, "+", missing, "")?;
    show(&mut out, excess, beyond, "")?;
    show(&mut out, "#", denied, ": left alone")?;
    Ok(())
}

fn audit(look: &Look, json: bool) -> Result<(), Exit> {
    let Comparison { missing, excess, denied, .. } = &look.comparison;
    let outsiders = acl::outsiders(&look.managed, &look.topics, &look.there);
    let mut out = std::io::stdout().lock();
    if json {
        let differences = [("missing", missing), ("excess", excess)];
        let mut all = Vec::new();
        for (finding, list) in differences {
            for binding in list {
                all.push(serde_json::to_value(Finding { finding, of: binding })?);
            }
        }
        for outsider in &outsiders {
            all.push(serde_json::to_value(Finding { finding: "outsider", of: outsider })?);
        }
        writeln!(out, "{:#}", serde_json::Value::Array(all))?;
    } else {
        show(&mut out, "+", missing, ": missing")?;
        show(&mut out, "-", excess, ": beyond its roles")?;
        for Outsider { binding, topics } in &outsiders {
            let line = line(std::slice::from_ref(binding));
            let topics: Vec<_> = topics.iter().map(reaches).collect();
            writeln!(out, "! {line}: reaches {}", topics.join(", "))?;
        }
        show(&mut out, "#", denied, "")?;
    }
    match missing.len() + excess.len() + outsiders.len() {
        0 => Ok(()),
        found => Err(Exit::Failed(anyhow!("{found} ACLs are not as they should be"))),
    }
}

#[derive(Serialize)]
struct Finding<'f, T> {
    finding: &'static str,
    #[serde(flatten)]
    of: &'f T,
}

fn reaches(Reached { topic, kind }: &Reached) -> String {
    format!("{} ({})", printable(topic), kind.name())
}

/// One line for all operations of a principal on a resource.
fn show(out: &mut impl Write, mark: &str, list: &[Binding], end: &str) -> std::io::Result<()> {
    let together = |one: &Binding, next: &Binding| {
        *next == Binding { operation: next.operation, ..one.clone() }
    };
    list.chunk_by(together).try_for_each(|some| writeln!(out, "{mark} {}{end}", line(some)))
}

/// Such as `User:analytics: READ, DESCRIBE on topic crm.analytics`.
fn line(alike: &[Binding]) -> String {
    let Some(first) = alike.first() else { return String::new() };
    let operations: Vec<&str> = alike.iter().map(|one| one.operation.into()).collect();
    let operations = operations.join(", ");
    let denied = match first.permission {
        Permission::Deny => "denied ",
        Permission::Allow => "",
        Permission::Unknown => "unknown ",
    };
    let kind = match first.resource {
        Resource::Cluster => "cluster",
        Resource::Topic => "topic",
        Resource::Group => "group",
        Resource::TransactionalId => "transactional id",
        Resource::Unknown => "an unknown resource",
    };
    let name = &first.name;
    let of = match (first.resource, first.pattern) {
        (Resource::Cluster, _) => "the cluster".into(),
        (_, Pattern::Prefixed) => format!("every {kind} {name}…"),
        (_, Pattern::Literal) if name == "*" => format!("every {kind}"),
        (_, Pattern::Literal) => format!("{kind} {name}"),
        (_, Pattern::Unknown) => format!("{kind} {name} in an unknown way"),
    };
    let host = match first.host.as_str() {
        "*" => String::new(),
        host => format!(" from {host}"),
    };
    printable(&format!("{}: {denied}{operations} on {of}{host}", first.principal))
}
