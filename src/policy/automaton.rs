//! From the paths of a policy to a deterministic automaton over the names and elements of a row.
//!
//! Subset construction (Rabin and Scott 1959) turns the paths with their wildcards into one state per situation,
//! so that finding a value's treatment costs one look-up, however many rules there are.
#![expect(
    clippy::indexing_slicing,
    reason = "numbers of nodes come from the tree, which only grows"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::model::Policy;
use super::path::Segment;
use super::plan::{Edge, LeafId, PlanError, Role, State, StateId};
use crate::event::debezium;
use crate::json::Probe;

/// Patterns whose combinations pass this number are a mistake, not a policy.
pub(super) const MOST_STATES: usize = 20_000;

/// A node of the tree of all paths.
#[derive(Default)]
struct Node {
    names: BTreeMap<String, usize>,
    element: Option<usize>,
    any_name: Option<usize>,
    any_depth: Option<usize>,
    /// It is a `**` itself.
    loops: bool,
    /// A path goes on from here.
    continues: bool,
    field: Option<usize>,
    capture: Option<usize>,
}

/// Sets of positions in the order they were met: a set's number is its state's.
#[derive(Default)]
struct Numbered {
    numbers: HashMap<BTreeSet<Position>, StateId>,
    order: Vec<(BTreeSet<Position>, String)>,
}

impl Numbered {
    fn number(&mut self, set: BTreeSet<Position>, path: String) -> StateId {
        if let Some(known) = self.numbers.get(&set) {
            return *known;
        }
        let id = StateId(self.order.len() as u32);
        self.numbers.insert(set.clone(), id);
        self.order.push((set, path));
        id
    }
}

/// A node, and for a `**` whether it has matched anything yet.
type Position = (usize, bool);

pub(super) struct Automaton {
    pub states: Vec<State>,
    pub edges: Vec<Edge>,
    /// Where a row begins.
    pub row: StateId,
    /// Top-level fields that conditions read.
    pub captures: Vec<String>,
}

impl Automaton {
    pub fn build(policy: &Policy) -> Result<Automaton, PlanError> {
        let conditions = policy.views.iter().filter_map(|view| view.condition.as_ref());
        let captures: BTreeSet<&String> =
            conditions.flat_map(|condition| condition.reads()).collect();
        let captures: Vec<String> = captures.into_iter().cloned().collect();
        let tree = tree(policy, &captures);
        let mut sets = Numbered::default();
        // The first number is DEAD.
        sets.number(BTreeSet::new(), String::new());
        let row = sets.number(closure(&tree, [(0, false)]), String::new());
        let subject =
            policy.fields.iter().position(|field| Some(&field.path) == policy.subject.as_ref());
        let mut built = Automaton { states: Vec::new(), edges: Vec::new(), row, captures };
        while let Some((set, path)) = sets.order.get(built.states.len()).cloned() {
            if sets.order.len() > MOST_STATES {
                return Err(PlanError::TooManyStates(policy.name.clone()));
            }
            let nodes = || set.iter().filter_map(|(at, _)| tree.get(*at));
            let known: BTreeSet<&String> = nodes().flat_map(|node| node.names.keys()).collect();
            let below = |name: &str| match path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let leaf = leaf_of(policy, &tree, &set);
            let mut state = State {
                other: Some(sets.number(step(&tree, &set, Step::Name(None)), below("*"))),
                element: Some(sets.number(step(&tree, &set, Step::Element), format!("{path}[]"))),
                leaf,
                inner: nodes().any(|node| !node.loops && node.continues),
                loops: leaf.is_some_and(|leaf| ends_in_any_depth(policy, leaf)),
                named: nodes().any(|node| !node.loops),
                capture: nodes().find_map(|node| node.capture),
                subject: nodes().any(|node| node.field.is_some() && node.field == subject),
                path: path.clone(),
                ..State::default()
            };
            for name in known {
                let to = sets.number(step(&tree, &set, Step::Name(Some(name))), below(name));
                built.add_edge(&mut state, name, to);
            }
            built.states.push(state);
        }
        built.find_insides();
        Ok(built)
    }

    fn add_edge(&mut self, state: &mut State, name: &str, to: StateId) {
        state.names.insert(name.into(), self.edges.len() as u32);
        self.edges.push(Edge { probe: Probe::new(name), to, usual: false, passes: 0, leaf: None });
    }

    fn add_state(&mut self, state: State) -> StateId {
        self.states.push(state);
        StateId(self.states.len() as u32 - 1)
    }

