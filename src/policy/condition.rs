//! `where`: a CEL expression over the newest image, which alone decides whether a view gets an event.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, Env, ExecutionError, IdedExpr, Program, Value};

/// The variable that stands for the newest image.
const ROW: &str = "row";

/// Names that stand for types, as in `type(row.age) == int`.
const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// CEL's standard library. To declare it costs more than to evaluate: it is declared once.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression. It has no `Debug` of values, and its errors are never printed: they may quote them.
#[derive(Clone)]
pub struct Condition {
    text: String,
    program: Arc<Program>,
    /// The top-level fields of the row that it reads.
    reads: Vec<String>,
}

/// What an expression came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    True,
    False,
    /// It met a missing field or a value of a type it cannot handle; counts as not true.
    Error,
}

impl Condition {
    /// The error says what was expected.
    pub fn compile(text: &str) -> Result<Condition, String> {
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.errors.first().map(|error| {
                let message = error.msg.lines().next().unwrap_or_default();
                format!(" ({message}, at character {})", error.pos.1)
            });
            format!("a CEL expression{}", first.unwrap_or_default())
        })?;
        let references = program.references();
        let mut foreign: Vec<_> =
            references.variables().into_iter().filter(|name| *name != ROW).collect();
        // The macros' own variables come back as references: `@result`, and the names they bind.
        let mut bound = BTreeSet::new();
        let mut reads = BTreeSet::new();
        let mut whole = false;
        walk(program.expression(), &mut reads, &mut bound, &mut whole);
        foreign.retain(|name| !bound.contains(*name) && !TYPES.contains(name));
        if let Some(name) = foreign.first() {
            return Err(format!("`row` as the only variable, not `{name}`"));
        }
        if whole {
            return Err("fields of the row by name, such as `row.plan` or `has(row.plan)`".into());
        }
        if let Some(name) = references.functions().into_iter().find(|name| !is_function(name)) {
            return Err(format!("a function that CEL has, not `{name}`"));
        }
        let reads = reads.into_iter().collect();
        Ok(Condition { text: text.to_owned(), program: Arc::new(program), reads })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The top-level fields of the row that it reads.
    pub fn reads(&self) -> &[String] {
        &self.reads
    }

    /// `fields` are the row's fields that were there, with their JSON text.
    pub fn holds<'v>(&self, fields: impl Iterator<Item = (&'v str, &'v str)>) -> Verdict {
        let mut row = HashMap::new();
        for (name, text) in fields {
            let Ok(value) = serde_json::from_str(text) else { return Verdict::Error };
            // A field that stands twice could be read either way.
            if row.insert(name.to_owned(), cel_value(&value)).is_some() {
                return Verdict::Error;
            }
        }
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        context.add_variable_from_value(ROW, row);
        match self.program.execute(&context) {
            Ok(Value::Bool(true)) => Verdict::True,
            Ok(Value::Bool(false)) => Verdict::False,
            _ => Verdict::Error,
        }
    }
}

/// Whole numbers become `int`, so that `row.age >= 18` compares alike types.
fn cel_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (_, Some(uint)) => Value::UInt(uint),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::Array(items) => {
            Value::List(Arc::new(items.iter().map(cel_value).collect()))
        }
        serde_json::Value::Object(members) => {
            let map: HashMap<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), cel_value(value))).collect();
            Value::from(map)
        }
    }
}

