//! The single pass over a row: each value meets its state once, for all views.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::RawRecord;
use super::failure::{Failure, Reason, Stage};
use super::subject::Images;
use super::track::{Frame, Place};
use crate::crypto::SubjectId;
use crate::crypto::ciphertext::SealKey;
use crate::event::debezium::UNAVAILABLE;
use crate::json::{Kind, Scanner, Value};
use crate::operator::{Refusal, Scratch};
use crate::policy::{Actions, DEAD, Format, LeafId, Plan, State, StateId, Unclassified};

/// A value whose text is longer is not worth remembering.
const MEMORABLE: usize = 256;
/// How many different unclassified names a rewriter remembers, so that each is told once.
const REMEMBERED: usize = 4096;
const NO_EDGE: u32 = u32::MAX;
/// In place of a name's length.
const ELEMENT: usize = usize::MAX;

/// Which of a leaf's actions count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Value,
    /// The record key: only treatments that keep two keys apart.
    Key,
}

/// Which row image is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Before,
    After,
}

/// A field that `where` reads, as it was met.
pub struct Captured {
    pub image: Image,
    pub capture: usize,
    pub text: String,
}

/// What the walk remembers: across events its predictions and buffers, within one what it met.
pub struct Walk<'p> {
    pub plan: &'p Plan,
    pub memory: &'p mut Memory,
    pub side: Side,
    pub image: Image,
}

#[derive(Default)]
pub struct Memory {
    pub scratch: Scratch,
    /// The leaves met in this event.
    pub journal: Vec<LeafId>,
    /// Those of the row that is held.
    pub held: Vec<LeafId>,
    /// The views that take something from the row that Debezium left out.
    pub left_out: u64,
    pub captured: Vec<Captured>,
    /// Whose rows this event's images are, with their keys.
    subjects: Images<(SubjectId, Option<Arc<SealKey>>)>,
    /// How often the image in work has said whose it is.
    told: u32,
    /// Unclassified values met in this event.
    pub unclassified: u64,
    /// Paths of unclassified fields that were never met before.
    pub discovered: Vec<String>,
    /// Hashes of the names in `discovered`, over the life of the rewriter.
    remembered: FxHashSet<u64>,
    /// The last value and result of operators that have a memo.
    memos: Vec<Memo>,
    /// The edge that followed an edge last time, and the first of each state: events of one table have
    /// their columns in one order, so the guess is nearly always right.
    follows: Vec<u32>,
    firsts: Vec<u32>,
}

/// What an operator made of a value.
#[derive(Clone, Default)]
struct Memo {
    value: Vec<u8>,
    result: Vec<u8>,
}

impl Memo {
    /// Remembers what `apply` appends to `out` for a value whose text is `text`, or appends what it remembers.
    fn recall(
        &mut self,
        text: &str,
        out: &mut Vec<u8>,
        apply: impl FnOnce(&mut Vec<u8>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if self.value == text.as_bytes() {
            out.extend_from_slice(&self.result);
            return Ok(());
        }
        let from = out.len();
        apply(out)?;
        if text.len() > MEMORABLE {
            return Ok(());
        }
        self.value.clear();
        self.value.extend_from_slice(text.as_bytes());
        self.result.clear();
        self.result.extend_from_slice(out.get(from..).unwrap_or_default());
        Ok(())
    }
}

impl Memory {
    pub fn new(plan: &Plan) -> Self {
        Memory {
            follows: vec![NO_EDGE; plan.edges.len()],
            firsts: vec![NO_EDGE; plan.states()],
            memos: vec![Memo::default(); plan.memos()],
            ..Memory::default()
        }
    }
}

impl Memory {
    /// An event begins: no key of the last one is left.
    pub fn begin(&mut self, record: &RawRecord<'_>) {
        self.of(None);
        self.scratch.taps.clear();
        self.left_out = 0;
        self.scratch.at_ms = record.timestamp_ms;
        self.subjects = record.subjects.map(|whose| (whose.id, whose.key.cloned()));
    }

