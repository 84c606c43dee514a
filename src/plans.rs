//! All policies of a worker, compiled: which plan a topic's records meet. A reload replaces the whole of it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::access::InForce;
use crate::config::{Config, ConfigError, Delivery};
use crate::crypto::{KeyError, KeySource};
use crate::keys::{self, KeysError};
use crate::policy::roles::Roles;
use crate::policy::{Diagnostics, HoldPlan, Plan, PlanError, Policy, Topics, conflicts};
use crate::quarantine::Sealing;

/// Why the policies could not be loaded; the ones in force stay in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("{0}")]
    Policies(Diagnostics),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("`policies`: {0}")]
    Files(String),
    #[error("{0}")]
    Conflicts(String),
}

/// Every policy with its sources.
pub struct Plans {
    plans: Vec<(Source, Arc<Plan>)>,
    pub keys: Arc<dyn KeySource>,
    /// Who may do what, where the configuration says so.
    pub roles: Option<Arc<Roles>>,
    /// The files that were read, for the watcher.
    pub files: Vec<PathBuf>,
}

/// Which plan claims a topic.
pub enum Claim<'p> {
    None,
    One(&'p Arc<Plan>),
    /// Patterns can overlap on a topic that nobody thought of.
    Many,
}

enum Source {
    Named(Vec<String>),
    Pattern(String, regex::Regex),
}

impl Plans {
    /// Reads the keyset and all policies; every mistake of every policy is reported at once.
    pub fn load(config: &Config) -> Result<Plans, LoadError> {
        let policies = policies(config)?;
        let roles = roles(config, &policies)?;
        let mut files: Vec<_> = policies.iter().flat_map(|policy| policy.files.clone()).collect();
        files.extend(roles.as_ref().map(|roles| roles.file.clone()));
        let policies = policies.into_iter().map(Arc::new).collect();
        Plans::compile(policies, roles.map(Arc::new), files, keys::open(config)?)
    }

    /// The same policies, compiled with the keys that are in force now.
    pub fn rekeyed(&self, config: &Config) -> Result<Plans, LoadError> {
        let policies = self.all().map(|plan| Arc::clone(&plan.policy)).collect();
        Plans::compile(policies, self.roles.clone(), self.files.clone(), keys::open(config)?)
    }

    fn compile(
        policies: Vec<Arc<Policy>>,
        roles: Option<Arc<Roles>>,
        files: Vec<PathBuf>,
        keys: Arc<dyn KeySource>,
    ) -> Result<Plans, LoadError> {
        let mut plans = Vec::new();
        for policy in policies {
            let source = match &policy.topics {
                Topics::Named(names) => Source::Named(names.clone()),
                // The parser has compiled it once already.
                Topics::Pattern(text) => match regex::Regex::new(text) {
                    Ok(pattern) => Source::Pattern(text.clone(), pattern),
                    Err(error) => return Err(LoadError::Conflicts(error.to_string())),
                },
            };
            plans.push((source, Arc::new(Plan::compile(policy, keys.as_ref())?)));
        }
        // Every lane needs it: a keyset without its keys is refused here and not by the lanes.
        Sealing::new(keys.as_ref())?;
        Ok(Plans { plans, keys, roles, files })
    }

    /// What the consumers subscribe to.
    pub fn subscription(&self) -> Vec<&str> {
        self.plans.iter().flat_map(|(source, _)| source.topics()).collect()
    }

