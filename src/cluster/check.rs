//! Whether a live cluster is fit for a worker, and what to mend where it is not. Nothing is published or consumed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::wanted::{Kind, Wanted, sources, wanted};
use crate::config::{Config, Delivery};
use crate::kafka::{Admin, ClientSettings, ClusterState, Probe, TopicState};
use crate::policy::{Policy, Topics};

/// librdkafka's `max.poll.interval.ms` unless it is set.
const MAX_POLL_INTERVAL_MS: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at, such as `topic crm.customers.raw`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do about it; nothing where it is well.
    pub fix: String,
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, what: &str, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { level, what: what.into(), found: found.into(), fix: fix.into() });
    }

    fn ok(&mut self, what: &str, found: impl Into<String>) {
        self.add(Level::Ok, what, found, "");
    }
}

/// Looks at everything that a worker needs of the cluster. Blocks; call it outside of a runtime.
pub fn check(config: &Config, policies: &[Policy], settings: &ClientSettings) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    timeouts(config, &mut findings);
    let Some((cluster, wanted)) = look(config, policies, settings, &mut findings) else {
        return findings.0;
    };
    for policy in policies {
        if let Topics::Pattern(pattern) = &policy.topics
            && sources(policy, &cluster).is_empty()
        {
            findings.add(
                Level::Warning,
                &format!("policy {}", policy.name),
                format!("no topic matches {pattern}"),
                "make one, or mend `source.topic`; the worker waits for it",
            );
        }
    }
    for one in &wanted {
        topic(config, one, &cluster, &mut findings);
    }
    share(config, &wanted, &cluster, &mut findings);
    access(config, &wanted, &cluster, settings, &mut findings);
    findings.0
}

/// Times that have to be in order, whatever the cluster.
fn timeouts(config: &Config, findings: &mut Findings) {
    let kafka = &config.kafka;
    let number = |name: &str| {
        let text = kafka.consumer.get(name).or_else(|| kafka.properties.get(name));
        text.and_then(|text| text.parse::<u64>().ok())
    };
    let transaction = u64::from(kafka.transaction_timeout_ms);
    let poll = number("max.poll.interval.ms").unwrap_or(MAX_POLL_INTERVAL_MS);
    let what = "timeouts";
    let before = findings.0.len();
    if poll <= transaction {
        findings.add(
            Level::Error,
            what,
            format!("max.poll.interval.ms {poll} is not above kafka.transaction_timeout_ms {transaction}"),
            "raise max.poll.interval.ms: a lane that waits for a transaction would lose its partitions",
        );
    }
    if config.batch.time_ms.get() >= transaction / 3 {
        findings.add(
            Level::Error,
            what,
            format!(
                "batch.time_ms is a third of kafka.transaction_timeout_ms {transaction} or more"
            ),
            "lower batch.time_ms, or raise kafka.transaction_timeout_ms",
        );
    }
    if findings.0.len() == before {
        findings.ok(what, "batch, transaction and poll fit into each other");
    }
}

fn look(
    config: &Config,
    policies: &[Policy],
    settings: &ClientSettings,
    findings: &mut Findings,
) -> Option<(ClusterState, Vec<Wanted>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asked = runtime.block_on(async {
        let admin = Admin::open(settings)?;
        let names = wanted(config, policies, &ClusterState::default());
        let mut names: BTreeSet<_> = names.into_iter().map(|one| one.spec.name).collect();
        let cluster = admin.state(&names).await?;
        names.extend(policies.iter().flat_map(|policy| sources(policy, &cluster)));
        admin.state(&names).await
    });
    match asked {
        Ok(cluster) => {
            let brokers = cluster.brokers;
            findings.ok("cluster", format!("{brokers} brokers at {}", config.kafka.bootstrap));
            let wanted = wanted(config, policies, &cluster);
            Some((cluster, wanted))
        }
        Err(error) => {
            findings.add(
                Level::Error,
                "cluster",
                error.to_string(),
                "check kafka.bootstrap, kafka.security, and that the brokers are reached from here",
            );
            None
        }
    }
}