    /// Whose row it is after the change.
    pub fn after(&self) -> Option<SubjectId> {
        self.subjects.of(Image::After).map(|(id, _)| *id)
    }

    /// The row of a data subject begins.
    fn of(&mut self, whose: Option<(SubjectId, Option<Arc<SealKey>>)>) {
        let (subject, key) = whose.unzip();
        self.scratch.subject = subject;
        self.scratch.subject_key = key.flatten();
    }
}

impl<'p> Walk<'p> {
    /// An image of the row begins.
    pub fn enter(&mut self, image: Image) {
        self.image = image;
        self.memory.told = 0;
        let whose = self.memory.subjects.of(image).cloned();
        self.memory.of(whose);
    }

    fn actions(&self, leaf: LeafId) -> &'p Actions {
        static NONE: std::sync::LazyLock<Actions> = std::sync::LazyLock::new(Actions::default);
        match (self.plan.leaf(leaf), self.side) {
            (Some(leaf), Side::Value) => &leaf.values,
            (Some(leaf), Side::Key) => &leaf.keys,
            (None, _) => &NONE,
        }
    }

    fn stage(&self) -> Stage {
        match self.side {
            Side::Value => Stage::Transform,
            Side::Key => Stage::Key,
        }
    }

    /// The edge that followed `edge` last time, or began the objects of `at`.
    #[inline(always)]
    fn expected(&self, at: StateId, edge: u32) -> u32 {
        let guess = match edge {
            NO_EDGE => self.memory.firsts.get(at.0 as usize),
            edge => self.memory.follows.get(edge as usize),
        };
        guess.copied().unwrap_or(NO_EDGE)
    }

    /// The name of the member that comes next: where it leads from `state`, its length as it is written, and whether
    /// no rule says it.
    /// `edge` is the last known name of this object.
    #[inline(always)]
    fn step(
        &mut self,
        frame: &mut Frame<'_, '_>,
        at: StateId,
        state: &State,
        edge: &mut u32,
    ) -> Result<(StateId, usize, bool), Failure> {
        let guess = self.expected(at, *edge);
        if let Some(found) = self.plan.edges.get(guess as usize)
            && let Some(probe) = &found.probe
            && frame.scan.accept_probe(probe)
        {
            *edge = guess;
            return Ok((found.to, probe.length() - 3, false));
        }
        let (name, escaped) = frame.scan.name()?;
        frame.scan.expect(b':')?;
        Ok(match self.look_up(at, state, name, escaped, edge) {
            Some(to) => (to, name.len(), false),
            None => (state.other.unwrap_or(DEAD), name.len(), true),
        })
    }

    fn look_up(
        &mut self,
        at: StateId,
        state: &State,
        name: &str,
        escaped: bool,
        edge: &mut u32,
    ) -> Option<StateId> {
        let text = if escaped {
            Scanner::unescape(name, &mut self.memory.scratch.other);
            self.memory.scratch.other.as_str()
        } else {
            name
        };
        let found = state.names.get(text).copied()?;
        let slot = match *edge {
            NO_EDGE => self.memory.firsts.get_mut(at.0 as usize),
            edge => self.memory.follows.get_mut(edge as usize),
        };
        if let Some(slot) = slot {
            *slot = found;
        }
        *edge = found;
        self.plan.edges.get(found as usize).map(|edge| edge.to)
    }

    /// The object that comes next, for the views of `mask`; `each` passes the value of every member that
    /// [`Walk::usual`] does not.
    /// Gives the views that got a member.
    #[inline]
    pub fn members(
        &mut self,
        frame: &mut Frame<'_, '_>,
        at: StateId,
        mask: u64,
        depth: u32,
        mut each: impl FnMut(&mut Self, &mut Frame<'_, '_>, &Spot, &mut u64) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        if depth >= frame.scan.bounds().depth {
            return Err(Failure::new(Stage::Decode, Reason::TooDeep));
        }
        let state = self.plan.state(at);
        frame.scan.expect(b'{')?;
        let mut before = frame.scan.at();
        let mut written = 0;
        let mut edge = NO_EDGE;
        if !frame.scan.accept(b'}') {
            let object = Object { at, mask, depth };
            loop {
                if self.usual(frame, &object, &mut edge, &mut before, &mut written)? {
                    break;
                }
                frame.scan.peek();
                let place = Place { before, start: frame.scan.at() };
                let (to, name, wild) = self.step(frame, at, state, &mut edge)?;
                let spot = Spot { at: to, parent: at, name, wild, mask, place, depth: depth + 1 };
                each(self, frame, &spot, &mut written)?;
                before = frame.scan.at();
                if frame.scan.accept(b'}') {
                    break;
                }
                frame.scan.expect(b',')?;
            }
        }
        let bracket = frame.scan.at() - 1;
        frame.close(mask, bracket);
        Ok(written)
    }

