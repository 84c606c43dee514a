//! What Kubernetes is given, against its own schemas. `scripts/render-kubernetes` lets kustomize and helm write it to
//! `target/kubernetes`; the overlays and the chart are rendered there, with few values and with all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All that was rendered, by file name.
fn rendered() -> &'static BTreeMap<String, Vec<Value>> {
    static ALL: OnceLock<BTreeMap<String, Vec<Value>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let made = Command::new(root().join("scripts/render-kubernetes")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let folder = root().join("target/kubernetes");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let paths = paths.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        let all = paths.map(|path: PathBuf| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let objects: Vec<Value> = serde_saphyr::from_multiple(&read(path)).unwrap();
            (name, objects.into_iter().filter(|one| !one.is_null()).collect())
        });
        all.collect()
    })
}

#[test]
fn every_object_conforms_to_its_schema() {
    let schemas: Value = serde_json::from_str(&read("tests/data/kubernetes/schemas.json")).unwrap();
    let mut seen = BTreeSet::new();
    assert_eq!(rendered().len(), 6);
    for (name, objects) in rendered() {
        assert!(objects.len() >= 7, "{name}");
        for object in objects {
            let kind = object["kind"].as_str().unwrap();
            let definition = schemas["kinds"][kind].as_str();
            let definition = definition.unwrap_or_else(|| panic!("{name}: no schema of {kind}"));
            let schema = json!({
                "$ref": format!("#/definitions/{definition}"),
                "definitions": schemas["definitions"],
            });
            let validator = jsonschema::validator_for(&schema).unwrap();
            let problems: Vec<_> = validator
                .iter_errors(object)
                .map(|error| format!("{}: {error}", error.instance_path))
                .collect();
            assert!(problems.is_empty(), "{name}: {kind}: {}", problems.join("\n"));
            let mut broken = object.clone();
            broken["metadata"]["nmae"] = "x".into();
            assert!(!validator.is_valid(&broken), "the schema of {kind} refuses nothing");
            seen.insert(kind);
        }
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
}

fn find<'o>(objects: &'o [Value], kind: &str) -> Option<&'o Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

#[test]
fn workers_are_confined_probed_and_ended_gently() {
    for (name, objects) in rendered() {
        let workload = find(objects, "Deployment").or_else(|| find(objects, "StatefulSet"));
        let spec = &workload.unwrap()["spec"];
        let pod = &spec["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]), "{name}");
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz", "{name}");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz", "{name}");
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30, "{name}");
        // Selectors of everything that selects find the pods.
        let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
        let selectors = [
            (spec, "/selector/matchLabels"),
            (&find(objects, "Service").unwrap()["spec"], "/selector"),
            (&find(objects, "PodDisruptionBudget").unwrap()["spec"], "/selector/matchLabels"),
            (&find(objects, "NetworkPolicy").unwrap()["spec"], "/podSelector/matchLabels"),
        ];
        for (from, path) in selectors {
            let selector = from.pointer(path).unwrap().as_object().unwrap();
            assert!(
                !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
            );
        }
        if let Some(scaled) = find(objects, "ScaledObject") {
            let target = &scaled["spec"]["scaleTargetRef"];
            assert_eq!(target["kind"], workload.unwrap()["kind"], "{name}");
            let metadata = &workload.unwrap()["metadata"];
            assert_eq!(target["name"], metadata["name"], "{name}");
            assert_eq!(scaled["metadata"]["namespace"], metadata["namespace"], "{name}");
            // Applied again, it leaves alone how many there are.
            assert!(spec["replicas"].is_null(), "{name}");
        }
        // A StatefulSet's workers have stable names and are static members; a Deployment's are not.
        let names: Vec<_> = container["env"].as_array().unwrap().iter().collect();
        let has = |name: &str| names.iter().any(|one| one["name"] == name);
        let stable = workload.unwrap()["kind"] == "StatefulSet";
        assert_eq!(has("VEILSTREAM__NAME"), stable, "{name}");
        assert_eq!(has("VEILSTREAM__KAFKA__STATIC_MEMBERSHIP"), stable, "{name}");
        let maps = objects.iter().filter(|object| object["kind"] == "ConfigMap");
        let config = maps.filter_map(|map| map["data"]["worker.yaml"].as_str()).next().unwrap();
        accepted(name, config, &names);
    }
}

/// Whether the worker reads this configuration, with the environment of the container over it.
fn accepted(name: &str, config: &str, environment: &[&Value]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    command.args(["config", "show", "-c"]).arg(&file);
    for one in environment {
        let value = one["value"].as_str().unwrap_or("2");
        command.env(one["name"].as_str().unwrap(), value);
    }
    let shown = command.output().unwrap();
    let told = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{name}: {told}\n{config}");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("0.0.0.0:9465") && shown.contains("/run/secrets/veilstream-keys"));
}

#[test]
fn alerts_are_the_same_everywhere() {
    let alerts = read("dashboards/prometheus/alerts.yaml");
    let expected: Value = serde_saphyr::from_str(&alerts).unwrap();
    assert!(alerts == read("docker/helm/veilstream/files/alerts.yaml"), "copy alerts.yaml");
    let mut rules = 0;
    for (name, objects) in rendered() {
        if let Some(rule) = find(objects, "PrometheusRule") {
            assert_eq!(rule["spec"], expected, "{name}");
            rules += 1;
        }
    }
    assert_eq!(rules, 5);
    assert!(
        read("config/policies/crm-customers.yaml")
            == read("docker/k8s/base/policies/crm-customers.yaml")
    );
}
