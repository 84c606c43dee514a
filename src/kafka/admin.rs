//! Topics: which there are, and making those that a demo or a test needs.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ClientSettings, Logging};

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
}

/// Asks and changes the cluster.
pub struct Admin(AdminClient<Logging>);

impl Admin {
    pub fn open(settings: &ClientSettings) -> Result<Admin, KafkaError> {
        settings.common().create_with_context(Logging).map(Admin)
    }

    /// The largest record that each topic takes, in bytes, as far as the broker tells.
    pub async fn record_limits(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, usize>, KafkaError> {
        let resources: Vec<_> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        let mut limits = BTreeMap::new();
        for resource in self.0.describe_configs(&resources, &options).await?.into_iter().flatten() {
            let limit = resource.get("max.message.bytes").and_then(|entry| entry.value.as_deref());
            if let (rdkafka::admin::OwnedResourceSpecifier::Topic(topic), Some(Ok(limit))) =
                (&resource.specifier, limit.map(str::parse))
            {
                limits.insert(topic.clone(), limit);
            }
        }
        Ok(limits)
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
