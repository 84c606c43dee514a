//! All policies of a worker, compiled: which plan a topic's records meet. A reload replaces the whole of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::crypto::{KeyError, KeySource};
use crate::keys::{Keyset, KeysetError};
use crate::policy::{Diagnostics, Plan, PlanError, Policy, Topics};
use crate::quarantine::Sealing;

/// Why the policies could not be loaded; the ones in force stay in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysetError),
    #[error("{0}")]
    Policies(Diagnostics),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("`policies`: {0}")]
    Files(String),
    #[error("{0}")]
    Conflict(String),
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
        let keys: Arc<dyn KeySource> = Arc::new(Keyset::load(&config.folder.join(&config.keys))?);
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
        conflicts(config, &policies)?;
        let files = policies.iter().flat_map(|policy| policy.files.clone()).collect();
        let mut plans = Vec::new();
        for policy in policies {
            let source = match &policy.topics {
                Topics::Named(names) => Source::Named(names.clone()),
                // The parser has compiled it once already.
                Topics::Pattern(text) => match regex::Regex::new(text) {
                    Ok(pattern) => Source::Pattern(text.clone(), pattern),
                    Err(error) => return Err(LoadError::Conflict(error.to_string())),
                },
            };
            plans.push((source, Arc::new(Plan::compile(Arc::new(policy), keys.as_ref())?)));
        }
        // Every lane needs it: a keyset without its keys is refused here and not by the lanes.
        Sealing::new(keys.as_ref())?;
        Ok(Plans { plans, keys, files })
    }

    /// What the consumers subscribe to.
    pub fn subscription(&self) -> Vec<&str> {
        self.plans.iter().flat_map(|(source, _)| source.topics()).collect()
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

/// A topic has one policy, a policy one name, and nothing that is published is read again.
fn conflicts(config: &Config, policies: &[Policy]) -> Result<(), LoadError> {
    let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
    let mut published: BTreeMap<&str, &str> = BTreeMap::new();
    let mut names = BTreeMap::new();
    let conflict = |text: String| Err(LoadError::Conflict(text));
    for policy in policies {
        if names.insert(policy.name.as_str(), ()).is_some() {
            return conflict(format!("two policies are called `{}`", policy.name));
        }
        let sources: Vec<&str> = match &policy.topics {
            Topics::Named(names) => names.iter().map(String::as_str).collect(),
            Topics::Pattern(pattern) => vec![pattern],
        };
        for source in sources {
            if let Some(other) = claimed.insert(source, &policy.name) {
                return conflict(format!(
                    "the topic {source} is claimed by `{other}` and `{}`",
                    policy.name
                ));
            }
        }
        for view in &policy.views {
            if let Some(other) = published.insert(&view.topic, &policy.name) {
                return conflict(format!(
                    "`{other}` and `{}` both publish to {}",
                    policy.name, view.topic
                ));
            }
        }
    }
    published.insert(&config.quarantine.topic, "quarantine");
    published.insert(&config.audit.topic, "audit");
    for policy in policies {
        let claims = |topic: &str| match &policy.topics {
            Topics::Named(names) => names.iter().any(|name| name == topic),
            Topics::Pattern(pattern) => {
                regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(topic))
            }
        };
        if let Some((topic, by)) = published.iter().find(|(topic, _)| claims(topic)) {
            return conflict(format!(
                "`{}` reads {topic}, which `{by}` writes: an endless loop",
                policy.name
            ));
        }
        let twice = claimed.iter().find(|(topic, owner)| **owner != policy.name && claims(topic));
        if let Some((topic, owner)) = twice {
            return conflict(format!(
                "the topic {topic} is claimed by `{owner}` and `{}`",
                policy.name
            ));
        }
        for view in &policy.views {
            let reserved = [&config.quarantine.topic, &config.audit.topic];
            if reserved.contains(&&view.topic) {
                return conflict(format!(
                    "view `{}` publishes to {}, which is reserved",
                    view.name, view.topic
                ));
            }
        }
    }
    Ok(())
}
