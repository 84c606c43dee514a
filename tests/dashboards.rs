//! The dashboards and alerts, tried on a real Prometheus that scrapes a real worker under load.
//!
//! `DASHBOARDS=overwrite cargo test --test dashboards files` writes `dashboards/*.json` from `support/panels.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::broker::{Broker, wait_until};
use support::panels;
use support::scene::Scene;
use support::worker::free_address;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn files_are_what_the_panels_say() {
    for (name, dashboard) in panels::ALL {
        let path = format!("dashboards/{name}.json");
        let made = format!("{:#}\n", dashboard.json());
        if std::env::var("DASHBOARDS").is_ok_and(|word| word == "overwrite") {
            fs::write(root().join(&path), &made).unwrap();
        }
        assert!(read(&path) == made, "{path}: write it anew with DASHBOARDS=overwrite");
    }
}

fn validator(name: &str) -> jsonschema::Validator {
    let schema = serde_json::from_str(&read(&format!("tests/data/grafana/{name}.schema.json")));
    jsonschema::validator_for(&schema.unwrap()).unwrap()
}

/// Fails where `value` is not as Grafana's types have it.
fn conforms(schema: &str, value: &Value, what: &str) {
    let problems: Vec<_> = validator(schema)
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(problems.is_empty(), "{what}: {}", problems.join("\n"));
}

#[test]
fn files_conform_to_the_schema_of_grafana() {
    let mut panels = 0;
    for (name, _) in panels::ALL {
        let dashboard: Value =
            serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap();
        conforms("dashboard", &dashboard, name);
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()));
            let kind = panel["type"].as_str().unwrap();
            if kind == "row" {
                continue;
            }
            panels += 1;
            let what = format!("{name}: {}", panel["title"]);
            conforms(kind, &panel["options"], &what);
            if kind == "timeseries" {
                conforms("timeseries-field", &panel["fieldConfig"]["defaults"]["custom"], &what);
            }
        }
    }
    assert!(panels > 40, "{panels}");
    // The schemas can refuse.
    let mut broken: Value = serde_json::from_str(&read("dashboards/audit.json")).unwrap();
    broken["panels"][1]["gridPos"]["height"] = 4.into();
    assert!(!validator("dashboard").is_valid(&broken));
}

/// A binary of Prometheus: the one on the path, or the one that `scripts/setup test` unpacked.
fn prometheus_binary(name: &str) -> PathBuf {
    let unpacked = root().join("target/prometheus/usr/bin").join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}

fn promtool(arguments: &[&str]) {
    let mut command = Command::new(prometheus_binary("promtool"));
    let output = command.args(arguments).current_dir(root().join("dashboards/prometheus"));
    let output = output.output().expect("promtool: run `scripts/setup test`");
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

#[test]
fn alerts_fire_when_they_should_and_each_has_a_runbook() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let alert = regex::Regex::new(r"(?m)^\s+- alert: (\w+)$").unwrap();
    let rules = read("dashboards/prometheus/alerts.yaml");
    let tests = read("dashboards/prometheus/alerts_test.yaml");
    let names: Vec<_> = alert.captures_iter(&rules).map(|found| found[1].to_owned()).collect();
    assert!(names.len() > 10);
    for name in &names {
        let page = format!("docs/runbooks/{name}.md");
        assert!(rules.contains(&format!("runbook: {page}")), "{name} names no runbook");
        let text = read(&page);
        assert!(text.starts_with(&format!("# {name}\n")), "{page}");
        for part in ["## What it means", "## Is data at risk?", "## What to do"] {
            assert!(text.contains(part), "{page} lacks {part}");
        }
        // Once with the alert, once without.
        assert!(
            tests.matches(&format!("alertname: {name}\n")).count() >= 2,
            "{name} is not tested"
        );
    }
}

const POLICY: &str = "
policy: customers
version: 1
source: { topic: [PREFIX.raw, PREFIX.absent], format: json }
subject: id
fields: { id: identifier, n: public, email: email }
views:
  open:
    topic: PREFIX.open
    where: 'row.consent == true'
    classes: { identifier: tokenize, public: keep, email: { mask: email } }
  closed: { topic: PREFIX.closed, classes: { identifier: tokenize, public: keep, email: encrypt } }
  groups:
    topic: PREFIX.groups
    anonymize: { k: 2, within: 1s, quasi_identifiers: { n: numbers }, sensitive: { id: { l: 2 } } }
    default: drop
    classes: { identifier: tokenize }
  windows:
    topic: PREFIX.windows
    aggregate:
      window: 1s
      lateness: 0s
      idle: 1s
      contributions: 1
      figures: { events: count }
      privacy: { epsilon: 1, delta: 0.000001, budget: { epsilon: 1000, delta: 0.1, per: day } }
    default: drop
";

