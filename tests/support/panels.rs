//! What the dashboards show. `@` in an expression stands for the filter on job and instance.

use super::grafana::{Dashboard, Panel, Shape};

const fn of(
    shape: Shape,
    width: u32,
    title: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
    about: &'static str,
) -> Panel {
    Panel { title, about, shape, unit, width, queries, red: None }
}

const fn red(from: f64, panel: Panel) -> Panel {
    Panel { red: Some(from), ..panel }
}

use Shape::{Bars, Lines, Number, Stack, Table};

pub const ALL: [(&str, &Dashboard); 4] =
    [("overview", &OVERVIEW), ("privacy", &PRIVACY), ("kafka", &KAFKA), ("audit", &AUDIT)];

const OVERVIEW: Dashboard = Dashboard {
    uid: "veilstream-overview",
    title: "veilstream / overview",
    about: "Is it keeping up? Is anything leaking or stuck?",
    rows: &[
        (
            "Is it keeping up?",
            &[
                red(
                    10_000.0,
                    of(
                        Number,
                        4,
                        "Lag",
                        "short",
                        &[("sum(veilstream_lag_records{@})", "")],
                        "Records behind the end of the source topics.",
                    ),
                ),
                red(
                    60.0,
                    of(
                        Number,
                        4,
                        "Latency p99",
                        "s",
                        &[(
                            "histogram_quantile(0.99, sum by (le) (rate(veilstream_latency_seconds_bucket{@}[$__rate_interval])))",
                            "",
                        )],
                        "From a raw record's timestamp to the commit of what was made of it. With a backlog it is the age of the backlog.",
                    ),
                ),
                of(
                    Number,
                    4,
                    "Records in",
                    "cps",
                    &[("sum(rate(veilstream_consumed_records_total{@}[$__rate_interval]))", "")],
                    "Raw records whose batch was committed.",
                ),
                of(
                    Number,
                    4,
                    "Records out",
                    "cps",
                    &[(
                        "sum(rate(veilstream_view_records_total{@,outcome!=\"filtered\"}[$__rate_interval]))",
                        "",
                    )],
                    "Events published to views.",
                ),
                of(
                    Number,
                    4,
                    "Lanes ready",
                    "percentunit",
                    &[("sum(veilstream_lane_ready{@}) / count(veilstream_lane_ready{@})", "")],
                    "A lane that is not ready waits for the broker or a topic, tries again, or starts.",
                ),
                of(
                    Number,
                    4,
                    "Workers",
                    "short",
                    &[("count(veilstream_build_info{@})", "")],
                    "Workers that are scraped.",
                ),
                of(
                    Lines,
                    12,
                    "Records in, by topic",
                    "cps",
                    &[(
                        "sum by (topic) (rate(veilstream_consumed_records_total{@}[$__rate_interval]))",
                        "{{topic}}",
                    )],
                    "Raw records whose batch was committed.",
                ),
                of(
                    Lines,
                    12,
                    "Lag, by topic",
                    "short",
                    &[("sum by (topic) (veilstream_lag_records{@})", "{{topic}}")],
                    "Flat or falling is well; a slope is work that does not get done.",
                ),
                of(
                    Lines,
                    12,
                    "Records by view and outcome",
                    "cps",
                    &[(
                        "sum by (policy, view, outcome) (rate(veilstream_view_records_total{@}[$__rate_interval]))",
                        "{{policy}}/{{view}} {{outcome}}",
                    )],
                    "What became of events in each view.",
                ),
                of(
                    Lines,
                    12,
                    "Latency",
                    "s",
                    &[
                        (
                            "histogram_quantile(0.5, sum by (le) (rate(veilstream_latency_seconds_bucket{@}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.95, sum by (le) (rate(veilstream_latency_seconds_bucket{@}[$__rate_interval])))",
                            "p95",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (le) (rate(veilstream_latency_seconds_bucket{@}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                    "From a raw record's timestamp to the commit.",
                ),
            ],
        ),
        (
            "Is anything leaking or stuck?",
            &[
                red(
                    1.0,
                    of(
                        Number,
                        6,
                        "In quarantine, last hour",
                        "short",
                        &[("sum(increase(veilstream_quarantined_records_total{@}[1h]))", "")],
                        "Records that could not be sanitized. They are kept, encrypted; see `veilstream quarantine list`.",
                    ),
                ),
                red(
                    1.0,
                    of(
                        Number,
                        6,
                        "Unclassified fields, last hour",
                        "short",
                        &[("sum(increase(veilstream_unclassified_fields_total{@}[1h]))", "")],
                        "Values that no policy names. They were dropped: the source has changed.",
                    ),
                ),
                red(
                    1.0,
                    of(
                        Number,
                        6,
                        "Policy reloads refused, last hour",
                        "short",
                        &[(
                            "sum(increase(veilstream_policy_reloads_total{@,outcome=\"refused\"}[1h]))",
                            "",
                        )],
                        "The policies in force stayed in force.",
                    ),
                ),
                red(
                    1.0,
                    of(
                        Number,
                        6,
                        "Sources missing",
                        "short",
                        &[("sum(max by (topic) (veilstream_source_missing{@}))", "")],
                        "Source topics that a policy names and that are not there.",
                    ),
                ),
                of(
                    Stack,
                    12,
                    "Quarantine, by reason",
                    "cps",
                    &[(
                        "sum by (topic, reason) (rate(veilstream_quarantined_records_total{@}[$__rate_interval]))",
                        "{{topic}} {{reason}}",
                    )],
                    "The reasons are explained in docs/policy.md.",
                ),
                of(
                    Lines,
                    12,
                    "Transactions",
                    "cps",
                    &[(
                        "sum by (outcome) (rate(veilstream_transactions_total{@}[$__rate_interval]))",
                        "{{outcome}}",
                    )],
                    "An aborted batch is tried again; nothing of it was published.",
                ),
                of(
                    Lines,
                    12,
                    "Time of a batch, p95 by stage",
                    "s",
                    &[(
                        "histogram_quantile(0.95, sum by (le, stage) (rate(veilstream_stage_seconds_bucket{@}[$__rate_interval])))",
                        "{{stage}}",
                    )],
                    "`gather` waits for records, `transform` rewrites and waits for limits, `commit` waits for the broker.",
                ),
                of(
                    Lines,
                    12,
                    "Waiting for rate limits",
                    "percentunit",
                    &[(
                        "sum by (limit) (rate(veilstream_rate_limit_wait_seconds_sum{@}[$__rate_interval]))",
                        "{{limit}}",
                    )],
                    "Share of time that lanes wait for a configured limit.",
                ),
                of(
                    Lines,
                    12,
                    "Lanes begun anew",
                    "short",
                    &[(
                        "sum by (instance) (increase(veilstream_lane_restarts_total{@}[5m]))",
                        "{{instance}}",
                    )],
                    "After an error a lane begins anew from the committed offsets.",
                ),
                of(
                    Lines,
                    12,
                    "Bytes in and out",
                    "Bps",
                    &[
                        ("sum(rate(veilstream_consumed_bytes_total{@}[$__rate_interval]))", "in"),
                        (
                            "sum by (view) (rate(veilstream_view_bytes_total{@}[$__rate_interval]))",
                            "{{view}}",
                        ),
                    ],
                    "Keys, values and headers.",
                ),
            ],
        ),
        (
            "The process",
            &[
                of(
                    Lines,
                    8,
                    "Memory",
                    "bytes",
                    &[("process_resident_memory_bytes{@}", "{{instance}}")],
                    "Flat under any backlog: bounded by configuration, not by input.",
                ),
                of(
                    Lines,
                    8,
                    "Processors in use",
                    "short",
                    &[("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}")],
                    "A lane uses one, its clients part of another.",
                ),
                of(
                    Table,
                    8,
                    "Versions",
                    "short",
                    &[("veilstream_build_info{@}", "")],
                    "What runs where.",
                ),
            ],
        ),
    ],
};

const PRIVACY: Dashboard = Dashboard {
    uid: "veilstream-privacy",
    title: "veilstream / privacy",
    about: "What was treated how, what no policy names, what was kept as it was, quarantine, keys.",
    rows: &[
        (
            "Treatment",
            &[
                of(
                    Stack,
                    12,
                    "Fields, by operator",
                    "cps",
                    &[(
                        "sum by (operator) (rate(veilstream_fields_total{@}[$__rate_interval]))",
                        "{{operator}}",
                    )],
                    "Classified values, by what was done with them.",
                ),
                of(
                    Stack,
                    12,
                    "Fields, by class",
                    "cps",
                    &[(
                        "sum by (class) (rate(veilstream_fields_total{@}[$__rate_interval]))",
                        "{{class}}",
                    )],
                    "Classified values, by what they are.",
                ),
                of(
                    Table,
                    12,
                    "What each audience got, last hour",
                    "short",
                    &[(
                        "sort_desc(sum by (policy, view, class, operator) (increase(veilstream_fields_total{@}[1h])))",
                        "",
                    )],
                    "Fields by view, class and operator.",
                ),
                of(
                    Bars,
                    12,
                    "Kept as they are, by view and class, last hour",
                    "short",
                    &[(
                        "sum by (view, class) (increase(veilstream_fields_total{@,operator=\"keep\"}[1h]))",
                        "{{view}}: {{class}}",
                    )],
                    "What leaves in the clear because a policy says so. A class that should not be here is a policy to mend.",
                ),
                of(
                    Lines,
                    12,
                    "Share of fields kept as they are, by view",
                    "percentunit",
                    &[(
                        "sum by (view) (rate(veilstream_fields_total{@,operator=\"keep\"}[$__rate_interval])) / sum by (view) (rate(veilstream_fields_total{@}[$__rate_interval]))",
                        "{{view}}",
                    )],
                    "A jump without a new policy means that the data has changed.",
                ),
                of(
                    Lines,
                    12,
                    "Left a view, or not shown",
                    "cps",
                    &[(
                        "sum by (view, outcome) (rate(veilstream_view_records_total{@,outcome=~\"deleted|filtered\"}[$__rate_interval]))",
                        "{{view}} {{outcome}}",
                    )],
                    "Events that `where` kept from a view, and deletes for rows that left it.",
                ),
            ],
        ),
        (
            "What no policy names",
            &[
                of(
                    Lines,
                    12,
                    "Unclassified values, dropped",
                    "cps",
                    &[(
                        "sum by (policy) (rate(veilstream_unclassified_fields_total{@}[$__rate_interval]))",
                        "{{policy}}",
                    )],
                    "New fields of the source: classify them.",
                ),
                of(
                    Lines,
                    12,
                    "New unclassified names",
                    "short",
                    &[(
                        "sum by (policy) (increase(veilstream_unclassified_names_total{@}[1h]))",
                        "{{policy}}",
                    )],
                    "Per lane and plan; the audit trail tells them as keyed digests.",
                ),
                of(
                    Lines,
                    12,
                    "`where` met an error",
                    "cps",
                    &[(
                        "sum by (policy, view) (rate(veilstream_condition_errors_total{@}[$__rate_interval]))",
                        "{{policy}}/{{view}}",
                    )],
                    "A missing field or another type: counted as not true.",
                ),
                of(
                    Lines,
                    12,
                    "Policy reloads",
                    "short",
                    &[(
                        "sum by (outcome) (increase(veilstream_policy_reloads_total{@}[1h]))",
                        "{{outcome}}",
                    )],
                    "`refused`: the policies in force stayed in force.",
                ),
            ],
        ),
        (
            "Quarantine and keys",
            &[
                of(
                    Table,
                    12,
                    "Quarantined, last hour",
                    "short",
                    &[(
                        "sort_desc(sum by (topic, stage, reason) (increase(veilstream_quarantined_records_total{@}[1h])))",
                        "",
                    )],
                    "Where it failed and why; never what.",
                ),
                red(
                    0.01,
                    of(
                        Lines,
                        12,
                        "Share in quarantine, by topic",
                        "percentunit",
                        &[(
                            "sum by (topic) (rate(veilstream_quarantined_records_total{@}[$__rate_interval])) / sum by (topic) (rate(veilstream_consumed_records_total{@}[$__rate_interval]))",
                            "{{topic}}",
                        )],
                        "A source that changed its shape shows here first.",
                    ),
                ),
                of(
                    Lines,
                    12,
                    "Uses of keys",
                    "cps",
                    &[(
                        "sum by (purpose, key, version) (rate(veilstream_key_uses_total{@}[$__rate_interval]))",
                        "{{purpose}} {{key}} v{{version}}",
                    )],
                    "By opaque key id.",
                ),
                red(
                    4_294_967_296.0,
                    of(
                        Bars,
                        12,
                        "Uses of keys since the workers started",
                        "short",
                        &[(
                            "sum by (purpose, key, version) (veilstream_key_uses_total{@})",
                            "{{purpose}} {{key}} v{{version}}",
                        )],
                        "AES-GCM with random nonces, `field`, wants fewer than 2^32 for one key.",
                    ),
                ),
            ],
        ),
        (
            "People who are forgotten",
            &[
                of(
                    Lines,
                    12,
                    "Later records of people who are forgotten",
                    "cps",
                    &[(
                        "sum by (topic) (rate(veilstream_erased_records_total{@}[$__rate_interval]))",
                        "{{topic}}",
                    )],
                    "The views get a tombstone, if anything.",
                ),
                of(
                    Lines,
                    12,
                    "Erasures that are not done",
                    "short",
                    &[("max(veilstream_erasures_unfinished{@})", "unfinished")],
                    "Their keys are destroyed; compacted views still hold records of them. Minutes are usual.",
                ),
            ],
        ),
        (
            "Views of many",
            &[
                of(
                    Lines,
                    8,
                    "Rows that wait, or windows that are open",
                    "short",
                    &[("sum by (view) (veilstream_held_records{@})", "{{view}}")],
                    "Rows of `anonymize` wait for people who look alike. A slope: too few of them, or too long a time.",
                ),
                of(
                    Lines,
                    8,
                    "People in a group",
                    "short",
                    &[
                        (
                            "histogram_quantile(0.05, sum by (view, le) (rate(veilstream_group_subjects_bucket{@}[$__rate_interval])))",
                            "{{view}} p5",
                        ),
                        (
                            "histogram_quantile(0.5, sum by (view, le) (rate(veilstream_group_subjects_bucket{@}[$__rate_interval])))",
                            "{{view}} p50",
                        ),
                    ],
                    "Of each row that was published: different people in its group when that was published first, by buckets. Never below k.",
                ),
                of(
                    Lines,
                    8,
                    "Different sensitive values in a group",
                    "short",
                    &[(
                        "histogram_quantile(0.05, sum by (view, le) (rate(veilstream_group_distinct_values_bucket{@}[$__rate_interval])))",
                        "{{view}} p5",
                    )],
                    "Of the sensitive field that had fewest. 1: whoever is in the group has that value.",
                ),
                of(
                    Lines,
                    8,
                    "Information loss",
                    "percentunit",
                    &[(
                        "sum by (view) (rate(veilstream_group_loss_ratio_sum{@}[$__rate_interval])) / sum by (view) (rate(veilstream_group_loss_ratio_count{@}[$__rate_interval]))",
                        "{{view}}",
                    )],
                    "What groups do not say of their quasi-identifiers, on average: 0% all is said, 100% nothing.",
                ),
                of(
                    Lines,
                    8,
                    "Share of rows suppressed",
                    "percentunit",
                    &[(
                        "sum by (view) (rate(veilstream_view_records_total{@,outcome=\"suppressed\"}[$__rate_interval])) / sum by (view) (rate(veilstream_view_records_total{@,outcome=~\"suppressed|released\"}[$__rate_interval]))",
                        "{{view}}",
                    )],
                    "Rows for which no group was found in time.",
                ),
                of(
                    Lines,
                    8,
                    "Budget of privacy left",
                    "percentunit",
                    &[("min by (view) (veilstream_privacy_budget_left_ratio{@})", "{{view}}")],
                    "Of the partition that has least. At 0% nothing is published until the period ends.",
                ),
                of(
                    Bars,
                    12,
                    "Windows, last hour",
                    "short",
                    &[(
                        "sum by (view, outcome) (increase(veilstream_windows_total{@}[1h]))",
                        "{{view}} {{outcome}}",
                    )],
                    "All that are not `published` are withheld; a row in the topic says why.",
                ),
                of(
                    Lines,
                    12,
                    "Records that windows did not count",
                    "cps",
                    &[(
                        "sum by (view, outcome) (rate(veilstream_window_records_total{@,outcome!~\"counted|other\"}[$__rate_interval]))",
                        "{{view}} {{outcome}}",
                    )],
                    "Too late, too far in the future, or more than one person may contribute.",
                ),
            ],
        ),
        (
            "In force",
            &[of(
                Table,
                24,
                "Policies in force",
                "short",
                &[("count by (policy, version, digest) (veilstream_policy_info{@})", "")],
                "How many workers have which. Two digests of one policy: a reload has not reached all.",
            )],
        ),
    ],
};

const KAFKA: Dashboard = Dashboard {
    uid: "veilstream-kafka",
    title: "veilstream / Kafka clients",
    about: "How the consumers and producers fare with their brokers.",
    rows: &[
        (
            "Brokers",
            &[
                of(
                    Lines,
                    8,
                    "Brokers connected",
                    "short",
                    &[(
                        "min by (instance, client) (veilstream_kafka_brokers_up{@})",
                        "{{instance}} {{client}}",
                    )],
                    "The fewest of any lane. A producer without work keeps no connection.",
                ),
                of(
                    Lines,
                    8,
                    "Round trip, p99 to the slowest broker",
                    "s",
                    &[("max by (client) (veilstream_kafka_round_trip_seconds{@})", "{{client}}")],
                    "Fetches that wait for records count.",
                ),
                of(
                    Lines,
                    8,
                    "Errors, retries, timeouts",
                    "cps",
                    &[(
                        "sum by (client, what) (rate(veilstream_kafka_client_total{@,what=~\"errors|retries|timeouts\"}[$__rate_interval]))",
                        "{{client}} {{what}}",
                    )],
                    "librdkafka goes on by itself; many of them are a broker or a network in trouble.",
                ),
                of(
                    Lines,
                    8,
                    "Disconnects",
                    "short",
                    &[(
                        "sum by (client) (increase(veilstream_kafka_client_total{@,what=\"disconnects\"}[5m]))",
                        "{{client}}",
                    )],
                    "Idle connections are closed by brokers after ten minutes.",
                ),
                of(
                    Lines,
                    8,
                    "Requests",
                    "cps",
                    &[(
                        "sum by (client) (rate(veilstream_kafka_client_total{@,what=\"requests\"}[$__rate_interval]))",
                        "{{client}}",
                    )],
                    "All kinds.",
                ),
                of(
                    Lines,
                    8,
                    "Bytes",
                    "Bps",
                    &[(
                        "sum by (client, what) (rate(veilstream_kafka_client_total{@,what=~\".*_bytes\"}[$__rate_interval]))",
                        "{{client}} {{what}}",
                    )],
                    "On the wire, compressed.",
                ),
            ],
        ),
        (
            "Group",
            &[
                of(
                    Lines,
                    8,
                    "Rebalances",
                    "short",
                    &[(
                        "sum by (instance) (increase(veilstream_kafka_client_total{@,what=\"rebalances\"}[5m]))",
                        "{{instance}}",
                    )],
                    "Members that come and go. Static membership spares those of a restart.",
                ),
                of(
                    Lines,
                    8,
                    "Partitions, by lane",
                    "short",
                    &[("veilstream_assigned_partitions{@}", "{{instance}} lane {{lane}}")],
                    "A lane without partitions is idle.",
                ),
                of(
                    Lines,
                    8,
                    "Lag, by partition",
                    "short",
                    &[("topk(20, veilstream_lag_records{@})", "{{topic}} {{partition}}")],
                    "One that stays while others fall is a slow or stuck partition.",
                ),
            ],
        ),
        (
            "Queues and transactions",
            &[
                of(
                    Lines,
                    8,
                    "Queued",
                    "short",
                    &[("sum by (client) (veilstream_kafka_queued_messages{@})", "{{client}}")],
                    "Fetched and not polled, or produced and not delivered.",
                ),
                of(
                    Lines,
                    8,
                    "Transactions aborted",
                    "percentunit",
                    &[(
                        "sum(rate(veilstream_transactions_total{@,outcome=\"aborted\"}[$__rate_interval])) / sum(rate(veilstream_transactions_total{@}[$__rate_interval]))",
                        "share",
                    )],
                    "Of all batches.",
                ),
                of(
                    Lines,
                    8,
                    "Commit of a batch",
                    "s",
                    &[
                        (
                            "histogram_quantile(0.5, sum by (le) (rate(veilstream_stage_seconds_bucket{@,stage=\"commit\"}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (le) (rate(veilstream_stage_seconds_bucket{@,stage=\"commit\"}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                    "Delivery, offsets and the end of the transaction.",
                ),
            ],
        ),
    ],
};

const AUDIT: Dashboard = Dashboard {
    uid: "veilstream-audit",
    title: "veilstream / audit",
    about: "Whether everything is accounted for, and what changed.",
    rows: &[
        (
            "Accounting",
            &[
                of(
                    Number,
                    6,
                    "Audit events, last hour",
                    "short",
                    &[("sum(increase(veilstream_audit_events_total{@}[1h]))", "")],
                    "In the same transaction as what they speak of.",
                ),
                of(
                    Number,
                    6,
                    "Records accounted for, last hour",
                    "short",
                    &[("sum(increase(veilstream_consumed_records_total{@}[1h]))", "")],
                    "Every raw record is published, filtered by rule or quarantined.",
                ),
                red(
                    1.0,
                    of(
                        Number,
                        6,
                        "Failures, last hour",
                        "short",
                        &[(
                            "sum(increase(veilstream_audit_events_total{@,kind=\"failure\"}[1h]))",
                            "",
                        )],
                        "Events that list quarantined records.",
                    ),
                ),
                of(
                    Number,
                    6,
                    "Changes, last hour",
                    "short",
                    &[("sum(increase(veilstream_audit_events_total{@,kind=\"change\"}[1h]))", "")],
                    "Starts, policies replaced or refused.",
                ),
                of(
                    Stack,
                    12,
                    "Audit events, by kind",
                    "cps",
                    &[(
                        "sum by (kind) (rate(veilstream_audit_events_total{@}[$__rate_interval]))",
                        "{{kind}}",
                    )],
                    "`process`: one per batch and source.",
                ),
                of(
                    Lines,
                    12,
                    "Records for each audit event",
                    "short",
                    &[(
                        "sum(rate(veilstream_consumed_records_total{@}[$__rate_interval])) / sum(rate(veilstream_audit_events_total{@,kind=\"process\"}[$__rate_interval]))",
                        "records",
                    )],
                    "The size of batches.",
                ),
            ],
        ),
        (
            "What became of records",
            &[
                of(
                    Stack,
                    12,
                    "By outcome, all views",
                    "cps",
                    &[
                        (
                            "sum by (outcome) (rate(veilstream_view_records_total{@}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                        (
                            "sum(rate(veilstream_quarantined_records_total{@}[$__rate_interval]))",
                            "quarantined",
                        ),
                    ],
                    "A record counts once for each view.",
                ),
                of(
                    Table,
                    12,
                    "By view, last hour",
                    "short",
                    &[(
                        "sum by (policy, view, outcome) (increase(veilstream_view_records_total{@}[1h]))",
                        "",
                    )],
                    "As the audit trail counts them.",
                ),
            ],
        ),
        (
            "Policies",
            &[
                of(
                    Table,
                    12,
                    "In force",
                    "short",
                    &[("veilstream_policy_info{@}", "")],
                    "Policy, version and digest, by worker.",
                ),
                of(
                    Lines,
                    12,
                    "Digests in force, by policy",
                    "short",
                    &[(
                        "count by (policy) (count by (policy, digest) (veilstream_policy_info{@}))",
                        "{{policy}}",
                    )],
                    "More than one for longer than a deployment: a reload reached some workers only.",
                ),
            ],
        ),
    ],
};
