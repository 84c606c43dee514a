//! Providers of key-encryption keys: a real OpenBao, and moto in place of AWS KMS; away, refusing, answering 500.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::process::{Command, Output};

use support::providers::{Faulty, Server, TOKEN};
use support::scene::stdout;
use support::worker::BINARY;

/// A folder with a configuration, for the commands.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        Desk { folder }
    }

    /// The provider from now on.
    fn provider(&self, kek: &str) -> &Desk {
        let text = format!(
            "kafka: {{ bootstrap: 'localhost:1' }}\npolicies: [p]\nquarantine: {{ topic: q }}\n\
             audit: {{ topic: a }}\nkey_store:\n  sqlite: keys.db\n  kek: {kek}\n"
        );
        std::fs::write(self.folder.path().join("worker.yaml"), text).unwrap();
        self
    }

    fn keys(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        self.surroundings(command.arg("keys").args(arguments)).output().unwrap()
    }

    fn surroundings<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .arg("--config")
            .arg(self.folder.path().join("worker.yaml"))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "canary-secret")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("AWS_REGION")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        stdout(&self.keys(arguments))
    }

    /// What a command that fails says.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.keys(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        assert!(!text.contains("canary") && !text.contains(TOKEN), "{text}");
        text
    }
}

fn vault(address: impl std::fmt::Display, more: &str) -> String {
    format!(
        "{{ vault_transit: {{ address: 'http://{address}', key: veilstream, token: {{ file: token }}{more} }} }}"
    )
}

#[test]
fn vault_seals_rotates_and_lets_old_copies_go() {
    let server = Server::openbao();
    let desk = Desk::new();
    desk.provider(&vault(server.address, ""));
    assert!(desk.ok(&["init"]).contains("7 keys made"));
    let listed = desk.ok(&["list"]);
    assert_eq!(listed.matches("vault-transit/veilstream/1").count(), 7, "{listed}");
    desk.ok(&["rotate", "kek"]);
    desk.ok(&["rotate", "token"]);
    // The keys that were changed are sealed by the new version, the others when they are told to be.
    let listed = desk.ok(&["list"]);
    assert_eq!(listed.matches("vault-transit/veilstream/2").count(), 2, "{listed}");
    let copy = desk.folder.path().join("copy.db");
    let script =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))";
    let mut python = Command::new("python3");
    let paths = [&desk.folder.path().join("keys.db"), &copy];
    assert!(python.args(["-c", script]).args(paths).status().unwrap().success());
    desk.ok(&["rewrap"]);
    let listed = desk.ok(&["list"]);
    assert_eq!(listed.matches("vault-transit/veilstream/2").count(), 8, "{listed}");
    assert!(desk.fails(&["destroy-kek", "1", "--yes"]).contains("min_decryption_version"));
    server.vault("/v1/transit/keys/veilstream/config", r#"{"min_decryption_version":2}"#);
    desk.ok(&["list"]);
    for file in ["keys.db-wal", "keys.db-shm"] {
        let _ = std::fs::remove_file(desk.folder.path().join(file));
    }
    std::fs::rename(copy, desk.folder.path().join("keys.db")).unwrap();
    assert!(desk.fails(&["list"]).contains("Vault refuses"));
}

