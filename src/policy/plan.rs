//! A policy compiled with its keys: a deterministic automaton over paths, whose states say what each view does
//! with the value there.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use sha2::{Digest as _, Sha256};

use super::automaton::{Automaton, MOST_STATES};
use super::condition::Condition;
use super::model::*;
use super::parse::chosen_for;
use crate::crypto::ciphertext::SealKey;
use crate::crypto::mac::Digester;
use crate::crypto::{DataKey, KeyError, KeyId, KeySource, Purpose, SubjectId};
use crate::event::debezium::Part;
use crate::json::Probe;
use crate::operator::anonymize::LookTap;
use crate::operator::{Operator, Site, Takes, Tokenizer, Treatment};

/// The state of everything unclassified.
pub const DEAD: StateId = StateId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafId(pub u32);

/// A name that a state knows, and where it leads.
pub struct Edge {
    /// None where the name has to be escaped.
    pub probe: Option<Probe>,
    pub to: StateId,
    /// Nobody but the leaf's actions has to do with a scalar behind it.
    pub usual: bool,
    /// The views that keep a scalar behind it, and how it is classified.
    pub passes: u64,
    pub leaf: Option<LeafId>,
}

/// A situation on the way through a row.
#[derive(Default)]
pub struct State {
    /// Known names, as indexes into the edges of the plan.
    pub names: FxHashMap<Box<str>, u32>,
    pub other: Option<StateId>,
    pub element: Option<StateId>,
    /// How the value here is classified.
    pub leaf: Option<LeafId>,
    /// Something inside is classified.
    pub descends: bool,
    /// A path of the policy goes on from here by name: an object here is never treated whole.
    pub inner: bool,
    /// The rule that classifies the value ends in `**`: it classifies what is inside as well.
    pub loops: bool,
    /// A path names this place. Where only a `**` passes by, an object of which nothing goes on is dropped
    /// with its name.
    pub named: bool,
    /// The views that keep a scalar here, where nobody else looks at it.
    pub passes: u64,
    /// Every view keeps the value with all that is inside.
    pub keeps_all: bool,
    /// The views that keep what is classified here, or, where nothing is, all that is classified inside. The
    /// others get a token in place of a name that leads here and that no rule says: it may be data.
    pub keeps_name: u64,
    /// `where` reads the value: its index in [`Plan::captures`].
    pub capture: Option<usize>,
    /// It says whose row it is, and keys are taken by it.
    pub subject: bool,
    /// The envelope's, not the row's.
    pub role: Role,
    /// The way here, in names that the policy knows.
    pub path: String,
}

/// What a state is beside the row.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    #[default]
    Row,
    /// A part of the envelope.
    Part(Part),
    /// A scalar of the envelope that goes on as it is.
    Positional,
    /// Of the envelope, and dropped.
    Discard,
}

/// A classified place.
pub struct Leaf {
    /// The index into the policy's fields.
    pub field: usize,
    /// The index into [`Plan::classes`].
    pub class: usize,
    pub values: Actions,
    pub keys: Actions,
}

/// What the views do, a bit per view.
#[derive(Default)]
pub struct Actions {
    pub keep: u64,
    pub drop: u64,
    pub null: u64,
    /// The field may not stand in this view's record key.
    pub refuse: u64,
    pub apply: Vec<Apply>,
    /// The bits of `apply`.
    pub applied: u64,
    /// Those of `apply` that treat nulls too.
    pub nulls: u64,
    /// Those of `apply` that take something from the row for many.
    pub taken: u64,
}

pub struct Apply {
    pub view: usize,
    pub takes: Takes,
    pub operator: Arc<dyn Operator>,
    /// The index into [`Plan::keys`].
    pub key: Option<usize>,
    /// Which of the plan's memos the operator has, where its result is worth remembering: the record key and both
    /// images of a change mostly have the same value.
    pub memo: Option<usize>,
}

/// What the rewrite has to know of a view.
pub struct ViewPlan {
    pub name: String,
    pub topic: String,
    pub key: KeyRule,
    /// For `key: tokenize`.
    pub tokenizer: Option<Tokenizer>,
    /// For names that only a `*` or `**` matches.
    pub names: Tokenizer,
    pub condition: Option<Condition>,
    pub headers: Vec<String>,
    /// Where it publishes what many people have in common, in place of changes.
    pub holds: Option<Arc<HoldPlan>>,
}

