//! Numbers as the range that they lie in.

use marked_yaml::Node;

use crate::json::{Value, write_string};
use crate::operator::decimal::{Decimal, decimal_text};
use crate::operator::{Arguments, Operator, Refusal, Scratch, shape};

/// Reads `numbers`: a width or a list of borders.
pub(super) fn build(arguments: &mut Arguments<'_>, node: &Node) -> Option<Box<dyn Operator>> {
    match node {
        Node::Scalar(width) => {
            let read = Decimal::parse(width.as_str()).and_then(|width| Width::new(&width));
            if read.is_none() {
                let expected = "a width above 0 with at most 18 digits before and behind the point, or a list \
                                of borders: `numbers: [0, 18, 65]`";
                arguments.problem(node.span(), shape(node), expected);
            }
            Some(Box::new(read?))
        }
        Node::Sequence(list) => {
            let mut borders: Vec<(Decimal, String)> = Vec::new();
            for node in list.iter() {
                let text = node.as_scalar().map_or("", |border| border.as_str()).trim();
                let Some(border) = Decimal::parse(text) else {
                    arguments.problem(
                        node.span(),
                        shape(node),
                        "a number, as a border of `numbers`",
                    );
                    return None;
                };
                if let Some((_, before)) = borders.last().filter(|(before, _)| *before >= border) {
                    let expected = format!("a border above {before}: borders ascend");
                    arguments.problem(node.span(), shape(node), expected);
                    return None;
                }
                borders.push((border, text.to_owned()));
            }
            if borders.is_empty() {
                arguments.problem(list.span(), "an empty list", "one border or more for `numbers`");
                return None;
            }
            Some(Box::new(Borders::new(borders)))
        }
        Node::Mapping(_) => {
            let expected = "a width or a list of borders for `numbers`";
            arguments.problem(node.span(), shape(node), expected);
            None
        }
    }
}

/// The range of integers from `from` up to but without `to`; `None` where a sign would be taken for a dash.
fn integers(from: i128, to: i128) -> Option<String> {
    let last = to.checked_sub(1)?;
    match from {
        ..0 => None,
        _ if from == last => Some(from.to_string()),
        _ => Some(format!("{from}-{last}")),
    }
}

/// Ranges of one width, from 0 up and down.
struct Width {
    /// The width without its point.
    units: i128,
    /// How many digits stand behind the point.
    places: i64,
}

impl Width {
    fn new(width: &Decimal) -> Option<Self> {
        const MOST: i128 = 10_i128.pow(18);
        let places = width.places();
        let fits = width.is_positive() && places <= 18 && width.floor(0)? < MOST;
        if fits { Some(Width { units: width.floor(places)?, places }) } else { None }
    }

    fn range(&self, number: &Decimal) -> Option<String> {
        let floor = number.floor(self.places)?;
        let from = floor.div_euclid(self.units).checked_mul(self.units)?;
        let to = from.checked_add(self.units)?;
        let whole = self.places == 0 && number.is_integer();
        whole.then(|| integers(from, to)).flatten().or_else(|| {
            Some(format!("[{},{})", decimal_text(from, self.places), decimal_text(to, self.places)))
        })
    }
}

impl Operator for Width {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let number = Decimal::of(value, &mut scratch.text)?;
        write_string(out, &self.range(&number).ok_or(Refusal::NotANumber)?);
        Ok(())
    }
}

/// Ranges between borders; a border belongs to the range above it.
struct Borders {
    borders: Vec<Decimal>,
    /// The range below each border, and that above the last.
    ranges: Vec<Range>,
}

/// What a range is called.
struct Range {
    /// For an integer.
    integers: String,
    /// For any other number.
    numbers: String,
}

impl Borders {
    /// `borders` ascend, each with its text.
    fn new(borders: Vec<(Decimal, String)>) -> Self {
        let open = |text: String| Range { integers: text.clone(), numbers: text };
        let mut ranges = Vec::new();
        let mut before: Option<&(Decimal, String)> = None;
        for border in &borders {
            let (to, to_text) = border;
            ranges.push(match before {
                None => open(format!("<{to_text}")),
                Some((from, from_text)) => {
                    let numbers = format!("[{from_text},{to_text})");
                    let range = from.integer().zip(to.integer());
                    let integers = range.and_then(|(from, to)| integers(from, to));
                    Range { integers: integers.unwrap_or_else(|| numbers.clone()), numbers }
                }
            });
            before = Some(border);
        }
        if let Some((_, text)) = before {
            ranges.push(open(format!(">={text}")));
        }
        Borders { borders: borders.into_iter().map(|(border, _)| border).collect(), ranges }
    }
}

