//! What is asked of the clients now and then, into the metrics.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::kafka::Connection;
use crate::telemetry::Metrics;

/// Remembers what it showed last.
#[derive(Default)]
pub struct Shown {
    /// Topic and partition.
    lag: BTreeSet<(String, String)>,
    counts: HashMap<(usize, String, &'static str), u64>,
}

impl Shown {
    pub fn update(&mut self, connections: &[Arc<Connection>], metrics: &Metrics) {
        self.lag(connections, metrics);
        for (lane, connection) in connections.iter().enumerate() {
            let label = lane.to_string();
            for (client, figures) in connection.figures() {
                let labels = [label.as_str(), client.as_str()];
                metrics.kafka_brokers_up.with_label_values(&labels).set(figures.brokers_up);
                metrics.kafka_round_trip.with_label_values(&labels).set(figures.round_trip_s);
                metrics.kafka_queued.with_label_values(&labels).set(figures.queued_messages);
                for (name, now) in figures.counts {
                    let last = self.counts.insert((lane, client.clone(), name), now).unwrap_or(0);
                    // A new client counts from 0.
                    let more = now.checked_sub(last).unwrap_or(now);
                    let labels = [label.as_str(), client.as_str(), name];
                    metrics.kafka_counts.with_label_values(&labels).inc_by(more);
                }
            }
        }
    }

    fn lag(&mut self, connections: &[Arc<Connection>], metrics: &Metrics) {
        let mut now = BTreeSet::new();
        for connection in connections {
            for ((topic, partition), records) in connection.lag() {
                let labels = (topic, partition.to_string());
                metrics.lag.with_label_values(&[labels.0.as_str(), &labels.1]).set(records);
                now.insert(labels);
            }
        }
        for (topic, partition) in self.lag.difference(&now) {
            let _ = metrics.lag.remove_label_values(&[topic.as_str(), partition]);
        }
        self.lag = now;
    }
}