/// How a view holds rows.
pub struct HoldPlan {
    pub policy: String,
    pub view: String,
    /// The value of the `veilstream-policy` header.
    pub label: Arc<str>,
    pub rule: Rule,
    /// Tells people apart; under a key of the deployment, for the digests stand in keys of the state topic.
    pub people: Digester,
    /// Under another one, what is held was made by other rules: of all that says what is published of a row, but for
    /// keys.
    pub fingerprint: String,
}

impl HoldPlan {
    fn new(
        policy: &Policy,
        view: &View,
        rule: &Rule,
        subject: Option<&SubjectPlan>,
        keys: &dyn KeySource,
    ) -> Result<HoldPlan, KeyError> {
        let people = Digester::new(&keys.primary(Purpose::Digest)?, "people", &policy.population);
        let mut digest = Sha256::new();
        let mut add = |text: &str| {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        };
        [&policy.name, &view.name, &view.topic, rule.name(), rule.text(), rule.files()]
            .into_iter()
            .for_each(&mut add);
        add(policy.format.name());
        // Under other keys one person would be two.
        let somebody = subject.map(|subject| subject.identify("")).unwrap_or(SubjectId([0; 16]));
        let somebody = people.digest(&somebody.0);
        add(&somebody.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        add(&policy.population);
        add(&policy.subject.as_ref().map(ToString::to_string).unwrap_or_default());
        add(view.condition.as_ref().map_or("", |condition| condition.text()));
        add(&format!("{:?} {:?}", view.nulls, policy.unclassified));
        for field in &policy.fields {
            let chosen = view.field(field);
            let domain = chosen.and_then(|chosen| chosen.domain.as_deref());
            add(&field.path.to_string());
            add(chosen.map_or("", |chosen| &chosen.text));
            add(domain.unwrap_or(&policy.domain(view, &field.class)));
        }
        let digest = digest.finalize();
        let fingerprint = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(HoldPlan {
            policy: policy.name.clone(),
            view: view.name.clone(),
            people,
            label: policy.label().into(),
            rule: rule.clone(),
            fingerprint,
        })
    }

    /// The most bytes that are put into a row when its group is known.
    pub fn room(&self) -> usize {
        match &self.rule {
            Rule::Groups(anonymize) => {
                anonymize.quasi_identifiers.iter().map(|(_, scale)| scale.longest()).sum()
            }
            Rule::Windows(_) => 0,
        }
    }
}

/// How rows say whose they are.
pub struct SubjectPlan {
    /// The names that lead to it.
    pub path: Vec<String>,
    digester: Digester,
}

impl SubjectPlan {
    /// For a policy that says whose rows its events are, where keys of data subjects are kept: events of those who are
    /// forgotten are to be known, whatever is done with their fields. Elsewhere where a treatment depends on it.
    fn of(policy: &Policy, keys: &dyn KeySource) -> Result<Option<SubjectPlan>, KeyError> {
        let Some(subject) = &policy.subject else { return Ok(None) };
        let digester = match keys.has_subjects() {
            true => Self::digester(keys, &policy.population)?,
            // Nothing but the treatment sees it, which has a key of its own.
            false if policy.of_subject() => Digester::from_key(b"veilstream/subject"),
            false => return Ok(None),
        };
        Ok(Some(SubjectPlan { path: subject.names(), digester }))
    }

    /// Makes names of the data subjects of a population, as the key store knows them.
    pub fn digester(keys: &dyn KeySource, population: &str) -> Result<Digester, KeyError> {
        Ok(Digester::new(&keys.primary(Purpose::Subject)?, "subject", population))
    }

    pub fn identify(&self, subject: &str) -> SubjectId {
        SubjectId::new(&self.digester, subject)
    }
}

/// Why a valid policy could not be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("policy `{policy}`: {error}")]
    Key { policy: String, error: KeyError },
    #[error(
        "policy `{0}`: its `*` and `**` paths combine in more than {MOST_STATES} ways; use fewer patterns"
    )]
    TooManyStates(String),
}

/// A key that the plan works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    pub purpose: Purpose,
    pub id: KeyId,
    pub version: u32,
}