struct Prometheus {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// With the configuration of `dashboards/prometheus`, for a worker at this address.
    fn start(worker: &str) -> Prometheus {
        let data = tempfile::tempdir().unwrap();
        let config = read("dashboards/prometheus/prometheus.yaml");
        assert!(config.contains("127.0.0.1:9464") && config.contains("scrape_interval: 5s"));
        let config = config
            .replace("127.0.0.1:9464", worker)
            .replace("scrape_interval: 5s", "scrape_interval: 1s");
        fs::write(data.path().join("prometheus.yaml"), config).unwrap();
        let alerts = root().join("dashboards/prometheus/alerts.yaml");
        fs::copy(alerts, data.path().join("alerts.yaml")).unwrap();
        let address = free_address().to_string();
        let child = Command::new(prometheus_binary("prometheus"))
            .arg("--config.file=prometheus.yaml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(data.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus: run `scripts/setup test`");
        Prometheus { child, address, _data: data }
    }

    fn get(&self, page: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let mut request = ureq::get(format!("http://{}/api/v1/{page}", self.address));
        for (name, value) in parameters {
            request = request.query(*name, *value);
        }
        let text = request.call().ok()?.body_mut().read_to_string().ok()?;
        serde_json::from_str(&text).ok()
    }

    /// How many series an expression gives now, with numbers in them.
    fn series(&self, expression: &str) -> usize {
        let answer = self.get("query", &[("query", expression)]).unwrap();
        let found = answer["data"]["result"].as_array();
        let found = found.unwrap_or_else(|| panic!("{expression}: {answer}"));
        let is_number = |one: &&Value| one["value"][1].as_str().is_some_and(|text| text != "NaN");
        found.iter().filter(is_number).count()
    }
}

#[test]
fn every_query_of_every_panel_gives_data() {
    let broker = std::sync::Arc::new(Broker::start("dashboards"));
    let topics =
        [("raw", 3), ("open", 3), ("closed", 3), ("groups", 3), ("windows", 3), ("state", 1)];
    let mut scene = Scene::new(std::sync::Arc::clone(&broker), "panels", POLICY, &topics);
    let raw = scene.topic("raw");
    scene.site.kafka = "  properties: { statistics.interval.ms: '1000' }".into();
    scene.site.extra = format!(
        "limits: {{ sources: {{ {raw}: {{ records_per_second: 2000 }} }} }}\nstate: {{ topic: {} }}",
        scene.topic("state")
    );
    let worker = scene.site.start("one");
    let prometheus = Prometheus::start(&worker.address.to_string());
    // A reload that is refused, and one that is applied.
    wait_until("a worker that is ready", || {
        worker.get("/readyz").is_some_and(|(status, _)| status == 200)
    });
    let policy = POLICY.replace("PREFIX", &scene.prefix);
    let reload = |policy: &str, outcome: &str| {
        fs::write(scene.site.path("policy.yaml"), policy).unwrap();
        worker.signal("HUP");
        let label = format!("outcome=\"{outcome}\"");
        wait_until("a reload", || worker.metric("veilstream_policy_reloads_total", &label) > 0.0);
    };
    reload(&policy.replace("mask: email", "msak: email"), "refused");
    reload(&policy.replace("version: 1", "version: 2"), "applied");

    // Good ones, filtered ones, unclassified fields, a `where` that meets nothing, malformed ones.
    let end = Instant::now() + Duration::from_secs(25);
    let mut number = 0_u64;
    while Instant::now() < end {
        let events: Vec<String> = (0..2_000)
            .map(|_| {
                number += 1;
                let id = number % 50;
                match number % 40 {
                    0 => format!(r#"{{"id":{id},"n":"#),
                    1 => format!(r#"{{"id":{id},"n":1,"email":"a@b.c"}}"#),
                    2 => format!(r#"{{"id":{id},"n":1,"consent":true,"new":1}}"#),
                    odd => format!(
                        r#"{{"id":{id},"n":{number},"email":"a@b.c","consent":{}}}"#,
                        odd % 3 > 0
                    ),
                }
            })
            .collect();
        let records: Vec<_> = events
            .iter()
            .map(|event| (Some(&br#"{"id":1}"#[..]), Some(event.as_bytes())))
            .collect();
        broker.produce(&raw, &records);
        std::thread::park_timeout(Duration::from_millis(500));
    }

    let targets = prometheus.get("targets", &[]).unwrap();
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{targets}");
    let mut asked = 0;
    let mut silent = Vec::new();
    for (name, dashboard) in panels::ALL {
        let dashboard = dashboard.json();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                let expression = expression
                    .replace("$__rate_interval", "20s")
                    .replace("$job", "veilstream")
                    .replace("$instance", ".*");
                asked += 1;
                if prometheus.series(&expression) == 0 {
                    silent.push(format!("{name}: {}: {expression}", panel["title"]));
                }
            }
        }
    }
    assert!(asked > 50, "{asked} queries");
    assert!(silent.is_empty(), "{asked} queries, no data for:\n{}", silent.join("\n"));
    let rules = prometheus.get("rules", &[]).unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    assert!(worker.stop().success());
}
