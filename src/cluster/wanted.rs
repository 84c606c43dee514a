//! The topics that a worker needs, and how they differ from those that are there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::config::Config;
use crate::kafka::{ClusterState, TopicSpec};
use crate::policy::{Format, KeyRule, Policy, Topics};

/// Partitions where nothing says how many.
const PARTITIONS: u32 = 6;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The broker's `message.max.bytes` unless somebody changed it.
const DEFAULT_LARGEST: u64 = 1_048_588;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Source,
    View,
    Quarantine,
    Audit,
    /// Requests of erasure.
    Requests,
    /// What views hold.
    State,
}

impl Kind {
    /// The worker reads it; others are written by it.
    pub fn is_read(self) -> bool {
        matches!(self, Kind::Source | Kind::Requests)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::View => "view",
            Kind::Quarantine => "quarantine",
            Kind::Audit => "audit",
            Kind::Requests => "requests",
            Kind::State => "state",
        }
    }
}

/// A topic that a worker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub kind: Kind,
    pub spec: TopicSpec,
    /// Records without a key are published to it.
    pub keyless: bool,
    /// The source topics that feed it, as far as they have names.
    pub sources: Vec<String>,
    /// Names of settings that the configuration gives; the others are what veilstream would choose.
    pub told: BTreeSet<String>,
    /// Whether the configuration says how many partitions.
    pub counted: bool,
}

/// How the cluster differs from what is wanted of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Difference {
    /// It is as it should be.
    None {
        topic: String,
    },
    Create {
        topic: TopicSpec,
    },
    /// Other settings; each with what it is now.
    Alter {
        topic: String,
        settings: BTreeMap<String, String>,
        now: BTreeMap<String, String>,
    },
    /// What veilstream does not change.
    Left {
        topic: String,
        #[serde(flatten)]
        why: Why,
    },
}

/// Why something is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Why {
    /// A source topic is its producer's to make.
    Source,
    /// More partitions would send a key elsewhere than its past.
    Partitions {
        now: usize,
        wanted: u32,
    },
    Replicas {
        now: usize,
        wanted: u32,
    },
    /// Somebody set it on the topic, or to change it would discard records, and the configuration says nothing of it.
    Set {
        setting: String,
        now: String,
        wanted: String,
    },
    /// This user may not see its settings.
    Unseen,
}

impl Difference {
    pub fn topic(&self) -> &str {
        match self {
            Difference::Create { topic } => &topic.name,
            Difference::None { topic }
            | Difference::Alter { topic, .. }
            | Difference::Left { topic, .. } => topic,
        }
    }
}

fn owned(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Every topic of these policies, in the order source, views, quarantine, audit, requests, state.
pub fn wanted(config: &Config, policies: &[Policy], cluster: &ClusterState) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut add = |kind, name: &str, sources: &[String], keyless, settings: &[(&str, &str)]| {
        if let Some(known) = all.iter_mut().find(|known| known.spec.name == name) {
            known.sources.extend_from_slice(sources);
            known.keyless |= keyless;
            return;
        }
        let each = config.topics.each.get(name);
        let told = each.map(|each| each.settings.clone()).unwrap_or_default();
        let partitions = each.and_then(|each| each.partitions);
        let replicas = config.topics.replication_factor.map(std::num::NonZeroU32::get);
        let mut chosen = owned(settings);
        if kind != Kind::Source && replicas.is_some_and(|replicas| replicas >= 3) {
            chosen.insert("min.insync.replicas".into(), "2".into());
        }
        let names = told.keys().cloned().collect();
        chosen.extend(told);
        all.push(Wanted {
            kind,
            spec: TopicSpec {
                name: name.to_owned(),
                partitions: partitions.map_or(PARTITIONS, std::num::NonZeroU32::get),
                replicas,
                settings: chosen,
            },
            keyless,
            sources: sources.to_vec(),
            told: names,
            counted: partitions.is_some(),
        });
    };
    for policy in policies {
        for source in sources(policy, cluster) {
            add(Kind::Source, &source, &[], false, &[]);
        }
    }
    for policy in policies {
        let sources = sources(policy, cluster);
        for view in &policy.views {
            let keyless = view.key == KeyRule::Drop;
            // The changes of rows with keys are a table: the last of each is what counts.
            let table = policy.format == Format::Debezium && !keyless;
            let cleanup = if table { "compact" } else { "delete" };
            add(Kind::View, &view.topic, &sources, keyless, &[("cleanup.policy", cleanup)]);
        }
    }
    let every: Vec<_> = policies.iter().flat_map(|policy| sources(policy, cluster)).collect();
    let retention = |days: u64| (days * DAY_MS).to_string();
    add(
        Kind::Quarantine,
        &config.quarantine.topic,
        &every,
        false,
        &[
            ("cleanup.policy", "delete"),
            ("retention.ms", &retention(30)),
            // The age counts from when it got there: the raw record may be old.
            ("message.timestamp.type", "LogAppendTime"),
        ],
    );
    add(
        Kind::Audit,
        &config.audit.topic,
        &[],
        false,
        &[("cleanup.policy", "delete"), ("retention.ms", &retention(400))],
    );
    if let Some(erasure) = &config.erasure {
        // People stand in it by name: not for longer than it takes to read it.
        let settings = [("cleanup.policy", "delete"), ("retention.ms", &retention(7))];
        add(Kind::Requests, &erasure.topic, &[], false, &settings);
    }
    let holds = policies.iter().flat_map(|policy| &policy.views).any(|view| view.rule.is_some());
    if let Some(state) = config.state.as_ref().filter(|_| holds) {
        add(Kind::State, &state.topic, &every, false, &[("cleanup.policy", "compact")]);
    }
    fit_to_sources(&mut all, cluster);
    all
}