/// Whether CEL's standard library has a function or method of that name. Operators, which have other characters
/// in their names, are its own.
fn is_function(name: &str) -> bool {
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let declared = |call: String| {
        let context = Context::with_env(Arc::clone(&STANDARD));
        let outcome = Program::compile(&call).map(|program| program.execute(&context));
        !matches!(outcome, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    !word || declared(format!("{name}()")) || declared(format!("''.{name}()"))
}

/// Collects which fields of the row are read; `whole` where the row is used other than by a named field.
fn walk(
    expr: &IdedExpr,
    reads: &mut BTreeSet<String>,
    bound: &mut BTreeSet<String>,
    whole: &mut bool,
) {
    match &expr.expr {
        Expr::Select(select) => {
            if matches!(&select.operand.expr, Expr::Ident(name) if name == ROW) {
                reads.insert(select.field.clone());
            } else {
                walk(&select.operand, reads, bound, whole);
            }
        }
        Expr::Ident(name) => *whole |= name == ROW,
        Expr::Call(call) => {
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                walk(part, reads, bound, whole);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(|part| walk(part, reads, bound, whole)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::StructField(field) => walk(&field.value, reads, bound, whole),
            EntryExpr::MapEntry(entry) => {
                walk(&entry.key, reads, bound, whole);
                walk(&entry.value, reads, bound, whole);
            }
        }),
        Expr::Struct(fields) => fields.entries.iter().for_each(|entry| match &entry.expr {
            EntryExpr::StructField(field) => walk(&field.value, reads, bound, whole),
            EntryExpr::MapEntry(entry) => walk(&entry.value, reads, bound, whole),
        }),
        Expr::Comprehension(comprehension) => {
            bound.insert(comprehension.iter_var.clone());
            bound.extend(comprehension.iter_var2.clone());
            bound.insert(comprehension.accu_var.clone());
            for part in [
                &comprehension.iter_range,
                &comprehension.accu_init,
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ] {
                walk(part, reads, bound, whole);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, fields: &[(&str, &str)]) -> Verdict {
        Condition::compile(text).unwrap().holds(fields.iter().copied())
    }

    #[test]
    fn reads_the_row() {
        let consent = [("consent", r#"{"analytics":true}"#), ("age", "18")];
        assert_eq!(holds("row.consent.analytics == true", &consent), Verdict::True);
        assert_eq!(holds("row.age >= 18 && row.age < 19.5", &consent), Verdict::True);
        assert_eq!(holds("row.age in [1, 2]", &consent), Verdict::False);
        assert_eq!(holds("['x'].exists(c, c == row.plan)", &[("plan", r#""x""#)]), Verdict::True);
    }

    #[test]
    fn what_is_missing_or_no_boolean_is_not_true() {
        assert_eq!(holds("row.consent.analytics", &[]), Verdict::Error);
        assert_eq!(holds("has(row.consent)", &[]), Verdict::False);
        assert_eq!(holds("row.age", &[("age", "1")]), Verdict::Error);
        assert_eq!(holds("row.age / 0 == 1", &[("age", "1")]), Verdict::Error);
        assert_eq!(holds("row.age == 1", &[("age", "1"), ("age", "1")]), Verdict::Error);
    }

    #[test]
    fn the_standard_functions_are_known() {
        for text in [
            "size(row.a) > 1 && row.a.size() > 1",
            "row.a.startsWith('x') || row.a.endsWith('x') || row.a.contains('x') || row.a.matches('x')",
            "int(row.a) == 1 && double(row.a) == 1.0 && string(row.a) == '1' && type(row.a) == int",
            "row.a.exists(x, x > 1) && row.a.all(x, x > 1) && !has(row.b) && row.a[0] in [1] && -row.c < 1",
        ] {
            assert!(
                Condition::compile(text).is_ok(),
                "{text}: {:?}",
                Condition::compile(text).err()
            );
        }
    }

    #[test]
    fn only_named_fields_of_the_row_are_read() {
        assert_eq!(
            Condition::compile("has(row.a.b) && row.c == 'x' && row.d.exists(e, e.f == row.g)")
                .unwrap()
                .reads(),
            ["a", "c", "d", "g"]
        );
        for text in [
            "row.",
            "hide(row.a)",
            "row.a.hide()",
            "after.x == 1",
            "size(row) > 1",
            "row['a'] == 1",
            "1 +",
        ] {
            assert!(Condition::compile(text).is_err(), "{text}");
        }
    }
}
