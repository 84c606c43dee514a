//! `docker/compose.yaml`: valid, complete, and its parts started from packages with its own configuration.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::broker::{Broker, consume_all, wait_until};
use support::worker::{BINARY, free_address};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_file_is_valid_and_what_it_mounts_is_there() {
    let compose = yaml("docker/compose.yaml");
    let schema = std::fs::read(root().join("tests/data/compose/compose-spec.json")).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<_> = validator
        .iter_errors(&compose)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    let services = compose["services"].as_object().unwrap();
    let volumes = compose["volumes"].as_object().unwrap();
    let mut mounts = 0;
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.split_once(':').unwrap();
        assert!(tag != "latest" || image.starts_with("veilstream:"), "{name}: {image}");
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            let there = match source.starts_with('.') {
                true => root().join("docker").join(source).exists(),
                false => volumes.contains_key(source),
            };
            assert!(there, "{name} mounts {source}");
            mounts += 1;
        }
        let needs = &service["depends_on"];
        let listed = needs.as_array().into_iter().flatten().map(|one| one.as_str().unwrap());
        let mapped = needs.as_object().into_iter().flat_map(|map| map.keys().map(String::as_str));
        for needed in listed.chain(mapped) {
            assert!(services.contains_key(needed), "{name} needs {needed}");
        }
        // Nothing is open to other machines.
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
    assert!(mounts > 10, "{mounts}");
    // The broker of the tests is the one of the compose file.
    let pom = std::fs::read_to_string(root().join("tests/kafka/pom.xml")).unwrap();
    let (_, version) = services["kafka"]["image"].as_str().unwrap().split_once(':').unwrap();
    assert!(pom.contains(&format!("<kafka.version>{version}</kafka.version>")));

    // What Grafana is provisioned with.
    let provider = yaml("docker/compose/grafana/dashboards/veilstream.yaml");
    let path = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let mounted = format!("../dashboards:{path}:ro");
    let grafana = services["grafana"]["volumes"].as_array().unwrap();
    assert!(grafana.iter().any(|mount| mount.as_str() == Some(mounted.as_str())));
    let source = yaml("docker/compose/grafana/datasources/prometheus.yaml");
    assert_eq!(source["datasources"][0]["type"], "prometheus");
    let network = services["prometheus"]["network_mode"].as_str().unwrap();
    let host = network.strip_prefix("service:").unwrap();
    assert_eq!(source["datasources"][0]["url"], format!("http://{host}:9090"));
}

/// A broker with the settings of the compose file, but for addresses and folders.
fn broker() -> Broker {
    let path = root().join("docker/compose/kafka.properties");
    let text = std::fs::read_to_string(path).unwrap();
    let place = ["listener", "log.dirs", "quorum", "node.id", "process.roles"];
    let settings: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !place.iter().any(|part| name.contains(part)))
        .collect();
    assert!(settings.len() > 5);
    Broker::start_with("compose", &settings)
}

fn command(broker: &Broker, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    let policies = root().join("config/policies/*.yaml");
    command
        .args(arguments)
        .env("VEILSTREAM_CONFIG", root().join("docker/compose/worker.yaml"))
        .env("VEILSTREAM__KAFKA__BOOTSTRAP", broker.bootstrap())
        .env("VEILSTREAM__KEYS", folder.join("keys.json"))
        .env("VEILSTREAM__POLICIES", format!("['{}']", policies.display()))
        .stderr(Stdio::inherit());
    command
}

#[test]
fn its_parts_work_together_when_started_from_packages() {
    let broker = broker();
    if broker.is_external() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let keys: PathBuf = folder.path().join("keys.json");
    let run = |arguments: &[&str]| {
        let output = command(&broker, folder.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["keys", "init", keys.to_str().unwrap()]);
    let made = run(&["topics", "apply"]);
    assert!(made.contains("+ crm.customers.raw: 6 partitions"), "{made}");
    let found = run(&["run", "--check", "--json"]);
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    // There are fewer lanes than partitions on any machine of up to six cores; on others it is a warning.
    let wrong = found.iter().filter(|one| one["level"] != "ok" && one["what"] != "lanes");
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&Value>::new());

    let listen = free_address().to_string();
    let mut worker = command(&broker, folder.path(), &["run"])
        .env("VEILSTREAM__TELEMETRY__LISTEN", &listen)
        .spawn()
        .unwrap();
    let mut traffic =
        command(&broker, folder.path(), &["traffic", "--rate", "500"]).spawn().unwrap();
    wait_until("sanitized events in both views", || {
        ["analytics", "fraud"].iter().all(|view| {
            consume_all(broker.bootstrap(), &format!("crm.customers.{view}")).len() > 300
        })
    });
    for child in [&mut traffic, &mut worker] {
        let mut kill = Command::new("kill");
        assert!(kill.arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
}