    /// The object that comes next, as (part of) a row.
    pub fn object(
        &mut self,
        frame: &mut Frame<'_, '_>,
        at: StateId,
        mask: u64,
        depth: u32,
    ) -> Result<u64, Failure> {
        self.members(frame, at, mask, depth, |walk, frame, spot, written| {
            walk.value(frame, spot, written)
        })
    }

    /// Passes the members that come next as expected and that are scalars with a leaf: what most are. They are read
    /// without white space around them; whatever else there is, is left to the steps that know all of it.
    /// True where the object ended with them; its bracket is passed then.
    ///
    /// The position stays in a register here: kept in memory it would be waited for at each step.
    #[inline(always)]
    fn usual(
        &mut self,
        frame: &mut Frame<'_, '_>,
        object: &Object,
        edge: &mut u32,
        before: &mut usize,
        written: &mut u64,
    ) -> Result<bool, Failure> {
        if self.side != Side::Value {
            return Ok(false);
        }
        let Object { at, mask, depth } = *object;
        let edges = self.plan.edges.as_slice();
        let mut start = frame.scan.at();
        let closed = loop {
            let guess = self.expected(at, *edge);
            let Some(found) = edges.get(guess as usize) else { break false };
            let Some(probe) = found.probe.as_ref().filter(|_| found.usual) else { break false };
            let Some(end) = frame.scan.usual_end(start, probe) else { break false };
            let closed = match frame.scan.byte(end) {
                b',' => false,
                b'}' => true,
                _ => break false,
            };
            let place = Place { before: *before, start };
            if let Some(leaf) = found.leaf {
                self.memory.journal.push(leaf);
            }
            if found.passes & mask == mask {
                frame.want(mask, place, written);
            } else {
                let value = (start + probe.length(), end);
                let name = probe.length() - 3;
                let depth = depth + 1;
                let spot = Spot { at: found.to, parent: at, name, wild: false, mask, place, depth };
                *written = self.scalar(frame, &spot, value, *written)?;
            }
            *edge = guess;
            *before = end;
            start = end + 1;
            if closed {
                break true;
            }
        };
        frame.scan.jump(start);
        Ok(closed)
    }

    /// A classified scalar that has been found between two offsets.
    #[inline(never)]
    fn scalar(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        (start, end): (usize, usize),
        mut written: u64,
    ) -> Result<u64, Failure> {
        let state = self.plan.state(spot.at);
        // The plan takes only what is classified for usual, or what all views keep.
        let Some(leaf) = state.leaf else { return Err(self.fail(Reason::Internal, state)) };
        let span = Span { kind: frame.scan.kind_at(start)?, start, end };
        self.treat(frame, spot, state, self.actions(leaf), span, &mut written)?;
        Ok(written)
    }

    fn array(
        &mut self,
        frame: &mut Frame<'_, '_>,
        at: StateId,
        mask: u64,
        depth: u32,
    ) -> Result<u64, Failure> {
        if depth >= frame.scan.bounds().depth {
            return Err(Failure::new(Stage::Decode, Reason::TooDeep));
        }
        let to = self.plan.state(at).element.unwrap_or(DEAD);
        frame.scan.expect(b'[')?;
        let mut before = frame.scan.at();
        let mut written = 0;
        if !frame.scan.accept(b']') {
            loop {
                frame.scan.peek();
                let place = Place { before, start: frame.scan.at() };
                let spot = Spot {
                    at: to,
                    parent: at,
                    name: ELEMENT,
                    wild: false,
                    mask,
                    place,
                    depth: depth + 1,
                };
                self.value(frame, &spot, &mut written)?;
                before = frame.scan.at();
                if frame.scan.accept(b']') {
                    break;
                }
                frame.scan.expect(b',')?;
            }
        }
        let bracket = frame.scan.at() - 1;
        frame.close(mask, bracket);
        Ok(written)
    }

