//! `mask`: hides characters of a text, as people count them, and shows the rest.

mod email;
mod ip;
mod name;
mod places;
mod separated;

use std::ops::RangeInclusive;
use std::sync::Arc;

use self::email::Email;
use self::ip::Ip;
use self::name::Name;
use self::places::{Hide, Keep};
use self::separated::Separated;
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::text::Text;
use super::{Arguments, Operator, Refusal, Scratch, Treatment};
use crate::json::{Kind, Value, write_escaped};

pub const SPEC: Spec = Spec {
    name: "mask",
    family: Family::Mask,
    summary: "Hides characters of the value and shows the rest. What is too short to be shown in part, or is \
              not of the kind, is hidden whole.",
    takes: Takes::Text,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter {
            name: "kind",
            default: "none",
            doc: "what the value is. `email`: shows the first character and the domain. `phone`: shows the \
                  last 4 digits and the separators, of at least 7 digits. `payment_card`: the same, of \
                  nothing but 12 to 19 digits. `national_id`: shows the last 4 letters or digits, of at least 8. `iban`: \
                  shows the country and the last 4, of 15 to 34. `name`: shows the first character of \
                  each word. `ip`: shows the first 3 numbers of an IPv4 address, the first 48 bits of an \
                  IPv6 address",
        },
        Parameter {
            name: "keep_first",
            default: "0; email, name: 1; iban: 2",
            doc: "how many characters are shown at the beginning (of each word of a name); for phone, \
                  payment_card, national_id and iban, digits and letters count. At most 6 for payment_card \
                  (PCI DSS 3.4.1); not for ip",
        },
        Parameter {
            name: "keep_last",
            default: "0; phone, payment_card, national_id, iban: 4",
            doc: "how many characters are shown at the end. At most 4 for payment_card (PCI DSS 3.4.1); not \
                  for email, name and ip",
        },
        Parameter {
            name: "hide_first",
            default: "none",
            doc: "how many characters are hidden at the beginning, the rest is shown; not with a kind, nor \
                  with keep_first and keep_last",
        },
        Parameter {
            name: "hide_last",
            default: "none",
            doc: "how many characters are hidden at the end, the rest is shown; not with a kind, nor with \
                  keep_first and keep_last",
        },
        Parameter { name: "with", default: "*", doc: "what stands for one hidden character" },
        Parameter {
            name: "length",
            default: "as many as are hidden; email: 3; name: 2; ip: 1; without any of the above: 8",
            doc: "how many mask characters stand for the hidden ones, 1 to 100, so that the mask does not \
                  tell their number; separators are then hidden too",
        },
    ],
    examples: &[
        Example { policy: "mask", input: r#""Bob""#, output: r#""********""# },
        Example {
            policy: "mask: email",
            input: r#""bob@example.com""#,
            output: r#""b***@example.com""#,
        },
        Example {
            policy: "mask: { kind: email, keep_first: 0, with: X, length: 5 }",
            input: r#""cloudysanfrancisco@gmail.com""#,
            output: r#""XXXXX@gmail.com""#,
        },
        Example {
            policy: "mask: phone",
            input: r#""+1 (555) 123-4567""#,
            output: r#""+* (***) ***-4567""#,
        },
        Example {
            policy: "mask: { kind: payment_card, keep_first: 6 }",
            input: r#""4111 1111 1111 1234""#,
            output: r#""4111 11** **** 1234""#,
        },
        Example {
            policy: "mask: national_id",
            input: r#""123-45-6789""#,
            output: r#""***-**-6789""#,
        },
        Example {
            policy: "mask: iban",
            input: r#""DE89 3704 0044 0532 0130 00""#,
            output: r#""DE** **** **** **** **30 00""#,
        },
        Example { policy: "mask: name", input: r#""Anne Marie""#, output: r#""A** M**""# },
        Example { policy: "mask: ip", input: r#""203.0.113.7""#, output: r#""203.0.113.*""# },
        Example {
            policy: "mask: { keep_last: 4, with: X, length: 5 }",
            input: r#""123-45-6789""#,
            output: r#""XXXXX6789""#,
        },
        Example {
            policy: "mask: { hide_last: 4 }",
            input: "1234567890",
            output: r#""123456****""#,
        },
    ],
    build,
};

/// How many characters a policy can keep or hide at most.
const MOST: u64 = 1000;

/// How many mask characters `mask` alone gives.
const WHOLE: usize = 8;

/// The words of `kind`.
const KINDS: &[&str] = &["email", "phone", "payment_card", "national_id", "iban", "name", "ip"];

fn build(arguments: &mut Arguments<'_>) -> Option<Treatment> {
    let word = arguments.bare("kind");
    let kind = arguments.one_of(word, KINDS);
    let (first_range, last_range) = match kind {
        Some("payment_card") => (Some(0..=6), Some(0..=4)),
        Some("email" | "name") => (Some(0..=MOST), None),
        Some("ip") => (None, None),
        _ => (Some(0..=MOST), Some(0..=MOST)),
    };
    let keep_first = number(arguments, "keep_first", first_range, kind);
    let keep_last = number(arguments, "keep_last", last_range, kind);
    let kept = keep_first.is_some() || keep_last.is_some();

    // Hiding none would show all.
    let range = || if word.is_some() || kept { None } else { Some(1..=MOST) };
    let rival = kind.or(kept.then_some("keep_first or keep_last"));
    let hide_first = number(arguments, "hide_first", range(), rival);
    let hide_last = number(arguments, "hide_last", range(), rival);
    let hidden = hide_first.is_some() || hide_last.is_some();

    let with = with(arguments);
    let length = arguments.number("length", 1..=100).map(|length| length as usize);

    if word.is_some() && kind.is_none() {
        return None;
    }
    let first = |default: usize| keep_first.unwrap_or(default);
    let last = |default: usize| keep_last.unwrap_or(default);
    let (shown, fixed): (Box<dyn Shown>, _) = match kind {
        Some("email") => (Box::new(Email { first: first(1) }), Some(3)),
        Some("phone") => (Box::new(Separated::phone(first(0), last(4))), None),
        Some("payment_card") => (Box::new(Separated::payment_card(first(0), last(4))), None),
        Some("national_id") => (Box::new(Separated::national_id(first(0), last(4))), None),
        Some("iban") => (Box::new(Separated::iban(first(2), last(4))), None),
        Some("name") => (Box::new(Name { first: first(1) }), Some(2)),
        Some("ip") => (Box::new(Ip), Some(1)),
        _ if hidden => {
            let (first, last) = (hide_first.unwrap_or(0), hide_last.unwrap_or(0));
            (Box::new(Hide { first, last }), None)
        }
        _ => (Box::new(Keep { first: first(0), last: last(0) }), (!kept).then_some(WHOLE)),
    };
    let cover = Cover::new(&with, length.or(fixed));
    Some(Treatment::Plain(Arc::new(Mask { shown, cover })))
}

/// The number `name` within `range`; where there is none, it does not go with `rival`.
fn number(
    arguments: &mut Arguments<'_>,
    name: &'static str,
    range: Option<RangeInclusive<u64>>,
    rival: Option<&str>,
) -> Option<usize> {
    if let Some(range) = range {
        return arguments.number(name, range).map(|number| number as usize);
    }
    let node = arguments.node(name)?;
    // A kind that nobody knows is reported already.
    if let Some(rival) = rival {
        arguments.problem(node.span(), format!("`{name}`"), format!("no `{name}` with {rival}"));
    }
    None
}

/// The text that stands for one hidden character.
pub(super) fn with(arguments: &mut Arguments<'_>) -> String {
    match arguments.scalar("with") {
        None => "*".to_owned(),
        Some(with) => {
            if with.is_empty() {
                // Without it nobody would see that something is hidden.
                arguments.problem(with.span(), "an empty text", "a mask character for `with`");
            }
            with.as_str().to_owned()
        }
    }
}

/// Shows the first `first` characters and hides each of the others by `with`.
pub(super) fn beginning(first: usize, with: String) -> Mask {
    Mask { shown: Box::new(Keep { first, last: 0 }), cover: Cover::new(&with, None) }
}

/// Which characters of a text are shown.
trait Shown: Send + Sync {
    /// Appends the masked text. `None` where nothing of the text may be shown; what was appended by then
    /// is thrown away.
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()>;
}

/// A masked text on its way into a JSON string.
struct Masked<'o> {
    out: &'o mut Vec<u8>,
    /// What is shown may be what JSON has to escape.
    escapes: bool,
}

impl Masked<'_> {
    /// A part of the original.
    #[inline]
    fn show(&mut self, part: impl AsRef<[u8]>) {
        if self.escapes {
            write_escaped(self.out, part.as_ref());
        } else {
            self.out.extend_from_slice(part.as_ref());
        }
    }
}

