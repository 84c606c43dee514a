//! Audit events: what was done to which records under which policy and keys. Never a value.
//!
//! Every event has its lane and its number there: the hash chain over them builds on these two.

use std::time::SystemTime;

use serde::Serialize;

use crate::policy::Plan;
use crate::rewrite::{Failure, Tally};

/// How many quarantined records one `failure` event lists; more make more events.
const LISTED: usize = 500;

/// An event in its wire form. Only this module makes one.
pub struct AuditRecord {
    kind: &'static str,
    key: String,
    json: Vec<u8>,
}

impl AuditRecord {
    /// `process`, `failure`, `change`, `access` or `erasure`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The lane: its events stay in order in one partition.
    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    pub fn json(&self) -> &[u8] {
        &self.json
    }
}

/// A run of offsets of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Offsets {
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    pub records: u64,
}

/// What became of a batch's records in one view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ViewCounts {
    pub view: String,
    /// Events published with their images.
    pub published: u64,
    /// Events published as a delete without images: the row left the view, or may not be shown.
    pub deleted: u64,
    /// Tombstones passed on, and those of rows that left.
    pub tombstones: u64,
    /// Events not published: by `where`, messages of no row, tombstones where the view has no keys.
    pub filtered: u64,
    pub condition_errors: u64,
    /// Rows that began to wait for a group, or came to windows.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: u64,
    /// Rows that were published with one, whenever they came.
    #[serde(skip_serializing_if = "is_zero")]
    pub released: u64,
    /// Rows for which none was found in time.
    #[serde(skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// Rows of figures over windows.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// Windows of which all was published, and those that were not published.
    #[serde(skip_serializing_if = "is_zero")]
    pub windows: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub withheld: u64,
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    pub partition: i32,
    pub offset: i64,
    pub stage: &'static str,
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Quarantined {
    pub fn new(partition: i32, offset: i64, failure: &Failure) -> Self {
        Quarantined {
            partition,
            offset,
            stage: failure.stage.name(),
            reason: failure.reason.code(),
            path: failure.path.clone(),
        }
    }
}

#[derive(Serialize)]
struct PolicyRef<'a> {
    name: &'a str,
    version: u32,
    digest: &'a str,
}

impl<'a> PolicyRef<'a> {
    fn of(plan: &'a Plan) -> Self {
        let policy = &plan.policy;
        PolicyRef { name: &policy.name, version: policy.version, digest: &policy.digest }
    }
}

#[derive(Serialize)]
struct FieldCount<'a> {
    view: &'a str,
    class: &'a str,
    operator: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct KeyCount {
    id: String,
    version: u32,
    uses: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Body<'a> {
    Process {
        topic: &'a str,
        policy: PolicyRef<'a>,
        offsets: &'a [Offsets],
        records: u64,
        quarantined: u64,
        #[serde(skip_serializing_if = "is_zero")]
        erased: u64,
        views: &'a [ViewCounts],
        fields: Vec<FieldCount<'a>>,
        keys: Vec<KeyCount>,
        unclassified: u64,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        discovered: &'a [String],
    },
    Failure {
        topic: &'a str,
        policy: PolicyRef<'a>,
        quarantined: &'a [Quarantined],
    },
    Change {
        change: &'a Change,
    },
    Access(&'a Access),
    Erasure(&'a Erasure),
}

/// Something about the worker that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Change {
    /// A worker began to work under these policies.
    Started {
        policies: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        roles: Option<String>,
    },
    /// Other policies, roles or keys are in force.
    PoliciesReplaced {
        policies: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        roles: Option<String>,
    },
    /// New policies were refused; those in force stayed.
    PoliciesRefused { errors: usize },
}

/// Somebody asked to see what is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    pub actor: String,
    /// `user` of the operating system, or `token`.
    pub by: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub roles: Vec<String>,
    pub what: &'static str,
    pub purpose: String,
    /// Whether all that was asked for was allowed.
    pub allowed: bool,
    /// Who agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// Coordinates of quarantined records.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub records: Vec<String>,
    #[serde(skip_serializing_if = "<[AccessedValue]>::is_empty")]
    pub values: Vec<AccessedValue>,
}

/// A value that somebody asked for, by the names of the policy; what it does not name is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessedValue {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    pub outcome: &'static str,
    /// The key that the ciphertext names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What of an erasure an event tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasureKind {
    /// Somebody wishes it; the keys are destroyed next.
    #[default]
    Requested,
    /// Nothing is destroyed: it is held up.
    Refused,
    /// It is held up from now on.
    Held,
    /// No longer.
    Released,
    /// No role of theirs allows it.
    Denied,
    /// A request that is none.
    Malformed,
    /// All is done.
    Done,
}

/// Somebody is forgotten, or is not. The receipt names no one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Erasure {
    pub what: ErasureKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub receipt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub population: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where a request stands that is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// How many keys were destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    #[serde(skip_serializing_if = "<[Buried]>::is_empty")]
    pub tombstones: Vec<Buried>,
    /// How many ciphertexts and keys were tried: none has a key any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried: Option<u64>,
}

