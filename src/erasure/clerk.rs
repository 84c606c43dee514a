//! Does what is left of erasures once their keys are destroyed. Any step may be the last before a crash: whoever is
//! next begins with the first again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::search::Search;
use super::{DOMAIN, EraseError, bound_ms, store};
use crate::audit::{Auditor, Buried, Erasure, ErasureKind};
use crate::config::Config;
use crate::crypto::ciphertext;
use crate::crypto::erasure::Pending;
use crate::crypto::{KeyError, KeySource};
use crate::kafka::{Admin, ClientSettings, Grave, Positions, Reader, Sink};
use crate::plans::Plans;
use crate::policy::Plan;

/// Nobody else takes on the same meanwhile.
const LEASE_MS: i64 = 15 * 60 * 1000;
/// So many are done with one look through the views.
const MOST: i64 = 1000;
/// Tombstones of one transaction.
const GRAVES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A view is looked through.
    Search(String),
    /// Samples are tried.
    Verify,
    /// Tombstones and audit events are published, in one transaction.
    Publish(usize),
    /// They are; the key store is told so.
    Close,
}

/// Hears of each step before it begins; false ends the work there, as a crash would.
pub type Progress<'p> = &'p dyn Fn(&Step) -> bool;

/// What a look at the list came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Worked {
    pub done: usize,
    pub tombstones: usize,
    /// Milliseconds until the next may be done, where there is one.
    pub wait_ms: Option<i64>,
}

/// Works on the list of erasures.
pub struct Clerk<'c> {
    pub config: &'c Config,
    pub settings: &'c ClientSettings,
    pub plans: Arc<Plans>,
}

impl Clerk<'_> {
    /// Does all erasures whose time has come.
    pub fn work(&self, progress: Progress<'_>) -> Result<Worked, EraseError> {
        let keys = self.plans.keys.as_ref();
        let store = store(keys)?;
        let bound = bound_ms(self.config);
        let (ripe, waiting): (Vec<_>, Vec<_>) =
            store.lease(LEASE_MS, MOST)?.into_iter().partition(|one| one.age_ms >= bound);
        let wait_ms = waiting.iter().map(|one| bound.saturating_sub(one.age_ms)).min();
        let back: Vec<i64> = waiting.iter().map(|one| one.number).collect();
        if !back.is_empty() {
            store.give_back(back)?;
        }
        if ripe.is_empty() {
            return Ok(Worked { wait_ms, ..Worked::default() });
        }
        let done = self.finish(keys, &ripe, progress);
        if let Err(error) = &done
            && !matches!(error, EraseError::Stopped)
        {
            // Somebody may try at once; who cannot say so is waited for until the lease ends.
            let _ = store.give_back(ripe.iter().map(|one| one.number).collect());
        }
        Ok(Worked { done: ripe.len(), tombstones: done?, wait_ms })
    }

    fn finish(
        &self,
        keys: &dyn KeySource,
        pending: &[Pending],
        progress: Progress<'_>,
    ) -> Result<usize, EraseError> {
        let reached = |step: Step| match progress(&step) {
            true => Ok(()),
            false => Err(EraseError::Stopped),
        };
        let persons: Vec<String> =
            pending.iter().map(|one| person(keys, one)).collect::<Result<_, _>>()?;
        let compacted = self.compacted()?;
        let mut found: Vec<(Grave, usize)> = Vec::new();
        let mut samples = Vec::new();
        let mut buried: Vec<Vec<Buried>> = pending.iter().map(|_| Vec::new()).collect();
        for plan in self.plans.all() {
            let of_plan: Vec<_> = (pending.iter().zip(&persons).enumerate())
                .filter(|(_, (one, _))| one.population == plan.policy.population)
                .map(|(index, (one, person))| (index, person.as_str(), one))
                .collect();
            if of_plan.is_empty() || plan.policy.subject.is_none() {
                continue;
            }
            for (at, view) in plan.views.iter().enumerate() {
                if !compacted.contains(&view.topic) {
                    continue;
                }
                let name = format!("{}/{}", plan.policy.name, view.name);
                reached(Step::Search(name.clone()))?;
                let mut search = Search::new(plan, at, &of_plan);
                self.read(plan, &view.topic, &mut search)?;
                samples.append(&mut search.samples);
                let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
                for (grave, index) in search.found() {
                    *counts.entry(index).or_default() += 1;
                    found.push((grave, index));
                }
                for (index, records) in counts {
                    if let Some(list) = buried.get_mut(index) {
                        list.push(Buried { view: name.clone(), records });
                    }
                }
            }
        }
        reached(Step::Verify)?;
        let tried = tried(keys, pending, &samples)?;
        reached(Step::Publish(found.len()))?;
        self.publish(pending, &found, buried, &tried)?;
        reached(Step::Close)?;
        store(keys)?.done(pending.iter().map(|one| one.number).collect())?;
        Ok(found.len())
    }

    fn read(&self, plan: &Plan, topic: &str, search: &mut Search<'_>) -> Result<(), EraseError> {
        tracing::debug!(policy = plan.policy.name, topic, "looking for those who are forgotten");
        let mut reader = Reader::open(self.settings, topic)?;
        Ok(reader.to_end(|record| search.look(topic, &record))?)
    }

    /// Topics of views that keep the last record of a key. What other topics hold goes with their retention.
    fn compacted(&self) -> Result<HashSet<String>, EraseError> {
        let views: Vec<&str> = self
            .plans
            .all()
            .flat_map(|plan| plan.views.iter().map(|view| view.topic.as_str()))
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| EraseError::Other(error.to_string()))?;
        let admin = Admin::open(self.settings)?;
        let settings = runtime.block_on(admin.topic_settings(&views))?;
        // One whose settings may not be seen could be compacted: it is looked through as well, if it is there.
        let there = admin.names()?;
        let unseen = views.iter().filter(|topic| !settings.contains_key(**topic));
        let unseen =
            unseen.filter(|topic| there.contains(**topic)).map(|topic| (*topic).to_owned());
        let compacted =
            settings.iter().filter(|(_, of)| of.compacted).map(|(name, _)| name.clone());
        Ok(compacted.chain(unseen).collect())
    }

    /// One transaction: tombstones, and what the audit trail says of them. There is one clerk at a time: the next of
    /// the same name ends what the one before left open.
    fn publish(
        &self,
        pending: &[Pending],
        found: &[(Grave, usize)],
        mut buried: Vec<Vec<Buried>>,
        tried: &HashMap<usize, u64>,
    ) -> Result<(), EraseError> {
        let id = format!("{}-erasure", self.config.kafka.group);
        let mut sink =
            Sink::open(self.settings, Some(&id), PATIENCE, Arc::new(AtomicBool::new(false)))?;
        let name = format!("erasure-{:012x}", rand::random::<u64>() >> 16);
        let mut auditor = Auditor::new(name);
        for part in found.chunks(GRAVES) {
            sink.begin()?;
            for (grave, _) in part {
                sink.bury(grave)?;
            }
            sink.commit(&Positions::default(), None)?;
        }
        sink.begin()?;
        for (index, one) in pending.iter().enumerate() {
            let event = Erasure {
                what: ErasureKind::Done,
                receipt: one.receipt.clone(),
                population: one.population.clone(),
                keys: Some(one.keys),
                tombstones: buried.get_mut(index).map(std::mem::take).unwrap_or_default(),
                tried: Some(tried.get(&index).copied().unwrap_or(0)),
                ..Erasure::default()
            };
            sink.audit(&self.config.audit.topic, &auditor.erased(&event))?;
        }
        Ok(sink.commit(&Positions::default(), None)?)
    }
}

