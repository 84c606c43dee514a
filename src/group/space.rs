//! The space that quasi-identifiers span: what an area of it covers, what its loss is, how it is shown.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::hierarchy::{Hierarchy, Node};

/// A field that may tell who somebody is when it is joined with others.
#[derive(Debug, Clone)]
pub enum QuasiIdentifier {
    Categorical(Arc<Hierarchy>),
    Numeric(Domain),
}

/// From where to where the numbers of a field go: a loss is a share of this width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Domain {
    Declared {
        least: f64,
        most: f64,
    },
    /// Learnt from the stream, and widened by a quarter more than needed, so that this happens seldom. Until the
    /// widest values came, losses are overstated, beside those of other fields as well: groups are then kept
    /// narrower in this field than its declared domain would have them. Areas always cover what they should.
    Learnt,
}

/// A value as it comes: a node of the field's hierarchy (a group, or the root, where no more is known), or a number
/// of the field's domain, at most 1e300 from zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Node(Node),
    Number(f64),
}

/// One side of an area: a closed range of numbers. A category is the range of the nodes under it, with its own first.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Span {
    pub low: f64,
    pub high: f64,
}

/// What a record, or a group of them, covers: one span for each quasi-identifier.
pub type Area = Arc<[Span]>;

impl PartialEq for Span {
    fn eq(&self, other: &Span) -> bool {
        self.low.to_bits() == other.low.to_bits() && self.high.to_bits() == other.high.to_bits()
    }
}

impl Eq for Span {}

impl Hash for Span {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Of small integers only the upper bytes differ, which a multiplying hasher would push out.
        self.low.to_bits().swap_bytes().hash(state);
        self.high.to_bits().swap_bytes().hash(state);
    }
}

impl Span {
    pub(super) fn covers(&self, inner: &Span) -> bool {
        self.low <= inner.low && inner.high <= self.high
    }
}

/// Whether `outer` covers `inner` in every field.
pub fn covers(outer: &[Span], inner: &[Span]) -> bool {
    outer.iter().zip(inner).all(|(outer, inner)| outer.covers(inner))
}

/// The quasi-identifiers of a stream, with what their domains are by now.
#[derive(Debug, Clone)]
pub struct Space {
    axes: Vec<Axis>,
    share: f64,
}

#[derive(Debug, Clone)]
enum Axis {
    Categorical { hierarchy: Arc<Hierarchy>, nodes: Vec<Category>, merged: Vec<f64> },
    Numeric { domain: Domain, span: Span, scale: f64 },
}

#[derive(Debug, Clone, Copy)]
struct Category {
    parent: u32,
    span: Span,
    loss: f64,
}

impl Space {
    pub fn new(fields: &[QuasiIdentifier]) -> Space {
        let axes: Vec<_> = fields.iter().map(Axis::new).collect();
        let share = 1.0 / axes.len().max(1) as f64;
        Space { axes, share }
    }

    pub fn fields(&self) -> usize {
        self.axes.len()
    }

    /// The area of one record.
    pub fn area(&self, values: &[Value]) -> Result<Area, Refusal> {
        if values.len() != self.axes.len() {
            return Err(Refusal::Count);
        }
        let span = |(field, (axis, value)): (usize, (&Axis, &Value))| {
            axis.span(*value).ok_or(Refusal::QuasiIdentifier(field))
        };
        self.axes.iter().zip(values).enumerate().map(span).collect()
    }

    /// Whether differences of such numbers are numbers as well.
    pub(super) fn is_measurable(number: f64) -> bool {
        number.abs() <= 1e300
    }

    /// Normalized certainty penalty (Xu et al., KDD 2006): the mean over the fields of the share of the domain that
    /// an area leaves open, from 0 (the values themselves) to 1 (nothing is said). Of a category it is the share of
    /// values under it, and 0 for a single value.
    pub fn loss(&self, area: &[Span]) -> f64 {
        self.share * self.axes.iter().zip(area).map(|(axis, span)| axis.loss(span)).sum::<f64>()
    }

