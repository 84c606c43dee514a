//! The life of a worker: start, reload, stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::lane::{Lane, LaneError, LaneShared, Observer};
use super::show::Shown;
use super::watch::Watch;
use crate::access::http::Office;
use crate::access::{self, Desk, TokenError, Verifier};
use crate::audit::Change;
use crate::config::{Config, ConfigError, SecretText};
use crate::erasure::Registry;
use crate::erasure::inbox::Duty;
use crate::kafka::{ClientSettings, Connection, Trail};
use crate::plans::{LoadError, Plans};
use crate::telemetry::{self, Health, Metrics, Remote, RemoteError, Traces, TracesError};

/// How often it is looked whether other keys are in force.
const KEYS: Duration = Duration::from_secs(5);
/// How long it is waited before the same keys are asked for again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often lag and outages are looked at.
const TICK: Duration = Duration::from_secs(2);

/// Why a worker did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("telemetry.listen {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("a lane could not be started: {0}")]
    Thread(std::io::Error),
    #[error("a lane stopped: {0}")]
    Lane(LaneError),
    #[error("a lane ended by a defect of veilstream: please report it")]
    Defect,
    #[error("{0} lanes did not stop within {1} s; what they had not committed will be read again")]
    Deadline(usize, u64),
}

impl RunError {
    /// Bad configuration, as against work that failed.
    pub fn is_configuration(&self) -> bool {
        match self {
            RunError::Load(LoadError::Keys(error)) => !error.is_passing(),
            RunError::Config(_) | RunError::Load(_) => true,
            RunError::Listen(..) | RunError::Remote(_) | RunError::Traces(_) => true,
            RunError::Token(_) => true,
            RunError::Lane(error) => error.is_configuration(),
            _ => false,
        }
    }
}

/// Why policies are read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// SIGHUP.
    Asked,
    FileChanged,
    /// Other keys are in force: the policies in force are compiled with them.
    Keys,
}

/// What was read again.
struct Loaded {
    cause: Cause,
    plans: Result<Plans, LoadError>,
}

/// Reads again what it is asked to, one after the other; it may wait for a database.
struct Loader {
    ask: mpsc::UnboundedSender<Cause>,
    loaded: mpsc::UnboundedReceiver<Loaded>,
}

impl Loader {
    fn start(shared: &Arc<LaneShared>) -> Loader {
        let (ask, mut asked) = mpsc::unbounded_channel();
        let (tell, loaded) = mpsc::unbounded_channel();
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            while let Some(cause) = asked.recv().await {
                let shared = Arc::clone(&shared);
                let load = move || match cause {
                    Cause::Keys => shared.plans().rekeyed(&shared.config),
                    Cause::Asked | Cause::FileChanged => Plans::load(&shared.config),
                };
                let Ok(plans) = tokio::task::spawn_blocking(load).await else { continue };
                if tell.send(Loaded { cause, plans }).is_err() {
                    return;
                }
            }
        });
        Loader { ask, loaded }
    }

    fn ask(&self, cause: Cause) {
        // The other end lives as long as this.
        let _ = self.ask.send(cause);
    }
}

/// The worker goes on without telemetry, but not silently.
async fn until_it_ends(what: &str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "{what} is no longer served");
    }
}