impl Operator for Borders {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let number = Decimal::of(value, &mut scratch.text)?;
        let place = self.borders.partition_point(|border| *border <= number);
        let range = self.ranges.get(place).ok_or(Refusal::NotANumber)?;
        write_string(out, if number.is_integer() { &range.integers } else { &range.numbers });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_fall_between_borders() {
        assert_gives(
            "generalize: { numbers: [0, 18, 65] }",
            &[
                ("-1", "<0"),
                ("0", "0-17"),
                ("17", "0-17"),
                ("18", "18-64"),
                ("64", "18-64"),
                ("65", ">=65"),
                ("99999999999999999999", ">=65"),
                ("-99999999999999999999", "<0"),
                ("1e400", ">=65"),
                ("\"42\"", "18-64"),
                ("\" 42 \"", "18-64"),
                ("42.0", "18-64"),
                ("-0", "0-17"),
                (r#""\u0034\u0032""#, "18-64"),
            ],
        );
        assert_gives("generalize: { numbers: [18] }", &[("17", "<18"), ("18", ">=18")]);
        assert_gives(
            "generalize: { numbers: [-5, 0, 1] }",
            &[("-3", "[-5,0)"), ("0", "0"), ("1", ">=1")],
        );
    }

    #[test]
    fn other_numbers_are_half_open() {
        assert_gives(
            "generalize: { numbers: [0, 18, 65] }",
            &[
                ("18.5", "[18,65)"),
                ("17.99999999999999999999999999", "[0,18)"),
                ("64.5", "[18,65)"),
                ("65.1", ">=65"),
                ("-0.1", "<0"),
                ("1e-400", "[0,18)"),
            ],
        );
        assert_gives(
            "generalize: { numbers: [0.5, 1.5] }",
            &[("1", "[0.5,1.5)"), ("0.5", "[0.5,1.5)")],
        );
    }

    #[test]
    fn widths_are_exact() {
        assert_gives(
            "generalize: { numbers: 10 }",
            &[
                ("34", "30-39"),
                ("30", "30-39"),
                ("39", "30-39"),
                ("0", "0-9"),
                ("34.5", "[30,40)"),
                ("-1", "[-10,0)"),
                ("-10", "[-10,0)"),
                ("-10.5", "[-20,-10)"),
                ("-0.5", "[-10,0)"),
                ("9223372036854775807", "9223372036854775800-9223372036854775809"),
                ("99999999999999999999", "99999999999999999990-99999999999999999999"),
            ],
        );
        assert_gives("generalize: { numbers: 1 }", &[("5", "5"), ("5.5", "[5,6)")]);
        assert_gives(
            "generalize: { numbers: 0.25 }",
            &[("0.3", "[0.25,0.5)"), ("1", "[1,1.25)"), ("-0.1", "[-0.25,0)")],
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for input in ["\"\"", "\"a\"", "\"张伟\"", "\"٣\"", "\"1,000\"", "\"NaN\""] {
            assert_refuses("generalize: { numbers: 10 }", input, Refusal::NotANumber);
            assert_refuses("generalize: { numbers: [1] }", input, Refusal::NotANumber);
        }
        // It has no exact range of 10.
        assert_refuses("generalize: { numbers: 10 }", "1e400", Refusal::NotANumber);
        assert_refuses("generalize: { numbers: 10 }", "true", Refusal::WrongType);
    }

    #[test]
    fn mistakes_are_reported() {
        assert_wrong("generalize: { numbers: 0 }", "a width above 0");
        assert_wrong("generalize: { numbers: -1 }", "a width above 0");
        assert_wrong("generalize: { numbers: ten }", "a width above 0");
        assert_wrong("generalize: { numbers: [] }", "one border or more");
        assert_wrong("generalize: { numbers: [0, a] }", "a number, as a border");
        assert_wrong("generalize: { numbers: [0, [1]] }", "a number, as a border");
        assert_wrong("generalize: { numbers: [1, 0] }", "a border above 1");
        assert_wrong("generalize: { numbers: [1, 1.0] }", "a border above 1");
        assert_wrong("generalize: { numbers: { from: 1 } }", "a width or a list");
    }

    proptest! {
        #[test]
        fn an_integer_lies_in_its_range(number: i64, width in 1_i64..1_000_000_000) {
            let width = Width::new(&Decimal::parse(&width.to_string()).unwrap()).unwrap();
            let from = i128::from(number).div_euclid(width.units) * width.units;
            let to = from + width.units;
            let expected = integers(from, to).unwrap_or_else(|| format!("[{from},{to})"));
            let range = width.range(&Decimal::parse(&number.to_string()).unwrap());
            prop_assert_eq!(range, Some(expected));
        }
    }
}
