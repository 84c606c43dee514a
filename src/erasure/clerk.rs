//! Does what is left of erasures once their keys are destroyed. Any step may be the last before a crash: whoever is
//! next begins with the first again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::search::{Index, Search};
use super::{DOMAIN, EraseError, bound_ms, store};
use crate::audit::{Auditor, Buried, Erasure, ErasureKind};
use crate::config::Config;
use crate::crypto::ciphertext;
use crate::crypto::erasure::Pending;
use crate::crypto::{KeyError, KeyId, KeySource, Pinned, Purpose};
use crate::kafka::{Admin, ClientSettings, OwnedRecord, Positions, Reader, Sink};
use crate::plans::Plans;
use crate::policy::{Plan, Policy};

/// Nobody else takes on the same meanwhile.
const LEASE_MS: i64 = 30 * 60 * 1000;
/// So many are done with one look through the views.
const MOST: i64 = 1000;
/// Tombstones of one transaction.
const GRAVES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// After so many records it is asked whether to go on.
const GLANCE: u64 = 1000;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A view is looked through; so many records were.
    Search(String, u64),
    /// So many records of it are deleted.
    Bury(String, usize),
    /// Samples are tried.
    Verify,
    /// The audit events are published.
    Publish,
    /// The key store is told so.
    Close,
}

/// Hears of each step before it begins, and of a search while it goes on; false ends the work there, as a crash would.
pub type Progress<'p> = &'p dyn Fn(&Step) -> bool;

/// What a look at the list came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Worked {
    pub done: usize,
    /// Those that could not be done; why is in the log.
    pub failed: usize,
    pub tombstones: u64,
    /// Milliseconds until the next may be done, where there is one.
    pub wait_ms: Option<i64>,
}

/// Works on the list of erasures.
pub struct Clerk<'c> {
    pub config: &'c Config,
    pub settings: &'c ClientSettings,
    pub plans: Arc<Plans>,
}

/// An erasure at work.
struct Case {
    pending: Pending,
    person: String,
    buried: Vec<Buried>,
}

impl Clerk<'_> {
    /// Does all erasures whose time has come, of the populations that the policies know. Those of one that cannot be done
    /// hold up no other.
    pub fn work(&self, progress: Progress<'_>) -> Result<Worked, EraseError> {
        let store = store(self.plans.keys.as_ref())?;
        let bound = bound_ms(self.config);
        let known = self.plans.all().filter(|plan| plan.policy.subject.is_some());
        let mut populations: Vec<&str> =
            known.map(|plan| plan.policy.population.as_str()).collect();
        populations.sort_unstable();
        populations.dedup();
        let mut all = Worked::default();
        for population in populations {
            let (ripe, waiting): (Vec<_>, Vec<_>) = store
                .lease(population, LEASE_MS, MOST)?
                .into_iter()
                .partition(|one| one.age_ms >= bound);
            let wait = waiting.iter().map(|one| bound.saturating_sub(one.age_ms)).min();
            all.wait_ms = [all.wait_ms, wait].into_iter().flatten().min();
            if !waiting.is_empty() {
                store.give_back(&waiting)?;
            }
            if ripe.is_empty() {
                continue;
            }
            let count = ripe.len();
            match self.finish(population, ripe.clone(), progress) {
                Ok((done, tombstones)) => {
                    all.done += done;
                    all.failed += count - done;
                    all.tombstones += tombstones;
                }
                Err(EraseError::Stopped) => return Err(EraseError::Stopped),
                Err(error) => {
                    tracing::error!(population, "erasures could not be finished: {error}");
                    all.failed += count;
                    // Somebody may try at once; who cannot say so is waited for until the lease ends.
                    let _ = store.give_back(&ripe);
                }
            }
        }
        Ok(all)
    }

    /// How many were done, and tombstones.
    fn finish(
        &self,
        population: &str,
        ripe: Vec<Pending>,
        progress: Progress<'_>,
    ) -> Result<(usize, u64), EraseError> {
        let keys = self.plans.keys.as_ref();
        let reached = |step: Step| match progress(&step) {
            true => Ok(()),
            false => Err(EraseError::Stopped),
        };
        let mut cases = Vec::new();
        for pending in ripe {
            match person(keys, &pending) {
                Ok(person) => cases.push(Case { pending, person, buried: Vec::new() }),
                Err(EraseError::Key(error)) if error.is_passing() => return Err(error.into()),
                // Its lease ends some time: it is tried again, and told again.
                Err(error) => tracing::error!("an erasure cannot be finished: {error}"),
            }
        }
        // Without transactions: a second clerk at the same, whose predecessor is slow and not dead, must not end its work,
        // and what stands twice does no harm.
        let stop = Arc::new(AtomicBool::new(false));
        let mut sink = Sink::open(self.settings, None, PATIENCE, stop)?;
        let compacted = self.compacted()?;
        let (mut samples, mut tombstones) = (Vec::new(), 0);
        for plan in self.plans.all() {
            if plan.policy.population != population || plan.policy.subject.is_none() {
                continue;
            }
            let before = earlier(plan, keys)?;
            for (at, view) in plan.views.iter().enumerate() {
                if !compacted.contains(&view.topic) {
                    continue;
                }
                let name = format!("{}/{}", plan.policy.name, view.name);
                reached(Step::Search(name.clone(), 0))?;
                let persons: Vec<_> = (cases.iter().enumerate())
                    .map(|(index, case)| (index, case.person.as_str(), &case.pending))
                    .collect();
                let mut search = Search::new(plan, &before, at, &persons);
                drop(persons);
                self.look_through(&name, &view.topic, &mut search, progress)?;
                let store = store(keys)?;
                for case in &mut cases {
                    store.extend(&mut case.pending, LEASE_MS)?;
                }
                samples.append(&mut search.samples);
                let found = search.found();
                reached(Step::Bury(name.clone(), found.len()))?;
                let graves: Vec<_> = found.keys().collect();
                for part in graves.chunks(GRAVES) {
                    sink.begin()?;
                    for grave in part {
                        sink.bury(grave)?;
                    }
                    sink.commit(&Positions::default(), None)?;
                }
                tombstones += found.len() as u64;
                let mut counts: BTreeMap<Index, u64> = BTreeMap::new();
                found.values().for_each(|index| *counts.entry(*index).or_default() += 1);
                for (index, records) in counts {
                    if let Some(case) = cases.get_mut(index) {
                        case.buried.push(Buried { view: name.clone(), records });
                    }
                }
            }
        }
        reached(Step::Verify)?;
        let tried = tried(keys, &cases, &samples)?;
        reached(Step::Publish)?;
        let mut auditor = Auditor::new(format!("erasure-{:012x}", rand::random::<u64>() >> 16));
        let mut done = Vec::new();
        sink.begin()?;
        for (case, tried) in cases.into_iter().zip(tried) {
            let Some(tried) = tried else {
                let receipt = &case.pending.receipt;
                tracing::error!(receipt, "{}", EraseError::Opens(receipt.clone()));
                continue;
            };
            let event = Erasure {
                what: ErasureKind::Done,
                receipt: case.pending.receipt,
                population: population.to_owned(),
                keys: Some(case.pending.keys),
                tombstones: case.buried,
                tried: Some(tried),
                ..Erasure::default()
            };
            sink.audit(&self.config.audit.topic, &auditor.erased(&event))?;
            done.push(case.pending.number);
        }
        sink.commit(&Positions::default(), None)?;
        reached(Step::Close)?;
        let count = done.len();
        store(keys)?.done(done)?;
        Ok((count, tombstones))
    }

    /// Reads a view to its end, and then what came meanwhile: a tombstone must not meet what is somebody else's by now.
    fn look_through(
        &self,
        name: &str,
        topic: &str,
        search: &mut Search<'_>,
        progress: Progress<'_>,
    ) -> Result<(), EraseError> {
        let mut count = 0;
        let mut each = |record: Option<OwnedRecord>| {
            let Some(record) = record else { return progress(&Step::Search(name.to_owned(), 0)) };
            search.look(topic, &record);
            count += 1;
            count % GLANCE != 0 || progress(&Step::Search(name.to_owned(), count))
        };
        let mut reader = Reader::open(self.settings, topic)?;
        let ended = reader.to_end(&mut each)? && reader.behind(self.settings)?.to_end(&mut each)?;
        match ended {
            true => Ok(()),
            false => Err(EraseError::Stopped),
        }
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
}

