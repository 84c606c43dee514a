//! `veilstream check`: every mistake of a policy, or what each audience gets of each field.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;

use super::{Exit, OrUsage, events};
use crate::keys::Keyset;
use crate::policy::roles::{Approval, Role, Roles};
use crate::policy::{
    DEAD, Diagnostic, Diagnostics, Format, KeyRule, Pin, Plan, Policy, StateId, conflicts,
};

/// Validate policies, and show what each audience gets of each field
#[derive(Args)]
pub struct Check {
    /// Policy files
    #[arg(required = true)]
    policies: Vec<PathBuf>,
    /// The file of roles: checked against these policies, which are all of the deployment then
    #[arg(long)]
    roles: Option<PathBuf>,
    /// Events to compare with: says which paths match nothing there, and which fields no path names
    #[arg(long)]
    sample: Option<PathBuf>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> Result<(), Exit> {
        let mut wrong = Vec::new();
        let mut policies = Vec::new();
        for file in &self.policies {
            match Policy::load(file) {
                Ok(policy) => policies.push((file, policy)),
                Err(diagnostics) => wrong.extend(diagnostics.0),
            }
        }
        if !wrong.is_empty() {
            return self.wrong(wrong);
        }
        let read: Vec<&Policy> = policies.iter().map(|(_, policy)| policy).collect();
        let conflicts = conflicts(&read, &[]);
        if !conflicts.is_empty() {
            if self.json {
                let report = serde_json::json!({ "valid": false, "conflicts": conflicts });
                writeln!(std::io::stdout(), "{report:#}")?;
            } else {
                eprintln!("{}", conflicts.join("\n"));
            }
            return Err(Exit::Refused);
        }
        let roles = self.roles.as_deref().map(|file| Roles::load(file, &read)).transpose();
        let roles = match roles {
            Ok(roles) => roles,
            Err(diagnostics) => return self.wrong(diagnostics.0),
        };
        let sample = self.sample.as_deref().map(events::read).transpose().or_usage()?;
        let mut reports = Vec::new();
        for (file, policy) in policies {
            let policy = Arc::new(policy);
            // Keys of no further use: the paths alone are compared.
            let unpinned = Arc::new(Policy::clone(&policy).without_pins());
            let plan = Plan::compile(unpinned, &Keyset::generate()).or_usage()?;
            let compared = sample.as_ref().map(|events| Comparison::of(&plan, events));
            if self.json {
                reports.push(json(&policy, compared.as_ref()));
            } else {
                print(file, &policy, compared.as_ref())?;
            }
        }
        if self.json {
            let roles = roles.map(|all| all.roles.iter().map(role_json).collect::<Vec<_>>());
            let mut report = serde_json::json!({ "valid": true, "policies": reports });
            if let (Some(roles), Some(report)) = (roles, report.as_object_mut()) {
                report.insert("roles".into(), roles.into());
            }
            writeln!(std::io::stdout(), "{report:#}")?;
        } else if let Some(roles) = &roles {
            print_roles(roles)?;
        }
        Ok(())
    }

    fn wrong(&self, diagnostics: Vec<Diagnostic>) -> Result<(), Exit> {
        if self.json {
            let report = serde_json::json!({ "valid": false, "diagnostics": diagnostics });
            writeln!(std::io::stdout(), "{report:#}")?;
        } else {
            eprintln!("{}", Diagnostics(diagnostics));
        }
        Err(Exit::Refused)
    }
}

/// Which keys a view keeps, and how long.
fn pinned(pin: &Pin) -> String {
    let of = [("token", pin.token), ("deterministic", pin.deterministic)];
    let of: Vec<String> = of
        .iter()
        .filter_map(|(name, version)| version.map(|version| format!("{name} {version}")))
        .collect();
    let over = if pin.ends_s < jiff::Timestamp::now().as_second() { ": over" } else { "" };
    format!("{}, until {}{over}", of.join(", "), pin.until)
}

