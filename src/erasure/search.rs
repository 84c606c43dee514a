//! What a view holds of somebody: records that stand under the person's pseudonym, or hold what the person's keys have
//! sealed.

use std::collections::HashMap;

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::crypto::KeyId;
use crate::crypto::ciphertext;
use crate::crypto::erasure::Pending;
use crate::json;
use crate::kafka::{Grave, OwnedRecord};
use crate::operator::Scratch;
use crate::policy::{Format, KeyRule, OnErased, Plan};

/// So many ciphertexts of a person are tried afterwards.
const SAMPLE: usize = 20;

/// Somebody who is looked for, by the index in the list of those who are.
pub type Index = usize;

/// Looks through one view.
pub struct Search<'p> {
    plan: &'p Plan,
    keyed: bool,
    path: Vec<String>,
    /// What stands in place of the subject in this view.
    pseudonyms: HashMap<String, Index>,
    keys: HashMap<KeyId, Index>,
    /// When they were forgotten.
    since: HashMap<Index, i64>,
    /// The last record of each key that is somebody's.
    found: HashMap<Grave, Index>,
    pub samples: Vec<(Index, Vec<u8>)>,
}

impl<'p> Search<'p> {
    /// `persons` are those of the plan's population, with their indexes.
    pub fn new(plan: &'p Plan, view: usize, persons: &[(Index, &str, &Pending)]) -> Search<'p> {
        let subject = plan.policy.subject.as_ref();
        let mut pseudonyms = HashMap::new();
        for (index, person, _) in persons {
            for text in pseudonyms_of(plan, view, person) {
                pseudonyms.insert(text, *index);
            }
        }
        let keys = persons
            .iter()
            .flat_map(|(index, _, pending)| pending.ids.iter().map(|id| (*id, *index)));
        Search {
            plan,
            keyed: plan.views.get(view).is_some_and(|view| view.key == KeyRule::Fields),
            path: subject.map(crate::policy::Path::names).unwrap_or_default(),
            pseudonyms,
            keys: keys.collect(),
            since: persons.iter().map(|(index, _, one)| (*index, one.destroyed_ms)).collect(),
            found: HashMap::new(),
            samples: Vec::new(),
        }
    }

    /// Takes in the next record of `topic`.
    pub fn look(&mut self, topic: &str, record: &OwnedRecord) {
        let Some(grave) = Grave::of(topic, record) else { return };
        match self.whose(record) {
            Some(index) => drop(self.found.insert(grave, index)),
            None => drop(self.found.remove(&grave)),
        }
    }

    /// What is to be deleted.
    pub fn found(self) -> HashMap<Grave, Index> {
        self.found
    }

    fn whose(&mut self, record: &OwnedRecord) -> Option<Index> {
        let value: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
        let index = self.person(&value, record)?;
        // Of somebody who has come back, what is younger stays.
        let stays = self.plan.policy.on_erased == OnErased::Rekey
            && self.since.get(&index).is_some_and(|since| record.timestamp_ms > Some(*since));
        (!stays).then_some(index)
    }

    /// Whom a record is about.
    fn person(&mut self, value: &Value, record: &OwnedRecord) -> Option<Index> {
        let of_row = self.row(value).and_then(|row| self.named(&row));
        let sealed = self.sealed(value);
        let of_key = || {
            let key: Value = serde_json::from_slice(record.key.as_deref()?).ok()?;
            let key = key.get("payload").filter(|inner| inner.is_object()).unwrap_or(&key).clone();
            self.named(&key)
        };
        of_row.or(sealed).or_else(|| if self.keyed { of_key() } else { None })
    }

    /// The row that a published value is about, as it is now or was.
    fn row(&self, value: &Value) -> Option<Value> {
        if self.plan.policy.format == Format::Json {
            return Some(value.clone());
        }
        let event = value.get("payload").filter(|inner| inner.is_object()).unwrap_or(value);
        let image = ["after", "before"]
            .into_iter()
            .find_map(|name| event.get(name).filter(|image| !image.is_null()))?;
        match image {
            // MongoDB's: the document as JSON in a string.
            Value::String(text) => serde_json::from_str(text).ok(),
            image => Some(image.clone()),
        }
    }

    /// Whose pseudonym stands where the subject does.
    fn named(&self, row: &Value) -> Option<Index> {
        let mut place = row;
        for name in &self.path {
            place = place.get(name)?;
        }
        self.pseudonyms.get(&place.to_string()).copied()
    }

    /// Whose keys have sealed something in it.
    fn sealed(&mut self, value: &Value) -> Option<Index> {
        match value {
            Value::String(text) => {
                let sealed = URL_SAFE_NO_PAD.decode_to_vec(text).ok()?;
                let label = ciphertext::label(&sealed).ok()?;
                let index = *self.keys.get(&label.key)?;
                if self.samples.iter().filter(|(of, _)| *of == index).count() < SAMPLE {
                    self.samples.push((index, sealed));
                }
                Some(index)
            }
            Value::Array(list) => list.iter().fold(None, |found, one| self.sealed(one).or(found)),
            Value::Object(map) => map.values().fold(None, |found, one| self.sealed(one).or(found)),
            _ => None,
        }
    }
}

/// What a view publishes in place of a subject, as JSON text: of the subject as a string and, where it is one, as a
/// number. Nothing where others may look the same.
fn pseudonyms_of(plan: &Plan, view: usize, person: &str) -> Vec<String> {
    let subject = plan.policy.subject.as_ref();
    let field = plan.policy.fields.iter().position(|field| Some(&field.path) == subject);
    let chosen = field
        .and_then(|at| plan.policy.fields.get(at))
        .and_then(|field| plan.policy.views.get(view)?.field(field));
    let leaf = plan.leaves().iter().find(|leaf| Some(leaf.field) == field);
    let (Some(chosen), Some(leaf)) = (chosen, leaf) else { return Vec::new() };
    if !chosen.spec.distinct {
        return Vec::new();
    }
    let mut forms = vec![Value::from(person).to_string()];
    if let Ok(number @ Value::Number(_)) = serde_json::from_str::<Value>(person) {
        forms.push(number.to_string());
    }
    let kept = leaf.values.keep & (1 << view) != 0;
    let operator = leaf.values.apply.iter().find(|apply| apply.view == view);
    let published = forms.into_iter().filter_map(|form| match operator {
        None => kept.then_some(form),
        Some(apply) => {
            let mut out = Vec::new();
            let value = json::Value::parse(&form)?;
            apply.operator.apply(&value, &mut Scratch::default(), &mut out).ok()?;
            // As serde_json writes it: what is compared is read and written by it too.
            let parsed: Value = serde_json::from_slice(&out).ok()?;
            Some(parsed.to_string())
        }
    });
    published.collect()
}