#[test]
fn vault_that_refuses_or_is_away_is_told_apart() {
    let server = Server::openbao();
    let desk = Desk::new();
    desk.provider(&vault(server.address, "")).ok(&["init"]);
    // Answers of 500 are waited out, some times.
    let faulty = Faulty::start(server.address, "500 Internal Server Error");
    desk.provider(&vault(faulty.address, ""));
    faulty.fail(3);
    desk.ok(&["list"]);
    faulty.fail(1000);
    let asked = faulty.asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(desk.fails(&["list"]).contains("Vault does not answer: status 500"));
    assert_eq!(faulty.asked.load(std::sync::atomic::Ordering::Relaxed) - asked, 4);
    for (answer, expected) in [
        ("429 Too Many Requests", "does not answer: status 429"),
        ("307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", "refuses: status 307"),
        ("", "does not answer"),
    ] {
        let faulty = Faulty::start(server.address, answer);
        faulty.fail(1000);
        let told = desk.provider(&vault(faulty.address, "")).fails(&["list"]);
        assert!(told.contains(expected), "{told}");
    }
    // Another token, another key, a token that is no header.
    for (token, expected) in [("canary", "status 403"), ("canary\nx", "not to be sent in a header")]
    {
        std::fs::write(desk.folder.path().join("token"), token).unwrap();
        let told = desk.provider(&vault(server.address, "")).fails(&["list"]);
        assert!(told.contains(expected), "{told}");
    }
    std::fs::write(desk.folder.path().join("token"), TOKEN).unwrap();
    server.vault("/v1/transit/keys/other", r#"{"type":"aes256-gcm96"}"#);
    let other = vault(server.address, "").replace("key: veilstream", "key: other");
    assert!(desk.provider(&other).fails(&["list"]).contains("Vault refuses: status 400"));
    // Sealed: it may be opened again.
    server.vault("/v1/sys/seal", "{}");
    assert!(desk.provider(&vault(server.address, "")).fails(&["list"]).contains("status 503"));
    let address = server.address;
    drop(server);
    assert!(desk.provider(&vault(address, "")).fails(&["list"]).contains("does not answer"));
    // What would send a token in the clear, or to somewhere else, is refused before.
    for (address, expected) in [
        ("http://vault.example.com", "it takes https"),
        ("https://user@vault.example.com", "no http or https URL"),
        ("vault:8200", "no http or https URL"),
    ] {
        let kek = vault(1, "").replace("http://1", address);
        assert!(desk.provider(&kek).fails(&["list"]).contains(expected), "{address}");
    }
    for mount in ["../sys", "a b", "", "transit/"] {
        let kek = vault("127.0.0.1:1", &format!(", mount: '{mount}'"));
        assert!(desk.provider(&kek).fails(&["list"]).contains("are names"), "{mount}");
    }
}

/// Whatever is asked of the log, what goes to a provider and comes from it is not in it.
#[test]
fn a_log_of_everything_has_neither_tokens_nor_keys() {
    let (vault_server, kms_server) = (Server::openbao(), Server::moto());
    let key = kms_server.kms("CreateKey", "{}")["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    for kek in [vault(vault_server.address, ""), kms(kms_server.address, &key)] {
        let desk = Desk::new();
        desk.provider(&kek).ok(&["init"]);
        let policy = "{ policy: p, version: 1, source: { topic: t, format: json }, fields: { a: b }, views: { v: { topic: o, default: encrypt } } }";
        std::fs::write(desk.folder.path().join("p"), policy).unwrap();
        let mut command = Command::new(BINARY);
        let run = desk.surroundings(command.arg("run"));
        run.env(
            "VEILSTREAM_LOG",
            "trace,ureq_proto::util=trace,ureq=trace,aws_smithy_runtime=trace",
        );
        run.env("VEILSTREAM__TELEMETRY__LISTEN", "127.0.0.1:0");
        let log = desk.folder.path().join("log");
        run.stderr(std::fs::File::create(&log).unwrap());
        let mut worker = run.spawn().unwrap();
        let read = || std::fs::read_to_string(&log).unwrap();
        support::broker::wait_until("it has begun", || read().contains("starting"));
        worker.kill().unwrap();
        worker.wait().unwrap();
        let log = read();
        assert!(log.contains("TRACE") && log.len() > 1000, "{log}");
        for word in ["ureq", "aws_", "hyper", "plaintext", "Vault-Token", TOKEN, "canary"] {
            let found = log.lines().find(|line| line.contains(word));
            assert!(found.is_none(), "{word}: {found:?}");
        }
    }
}

fn kms(address: impl std::fmt::Display, key: &str) -> String {
    format!("{{ aws_kms: {{ key: '{key}', region: eu-central-1, endpoint: 'http://{address}' }} }}")
}

#[test]
fn kms_seals_and_another_key_takes_over() {
    let server = Server::moto();
    let key = || server.kms("CreateKey", "{}")["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let (one, two) = (key(), key());
    assert_ne!(one, two);
    let desk = Desk::new();
    desk.provider(&kms(server.address, &one));
    desk.ok(&["init"]);
    let listed = desk.ok(&["list"]);
    assert_eq!(listed.matches(&format!("aws-kms/{one}")).count(), 7, "{listed}");
    desk.ok(&["rotate", "kek"]);
    desk.ok(&["rotate", "wrap"]);
    desk.ok(&["rewrap"]);
    // A key that did not seal them opens none; it takes over when it is told to.
    assert!(desk.provider(&kms(server.address, &two)).fails(&["list"]).contains("AWS KMS refuses"));
    let old = desk.folder.path().join("old.yaml");
    desk.provider(&kms(server.address, &one));
    std::fs::copy(desk.folder.path().join("worker.yaml"), &old).unwrap();
    desk.provider(&kms(server.address, &two));
    desk.ok(&["rewrap", "--from", old.to_str().unwrap()]);
    let listed = desk.ok(&["list"]);
    assert!(
        listed.matches(&format!("aws-kms/{two}")).count() == 8 && !listed.contains(&one),
        "{listed}"
    );
    let one = two;
    desk.provider(&kms(server.address, "alias/none"));
    assert!(desk.fails(&["list"]).contains("NotFoundException"));
    // Answers of 500 are waited out, some times.
    let faulty = Faulty::start(server.address, "500 Internal Server Error");
    desk.provider(&kms(faulty.address, &one));
    faulty.fail(2);
    desk.ok(&["list"]);
    faulty.fail(1000);
    let told = desk.fails(&["list"]);
    assert!(told.contains("AWS KMS does not answer: KMSInternalException, status 500"), "{told}");
    drop(server);
    assert!(desk.provider(&kms(faulty.address, &one)).fails(&["list"]).contains("does not answer"));
    let far = kms("kms.example.com", &one);
    assert!(desk.provider(&far).fails(&["list"]).contains("`endpoint` is an https URL"));
    let nowhere = kms("127.0.0.1:1", &one).replace(", region: eu-central-1", "");
    assert!(desk.provider(&nowhere).fails(&["list"]).contains("AWS_REGION"));
}