/// What stands in place of the hidden characters.
struct Cover {
    /// As it stands in a JSON string.
    with: Vec<u8>,
    /// The number of mask characters, however many are hidden.
    length: Option<usize>,
}

impl Cover {
    fn new(with: &str, length: Option<usize>) -> Self {
        let mut escaped = Vec::new();
        write_escaped(&mut escaped, with.as_bytes());
        Cover { with: escaped, length }
    }

    /// Hides `count` characters.
    #[inline]
    fn hide(&self, count: usize, out: &mut Masked<'_>) {
        let count = self.length.unwrap_or(count);
        match *self.with {
            [byte] => out.out.resize(out.out.len() + count, byte),
            _ => (0..count).for_each(|_| out.out.extend_from_slice(&self.with)),
        }
    }
}

pub(super) struct Mask {
    shown: Box<dyn Shown>,
    cover: Cover,
}

impl Operator for Mask {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if !matches!(value.kind(), Kind::String | Kind::Number) {
            return Err(Refusal::WrongType);
        }
        // What stands in JSON as it is may stand there again, part by part.
        let (whole, escapes) = match Text::plain(value.raw()) {
            Some(plain) => (plain, false),
            None => (Text::new(value.characters(&mut scratch.text)), true),
        };
        out.push(b'"');
        let start = out.len();
        let mut masked = Masked { out, escapes };
        if self.shown.mask(whole, &self.cover, &mut masked).is_none() {
            masked.out.truncate(start);
            self.cover.hide(whole.length(), &mut masked);
        }
        out.push(b'"');
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use unicode_segmentation::UnicodeSegmentation;