/// The source topics that have names, and those that are there of a pattern.
pub(super) fn sources(policy: &Policy, cluster: &ClusterState) -> Vec<String> {
    match &policy.topics {
        Topics::Named(names) => names.clone(),
        Topics::Pattern(text) => {
            let pattern = regex::Regex::new(text);
            let names = cluster.topics.keys();
            pattern.map_or(Vec::new(), |pattern| {
                names.filter(|name| pattern.is_match(name)).cloned().collect()
            })
        }
    }
}

/// A view has as many partitions as its largest source, and what is made of a record has room.
fn fit_to_sources(all: &mut [Wanted], cluster: &ClusterState) {
    let size = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    // Partitions and largest record of each source that is there or will be.
    let mut sources = BTreeMap::new();
    for Wanted { kind, spec, counted, .. } in all.iter() {
        let known = match cluster.topics.get(&spec.name) {
            Some(topic) => {
                (topic.partitions as u32, size(topic.setting("max.message.bytes")).unwrap_or(0))
            }
            None if *counted => {
                let told = spec.settings.get("max.message.bytes").map(String::as_str);
                (spec.partitions, size(told).unwrap_or(DEFAULT_LARGEST))
            }
            None => continue,
        };
        if *kind == Kind::Source {
            sources.insert(spec.name.clone(), known);
        }
    }
    for wanted in all {
        let known = || wanted.sources.iter().filter_map(|name| sources.get(name));
        let most = known().map(|(partitions, _)| *partitions).max();
        let largest = known().map(|(_, largest)| *largest).max().unwrap_or(0);
        if let (Kind::View, false, Some(most)) = (wanted.kind, wanted.counted, most) {
            wanted.spec.partitions = most;
        }
        let roomy = match wanted.kind {
            Kind::Quarantine => largest > 0,
            Kind::View | Kind::State => largest > DEFAULT_LARGEST,
            Kind::Source | Kind::Audit | Kind::Requests => false,
        };
        if roomy {
            // A ciphertext takes 4/3 of its value, and its frame.
            let room = (largest + largest / 2).to_string();
            wanted.spec.settings.entry("max.message.bytes".into()).or_insert(room);
        }
    }
}

/// What would have to change, topic by topic.
pub fn differences(wanted: &[Wanted], cluster: &ClusterState) -> Vec<Difference> {
    wanted.iter().flat_map(|wanted| of_one(wanted, cluster)).collect()
}

fn of_one(wanted: &Wanted, cluster: &ClusterState) -> Vec<Difference> {
    let topic = wanted.spec.name.clone();
    let left = |why| Difference::Left { topic: topic.clone(), why };
    let Some(state) = cluster.topics.get(&topic) else {
        return match wanted.kind == Kind::Source && !wanted.counted {
            true => vec![left(Why::Source)],
            false => vec![Difference::Create { topic: wanted.spec.clone() }],
        };
    };
    let mut all = Vec::new();
    let (now, partitions) = (state.partitions as u32, wanted.spec.partitions);
    let differs = match (wanted.kind, wanted.counted) {
        (Kind::Source, _) => false,
        (_, true) => now != partitions,
        (Kind::View, false) => now < partitions,
        (Kind::Quarantine | Kind::Audit | Kind::Requests | Kind::State, false) => false,
    };
    if differs {
        all.push(left(Why::Partitions { now: state.partitions, wanted: partitions }));
    }
    if let Some(replicas) = wanted.spec.replicas.filter(|_| wanted.kind != Kind::Source)
        && state.replicas as u32 != replicas
    {
        all.push(left(Why::Replicas { now: state.replicas, wanted: replicas }));
    }
    let Some(settings) = &state.settings else {
        all.push(left(Why::Unseen));
        return all;
    };
    let (mut change, mut now) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in &wanted.spec.settings {
        let current = settings.get(name);
        let is = current.map_or("", |current| current.value.as_str());
        if is == value || !wanted.told.contains(name) && is_enough(name, is, value) {
            continue;
        }
        let told = wanted.told.contains(name);
        if name == "min.insync.replicas" && !told && state.replicas < 3 {
            // With one broker away, nothing could be published.
            continue;
        }
        // Compaction discards: a topic that is there is compacted only if somebody says so.
        let discards = name == "cleanup.policy" && value != "delete";
        let explicit = current.is_some_and(|current| current.explicit);
        if (explicit || discards) && !told {
            let (now, wanted) = (is.to_owned(), value.clone());
            all.push(left(Why::Set { setting: name.clone(), now, wanted }));
            continue;
        }
        now.insert(name.clone(), is.to_owned());
        change.insert(name.clone(), value.clone());
    }
    if !change.is_empty() {
        all.push(Difference::Alter { topic: topic.clone(), settings: change, now });
    }
    if all.is_empty() {
        all.push(Difference::None { topic });
    }
    all
}

/// More room than wanted, or a longer memory, is no difference.
fn is_enough(name: &str, is: &str, wanted: &str) -> bool {
    let numbers = (is.parse::<i64>(), wanted.parse::<i64>());
    match (name, numbers) {
        ("max.message.bytes" | "min.insync.replicas", (Ok(is), Ok(wanted))) => is >= wanted,
        ("retention.ms", (Ok(is), Ok(wanted))) => is == -1 || is >= wanted,
        _ => false,
    }
}
