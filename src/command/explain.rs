//! `veilstream explain`: why a field gets what it gets.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use super::{Exit, OrUsage};
use crate::keys::Keyset;
use crate::operator::nearest;
use crate::policy::{
    Chosen, DEAD, Field, Path, Plan, Policy, Rule, Segment, StateId, Unclassified, View,
};

/// Say why a field gets what it gets in each view: its class, the treatment, and where both stand
#[derive(Args)]
pub struct Explain {
    /// The policy file
    policy: PathBuf,
    /// The field as a row has it, such as `contacts[0].phone`, or as a policy writes it
    path: String,
    /// This view alone
    #[arg(long)]
    view: Option<String>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(self) -> Result<(), Exit> {
        let policy = Arc::new(super::policy(&self.policy)?.without_pins());
        let views = || policy.views.iter().map(|view| view.name.as_str());
        if let Some(wanted) = &self.view
            && !views().any(|view| view == wanted)
        {
            let names = views().collect::<Vec<_>>().join(", ");
            return Err(Exit::Usage(anyhow!("no view is called `{wanted}`; there is {names}")));
        }
        let path = Path::parse(&without_indexes(&self.path))
            .map_err(|expected| anyhow!("`{}`: {expected} was expected", self.path))
            .or_usage()?;
        // Keys of no further use: the paths alone count.
        let plan = Plan::compile(Arc::clone(&policy), &Keyset::generate()).or_usage()?;
        let leaf = plan.state(at(&plan, &path)).leaf.and_then(|leaf| plan.leaf(leaf));
        let field = leaf.and_then(|leaf| policy.fields.get(leaf.field));
        let views = policy.views.iter();
        let views =
            views.filter(|view| self.view.as_ref().is_none_or(|wanted| *wanted == view.name));
        let views: Vec<&View> = views.collect();
        let mut out = std::io::stdout().lock();
        if self.json {
            let report = report(&policy, &path, field, &views);
            writeln!(out, "{report:#}")?;
            return Ok(());
        }
        let Some(field) = field else {
            let what = match policy.unclassified {
                Unclassified::Drop => "no view gets it",
                Unclassified::Quarantine => "an event that has it goes to quarantine",
            };
            writeln!(out, "{path} is named by no path of `fields`: {what}")?;
            let names: Vec<String> =
                policy.fields.iter().map(|field| field.path.to_string()).collect();
            if let Some(near) = nearest(&path.to_string(), names.iter().map(String::as_str)) {
                writeln!(out, "did you mean `{near}`?")?;
            }
            return Ok(());
        };
        writeln!(
            out,
            "{path} is of class {}, by the path `{}` of `fields`",
            field.class, field.path
        )?;
        if policy.subject.as_ref() == Some(&field.path) {
            writeln!(out, "it says whose row it is")?;
        }
        for view in views {
            writeln!(out, "\nview {} ({})", view.name, view.topic)?;
            for line in lines(&policy, view, field) {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// `contacts[0].phone` as `contacts[].phone`.
fn without_indexes(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('[') {
        let digits = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        out.push('[');
        rest = if digits.starts_with(']') { digits } else { behind };
    }
    out + rest
}

/// Where a path leads; a `*` stands for a name that no rule says.
fn at(plan: &Plan, path: &Path) -> StateId {
    path.0.iter().fold(plan.row, |state, segment| match segment {
        Segment::Name(name) => plan.step(state, name),
        Segment::Element => plan.state(state).element.unwrap_or(DEAD),
        Segment::AnyName | Segment::AnyDepth => plan.state(state).other.unwrap_or(DEAD),
    })
}

/// Whether the treatment is the class's, and what else has to do with the field.
fn lines(policy: &Policy, view: &View, field: &Field) -> Vec<String> {
    let Some(chosen) = view.field(field) else {
        return vec!["nothing: it has no treatment".into()];
    };
    let Chosen { spec, text, at, .. } = chosen;
    let mut lines = vec![format!("{text}, by {} ({at})", origin(view, field))];
    lines.push(spec.summary.to_owned());
    let yes_no = |yes| if yes { "yes" } else { "no" };
    lines.push(format!(
        "with the key to be had back: {}; same value, same result: {}",
        yes_no(spec.reversible),
        yes_no(spec.deterministic)
    ));
    if let Some(rule) = &view.rule
        && rule.paths().contains(&&field.path)
    {
        lines.push(match rule {
            Rule::Groups(anonymize) => {
                let settings = &anonymize.settings;
                let (k, seconds) = (settings.k, settings.delay / 1000);
                let sensitive = anonymize.sensitive.contains(&field.path);
                let what = if sensitive {
                    "what it is counts for the diversity of groups of"
                } else {
                    "rows wait until it is alike, or generalized alike, for"
                };
                format!("{what} at least {k} people, {seconds} s at most; else they are suppressed")
            }
            Rule::Windows(aggregate) => {
                let settings = &aggregate.settings;
                let (least, seconds) = (settings.least, settings.windows.size / 1000);
                format!("figures over windows of {seconds} s, of groups of at least {least} people")
            }
        });
    }
    if let Some(condition) = &view.condition {
        let first = field.path.0.first();
        let read = |name: &String| first == Some(&Segment::Name(name.clone()));
        if condition.reads().iter().any(read) {
            lines.push(format!("`where: {}` reads it as it is", condition.text()));
        }
    }
    let domain = chosen.domain.clone().unwrap_or_else(|| policy.domain(view, &field.class));
    if matches!(chosen.treatment, crate::operator::Treatment::Keyed(_)) {
        lines.push(format!("under a key, in the domain `{domain}`"));
    }
    lines
}

fn origin(view: &View, field: &Field) -> String {
    let of_rule = view.rule.as_ref().filter(|rule| {
        let looked_at = rule.looks(&field.path).is_some();
        !looked_at && rule.paths().contains(&&field.path)
    });
    match of_rule {
        Some(rule) => format!("`{}` of the view", rule.name()),
        None if view.fields.iter().any(|(path, _)| *path == field.path) => {
            "`fields` of the view, for this path".into()
        }
        None => format!("the view's treatment of class {}", field.class),
    }
}

fn report(policy: &Policy, path: &Path, field: Option<&Field>, views: &[&View]) -> Value {
    let of = |view: &&View| {
        let field = field?;
        let chosen = view.field(field)?;
        Some(json!({
            "view": view.name, "topic": view.topic, "treatment": chosen.text, "operator": chosen.spec.name,
            "by": origin(view, field), "at": chosen.at, "reversible": chosen.spec.reversible,
            "deterministic": chosen.spec.deterministic, "explained": lines(policy, view, field),
        }))
    };
    json!({
        "policy": policy.label(),
        "path": path.to_string(),
        "class": field.map(|field| &field.class),
        "by": field.map(|field| field.path.to_string()),
        "views": views.iter().filter_map(of).collect::<Vec<_>>(),
    })
}