/// What a role may reveal, in words.
fn grants(role: &Role) -> Vec<String> {
    let grant = |((class, purpose), approval): (&(String, String), &Approval)| match approval {
        Approval::No => format!("{class} for {purpose}"),
        Approval::Needed => format!("{class} for {purpose}, with approval"),
    };
    role.reveals.iter().map(grant).collect()
}

fn role_json(role: &Role) -> Value {
    let views: Vec<String> = role.views.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "role": role.name, "parent": role.parent, "views": views, "reveals": grants(role),
        "erase": role.erase, "quarantine": role.quarantine, "principals": role.principals,
    })
}

fn also(role: &Role) -> Vec<&'static str> {
    let erase = role.erase.then_some("have people forgotten");
    erase.into_iter().chain(role.quarantine.then_some("open quarantine")).collect()
}

fn print_roles(roles: &Roles) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} is valid: {} roles", roles.file.display(), roles.roles.len())?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["role", "part of", "reads", "may reveal", "and may"]);
    for role in &roles.roles {
        let views: Vec<String> = role.views.iter().map(ToString::to_string).collect();
        table.add_row([
            role.name.clone(),
            role.parent.clone().unwrap_or_default(),
            views.join("\n"),
            grants(role).join("\n"),
            also(role).join("\n"),
        ]);
    }
    writeln!(out, "{table}")
}

fn print(file: &Path, policy: &Policy, compared: Option<&Comparison>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} is valid: policy {}", file.display(), policy.label())?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let views = policy.views.iter().map(|view| view.name.clone());
    table.set_header(["field".to_owned(), "class".to_owned()].into_iter().chain(views));
    for field in &policy.fields {
        let treated = policy
            .views
            .iter()
            .map(|view| view.field(field).map_or("", |chosen| &chosen.text).to_owned());
        table.add_row([field.path.to_string(), field.class.clone()].into_iter().chain(treated));
    }
    let of = |name: &str, of: &dyn Fn(&crate::policy::View) -> String| {
        let cells = policy.views.iter().map(of);
        [name.to_owned(), String::new()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    table.add_row(of("(record key)", &|view| key_rule(view.key).to_owned()));
    table.add_row(of("(topic)", &|view| view.topic.clone()));
    if policy.views.iter().any(|view| !view.readers.is_empty()) {
        table.add_row(of("(readers)", &|view| view.readers.join(", ")));
    }
    if policy.views.iter().any(|view| view.pin.is_some()) {
        table
            .add_row(of("(earlier keys)", &|view| view.pin.as_ref().map_or(String::new(), pinned)));
    }
    if policy.views.iter().any(|view| view.condition.is_some()) {
        table.add_row(of("(where)", &|view| {
            view.condition.as_ref().map_or(String::new(), |condition| condition.text().to_owned())
        }));
    }
    for name in ["anonymize", "aggregate"] {
        let of_rule = |view: &crate::policy::View| {
            let rule = view.rule.as_ref().filter(|rule| rule.name() == name);
            rule.map_or(String::new(), |rule| rule.text().to_owned())
        };
        if policy.views.iter().any(|view| !of_rule(view).is_empty()) {
            table.add_row(of(&format!("({name})"), &of_rule));
        }
    }
    writeln!(out, "{table}")?;
    for warning in &policy.warnings {
        writeln!(out, "{warning}")?;
    }
    if let Some(compared) = compared {
        writeln!(
            out,
            "sample: {} events, {} of them unreadable",
            compared.events, compared.unreadable
        )?;
        for path in &compared.unmatched {
            writeln!(out, "  matches nothing in the sample: {path}")?;
        }
        for (path, count) in &compared.unclassified {
            let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
            writeln!(out, "  unclassified in the sample: {} ({times})", super::printable(path))?;
        }
        if compared.unmatched.is_empty() && compared.unclassified.is_empty() {
            writeln!(out, "  every path matches, and every field is classified")?;
        }
    }
    Ok(())
}

fn key_rule(rule: KeyRule) -> &'static str {
    match rule {
        KeyRule::Fields => "as its fields",
        KeyRule::Tokenize => "tokenize",
        KeyRule::Drop => "drop",
    }
}

