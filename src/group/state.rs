//! What a stream holds, as plain data: put back into a stream of the same settings and hierarchies, it goes on as if
//! nothing had happened. Every part carries its own order, so a changelog may keep them one by one.

use serde::{Deserialize, Serialize};

use super::groups::KnownGroup;
use super::held::Held;
use super::sensitive::{Distribution, Seen};
use super::space::Span;
use super::stream::Stream;
use super::subjects::KnownSubject;
use super::{Settings, Unfit};

#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub summary: Summary,
    pub held: Vec<Held>,
    pub groups: Vec<KnownGroup>,
    pub subjects: Vec<KnownSubject>,
}

/// What is not of one record, group or subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub clock: i64,
    /// The number that the next record gets; that of the next group, of the next use of one, of the next subject.
    pub next_record: u64,
    pub next_group: u64,
    pub next_use: u64,
    pub next_subject: u64,
    pub usual_loss: f64,
    /// Of each quasi-identifier: the domain learnt so far, where it is not declared.
    pub domains: Vec<Option<Span>>,
    /// Of each sensitive field: what was seen of it; empty unless t-closeness is demanded.
    pub seen: Vec<Distribution>,
}

impl Stream {
    pub fn state(&self) -> State {
        State {
            summary: self.summary(),
            held: self.waiting.state(),
            groups: self.groups.state(),
            subjects: self.subjects.state(),
        }
    }

    pub fn summary(&self) -> Summary {
        Summary {
            clock: self.clock,
            next_record: self.waiting.next(),
            next_group: self.groups.next,
            next_use: self.groups.uses,
            next_subject: self.subjects.next,
            usual_loss: self.usual_loss,
            domains: self.space.learnt(),
            seen: self.seen.iter().map(Seen::state).collect(),
        }
    }

    /// A stream that goes on from a state. The order within its lists does not matter.
    pub fn restore(settings: Settings, mut state: State) -> Result<Stream, Unfit> {
        let mut stream = Stream::new(settings)?;
        let Summary { clock, usual_loss, domains, seen, .. } = &state.summary;
        (stream.clock, stream.usual_loss) = (*clock, *usual_loss);
        stream.space.restore(domains);
        for (own, seen) in stream.seen.iter_mut().zip(seen) {
            *own = Seen::restore(seen);
        }
        state.held.sort_unstable_by_key(|record| record.number);
        for record in state.held {
            stream.waiting.hold(&stream.space, record);
        }
        for group in state.groups {
            stream.groups.keep(&stream.space, group);
        }
        state.subjects.sort_unstable_by_key(|subject| subject.number);
        for subject in state.subjects {
            stream.subjects.keep(subject);
        }
        stream.waiting.skip_to(state.summary.next_record);
        stream.groups.next = state.summary.next_group;
        stream.groups.uses = state.summary.next_use;
        stream.subjects.next = state.summary.next_subject;
        Ok(stream)
    }
}
