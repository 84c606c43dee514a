//! All policies of a worker, compiled: which plan a topic's records meet. A reload replaces the whole of it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::crypto::{KeyError, KeySource};
use crate::keys::{self, KeysError};
use crate::policy::{Diagnostics, Plan, PlanError, Policy, Topics, conflicts};
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
        let files = policies.iter().flat_map(|policy| policy.files.clone()).collect();
        let policies = policies.into_iter().map(Arc::new).collect();
        Plans::compile(policies, files, keys::open(config)?)
    }

    /// The same policies, compiled with the keys that are in force now.
    pub fn rekeyed(&self, config: &Config) -> Result<Plans, LoadError> {
        let policies = self.all().map(|plan| Arc::clone(&plan.policy)).collect();
        Plans::compile(policies, self.files.clone(), keys::open(config)?)
    }

    fn compile(
        policies: Vec<Arc<Policy>>,
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
        Ok(Plans { plans, keys, files })
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
    let reserved =
        [(config.quarantine.topic.as_str(), "quarantine"), (&config.audit.topic, "audit")];
    let conflicts = conflicts(&policies, &reserved);
    match conflicts.is_empty() {
        true => Ok(policies),
        false => Err(LoadError::Conflicts(conflicts.join("\n"))),
    }
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
