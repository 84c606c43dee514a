//! Topics: which there are, and making those that a demo or a test needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ClientSettings, Logging};

const CALL: Duration = Duration::from_secs(5);

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
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
pub struct Admin(AdminClient<Logging>);

impl Admin {
    pub fn open(settings: &ClientSettings) -> Result<Admin, KafkaError> {
        settings.common().create_with_context(Logging).map(Admin)
    }

    /// The settings of those topics that there are and that this user may ask for.
    pub async fn topic_settings(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, TopicSettings>, KafkaError> {
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
    pub fn names(&self) -> Result<BTreeSet<String>, KafkaError> {
        let metadata = self.0.inner().fetch_metadata(None, CALL)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Makes topics that are not there yet.
    pub async fn create(&self, topics: &[TopicSpec]) -> Result<(), KafkaError> {
        let new: Vec<_> = topics
            .iter()
            .map(|topic| NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(1)))
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in self.0.create_topics(&new, &options).await? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }
}