    /// The value that comes next: of a member whose name has been passed, or an element.
    #[inline]
    fn value(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        written: &mut u64,
    ) -> Result<(), Failure> {
        let state = self.plan.state(spot.at);
        let kind = frame.scan.kind()?;
        let start = frame.scan.at();
        match state.leaf {
            // What most values are: scalars that all views keep.
            Some(leaf)
                if state.passes & spot.mask == spot.mask
                    && self.passes(kind)
                    && state.capture.is_none()
                    && !state.subject =>
            {
                self.memory.journal.push(leaf);
                self.want(frame, spot, spot.mask, written);
                return Ok(frame.scan.pass(kind, spot.depth)?);
            }
            Some(leaf) => {
                self.memory.journal.push(leaf);
                self.classified(frame, spot, state, leaf, kind, written)?;
            }
            None if state.descends && matches!(kind, Kind::Object | Kind::Array) => {
                if state.named {
                    self.want(frame, spot, spot.mask, written);
                    self.inside(frame, spot, kind, spot.mask)?;
                } else {
                    self.passed_by(frame, spot, kind, written)?;
                }
            }
            // The absence of an object is no secret.
            None if state.descends && state.named && kind == Kind::Null => {
                self.want(frame, spot, spot.mask, written);
                frame.scan.pass(kind, spot.depth)?;
            }
            None => {
                self.unclassified(frame, spot)?;
                frame.skip(spot.mask, spot.place);
                frame.scan.pass(kind, spot.depth)?;
            }
        }
        if state.subject && self.side == Side::Value {
            self.memory.told += 1;
            // Its key is that of the first: the second may be another person.
            if self.memory.told > 1 {
                return Err(self.fail(Reason::Subject, state));
            }
        }
        if let Some(capture) = state.capture {
            let text = frame.scan.slice(start, frame.scan.at()).to_owned();
            self.memory.captured.push(Captured { image: self.image, capture, text });
        }
        Ok(())
    }

    /// The member or element at `spot` goes to the views of `mask`.
    #[inline]
    fn want(&mut self, frame: &mut Frame<'_, '_>, spot: &Spot, mask: u64, written: &mut u64) {
        frame.want(mask, spot.place, written);
        if spot.wild {
            self.rename(frame, spot, mask);
        }
    }

    /// A name that no rule says is data like the value behind it: it goes on where all of that is kept, else its
    /// token does.
    #[cold]
    fn rename(&mut self, frame: &mut Frame<'_, '_>, spot: &Spot, mask: u64) {
        let hidden = mask & !self.plan.state(spot.at).keeps_name;
        let Some(raw) = spot.name(frame).filter(|_| hidden != 0) else { return };
        let end = spot.place.start + raw.len() + 2;
        let name = &mut self.memory.scratch.other;
        Scanner::unescape(raw, name);
        for (at, view) in self.plan.views.iter().enumerate() {
            if hidden & (1 << at) != 0 {
                let Ok(()) = frame.replace(at, spot.place.start, end, |out| {
                    view.names.quoted(name.as_bytes(), out);
                    Ok::<(), std::convert::Infallible>(())
                });
            }
        }
    }

    #[inline]
    fn passes(&self, kind: Kind) -> bool {
        self.side == Side::Value && !matches!(kind, Kind::Object | Kind::Array)
    }

    fn inside(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        kind: Kind,
        mask: u64,
    ) -> Result<u64, Failure> {
        match kind {
            Kind::Object => self.object(frame, spot.at, mask, spot.depth),
            _ => self.array(frame, spot.at, mask, spot.depth),
        }
    }