    /// Source topics that policies name, without those that match a pattern.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.plans
            .iter()
            .flat_map(|(source, _)| match source {
                Source::Named(names) => names.as_slice(),
                Source::Pattern(..) => &[],
            })
            .map(String::as_str)
    }

    /// Whether there is nothing to read: every topic is named, and none of them is there.
    pub fn all_missing(&self, missing: &[String]) -> bool {
        let patterns = self.plans.iter().any(|(source, _)| matches!(source, Source::Pattern(..)));
        !patterns && self.named().all(|topic| missing.iter().any(|one| one == topic))
    }

    /// Whose topic it is.
    pub fn of_topic(&self, topic: &str) -> Claim<'_> {
        let mut claims = self.plans.iter().filter(|(source, _)| source.claims(topic));
        match (claims.next(), claims.next()) {
            (Some((_, plan)), None) => Claim::One(plan),
            (None, _) => Claim::None,
            _ => Claim::Many,
        }
    }

    /// For who may see what is sealed.
    pub fn in_force(&self) -> InForce {
        InForce {
            policies: self.all().map(|plan| Arc::clone(&plan.policy)).collect(),
            roles: self.roles.clone(),
            keys: Arc::clone(&self.keys),
        }
    }

    /// The views of a topic that hold rows.
    pub fn holding(&self, topic: &str) -> Vec<&Arc<HoldPlan>> {
        match self.of_topic(topic) {
            Claim::One(plan) => plan.views.iter().filter_map(|view| view.holds.as_ref()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether any view holds rows.
    pub fn hold(&self) -> bool {
        self.all().any(|plan| plan.holding != 0)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.plans.iter().map(|(_, plan)| plan)
    }
}

/// Reads all policies; every mistake of every policy is reported at once. No keys are needed.
pub fn policies(config: &Config) -> Result<Vec<Policy>, LoadError> {
    let files = policy_files(config)?;
    let mut wrong = Vec::new();
    let mut policies = Vec::new();
    for file in &files {
        match Policy::load(file) {
            Ok(policy) => policies.push(policy),
            Err(diagnostics) => wrong.extend(diagnostics.0),
        }
    }
    if !wrong.is_empty() {
        return Err(LoadError::Policies(Diagnostics(wrong)));
    }
    let mut reserved =
        vec![(config.quarantine.topic.as_str(), "quarantine"), (&config.audit.topic, "audit")];
    reserved.extend(config.state.as_ref().map(|state| (state.topic.as_str(), "state")));
    reserved.extend(config.erasure.as_ref().map(|erasure| (erasure.topic.as_str(), "erasure")));
    let mut conflicts = conflicts(&policies, &reserved);
    for policy in &policies {
        for view in &policy.views {
            let Some(rule) = &view.rule else { continue };
            let of =
                format!("view `{}` of policy `{}` has `{}`", view.name, policy.name, rule.name());
            if config.state.is_none() {
                conflicts.push(format!("{of}: say with `state.topic` where it holds rows"));
            }
            if config.delivery == Delivery::AtLeastOnce {
                conflicts.push(format!("{of}: it needs `delivery: exactly-once`"));
            }
        }
    }
    match conflicts.is_empty() {
        true => Ok(policies),
        false => Err(LoadError::Conflicts(conflicts.join("\n"))),
    }
}

/// The roles that the configuration names, checked against all its policies.
pub fn roles(config: &Config, policies: &[Policy]) -> Result<Option<Roles>, LoadError> {
    let Some(access) = &config.access else { return Ok(None) };
    let policies: Vec<&Policy> = policies.iter().collect();
    let loaded = Roles::load(&config.folder.join(&access.roles), &policies);
    loaded.map(Some).map_err(LoadError::Policies)
}

impl Source {
    fn topics(&self) -> Vec<&str> {
        match self {
            Source::Named(names) => names.iter().map(String::as_str).collect(),
            Source::Pattern(text, _) => vec![text],
        }
    }

    fn claims(&self, topic: &str) -> bool {
        match self {
            Source::Named(names) => names.iter().any(|name| name == topic),
            Source::Pattern(_, pattern) => pattern.is_match(topic),
        }
    }
}

fn policy_files(config: &Config) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = Vec::new();
    for pattern in &config.policies {
        let full = config.folder.join(pattern);
        let matches = glob::glob(&full.to_string_lossy())
            .map_err(|error| LoadError::Files(format!("{pattern}: {error}")))?;
        let before = files.len();
        files.extend(matches.filter_map(Result::ok));
        if files.len() == before {
            return Err(LoadError::Files(format!("no file matches {}", full.display())));
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}
