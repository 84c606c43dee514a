//! Topics as planned, and a check that says what a cluster lacks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::Value;
use support::broker::{Broker, wait_until};
use support::scene::{Scene, wait_consumed};
use support::worker::{BINARY, Site, free_address};

const POLICY: &str = "
policy: customers
version: 1
source: { topic: PREFIX.raw, format: debezium }
subject: id
fields: { id: identifier }
views:
  table: { topic: PREFIX.table, classes: { identifier: tokenize } }
  stream: { topic: PREFIX.stream, key: drop, classes: { identifier: tokenize } }
";

/// A site whose source topic alone is there.
fn site(broker: &Broker, name: &str) -> (Site, String) {
    let prefix = format!("c{}-{name}", std::process::id());
    broker.create_topic(&format!("{prefix}.raw"), 5);
    let site = Site::new(broker.bootstrap(), &prefix, &POLICY.replace("PREFIX", &prefix));
    (site, prefix)
}

fn run(site: &Site, arguments: &[&str]) -> Output {
    let config = site.configure("one", free_address());
    let mut command = Command::new(BINARY);
    let (first, rest) = arguments.split_at(if arguments[0] == "topics" { 2 } else { 1 });
    command.args(first).arg("--config").arg(config).args(rest);
    command.envs(site.environment.iter().map(|(name, value)| (name, value)));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Vec<Value> {
    serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
}

/// What the check found that is no `ok`: level, what, fix.
fn complaints(site: &Site) -> Vec<(String, String, String)> {
    let findings = json(&run(site, &["run", "--check", "--json"]));
    assert!(findings.len() > 3);
    let of = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let complaint =
        |finding: &Value| (of(finding, "level"), of(finding, "what"), of(finding, "fix"));
    for finding in findings.iter().filter(|finding| finding["level"] != "ok") {
        // Seen only where the test fails.
        println!("{}: {}", of(finding, "what"), of(finding, "found"));
    }
    findings.iter().map(complaint).filter(|(level, ..)| level != "ok").collect()
}

#[test]
fn topics_are_planned_made_and_then_as_they_should_be() {
    let broker = Broker::shared("cluster");
    let (mut site, prefix) = site(&broker, "plan");
    let missing = complaints(&site);
    assert_eq!(missing.len(), 4, "{missing:?}");
    assert!(missing.iter().all(|(level, _, fix)| level == "error" && fix.contains("topics apply")));

    let plan = run(&site, &["topics", "plan"]);
    assert!(plan.status.success());
    let shown = text(&plan);
    assert!(shown.contains(&format!("  {prefix}.raw: as it should be")), "{shown}");
    assert!(shown.contains(&format!("+ {prefix}.table: 5 partitions")), "{shown}");
    assert_eq!(shown.matches("cleanup.policy=compact").count(), 1, "{shown}");
    assert_eq!(complaints(&site).len(), 4, "a plan makes nothing");

    assert!(run(&site, &["topics", "apply"]).status.success());
    let again = run(&site, &["topics", "plan", "--json"]);
    assert!(json(&again).iter().all(|one| one["change"] == "none"), "{}", text(&again));
    assert_eq!(complaints(&site), []);

    // What is told wins; what else was given to the topic stays.
    let audit = format!("{prefix}.audit");
    let each = |settings: &str| format!("{{ {audit}: {{ settings: {{ {settings} }} }} }}");
    site.environment.push(("VEILSTREAM__TOPICS__EACH", each("cleanup.policy: compact")));
    let plan = json(&run(&site, &["topics", "apply", "--json"]));
    let changed: Vec<_> = plan.iter().filter(|one| one["change"] == "alter").collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0]["settings"]["cleanup.policy"], "compact");
    assert_eq!(changed[0]["now"]["cleanup.policy"], "delete");
    let (level, what, fix) = complaints(&site).pop().unwrap();
    assert_eq!((level.as_str(), what), ("error", format!("topic {audit}")));
    assert!(fix.contains("cleanup.policy=delete"));

    // Somebody set it: without a word of the configuration it is left alone, and said.
    site.environment.clear();
    let plan = json(&run(&site, &["topics", "apply", "--json"]));
    let left: Vec<_> = plan.iter().filter(|one| one["change"] == "left").collect();
    assert_eq!(left.len(), 1, "{plan:?}");
    assert_eq!(left[0]["setting"], "cleanup.policy", "{plan:?}");
    site.environment.push(("VEILSTREAM__TOPICS__EACH", each("cleanup.policy: delete")));
    assert!(run(&site, &["topics", "apply"]).status.success());
    let plan = json(&run(&site, &["topics", "plan", "--json"]));
    // The retention that was chosen when the topic was made is still there.
    assert!(plan.iter().all(|one| one["change"] == "none"), "{plan:?}");
}

#[test]
fn a_source_is_made_only_where_its_partitions_are_told() {
    let broker = Broker::shared("cluster");
    let prefix = format!("c{}-source", std::process::id());
    let mut site = Site::new(broker.bootstrap(), &prefix, &POLICY.replace("PREFIX", &prefix));
    let plan = text(&run(&site, &["topics", "plan"]));
    assert!(plan.contains(&format!("! {prefix}.raw: a source that is not there")), "{plan}");
    let each = format!("{{ {prefix}.raw: {{ partitions: 7 }} }}");
    site.environment.push(("VEILSTREAM__TOPICS__EACH", each));
    assert!(run(&site, &["topics", "apply"]).status.success());
    let plan = json(&run(&site, &["topics", "plan", "--json"]));
    assert!(plan.iter().all(|one| one["change"] == "none"), "{plan:?}");
    assert_eq!(complaints(&site), []);
}