    use super::*;
    use crate::operator::testing::{self, read};

    pub(super) fn apply(policy: &str, input: &str) -> String {
        testing::apply(policy, input).unwrap()
    }

    /// Texts and what `policy` makes of them.
    pub(super) fn assert_masks(policy: &str, pairs: &[(&str, &str)]) {
        for (input, expected) in pairs {
            let output = apply(policy, &serde_json::to_string(input).unwrap());
            let masked: String = serde_json::from_str(&output).unwrap();
            assert_eq!(masked, *expected, "{policy} of {input:?}");
        }
    }

    #[test]
    fn without_parameters_all_is_hidden() {
        assert_masks("mask", &[("", "********"), ("a", "********"), ("a long text", "********")]);
        assert_masks("mask: { with: X }", &[("Bob", "XXXXXXXX")]);
        assert_masks("mask: { length: 2 }", &[("Bob", "**")]);
    }

    #[test]
    fn numbers_and_escapes_are_masked_by_their_characters() {
        assert_eq!(apply("mask: { keep_last: 4 }", "1234567890"), r#""******7890""#);
        let huge = "99999999999999999999";
        assert_eq!(apply("mask: { keep_last: 2 }", huge), r#""******************99""#);
        assert_eq!(apply("mask: { keep_last: 1 }", r#""\u00e9\ud83d\ude00\n\"""#), r#""***\"""#);
        assert_eq!(apply("mask: phone", "5551234567"), r#""******4567""#);
        assert_eq!(apply("mask: email", r#""b\u006fb\u0040example.com""#), r#""b***@example.com""#);
    }

    #[test]
    fn other_values_are_refused() {
        let operator = read("mask").unwrap();
        let value = Value::parse("[1]").unwrap();
        let refused = operator.apply(&value, &mut Scratch::default(), &mut Vec::new());
        assert_eq!(refused, Err(Refusal::WrongType));
    }

    #[test]
    fn mistakes_are_reported() {
        let wrong = [
            ("mask: emial", "one of email"),
            ("mask: [email]", "keep_first, keep_last"),
            ("mask: { keep: 1 }", "keep_first, keep_last"),
            ("mask: { kind: payment_card, keep_first: 7 }", "from 0 to 6"),
            ("mask: { kind: payment_card, keep_last: 5 }", "from 0 to 4"),
            ("mask: { kind: email, keep_last: 1 }", "no `keep_last` with email"),
            ("mask: { kind: name, keep_last: 1 }", "no `keep_last` with name"),
            ("mask: { kind: ip, keep_first: 1 }", "no `keep_first` with ip"),
            ("mask: { kind: phone, hide_first: 1 }", "no `hide_first` with phone"),
            ("mask: { keep_first: 1, hide_last: 1 }", "no `hide_last` with keep_first or"),
            ("mask: { keep_first: -1 }", "from 0 to 1000"),
            ("mask: { keep_first: [1] }", "one value for `keep_first`"),
            ("mask: { hide_first: 0 }", "from 1 to 1000"),
            ("mask: { with: '' }", "a mask character for `with`"),
            ("mask: { length: 0 }", "from 1 to 100"),
        ];
        for (policy, expected) in wrong {
            let problems = read(policy).err().unwrap_or_default();
            assert_eq!(problems.len(), 1, "{policy}: {problems:?}");
            assert!(problems.iter().all(|p| p.contains(expected)), "{policy}: {problems:?}");
        }
    }

    /// Texts of many scripts, and those that are nearly of a kind.
    pub(super) fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[ae\u{301}\u{200d}张👨🇫🇷\r\n]{0,12}",
            "[+(]?[0-9٠-٩ ./()-]{0,20}",
            "[a-z\"\\\\]{0,4}@{0,2}[a-z. ]{0,8}",
        ]
    }

    proptest! {
        #[test]
        fn a_kind_shows_no_more_than_it_says(text in texts()) {
            for (kind, shown) in [("phone", 4), ("payment_card", 4), ("national_id", 4), ("iban", 6)] {
                let output = apply(&format!("mask: {kind}"), &serde_json::to_string(&text).unwrap());
                let masked: String = serde_json::from_str(&output).unwrap();
                let counted = masked
                    .graphemes(true)
                    .filter(|cluster| cluster.chars().any(char::is_alphanumeric))
                    .count();
                prop_assert!(counted <= shown, "{} {:?} {:?}", kind, text, masked);
            }
            for kind in KINDS {
                let output = apply(&format!("mask: {kind}"), &serde_json::to_string(&text).unwrap());
                prop_assert!(serde_json::from_str::<String>(&output).is_ok());
            }
        }
    }
}