    /// Adds the states of Debezium's envelope, and gives where it, `source` and `transaction` begin.
    pub fn add_envelope(&mut self) -> (StateId, StateId, StateId) {
        let role = |role| State { role, ..State::default() };
        let discard = self.add_state(role(Role::Discard));
        let positional = self.add_state(role(Role::Positional));
        let mut object = |edges: &mut dyn Iterator<Item = (&str, Role)>| {
            let mut state = State { other: Some(discard), ..role(Role::Discard) };
            for (name, role) in edges {
                let to = match role {
                    Role::Positional => positional,
                    role => self.add_state(State { role, ..State::default() }),
                };
                self.add_edge(&mut state, name, to);
            }
            self.add_state(state)
        };
        let listed =
            |names: &'static [&'static str]| names.iter().map(|name| (*name, Role::Positional));
        let source = object(&mut listed(debezium::SOURCE));
        let transaction = object(&mut listed(debezium::TRANSACTION));
        let parts = debezium::ENVELOPE.iter().map(|(name, part)| (*name, Role::Part(*part)));
        let envelope = object(&mut { parts });
        (envelope, source, transaction)
    }

    /// Finds the states from which a leaf can be reached.
    fn find_insides(&mut self) {
        loop {
            let leads = |to: StateId| {
                let to = self.states.get(to.0 as usize);
                to.is_some_and(|state| state.leaf.is_some() || state.descends)
            };
            let found: Vec<bool> = self
                .states
                .iter()
                .map(|state| {
                    let named = state.names.values();
                    let named = named.filter_map(|edge| self.edges.get(*edge as usize));
                    named.map(|edge| edge.to).chain(state.other).chain(state.element).any(leads)
                })
                .collect();
            let mut changed = false;
            for (state, found) in self.states.iter_mut().zip(found) {
                changed |= found && !state.descends;
                state.descends |= found;
            }
            if !changed {
                return;
            }
        }
    }
}

enum Step<'n> {
    /// `None`: a name that no path knows here.
    Name(Option<&'n str>),
    Element,
}

fn tree(policy: &Policy, captures: &[String]) -> Vec<Node> {
    let mut tree = vec![Node::default()];
    for (number, field) in policy.fields.iter().enumerate() {
        let at = descend(&mut tree, &field.path.0);
        tree[at].field = Some(number);
    }
    for (number, name) in captures.iter().enumerate() {
        let at = descend(&mut tree, &[Segment::Name(name.clone())]);
        tree[at].capture = Some(number);
    }
    tree
}

/// The node of a path, made where it is not there.
fn descend(tree: &mut Vec<Node>, path: &[Segment]) -> usize {
    let mut at = 0;
    for segment in path {
        let new = tree.len();
        let node = &mut tree[at];
        node.continues = true;
        let next = match segment {
            Segment::Name(name) => *node.names.entry(name.clone()).or_insert(new),
            Segment::Element => *node.element.get_or_insert(new),
            Segment::AnyName => *node.any_name.get_or_insert(new),
            Segment::AnyDepth => *node.any_depth.get_or_insert(new),
        };
        if next == new {
            tree.push(Node { loops: *segment == Segment::AnyDepth, ..Node::default() });
        }
        at = next;
    }
    at
}

/// Adds the `**` that may match nothing.
fn closure(tree: &[Node], from: impl IntoIterator<Item = Position>) -> BTreeSet<Position> {
    let mut set = BTreeSet::new();
    let mut open: Vec<Position> = from.into_iter().collect();
    while let Some((at, matched)) = open.pop() {
        if set.insert((at, matched)) {
            open.extend(tree[at].any_depth.map(|depth| (depth, false)));
        }
    }
    set
}

fn step(tree: &[Node], set: &BTreeSet<Position>, step: Step<'_>) -> BTreeSet<Position> {
    let mut next = Vec::new();
    for (at, _) in set {
        let node = &tree[*at];
        match step {
            Step::Name(name) => {
                next.extend(name.and_then(|name| node.names.get(name)).map(|to| (*to, false)));
                next.extend(node.any_name.map(|to| (to, false)));
            }
            Step::Element => next.extend(node.element.map(|to| (to, false))),
        }
        if node.loops {
            next.push((*at, true));
        }
    }
    closure(tree, next)
}

fn ends_in_any_depth(policy: &Policy, leaf: LeafId) -> bool {
    let field = policy.fields.get(leaf.0 as usize);
    field.is_some_and(|field| field.path.0.last() == Some(&Segment::AnyDepth))
}

/// The most specific of the rules that match: at the first difference a name before `*` before `**`; then the
/// longer path; then the earlier line.
fn leaf_of(policy: &Policy, tree: &[Node], set: &BTreeSet<Position>) -> Option<LeafId> {
    set.iter()
        .filter(|(at, matched)| *matched || !tree[*at].loops)
        .filter_map(|(at, _)| tree[*at].field)
        .min_by_key(|number| {
            let path = &policy.fields[*number].path.0;
            let ranks: Vec<u8> = path.iter().map(Segment::rank).chain([3]).collect();
            (ranks, *number)
        })
        .map(|number| LeafId(number as u32))
}
