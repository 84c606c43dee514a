//! A PostgreSQL server on a free loopback port, of the machine's own package.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "veilstream-test";

pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

/// Debian keeps the programs of each version in a folder of its own.
fn program(name: &str) -> PathBuf {
    let found = glob::glob(&format!("/usr/lib/postgresql/*/bin/{name}")).unwrap();
    let found = found.filter_map(Result::ok).max();
    found.unwrap_or_else(|| panic!("PostgreSQL is not installed: run scripts/setup test"))
}

/// PostgreSQL does not run as root: then its own user runs it.
fn command(name: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--pdeathsig=KILL", "--"]).arg(program(name));
        command
    } else {
        Command::new(program(name))
    }
}

impl Postgres {
    pub fn start() -> Postgres {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        if rustix::process::geteuid().is_root() {
            let own = Command::new("chown").arg("-R").arg("postgres:").arg(folder.path()).status();
            assert!(own.unwrap().success());
        }
        let made = command("initdb")
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["--username=veilstream", "--auth=scram-sha-256", "--no-sync"])
            .arg("--encoding=UTF8")
            .arg("--locale=C")
            .arg(format!("--pwfile={}", password.display()))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = Postgres { folder, port, server: None };
        postgres.resume();
        postgres
    }

    /// Starts the server, again where it was stopped.
    pub fn resume(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let server = command("postgres")
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", &format!("port={}", self.port)])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() || !self.is_ready() {
            assert!(Instant::now() < until, "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        let mut ask = Command::new(program("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Stops it as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // SIGQUIT: the server ends its own processes and itself, at once.
            let pid = rustix::process::Pid::from_child(&server);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            let _ = server.wait();
        }
    }

    /// Writes the URL into a file, for `key_store.postgres`.
    pub fn url_file(&self, folder: &Path) -> PathBuf {
        let file = folder.join("postgres-url");
        std::fs::write(&file, self.url()).unwrap();
        file
    }

    pub fn url(&self) -> String {
        format!("postgres://veilstream:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL and gives what it prints.
    pub fn sql(&self, text: &str) -> String {
        let ran = Command::new(program("psql"))
            .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", text])
            .arg(self.url())
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
