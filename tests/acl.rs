//! What Kafka allows: planned, made and audited on a broker with an authorizer, and tried as those users.
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
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use support::broker::{Broker, wait_until};
use support::scene::{Scene, wait_consumed};
use support::worker::{BINARY, free_address};

const POLICY: &str = "
policy: customers
version: 1
source: { topic: PREFIX.raw, format: json }
subject: id
fields: { id: identifier }
views:
  analytics: { topic: PREFIX.analytics, key: drop, classes: { identifier: tokenize } }
  fraud: { topic: PREFIX.fraud, key: drop, classes: { identifier: keep } }
";
const ROLES: &str = "
roles:
  analyst: { views: customers/analytics, principals: 'User:analytics' }
  investigator: { views: [customers/fraud], principals: 'User:fraud-desk' }
  lead: { views: [customers/fraud, customers/analytics] }
";
const DENIED: RDKafkaErrorCode = RDKafkaErrorCode::TopicAuthorizationFailed;
const PASSWORD: &str = "a-password-of-tests";
const USERS: [&str; 7] =
    ["worker", "analytics", "fraud-desk", "security", "auditor", "nobody", "guest"];

/// Runs a program of tests/kafka with the broker's own libraries.
fn java(name: &str, arguments: &[&str]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("java")
        .arg("-cp")
        .arg(here.join("target/kafka/lib/*"))
        .arg(here.join(format!("tests/kafka/{name}.java")))
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A cluster with an authorizer: whoever comes by the broker's own listener is a super user, whoever comes by the other
/// one has a name.
struct Guarded {
    scene: Scene,
    listener: String,
}

impl Guarded {
    fn start() -> Option<Guarded> {
        let broker = Arc::new(Broker::start("guarded"));
        if broker.is_external() {
            return None;
        }
        let topics = [("raw", 1), ("analytics", 1), ("fraud", 1)];
        let roomy = [("quarantine", "max.message.bytes", "2000000")];
        let mut scene = Scene::new_with(Arc::clone(&broker), "acl", POLICY, &topics, &roomy);
        std::fs::write(scene.site.path("roles.yaml"), ROLES).unwrap();
        std::fs::write(scene.site.path("secret"), PASSWORD).unwrap();
        scene.site.extra = "access: { roles: roles.yaml, principal: 'User:worker' }".into();
        let mut arguments = vec![broker.bootstrap(), PASSWORD];
        arguments.extend(USERS);
        java("Scram", &arguments);
        let guarded = Guarded { scene, listener: free_address().to_string() };
        // Without an authorizer there is nothing to allow, and nobody is told that all is well.
        for command in ["plan", "apply", "audit"] {
            let output = guarded.acl(None, &[command]);
            assert_eq!(output.status.code(), Some(1), "{command}");
            assert!(stderr(&output).contains("SECURITY_DISABLED"), "{}", stderr(&output));
            assert_eq!(stdout(&output), "");
        }
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        broker.restart_with_listener(
            &format!("USERS://{}", guarded.listener),
            &[
                "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_PLAINTEXT",
                "listener.name.users.sasl.enabled.mechanisms=SCRAM-SHA-512",
                &format!("listener.name.users.scram-sha-512.sasl.jaas.config={login}"),
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users=User:ANONYMOUS",
            ],
        );
        Some(guarded)
    }

    /// `veilstream acl`, as a super user or as that one.
    fn acl(&self, user: Option<&str>, arguments: &[&str]) -> Output {
        let config = self.scene.site.configure("acl", free_address());
        let mut command = Command::new(BINARY);
        command.args(["acl", arguments[0], "--config"]).arg(config).args(&arguments[1..]);
        if let Some(user) = user {
            command
                .env("VEILSTREAM__KAFKA__BOOTSTRAP", &self.listener)
                .env("VEILSTREAM__KAFKA__SECURITY__PROTOCOL", "sasl_plaintext")
                .env("VEILSTREAM__KAFKA__SECURITY__SASL", sasl("{ env: USER_OF_KAFKA }"))
                .env("USER_OF_KAFKA", user);
        }
        command.output().unwrap()
    }

    /// The ACLs of a plan with that mark, as `User:x TOPIC raw READ`, with `*` behind a prefix.
    fn planned(&self, change: &str) -> Vec<String> {
        let output = self.acl(None, &["plan", "--json"]);
        let plan: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let all = plan["acls"].as_array().unwrap().iter();
        all.filter(|one| one["change"] == change).map(shown).collect()
    }

    /// What an audit finds: the kind of finding, and the ACL.
    fn found(&self) -> Vec<(String, String)> {
        let output = self.acl(None, &["audit", "--json"]);
        let found: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())));
        let kind = |one: &Value| one["finding"].as_str().unwrap().to_owned();
        found.iter().map(|one| (kind(one), shown(one))).collect()
    }

    /// Allows by hand, past veilstream, and waits until the broker knows.
    fn allow(&self, user: &str, rules: &[&str]) {
        let rules: Vec<_> =
            rules.iter().map(|rule| rule.replace("PREFIX.", &self.scene.topic(""))).collect();
        let mut arguments = vec![self.scene.broker.bootstrap(), user];
        arguments.extend(rules.iter().map(String::as_str));
        java("Acls", &arguments);
    }

    fn consumer(&self, user: &str, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.listener)
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", user)
            .set("sasl.password", PASSWORD)
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    }

    /// What a user reads of a topic as a member of a group: the first record, or what the broker objects to.
    fn read(&self, user: &str, group: &str, topic: &str) -> Result<Vec<u8>, RDKafkaErrorCode> {
        let consumer = self.consumer(user, group);
        consumer.subscribe(&[&self.scene.topic(topic)]).unwrap();
        self.first(&consumer, &[DENIED, RDKafkaErrorCode::GroupAuthorizationFailed])
    }

    /// The same without a group.
    fn fetch(&self, user: &str, topic: &str) -> Result<Vec<u8>, RDKafkaErrorCode> {
        let consumer = self.consumer(user, user);
        let topic = self.scene.topic(topic);
        // Of a topic that may not even be described, librdkafka says so here alone.
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10)).unwrap();
        if let Some(error) = metadata.topics()[0].error() {
            return Err(RDKafkaErrorCode::from(error));
        }
        let mut partition = TopicPartitionList::new();
        partition.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&partition).unwrap();
        self.first(&consumer, &[DENIED])
    }

    /// What comes first: a record, or one of these refusals.
    fn first(
        &self,
        consumer: &BaseConsumer,
        refusals: &[RDKafkaErrorCode],
    ) -> Result<Vec<u8>, RDKafkaErrorCode> {
        let mut answer = None;
        wait_until("a record, or a refusal", || {
            answer = match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => Some(Ok(record.payload().unwrap_or_default().to_vec())),
                Some(Err(error)) => {
                    let code = error.rdkafka_error_code().filter(|code| refusals.contains(code));
                    code.map(Err)
                }
                None => None,
            };
            answer.is_some()
        });
        answer.unwrap()
    }
}

