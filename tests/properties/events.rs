//! Random events: nearly every scalar, and every name that no path says, holds a marker.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Names that paths are made of, awkward ones too.
pub const NAMES: [&str; 7] = ["a", "b", "c", "né", "x.y[]", "q\"*\\t", "😀"];
/// Scalars around a marker, which stands for `§`; for `¤` stands what is behind its first digit, a 9.
pub const FORMS: [&str; 11] = [
    r#""§""#,
    r#""é§😀""#,
    r#"" §\n""#,
    r#""\u0039¤""#,
    r#""\"§\/\ud83d\ude00""#,
    "§",
    "-§",
    "0.§§",
    "§.50e400",
    "§E-7",
    "-0.0§",
];
/// Scalars without a marker.
pub const PLAIN: [&str; 9] =
    ["null", "true", "false", "-0", "1e400", "1E+2", "0.0", r#""""#, r#""x\u0000""#];
/// Stands in schemas, of which it must not go on.
pub const DOC: &str = "80000000000000000003";

#[derive(Clone, Debug)]
pub struct Name {
    pub meaning: String,
    pub text: String,
    pub marker: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Json {
    Scalar { text: String, marker: Option<String> },
    Array(Vec<Json>),
    Object(Vec<(Name, Json)>),
}

#[derive(Clone, Debug)]
pub struct Event {
    pub key: Option<Json>,
    pub image: Json,
    // What follows is Debezium's.
    pub before: Option<Json>,
    pub op: &'static str,
    /// Of `db`, `lsn`, `query` and `user_name`.
    pub source: Vec<Json>,
    pub extra: Json,
    /// The columns of the embedded schema, each with its default. None where there is no schema.
    pub schema: Option<Vec<(Name, String)>>,
    /// The image is a string that holds a document.
    pub in_string: bool,
    pub spaces: u64,
}

pub fn scalar(text: impl Into<String>) -> Json {
    Json::Scalar { text: text.into(), marker: None }
}

pub fn member(name: &str, value: Json) -> (Name, Json) {
    (Name { meaning: name.into(), text: json!(name).to_string(), marker: None }, value)
}

impl Json {
    /// With white space in odd places, unless `spaces` is 0.
    pub fn write(&self, spaces: &mut u64, out: &mut String) {
        let mut put = |text: &str, out: &mut String| {
            *spaces = spaces.wrapping_mul(6_364_136_223_846_793_005);
            let blanks = ["", "", "", " ", "\n\t", "\r  "];
            out.push_str(text);
            out.push_str(blanks[(*spaces >> 60) as usize % blanks.len()]);
        };
        match self {
            Json::Scalar { text, .. } => put(text, out),
            Json::Array(items) => {
                put("[", out);
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    item.write(spaces, out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                put("{", out);
                for (at, (name, value)) in members.iter().enumerate() {
                    let mut put = |text: &str, out: &mut String| scalar(text).write(spaces, out);
                    put(if at == 0 { "" } else { "," }, out);
                    put(&name.text, out);
                    put(":", out);
                    value.write(spaces, out);
                }
                out.push('}');
            }
        }
    }

    pub fn text(&self, mut spaces: u64) -> String {
        let mut out = String::new();
        self.write(&mut spaces, &mut out);
        out
    }

    pub fn children(&self) -> Vec<(Option<&Name>, &Json)> {
        match self {
            Json::Scalar { .. } => Vec::new(),
            Json::Array(items) => items.iter().map(|item| (None, item)).collect(),
            Json::Object(members) => {
                members.iter().map(|(name, item)| (Some(name), item)).collect()
            }
        }
    }
}

impl Event {
    pub fn key(&self) -> Option<String> {
        let key = self.key.clone()?;
        Some(self.beside_schema(key, |columns| columns))
    }

    /// A record's part alone or beside its schema, which `schema` makes of that of a row.
    fn beside_schema(&self, part: Json, schema: impl Fn(Value) -> Value) -> String {
        let Some(columns) = &self.schema else { return part.text(self.spaces) };
        let columns = columns.iter().map(|(name, default)| {
            json!({ "field": name.meaning, "type": "string", "default": default, "doc": DOC })
        });
        let row =
            json!({ "field": "after", "type": "struct", "fields": columns.collect::<Vec<_>>() });
        let schema = member("schema", scalar(schema(row).to_string()));
        Json::Object(vec![schema, member("payload", part)]).text(self.spaces)
    }

    pub fn value(&self, debezium: bool) -> String {
        if !debezium {
            return self.image.text(self.spaces);
        }
        let image = |image: &Json| match self.in_string {
            true => scalar(json!(image.text(self.spaces)).to_string()),
            false => image.clone(),
        };
        let names = ["db", "lsn", "query", "user_name"];
        let source = names.iter().zip(&self.source).map(|(name, leaf)| member(name, leaf.clone()));
        let mut parts = vec![
            member("extra", self.extra.clone()),
            member("after", image(&self.image)),
            member("source", Json::Object(source.collect())),
            member("op", scalar(json!(self.op).to_string())),
            member("ts_ms", scalar("1")),
        ];
        parts.extend(self.before.as_ref().map(|before| member("before", image(before))));
        let envelope = |row| json!({ "type": "struct", "fields": [row] });
        self.beside_schema(Json::Object(parts), envelope)
    }
}

pub fn marker() -> impl Strategy<Value = String> {
    (0..u64::MAX / 2).prop_map(|number| format!("9{number:019}")).no_shrink()
}

pub fn leaf() -> impl Strategy<Value = Json> {
    prop_oneof![
        5 => (marker(), select(&FORMS[..])).prop_map(|(marker, form)| Json::Scalar {
            text: form.replace('§', &marker).replace('¤', &marker[1..]),
            marker: Some(marker),
        }),
        1 => select(&PLAIN[..]).prop_map(scalar),
    ]
}

pub fn name() -> impl Strategy<Value = Name> {
    let known = (select(&NAMES[..]), any::<bool>()).prop_map(|(name, escaped)| {
        let (mut known, _) = member(name, scalar("0"));
        if escaped {
            let units: Vec<u16> = name.encode_utf16().collect();
            known.text = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            known.text = format!("\"{}\"", known.text);
        }
        known
    });
    let unknown = marker().prop_map(|marker| {
        let (name, _) = member(&format!("u{marker}"), scalar("0"));
        Name { marker: Some(marker), ..name }
    });
    prop_oneof![6 => known, 1 => unknown]
}

pub fn tree() -> impl Strategy<Value = Json> {
    leaf().prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..4).prop_map(Json::Array),
            2 => vec((name(), inner), 0..4).prop_map(Json::Object),
        ]
    })
}

