//! What the documentation lists is what there is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

use std::process::Command;

use veilstream::operator::SPECS;
use veilstream::rewrite::Reason;

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_operator_reference_is_what_the_binary_prints() {
    let printed = printed(&["operators", "--markdown"]);
    assert!(
        page("docs/operators.md") == printed,
        "docs/operators.md: run `veilstream operators --markdown > docs/operators.md`"
    );
    assert!(SPECS.iter().all(|spec| printed.contains(&format!("## {}\n", spec.name))));
}

fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    String::from_utf8(command.args(arguments).output().unwrap().stdout).unwrap()
}

#[test]
fn the_options_are_what_the_binary_prints() {
    let (options, schema) = (printed(&["config", "options"]), printed(&["config", "schema"]));
    assert!(options.contains("| `kafka.bootstrap` | text | required |"));
    assert!(
        page("docs/configuration.md").contains(&options),
        "docs/configuration.md: paste what `veilstream config options` prints"
    );
    assert!(
        page("config/worker.schema.json") == schema,
        "run `veilstream config schema > config/worker.schema.json`"
    );
}

#[test]
fn every_page_that_is_linked_is_there() {
    let link = regex::Regex::new(r"\]\(([^)#]+)[^)]*\)").unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = ["docs", "docs/runbooks", "dashboards", "docker"];
    let docs = docs.into_iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let top = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY"];
    let top = top.map(|name| root.join(format!("{name}.md")));
    let mut links = 0;
    for page in docs.chain(top) {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in link.captures_iter(&text).filter(|link| !link[1].contains("://")) {
            let target = page.parent().unwrap().join(&link[1]);
            assert!(target.exists(), "{}: {}", page.display(), &link[1]);
            links += 1;
        }
    }
    assert!(links > 20);
}

#[test]
fn every_reason_code_is_documented() {
    let page = page("docs/policy.md");
    for reason in Reason::ALL {
        assert!(page.contains(&format!("| `{}` |", reason.code())), "{}", reason.code());
    }
}

#[test]
fn every_metric_is_documented() {
    let page = page("docs/telemetry.md");
    let code = self::page("src/telemetry/metrics.rs");
    let made = regex::Regex::new(r#"(?:counter|gauge|histogram)\(\s*"([a-z_]+)""#).unwrap();
    let names: Vec<_> = made.captures_iter(&code).map(|made| made[1].to_owned()).collect();
    assert!(names.len() >= 20);
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn the_shown_configuration_is_valid() {
    let file = format!("{}/config/worker.yaml", env!("CARGO_MANIFEST_DIR"));
    veilstream::config::Config::load(file.as_ref()).unwrap();
}

#[test]
fn the_oldest_rust_is_the_one_that_everything_is_built_with() {
    let manifest = page("Cargo.toml");
    let stated = regex::Regex::new("rust-version = \"([0-9.]+)\"").unwrap();
    let stated = stated.captures(&manifest).unwrap()[1].to_owned();
    assert!(page("docker/Dockerfile").contains(&format!("BUILD_IMAGE=rust:{stated}-slim")));
    assert!(page("README.md").contains(&format!("Rust {stated}")), "{stated}");
}
