//! Corpora of others: JSONTestSuite, Debezium's documented events, the masking examples of peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use serde_json::Value;
use support::engine::{Engine, engine, one_view};
use veilstream::rewrite::{Disposition, Filtered, Reason};

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = format!("{}/tests/data/{folder}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .filter(|(name, _)| name.ends_with(".json"))
        .collect();
    files.sort();
    files
}

const KEEPING: &str = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { id: public, v: public, 'v.**': public }
views: { v: { topic: out, key: drop, classes: { public: keep } } }
";

const KEEPING_ALL: &str = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { '**': public }
views: { v: { topic: out, key: drop, classes: { public: keep } } }
";

fn attempt(engine: &mut Engine, event: &[u8]) -> Result<Vec<u8>, Reason> {
    let out = engine.try_records(None, Some(event)).map_err(|failure| failure.reason)?;
    Ok(out[0][0].1.clone().unwrap())
}

/// How many files of a kind were sanitized and refused.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judged {
    sanitized: usize,
    refused: usize,
}

#[test]
fn json_values_of_the_test_suite_are_sanitized_or_refused_as_it_says() {
    let mut engine = engine(KEEPING);
    let (mut yes, mut no, mut either) = (Judged::default(), Judged::default(), Judged::default());
    for (name, text) in files("jsontestsuite") {
        let event = [br#"{"id":1,"v":"#.as_slice(), &text, b"}"].concat();
        let out = attempt(&mut engine, &event);
        let judged = match name.as_bytes()[0] {
            b'y' => &mut yes,
            b'n' => &mut no,
            _ => &mut either,
        };
        match out {
            Ok(out) => {
                judged.sanitized += 1;
                serde_json::from_slice::<&serde_json::value::RawValue>(&out).unwrap();
                assert_eq!(out, event, "{name}");
            }
            Err(reason) => {
                judged.refused += 1;
                let json = [Reason::InvalidJson, Reason::InvalidUtf8, Reason::TooDeep];
                assert!(json.contains(&reason), "{name}: {reason:?}");
            }
        }
        if name.starts_with("y_") {
            assert_eq!(judged.refused, 0, "{name} was refused");
        }
        if name.starts_with("n_") {
            assert_eq!(judged.sanitized, 0, "{name} was sanitized");
        }
    }
    assert_eq!(yes, Judged { sanitized: 48, refused: 0 });
    assert_eq!(no, Judged { sanitized: 0, refused: 94 });
    assert_eq!(either.sanitized + either.refused, 17);
}

#[test]
fn json_texts_of_the_test_suite_are_events_where_they_are_objects() {
    let mut engine = engine(KEEPING_ALL);
    let (mut objects, mut others, mut invalid, mut either) = (0, 0, 0, 0);
    for (name, text) in files("jsontestsuite") {
        let out = attempt(&mut engine, &text);
        match name.as_bytes()[0] {
            b'y' => match (text.trim_ascii_start().starts_with(b"{"), out) {
                (true, Ok(out)) => {
                    assert_eq!(out.trim_ascii(), text.trim_ascii(), "{name}");
                    objects += 1;
                }
                (false, Err(Reason::NotAnObject)) => others += 1,
                (_, out) => panic!("{name}: {:?}", out.map(|out| out.escape_ascii().to_string())),
            },
            b'n' => {
                let reason = out.err().unwrap_or_else(|| panic!("{name} was sanitized"));
                let json = [Reason::InvalidJson, Reason::InvalidUtf8, Reason::TooDeep];
                assert!(json.contains(&reason), "{name}: {reason:?}");
                invalid += 1;
            }
            _ => either += 1,
        }
    }
    assert_eq!((objects, others, invalid, either), (6, 42, 94, 17));
}

const CUSTOMERS: &str = "
policy: dbz
version: 1
source: { topic: t, format: debezium }
subject: id
fields:
  id: identifier
  ID: identifier
  _id: identifier
  _id.$numberLong: identifier
  pk: identifier
  first_name: name
  FIRST_NAME: name
  last_name: surname
  LAST_NAME: surname
  email: email
  EMAIL: email
  created_at: date
  item: public
  status: public
  quantity: number
  totalPrice: number
  aa: free
  value: free
  field1: public
  field2: free
views:
  open:
    topic: o1
    classes: { identifier: keep, name: redact, surname: drop, email: { mask: email }, date: { generalize: { date: year } },
               public: keep, number: keep, free: redact }
  closed:
    topic: o2
    key: tokenize
    classes: { identifier: tokenize, name: encrypt, surname: hash, email: drop, date: 'null', public: drop, number: 'null',
               free: drop }
";

const CELLS: &str = "
policy: dbz
version: 1
source: { topic: t, format: debezium }
fields:
  id.value: identifier
  first_name.value: name
  last_name.value: surname
  email.value: email
  email.set: flag
  '*.deletion_ts': flag
  registration_date.value: date
views:
  open:
    topic: o1
    key: drop
    classes: { identifier: keep, name: redact, surname: drop, email: { mask: email },
               date: { generalize: { date: year, unit: millis } }, flag: keep }
  closed:
    topic: o2
    key: drop
    classes: { identifier: tokenize, name: encrypt, surname: hash, email: drop, date: 'null', flag: drop }
";

/// What must not be left of the files in any view.
const SECRETS: &[&str] = &[
    "annek",
    "Kretchmar",
    "Anne",
    "john",
    "doe\"",
    "doe@",
    "Sally",
    "Thomas",
    "sally",
    "oldvalue2",
    "newvalue2",
    "New data",
    "11T11:40",
    "1562202942545",
];

/// The envelope, without the schema around it.
fn inner(event: &Value) -> &Value {
    event.get("payload").unwrap_or(event)
}

/// An image, out of MongoDB's string where it is one.
fn image(envelope: &Value, name: &str) -> Option<Value> {
    match envelope.get(name)? {
        Value::String(text) => Some(serde_json::from_str(text).unwrap()),
        other => Some(other.clone()),
    }
}

/// Checks that a Connect schema tells of `value` all and nothing else.
fn fits(schema: &Value, value: &Value, at: &str) {
    if value.is_null() {
        assert_eq!(schema["optional"], true, "{at} is null and not optional");
        return;
    }
    let right = match schema["type"].as_str().unwrap_or_else(|| panic!("{at} has no type")) {
        "struct" => {
            let fields = schema["fields"].as_array().unwrap();
            let members = value.as_object().unwrap_or_else(|| panic!("{at} is no object"));
            for name in members.keys() {
                let told = fields.iter().filter(|field| field["field"] == *name).count();
                assert_eq!(told, 1, "{at}.{name} in the schema");
            }
            for field in fields {
                let name = field["field"].as_str().unwrap();
                let at = format!("{at}.{name}");
                match members.get(name) {
                    Some(value) => fits(field, value, &at),
                    None => panic!("{at} is in the schema and not in the payload"),
                }
            }
            true
        }
        "array" => {
            let items = value.as_array().unwrap_or_else(|| panic!("{at} is no array"));
            items.iter().for_each(|item| fits(&schema["items"], item, &format!("{at}[]")));
            true
        }
        "map" => {
            let members = value.as_object().unwrap_or_else(|| panic!("{at} is no object"));
            members.values().for_each(|value| fits(&schema["values"], value, &format!("{at}.*")));
            true
        }
        "int8" | "int16" | "int32" | "int64" => value.is_i64() || value.is_u64(),
        "float" | "double" => value.is_number(),
        "boolean" => value.is_boolean(),
        "string" | "bytes" => value.is_string(),
        other => panic!("{at} has the type {other}"),
    };
    assert!(right, "{at} is not of its type {}", schema["type"]);
}

/// Checks a treated image against the raw one: (raw, view) by field.
fn check_image(file: &str, view: usize, raw: &Value, treated: &Value) {
    let (raw, treated) = (raw.as_object().unwrap(), treated.as_object().unwrap());
    for (name, raw) in raw {
        let at = format!("{file}: {name} in view {view}");
        let got = treated.get(name);
        let class = match name.to_lowercase().as_str() {
            "id" | "_id" | "pk" => "identifier",
            "first_name" => "name",
            "last_name" => "surname",
            "email" => "email",
            "created_at" => "date",
            "quantity" | "totalprice" => "number",
            "item" | "status" | "field1" => "public",
            "aa" | "value" | "field2" => "free",
            other => panic!("{file}: the policy does not know {other}"),
        };
        // MongoDB's identifiers stand one level deeper.
        let (raw, got) = match raw.get("$numberLong") {
            Some(raw) => (raw, got.and_then(|got| got.get("$numberLong"))),
            None => (raw, got),
        };
        let text = got.and_then(Value::as_str);
        match (view, class) {
            (0, "identifier" | "public" | "number") => assert_eq!(got, Some(raw), "{at}"),
            (0, "name" | "free") => assert_eq!(text, Some("[REDACTED]"), "{at}"),
            (0, "surname") | (1, "email" | "public" | "free") => assert_eq!(got, None, "{at}"),
            (0, "email") => {
                let (user, host) = raw.as_str().unwrap().split_once('@').unwrap();
                assert_eq!(text, Some(format!("{}***@{host}", &user[..1]).as_str()), "{at}");
            }
            (0, "date") => assert_eq!(text, Some(&raw.as_str().unwrap()[..4]), "{at}"),
            (_, "identifier") => assert_eq!(text.map(str::len), Some(43), "{at}"),
            (_, "name") => assert!(text.unwrap().len() > 108, "{at}"),
            (_, "surname") => assert_eq!(text.map(str::len), Some(64), "{at}"),
            _ => assert_eq!(got, Some(&Value::Null), "{at}"),
        }
    }
    assert!(treated.keys().all(|name| raw.contains_key(name)), "{file}: a field more than came in");
}

/// Members of a positional object that went in and must come out, as they were.
fn check_positional(file: &str, raw: &Value, treated: &Value, left_out: &[&str]) {
    let Some(raw) = raw.as_object() else {
        return assert_eq!(raw, treated, "{file}");
    };
    let treated = treated.as_object().unwrap();
    for (name, value) in raw {
        let expected = (!left_out.contains(&name.as_str())).then_some(value);
        assert_eq!(treated.get(name), expected, "{file}: {name}");
    }
    assert!(
        treated.keys().all(|name| raw.contains_key(name)),
        "{file}: a member more than came in"
    );
}

/// Sanitizes one file and checks everything but its images; gives raw and treated envelopes of each view.
fn sanitize(file: &str, policy: &str, text: &[u8]) -> (Value, Vec<Value>) {
    let mut engine = engine(policy);
    let outs = engine.values(std::str::from_utf8(text).unwrap());
    let raw: Value = serde_json::from_slice(text).unwrap();
    let treated = outs.iter().map(|out| {
        for secret in SECRETS {
            assert!(!out.contains(secret), "{file}: `{secret}` came out");
        }
        let event: Value = serde_json::from_str(out).unwrap();
        let (before, after) =
            (inner(&raw).as_object().unwrap(), inner(&event).as_object().unwrap());
        for (name, value) in before {
            match name.as_str() {
                "op" | "ts_ms" | "ts_us" | "ts_ns" => {
                    assert_eq!(after.get(name), Some(value), "{file}: {name}")
                }
                // Neither a member of Debezium's `source`: the one is a user's, the other was renamed.
                "source" => check_positional(file, value, &after[name], &["query", "id", "ts_sec"]),
                "transaction" => check_positional(file, value, &after[name], &[]),
                "before" | "after" => assert!(after.contains_key(name), "{file}: {name}"),
                other => assert!(!after.contains_key(other), "{file}: {other}"),
            }
        }
        assert!(after.keys().all(|name| before.contains_key(name)), "{file}");
        assert_eq!(event.get("schema").is_some(), raw.get("schema").is_some(), "{file}");
        if let Some(schema) = event.get("schema") {
            // The documentation's schemas leave out `sequence`, and Vitess's has its `vgtid`, a text, as a
            // number; nothing else differs.
            let mut payload = event["payload"].clone();
            let mut schema = schema.clone();
            let told = raw["schema"].to_string().contains("\"sequence\"");
            if let (false, Some(source)) = (told, payload["source"].as_object_mut()) {
                source.remove("sequence");
            }
            for part in schema["fields"].as_array_mut().unwrap() {
                for field in part["fields"].as_array_mut().into_iter().flatten() {
                    if field["field"] == "vgtid" {
                        field["type"] = "string".into();
                    }
                }
            }
            fits(&schema, &payload, file);
        }
        inner(&event).clone()
    });
    let treated = treated.collect();
    (inner(&raw).clone(), treated)
}

#[test]
fn every_documented_change_event_is_sanitized() {
    let mut sanitized = 0;
    for (file, text) in files("debezium") {
        if file.contains("cassandra") {
            continue;
        }
        let (raw, views) = sanitize(&file, CUSTOMERS, &text);
        for (view, treated) in views.iter().enumerate() {
            for name in ["before", "after"] {
                match (image(&raw, name), image(treated, name)) {
                    (Some(Value::Object(raw)), Some(treated)) => {
                        check_image(&file, view, &Value::Object(raw), &treated);
                    }
                    (raw, treated) => assert_eq!(raw, treated, "{file}: {name}"),
                }
            }
        }
        sanitized += 1;
    }
    assert_eq!(sanitized, 16);
}

#[test]
fn cells_of_cassandra_are_sanitized_inside() {
    let mut sanitized = 0;
    for (file, text) in files("debezium") {
        if !file.contains("cassandra") || file.starts_with("00") {
            continue;
        }
        let (raw, views) = sanitize(&file, CELLS, &text);
        let after = &raw["after"];
        let (open, closed) = (&views[0]["after"], &views[1]["after"]);
        assert_eq!(open["id"]["value"], 1001, "{file}");
        assert_eq!(closed["id"]["value"].as_str().map(str::len), Some(43), "{file}");
        assert_eq!(open["registration_date"]["value"], "2019", "{file}");
        assert_eq!(closed["registration_date"], serde_json::json!({ "value": null }), "{file}");
        assert_eq!(open["id"]["deletion_ts"], after["id"]["deletion_ts"], "{file}");
        assert_eq!(open["id"].get("set"), None, "{file}");
        // The absence of a cell is no secret.
        assert_eq!(open["first_name"], Value::Null, "{file}");
        if file.starts_with("02") {
            assert_eq!(
                open["email"],
                serde_json::json!({ "value": "a***@noanswer.org", "deletion_ts": null, "set": true })
            );
            assert_eq!(closed["email"], serde_json::json!({}));
        }
        sanitized += 1;
    }
    assert_eq!(sanitized, 2);
}

#[test]
fn a_schema_without_an_event_is_refused() {
    let files = files("debezium");
    let (_, schema) = files.iter().find(|(name, _)| name == "00-cassandra.json").unwrap();
    for policy in [CUSTOMERS, CELLS] {
        assert_eq!(attempt(&mut engine(policy), schema), Err(Reason::Envelope));
    }
    assert_eq!(files.len(), 19);
}

/// What stands where a schema has words and numbers of its own may be data: found by fuzzing.
#[test]
fn a_schema_that_is_not_as_connect_has_it_is_refused() {
    let event = |wrong: &str, at: &str| {
        let field = r#"{"field":"email","type":"string","optional":true,"version":1,"name":"n"}"#;
        assert!(field.contains(at));
        let field = field.replace(at, wrong);
        format!(
            r#"{{"schema":{{"type":"struct","fields":[{{"field":"after","type":"struct","fields":[{field}]}},{{"field":"op","type":"string"}}]}},"payload":{{"after":{{"email":"a"}},"op":"c"}}}}"#
        )
    };
    let mut engine = engine(ROWS);
    assert!(attempt(&mut engine, event("null", r#""n""#).as_bytes()).is_ok());
    for (wrong, at) in [
        (r#""canarybird""#, r#""string""#),
        ("7", r#""string""#),
        (r#"{"a":"canarybird"}"#, r#""string""#),
        (r#""canarybird""#, "true"),
        (r#""canarybird""#, "1"),
        (r#"["canarybird"]"#, r#""n""#),
        (r#"{"a":"canarybird"}"#, r#""email""#),
        (r#""kind""#, r#""type""#),
        (r#""items":"canarybird","optional""#, r#""optional""#),
        (r#""fields":{"a":"canarybird"},"optional""#, r#""optional""#),
        (r#""items":{"type":"string","field":"canarybird"},"optional""#, r#""optional""#),
        (r#""default":{"a":"canarybird"},"optional""#, r#""optional""#),
        (r#""parameters":{"a":["canarybird"]},"optional""#, r#""optional""#),
        (r#""parameters":["canarybird"],"optional""#, r#""optional""#),
        ("4111111111111111", "1"),
        ("1.5", "1"),
    ] {
        let found = attempt(&mut engine, event(wrong, at).as_bytes());
        assert_eq!(found.err(), Some(Reason::Schema), "{wrong} for {at}");
    }
}

/// A connector calls a struct after the way to it, and on that way a name may be data.
#[test]
fn under_a_name_that_is_data_types_have_no_names_of_their_own() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: debezium }
fields: { 'attrs.*.phone': phone, 'attrs.*.at': time }
views: { v: { topic: out, classes: { phone: redact, time: keep } } }
";
    let schema = serde_json::json!({ "type": "struct", "name": "s.Envelope", "fields": [
        { "field": "after", "type": "struct", "name": "s.Value", "fields": [
            { "field": "attrs", "type": "struct", "name": "s.attrs", "fields": [
                { "field": "ann@example.com", "type": "struct", "name": "s.attrs.ann@example.com",
                  "version": 1, "fields": [
                    { "field": "phone", "type": "string", "name": "s.attrs.ann@example.com.phone" },
                    { "field": "at", "type": "int64", "name": "io.debezium.time.Timestamp",
                      "version": 1 },
                ] },
            ] },
        ] },
        { "field": "op", "type": "string" },
    ] });
    let payload = serde_json::json!({ "op": "c", "after": {
        "attrs": { "ann@example.com": { "phone": "1", "at": 5 } },
    } });
    let event = serde_json::json!({ "schema": schema, "payload": payload }).to_string();
    let out = engine(policy).values(&event).remove(0);
    assert!(!out.contains("ann@"), "{out}");
    for kept in ["s.Envelope", "s.Value", "s.attrs\"", "io.debezium.time.Timestamp"] {
        assert!(out.contains(kept), "{kept}: {out}");
    }
}

const ROWS: &str = "
policy: p
version: 1
source: { topic: t, format: debezium }
fields: { id: identifier, plan: public, email: email, tags: public, 'tags[]': public, home: place, 'attrs.*': public }
views: { v: { topic: out, classes: { identifier: keep, public: keep, email: drop, place: encrypt } } }
";

#[test]
fn an_embedded_schema_tells_what_each_view_gets() {
    let schema = serde_json::json!({ "type": "struct", "optional": false, "name": "e", "fields": [
        { "field": "after", "type": "struct", "optional": true, "fields": [
            { "field": "id", "type": "int64", "optional": false },
            { "field": "email", "type": "string", "optional": false, "doc": "of ann" },
            { "field": "tags", "type": "array", "optional": false, "items": { "type": "string", "optional": false } },
            { "field": "home", "type": "struct", "optional": false, "fields": [
                { "field": "city", "type": "string", "optional": false },
            ] },
            { "field": "attrs", "type": "map", "optional": false, "keys": { "type": "string", "optional": false },
              "values": { "type": "int32", "optional": false } },
            { "field": "extra", "type": "string", "optional": false, "default": "ann" },
        ] },
        { "field": "op", "type": "string", "optional": false },
        { "field": "note", "type": "string", "optional": true },
    ] });
    let payload = serde_json::json!({ "after": { "id": 1, "email": "a@b", "tags": ["x"], "home": { "city": "c" },
        "attrs": { "k": 1 }, "extra": "y" }, "op": "c", "note": "ann" });
    fits(&schema, &payload, "raw");
    let event = serde_json::json!({ "schema": schema, "payload": payload });
    let out = one_view(ROWS, &event.to_string());
    assert!(!out.contains("ann") && !out.contains("a@b"), "{out}");
    let out: Value = serde_json::from_str(&out).unwrap();
    fits(&out["schema"], &out["payload"], "view");
    assert_eq!(out["payload"]["after"]["attrs"], serde_json::json!({ "k": 1 }));
    assert_eq!(out["payload"]["after"]["tags"], serde_json::json!(["x"]));
    assert!(out["payload"]["after"]["home"].is_string());
}

#[test]
fn a_schema_does_not_tell_of_what_only_a_pattern_passed_by() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: debezium }
fields: { id: identifier, '**.email': email }
views: { v: { topic: out, classes: { identifier: keep, email: keep } } }
";
    let string =
        |name: &str| serde_json::json!({ "field": name, "type": "string", "optional": true });
    let structure = |name: &str, fields: &[Value]| serde_json::json!({ "field": name, "type": "struct", "optional": true, "fields": fields });
    let after = [structure("secret", &[string("phone")]), structure("known", &[string("email")])];
    let event = serde_json::json!({
        "schema": { "type": "struct", "fields": [structure("after", &after), string("op")] },
        "payload": { "op": "c", "after": { "secret": { "phone": "1" }, "known": { "email": "a@b" } } },
    });
    let out = one_view(policy, &event.to_string());
    assert!(!out.contains("secret") && out.contains("known"), "{out}");
    let out: Value = serde_json::from_str(&out).unwrap();
    fits(&out["schema"], &out["payload"], "view");
}

#[test]
fn the_query_and_unknown_parts_of_the_envelope_are_dropped() {
    let event = r#"{"op":"u","before":{"id":1,"plan":"a"},"after":{"id":1,"plan":"b"},"ts_ms":5,"by":"ann",
        "source":{"db":"d","query":"UPDATE ann","user_name":"ann","table":"t","lsn":7,"file":{"ann":1}},"extra":{"op":"ann"}}"#;
    let out = one_view(ROWS, event);
    assert!(!out.contains("ann"), "{out}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        out,
        serde_json::json!({ "op": "u", "before": { "id": 1, "plan": "a" }, "after": { "id": 1, "plan": "b" },
        "ts_ms": 5, "source": { "db": "d", "table": "t", "lsn": 7 } })
    );
}

#[test]
fn a_truncate_passes_without_images() {
    let event = r#"{"op":"t","ts_ms":1,"source":{"table":"t"}}"#;
    assert_eq!(one_view(ROWS, event), event);
    assert_eq!(engine(ROWS).dispositions(None, Some(event.as_bytes())), [Disposition::Publish]);
}

#[test]
fn a_logical_message_is_filtered_or_quarantined() {
    let event = r#"{"op":"m","ts_ms":1,"source":{},"message":{"prefix":"p","content":"YW5u"}}"#;
    let dispositions = engine(ROWS).dispositions(None, Some(event.as_bytes()));
    assert_eq!(dispositions, [Disposition::Filtered(Filtered::Message)]);
    assert_eq!(engine(ROWS).records(None, Some(event.as_bytes())), [[]]);
    let strict = ROWS.replace("fields:", "unclassified: quarantine\nfields:");
    assert_eq!(engine(&strict).fail(event).reason, Reason::Unclassified);
}

#[test]
fn a_tombstone_passes_as_tombstone() {
    let out = engine(ROWS).records(Some(br#"{"id":1}"#), None);
    assert_eq!(out, [[(Some(br#"{"id":1}"#.to_vec()), None)]]);
}

#[test]
fn a_delete_passes_with_its_image_treated() {
    let event = r#"{"before":{"id":1,"email":"a@b","plan":"x"},"after":null,"op":"d"}"#;
    let out = one_view(ROWS, event);
    assert_eq!(out, r#"{"before":{"id":1,"plan":"x"},"after":null,"op":"d"}"#);
}

fn conditional() -> String {
    ROWS.replace("topic: out,", "topic: out, where: \"row.plan == 'a'\",")
}

/// A record as text: key and value.
type TextPair = (Option<String>, Option<String>);

/// What became of an event with a key, and the records of the view.
fn fate(event: &str) -> (Disposition, Vec<TextPair>) {
    let mut engine = engine(&conditional());
    let (key, value) = (Some(&br#"{"id":1}"#[..]), Some(event.as_bytes()));
    let disposition = engine.dispositions(key, value)[0];
    let text =
        |part: &Option<Vec<u8>>| part.as_ref().map(|part| String::from_utf8(part.clone()).unwrap());
    let records = engine.records(key, value).remove(0);
    (disposition, records.iter().map(|(key, value)| (text(key), text(value))).collect())
}

#[test]
fn a_row_that_leaves_by_an_update_is_deleted_with_a_tombstone_behind() {
    let key = Some(r#"{"id":1}"#.to_owned());
    let delete = |text: &str| vec![(key.clone(), Some(text.to_owned())), (key.clone(), None)];
    for (event, expected) in [
        (
            r#"{"before":{"id":1,"plan":"a"},"after":{"id":1,"plan":"b"},"op":"u","ts_ms":1}"#,
            r#"{"before":null,"after":null,"op":"d","ts_ms":1}"#,
        ),
        (
            r#"{"before":null,"after":{"id":1,"plan":"b"},"op":"u"}"#,
            r#"{"before":null,"after":null,"op":"d"}"#,
        ),
        (r#"{"op":"u","after":{"id":1,"plan":"b"}}"#, r#"{"op":"d","after":null}"#),
        // The image holds the key's columns alone: it proves nothing.
        (
            r#"{"before":{"id":1,"plan":null},"after":{"id":1,"plan":"b"},"op":"u"}"#,
            r#"{"before":null,"after":null,"op":"d"}"#,
        ),
        (r#"{"after":{"id":1,"plan":"b"},"op":"r"}"#, r#"{"after":null,"op":"d"}"#),
    ] {
        assert_eq!(fate(event), (Disposition::Leave, delete(expected)), "{event}");
    }
}

#[test]
fn an_image_without_all_that_the_condition_reads_proves_nothing() {
    let left_out = r#""__debezium_unavailable_value""#;
    let policy =
        ROWS.replace("topic: out,", "topic: out, where: \"has(row.plan) && row.plan == 'a'\",");
    for before in [r#"{"id":1}"#, &format!(r#"{{"id":1,"plan":{left_out}}}"#)] {
        let event = format!(r#"{{"before":{before},"after":{{"id":1,"plan":"b"}},"op":"u"}}"#);
        let key = Some(&br#"{"id":1}"#[..]);
        let fates = engine(&policy).dispositions(key, Some(event.as_bytes()));
        assert_eq!(fates, [Disposition::Leave], "{event}");
    }
}

#[test]
fn a_value_that_debezium_left_out_is_no_data() {
    let left_out = r#""__debezium_unavailable_value""#;
    let event = |before: &str| {
        format!(
            r#"{{"before":{before},"after":{{"id":1,"plan":{left_out},"home":{left_out},"email":{left_out}}},"op":"u"}}"#
        )
    };
    let out: Value = serde_json::from_str(&one_view(ROWS, &event("null"))).unwrap();
    let passed = serde_json::json!({ "id": 1, "plan": "__debezium_unavailable_value", "home": "__debezium_unavailable_value" });
    assert_eq!(out["after"], passed);
    // A condition that reads it looks at what it was, or nobody knows.
    let mut engine = engine(&conditional());
    let mut fate = |before| engine.dispositions(None, Some(event(before).as_bytes()))[0];
    assert_eq!(fate(r#"{"id":1,"plan":"a"}"#), Disposition::Publish);
    assert_eq!(fate(r#"{"id":1,"plan":"b"}"#), Disposition::Filtered(Filtered::Condition));
    let failure = engine.fail(&event("null"));
    assert_eq!((failure.reason, failure.path.as_deref()), (Reason::Unavailable, Some("plan")));
    // Elsewhere it is a text like any other.
    let json = ROWS.replace("format: debezium", "format: json");
    let out = one_view(&json, &format!(r#"{{"id":1,"home":{left_out}}}"#));
    assert!(!out.contains("unavailable"), "{out}");
}

#[test]
fn a_row_that_never_was_in_the_view_is_filtered() {
    for event in [
        r#"{"before":{"id":1,"plan":"c"},"after":{"id":1,"plan":"b"},"op":"u"}"#,
        r#"{"before":null,"after":{"id":1,"plan":"b"},"op":"c"}"#,
    ] {
        assert_eq!(fate(event), (Disposition::Filtered(Filtered::Condition), vec![]), "{event}");
    }
}

#[test]
fn a_row_that_enters_the_view_is_published_without_doubt() {
    let event = r#"{"before":{"id":1,"plan":"b"},"after":{"id":1,"plan":"a"},"op":"u"}"#;
    assert_eq!(fate(event).0, Disposition::Publish);
}

#[test]
fn a_delete_of_a_row_outside_of_the_view_carries_no_image() {
    let (disposition, records) = fate(r#"{"before":{"id":1,"plan":"b"},"after":null,"op":"d"}"#);
    assert_eq!(disposition, Disposition::Delete);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].1.as_deref(), Some(r#"{"before":null,"after":null,"op":"d"}"#));
    // Nor where one of two images is for the view.
    let (disposition, records) =
        fate(r#"{"before":{"id":1,"plan":"a"},"after":{"id":1,"plan":"b"},"op":"d"}"#);
    assert_eq!(disposition, Disposition::Delete);
    assert_eq!(records[0].1.as_deref(), Some(r#"{"before":null,"after":null,"op":"d"}"#));
}

#[test]
fn an_envelope_that_could_be_read_in_two_ways_is_refused() {
    for event in [
        r#"{"op":"c","after":{"id":1},"after":{"id":2}}"#,
        r#"{"op":"u","before":{"id":1},"before":null,"after":{"id":1}}"#,
        r#"{"op":"c","op":"d","after":{"id":1}}"#,
        r#"{"op":"c","\u006fp":"d","after":{"id":1}}"#,
        r#"{"op":"c","after":{"id":1},"source":{},"source":{}}"#,
        r#"{"schema":null,"payload":{"op":"c","after":{"id":1}},"payload":{"op":"c","after":{"id":2}}}"#,
        r#"{"schema":null,"payload":{"op":"c","after":{"id":1}},"after":{"id":2}}"#,
        r#"{"payload":{"payload":{"op":"c","after":{"id":1}}}}"#,
    ] {
        assert_eq!(engine(ROWS).fail(event).reason, Reason::Envelope, "{event}");
    }
}

#[test]
fn an_envelope_of_the_wrong_shape_is_refused() {
    for event in [
        r#"{"op":"c","after":7}"#,
        r#"{"op":"c","after":[{"id":1}]}"#,
        r#"{"op":"c","after":true}"#,
        r#"{"op":"c","after":"7"}"#,
        r#"{"op":"c","after":"[1]"}"#,
        r#"{"op":"u","before":7,"after":{"id":1}}"#,
        r#"{"op":"t","after":{"id":1}}"#,
        r#"{"op":"t","before":{"id":1},"after":null}"#,
        r#"{"op":"c"}"#,
        r#"{"op":"c","after":null}"#,
        r#"{"op":"x","after":{"id":1}}"#,
        r#"{"op":1,"after":{"id":1}}"#,
        r#"{"after":{"id":1}}"#,
        r#"{"op":"c","after":{"id":1},"source":"s"}"#,
        r#"{"op":"c","after":{"id":1},"ts_ms":{}}"#,
        r#"{"schema":null}"#,
        r#"{"payload":7}"#,
        r#"{}"#,
    ] {
        assert_eq!(engine(ROWS).fail(event).reason, Reason::Envelope, "{event}");
    }
    assert_eq!(engine(ROWS).fail(r#"{"op":"c","after":"{\"id\":"}"#).reason, Reason::InvalidJson);
}

/// The policy's treatment that stands for a peer's masking function.
fn treatment(system: &str, function: &str, parameters: &Value) -> String {
    let number = |name: &str| parameters[name].as_u64().unwrap();
    let text = |name: &str| parameters[name].as_str().unwrap();
    match (system, function) {
        ("BigQuery", "EMAIL_MASK") => {
            "mask: { kind: email, keep_first: 0, with: X, length: 5 }".into()
        }
        ("BigQuery", "LAST_FOUR_CHARACTERS") => "mask: { keep_last: 4, with: X, length: 5 }".into(),
        ("BigQuery", "FIRST_FOUR_CHARACTERS") => {
            "mask: { keep_first: 4, with: X, length: 5 }".into()
        }
        ("BigQuery", "DATE_YEAR_MASK") => "generalize: { date: year, as: start }".into(),
        ("Presidio", "mask") => {
            let side = if parameters["from_end"] == true { "hide_last" } else { "hide_first" };
            format!(
                "mask: {{ {side}: {}, with: '{}' }}",
                number("chars_to_mask"),
                text("masking_char")
            )
        }
        ("Presidio", "replace") => format!("replace: {}", text("new_value")),
        ("Presidio", "redact") => "redact: { with: '' }".into(),
        other => panic!("no treatment stands for {other:?}"),
    }
}

#[test]
fn examples_of_peers_give_the_same_output() {
    let (name, text) = files("masking").remove(0);
    assert_eq!(name, "peer-examples.json");
    let rows: Vec<Value> = serde_json::from_slice(&text).unwrap();
    for row in &rows {
        let of = |name: &str| row[name].as_str().unwrap();
        let treatment = treatment(of("system"), of("function"), &row["params"]);
        let policy = format!(
            "policy: p\nversion: 1\nsource: {{ topic: t, format: json }}\nfields: {{ v: c }}\n\
             views: {{ v: {{ topic: out, key: drop, classes: {{ c: {{ {treatment} }} }} }} }}\n"
        );
        let out = one_view(&policy, &serde_json::json!({ "v": row["input"] }).to_string());
        assert_eq!(out, serde_json::json!({ "v": row["output"] }).to_string(), "{treatment}");
    }
    assert_eq!(rows.len(), 8);
}