/// A worker at work.
pub struct Worker {
    shared: Arc<LaneShared>,
    lanes: Vec<JoinHandle<Result<(), LaneError>>>,
    connections: Vec<Arc<Connection>>,
    /// Where telemetry is served.
    pub address: SocketAddr,
    remote: Option<Remote>,
    /// Also those that come while it starts.
    hangup: Signal,
    /// What forgets people, until it is at work.
    duty: Option<Duty>,
    erasure: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Loads everything and starts the lanes. Call it within a tokio runtime.
    pub async fn start(
        config: Config,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Worker, RunError> {
        let hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
        let plans = Plans::load(&config)?;
        let settings = ClientSettings::new(&config)?;
        let metrics = Arc::new(Metrics::new()?);
        let health = Arc::new(Health::new(config.lanes()));
        let listen = config.telemetry.listen;
        let mut shared = LaneShared::new(config, plans, metrics, health);
        if let Some(told) = &shared.config.telemetry.traces {
            let exports = shared.metrics.trace_exports.clone();
            shared.traces = Some(Arc::new(Traces::start(&shared.config, told, exports)?));
        }
        shared.observer = observer;
        let shared = Arc::new(shared);
        let config = &shared.config;
        let (metrics, health) = (Arc::clone(&shared.metrics), Arc::clone(&shared.health));
        let mut pages = telemetry::pages(metrics, health);
        let registry = Arc::new(registry(&shared, &settings));
        if let Some(office) = office(&shared, &settings, &registry)? {
            pages = pages.merge(access::http::pages(Arc::new(office)));
        }
        let duty = config.key_store.is_some().then(|| duty(&shared, &settings, registry));
        let (address, serving) = telemetry::serve(listen, pages.clone())
            .await
            .map_err(|error| RunError::Listen(listen, error))?;
        tokio::spawn(until_it_ends("telemetry.listen", serving));
        let mut remote = None;
        if let Some(told) = &config.telemetry.remote {
            let (served, address, serving) = Remote::serve(told, &config.folder, pages).await?;
            tokio::spawn(until_it_ends("telemetry.remote", serving));
            tracing::info!(%address, "telemetry for other machines");
            remote = Some(served);
        }
        let plans = shared.plans();
        shared.metrics.set_policies(plans.all().map(|plan| plan.policy.as_ref()));
        for plan in plans.all() {
            for warning in &plan.policy.warnings {
                tracing::warn!("{warning}");
            }
        }
        let policies = labels(&plans);
        tracing::info!(?policies, lanes = config.lanes(), telemetry = %address, "starting");
        shared.tell(Change::Started { policies, roles: roles(&plans) });
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            lanes: Vec::new(),
            connections: Vec::new(),
            address,
            remote,
            hangup,
            duty,
            erasure: Vec::new(),
        };
        for number in 0..worker.shared.config.lanes() {
            let lane = Lane::new(number, Arc::clone(&worker.shared), settings.clone());
            worker.connections.push(lane.connection());
            let thread = std::thread::Builder::new().name(format!("lane-{number}"));
            worker.lanes.push(thread.spawn(move || lane.run()).map_err(RunError::Thread)?);
        }
        Ok(worker)
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Works until SIGTERM or SIGINT, reloading on SIGHUP and when a policy file changes.
    pub async fn run(mut self) -> Result<(), RunError> {
        let of = |kind| signal(kind).map_err(RunError::Signals);
        let (mut term, mut int) = (of(SignalKind::terminate())?, of(SignalKind::interrupt())?);
        let mut watch = Watch::new(&self.shared.plans().files);
        // An authority renews certificates, and an orchestrator tokens.
        let mut served = Watch::new(&self.remote_files());
        let mut tick = tokio::time::interval(TICK);
        let mut shown = Shown::default();
        let mut loader = Loader::start(&self.shared);
        self.watch_keys(loader.ask.clone());
        if let Some(duty) = self.duty.take().map(Arc::new) {
            let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
                let thread = std::thread::Builder::new().name(name.into());
                thread.spawn(work).map_err(RunError::Thread)
            };
            let clerk = Arc::clone(&duty);
            self.erasure.push(spawn("erasure", Box::new(move || clerk.finish()))?);
            if let Some(topic) = self.shared.config.erasure.as_ref().map(|of| of.topic.clone()) {
                self.erasure.push(spawn("requests", Box::new(move || duty.read(&topic)))?);
            }
        }
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = self.hangup.recv() => {
                    loader.ask(Cause::Asked);
                    self.renew().await;
                }
                () = served.changed() => self.renew().await,
                () = watch.changed() => loader.ask(Cause::FileChanged),
                Some(loaded) = loader.loaded.recv() => self.take(loaded, &mut watch),
                _ = tick.tick() => {
                    shown.update(&self.connections, &self.shared.metrics);
                    self.show_outage();
                    // A lane ends by itself only to halt, and what forgets people by a defect.
                    if self.lanes.iter().any(JoinHandle::is_finished)
                        || self.erasure.iter().any(JoinHandle::is_finished)
                    {
                        break;
                    }
                }
            }
        }
        self.stop().await
    }

    /// Asks for other plans when other keys are in force.
    fn watch_keys(&self, ask: mpsc::UnboundedSender<Cause>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            // What was asked for, and when: it may take a while, or may have been refused.
            let mut told: Option<(i64, Instant)> = None;
            loop {
                tokio::time::sleep(KEYS).await;
                let keys = Arc::clone(&shared.plans().keys);
                match tokio::task::spawn_blocking(move || keys.renew()).await {
                    Ok(Ok(state)) => {
                        shared.metrics.set_key_store_uses(&state.uses);
                        let Some(revision) = state.outdated else { continue };
                        let asked =
                            |(of, at): (i64, Instant)| of == revision && at.elapsed() < AGAIN;
                        if !told.is_some_and(asked) {
                            told = Some((revision, Instant::now()));
                            if ask.send(Cause::Keys).is_err() {
                                return;
                            }
                        }
                    }
                    Ok(Err(error)) => tracing::warn!("keys are not looked after: {error}"),
                    Err(_) => {
                        tracing::error!("a defect of veilstream while keys were looked after")
                    }
                }
            }
        });
    }

    /// Replaces keys and all policies, or nothing.
    fn take(&self, Loaded { cause, plans }: Loaded, watch: &mut Watch) {
        let outcome = match plans {
            Ok(plans) => {
                let policies = labels(&plans);
                // An editor touches files that it does not change; who asks may have changed the keyset.
                let roles = roles(&plans);
                let now = self.shared.plans();
                let same = policies == labels(&now) && roles == self::roles(&now);
                if cause == Cause::FileChanged && same {
                    tracing::debug!("the policies are as they were");
                    return;
                }
                self.shared.metrics.set_policies(plans.all().map(|plan| plan.policy.as_ref()));
                tracing::info!(?policies, keys = cause == Cause::Keys, "policies replaced");
                if plans.files != self.shared.plans().files {
                    *watch = Watch::new(&plans.files);
                }
                self.shared.replace(plans);
                self.shared.tell(Change::PoliciesReplaced { policies, roles });
                "applied"
            }
            Err(error) => {
                tracing::error!("the policies and keys in force stay in force: {error}");
                let errors = match &error {
                    LoadError::Policies(all) => all.0.len(),
                    _ => 1,
                };
                self.shared.tell(Change::PoliciesRefused { errors });
                "refused"
            }
        };
        self.shared.metrics.reloads.with_label_values(&[outcome]).inc();
    }

    fn remote_files(&self) -> Vec<PathBuf> {
        let Config { telemetry, folder, .. } = &self.shared.config;
        let Some(remote) = &telemetry.remote else { return Vec::new() };
        let token = match &remote.token {
            SecretText::File(file) => Some(file),
            SecretText::Env(_) => None,
        };
        let files = [Some(&remote.certificate), Some(&remote.key), token];
        files.into_iter().flatten().map(|file| folder.join(file)).collect()
    }

    /// Takes in a renewed certificate and token.
    async fn renew(&self) {
        let config = &self.shared.config;
        if let (Some(remote), Some(told)) = (&self.remote, &config.telemetry.remote) {
            match remote.renew(told, &config.folder).await {
                Ok(()) => tracing::info!("certificate and token of telemetry.remote read again"),
                Err(error) => {
                    tracing::error!("the certificate and the token in force stay in force: {error}")
                }
            }
        }
    }

    /// A lane that waits for the broker in the middle of a batch does not get to say that it is not ready.
    fn show_outage(&self) {
        for (lane, connection) in self.connections.iter().enumerate() {
            if connection.is_down() {
                self.shared.not_ready(lane);
            }
        }
    }

    /// Ends the lanes after their batch, within the deadline.
    pub async fn stop(mut self) -> Result<(), RunError> {
        tracing::info!("stopping");
        self.shared.stop();
        let seconds = self.shared.config.shutdown_deadline_s;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while self.lanes.iter().any(|lane| !lane.is_finished()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let late = self.lanes.iter().filter(|lane| !lane.is_finished()).count();
        if late > 0 {
            return Err(RunError::Deadline(late, seconds));
        }
        for lane in self.lanes.drain(..) {
            match lane.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(RunError::Lane(error)),
                Err(_) => return Err(RunError::Defect),
            }
        }
        // What they are at is found again by the next.
        while self.erasure.iter().any(|one| !one.is_finished()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for thread in self.erasure.drain(..).filter(JoinHandle::is_finished) {
            thread.join().map_err(|_| RunError::Defect)?;
        }
        if let Some(traces) = self.shared.traces.clone() {
            // It waits for the collector, a while.
            let _ = tokio::task::spawn_blocking(move || traces.stop()).await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Where values are revealed over HTTP, if the configuration says whose tokens are believed.
fn office(
    shared: &Arc<LaneShared>,
    settings: &ClientSettings,
    registry: &Arc<Registry>,
) -> Result<Option<Office>, RunError> {
    let config = &shared.config;
    let Some(access) = &config.access else { return Ok(None) };
    let Some(tokens) = &access.tokens else { return Ok(None) };
    let verifier = Verifier::new(tokens, &config.folder)?;
    let trail = Trail::new(settings, &config.audit.topic, "http");
    let of = Arc::clone(shared);
    let desk = Desk::new(move || of.plans().in_force(), trail, access);
    Ok(Some(Office {
        desk,
        verifier,
        registry: Arc::clone(registry),
        values: shared.metrics.revealed_values.clone(),
        erasures: shared.metrics.erasures.clone(),
    }))
}

fn registry(shared: &Arc<LaneShared>, settings: &ClientSettings) -> Registry {
    let of = Arc::clone(shared);
    Registry::new(move || of.plans().in_force(), settings, &shared.config, "erasures")
}

fn duty(shared: &Arc<LaneShared>, settings: &ClientSettings, registry: Arc<Registry>) -> Duty {
    let (of, at) = (Arc::clone(shared), Arc::clone(shared));
    Duty {
        config: shared.config.clone(),
        settings: settings.clone(),
        metrics: Arc::clone(&shared.metrics),
        registry,
        plans: Box::new(move || of.plans()),
        stopping: Box::new(move || at.stopping()),
    }
}

/// The roles in force, by the beginning of their digest.
fn roles(plans: &Plans) -> Option<String> {
    plans.roles.as_ref().and_then(|roles| roles.digest.get(..16)).map(str::to_owned)
}

fn labels(plans: &Plans) -> Vec<String> {
    plans.all().map(|plan| plan.label.clone()).collect()
}