/// A policy ready to work. Immutable and shared by all lanes; a reload makes a new one.
pub struct Plan {
    pub policy: Arc<Policy>,
    /// The value of the `veilstream-policy` header.
    pub label: String,
    pub views: Vec<ViewPlan>,
    /// The bits of the views that hold rows.
    pub holding: u64,
    pub classes: Vec<String>,
    pub keys: Vec<KeyUse>,
    /// What seals under random nonces with keys of the deployment.
    pub sealing: Vec<Arc<SealKey>>,
    /// Where data subjects have keys, or a treatment depends on whose row it is.
    pub subject: Option<SubjectPlan>,
    /// Top-level fields that conditions read.
    pub captures: Vec<String>,
    /// Where a row begins.
    pub row: StateId,
    /// Where an envelope begins.
    pub envelope: StateId,
    /// `source` and `transaction` of the envelope.
    pub source: StateId,
    pub transaction: StateId,
    /// Digests of names that the policy does not know.
    pub digester: Digester,
    pub(crate) edges: Vec<Edge>,
    states: Vec<State>,
    leaves: Vec<Leaf>,
    /// How many operators have a memo.
    memos: usize,
}

impl Plan {
    pub fn compile(policy: Arc<Policy>, keys: &dyn KeySource) -> Result<Plan, PlanError> {
        let mut automaton = Automaton::build(&policy)?;
        let (envelope, source, transaction) = automaton.add_envelope();
        let of = |error| PlanError::Key { policy: policy.name.clone(), error };
        let digest_key = keys.primary(Purpose::Digest).map_err(of)?;
        let mut classes: Vec<String> = Vec::new();
        for field in &policy.fields {
            if !classes.contains(&field.class) {
                classes.push(field.class.clone());
            }
        }
        let mut plan = Plan {
            label: policy.label(),
            views: Vec::new(),
            holding: 0,
            classes,
            keys: Vec::new(),
            sealing: Vec::new(),
            subject: SubjectPlan::of(&policy, keys).map_err(of)?,
            captures: automaton.captures,
            row: automaton.row,
            envelope,
            source,
            transaction,
            digester: Digester::new(&digest_key, "name", ""),
            edges: automaton.edges,
            states: automaton.states,
            leaves: Vec::new(),
            memos: 0,
            policy: Arc::clone(&policy),
        };
        for view in &policy.views {
            let view = plan.view(view, keys).map_err(of)?;
            plan.holding |= u64::from(view.holds.is_some()) << plan.views.len();
            plan.views.push(view);
        }
        for field in 0..policy.fields.len() {
            let leaf = plan.compile_leaf(field, keys).map_err(of)?;
            plan.leaves.push(leaf);
        }
        if plan.subject.is_none() {
            plan.states.iter_mut().for_each(|state| state.subject = false);
        }
        plan.find_passes();
        plan.find_names(keys).map_err(of)?;
        Ok(plan)
    }

    #[inline]
    pub fn state(&self, id: StateId) -> &State {
        // States are only numbered by the construction, so the id is in range; DEAD is the fallback.
        self.states.get(id.0 as usize).unwrap_or(&DEAD_STATE)
    }

    /// Where the member called `name` leads from a state.
    pub fn step(&self, from: StateId, name: &str) -> StateId {
        let state = self.state(from);
        let edge = state.names.get(name).and_then(|edge| self.edges.get(*edge as usize));
        edge.map(|edge| edge.to).or(state.other).unwrap_or(DEAD)
    }

    /// The leaf of a state's `leaf`.
    #[inline]
    pub fn leaf(&self, id: LeafId) -> Option<&Leaf> {
        self.leaves.get(id.0 as usize)
    }

    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    pub fn states(&self) -> usize {
        self.states.len()
    }

    pub fn memos(&self) -> usize {
        self.memos
    }

    /// The bits of all views.
    pub fn all_views(&self) -> u64 {
        u64::MAX >> (64 - self.views.len().clamp(1, 64))
    }

    /// The path of a leaf as the policy writes it.
    pub fn path_of(&self, leaf: &Leaf) -> String {
        self.policy.fields.get(leaf.field).map(|field| field.path.to_string()).unwrap_or_default()
    }