    /// The values as they are published: a category's text; `[lo,hi]`, or the number where both are one.
    pub fn shown(&self, area: &[Span]) -> Vec<String> {
        self.axes.iter().zip(area).map(|(axis, span)| axis.shown(span)).collect()
    }

    /// The loss of the narrowest area over both.
    pub(super) fn merged_loss(&self, one: &[Span], other: &[Span]) -> f64 {
        self.merged_loss_within(one, other, f64::INFINITY).unwrap_or(f64::INFINITY)
    }

    /// The same, unless it is more than `most`.
    #[inline]
    pub(super) fn merged_loss_within(
        &self,
        one: &[Span],
        other: &[Span],
        most: f64,
    ) -> Option<f64> {
        let mut sum = 0.0;
        for ((axis, one), other) in self.axes.iter().zip(one).zip(other) {
            sum += axis.merged_loss(one, other);
            if sum * self.share > most {
                return None;
            }
        }
        Some(sum * self.share)
    }

    /// The least that [`Space::merged_loss`] can be for what stands anywhere in `bounds`.
    pub(super) fn least_merged_loss(&self, area: &[Span], bounds: &[Span]) -> f64 {
        let mut sum = 0.0;
        for ((axis, span), bounds) in self.axes.iter().zip(area).zip(bounds) {
            sum += axis.least_merged_loss(span, bounds);
        }
        sum * self.share
    }

    /// Widens an area until it covers another.
    pub(super) fn merge(&self, area: &mut [Span], other: &[Span]) {
        for ((axis, span), other) in self.axes.iter().zip(area).zip(other) {
            *span = axis.merge(span, other);
        }
    }

    /// Learns from an area. Says whether losses are others than before.
    pub(super) fn learn(&mut self, area: &[Span]) -> bool {
        let mut widened = false;
        for (axis, span) in self.axes.iter_mut().zip(area) {
            widened |= axis.learn(span);
        }
        widened
    }

    /// Of each field: the domain that is learnt by now.
    pub(super) fn learnt(&self) -> Vec<Option<Span>> {
        let learnt = |axis: &Axis| match axis {
            Axis::Numeric { domain: Domain::Learnt, span, .. } => Some(*span),
            _ => None,
        };
        self.axes.iter().map(learnt).collect()
    }

    pub(super) fn restore(&mut self, learnt: &[Option<Span>]) {
        for (axis, learnt) in self.axes.iter_mut().zip(learnt) {
            if let (Axis::Numeric { domain: Domain::Learnt, span, scale }, Some(learnt)) =
                (axis, learnt)
            {
                *span = *learnt;
                *scale = inverse(span.high - span.low);
            }
        }
    }
}

impl Axis {
    fn new(field: &QuasiIdentifier) -> Axis {
        match field {
            QuasiIdentifier::Categorical(hierarchy) => {
                let all = (0..hierarchy.nodes()).filter_map(|node| hierarchy.node(node as u32));
                let nodes: Vec<_> = all.map(|node| Category::new(hierarchy, node)).collect();
                let merged = merged_losses(&nodes);
                Axis::Categorical { hierarchy: hierarchy.clone(), nodes, merged }
            }
            QuasiIdentifier::Numeric(domain) => {
                let span = match *domain {
                    Domain::Declared { least, most } => Span { low: least, high: most },
                    Domain::Learnt => Span { low: f64::INFINITY, high: f64::NEG_INFINITY },
                };
                Axis::Numeric { domain: *domain, span, scale: inverse(span.high - span.low) }
            }
        }
    }

    fn span(&self, value: Value) -> Option<Span> {
        match (self, value) {
            (Axis::Categorical { nodes, .. }, Value::Node(node)) => {
                nodes.get(node.0 as usize).map(|category| category.span)
            }
            (Axis::Numeric { domain, span, .. }, Value::Number(number)) => {
                // Negative zero is zero.
                let number = number + 0.0;
                let number = Span { low: number, high: number };
                let known = *domain == Domain::Learnt || span.covers(&number);
                (Space::is_measurable(number.low) && known).then_some(number)
            }
            _ => None,
        }
    }

    fn loss(&self, span: &Span) -> f64 {
        match self {
            Axis::Categorical { nodes, .. } => category(nodes, span).loss,
            Axis::Numeric { scale, .. } => (span.high - span.low) * scale,
        }
    }

