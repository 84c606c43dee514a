//! Nothing lost, nothing doubled, nothing raw: two workers on a real broker, while one of them is killed again and
//! again, members come and go, and the broker restarts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use support::broker::Broker;
use support::ledger::{CUSTOMERS, accounted, check, event, policy, until, wait_accounted};
use support::worker::{Site, WorkerProcess};

const PARTITIONS: i32 = 12;

#[test]
fn kills_rebalances_and_restarts_lose_and_double_nothing() {
    ordeal("consumer", 100, "");
}

#[test]
fn nor_do_they_under_the_classic_group_protocol() {
    let sessions = "  consumer: { session.timeout.ms: '6000', heartbeat.interval.ms: '1000' }";
    ordeal("classic", 30, sessions);
}

/// `rounds` events for each customer, through workers with these `kafka` settings.
fn ordeal(protocol: &str, rounds: u64, kafka: &str) {
    // A killed member's partitions are free after 6 s, not after the default of 45.
    let sessions = [
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
        ("group.consumer.min.heartbeat.interval.ms", "1000"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
        ("group.min.session.timeout.ms", "6000"),
    ];
    let broker = Broker::start_with(&format!("exactly-once-{protocol}"), &sessions);
    let prefix = format!("eo{}.{protocol}", std::process::id());
    for view in ["raw", "analytics", "fraud"] {
        broker.create_topic(&format!("{prefix}.{view}"), PARTITIONS);
    }
    for topic in ["quarantine", "audit"] {
        broker.create_topic(&format!("{prefix}.{topic}"), 3);
    }
    let mut site = Site::new(broker.bootstrap(), &prefix, &policy(&prefix));
    site.kafka = format!("  group_protocol: {protocol}\n{kafka}");
    // Many small transactions, so that a kill nearly always meets an open one.
    site.extra =
        "batch: { records: 500 }\nlimits: { sources: { RAW: { records_per_second: 12000 } } }"
            .replace("RAW", &format!("{prefix}.raw"));
    let expected = CUSTOMERS * rounds;

    let raw = format!("{prefix}.raw");
    for round in 0..rounds {
        let events: Vec<_> = (round * CUSTOMERS..(round + 1) * CUSTOMERS).map(event).collect();
        let records: Vec<_> = events
            .iter()
            .map(|(key, value)| (Some(key.as_bytes()), Some(value.as_bytes())))
            .collect();
        broker.produce(&raw, &records);
    }

    // The steady one logs all there is to log, for the canaries.
    let steady = WorkerProcess::start(&site, "steady", "debug");
    let consumed = |worker: &WorkerProcess| worker.metric("veilstream_consumed_records_total", "");
    for round in 0..4 {
        let victim = site.start("victim");
        until("the victim's first batches", 90, || {
            consumed(&victim) > 2_000.0 || accounted(&broker, &prefix) >= expected
        });
        victim.kill();
        if round == 1 && !broker.is_external() {
            broker.restart();
        }
        if round == 2 {
            let guest = site.start("guest");
            until("the guest's share", 90, || {
                consumed(&guest) > 500.0 || accounted(&broker, &prefix) >= expected
            });
            assert!(guest.stop().success(), "a graceful stop ends with status 0");
        }
    }
    // Under the name of the killed one: so its open transaction ends at once, and holds up no reader.
    let second = site.start("victim");
    wait_accounted(&broker, &prefix, expected, 300);
    assert!(steady.stop().success() && second.stop().success());

    check(&broker, &prefix, expected, &site);
    assert!(site.logs().contains("DEBUG"), "debug logging was on");
}
