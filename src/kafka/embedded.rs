//! librdkafka's mock cluster, for the demo: real clients, no guarantees.
//!
//! It keeps 5 MiB a partition and takes transactions without meaning, so on it a worker runs at-least-once.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::client::KafkaProblem;

/// A broker inside the process; it ends with this value.
pub struct EmbeddedBroker(MockCluster<'static, DefaultProducerContext>);

impl EmbeddedBroker {
    pub fn start() -> Result<EmbeddedBroker, KafkaProblem> {
        Ok(EmbeddedBroker(MockCluster::new(1)?))
    }

    pub fn bootstrap(&self) -> String {
        self.0.bootstrap_servers()
    }

    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), KafkaProblem> {
        Ok(self.0.create_topic(name, partitions, 1)?)
    }
}
