//! The life of a worker on a real broker: delivery, reload, stop, an outage, limits, what it tells of itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::broker::{Broker, wait_until};
use support::proxy::Proxy;
use support::scene::{Scene, Traffic, check_traffic, header, wait_consumed};
use support::worker::{WorkerProcess, free_address};

fn broker() -> Arc<Broker> {
    Broker::shared("worker")
}

/// For [`Traffic`], which it passes as it is.
fn counting(version: u32) -> String {
    format!(
        "
policy: counting
version: {version}
source: {{ topic: PREFIX.raw, format: json }}
fields: {{ id: identifier, n: public }}
views: {{ all: {{ topic: PREFIX.all, default: keep }} }}
"
    )
}

fn reloads(worker: &WorkerProcess, outcome: &str) -> f64 {
    worker.metric("veilstream_policy_reloads_total", &format!("outcome=\"{outcome}\""))
}

/// Waits until the policies of the `count`th reload hold for every record to come: the lane tells
/// of it with its last batch under the old ones, or later.
fn wait_replaced(scene: &Scene, count: usize) {
    wait_until("the reload in the audit trail", || {
        scene.changes("policies-replaced").len() == count
    });
}

#[test]
fn a_reload_replaces_the_policy_between_batches() {
    let topics = [("raw", 1), ("all", 1)];
    let scene = Scene::new(broker(), "reload", &counting(1), &topics);
    let policy = scene.site.path("policy.yaml");
    let put = |path: &std::path::Path, version| {
        let text = counting(version).replace("PREFIX", &scene.prefix);
        fs::write(scene.site.path("new"), text).unwrap();
        fs::rename(scene.site.path("new"), path).unwrap();
    };
    // Behind a link into another folder, the file changes unseen.
    let hidden = scene.site.path("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::rename(&policy, hidden.join("real.yaml")).unwrap();
    std::os::unix::fs::symlink(hidden.join("real.yaml"), &policy).unwrap();

    let worker = scene.site.start("one");
    let traffic = Traffic::start(&scene, "raw");
    wait_consumed(&worker, 50);
    // Numbers up to the first of a pair are under the old policy, those from the second on under the new one.
    let mut borders = Vec::new();
    let mut reload = |count: usize, change: &dyn Fn()| {
        let before = worker.metric("veilstream_consumed_records_total", "") as u64;
        change();
        wait_replaced(&scene, count);
        wait_until("the reload in the metrics", || reloads(&worker, "applied") == count as f64);
        let after = traffic.produced() + Traffic::BURST;
        wait_consumed(&worker, after + 50);
        borders.push((before, after));
    };
    reload(1, &|| {
        put(&hidden.join("real.yaml"), 2);
        worker.signal("HUP");
    });
    reload(2, &|| put(&policy, 3));
    let total = traffic.stop();
    wait_consumed(&worker, total);
    assert_eq!(reloads(&worker, "refused"), 0.0);
    assert!(worker.stop().success());

    let messages = scene.consume("all");
    check_traffic(&messages, total);
    let version = |n: u64| {
        let label = header(&messages[n as usize], "veilstream-policy").unwrap();
        let version = label.strip_prefix("counting@").unwrap().split_once('#').unwrap().0;
        version.parse::<usize>().unwrap()
    };
    for n in 0..total {
        let least = 1 + borders.iter().filter(|(_, after)| n >= *after).count();
        let most = 1 + borders.iter().filter(|(before, _)| n >= *before).count();
        assert!((least..=most).contains(&version(n)), "{n} is under version {}", version(n));
    }
    // One policy for each batch, and it is the one that its records name: with one partition, numbers are offsets.
    for batch in scene.audit("process") {
        let (first, last) = (&batch["offsets"][0]["first"], &batch["offsets"][0]["last"]);
        for n in first.as_u64().unwrap()..=last.as_u64().unwrap() {
            assert_eq!(version(n) as u64, batch["policy"]["version"].as_u64().unwrap());
        }
    }
}

#[test]
fn invalid_policies_are_refused_whole() {
    let topics = [("raw", 1), ("all", 1), ("other", 1), ("view", 1)];
    let scene = Scene::new(broker(), "refused", &counting(1), &topics);
    let other = counting(1).replace("counting", "other").replace("PREFIX.raw", "PREFIX.other");
    let other = other.replace("PREFIX.all", "PREFIX.view").replace("PREFIX", &scene.prefix);
    fs::write(scene.site.path("policy-other.yaml"), &other).unwrap();
    let worker = scene.site.start("one");
    scene.produce("raw", &[(None, r#"{"n":0}"#)]);
    wait_consumed(&worker, 1);

    // One policy is wrong: the other, right as it is, does not change either.
    fs::write(scene.site.path("policy-other.yaml"), other.replace("json", "jsom")).unwrap();
    let second = counting(2).replace("PREFIX", &scene.prefix);
    fs::write(scene.site.path("policy.yaml"), second).unwrap();
    wait_until("the refusal in the metrics", || reloads(&worker, "refused") >= 1.0);
    wait_until("the refusal in the audit trail", || !scene.changes("policies-refused").is_empty());
    assert_eq!(scene.changes("policies-refused")[0]["change"]["errors"], 1);
    assert!(worker.log().contains("policy-other.yaml") && worker.log().contains("jsom"));
    scene.produce("raw", &[(None, r#"{"n":1}"#)]);
    wait_consumed(&worker, 2);
    let labels = |scene: &Scene| {
        let of = |m: &_| header(m, "veilstream-policy").unwrap().to_owned();
        scene.consume("all").iter().map(of).collect::<Vec<_>>()
    };
    let old = labels(&scene);
    assert!(old.len() == 2 && old.iter().all(|label| label.starts_with("counting@1#")));
    let in_force = |version| {
        let label = format!("policy=\"counting\",version=\"{version}\"");
        worker.get("/metrics").unwrap().1.contains(&label)
    };
    assert!(in_force(1) && !in_force(2));
    assert_eq!((reloads(&worker, "applied"), worker.get("/readyz").unwrap().0), (0.0, 200));

    // Mended, both are in force.
    fs::write(scene.site.path("policy-other.yaml"), &other).unwrap();
    wait_replaced(&scene, 1);
    scene.produce("raw", &[(None, r#"{"n":2}"#)]);
    wait_consumed(&worker, 3);
    assert!(labels(&scene)[2].starts_with("counting@2#") && in_force(2) && !in_force(1));
    assert!(worker.stop().success());
}

#[test]
fn at_least_once_publishes_each_record_and_counts_it() {
    let mut scene = Scene::new(broker(), "least", &counting(1), &[("raw", 3), ("all", 3)]);
    scene.site.extra = "delivery: at-least-once".into();
    let worker = scene.site.start("one");
    let traffic = Traffic::start(&scene, "raw");
    wait_consumed(&worker, 200);
    let first = traffic.stop();
    scene.produce("raw", &[(Some(r#"{"id":1}"#), "{broken")]);
    wait_consumed(&worker, first + 1);
    let count = |name: &str, label: &str| worker.metric(&format!("veilstream_{name}"), label);
    assert_eq!(count("view_records_total", "outcome=\"published\""), first as f64);
    assert_eq!(count("quarantined_records_total", "reason=\"invalid_json\""), 1.0);
    assert!(count("transactions_total", "outcome=\"committed\"") >= 2.0);
    assert_eq!(count("transactions_total", "outcome=\"aborted\""), 0.0);
    assert!(worker.stop().success());
    assert_eq!(scene.broker.committed(&scene.prefix, &scene.topic("raw")) as u64, first + 1);
    check_traffic(&scene.consume("all"), first);
    assert_eq!(scene.consume("quarantine").len(), 1);
    assert_eq!(scene.check_audit("raw"), first + 1);

    // Without an error nothing stands twice, over a restart either.
    let worker = scene.site.start("one");
    let second: Vec<_> = (first..first + 50).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let records: Vec<_> = second.iter().map(|n| (Some(r#"{"id":3}"#), n.as_str())).collect();
    scene.produce("raw", &records);
    wait_consumed(&worker, 50);
    assert!(worker.stop().success());
    check_traffic(&scene.consume("all"), first + 50);
    assert_eq!(scene.check_audit("raw"), first + 51);
}

#[test]
fn a_stop_commits_what_was_consumed_and_a_successor_goes_on() {
    let mut scene = Scene::new(broker(), "stop", &counting(1), &[("raw", 4), ("all", 4)]);
    scene.site.extra = "shutdown_deadline_s: 10".into();
    let first = scene.site.start("one");
    let traffic = Traffic::start(&scene, "raw");
    wait_consumed(&first, 500);
    let began = Instant::now();
    assert_eq!(first.stop().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "stopped after {:?}", began.elapsed());

    // Views, audit trail and offsets end at the same place, and it is not the end.
    let published = scene.consume("all").len() as u64;
    assert_eq!(scene.check_audit("raw"), published);
    assert_eq!(scene.broker.committed(&scene.prefix, &scene.topic("raw")) as u64, published);
    let there = traffic.produced();
    wait_until("more records", || traffic.produced() > there.max(published) + 100);

    let second = scene.site.start("two");
    wait_consumed(&second, 200);
    let total = traffic.stop();
    wait_consumed(&second, total - published);
    assert_eq!(second.metric("veilstream_consumed_records_total", ""), (total - published) as f64);
    assert_eq!(second.stop().code(), Some(0));
    check_traffic(&scene.consume("all"), total);
    assert_eq!(scene.check_audit("raw"), total);
}

#[test]
fn an_outage_of_the_broker_loses_and_doubles_nothing() {
    let broker = Arc::new(Broker::start("worker-outage"));
    if broker.is_external() {
        return;
    }
    let scene = Scene::new(broker, "outage", &counting(1), &[("raw", 3), ("all", 3)]);
    let worker = scene.site.start("one");
    let traffic = Traffic::start(&scene, "raw");
    wait_consumed(&worker, 200);
    let ready = || worker.get("/readyz").map(|(code, _)| code);
    assert_eq!(ready(), Some(200));

    let healthy = || assert_eq!(worker.get("/healthz").map(|(code, _)| code), Some(200));
    let during = |work: &(dyn Fn() + Sync)| {
        thread::scope(|scope| {
            let work = scope.spawn(work);
            while !work.is_finished() {
                healthy();
                thread::park_timeout(Duration::from_millis(20));
            }
            work.join().expect("the broker stops and starts");
        });
    };
    let becomes = |code: u16| {
        wait_until(&format!("/readyz gives {code}"), || {
            healthy();
            ready() == Some(code)
        });
    };
    during(&|| scene.broker.stop());
    becomes(503);
    wait_until("the metric as well", || worker.metric("veilstream_lane_ready", "") == 0.0);
    during(&|| scene.broker.start_again());
    becomes(200);

    let there = traffic.produced();
    wait_until("more records", || traffic.produced() > there + 100);
    let total = traffic.stop();
    scene.wait_accounted(total);
    assert!(worker.stop().success());
    check_traffic(&scene.consume("all"), total);
    assert_eq!(scene.check_audit("raw"), total);

    // Without a broker a stop is heard all the same.
    scene.broker.stop();
    let worker = scene.site.start("two");
    wait_until("it is alive", || worker.get("/healthz").map(|(code, _)| code) == Some(200));
    assert_eq!(worker.get("/readyz").map(|(code, _)| code), Some(503));
    assert!(worker.stop().success());
}

/// Members are missed after six seconds.
const SESSIONS: [(&str, &str); 4] = [
    ("group.consumer.min.session.timeout.ms", "6000"),
    ("group.consumer.session.timeout.ms", "6000"),
    ("group.consumer.min.heartbeat.interval.ms", "1000"),
    ("group.consumer.heartbeat.interval.ms", "1000"),
];

/// The broker tells a member of its new assignment once, in the answer to a heartbeat.
#[test]
fn an_assignment_that_gets_lost_on_its_way_is_asked_for_again() {
    let broker = Arc::new(Broker::start_with("worker-proxy", &SESSIONS));
    if broker.is_external() {
        return;
    }
    let inner = free_address();
    let proxy = Proxy::start(inner);
    let direct = broker.bootstrap().to_owned();
    let mut properties = vec![
        "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXY:PLAINTEXT"
            .into(),
        format!("advertised.listeners=CLIENT://{direct},PROXY://{}", proxy.address),
    ];
    properties.extend(SESSIONS.map(|(name, value)| format!("{name}={value}")));
    let properties: Vec<_> = properties.iter().map(String::as_str).collect();
    broker.restart_with_listener(&format!("PROXY://{inner}"), &properties);
    let mut scene = Scene::new(broker, "lost", &counting(1), &[("raw", 2), ("all", 2)]);
    let traffic = Traffic::start(&scene, "raw");
    scene.site.bootstrap = proxy.address.to_string();
    let one = scene.site.start("one");
    wait_consumed(&one, 200);
    scene.site.bootstrap = direct;
    proxy.hold();
    scene.site.kafka = "  consumer: { debug: cgrp }".into();
    let two = WorkerProcess::start(&scene.site, "two", "debug");
    wait_until("two is a member", || {
        two.log().contains("ConsumerGroupHeartbeat response received")
    });
    let unheard = || one.log().matches("Timed out ConsumerGroupHeartbeatRequest in flight").count();
    let before = unheard();
    // The first may have been heard before that.
    wait_until("heartbeats that are not answered", || unheard() > before + 1);
    proxy.release();
    wait_consumed(&two, 200);
    let at_work = one.metric("veilstream_consumed_records_total", "");
    wait_consumed(&one, at_work as u64 + 200);
    let total = traffic.stop();
    scene.wait_accounted(total);
    assert!(one.stop().success() && two.stop().success());
    check_traffic(&scene.consume("all"), total);
    assert_eq!(scene.check_audit("raw"), total);
}

/// A lane that has a batch in hand hears that the group gave it up, however much librdkafka has to tell besides.
#[test]
fn a_lane_that_its_group_gave_up_joins_it_again() {
    let broker = Arc::new(Broker::start_with("worker-frozen", &SESSIONS));
    if broker.is_external() {
        return;
    }
    let mut scene = Scene::new(broker, "frozen", &counting(1), &[("raw", 2), ("all", 2)]);
    scene.site.kafka = "  consumer: { statistics.interval.ms: '5' }".into();
    // It nearly always waits with a batch.
    let raw = scene.topic("raw");
    scene.site.extra = format!("limits: {{ sources: {{ {raw}: {{ records_per_second: 200 }} }} }}");
    let traffic = Traffic::start(&scene, "raw");
    wait_until("enough for both", || traffic.produced() > 4_000);
    let total = traffic.stop();
    let frozen = scene.site.start("one");
    wait_consumed(&frozen, 300);
    // In the middle of a batch, which takes a second: what is counted as consumed was the end of one.
    let waits = || frozen.metric("veilstream_rate_limit_wait_seconds_count", &raw);
    let before = waits();
    wait_until("the next batch", || waits() > before + 20.0);
    frozen.signal("STOP");
    let other = scene.site.start("two");
    wait_until("the other takes both partitions", || {
        other.metric("veilstream_assigned_partitions", "") == 2.0
    });
    frozen.signal("CONT");
    let committed =
        |worker: &WorkerProcess| worker.metric("veilstream_transactions_total", "\"committed\"");
    for worker in [&frozen, &other] {
        let before = committed(worker);
        wait_until("both at work", || committed(worker) > before);
    }
    scene.wait_accounted(total);
    assert!(frozen.log().contains("aborting"), "it had a batch in hand");
    assert!(frozen.stop().success() && other.stop().success());
    check_traffic(&scene.consume("all"), total);
    assert_eq!(scene.check_audit("raw"), total);
}

#[test]
fn a_rate_limit_bounds_what_is_consumed() {
    const RATE: usize = 200;
    let mut scene = Scene::new(broker(), "limit", &counting(1), &[("raw", 1), ("all", 1)]);
    let raw = scene.topic("raw");
    scene.site.extra =
        format!("limits: {{ sources: {{ {raw}: {{ records_per_second: {RATE} }} }} }}");
    scene.produce("raw", &[(None, r#"{"n":1}"#); 5 * RATE]);
    let worker = scene.site.start("one");
    // A burst of a second, the rate, and a batch, which here is a second's worth.
    let allowed = |time: Duration| 2.0 * RATE as f64 + RATE as f64 * time.as_secs_f64();
    let mut readings: Vec<(Instant, f64)> = Vec::new();
    wait_until("all records", || {
        let before = Instant::now();
        let count = worker.metric("veilstream_consumed_records_total", &raw);
        for (since, earlier) in &readings {
            let time = since.elapsed();
            assert!(count - earlier <= allowed(time), "{earlier} to {count} within {time:?}");
        }
        readings.push((before, count));
        count >= 5.0 * RATE as f64
    });
    let waits = worker.metric("veilstream_rate_limit_wait_seconds_count", &format!("\"{raw}\""));
    assert!(waits > 0.0 && waits <= 5.0 * RATE as f64, "{waits} waits");
    let waited = worker.metric("veilstream_rate_limit_wait_seconds_sum", &raw);
    assert!(waited > 1.0, "{waited} s for what takes 4 s");
    assert_eq!(worker.metric("veilstream_transactions_total", "aborted"), 0.0);
    assert!(worker.stop().success());
    assert_eq!(scene.consume("all").len(), 5 * RATE);
}