    /// The name of what `view` does with the field of a leaf.
    pub fn operator_of(&self, leaf: &Leaf, view: usize) -> &'static str {
        let field = self.policy.fields.get(leaf.field);
        let chosen = field.zip(self.policy.views.get(view));
        let chosen = chosen.and_then(|(field, view)| chosen_for(&self.policy, view, &field.path));
        chosen.map_or("drop", |chosen| chosen.spec.name)
    }

    fn view(&self, view: &View, keys: &dyn KeySource) -> Result<ViewPlan, KeyError> {
        let keys = &view.keys(keys)?;
        let tokenizer = match view.key {
            KeyRule::Tokenize => {
                let subject = self.policy.subject.as_ref();
                let field = self.policy.fields.iter().find(|field| Some(&field.path) == subject);
                let class = field.map_or("key", |field| field.class.as_str());
                let named = subject
                    .and_then(|subject| chosen_for(&self.policy, view, subject))
                    .and_then(|chosen| chosen.domain.clone());
                let domain = named.unwrap_or_else(|| self.policy.domain(view, class));
                Some(Tokenizer::new(&keys.primary(Purpose::Token)?, &domain, "", 32))
            }
            _ => None,
        };
        let domain = format!("{}/{}", self.policy.name, view.name);
        let names = Tokenizer::for_names(&keys.primary(Purpose::Token)?, &domain);
        Ok(ViewPlan {
            names,
            name: view.name.clone(),
            topic: view.topic.clone(),
            key: view.key,
            tokenizer,
            condition: view.condition.clone(),
            headers: view.headers.clone(),
            holds: view
                .rule
                .as_ref()
                .map(|rule| {
                    let subject = self.subject.as_ref();
                    HoldPlan::new(&self.policy, view, rule, subject, keys).map(Arc::new)
                })
                .transpose()?,
        })
    }

    fn compile_leaf(&mut self, field: usize, keys: &dyn KeySource) -> Result<Leaf, KeyError> {
        let policy = Arc::clone(&self.policy);
        let mut leaf =
            Leaf { field, class: 0, values: Actions::default(), keys: Actions::default() };
        let Some(Field { path, class }) = policy.fields.get(field) else { return Ok(leaf) };
        leaf.class = self.classes.iter().position(|name| name == class).unwrap_or(0);
        let place = path.to_string();
        for (at, view) in policy.views.iter().enumerate() {
            let bit = 1_u64 << at;
            // The parser saw to a treatment for every class in every view; none is drop.
            let Some(chosen) = chosen_for(&policy, view, path) else {
                leaf.values.drop |= bit;
                leaf.keys.refuse |= bit;
                continue;
            };
            if !chosen.spec.distinct {
                leaf.keys.refuse |= bit;
            }
            // What is taken out of rows, nulls as well.
            if let Some(operator) = view.rule.as_ref().and_then(|rule| rule.tap(path, at)) {
                leaf.keys.refuse |= bit;
                let apply =
                    Apply { view: at, takes: Takes::Scalar, operator, key: None, memo: None };
                leaf.values.apply.push(apply);
                leaf.values.applied |= bit;
                leaf.values.nulls |= bit;
                leaf.values.taken |= bit;
                continue;
            }
            // What is looked at on its way.
            let looks = view.rule.as_ref().and_then(|rule| rule.looks(path));
            let tap = |treatment| -> Option<Arc<dyn Operator>> {
                let ((field, look), nulls) = (looks?, view.nulls == Nulls::Treat);
                Some(Arc::new(LookTap { view: at, field, look, treatment, nulls }))
            };
            match chosen.treatment {
                Treatment::Keep if let Some(operator) = tap(None) => {
                    let apply =
                        Apply { view: at, takes: Takes::Scalar, operator, key: None, memo: None };
                    leaf.values.apply.push(apply);
                    leaf.values.applied |= bit;
                    leaf.values.nulls |= bit;
                    leaf.values.taken |= bit;
                }
                Treatment::Keep => {
                    leaf.values.keep |= bit;
                    leaf.keys.keep |= bit;
                }
                Treatment::Drop => leaf.values.drop |= bit,
                Treatment::Null => leaf.values.null |= bit,
                Treatment::Plain(_) | Treatment::Keyed(_) => {
                    let domain =
                        chosen.domain.clone().unwrap_or_else(|| policy.domain(view, class));
                    let subject = policy.subject.is_some();
                    let group = chosen.domain.clone().unwrap_or_else(|| policy.group(view));
                    let site = Site { path: &place, domain: &domain, group: &group, subject };
                    let keys = view.keys(keys)?;
                    let Some(bound) = chosen.treatment.bind(site, &keys)? else { continue };
                    self.sealing.extend(bound.sealing);
                    let key = bound.key.map(|(purpose, key)| self.key_index(purpose, &key));
                    // A keyed digest costs more than to remember it.
                    let same = chosen.spec.deterministic && !chosen.spec.of_subject;
                    let memo = (key.is_some() && same).then_some(self.memos);
                    self.memos += usize::from(memo.is_some());
                    let takes = chosen.spec.takes;
                    let apply = || Apply {
                        view: at,
                        takes,
                        operator: Arc::clone(&bound.operator),
                        key,
                        memo,
                    };
                    let tapped = tap(Some((Arc::clone(&bound.operator), takes)));
                    let looks = tapped.is_some() || view.nulls == Nulls::Treat;
                    let nulls = if looks { bit } else { 0 };
                    leaf.values.taken |= if tapped.is_some() { bit } else { 0 };
                    leaf.values.apply.push(match tapped {
                        None => apply(),
                        Some(operator) => {
                            let takes = if takes == Takes::Any { takes } else { Takes::Scalar };
                            Apply { operator, takes, memo: None, ..apply() }
                        }
                    });
                    leaf.values.applied |= bit;
                    leaf.values.nulls |= nulls;
                    if chosen.spec.distinct {
                        leaf.keys.apply.push(apply());
                        leaf.keys.applied |= bit;
                        leaf.keys.nulls |= nulls;
                    }
                }
            }
        }
        Ok(leaf)
    }

    fn key_index(&mut self, purpose: Purpose, key: &DataKey) -> usize {
        let wanted = KeyUse { purpose, id: key.id, version: key.version };
        match self.keys.iter().position(|key| *key == wanted) {
            Some(at) => at,
            None => {
                self.keys.push(wanted);
                self.keys.len() - 1
            }
        }
    }

    /// Which names are as good as the values behind them.
    fn find_names(&mut self, keys: &dyn KeySource) -> Result<(), KeyError> {
        let all = self.all_views();
        let mut kept: Vec<u64> = self
            .states
            .iter()
            .map(|state| {
                state.leaf.and_then(|leaf| self.leaf(leaf)).map_or(all, |leaf| leaf.values.keep)
            })
            .collect();
        loop {
            let of = |id: StateId| kept.get(id.0 as usize).copied().unwrap_or(all);
            let next: Vec<u64> = self
                .states
                .iter()
                .zip(&kept)
                .map(|(state, kept)| {
                    if state.leaf.is_some() {
                        return *kept;
                    }
                    let named = state.names.values();
                    let named = named.filter_map(|edge| self.edges.get(*edge as usize));
                    let inside = named.map(|edge| edge.to).chain(state.other).chain(state.element);
                    inside.map(of).fold(*kept, |kept, inside| kept & inside)
                })
                .collect();
            if next == kept {
                break;
            }
            kept = next;
        }
        let tokens = self
            .states
            .iter()
            .filter_map(|state| state.other)
            .any(|to| kept.get(to.0 as usize).is_some_and(|kept| *kept != all));
        if tokens {
            for view in &Arc::clone(&self.policy).views {
                let key = view.keys(keys)?.primary(Purpose::Token)?;
                self.key_index(Purpose::Token, &key);
            }
        }
        for (state, kept) in self.states.iter_mut().zip(kept) {
            state.keeps_name = kept;
        }
        Ok(())
    }

    /// What passes without a look: scalars, and the greatest set of states that every view keeps and that never
    /// lead out of the set.
    fn find_passes(&mut self) {
        let all = self.all_views();
        let kept = |state: &State| match state.leaf.and_then(|id| self.leaves.get(id.0 as usize)) {
            Some(leaf) if state.capture.is_none() && !state.subject => leaf.values.keep,
            _ => 0,
        };
        let kept: Vec<u64> = self.states.iter().map(kept).collect();
        for (state, kept) in self.states.iter_mut().zip(kept) {
            state.passes = kept;
            state.keeps_all = kept == all;
        }
        loop {
            let closed = |id: Option<StateId>| id.is_some_and(|id| self.state(id).keeps_all);
            let leaking = self.states.iter().position(|state| {
                let inside = state
                    .names
                    .values()
                    .all(|edge| closed(self.edges.get(*edge as usize).map(|edge| edge.to)));
                state.keeps_all && !(inside && closed(state.other) && closed(state.element))
            });
            match leaking.and_then(|at| self.states.get_mut(at)) {
                Some(state) => state.keeps_all = false,
                None => break,
            }
        }
        // From here on the states keep what the edges know of them.
        for edge in &mut self.edges {
            if let Some(to) = self.states.get(edge.to.0 as usize) {
                let positional = to.role == Role::Positional;
                let looked_at = to.capture.is_some() || to.subject;
                edge.usual = positional || to.leaf.is_some() && !looked_at;
                edge.passes = if positional { all } else { to.passes };
                edge.leaf = to.leaf;
            }
        }
    }
}

static DEAD_STATE: std::sync::LazyLock<State> = std::sync::LazyLock::new(State::default);
