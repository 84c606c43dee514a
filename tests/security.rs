//! TLS and SASL by configuration, secrets by reference: a worker on a listener that asks for both.

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
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use support::broker::{Broker, wait_until};
use support::scene::{Scene, wait_consumed};
use support::worker::free_address;

const PASSWORD: &str = "canary-of-the-broker";

const POLICY: &str = "
policy: secured
version: 1
source: { topic: PREFIX.raw, format: json }
fields: { n: public }
views: { view: { topic: PREFIX.view, key: drop, default: keep } }
";

/// A certificate for the loopback address: a keystore for the broker, and the certificate for clients.
fn certificate(folder: &Path) {
    let keytool = |arguments: &[&str]| {
        let out = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "broker", "-storetype", "PKCS12", "-storepass", "changeit"])
            .args(["-keystore", "broker.p12"])
            .current_dir(folder)
            .output()
            .expect("keytool, which comes with the JDK");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    };
    let name = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1"];
    keytool(&[&["-genkeypair", "-keyalg", "EC", "-validity", "30"], &name[..]].concat());
    keytool(&["-exportcert", "-rfc", "-file", "ca.pem"]);
}

#[test]
fn a_worker_speaks_tls_and_sasl_and_repeats_no_secret() {
    let broker = Arc::new(Broker::start("security"));
    if broker.is_external() {
        return;
    }
    let mut scene = Scene::new(Arc::clone(&broker), "secure", POLICY, &[("raw", 1), ("view", 1)]);
    let folder = scene.site.folder.path().to_owned();
    certificate(&folder);
    let secure = free_address();
    let keystore = folder.join("broker.p12");
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    broker.restart_with_listener(
        &format!("SECURE://{secure}"),
        &[
            "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "listener.name.secure.sasl.enabled.mechanisms=PLAIN",
            &format!(
                "listener.name.secure.plain.sasl.jaas.config={login} user_ann=\"{PASSWORD}\";"
            ),
            &format!("listener.name.secure.ssl.keystore.location={}", keystore.display()),
            "listener.name.secure.ssl.keystore.type=PKCS12",
            "listener.name.secure.ssl.keystore.password=changeit",
        ],
    );
    scene.produce("raw", &[(None, r#"{"n":1}"#)]);

    scene.site.bootstrap = secure.to_string();
    scene.site.kafka = "  security:
    protocol: sasl_ssl
    sasl: { mechanism: PLAIN, username: { file: user }, password: { file: password } }
    tls: { ca: ca.pem }"
        .into();
    fs::write(folder.join("user"), "ann\n").unwrap();
    fs::write(folder.join("password"), format!("wrong-{PASSWORD}\n")).unwrap();
    let refused = scene.site.start("refused");
    wait_until("a refusal in the log", || refused.log().contains("Authentication failed"));
    assert_eq!(refused.get("/readyz").unwrap().0, 503);
    assert!(refused.stop().success());

    fs::write(folder.join("password"), format!("{PASSWORD}\n")).unwrap();
    let worker = scene.site.start("one");
    wait_consumed(&worker, 1);
    assert_eq!(scene.values("view"), [serde_json::json!({ "n": 1 })]);
    assert!(worker.stop().success());
    assert!(!scene.site.logs().contains("canary"), "a secret in a log");
}