    fn merge(&self, one: &Span, other: &Span) -> Span {
        match self {
            Axis::Categorical { nodes, .. } => common(nodes, one, other).span,
            Axis::Numeric { .. } => {
                Span { low: one.low.min(other.low), high: one.high.max(other.high) }
            }
        }
    }

    fn merged_loss(&self, one: &Span, other: &Span) -> f64 {
        match self {
            Axis::Categorical { nodes, merged, .. } => merged_category(nodes, merged, one, other),
            Axis::Numeric { scale, .. } => {
                (one.high.max(other.high) - one.low.min(other.low)) * scale
            }
        }
    }

    fn least_merged_loss(&self, span: &Span, bounds: &Span) -> f64 {
        match self {
            Axis::Categorical { nodes, .. } if bounds.covers(span) => category(nodes, span).loss,
            Axis::Categorical { nodes, merged, .. } => merged_category(nodes, merged, span, bounds),
            Axis::Numeric { scale, .. } => {
                (span.high.max(bounds.low) - span.low.min(bounds.high)) * scale
            }
        }
    }

    fn learn(&mut self, value: &Span) -> bool {
        let Axis::Numeric { domain: Domain::Learnt, span, scale } = self else { return false };
        if span.covers(value) {
            return false;
        }
        let (low, high) = (span.low.min(value.low), span.high.max(value.high));
        let margin = (high - low) / 4.0;
        // The first value says nothing of the width.
        let (below, above) = (value.low < span.low, value.high > span.high);
        let margin = if below && above { 0.0 } else { margin };
        span.low = if below { low - margin } else { low };
        span.high = if above { high + margin } else { high };
        *scale = inverse(span.high - span.low);
        true
    }

    fn shown(&self, span: &Span) -> String {
        match self {
            Axis::Categorical { hierarchy, .. } => hierarchy.text(Node(span.low as u32)).to_owned(),
            Axis::Numeric { .. } if span.low == span.high => span.low.to_string(),
            Axis::Numeric { .. } => format!("[{},{}]", span.low, span.high),
        }
    }
}

impl Category {
    fn new(hierarchy: &Hierarchy, node: Node) -> Category {
        let leaves = hierarchy.leaves(node);
        let all = f64::from(hierarchy.leaves(hierarchy.root()));
        Category {
            parent: hierarchy.parent(node).unwrap_or(node).0,
            span: Span { low: f64::from(node.0), high: f64::from(hierarchy.last(node).0) },
            loss: if leaves == 1 { 0.0 } else { f64::from(leaves) / all },
        }
    }
}

fn category(nodes: &[Category], span: &Span) -> Category {
    /// No span has another start than a node's.
    const NONE: Category = Category { parent: 0, span: Span { low: 0.0, high: 0.0 }, loss: 1.0 };
    nodes.get(span.low as usize).copied().unwrap_or(NONE)
}

/// Hierarchies up to this size get a table of the losses of all pairs.
const MOST_IN_TABLE: usize = 128;

fn merged_losses(nodes: &[Category]) -> Vec<f64> {
    if nodes.len() > MOST_IN_TABLE {
        return Vec::new();
    }
    let row = |one: &Category| {
        let one = one.span;
        nodes.iter().map(move |other| common(nodes, &one, &other.span).loss)
    };
    nodes.iter().flat_map(row).collect()
}

fn merged_category(nodes: &[Category], merged: &[f64], one: &Span, other: &Span) -> f64 {
    let pair = one.low as usize * nodes.len() + other.low as usize;
    merged.get(pair).copied().unwrap_or_else(|| common(nodes, one, other).loss)
}

/// The lowest common ancestor.
fn common(nodes: &[Category], one: &Span, other: &Span) -> Category {
    let mut node = category(nodes, one);
    while !node.span.covers(other) && node.span.low > 0.0 {
        match nodes.get(node.parent as usize) {
            Some(parent) => node = *parent,
            None => break,
        }
    }
    node
}

fn inverse(width: f64) -> f64 {
    if width > 0.0 { 1.0 / width } else { 0.0 }
}