fn sasl(user: &str) -> String {
    format!("{{ mechanism: SCRAM-SHA-512, username: {user}, password: {{ file: secret }} }}")
}

fn shown(acl: &Value) -> String {
    let of = |name: &str| acl[name].as_str().unwrap();
    let prefix = if of("pattern") == "PREFIXED" { "*" } else { "" };
    format!("{} {} {}{prefix} {}", of("principal"), of("resource"), of("name"), of("operation"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_reader_of_one_view_reads_nothing_else_and_every_deviation_is_found() {
    let Some(mut guarded) = Guarded::start() else { return };
    let prefix = guarded.scene.prefix.clone();
    let user = |name: &'static str| Some(name);

    // Who may not see ACLs is told so, and not that there are none.
    guarded.allow("security", &["CLUSTER:LITERAL:kafka-cluster:ALTER,DESCRIBE"]);
    guarded.allow("auditor", &["CLUSTER:LITERAL:kafka-cluster:DESCRIBE"]);
    wait_until("the broker knows who may", || {
        guarded.acl(user("security"), &["plan"]).status.success()
            && guarded.acl(user("auditor"), &["plan"]).status.success()
    });
    for command in ["plan", "audit", "apply"] {
        let output = guarded.acl(user("nobody"), &[command]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(stderr(&output).contains("CLUSTER_AUTHORIZATION_FAILED"), "{}", stderr(&output));
    }

    // A plan says what is missing, and changes nothing.
    let missing = guarded.planned("add");
    for expected in [
        format!("User:worker TOPIC {prefix}.raw READ"),
        format!("User:worker TOPIC {prefix}.fraud WRITE"),
        format!("User:worker TRANSACTIONAL_ID {prefix}-* WRITE"),
        format!("User:analytics TOPIC {prefix}.analytics READ"),
        "User:analytics GROUP analytics.* READ".into(),
    ] {
        assert!(missing.contains(&expected), "{expected}: {missing:?}");
    }
    let plan = stdout(&guarded.acl(None, &["plan"]));
    assert!(
        plan.contains(&format!("+ User:analytics: READ, DESCRIBE on topic {prefix}.analytics"))
    );
    assert!(plan.contains("# the role lead has no principals"), "{plan}");
    assert_eq!(guarded.planned("add"), missing);
    let audit = guarded.found();
    assert_eq!(audit.len(), missing.len());
    assert!(audit.iter().all(|(kind, _)| kind == "missing"), "{audit:?}");

    // Who may see may not make.
    let output = guarded.acl(user("auditor"), &["apply"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ALTER"), "{}", stderr(&output));
    assert_eq!(guarded.planned("add"), missing);

    // ALTER and DESCRIBE on the cluster are enough for that; a second time there is nothing to do.
    for _ in 0..2 {
        let output = guarded.acl(user("security"), &["apply"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(guarded.planned("add"), [""; 0]);
        assert_eq!(guarded.planned("none"), missing);
        assert_eq!(guarded.planned("excess"), [""; 0]);
    }
    assert_eq!(guarded.found(), []);
    assert!(guarded.acl(user("auditor"), &["audit"]).status.success());

    // What the worker is allowed is enough for it.
    let admin = std::mem::replace(&mut guarded.scene.site.bootstrap, guarded.listener.clone());
    guarded.scene.site.environment.push(("WORKER", "worker".into()));
    guarded.scene.site.kafka =
        format!("  security: {{ protocol: sasl_plaintext, sasl: {} }}", sasl("{ env: WORKER }"));
    let config = guarded.scene.site.configure("one", free_address());
    let mut check = Command::new(BINARY);
    check.args(["run", "--check", "--json", "--config"]).arg(config).env("WORKER", "worker");
    let check = check.output().unwrap();
    assert!(check.status.success(), "{}", stdout(&check));
    assert!(!stdout(&check).contains("warning"), "{}", stdout(&check));
    guarded.scene.produce("raw", &[(None, r#"{"id":4711}"#), (None, "no event")]);
    let worker = guarded.scene.site.start("one");
    wait_consumed(&worker, 2);
    assert!(worker.stop().success());
    guarded.scene.site.bootstrap = admin;
    guarded.scene.site.kafka.clear();
    for topic in ["analytics", "fraud", "quarantine", "audit"] {
        assert!(!guarded.scene.consume(topic).is_empty(), "{topic}");
    }

    // A reader reads its view in its own groups, and nothing else in any.
    for (reader, view) in [("analytics", "analytics"), ("fraud-desk", "fraud")] {
        for group in [reader.to_owned(), format!("{reader}.reports")] {
            assert!(guarded.read(reader, &group, view).is_ok(), "{reader} in {group}");
        }
        let group = guarded.scene.prefix.clone();
        let refused = guarded.read(reader, &group, view);
        assert_eq!(refused, Err(RDKafkaErrorCode::GroupAuthorizationFailed));
        for topic in ["raw", "analytics", "fraud", "quarantine", "audit"] {
            match topic == view {
                true => assert!(guarded.fetch(reader, topic).is_ok()),
                false => {
                    assert_eq!(guarded.fetch(reader, topic), Err(DENIED), "{reader}: {topic}");
                    assert_eq!(
                        guarded.read(reader, reader, topic),
                        Err(DENIED),
                        "{reader}: {topic}"
                    );
                }
            }
        }
    }
    let value = guarded.read("fraud-desk", "fraud-desk.values", "fraud").unwrap();
    assert_eq!(value, br#"{"id":4711}"#);
    assert!(
        !String::from_utf8_lossy(&guarded.fetch("analytics", "analytics").unwrap())
            .contains("4711")
    );

    // What somebody allowed by hand is found: of a reader, wider than its views; of a stranger; of everybody. Who writes
    // the source is its producer.
    guarded.allow("analytics", &["TOPIC:LITERAL:PREFIX.raw:READ", "TOPIC:PREFIXED:PREFIX.:READ"]);
    guarded.allow("guest", &["TOPIC:PREFIXED:PREFIX.r:READ", "TOPIC:LITERAL:PREFIX.raw:WRITE"]);
    guarded.allow("*", &["TOPIC:LITERAL:PREFIX.quarantine:READ"]);
    let excess = [
        format!("User:analytics TOPIC {prefix}.raw READ"),
        format!("User:analytics TOPIC {prefix}.* READ"),
    ];
    let outsiders = [
        format!("User:* TOPIC {prefix}.quarantine READ"),
        format!("User:guest TOPIC {prefix}.r* READ"),
    ];
    let mut expected: Vec<_> =
        excess.iter().map(|one| ("excess".to_owned(), one.clone())).collect();
    expected.extend(outsiders.iter().map(|one| ("outsider".to_owned(), one.clone())));
    wait_until("all of it is found", || guarded.found() == expected);
    assert!(guarded.fetch("analytics", "raw").is_ok());
    let audit = guarded.acl(None, &["audit"]);
    assert_eq!(audit.status.code(), Some(1));
    let line =
        format!("! User:guest: READ on every topic {prefix}.r…: reaches {prefix}.raw (source)");
    assert!(stdout(&audit).contains(&line), "{}", stdout(&audit));

    // Without --prune it stays, and is said; with it what is a reader's goes, and what is a stranger's stays.
    let output = guarded.acl(user("security"), &["apply"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains("--prune"), "{}", stdout(&output));
    assert_eq!(guarded.planned("excess"), excess);
    let output = guarded.acl(user("security"), &["apply", "--prune"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(guarded.planned("excess"), [""; 0]);
    assert_eq!(guarded.planned("none"), missing);
    expected.retain(|(kind, _)| kind == "outsider");
    assert_eq!(guarded.found(), expected);
    assert_eq!(guarded.fetch("analytics", "raw"), Err(DENIED));
    assert!(guarded.fetch("guest", "raw").is_ok());
}

#[test]
fn a_configuration_without_roles_or_without_a_worker_is_refused() {
    let policy = POLICY.replace("PREFIX", "p");
    let mut site = support::worker::Site::new(&free_address().to_string(), "p", &policy);
    std::fs::write(site.path("roles.yaml"), ROLES).unwrap();
    for (access, expected) in [
        ("", "`access.roles` is needed"),
        ("access: { roles: roles.yaml }", "write `access.principal: 'User:NAME'`"),
        ("access: { roles: roles.yaml, principal: 'User:*' }", "`User:NAME`"),
    ] {
        site.extra = access.into();
        let config = site.configure("one", free_address());
        let output =
            Command::new(BINARY).args(["acl", "plan", "--config"]).arg(config).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{access}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    // A cluster that is not there is no fault of the configuration.
    site.extra = "access: { roles: roles.yaml, principal: 'User:worker' }".into();
    let config = site.configure("one", free_address());
    let output =
        Command::new(BINARY).args(["acl", "audit", "--config"]).arg(config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the cluster at"), "{}", stderr(&output));
}