#[test]
fn a_cluster_that_is_not_there_is_a_failure_that_says_so() {
    let site = Site::new(&free_address().to_string(), "nowhere", &POLICY.replace("PREFIX", "n"));
    let check = run(&site, &["run", "--check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(text(&check).contains("check kafka.bootstrap"), "{}", text(&check));
    let plan = run(&site, &["topics", "plan"]);
    assert_eq!(plan.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&plan.stderr).contains("the cluster at"));
}

#[test]
fn timeouts_that_do_not_fit_are_told() {
    let broker = Broker::shared("cluster");
    let (mut site, _) = site(&broker, "times");
    assert!(run(&site, &["topics", "apply"]).status.success());
    for (name, value, fix) in [
        ("VEILSTREAM__KAFKA__CONSUMER", "{ max.poll.interval.ms: '60000' }", "raise max.poll"),
        ("VEILSTREAM__BATCH__TIME_MS", "20000", "lower batch.time_ms"),
        // The broker's transaction.max.timeout.ms is 15 minutes.
        ("VEILSTREAM__KAFKA__TRANSACTION_TIMEOUT_MS", "1000000", "transaction.max.timeout.ms"),
    ] {
        site.environment = vec![(name, value.to_owned())];
        if name.ends_with("TIMEOUT_MS") {
            let poll = "{ max.poll.interval.ms: '2000000' }".to_owned();
            site.environment.push(("VEILSTREAM__KAFKA__CONSUMER", poll));
        }
        let found = complaints(&site);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].2.contains(fix), "{name}: {found:?}");
    }
}

/// Lets a user do what the words say.
fn allow(broker: &Broker, user: &str, rules: &[String]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = Command::new("java")
        .arg("-cp")
        .arg(here.join("target/kafka/lib/*"))
        .arg(here.join("tests/kafka/Acls.java"))
        .args([broker.bootstrap(), user])
        .args(rules)
        .output()
        .unwrap();
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));
}

#[test]
fn what_a_worker_may_not_do_is_told_and_what_the_documentation_lists_is_enough() {
    let broker = Arc::new(Broker::start("acl"));
    if broker.is_external() {
        return;
    }
    let topics = [("raw", 2), ("table", 2), ("stream", 2)];
    let roomy = [("quarantine", "max.message.bytes", "2000000")];
    let mut scene = Scene::new_with(Arc::clone(&broker), "acl", POLICY, &topics, &roomy);
    let listener = free_address();
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    broker.restart_with_listener(
        &format!("USERS://{listener}"),
        &[
            "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_PLAINTEXT",
            "listener.name.users.sasl.enabled.mechanisms=PLAIN",
            &format!("listener.name.users.plain.sasl.jaas.config={login} user_ann=\"secret\";"),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            // Whoever comes without a name: the broker itself, and this test.
            "super.users=User:ANONYMOUS",
        ],
    );
    scene.site.bootstrap = listener.to_string();
    std::fs::write(scene.site.path("secret"), "secret").unwrap();
    scene.site.kafka = "  security:
    protocol: sasl_plaintext
    sasl: { mechanism: PLAIN, username: { env: ANN }, password: { file: secret } }"
        .into();
    scene.site.environment.push(("ANN", "ann".into()));

    // Nothing is allowed: nothing is seen.
    let found = complaints(&scene.site);
    assert_eq!(found.len(), 6, "{found:?}");

    // All may be described, nothing read or written.
    let prefix = &scene.prefix;
    allow(&broker, "ann", &[format!("TOPIC:PREFIXED:{prefix}:DESCRIBE")]);
    let found = complaints(&scene.site);
    let has = |what: &str, fix: &str| {
        found.iter().any(|(_, one, mend)| one.contains(what) && mend.contains(fix))
    };
    assert!(has(&format!("read {prefix}.raw"), "allow READ on the topic"), "{found:?}");
    assert!(has("group ", "allow READ on the group"), "{found:?}");
    assert!(has("transactions ", "allow WRITE and DESCRIBE"), "{found:?}");
    assert!(has(&format!("topic {prefix}.table"), "DESCRIBE_CONFIGS"), "{found:?}");

    // All but one topic.
    let outputs = ["table", "quarantine", "audit"];
    let writes =
        |name: &&str| format!("TOPIC:LITERAL:{prefix}.{name}:WRITE,DESCRIBE,DESCRIBE_CONFIGS");
    let mut rules: Vec<_> = outputs.iter().map(writes).collect();
    rules.push(format!("TOPIC:LITERAL:{prefix}.raw:READ,DESCRIBE,DESCRIBE_CONFIGS"));
    rules.push(format!("GROUP:LITERAL:{prefix}:READ"));
    rules.push(format!("TRANSACTIONAL_ID:PREFIXED:{prefix}-:WRITE,DESCRIBE"));
    allow(&broker, "ann", &rules);
    let found = complaints(&scene.site);
    let errors: Vec<_> = found.iter().filter(|(level, ..)| level == "error").collect();
    assert_eq!(errors.len(), 1, "{found:?}");
    assert_eq!(errors[0].1, format!("write {prefix}.stream"));

    allow(&broker, "ann", &[writes(&"stream")]);
    assert_eq!(complaints(&scene.site), []);
    // The check has published nothing.
    assert!(
        ["table", "stream", "quarantine", "audit"].iter().all(|one| scene.consume(one).is_empty())
    );

    let event = r#"{"before":null,"after":{"id":1},"source":{},"op":"c","ts_ms":1}"#;
    scene.produce("raw", &[(Some(r#"{"id":1}"#), event)]);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 1);
    wait_until("the record", || scene.consume("table").len() == 1);
    assert!(worker.stop().success());
}