/// Who it is.
fn person(keys: &dyn KeySource, one: &Pending) -> Result<String, EraseError> {
    let lost =
        || EraseError::Other(format!("receipt {}: who it is does not open any more", one.receipt));
    let label = ciphertext::label(&one.person).map_err(|_| lost())?;
    let key = keys.find(label.key, label.version)?;
    let opened = ciphertext::open(&key, DOMAIN, &one.receipt, &one.person).map_err(|_| lost())?;
    String::from_utf8(opened.expose().clone()).map_err(|_| lost())
}

/// How many ciphertexts and keys of each were tried, none of which has a key any more.
fn tried(
    keys: &dyn KeySource,
    pending: &[Pending],
    samples: &[(usize, Vec<u8>)],
) -> Result<HashMap<usize, u64>, EraseError> {
    let mut tried: HashMap<usize, u64> = HashMap::new();
    let sealed = samples.iter().filter_map(|(index, sealed)| {
        let label = ciphertext::label(sealed).ok()?;
        Some((*index, label.key, label.version))
    });
    let named = pending.iter().enumerate();
    let named = named.flat_map(|(index, one)| one.ids.iter().map(move |id| (index, *id, 1)));
    let all: HashSet<_> = sealed.chain(named).collect();
    for (index, key, version) in all {
        match keys.find(key, version) {
            Err(KeyError::Erased(_)) => *tried.entry(index).or_default() += 1,
            Err(error) if error.is_passing() => return Err(error.into()),
            Ok(_) | Err(_) => {
                let receipt = pending.get(index).map(|one| one.receipt.clone());
                return Err(EraseError::Opens(receipt.unwrap_or_default()));
            }
        }
    }
    Ok(tried)
}