/// Who it is.
fn person(keys: &dyn KeySource, one: &Pending) -> Result<String, EraseError> {
    let lost = || {
        let receipt = &one.receipt;
        EraseError::Other(format!("receipt {receipt}: who it is does not open any more"))
    };
    let label = ciphertext::label(&one.person).map_err(|_| lost())?;
    let key = keys.find(label.key, label.version).map_err(|error| match error.is_passing() {
        true => EraseError::Key(error),
        false => lost(),
    })?;
    let opened = ciphertext::open(&key, DOMAIN, &one.receipt, &one.person).map_err(|_| lost())?;
    String::from_utf8(opened.expose().clone()).map_err(|_| lost())
}

/// For each, how many ciphertexts and keys were tried; none where one has a key all the same.
fn tried(
    keys: &dyn KeySource,
    cases: &[Case],
    samples: &[(Index, Vec<u8>)],
) -> Result<Vec<Option<u64>>, EraseError> {
    let mut named: HashMap<Index, HashSet<(KeyId, u32)>> = HashMap::new();
    for (index, sealed) in samples {
        if let Ok(label) = ciphertext::label(sealed) {
            named.entry(*index).or_default().insert((label.key, label.version));
        }
    }
    let mut all = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let mut tried = store(keys)?.leftover(case.pending.subject)?.eq(&0).then_some(0);
        let of_samples = named.remove(&index).unwrap_or_default().into_iter();
        for (id, version) in of_samples.chain(case.pending.ids.iter().map(|id| (*id, 1))) {
            match keys.find(id, version) {
                Err(KeyError::Erased(_)) => tried = tried.map(|tried| tried + 1),
                Err(error) if error.is_passing() => return Err(error.into()),
                Ok(_) | Err(_) => tried = None,
            }
        }
        all.push(tried);
    }
    Ok(all)
}

/// The same plan under each version of the keys that pseudonyms are made with, as far as it is still there.
fn earlier(plan: &Plan, keys: &dyn KeySource) -> Result<Vec<Plan>, EraseError> {
    let mut plans = Vec::new();
    // A pinned view may have had other keys before.
    let unpinned = Arc::new(Policy::clone(&plan.policy).without_pins());
    for purpose in [Purpose::Token, Purpose::Deterministic] {
        let primary = keys.primary(purpose)?;
        for version in 1..=primary.version {
            let mut at = Pinned::new(keys);
            if at.pin(purpose, Some(version)).is_err() {
                continue;
            }
            let compiled = Plan::compile(Arc::clone(&unpinned), &at);
            plans.push(compiled.map_err(|error| EraseError::Other(error.to_string()))?);
        }
    }
    Ok(plans)
}