fn topic(config: &Config, wanted: &Wanted, cluster: &ClusterState, findings: &mut Findings) {
    let what = format!("topic {}", wanted.spec.name);
    let Some(state) = cluster.topics.get(&wanted.spec.name) else {
        match wanted.kind {
            Kind::Source => findings.add(
                Level::Warning,
                &what,
                "the source is not there, or may not be described",
                "make it, or allow DESCRIBE; the worker is not ready while no source is there",
            ),
            _ => findings.add(
                Level::Error,
                &what,
                "is not there, or may not be described",
                "`veilstream topics apply`, or allow DESCRIBE",
            ),
        }
        return;
    };
    let before = findings.0.len();
    if state.settings.is_none() {
        findings.add(
            Level::Warning,
            &what,
            "its settings may not be seen",
            "allow DESCRIBE_CONFIGS: the worker fits its records to the topic's limits",
        );
    }
    if state.leaderless > 0 {
        findings.add(
            Level::Error,
            &what,
            format!("{} of {} partitions have no leader", state.leaderless, state.partitions),
            "look for the brokers that are away",
        );
    }
    if wanted.kind != Kind::Source {
        output(config, wanted, state, cluster, &what, findings);
    }
    if findings.0.len() == before {
        let cleanup = state.setting("cleanup.policy").unwrap_or("?");
        let found =
            format!("{} partitions, {} replicas, {cleanup}", state.partitions, state.replicas);
        findings.ok(&what, found);
    }
}

fn output(
    config: &Config,
    wanted: &Wanted,
    state: &TopicState,
    cluster: &ClusterState,
    what: &str,
    findings: &mut Findings,
) {
    let compacted = state.is_compacted();
    if wanted.kind == Kind::Audit && compacted {
        findings.add(
            Level::Error,
            what,
            "is compacted: audit events would be lost",
            "set cleanup.policy=delete",
        );
    }
    if wanted.kind == Kind::View && compacted && wanted.keyless {
        findings.add(
            Level::Error,
            what,
            "is compacted, and the view drops the record key: every record would be quarantined",
            "set cleanup.policy=delete, or give the view a key",
        );
    }
    if wanted.kind == Kind::State && !compacted {
        findings.add(
            Level::Error,
            what,
            "is not compacted: what is held would be lost with its oldest records",
            "set cleanup.policy=compact",
        );
    }
    let there = wanted.sources.iter().filter_map(|name| cluster.topics.get(name));
    let most = there.clone().map(|source| source.partitions).max().unwrap_or(0);
    if wanted.kind == Kind::View && state.partitions < most {
        findings.add(
            Level::Warning,
            what,
            format!("{} partitions, its source has {most}", state.partitions),
            "make it anew with as many: a lane's records meet in fewer partitions than they came from",
        );
    }
    let largest = |state: &TopicState| state.setting("max.message.bytes")?.parse::<u64>().ok();
    let source = there.filter_map(largest).max();
    if let (Kind::Quarantine, Some(own), Some(source)) = (wanted.kind, largest(state), source)
        && own < source + source / 3
    {
        let rule = match config.quarantine.oversize {
            crate::config::Oversize::Account => "is only accounted for",
            crate::config::Oversize::Halt => "stops its lane",
        };
        findings.add(
            Level::Warning,
            what,
            format!(
                "max.message.bytes {own}: a source's {source} do not fit, and such a record {rule}"
            ),
            format!("set max.message.bytes={}", source + source / 2),
        );
    }
    let least = state.setting("min.insync.replicas").and_then(|text| text.parse::<usize>().ok());
    if let Some(least) = least.filter(|least| *least > state.replicas) {
        findings.add(
            Level::Error,
            what,
            format!("min.insync.replicas is {least}, of {} replicas", state.replicas),
            "lower it: where the broker does not, it refuses every record",
        );
    } else if least == Some(state.replicas) && state.replicas > 1 {
        findings.add(
            Level::Warning,
            what,
            format!("min.insync.replicas is as many as the {} replicas", state.replicas),
            "lower it, or add a replica: while one broker restarts, nothing can be published",
        );
    }
    if cluster.brokers >= 3 && state.replicas < 3 {
        findings.add(
            Level::Warning,
            what,
            format!("{} replicas, on {} brokers", state.replicas, cluster.brokers),
            "topics.replication_factor: 3 for topics to come; reassign those that are there",
        );
    } else if state.replicas >= 3 && least == Some(1) {
        findings.add(
            Level::Warning,
            what,
            "min.insync.replicas is 1: what one broker alone has can be lost with it",
            "set min.insync.replicas=2",
        );
    }
}