    /// An object or array that no path names, though a `**` may find something in it: where nothing goes on
    /// from inside, the name does not either.
    fn passed_by(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        kind: Kind,
        written: &mut u64,
    ) -> Result<(), Failure> {
        let mark = frame.mark();
        let (had, met) = (*written, self.memory.journal.len());
        self.want(frame, spot, spot.mask, written);
        let inside = self.inside(frame, spot, kind, spot.mask)?;
        let empty = spot.mask & !inside;
        if empty != 0 {
            // Where a rule found something and the view drops it, it is not unclassified.
            if self.memory.journal.len() == met {
                self.unclassified(frame, spot)?;
            }
            frame.rewind(&mark, empty);
            frame.skip(empty, spot.place);
            *written = *written & !empty | had & empty;
        }
        Ok(())
    }

    #[inline]
    fn classified(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        state: &'p State,
        leaf: LeafId,
        kind: Kind,
        written: &mut u64,
    ) -> Result<(), Failure> {
        let actions = self.actions(leaf);
        let mask = spot.mask;
        if actions.refuse & mask != 0 {
            return Err(self.fail(Reason::KeyField, state));
        }
        let container = matches!(kind, Kind::Object | Kind::Array);
        if container && !(state.keeps_all && self.side == Side::Value) {
            return self.container(frame, spot, state, actions, kind, written);
        }
        let start = frame.scan.at();
        frame.scan.pass(kind, spot.depth)?;
        let span = Span { kind, start, end: frame.scan.at() };
        self.treat(frame, spot, state, actions, span, written)
    }

    /// A classified value that has been passed.
    #[inline(always)]
    fn treat(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        state: &State,
        actions: &Actions,
        span: Span,
        written: &mut u64,
    ) -> Result<(), Failure> {
        let mask = spot.mask;
        if actions.drop & mask != 0 {
            frame.skip(actions.drop & mask, spot.place);
        }
        self.want(frame, spot, mask & !actions.drop, written);
        if (actions.applied | actions.null) & mask == 0 {
            return Ok(());
        }
        if span.kind == Kind::Null {
            return self.apply(frame, state, actions, actions.nulls & mask, span);
        }
        if actions.null & mask != 0 {
            frame.replace_all(actions.null & mask, span.start, span.end, b"null");
        }
        self.apply(frame, state, actions, actions.applied & mask, span)
    }

    /// An object or array where a class was declared.
    fn container(
        &mut self,
        frame: &mut Frame<'_, '_>,
        spot: &Spot,
        state: &'p State,
        actions: &Actions,
        kind: Kind,
        written: &mut u64,
    ) -> Result<(), Failure> {
        let mask = spot.mask;
        // Treated whole: what an operator takes as a whole, unless other rules speak of what is inside.
        let (mut whole, mut dropped, mut nulled) = (0, actions.drop & mask, actions.null & mask);
        for apply in &actions.apply {
            if apply.takes.takes(kind) {
                whole |= mask & (1 << apply.view);
            } else if !state.inner && !state.loops && mask & (1 << apply.view) != 0 {
                return Err(self.fail(Reason::WrongType, state));
            }
        }
        if state.inner {
            (whole, dropped, nulled) = (0, 0, 0);
        }
        if dropped != 0 {
            frame.skip(dropped, spot.place);
        }
        self.want(frame, spot, mask & !dropped, written);
        let start = frame.scan.at();
        let inside = mask & !(whole | dropped | nulled);
        if inside != mask {
            frame.scan.pass(kind, spot.depth)?;
            let span = Span { kind, start, end: frame.scan.at() };
            frame.replace_all(nulled, start, span.end, b"null");
            self.apply(frame, state, actions, whole, span)?;
            if inside == 0 {
                return Ok(());
            }
            frame.scan.jump(start);
        }
        self.inside(frame, spot, kind, inside).map(drop)
    }

