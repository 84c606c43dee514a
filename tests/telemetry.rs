//! What a worker serves to its own machine and to others. None of it needs a broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::{Command, Output};

use support::broker::wait_until;
use support::worker::{BINARY, Site, WorkerProcess, free_address};

const POLICY: &str = "
policy: p
version: 1
source: { topic: raw, format: json }
subject: id
fields: { id: identifier }
views: { out: { topic: out, classes: { identifier: tokenize } } }
";

/// A site whose broker nobody has seen.
fn site() -> Site {
    Site::new(&free_address().to_string(), "telemetry", POLICY)
}

/// A new certificate for `localhost` and its key, in the site's folder.
fn certify(site: &Site) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(site.path("tls.crt"), made.cert.pem()).unwrap();
    fs::write(site.path("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

/// Status and body of a page, asked over TLS by a client that trusts the certificate in the folder.
fn ask(site: &Site, port: u16, page: &str, token: Option<&str>) -> Result<(u16, String), String> {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let pem = fs::read(site.path("tls.crt")).unwrap();
    let roots = RootCerts::from(vec![Certificate::from_pem(&pem).unwrap()]);
    let tls = TlsConfig::builder().root_certs(roots).build();
    let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).build();
    let mut request =
        ureq::Agent::new_with_config(config).get(format!("https://localhost:{port}{page}"));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call().map_err(|error| error.to_string())?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string().unwrap()))
}

fn health(worker: &WorkerProcess, site: &Site, arguments: &[&str]) -> Output {
    let config = site.configure("health", worker.address);
    let mut command = Command::new(BINARY);
    command.args(["health", "--config"]).arg(config).args(arguments).output().unwrap()
}

#[test]
fn other_machines_are_served_over_tls_and_for_a_token() {
    let mut site = site();
    certify(&site);
    let old = "a-token-of-some-length";
    fs::write(site.path("token"), format!("{old}\n")).unwrap();
    let port = free_address().port();
    let remote = format!(
        "{{ listen: '127.0.0.1:{port}', certificate: tls.crt, key: tls.key, token: {{ file: token }} }}"
    );
    site.environment.push(("VEILSTREAM__TELEMETRY__REMOTE", remote));
    let worker = site.start("one");
    wait_until("telemetry", || ask(&site, port, "/healthz", None).is_ok());

    assert_eq!(ask(&site, port, "/healthz", None).unwrap(), (200, "ok\n".into()));
    assert_eq!(ask(&site, port, "/readyz", None).unwrap().0, 503);
    for (page, token) in [
        ("/metrics", None),
        ("/", None),
        ("/metrics", Some("")),
        ("/metrics", Some("another-token-of-length")),
        ("/metrics", Some("a-token-of-some-lengt")),
    ] {
        let (status, body) = ask(&site, port, page, token).unwrap();
        assert_eq!(status, 401, "{page}");
        assert!(!body.contains("veilstream_"));
    }
    let (status, metrics) = ask(&site, port, "/metrics", Some(old)).unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("veilstream_lane_ready"));
    // Not without TLS.
    let plain = ureq::get(format!("http://localhost:{port}/healthz")).call();
    assert!(plain.is_err());

    // A token that is too short is refused, and what is in force stays.
    fs::write(site.path("token"), "short").unwrap();
    worker.signal("HUP");
    wait_until("the refusal", || worker.log().contains("shorter than 16 bytes"));
    assert_eq!(ask(&site, port, "/metrics", Some(old)).unwrap().0, 200);

    let new = "another-token-of-length";
    fs::write(site.path("token"), new).unwrap();
    certify(&site);
    // By itself, as when a ConfigMap or an authority replaces the files.
    wait_until("the new certificate", || ask(&site, port, "/healthz", None).is_ok());
    assert_eq!(ask(&site, port, "/metrics", Some(new)).unwrap().0, 200);
    assert_eq!(ask(&site, port, "/metrics", Some(old)).unwrap().0, 401);
    let log = worker.log();
    assert!(worker.stop().success());
    assert!(!log.contains(old) && !log.contains(new), "a token in the log");
}

#[test]
fn a_remote_without_certificate_or_with_a_short_token_is_refused() {
    let site = site();
    let config = site.configure("one", free_address());
    let started = |token: &str| {
        fs::write(site.path("token"), token).unwrap();
        let remote =
            "{ listen: '127.0.0.1:0', certificate: tls.crt, key: tls.key, token: { file: token } }";
        let [run, check] = [&[][..], &["--check"]].map(|only| {
            let mut run = Command::new(BINARY);
            run.args(["run", "--config"]).arg(&config).args(only);
            let output = run.env("VEILSTREAM__TELEMETRY__REMOTE", remote).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        });
        assert_eq!(run, check);
        run
    };
    let (code, told) = started("a-token-of-some-length");
    assert_eq!(code, Some(2));
    assert!(told.contains("tls.crt") && told.contains("No such file"), "{told}");
    certify(&site);
    let (code, told) = started("canary");
    assert_eq!(code, Some(2));
    assert!(told.contains("shorter than 16 bytes") && !told.contains("canary"), "{told}");
}

#[test]
fn a_worker_on_this_machine_is_asked_for_its_health() {
    let site = site();
    let worker = site.start("one");
    wait_until("telemetry", || worker.get("/healthz").is_some());
    let alive = health(&worker, &site, &[]);
    assert!(alive.status.success());
    assert_eq!(alive.stdout, b"ok\n");
    // There is no broker.
    let ready = health(&worker, &site, &["--ready"]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(String::from_utf8(ready.stderr).unwrap().contains("not ready"));
    worker.signal("STOP");
    let stuck = health(&worker, &site, &[]);
    worker.signal("CONT");
    assert_eq!(stuck.status.code(), Some(1));
    let address = worker.address;
    assert!(worker.stop().success());
    let config = site.configure("health", address);
    let gone = Command::new(BINARY).args(["health", "-c"]).arg(config).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8(gone.stderr).unwrap().contains("no worker answers at"));
}

#[test]
fn who_shows_no_token_does_not_use_up_the_workers_files() {
    let mut site = site();
    certify(&site);
    fs::write(site.path("token"), "a-token-of-some-length").unwrap();
    let port = free_address().port();
    let remote = format!(
        "{{ listen: '127.0.0.1:{port}', certificate: tls.crt, key: tls.key, token: {{ file: token }} }}"
    );
    site.environment.push(("VEILSTREAM__TELEMETRY__REMOTE", remote));
    let worker = site.start("one");
    wait_until("telemetry", || ask(&site, port, "/healthz", None).is_ok());
    // They connect, and say nothing.
    let silent: Vec<_> =
        (0..300).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let waits = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    wait_until("room for 64", || silent.iter().filter(|stream| waits(stream)).count() <= 64);
    assert!(waits(&silent[0]), "who came first is sent away for who came later");
    // Those that stay are not waited for for ever.
    wait_until("room again", || ask(&site, port, "/healthz", None).is_ok());
    assert!(worker.stop().success());
}