/// Whether there is work for every lane.
fn share(config: &Config, wanted: &[Wanted], cluster: &ClusterState, findings: &mut Findings) {
    let sources = wanted.iter().filter(|one| one.kind == Kind::Source);
    let partitions: usize = sources
        .filter_map(|one| cluster.topics.get(&one.spec.name))
        .map(|topic| topic.partitions)
        .sum();
    let lanes = config.lanes();
    match partitions {
        0 => {}
        few if few < lanes => findings.add(
            Level::Warning,
            "lanes",
            format!("{lanes} lanes for {few} source partitions: some stand idle"),
            "lower `lanes`, or make more partitions",
        ),
        enough => findings.ok("lanes", format!("{lanes} for {enough} source partitions")),
    }
}

fn read(probe: &Probe, topic: &str, findings: &mut Findings) {
    let what = format!("read {topic}");
    match probe.read(topic) {
        Ok(()) => findings.ok(&what, "may be read"),
        Err(error) => {
            findings.add(Level::Error, &what, error.to_string(), "allow READ on the topic");
        }
    }
}

/// Whether the worker may read, write and commit.
fn access(
    config: &Config,
    wanted: &[Wanted],
    cluster: &ClusterState,
    settings: &ClientSettings,
    findings: &mut Findings,
) {
    let probe = Probe::new(settings);
    let there = |one: &&Wanted| cluster.topics.contains_key(&one.spec.name);
    let sources = wanted.iter().filter(|one| one.kind == Kind::Source).filter(there);
    let group = format!("group {}", config.kafka.group);
    let mut group_is_known = false;
    for source in sources {
        let name = &source.spec.name;
        if !std::mem::replace(&mut group_is_known, true) {
            match probe.group(name) {
                Ok(()) => findings.ok(
                    &group,
                    "its offsets may be read; to join it takes READ, which is not tried",
                ),
                Err(error) => {
                    findings.add(Level::Error, &group, error.to_string(), "allow READ on the group")
                }
            }
        }
        read(&probe, name, findings);
    }
    for requests in wanted.iter().filter(|one| one.kind == Kind::Requests).filter(there) {
        read(&probe, &requests.spec.name, findings);
    }
    // What compacted views hold of a person is looked for there.
    for view in wanted.iter().filter(|one| one.kind == Kind::View && config.key_store.is_some()) {
        let compacted = |topic: &TopicState| topic.is_compacted() || topic.settings.is_none();
        if cluster.topics.get(&view.spec.name).is_some_and(compacted) {
            read(&probe, &view.spec.name, findings);
        }
    }
    let outputs = wanted.iter().filter(|one| !one.kind.is_read()).filter(there);
    let outputs: Vec<&str> = outputs.map(|one| one.spec.name.as_str()).collect();
    if config.delivery == Delivery::AtLeastOnce {
        findings.add(
            Level::Warning,
            "write",
            "not tried: without transactions it cannot be, without publishing",
            "see to it that this user may WRITE to views, quarantine and audit",
        );
        return;
    }
    let id = format!("{}-check-{:08x}", config.kafka.group, rand::random::<u32>());
    let what = format!("transactions {}-", config.kafka.group);
    if let Err(error) = probe.transactions(&id) {
        findings.add(
            Level::Error,
            &what,
            error.to_string(),
            "allow WRITE and DESCRIBE on transactional ids with this prefix; \
             kafka.transaction_timeout_ms is at most the broker's transaction.max.timeout.ms",
        );
        return;
    }
    match probe.denied(&id, &outputs) {
        Ok(denied) if denied.is_empty() => {
            findings.ok(&what, format!("take in all {} topics", outputs.len()));
        }
        Ok(denied) => {
            for topic in denied {
                let what = format!("write {topic}");
                findings.add(Level::Error, &what, "may not be written", "allow WRITE on the topic");
            }
        }
        Err(error) => findings.add(
            Level::Error,
            &what,
            error.to_string(),
            "look at the broker's log; try again",
        ),
    }
}
