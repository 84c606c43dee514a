//! A Kafka cluster of three nodes, each broker and controller, each in a network namespace of its own, so that it can
//! be cut off. Only under `tests/kafka/isolated`, which `make chaos` uses.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::{env, process, thread};

use super::broker::Broker;
use super::worker::repository;

pub const NODES: [Node; 3] = [Node(1), Node(2), Node(3)];
const CLIENT_PORT: u16 = 9092;
const CONTROLLER_PORT: u16 = 9093;
/// Of a disk that can be full: more than any test fills by itself, the backlog with its three copies among them.
const DISK: &str = "size=2500m";

/// A broker, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub i32);

impl Node {
    fn address(self) -> String {
        format!("10.77.0.{}", self.0)
    }

    fn namespace(self) -> String {
        format!("node{}", self.0)
    }
}

/// Started by [`Cluster::start`], ended and removed when dropped.
pub struct Cluster {
    pub broker: Broker,
    folder: PathBuf,
}

impl Cluster {
    /// Three nodes with these server properties beside those of a cluster.
    pub fn start(name: &str, properties: &[&str]) -> Cluster {
        assert!(env::var_os("VEILSTREAM_ISOLATED").is_some(), "this test is run by `make chaos`");
        bridge();
        let folder = repository(&format!("target/kafka/run/{name}-{}", process::id()));
        let bootstrap = NODES.map(|node| format!("{}:{CLIENT_PORT}", node.address())).join(",");
        let cluster = Cluster { broker: Broker::elsewhere(&bootstrap), folder };
        for node in NODES {
            connect(node);
            let folder = cluster.folder_of(node);
            fs::create_dir_all(&folder).unwrap();
            run("mount", &["-t", "tmpfs", "-o", DISK, "none", folder.to_str().unwrap()]);
            fs::write(folder.join("ports"), format!("{CLIENT_PORT} {CONTROLLER_PORT}\n")).unwrap();
        }
        let voters = NODES.map(|node| format!("{}@{}:{CONTROLLER_PORT}", node.0, node.address()));
        let of = |node: Node| {
            let address = node.address();
            let mut all = vec![
                "cluster.id=AAAAAAAAAAAAAAAAAAAAAQ".to_owned(),
                format!("node.id={}", node.0),
                format!("controller.quorum.voters={}", voters.join(",")),
                format!(
                    "listeners=CLIENT://0.0.0.0:{CLIENT_PORT},CONTROLLER://0.0.0.0:{CONTROLLER_PORT}"
                ),
                format!(
                    "advertised.listeners=CLIENT://{address}:{CLIENT_PORT},CONTROLLER://{address}:{CONTROLLER_PORT}"
                ),
                "default.replication.factor=3".to_owned(),
                "min.insync.replicas=2".to_owned(),
                "offsets.topic.replication.factor=3".to_owned(),
                "transaction.state.log.replication.factor=3".to_owned(),
                "transaction.state.log.min.isr=2".to_owned(),
                // A follower that is gone holds up nobody for half a minute.
                "replica.lag.time.max.ms=5000".to_owned(),
            ];
            all.extend(properties.iter().map(|property| (*property).to_owned()));
            all
        };
        // A quorum needs two of them: none is ready alone.
        thread::scope(|scope| {
            for node in NODES {
                let (cluster, properties) = (&cluster, of(node));
                scope.spawn(move || cluster.script("start", node, &properties));
            }
        });
        cluster
    }

    /// SIGKILL.
    pub fn kill(&self, node: Node) {
        self.script("kill", node, &[]);
    }

    /// SIGTERM: its leaderships move first.
    pub fn stop(&self, node: Node) {
        self.script("stop", node, &[]);
    }

    /// With its data, after [`kill`](Cluster::kill), [`stop`](Cluster::stop) or an end of its own.
    pub fn start_again(&self, node: Node) {
        self.script("start", node, &[]);
    }

    /// Nothing goes to it or comes from it, neither its peers' nor its clients'.
    pub fn cut_off(&self, node: Node) {
        run("ip", &["link", "set", &node.namespace(), "down"]);
    }

    pub fn reconnect(&self, node: Node) {
        run("ip", &["link", "set", &node.namespace(), "up"]);
    }

    /// Leaves no byte free on the disk of a node.
    pub fn fill_disk(&self, node: Node) {
        let mut ballast = File::create(self.folder_of(node).join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0; size];
            loop {
                match ballast.write(&piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("ballast: {error}"),
                }
            }
        }
    }

    pub fn free_disk(&self, node: Node) {
        fs::remove_file(self.folder_of(node).join("ballast")).unwrap();
    }

    pub fn is_running(&self, node: Node) -> bool {
        let pid = fs::read_to_string(self.folder_of(node).join("pid")).unwrap_or_default();
        Path::new("/proc").join(pid.trim()).join("fd").read_dir().is_ok_and(|fd| fd.count() > 0)
    }

    pub fn leader(&self, topic: &str, partition: i32) -> Option<Node> {
        let leader = self.broker.leader(topic, partition)?;
        NODES.into_iter().find(|node| node.0 == leader)
    }

    fn folder_of(&self, node: Node) -> PathBuf {
        self.folder.join(node.namespace())
    }

    fn script(&self, command: &str, node: Node, properties: &[String]) {
        let folder = self.folder_of(node);
        let broker = repository("tests/kafka/broker");
        let mut all =
            vec!["netns", "exec", "", broker.to_str().unwrap(), command, folder.to_str().unwrap()];
        let namespace = node.namespace();
        all[2] = &namespace;
        all.extend(properties.iter().map(String::as_str));
        run("ip", &all);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in NODES {
            let folder = self.folder_of(node);
            if thread::panicking() {
                // Its disk ends with the mount.
                let kept = self.folder.with_extension("log");
                let _ = fs::create_dir_all(&kept);
                let _ = fs::copy(folder.join("log"), kept.join(node.namespace()));
                eprintln!("the log of node {} is in {}", node.0, kept.display());
            }
            // Not through `run`: a panic in a drop would abort and hide the test's own.
            let broker = repository("tests/kafka/broker");
            let _ = Command::new(broker).arg("kill").arg(&folder).output();
            let _ = Command::new("umount").arg(&folder).output();
            let _ = Command::new("ip").args(["netns", "del", &node.namespace()]).output();
            let _ = Command::new("ip").args(["link", "del", &node.namespace()]).output();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The switch that all nodes are plugged into.
fn bridge() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        run("ip", &["link", "add", "bridge", "type", "bridge"]);
        run("ip", &["addr", "add", "10.77.0.254/24", "dev", "bridge"]);
        run("ip", &["link", "set", "bridge", "up"]);
    });
}

fn connect(node: Node) {
    let (name, address) = (node.namespace(), format!("{}/24", node.address()));
    run("ip", &["netns", "add", &name]);
    run("ip", &["link", "add", &name, "type", "veth", "peer", "eth0", "netns", &name]);
    run("ip", &["link", "set", &name, "master", "bridge", "up"]);
    for inside in [
        vec!["link", "set", "lo", "up"],
        vec!["addr", "add", &address, "dev", "eth0"],
        vec!["link", "set", "eth0", "up"],
    ] {
        run("ip", &[vec!["-n", &name], inside].concat());
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env("VEILSTREAM_OWNER_PID", process::id().to_string())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
}
