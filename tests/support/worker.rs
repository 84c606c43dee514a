//! The real binary as a process of its own, with its configuration and its log.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

pub const BINARY: &str = env!("CARGO_BIN_EXE_veilstream");

/// A folder with keys, policies and a configuration, which workers share.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub bootstrap: String,
    group: String,
    /// Lines of the `kafka` section.
    pub kafka: String,
    /// Where keys are.
    pub keys: String,
    /// Lines that go into `worker.yaml` as they stand.
    pub extra: String,
    /// What the environment says otherwise.
    pub environment: Vec<(&'static str, String)>,
}

impl Site {
    pub fn new(bootstrap: &str, group: &str, policy: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("policy.yaml"), policy).unwrap();
        let keys = folder.path().join("keys.json");
        let made = Command::new(BINARY).args(["keys", "init"]).arg(keys).output().unwrap();
        assert!(made.status.success());
        Site {
            folder,
            bootstrap: bootstrap.into(),
            group: group.into(),
            kafka: String::new(),
            keys: "keys: keys.json".into(),
            extra: String::new(),
            environment: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of a worker of that name under all policies `policy*.yaml`, with telemetry at `listen`.
    pub fn configure(&self, name: &str, listen: SocketAddr) -> PathBuf {
        let file = self.path(&format!("{name}.yaml"));
        let Site { bootstrap, group, kafka, keys, extra, .. } = self;
        let text = format!(
            "name: {name}\nkafka:\n  bootstrap: {bootstrap}\n  group: {group}\n{kafka}\n\
             lanes: 1\npolicies: [policy*.yaml]\n{keys}\n\
             quarantine: {{ topic: {group}.quarantine }}\naudit: {{ topic: {group}.audit }}\n\
             telemetry: {{ listen: \"{listen}\" }}\n{extra}\n"
        );
        let mut out = File::create(&file).unwrap();
        out.write_all(text.as_bytes()).unwrap();
        file
    }

    pub fn start(&self, name: &str) -> WorkerProcess {
        WorkerProcess::start(self, name, "info")
    }

    /// Everything that workers of this site logged.
    pub fn logs(&self) -> String {
        self.log_files().into_iter().map(|(_, log)| log).collect()
    }

    fn log_files(&self) -> Vec<(PathBuf, String)> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let logs = paths.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        let read = |path: PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            (path, text)
        };
        logs.map(read).collect()
    }
}

/// After a panic the folder stays, so that the logs can be read; where it is gone, their ends have been printed.
impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("logs are in {}", self.folder.path().display());
            for (path, log) in self.log_files() {
                let lines: Vec<_> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
                let end = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("the end of {}:\n{end}", path.display());
            }
        }
    }
}

pub struct WorkerProcess {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl WorkerProcess {
    pub fn start(site: &Site, name: &str, level: &str) -> WorkerProcess {
        let address = free_address();
        let config = site.configure(name, address);
        let log = site.path(&format!("{name}-{}.log", address.port()));
        let out = File::create(&log).unwrap();
        let child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(config)
            .env("VEILSTREAM_LOG", level)
            .envs(site.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        WorkerProcess { child, address, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let sent = kill.arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the status that it ends with.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Status code and body of a page; none while nobody listens.
    pub fn get(&self, page: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())?;
        Some((code, body))
    }

    /// The sum of a metric over all its labels that hold `label`; 0 where there is none.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let body = self.get("/metrics").map(|(_, body)| body).unwrap_or_default();
        body.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
