//! `veilstream operators`: the reference of all treatments, printed from the code.

use std::io::Write;

use clap::Args;

use super::Exit;
use crate::operator::{self, Spec};

/// Document the treatments that a view can choose from
#[derive(Args)]
pub struct Operators {
    /// Only this one
    name: Option<String>,
    /// As a Markdown page
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// For scripts
    #[arg(long)]
    json: bool,
}

impl Operators {
    pub fn run(self) -> Result<(), Exit> {
        let chosen: Vec<&Spec> = match &self.name {
            None => operator::SPECS.to_vec(),
            Some(name) => match operator::find(name) {
                Some(spec) => vec![spec],
                None => {
                    let near =
                        operator::nearest(name, operator::SPECS.iter().map(|spec| spec.name));
                    let near =
                        near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
                    return Err(Exit::Usage(anyhow::anyhow!(
                        "no operator is called `{name}`{near}"
                    )));
                }
            },
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(
                out,
                "{:#}",
                serde_json::Value::from_iter(chosen.iter().map(|spec| json(spec)))
            )?;
        } else if self.markdown {
            write!(out, "{}", markdown(&chosen))?;
        } else {
            for spec in chosen {
                text(&mut out, spec)?;
            }
        }
        Ok(())
    }
}

/// `a deterministic, reversible` and the like.
fn properties(spec: &Spec) -> String {
    let yes = |flag: bool, word: &'static str| flag.then_some(word);
    let all = [
        yes(spec.deterministic, "deterministic"),
        yes(spec.reversible, "reversible"),
        yes(spec.distinct, "fit for record keys"),
        yes(spec.of_subject, "takes a `subject`"),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn text(out: &mut impl Write, spec: &Spec) -> std::io::Result<()> {
    writeln!(out, "{}  [{}]", spec.name, spec.family.name())?;
    writeln!(out, "    {}", spec.summary)?;
    writeln!(
        out,
        "    takes {}; gives {}; properties: {}",
        spec.takes.name(),
        spec.gives.name(),
        properties(spec)
    )?;
    for parameter in spec.parameters {
        writeln!(
            out,
            "    {}: {} (default: {})",
            parameter.name, parameter.doc, parameter.default
        )?;
    }
    for example in spec.examples.iter().filter(|example| !example.output.is_empty()) {
        writeln!(out, "    e.g. `{}`: {} -> {}", example.policy, example.input, example.output)?;
    }
    writeln!(out)
}

/// The reference page, `docs/operators.md`.
fn markdown(specs: &[&Spec]) -> String {
    let mut page = String::from(
        "# Operators\n\nWhat a view can do with a class or a field. Printed by `veilstream operators --markdown`.\n\n\
         A null stays null unless the view says `nulls: treat`, or the operator is `drop`. Operators that use a key \
         (`encrypt`, `tokenize`, `hash`, `fake`, `shift_date`) also take `domain: NAME`: values treated in one domain \
         match each other, values of different domains never do. By default a domain is the policy, the view and the \
         class; that of `shift_date` is the policy and the view.\n",
    );
    for spec in specs {
        page += &format!("\n## {}\n\n{}\n\n", spec.name, spec.summary);
        page += &format!("- family: {}\n- takes: {}\n", spec.family.name(), spec.takes.name());
        page += &format!("- gives: {}\n- properties: {}\n", spec.gives.name(), properties(spec));
        if !spec.parameters.is_empty() {
            page += "\n| parameter | default | meaning |\n| --- | --- | --- |\n";
            for parameter in spec.parameters {
                let doc = parameter.doc.replace('|', "\\|");
                page += &format!("| `{}` | {} | {doc} |\n", parameter.name, parameter.default);
            }
        }
        let shown: Vec<_> =
            spec.examples.iter().filter(|example| !example.output.is_empty()).collect();
        if !shown.is_empty() {
            page += "\n| policy | in | out |\n| --- | --- | --- |\n";
            for example in shown {
                page += &format!(
                    "| `{}` | `{}` | `{}` |\n",
                    example.policy, example.input, example.output
                );
            }
        }
    }
    page
}

fn json(spec: &Spec) -> serde_json::Value {
    let parameters = spec.parameters.iter().map(|parameter| {
        serde_json::json!({"name": parameter.name, "default": parameter.default, "doc": parameter.doc})
    });
    serde_json::json!({
        "name": spec.name,
        "family": spec.family.name(),
        "summary": spec.summary,
        "takes": spec.takes.name(),
        "gives": spec.gives.name(),
        "reversible": spec.reversible,
        "deterministic": spec.deterministic,
        "distinct": spec.distinct, "of_subject": spec.of_subject,
        "parameters": serde_json::Value::from_iter(parameters),
    })
}
