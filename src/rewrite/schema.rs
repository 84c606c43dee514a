//! The embedded schema (Kafka Connect's JsonConverter): rewritten to what the payload of each view is.
//!
//! A topic's schema changes seldom, so its rewritten forms are kept.

use serde_json::{Map, Value, json};

use super::failure::{Failure, Reason, Stage};
use super::walk::Side;
use crate::event::debezium::{self, Part};
use crate::json::{Bounds, Kind, Scanner};
use crate::policy::{DEAD, Plan, State, StateId};

/// How many different schemas are kept: the versions of a few tables.
const KEPT: usize = 32;

/// Schemas already rewritten, the one met last in front.
#[derive(Default)]
pub struct SchemaCache(Vec<Entry>);

struct Entry {
    side: Side,
    raw: String,
    views: Vec<String>,
}

impl SchemaCache {
    /// Passes the schema that comes next, and gives each view's form of it.
    pub fn views(
        &mut self,
        plan: &Plan,
        side: Side,
        scan: &mut Scanner<'_>,
        depth: u32,
    ) -> Result<&[String], Failure> {
        // An object is whole at its last brace, so a known one that comes next is the one that stands there.
        let rest = scan.rest();
        let known =
            self.0.iter().position(|entry| entry.side == side && rest.starts_with(&entry.raw));
        match known {
            Some(at) => {
                if let Some(entry) = self.0.get(at) {
                    scan.jump(scan.at() + entry.raw.len());
                }
                self.0.swap(0, at);
            }
            None => {
                let raw = scan.value_within(depth)?.text();
                let schema: Value = serde_json::from_str(raw).map_err(|_| unreadable())?;
                if !is_sound(&schema, false) {
                    return Err(unreadable());
                }
                let views = (0..plan.views.len())
                    .map(|view| {
                        rewrite(plan, side, &schema, 1 << view).map(|view| view.to_string())
                    })
                    .collect::<Result<_, _>>()?;
                self.0.truncate(KEPT - 1);
                self.0.insert(0, Entry { side, raw: raw.to_owned(), views });
            }
        }
        Ok(self.0.first().map(|entry| entry.views.as_slice()).unwrap_or_default())
    }
}

fn unreadable() -> Failure {
    Failure::new(Stage::Decode, Reason::Schema)
}

/// Whether a record key is `{"schema": ..., "payload": ...}` and nothing else.
pub fn is_wrapped(key: &str, bounds: Bounds) -> bool {
    let mut scan = Scanner::new(key, bounds);
    let mut names = [None; 2];
    for (at, slot) in names.iter_mut().enumerate() {
        if scan.expect(if at == 0 { b'{' } else { b',' }).is_err() {
            return false;
        }
        let Ok((name, _)) = scan.name() else { return false };
        if scan.expect(b':').is_err() || scan.value_within(1).is_err() {
            return false;
        }
        *slot = Some(name);
    }
    scan.accept(b'}')
        && matches!(names, [Some("schema"), Some("payload")] | [Some("payload"), Some("schema")])
}

fn rewrite(plan: &Plan, side: Side, schema: &Value, bit: u64) -> Result<Value, Failure> {
    let rewriter = Rewriter { plan, side, bit };
    match side {
        Side::Key => rewriter.inside(schema, plan.row).ok_or_else(unreadable),
        Side::Value => rewriter.envelope(schema).ok_or_else(unreadable),
    }
}

struct Rewriter<'p> {
    plan: &'p Plan,
    side: Side,
    bit: u64,
}

