//! The metrics, with their names, units and bounded labels.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::crypto::{KeyId, Purpose};

/// Every metric of a worker. Base units; `_total` counts since the start.
pub struct Metrics {
    registry: Registry,
    pub consumed_records: IntCounterVec,
    pub consumed_bytes: IntCounterVec,
    pub view_records: IntCounterVec,
    pub view_bytes: IntCounterVec,
    pub held_records: IntGaugeVec,
    pub held_bytes: IntGaugeVec,
    pub group_subjects: HistogramVec,
    pub group_loss: HistogramVec,
    pub group_distinct: HistogramVec,
    pub windows: IntCounterVec,
    pub window_records: IntCounterVec,
    pub window_suppressed: IntCounterVec,
    pub budget_left: GaugeVec,
    pub restore: HistogramVec,
    pub quarantined: IntCounterVec,
    pub erased_records: IntCounterVec,
    pub erasures: IntCounterVec,
    pub erasures_unfinished: IntGauge,
    pub fields: IntCounterVec,
    pub unclassified: IntCounterVec,
    pub unclassified_names: IntCounterVec,
    pub condition_errors: IntCounterVec,
    pub latency: HistogramVec,
    pub stages: HistogramVec,
    pub transactions: IntCounterVec,
    pub lag: IntGaugeVec,
    pub partitions: IntGaugeVec,
    pub source_missing: IntGaugeVec,
    pub limit_waits: HistogramVec,
    pub policy: IntGaugeVec,
    pub pins: IntGaugeVec,
    pub reloads: IntCounterVec,
    pub key_uses: IntCounterVec,
    key_store_uses: IntGaugeVec,
    pub subject_keys: IntCounterVec,
    pub revealed_values: IntCounterVec,
    pub restarts: IntCounterVec,
    pub ready: IntGaugeVec,
    pub audit_events: IntCounterVec,
    pub kafka_brokers_up: IntGaugeVec,
    pub kafka_round_trip: GaugeVec,
    pub kafka_queued: IntGaugeVec,
    pub kafka_counts: IntCounterVec,
    pub trace_exports: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build = Opts::new("veilstream_build_info", "The version; the value is 1");
        let build = IntGaugeVec::new(build, &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(format!("veilstream_{name}"), help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(format!("veilstream_{name}"), help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options =
                HistogramOpts::new(format!("veilstream_{name}"), help).buckets(buckets.to_vec());
            let made = HistogramVec::new(options, labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let seconds = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0,
            10.0, 30.0, 60.0, 300.0, 3600.0,
        ];
        let metrics = Metrics {
            consumed_records: counter(
                "consumed_records_total",
                "Raw records whose batch was committed",
                &["topic"],
            )?,
            consumed_bytes: counter(
                "consumed_bytes_total",
                "Bytes of their keys, values and headers",
                &["topic"],
            )?,
            view_records: counter(
                "view_records_total",
                "Events by view and what became of them: published, deleted, tombstone, filtered, held; of those held, released, suppressed; and rows of figures",
                &["policy", "view", "outcome"],
            )?,
            view_bytes: counter(
                "view_bytes_total",
                "Bytes published to a view",
                &["policy", "view"],
            )?,
            held_records: gauge(
                "held_records",
                "Rows that wait until enough people are alike",
                &["policy", "view"],
            )?,
            held_bytes: gauge("held_bytes", "Bytes of these rows", &["policy", "view"])?,
            group_subjects: histogram(
                "group_subjects",
                "Different people in the group that a row was published in, when it was published first",
                &["policy", "view"],
                &[2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0, 500.0, 1000.0],
            )?,
            group_loss: histogram(
                "group_loss_ratio",
                "What the group of a published row does not say of its quasi-identifiers (normalized certainty penalty)",
                &["policy", "view"],
                &[0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0],
            )?,
            group_distinct: histogram(
                "group_distinct_values",
                "Different values of the sensitive field that had fewest, in the group that a row was published in",
                &["policy", "view"],
                &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 50.0],
            )?,
            windows: counter(
                "windows_total",
                "Windows by what became of them: published, budget_spent, crowded, no_noise, other_rules",
                &["policy", "view", "outcome"],
            )?,
            window_records: counter(
                "window_records_total",
                "Records in each window that they are of: counted (other: in no group of their own), late, early, \
                 over_contribution, no_room",
                &["policy", "view", "outcome"],
            )?,
            window_suppressed: counter(
                "window_suppressed_groups_total",
                "Groups of windows that are not published: few people in them, or complementary to those",
                &["policy", "view", "why"],
            )?,
            budget_left: {
                let name = "veilstream_privacy_budget_left_ratio";
                let help =
                    "The share of the budget of a period that is left, at the last publication";
                let labels = ["policy", "view", "topic", "partition"];
                let made = GaugeVec::new(Opts::new(name, help), &labels)?;
                registry.register(Box::new(made.clone()))?;
                made
            },
            restore: histogram(
                "restore_seconds",
                "Time to read what is held, where partitions came",
                &["lane"],
                &seconds,
            )?,
            quarantined: counter(
                "quarantined_records_total",
                "Records in quarantine",
                &["topic", "stage", "reason"],
            )?,
            erased_records: counter(
                "erased_records_total",
                "Records of those who are forgotten: a tombstone went to the views, if anything",
                &["topic"],
            )?,
            erasures: counter(
                "erasures_total",
                "Erasures by what became of them: requested, held, done, failed",
                &["outcome"],
            )?,
            erasures_unfinished: {
                let name = "veilstream_erasures_unfinished";
                let made = IntGauge::new(
                    name,
                    "Erasures whose keys are destroyed and whose rest is not done",
                )?;
                registry.register(Box::new(made.clone()))?;
                made
            },
            fields: counter(
                "fields_total",
                "Fields published, by what was done with them",
                &["policy", "view", "class", "operator"],
            )?,
            unclassified: counter(
                "unclassified_fields_total",
                "Values that the policy does not name, dropped",
                &["policy"],
            )?,
            unclassified_names: counter(
                "unclassified_names_total",
                "Different unclassified names met, per lane and plan",
                &["policy"],
            )?,
            condition_errors: counter(
                "condition_errors_total",
                "Times that `where` met a missing field or another type",
                &["policy", "view"],
            )?,
            latency: histogram(
                "latency_seconds",
                "From a raw record's timestamp to the commit of what was made of it",
                &["topic"],
                &seconds,
            )?,
            stages: histogram(
                "stage_seconds",
                "Time of a batch in each stage: gather, keys (a part of transform), transform, commit",
                &["stage"],
                &seconds,
            )?,
            transactions: counter(
                "transactions_total",
                "Batches by how they ended: committed, aborted",
                &["outcome"],
            )?,
            lag: gauge(
                "lag_records",
                "Records behind the end of a partition",
                &["topic", "partition"],
            )?,
            source_missing: gauge(
                "source_missing",
                "1 where a source topic that a policy names was not there when it was looked for",
                &["topic"],
            )?,
            partitions: gauge("assigned_partitions", "Partitions that a lane works on", &["lane"])?,
            limit_waits: histogram(
                "rate_limit_wait_seconds",
                "Waits for a rate limit",
                &["limit"],
                &seconds,
            )?,
            policy: gauge(
                "policy_info",
                "The policies in force; the value is 1",
                &["policy", "version", "digest"],
            )?,
            pins: gauge(
                "pin_ends_timestamp_seconds",
                "When the time ends for which a view keeps an earlier key of pseudonyms, since the epoch",
                &["policy", "view"],
            )?,
            reloads: counter("policy_reloads_total", "Reloads: applied, refused", &["outcome"])?,
            key_uses: counter(
                "key_uses_total",
                "Fields treated under a key of the deployment",
                &["purpose", "key", "version"],
            )?,
            key_store_uses: gauge(
                "key_store_uses",
                "Values that a key of the deployment sealed, of all workers ever, about",
                &["purpose", "key", "version"],
            )?,
            subject_keys: counter(
                "subject_keys_total",
                "Keys of data subjects that batches asked for: cached, read from the store",
                &["found"],
            )?,
            revealed_values: counter(
                "revealed_values_total",
                "Values that somebody asked to see over HTTP: revealed, denied, needs_approval, erased, refused; and requests that are unauthorized",
                &["outcome"],
            )?,
            restarts: counter(
                "lane_restarts_total",
                "Times that a lane began anew after an error",
                &["lane"],
            )?,
            ready: gauge("lane_ready", "1 where the lane works or could", &["lane"])?,
            audit_events: counter("audit_events_total", "Audit events published", &["kind"])?,
            kafka_brokers_up: gauge(
                "kafka_brokers_up",
                "Brokers that a client is connected to",
                &["lane", "client"],
            )?,
            kafka_round_trip: {
                let name = "veilstream_kafka_round_trip_seconds";
                let help = "Round trip to the slowest broker: 99th percentile of five seconds";
                let made = GaugeVec::new(Opts::new(name, help), &["lane", "client"])?;
                registry.register(Box::new(made.clone()))?;
                made
            },
            kafka_queued: gauge(
                "kafka_queued_messages",
                "Records fetched and not polled, or produced and not delivered",
                &["lane", "client"],
            )?,
            kafka_counts: counter(
                "kafka_client_total",
                "What a client counts: bytes, requests, errors, retries, timeouts, disconnects, rebalances",
                &["lane", "client", "what"],
            )?,
            trace_exports: counter(
                "trace_exports_total",
                "Requests to the collector of traces, by outcome",
                &["outcome"],
            )?,
            registry,
        };
        // A rate needs to have seen the 0 before the first.
        for outcome in ["sent", "failed"] {
            metrics.trace_exports.with_label_values(&[outcome]);
        }
        for found in ["cached", "read"] {
            metrics.subject_keys.with_label_values(&[found]);
        }
        for outcome in ["committed", "aborted"] {
            metrics.transactions.with_label_values(&[outcome]);
        }
        for outcome in ["applied", "refused"] {
            metrics.reloads.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    /// The Prometheus text format.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Says how many values each version of a key has sealed.
    pub fn set_key_store_uses(&self, uses: &[(Purpose, KeyId, u32, u64)]) {
        for (purpose, id, version, uses) in uses {
            let (id, version) = (id.to_string(), version.to_string());
            let labels = [purpose.name(), id.as_str(), version.as_str()];
            let uses = i64::try_from(*uses).unwrap_or(i64::MAX);
            self.key_store_uses.with_label_values(&labels).set(uses);
        }
    }

    /// Says which policies are in force, and no others.
    pub fn set_policies<'p>(&self, policies: impl Iterator<Item = &'p crate::policy::Policy>) {
        self.policy.reset();
        self.pins.reset();
        for policy in policies {
            for view in &policy.views {
                if let Some(pin) = &view.pin {
                    let labels = [policy.name.as_str(), view.name.as_str()];
                    self.pins.with_label_values(&labels).set(pin.ends_s);
                }
            }
            let digest = policy.digest.get(..16).unwrap_or_default();
            let version = policy.version.to_string();
            self.policy.with_label_values(&[policy.name.as_str(), &version, digest]).set(1);
        }
    }
}