pub fn image() -> impl Strategy<Value = Json> {
    let depth = prop_oneof![20 => Just(0), 1 => 100..130_usize];
    (vec((name(), tree()), 0..5), depth, tree()).prop_map(|(mut members, depth, tree)| {
        let deep = (0..depth).fold(tree, |inside, level| match level % 2 {
            0 => Json::Array(vec![inside]),
            _ => Json::Object(vec![member("b", inside)]),
        });
        if depth > 0 {
            members.push(member("a", deep));
        }
        Json::Object(members)
    })
}

pub fn event() -> impl Strategy<Value = Event> {
    let fields = vec((name(), prop_oneof![5 => leaf(), 1 => tree()]), 1..3);
    let key = prop_oneof![2 => Just(None), 1 => fields.prop_map(Some)];
    let columns = option::of(vec((name(), marker()), 0..3));
    let ops = select(&["c", "u", "u", "d", "r", "m"][..]);
    let envelope = (option::of(image()), ops, vec(leaf(), 4), tree(), columns, any::<bool>());
    (key, image(), envelope, prop_oneof![Just(0), any::<u64>()]).prop_map(
        |(key, image, (before, op, source, extra, schema, in_string), spaces)| Event {
            key: key.map(Json::Object),
            image,
            before,
            op,
            source,
            extra,
            schema,
            in_string,
            spaces,
        },
    )
}
