//! What the topics that a worker writes to take, as the broker says it.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::kafka::{Admin, BATCH_FRAME, ClientSettings, KafkaProblem, TopicSettings};
use crate::plans::Plans;
use crate::rewrite::{Reason, Sanitized};

/// Every topic's settings, as far as they are known.
pub struct Topics {
    known: BTreeMap<String, TopicSettings>,
    /// Source topics that a policy names and that are not there.
    pub missing: Vec<String>,
    /// The largest record of all, in bytes: what the user says, or what the producer takes.
    most: usize,
}

/// What one topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// The largest record, in bytes.
    pub limit: usize,
    /// A record without a key is refused, as by a compacted topic.
    pub needs_key: bool,
}

impl Topics {
    /// Asks the broker. Where it does not answer, only the size that it takes by default is known.
    pub fn ask(settings: &ClientSettings, config: &Config, plans: &Plans) -> Topics {
        let views = plans.all().flat_map(|plan| plan.views.iter());
        let mut names: Vec<&str> = views.map(|view| view.topic.as_str()).collect();
        names.extend(
            config.state.as_ref().filter(|_| plans.hold()).map(|state| state.topic.as_str()),
        );
        names.extend([config.quarantine.topic.as_str(), config.audit.topic.as_str()]);
        let nothing =
            Topics { known: BTreeMap::new(), missing: Vec::new(), most: settings.record_limit() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (Ok(runtime), false) = (runtime, config.embedded) else { return nothing };
        let asked = runtime.block_on(async {
            let admin = Admin::open(settings)?;
            let known = admin.topic_settings(&names).await?;
            let there = admin.names()?;
            for topic in names.iter().filter(|topic| !there.contains(**topic)) {
                tracing::warn!(
                    topic,
                    "a topic to publish to is not there, or may not be described"
                );
            }
            let missing = plans.named().filter(|topic| !there.contains(*topic));
            let missing = missing.map(str::to_owned).collect();
            Ok::<_, KafkaProblem>((known, missing))
        });
        let (known, missing) = match asked {
            Ok(told) => told,
            Err(error) => {
                tracing::info!(%error, "topic settings are not known");
                return nothing;
            }
        };
        let largest = known.values().map(|topic| topic.largest_record).max();
        let most = match (settings.has_record_limit(), largest) {
            (false, Some(largest)) => largest,
            _ => settings.record_limit(),
        };
        Topics { known, missing, most }
    }

    /// The settings of a producer for these topics.
    pub fn fit(&self, settings: ClientSettings) -> ClientSettings {
        if settings.has_record_limit() {
            return settings;
        }
        let smallest = self.known.values().map(|topic| topic.largest_record).min();
        let smallest = smallest.unwrap_or(self.most).max(BATCH_FRAME + 1);
        settings.with_record_limits(smallest, self.most)
    }

    /// For a producer that is there already and takes records of at most `most` bytes.
    pub fn at_most(self, most: usize) -> Topics {
        Topics { most: self.most.min(most), ..self }
    }

    pub fn of(&self, topic: &str) -> Takes {
        let known = self.known.get(topic);
        Takes {
            limit: known.map_or(self.most, |known| known.largest_record.min(self.most)),
            needs_key: known.is_some_and(|known| known.compacted),
        }
    }
}

impl Takes {
    pub fn size(&self, size: usize) -> bool {
        size + BATCH_FRAME <= self.limit
    }

    /// Why the topic would refuse a record; a refused record would be tried again for ever.
    pub fn refuses(&self, record: &Sanitized<'_>) -> Option<Reason> {
        match (self.size(record.size()), self.needs_key && record.key().is_none()) {
            (false, _) => Some(Reason::TooLarge),
            (_, true) => Some(Reason::NoKey),
            _ => None,
        }
    }
}
