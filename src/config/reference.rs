//! The options as data: JSON Schema for editors, and the table of docs/configuration.md.

use serde_json::Value;

use super::{Config, ENVIRONMENT};

/// The JSON Schema of `worker.yaml` (draft 2020-12).
pub fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// How the value of an environment variable becomes one of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it stands.
    Text,
    /// As YAML.
    Other,
}

/// One option.
#[derive(Debug)]
pub struct Setting {
    /// Such as `kafka.bootstrap`; `*` stands for a name that the user chooses.
    pub path: String,
    pub kind: Kind,
    /// In words, with the unit.
    pub takes: String,
    /// As YAML; none where the option is required, or unset by default.
    pub default: Option<String>,
    pub required: bool,
    /// What a reload takes up of it.
    pub reload: String,
    pub description: String,
}

/// All options, in the order of the types.
pub struct Reference {
    pub options: Vec<Setting>,
}

impl Reference {
    #[must_use]
    pub fn new() -> Reference {
        let schema = schema();
        let mut reference = Reference { options: Vec::new() };
        reference.members("", &schema, &schema);
        reference
    }

    /// The environment variable that overrides an option.
    pub fn environment(option: &str) -> String {
        format!("{ENVIRONMENT}{}", option.to_uppercase().replace('.', "__"))
    }

    /// Takes in the options of a mapping. `all` holds the definitions.
    fn members(&mut self, path: &str, mapping: &Value, all: &Value) {
        let required = |name: &str| {
            let names = mapping["required"].as_array().into_iter().flatten();
            names.filter_map(Value::as_str).any(|required| required == name)
        };
        for (name, property) in mapping["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let node = resolve(property, all);
            self.options.push(Setting {
                kind: match types(node).any(|one| one == "string") || words(node).is_some() {
                    true => Kind::Text,
                    false => Kind::Other,
                },
                takes: takes(property, node),
                default: property.get("default").filter(|default| !default.is_null()).map(yaml),
                required: required(name),
                reload: text(property, "x-reload").unwrap_or("restart").to_owned(),
                description: description(property, node),
                path: path.clone(),
            });
            if is_secret(node) {
                continue;
            }
            self.members(&path, node, all);
            if let Some(each) = node.get("additionalProperties").filter(|each| each.is_object()) {
                self.members(&format!("{path}.*"), resolve(each, all), all);
            }
        }
    }

    /// The tables of docs/configuration.md: what stands alone first, then each mapping.
    pub fn markdown(&self) -> String {
        let top = |option: &Setting| !option.path.contains('.');
        let (alone, mappings): (Vec<_>, Vec<_>) = self
            .options
            .iter()
            .filter(|option| top(option))
            .partition(|option| option.takes != MAPPING);
        let mut page = String::from("### The worker\n\n");
        table(&mut page, alone);
        for mapping in mappings {
            page += &format!("\n### `{}`\n\n{}\n\n", mapping.path, mapping.description);
            let inside = format!("{}.", mapping.path);
            let members = self.options.iter().filter(|option| option.path.starts_with(&inside));
            table(&mut page, members);
        }
        page
    }
}

fn table<'s>(page: &mut String, options: impl IntoIterator<Item = &'s Setting>) {
    *page += "| option | takes | default | reload | meaning |\n";
    *page += "| --- | --- | --- | --- | --- |\n";
    for Setting { path, takes, default, required, reload, description, .. } in options {
        let default = match (default, required) {
            (_, true) => "required".to_owned(),
            (Some(default), _) => format!("`{default}`"),
            (None, false) => "unset".to_owned(),
        };
        *page += &format!("| `{path}` | {takes} | {default} | {reload} | {description} |\n");
    }
}

impl Default for Reference {
    fn default() -> Self {
        Reference::new()
    }
}

const MAPPING: &str = "mapping";

/// The node itself, or what it refers to; of something optional, what it is when it is there.
fn resolve<'s>(node: &'s Value, all: &'s Value) -> &'s Value {
    let some = node["anyOf"].as_array().into_iter().flatten();
    let target = some.chain([node]).find_map(|one| text(one, "$ref"));
    let found = target.and_then(|target| all.pointer(target.trim_start_matches('#')));
    found.unwrap_or(node)
}

fn text<'s>(node: &'s Value, name: &str) -> Option<&'s str> {
    node.get(name)?.as_str()
}

/// The names of its types but `null`.
fn types(node: &Value) -> impl Iterator<Item = &str> {
    let several = node["type"].as_array().into_iter().flatten();
    several.chain(node.get("type")).filter_map(Value::as_str).filter(|name| *name != "null")
}

/// The words to choose from, each with its meaning.
fn words(node: &Value) -> Option<Vec<(&str, &str)>> {
    let choices = node["oneOf"].as_array()?;
    let word = |choice| Some((text(choice, "const")?, text(choice, "description").unwrap_or("")));
    choices.iter().map(word).collect()
}

fn is_secret(node: &Value) -> bool {
    text(node, "title") == Some("Secret")
}

fn takes(property: &Value, node: &Value) -> String {
    let unit = text(property, "x-unit").map(|unit| format!(", {unit}")).unwrap_or_default();
    if is_secret(node) {
        return "secret".into();
    }
    if let Some(words) = words(node) {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let least = node.get("minimum").and_then(Value::as_u64).filter(|least| *least > 0);
    match types(node).next() {
        Some("integer") => match least {
            Some(least) => format!("number from {least}{unit}"),
            None => format!("number{unit}"),
        },
        Some("number") => "number".into(),
        Some("boolean") => "`true`, `false`".into(),
        Some("array") => "list".into(),
        Some("object") => MAPPING.into(),
        _ => "text".into(),
    }
}

/// What the option is for; of words, what each of them means.
fn description(property: &Value, node: &Value) -> String {
    let own = text(property, "description").or_else(|| text(node, "description"));
    let mut all = own.unwrap_or_default().replace('\n', " ");
    for (word, meaning) in words(node).unwrap_or_default() {
        all += &format!(" `{word}`: {}", meaning.replace('\n', " "));
    }
    all.replace('|', "\\|")
}

fn yaml(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
