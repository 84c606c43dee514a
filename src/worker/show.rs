//! What is asked of the clients now and then, into the metrics.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::kafka::{CLIENTS, Connection, Figures};
use crate::telemetry::Metrics;

/// Remembers what it showed last.
#[derive(Default)]
pub struct Shown {
    /// Topic and partition.
    lag: BTreeSet<(String, String)>,
    /// By lane and kind of client.
    figures: HashMap<(usize, &'static str), Figures>,
}

impl Shown {
    pub fn update(&mut self, connections: &[Arc<Connection>], metrics: &Metrics) {
        self.lag(connections, metrics);
        for (lane, connection) in connections.iter().enumerate() {
            let label = lane.to_string();
            let mut figures = connection.figures();
            for client in CLIENTS {
                let figures = figures.remove(client).unwrap_or_default();
                let labels = [label.as_str(), client];
                metrics.kafka_brokers_up.with_label_values(&labels).set(figures.brokers_up);
                metrics.kafka_round_trip.with_label_values(&labels).set(figures.round_trip_s);
                metrics.kafka_queued.with_label_values(&labels).set(figures.queued_messages);
                let last = self.figures.remove(&(lane, client)).unwrap_or_default();
                // A new client counts from 0.
                let before = if last.client == figures.client { last.counts } else { Vec::new() };
                let before = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
                for ((name, now), before) in figures.counts.iter().zip(before) {
                    let labels = [label.as_str(), client, name];
                    let more = now.saturating_sub(before);
                    metrics.kafka_counts.with_label_values(&labels).inc_by(more);
                }
                self.figures.insert((lane, client), figures);
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
