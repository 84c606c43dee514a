//! What a view holds of somebody: records that stand under the person's pseudonym, or hold what the person's keys have
//! sealed.

use std::borrow::Cow;
use std::collections::HashMap;

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::value::RawValue;

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
    /// `before` are the same plan under keys that were primary once: compacted views may hold what they made.
    pub fn new(
        plan: &'p Plan,
        before: &[Plan],
        view: usize,
        persons: &[(Index, &str, &Pending)],
    ) -> Search<'p> {
        let subject = plan.policy.subject.as_ref();
        let mut pseudonyms = HashMap::new();
        for (index, person, _) in persons {
            for plan in std::iter::once(plan).chain(before) {
                for text in pseudonyms_of(plan, view, person) {
                    pseudonyms.insert(text, *index);
                }
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
    pub fn found(&self) -> &HashMap<Grave, Index> {
        &self.found
    }

    fn whose(&mut self, record: &OwnedRecord) -> Option<Index> {
        let text = std::str::from_utf8(record.value.as_deref()?).ok()?;
        let index = self.person(text, record.key.as_deref())?;
        // Of somebody who has come back, what is younger stays.
        let stays = self.plan.policy.on_erased == OnErased::Rekey
            && self.since.get(&index).is_some_and(|since| record.timestamp_ms > Some(*since));
        (!stays).then_some(index)
    }

    /// Whom a record is about: by the subject in its row, else by what is sealed there, else by its key.
    fn person(&mut self, value: &str, key: Option<&[u8]>) -> Option<Index> {
        let row = self.row(value);
        let subject = row.as_deref().and_then(|row| self.subject(row));
        let named = subject.as_ref().and_then(|subject| self.pseudonyms.get(subject)).copied();
        let sealed = row.as_deref().and_then(|row| self.sealed(&serde_json::from_str(row).ok()?));
        let of_key = || {
            let key = std::str::from_utf8(key?).ok()?;
            let inner = member(key, "payload").filter(|inner| inner.starts_with('{'));
            self.pseudonyms.get(&self.subject(inner.as_deref().unwrap_or(key))?).copied()
        };
        let by_key = || if self.keyed && subject.is_none() { of_key() } else { None };
        named.or(sealed).or_else(by_key)
    }

    /// The row that a published value is about, as it is now or was. Only that: what an update was `before` it may have
    /// been somebody else's.
    fn row(&self, value: &str) -> Option<String> {
        if self.plan.policy.format == Format::Json {
            return Some(value.to_owned());
        }
        let inner = member(value, "payload").filter(|inner| inner.starts_with('{'));
        let event = inner.as_deref().unwrap_or(value);
        let mut images = ["after", "before"].into_iter().filter_map(|name| member(event, name));
        let image = images.find(|image| image != "null")?;
        match image.starts_with('"') {
            // MongoDB's: the document as JSON in a string.
            true => serde_json::from_str(&image).ok(),
            false => Some(image),
        }
    }

    /// What stands in place of the subject in a row, as JSON text: a number by its digits.
    fn subject(&self, row: &str) -> Option<String> {
        let mut place = row.to_owned();
        for name in &self.path {
            place = member(&place, name)?;
        }
        canonical(&place)
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

/// A member of an object, as its text.
fn member(object: &str, name: &str) -> Option<String> {
    let members: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object).ok()?;
    members.get(name).map(|value| value.get().to_owned())
}

/// A string as serde_json writes it, anything else as it stands: numbers keep every digit.
fn canonical(text: &str) -> Option<String> {
    match text.starts_with('"') {
        true => Some(Value::String(serde_json::from_str(text).ok()?).to_string()),
        false => Some(text.to_owned()),
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
    forms.extend(
        json::Value::parse(person)
            .filter(|value| value.kind() == json::Kind::Number)
            .map(|value| value.text().to_owned()),
    );
    let kept = leaf.values.keep & (1 << view) != 0;
    let operator = leaf.values.apply.iter().find(|apply| apply.view == view);
    let published = forms.into_iter().filter_map(|form| match operator {
        None => kept.then_some(form),
        Some(apply) => {
            let mut out = Vec::new();
            let value = json::Value::parse(&form)?;
            apply.operator.apply(&value, &mut Scratch::default(), &mut out).ok()?;
            canonical(std::str::from_utf8(&out).ok()?)
        }
    });
    published.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails where it should")]

    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::crypto::SubjectId;
    use crate::crypto::ciphertext::{Algorithm, Sealer};
    use crate::crypto::{DataKey, Secret};
    use crate::keys::Keyset;
    use crate::policy::Policy;

    const POLICY: &str = "
policy: p
version: 1
source: { topic: raw, format: debezium }
subject: id
fields: { id: identifier, email: email }
views:
  kept: { topic: kept, classes: { identifier: keep, email: encrypt } }
  bare: { topic: bare, key: tokenize, classes: { identifier: drop, email: encrypt } }
";

    fn sealed() -> String {
        let key = DataKey { id: KeyId([7; 16]), version: 1, secret: Secret::new([1; 32]) };
        let mut out = Vec::new();
        Sealer::new(&key, Algorithm::Aes256Gcm, "p/kept/email", "email").seal(b"x", &mut out);
        URL_SAFE_NO_PAD.encode_to_string(out)
    }

    /// How many records of a view are `person`'s.
    fn found(view: usize, person: &str, records: &[(&str, Option<String>)]) -> usize {
        let policy = Policy::load_with(Path::new("p.yaml"), &|_| Ok(POLICY.into())).unwrap();
        let plan = Plan::compile(Arc::new(policy), &Keyset::generate()).unwrap();
        let pending = Pending {
            number: 1,
            subject: SubjectId([0; 16]),
            receipt: String::new(),
            population: "p".into(),
            person: Vec::new(),
            keys: 1,
            destroyed_ms: 0,
            age_ms: 0,
            leased_until_ms: 0,
            ids: vec![KeyId([7; 16])],
        };
        let mut search = Search::new(&plan, &[], view, &[(0, person, &pending)]);
        for (key, value) in records {
            let record = OwnedRecord {
                key: Some(key.as_bytes().to_vec()),
                value: value.clone().map(String::into_bytes),
                ..OwnedRecord::default()
            };
            search.look("kept", &record);
        }
        search.found().len()
    }

    fn event(before: &str, after: &str) -> Option<String> {
        Some(format!(r#"{{"before":{before},"after":{after},"op":"u"}}"#))
    }

    #[test]
    fn a_row_is_its_subjects_and_what_it_was_before_is_not() {
        let row = |id: &str| format!(r#"{{"id":{id}}}"#);
        let mine = format!(r#"{{"id":2,"email":"{}"}}"#, sealed());
        for (expected, value) in [
            (1, event("null", &row("2"))),
            (1, event("null", &row("\"2\""))),
            (1, event("null", &row("\"\\u0032\""))),
            (1, event(&row("2"), "null")),
            (1, event("null", &mine)),
            (0, event("null", &row("3"))),
            // The row is somebody else's by now, whatever is left of the one before.
            (0, event(&mine, &row("3"))),
            (0, event("null", "null")),
            (0, Some("[]".into())),
            (0, Some("no JSON".into())),
            (0, None),
        ] {
            assert_eq!(found(0, "2", &[("{\"k\":1}", value.clone())]), expected, "{value:?}");
        }
        // By the key, where the row says nothing of it.
        assert_eq!(found(0, "2", &[("{\"id\":2}", event("null", "null"))]), 1);
        assert_eq!(found(0, "2", &[("{\"id\":2}", event("null", &row("3")))]), 0);
        // Without the subject, by what its key has sealed.
        let only = format!(r#"{{"email":"{}"}}"#, sealed());
        assert_eq!(found(1, "2", &[("k", event("null", &only))]), 1);
        assert_eq!(found(1, "2", &[("k", event(&only, "{\"email\":null}"))]), 0);
        // The last record of a key counts.
        let now = |last| found(0, "2", &[("k", event("null", &row("2"))), ("k", last)]);
        assert_eq!((now(None), now(event("null", &row("3")))), (0, 0));
    }

    #[test]
    fn numbers_keep_every_digit() {
        let row = |id: &str| event("null", &format!(r#"{{"id":{id}}}"#));
        let id = "123456789012345678901";
        assert_eq!(found(0, id, &[("k", row(id))]), 1);
        assert_eq!(found(0, id, &[("k", row("123456789012345678902"))]), 0);
        assert_eq!(found(0, "1", &[("k", row("1.0"))]), 0);
    }
}