impl Rewriter<'_> {
    fn envelope(&self, schema: &Value) -> Option<Value> {
        structure(schema, |name, field| {
            let (_, part) = debezium::ENVELOPE.iter().find(|(known, _)| *known == name)?;
            match part {
                // MongoDB's images are strings, before and after.
                Part::Before | Part::After if kind(field) == "string" => Some(plain(field)),
                Part::Before | Part::After => self.inside(field, self.plan.row),
                Part::Source => listed(field, debezium::SOURCE),
                Part::Transaction => listed(field, debezium::TRANSACTION),
                Part::Operation | Part::Time => Some(plain(field)),
                Part::Schema | Part::Payload => None,
            }
        })
    }

    /// The schema of a value at `at`; none where the view gets no such field.
    fn value(&self, schema: &Value, at: StateId) -> Option<Value> {
        let state = self.plan.state(at);
        let container = matches!(kind(schema), "struct" | "array" | "map");
        let Some(leaf) = state.leaf.and_then(|leaf| self.plan.leaf(leaf)) else {
            let inside = self.inside(schema, at).filter(|_| state.descends && container);
            // Where only a `**` passes by, a struct of which nothing goes on does not either.
            let empty = |new: &Value| {
                new.get("fields").and_then(Value::as_array).is_some_and(Vec::is_empty)
            };
            return inside.filter(|new| state.named || !empty(new));
        };
        let actions = match self.side {
            Side::Value => &leaf.values,
            Side::Key => &leaf.keys,
        };
        if container && self.descends(state, actions) {
            return self.inside(schema, at);
        }
        if actions.drop & self.bit != 0 {
            None
        } else if actions.keep & self.bit != 0 {
            // With what a value may be that goes on as it is.
            let mut new = frame(schema);
            let more = ["default", "parameters"].map(|name| (name, schema.get(name)));
            new.extend(
                more.into_iter().filter_map(|(name, value)| Some((name.into(), value?.clone()))),
            );
            Some(Value::Object(new))
        } else {
            let optional = actions.null & self.bit != 0
                || schema.get("optional").and_then(Value::as_bool).unwrap_or(false);
            let kept =
                if actions.null & self.bit != 0 && !container { kind(schema) } else { "string" };
            let mut new = json!({ "type": kept, "optional": optional });
            if let (Some(new), Some(name)) = (new.as_object_mut(), schema.get("field")) {
                new.insert("field".into(), name.clone());
            }
            Some(new)
        }
    }

    /// As the walk decides it for an object or array.
    fn descends(&self, state: &State, actions: &crate::policy::Actions) -> bool {
        let takes = |kind| {
            actions
                .apply
                .iter()
                .any(|apply| self.bit & (1 << apply.view) != 0 && apply.takes.takes(kind))
        };
        state.inner
            || actions.keep & self.bit != 0
            || (state.loops && actions.applied & self.bit != 0 && !takes(Kind::Object))
    }

    /// The schema of an object or array of which only what is classified goes on.
    fn inside(&self, schema: &Value, at: StateId) -> Option<Value> {
        let state = self.plan.state(at);
        // What no view element can be is said to be an optional string: the array is empty.
        let never = || json!({ "type": "string", "optional": true });
        match kind(schema) {
            "struct" => structure(schema, |name, field| {
                let to = self.plan.step(at, name);
                let mut new = self.value(field, to)?;
                let hidden = self.plan.state(to).keeps_name & self.bit == 0;
                if hidden && !state.names.contains_key(name) {
                    let view = self.plan.views.get(self.bit.trailing_zeros() as usize)?;
                    let mut token = Vec::new();
                    view.names.token(name.as_bytes(), &mut token);
                    let token = String::from_utf8(token).ok()?;
                    new.as_object_mut()?.insert("field".into(), token.into());
                    unname(&mut new);
                }
                Some(new)
            }),
            "array" => {
                let mut new = frame(schema);
                let items = schema.get("items")?;
                let items = self.value(items, state.element.unwrap_or(DEAD)).unwrap_or_else(never);
                new.insert("items".into(), items);
                Some(Value::Object(new))
            }
            "map" => {
                let mut new = frame(schema);
                new.insert("keys".into(), json!({ "type": "string", "optional": false }));
                let values = self.value(schema.get("values")?, state.other.unwrap_or(DEAD));
                new.insert("values".into(), values.unwrap_or_else(never));
                Some(Value::Object(new))
            }
            _ => None,
        }
    }
}

fn kind(schema: &Value) -> &str {
    schema.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The types of Kafka Connect as its JsonConverter writes them.
const TYPES: &[&str] = &[
    "boolean", "int8", "int16", "int32", "int64", "float", "double", "bytes", "string", "array",
    "map", "struct",
];

/// Whether a schema is as Connect has it, all the way down: what stands in another's place may be data.
fn is_sound(schema: &Value, in_struct: bool) -> bool {
    let container = matches!(kind(schema), "struct" | "array" | "map");
    let fits = |(name, value): (&String, &Value)| match name.as_str() {
        "type" => value.as_str().is_some_and(|kind| TYPES.contains(&kind)),
        "optional" => value.is_boolean(),
        "version" => {
            value.as_i64().is_some_and(|one| i32::try_from(one).is_ok()) || value.is_null()
        }
        "name" => value.is_string() || value.is_null(),
        "field" => in_struct && value.is_string(),
        "fields" => {
            let fields = value.as_array();
            fields.is_some_and(|fields| fields.iter().all(|field| is_sound(field, true)))
        }
        "items" | "keys" | "values" => is_sound(value, false),
        // Of a container it goes nowhere.
        "default" => container || !(value.is_object() || value.is_array()),
        "parameters" => {
            let all = value.as_object();
            value.is_null() || all.is_some_and(|all| all.values().all(Value::is_string))
        }
        _ => true,
    };
    schema
        .as_object()
        .is_some_and(|members| members.contains_key("type") && members.iter().all(fits))
}

/// Takes out the names of types: under a name that is data, a connector calls the types inside after it. Those of
/// Connect and Debezium say what kind of value it is, and stay.
fn unname(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let known = ["org.apache.kafka.connect.", "io.debezium."];
            let name = members.get("name").and_then(Value::as_str).unwrap_or_default();
            if !known.iter().any(|known| name.starts_with(known)) {
                members.shift_remove("name");
                members.shift_remove("version");
            }
            let inside = members.iter_mut().filter(|(name, _)| name.as_str() != "parameters");
            inside.for_each(|(_, member)| unname(member));
        }
        Value::Array(all) => all.iter_mut().for_each(unname),
        _ => {}
    }
}

/// What a schema says of itself beside its members and its default.
fn frame(schema: &Value) -> Map<String, Value> {
    let kept = ["type", "optional", "name", "version", "field"];
    let members = kept.iter().filter_map(|name| Some(((*name).into(), schema.get(*name)?.clone())));
    members.collect()
}

/// The schema of a value of the envelope's own.
fn plain(schema: &Value) -> Value {
    Value::Object(frame(schema))
}

/// A struct with the fields that `keep` gives.
fn structure(schema: &Value, keep: impl Fn(&str, &Value) -> Option<Value>) -> Option<Value> {
    if kind(schema) != "struct" {
        return None;
    }
    let mut new = frame(schema);
    let fields = schema.get("fields")?.as_array()?;
    let fields =
        fields.iter().filter_map(|field| keep(field.get("field")?.as_str()?, field)).collect();
    new.insert("fields".into(), Value::Array(fields));
    Some(Value::Object(new))
}

/// A struct with the listed scalars.
fn listed(schema: &Value, names: &[&str]) -> Option<Value> {
    structure(schema, |name, field| {
        let is_plain = !matches!(kind(field), "struct" | "array" | "map");
        (is_plain && names.contains(&name)).then(|| plain(field))
    })
}