fn json(policy: &Policy, compared: Option<&Comparison>) -> Value {
    let fields = policy.fields.iter().map(|field| {
        let views = policy.views.iter();
        let views: BTreeMap<&str, &str> = views
            .filter_map(|view| Some((view.name.as_str(), view.field(field)?.text.as_str())))
            .collect();
        serde_json::json!({ "path": field.path.to_string(), "class": field.class, "views": views })
    });
    let rules = policy.views.iter().filter_map(|view| {
        let rule = view.rule.as_ref()?;
        Some((view.name.clone(), serde_json::json!({ rule.name(): rule.text() })))
    });
    let rules: serde_json::Map<String, Value> = rules.collect();
    let mut report = serde_json::json!({
        "policy": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "fields": Value::from_iter(fields),
        "warnings": policy.warnings,
    });
    if let (false, Some(report)) = (rules.is_empty(), report.as_object_mut()) {
        report.insert("of_many".into(), rules.into());
    }
    if let (Some(compared), Some(report)) = (compared, report.as_object_mut()) {
        report.insert(
            "sample".into(),
            serde_json::json!({
                "events": compared.events,
                "unreadable": compared.unreadable,
                "unmatched": compared.unmatched,
                "unclassified": compared.unclassified,
            }),
        );
    }
    report
}

/// A policy beside real events.
struct Comparison {
    events: usize,
    unreadable: usize,
    unmatched: Vec<String>,
    unclassified: BTreeMap<String, usize>,
}

impl Comparison {
    fn of(plan: &Plan, events: &[String]) -> Comparison {
        let mut met = BTreeSet::new();
        let mut compared = Comparison {
            events: events.len(),
            unreadable: 0,
            unmatched: Vec::new(),
            unclassified: BTreeMap::new(),
        };
        for event in events {
            let rows = serde_json::from_str(event).map(|event| rows(plan.policy.format, event));
            let rows = rows.unwrap_or_default();
            compared.unreadable += usize::from(rows.is_empty());
            for row in rows {
                compared.walk(plan, plan.row, &row, "", &mut met);
            }
        }
        let fields = plan.policy.fields.iter().enumerate();
        let missed = fields.filter(|(number, _)| !met.contains(number));
        compared.unmatched = missed.map(|(_, field)| field.path.to_string()).collect();
        compared
    }

    fn walk(
        &mut self,
        plan: &Plan,
        at: StateId,
        value: &Value,
        path: &str,
        met: &mut BTreeSet<usize>,
    ) {
        let state = plan.state(at);
        let leaf = state.leaf.and_then(|leaf| plan.leaf(leaf));
        if let Some(leaf) = leaf {
            met.insert(leaf.field);
        }
        let inside =
            state.descends || at == plan.row || leaf.is_some_and(|leaf| leaf.values.keep != 0);
        match value {
            Value::Object(members) if inside => {
                for (name, value) in members {
                    let path =
                        if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let to = plan.step(at, name);
                    self.walk(plan, to, value, &path, met);
                }
            }
            Value::Array(items) if inside => {
                let to = state.element.unwrap_or(DEAD);
                items
                    .iter()
                    .for_each(|value| self.walk(plan, to, value, &format!("{path}[]"), met));
            }
            _ if leaf.is_none() && !(value.is_null() && state.descends) => {
                *self.unclassified.entry(path.to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }
}

/// The row images of an event.
fn rows(format: Format, event: Value) -> Vec<Value> {
    let object = |value: Value| match value {
        Value::Object(_) => Some(value),
        // MongoDB's images.
        Value::String(text) => serde_json::from_str(&text).ok().filter(Value::is_object),
        _ => None,
    };
    match (format, event) {
        (Format::Json, event) => object(event).into_iter().collect(),
        (Format::Debezium, mut event) => {
            let mut event = match event.get_mut("payload") {
                Some(payload) => payload.take(),
                None => event,
            };
            let images = ["before", "after"].map(|name| event.get_mut(name).map(Value::take));
            images.into_iter().flatten().filter_map(object).collect()
        }
    }
}