    /// Puts the treated value in its place, in the views of `mask`.
    #[inline(always)]
    fn apply(
        &mut self,
        frame: &mut Frame<'_, '_>,
        state: &State,
        actions: &Actions,
        mask: u64,
        span: Span,
    ) -> Result<(), Failure> {
        if mask == 0 {
            return Ok(());
        }
        let Span { kind, start, end } = span;
        let text = frame.scan.slice(start, end);
        if self.side == Side::Value
            && text == UNAVAILABLE
            && self.plan.policy.format == Format::Debezium
        {
            self.memory.left_out |= actions.taken & mask;
            return Ok(());
        }
        for apply in &actions.apply {
            if mask & (1 << apply.view) == 0 {
                continue;
            }
            // Under `nulls: treat`, an operator of text treats a null as it would an empty text.
            let value = match (apply.takes.takes(kind), kind) {
                (true, _) => Value::scanned(kind, text),
                (false, Kind::Null) => Value::scanned(Kind::String, "\"\""),
                (false, _) => return Err(self.fail(Reason::WrongType, state)),
            };
            let Memory { scratch, memos, .. } = &mut *self.memory;
            let memo = apply.memo.and_then(|memo| memos.get_mut(memo));
            let mut operate = |out: &mut Vec<u8>| apply.operator.apply(&value, scratch, out);
            frame
                .replace(apply.view, start, end, |out| match memo {
                    Some(memo) => memo.recall(value.text(), out, operate),
                    None => operate(out),
                })
                .map_err(|refusal| self.fail(refusal.into(), state))?;
        }
        Ok(())
    }

    fn fail(&self, reason: Reason, state: &State) -> Failure {
        Failure::new(self.stage(), reason).at(state.path.clone())
    }

    /// A value without a class: dropped, or the end of the record.
    #[inline]
    fn unclassified(&mut self, frame: &Frame<'_, '_>, spot: &Spot) -> Result<(), Failure> {
        self.memory.unclassified += 1;
        let name = spot.name(frame);
        let reason = match (self.side, self.plan.policy.unclassified) {
            (Side::Key, _) => Reason::KeyField,
            (Side::Value, Unclassified::Quarantine) => Reason::Unclassified,
            (Side::Value, Unclassified::Drop) => {
                self.discover(spot.parent, name);
                return Ok(());
            }
        };
        Err(Failure::new(self.stage(), reason).at(self.unclassified_path(spot.parent, name)))
    }

    /// Remembers a name that is met for the first time.
    fn discover(&mut self, parent: StateId, name: Option<&str>) {
        let mut hasher = rustc_hash::FxHasher::default();
        (parent, name).hash(&mut hasher);
        let remembered = &mut self.memory.remembered;
        if remembered.len() < REMEMBERED && remembered.insert(hasher.finish()) {
            let path = self.unclassified_path(parent, name);
            self.memory.discovered.push(path);
        }
    }

    /// A name that the policy does not know may be data: it stands as a keyed digest.
    fn unclassified_path(&self, parent: StateId, name: Option<&str>) -> String {
        let parent = &self.plan.state(parent).path;
        let Some(name) = name else { return format!("{parent}[]") };
        let digest = self.plan.digester.digest(name.as_bytes());
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let dot = if parent.is_empty() { "" } else { "." };
        format!("{parent}{dot}<unclassified:{digest}>")
    }
}

/// An object that is walked.
struct Object {
    at: StateId,
    mask: u64,
    depth: u32,
}

/// A place in the row that the walk has come to.
pub struct Spot {
    pub at: StateId,
    parent: StateId,
    /// How long the member's name is, as it is written at `place`; [`ELEMENT`] for an element.
    name: usize,
    /// No rule says the name.
    wild: bool,
    pub mask: u64,
    pub place: Place,
    pub depth: u32,
}

impl Spot {
    /// The member's name, raw; none for an element.
    fn name<'i>(&self, frame: &Frame<'i, '_>) -> Option<&'i str> {
        let start = self.place.start + 1;
        (self.name != ELEMENT).then(|| frame.scan.slice(start, start + self.name))
    }
}

/// A value that has been passed.
#[derive(Clone, Copy)]
struct Span {
    kind: Kind,
    start: usize,
    end: usize,
}