/// Records of a view that were deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Buried {
    pub view: String,
    pub records: u64,
}

#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    lane: &'a str,
    sequence: u64,
    time_ms: u128,
    #[serde(flatten)]
    body: Body<'a>,
}

/// What one batch did with the records of one topic.
pub struct Processed<'a> {
    pub topic: &'a str,
    pub plan: &'a Plan,
    pub offsets: &'a [Offsets],
    pub views: &'a [ViewCounts],
    pub quarantined: &'a [Quarantined],
    /// Records of those who are forgotten: the views got a tombstone, if anything.
    pub erased: u64,
    pub tally: &'a Tally,
    pub discovered: &'a [String],
}

/// Numbers and writes the events of one lane.
pub struct Auditor {
    lane: String,
    sequence: u64,
}

/// Where an auditor was before a batch, for an abort.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

impl Auditor {
    /// `lane` names the lane and its start, so that its numbers never stand twice.
    pub fn new(lane: String) -> Self {
        Auditor { lane, sequence: 0 }
    }

    pub fn mark(&self) -> Mark {
        Mark(self.sequence)
    }

    /// Forgets the events since the mark: their transaction was aborted.
    pub fn rewind(&mut self, mark: Mark) {
        self.sequence = mark.0;
    }

    /// The `process` event of a batch, and `failure` events for its quarantined records.
    pub fn processed(&mut self, done: &Processed<'_>) -> Vec<AuditRecord> {
        let records = done.offsets.iter().map(|offsets| offsets.records).sum();
        let mut events = vec![self.write(Body::Process {
            topic: done.topic,
            policy: PolicyRef::of(done.plan),
            offsets: done.offsets,
            records,
            quarantined: done.quarantined.len() as u64,
            erased: done.erased,
            views: done.views,
            fields: fields(done),
            keys: keys(done),
            unclassified: done.tally.unclassified,
            discovered: done.discovered,
        })];
        for part in done.quarantined.chunks(LISTED) {
            let policy = PolicyRef::of(done.plan);
            let body = Body::Failure { topic: done.topic, policy, quarantined: part };
            events.push(self.write(body));
        }
        events
    }

    pub fn changed(&mut self, change: &Change) -> AuditRecord {
        self.write(Body::Change { change })
    }

    pub fn accessed(&mut self, access: &Access) -> AuditRecord {
        self.write(Body::Access(access))
    }

    pub fn erased(&mut self, erasure: &Erasure) -> AuditRecord {
        self.write(Body::Erasure(erasure))
    }

    fn write(&mut self, body: Body<'_>) -> AuditRecord {
        self.sequence += 1;
        let kind = match body {
            Body::Process { .. } => "process",
            Body::Failure { .. } => "failure",
            Body::Change { .. } => "change",
            Body::Access(_) => "access",
            Body::Erasure(_) => "erasure",
        };
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let event = Envelope {
            version: 1,
            lane: &self.lane,
            sequence: self.sequence,
            time_ms: time.as_millis(),
            body,
        };
        // Names and numbers alone: they always serialize.
        let json = serde_json::to_vec(&event).unwrap_or_default();
        AuditRecord { kind, key: self.lane.clone(), json }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Fields by view, class and operator.
fn fields<'a>(done: &Processed<'a>) -> Vec<FieldCount<'a>> {
    let mut counts: Vec<FieldCount<'a>> = Vec::new();
    field_counts(done.plan, done.tally, |view, class, operator, count| {
        let same = |known: &&mut FieldCount<'_>| {
            (known.view, known.class, known.operator) == (view, class, operator)
        };
        match counts.iter_mut().find(same) {
            Some(known) => known.count += count,
            None => counts.push(FieldCount { view, class, operator, count }),
        }
    });
    counts
}

/// Calls `each` with view, class, operator and count of every field that was treated.
pub fn field_counts<'a>(
    plan: &'a Plan,
    tally: &Tally,
    mut each: impl FnMut(&'a str, &'a str, &'static str, u64),
) {
    for (number, leaf) in plan.leaves().iter().enumerate() {
        for (at, view) in plan.views.iter().enumerate() {
            let count = tally.fields(at, number);
            if count > 0 {
                let class = plan.classes.get(leaf.class).map_or("", String::as_str);
                each(&view.name, class, plan.operator_of(leaf, at), count);
            }
        }
    }
}

/// How often each key of the plan was used.
pub fn key_uses(plan: &Plan, tally: &Tally) -> Vec<u64> {
    let mut uses = vec![0; plan.keys.len()];
    for (number, leaf) in plan.leaves().iter().enumerate() {
        for apply in &leaf.values.apply {
            if let Some(slot) = apply.key.and_then(|key| uses.get_mut(key)) {
                *slot += tally.fields(apply.view, number);
            }
        }
    }
    uses
}

fn keys(done: &Processed<'_>) -> Vec<KeyCount> {
    let uses = key_uses(done.plan, done.tally);
    let pairs = done.plan.keys.iter().zip(uses);
    pairs
        .filter(|(_, uses)| *uses > 0)
        .map(|(key, uses)| KeyCount { id: key.id.to_string(), version: key.version, uses })
        .collect()
}
