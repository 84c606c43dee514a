//! Topics: which there are, what they are like, and making and changing them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::error::KafkaError;
use serde::Serialize;

use super::client::{ClientSettings, KafkaProblem, Logging};

const CALL: Duration = Duration::from_secs(5);

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    /// The broker's default where there is none.
    pub replicas: Option<u32>,
    pub settings: BTreeMap<String, String>,
}

/// A topic that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    pub partitions: usize,
    pub replicas: usize,
    /// Partitions that nobody leads just now.
    pub leaderless: usize,
    /// None where this user may not ask for them.
    pub settings: Option<BTreeMap<String, Setting>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    /// Somebody gave it to this topic; it is no default.
    pub explicit: bool,
}

impl TopicState {
    pub fn setting(&self, name: &str) -> Option<&str> {
        Some(self.settings.as_ref()?.get(name)?.value.as_str())
    }

    pub fn is_compacted(&self) -> bool {
        self.setting("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
    }
}

/// The cluster as this user sees it.
#[derive(Debug, Default)]
pub struct ClusterState {
    pub brokers: usize,
    pub topics: BTreeMap<String, TopicState>,
}

/// What a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// `max.message.bytes`.
    pub largest_record: usize,
    /// `cleanup.policy` holds `compact`: the broker refuses records without a key.
    pub compacted: bool,
}

/// Asks and changes the cluster.
pub struct Admin(pub(super) AdminClient<Logging>);

impl Admin {
    pub fn open(settings: &ClientSettings) -> Result<Admin, KafkaProblem> {
        Ok(Admin(settings.common().create_with_context(Logging)?))
    }

    /// The settings of those topics that there are and that this user may ask for.
    pub async fn topic_settings(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, TopicSettings>, KafkaProblem> {
        let resources: Vec<_> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(CALL));
        let mut settings = BTreeMap::new();
        // Of a topic that is not there, rdkafka gives no error but no settings.
        for resource in self.0.describe_configs(&resources, &options).await?.into_iter().flatten() {
            let of = |name| resource.get(name).and_then(|entry| entry.value.as_deref());
            let largest_record = of("max.message.bytes").map(str::parse);
            let compacted = of("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            if let (OwnedResourceSpecifier::Topic(topic), Some(Ok(largest_record))) =
                (&resource.specifier, largest_record)
            {
                settings.insert(topic.clone(), TopicSettings { largest_record, compacted });
            }
        }
        Ok(settings)
    }

    /// All topics that this user may know of. Nothing is asked by name, so no broker makes what is asked for.
    pub fn names(&self) -> Result<BTreeSet<String>, KafkaProblem> {
        let metadata = self.0.inner().fetch_metadata(None, CALL)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Every topic that this user may know of; settings are asked for of those that `wanted` names.
    pub async fn state(&self, wanted: &BTreeSet<String>) -> Result<ClusterState, KafkaProblem> {
        let metadata = self.0.inner().fetch_metadata(None, CALL)?;
        let mut cluster = ClusterState { brokers: metadata.brokers().len(), ..Default::default() };
        for topic in metadata.topics() {
            let partitions = topic.partitions();
            let replicas = partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0);
            let leaderless = partitions.iter().filter(|one| one.leader() < 0).count();
            let state =
                TopicState { partitions: partitions.len(), replicas, leaderless, settings: None };
            cluster.topics.insert(topic.name().to_owned(), state);
        }
        let asked: Vec<_> =
            wanted.iter().filter(|name| cluster.topics.contains_key(*name)).collect();
        let resources: Vec<_> = asked.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        if resources.is_empty() {
            return Ok(cluster);
        }
        let options = AdminOptions::new().request_timeout(Some(CALL));
        for resource in self.0.describe_configs(&resources, &options).await?.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
            let Some(topic) = cluster.topics.get_mut(&name) else { continue };
            let settings = resource.entries.into_iter().filter_map(|entry| {
                let explicit = entry.source == ConfigSource::DynamicTopic;
                Some((entry.name, Setting { value: entry.value?, explicit }))
            });
            // Where this user may not ask, rdkafka gives no error but nothing.
            topic.settings =
                Some(settings.collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty());
        }
        Ok(cluster)
    }

    /// Makes a topic, and waits until the broker that is asked knows it.
    pub async fn create(&self, topic: &TopicSpec) -> Result<(), KafkaProblem> {
        let (partitions, replicas) = (topic.partitions as i32, topic.replicas);
        let replication = TopicReplication::Fixed(replicas.map_or(-1, |replicas| replicas as i32));
        let new = NewTopic::new(&topic.name, partitions, replication);
        let new = topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        if let Some(Err((_, code))) = self.0.create_topics([&new], &options).await?.pop() {
            return Err(KafkaError::AdminOp(code).into());
        }
        let deadline = Instant::now() + CALL;
        while !self.names()?.contains(&topic.name) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Gives a topic these settings. Kafka replaces all that were given to it: those of `state` are kept.
    pub async fn alter(
        &self,
        topic: &str,
        state: &TopicState,
        settings: &BTreeMap<String, String>,
    ) -> Result<(), KafkaProblem> {
        let mut entries = BTreeMap::new();
        for (name, setting) in state.settings.iter().flatten().filter(|(_, one)| one.explicit) {
            entries.insert(name.as_str(), setting.value.as_str());
        }
        entries.extend(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = entries.iter().fold(change, |change, (name, value)| change.set(name, value));
        match self.0.alter_configs([&change], &AdminOptions::new()).await?.pop() {
            Some(Err((_, code))) => Err(KafkaError::AdminOp(code).into()),
            _ => Ok(()),
        }
    }
}
