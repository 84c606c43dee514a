//! `fake`: a value of nobody in the place of the real one, always the same.

use std::sync::Arc;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng;
use fake::Fake;
use fake::faker::address::raw::{BuildingNumber, CityName, StreetName};
use fake::faker::company::raw::CompanyName;
use fake::faker::impls::address::CityNameGenFn;
use fake::faker::name::raw::{FirstName, LastName, Name};
use fake::faker::phone_number::raw::CellNumber;
use fake::locales::{
    AR_SA, CY_GB, DE_DE, Data, EN, FA_IR, FR_FR, IT_IT, JA_JP, NL_NL, PT_BR, PT_PT, TR_TR, ZH_CN,
    ZH_TW,
};
use rand::RngExt;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment, characters};
use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose};
use crate::json::{Value, write_string};

pub const SPEC: Spec = Spec {
    name: "fake",
    family: Family::Pseudonymize,
    summary: "Puts a made-up name, address or number in the place of the value: the same for the same value inside one \
              domain, never the value itself, and without the key nobody can tell which value it stands for. Two values \
              may get the same one: to join on it, use `tokenize`. What is made up may be somebody's all the same: to send \
              mail to, or to call, it is not fit.",
    takes: Takes::Text,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter {
            name: "kind",
            default: "required",
            doc: "name, first_name, last_name, email (at example.com, .net or .org, which are nobody's: RFC 2606), company, \
                  phone, street (with its number), city or \
                  postal_code (other digits and letters, written as the value is). `fake: name` for short",
        },
        Parameter {
            name: "locale",
            default: "en",
            doc: "whose names: en, ar-SA, cy-GB, de-DE, fa-IR, fr-FR, it-IT, ja-JP, nl-NL, pt-BR, pt-PT, tr-TR, zh-CN or \
                  zh-TW",
        },
    ],
    examples: &[
        Example { policy: "fake: name", input: r#""Marie Curie""#, output: "" },
        Example { policy: "fake: { kind: city, locale: fr-FR }", input: r#""Lyon""#, output: "" },
    ],
    build: |arguments| {
        let Some(kind) = arguments.bare("kind") else {
            arguments.missing(format!(
                "what is made up: one of {}",
                KINDS.map(|(name, _)| name).join(", ")
            ));
            return None;
        };
        let kind = arguments.one_of(Some(kind), &KINDS.map(|(name, _)| name))?;
        let kind = KINDS.iter().find(|(name, _)| *name == kind).map(|(_, kind)| *kind)?;
        let locale = arguments.scalar("locale");
        let make = match locale {
            None => make::<EN>,
            locale => {
                let locale = arguments.one_of(locale, &LOCALES.map(|(name, _)| name))?;
                LOCALES.iter().find(|(name, _)| *name == locale).map(|(_, make)| *make)?
            }
        };
        Some(Treatment::Keyed(Arc::new(Fakes { kind, make })))
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    FirstName,
    LastName,
    Email,
    Company,
    Phone,
    Street,
    City,
    PostalCode,
}

const KINDS: [(&str, Kind); 9] = [
    ("name", Kind::Name),
    ("first_name", Kind::FirstName),
    ("last_name", Kind::LastName),
    ("email", Kind::Email),
    ("company", Kind::Company),
    ("phone", Kind::Phone),
    ("street", Kind::Street),
    ("city", Kind::City),
    ("postal_code", Kind::PostalCode),
];

type Make = fn(Kind, &str, &mut ChaCha12Rng) -> String;

/// By BCP 47.
const LOCALES: [(&str, Make); 14] = [
    ("en", make::<EN>),
    ("ar-SA", make::<AR_SA>),
    ("cy-GB", make::<CY_GB>),
    ("de-DE", make::<DE_DE>),
    ("fa-IR", make::<FA_IR>),
    ("fr-FR", make::<FR_FR>),
    ("it-IT", make::<IT_IT>),
    ("ja-JP", make::<JA_JP>),
    ("nl-NL", make::<NL_NL>),
    ("pt-BR", make::<PT_BR>),
    ("pt-PT", make::<PT_PT>),
    ("tr-TR", make::<TR_TR>),
    ("zh-CN", make::<ZH_CN>),
    ("zh-TW", make::<ZH_TW>),
];

/// The locales are types without values of their own.
trait Locale: Data + Copy + CityNameGenFn {
    const IT: Self;
}

macro_rules! locales {
    ($($name:ident)*) => { $(impl Locale for $name { const IT: Self = $name; })* };
}

locales!(EN AR_SA CY_GB DE_DE FA_IR FR_FR IT_IT JA_JP NL_NL PT_BR PT_PT TR_TR ZH_CN ZH_TW);

/// Something of a kind in the place of `real`, by the next numbers of `random`.
fn make<L: Locale>(kind: Kind, real: &str, random: &mut ChaCha12Rng) -> String {
    match kind {
        Kind::Name => Name(L::IT).fake_with_rng(random),
        Kind::FirstName => FirstName(L::IT).fake_with_rng(random),
        Kind::LastName => LastName(L::IT).fake_with_rng(random),
        Kind::Company => CompanyName(L::IT).fake_with_rng(random),
        Kind::Phone => CellNumber(L::IT).fake_with_rng(random),
        Kind::City => CityName(L::IT).fake_with_rng(random),
        Kind::PostalCode => like(real, random),
        Kind::Street => {
            let street: String = StreetName(L::IT).fake_with_rng(random);
            let number: String = BuildingNumber(L::IT).fake_with_rng(random);
            format!("{street} {number}")
        }
        Kind::Email => {
            // A local part of ASCII is valid everywhere (RFC 5321).
            let first: String = FirstName(EN).fake_with_rng(random);
            let last: String = LastName(EN).fake_with_rng(random);
            let ends = ["com", "net", "org"];
            let end = ends.get(random.random_range(0..ends.len())).unwrap_or(&"com");
            let number = random.random_range(1..1000);
            let local: String = format!("{first}.{last}{number}")
                .chars()
                .filter(|character| character.is_ascii_alphanumeric() || *character == '.')
                .collect();
            format!("{}@example.{end}", local.to_lowercase())
        }
    }
}

/// Postal codes are no longer.
const LONGEST: usize = 10;

/// Other digits and letters in the places of those of `real`, or five digits where it has none. Nothing of it stays but
/// spaces and dashes.
fn like(real: &str, random: &mut ChaCha12Rng) -> String {
    let mut one = |character: char| {
        let first = match character {
            '0'..='9' => return char::from(random.random_range(b'0'..=b'9')),
            ' ' | '-' => return character,
            other if other.is_uppercase() => b'A',
            _ => b'a',
        };
        char::from(first + random.random_range(0..26))
    };
    match real.contains(|character: char| character.is_ascii_alphanumeric()) {
        true => real.trim().chars().take(LONGEST).map(one).collect(),
        false => "00000".chars().map(&mut one).collect(),
    }
}

struct Fakes {
    kind: Kind,
    make: Make,
}

impl Keyed for Fakes {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Token)?;
        let digester = Digester::new(&key, "fake", site.domain);
        let faking = Faking { digester, kind: self.kind, make: self.make };
        Ok(Bound::with_key(faking, Purpose::Token, key))
    }
}

struct Faking {
    digester: Digester,
    kind: Kind,
    make: Make,
}

/// How often something is made that is the value itself, or a template with a part that the library does not know,
/// before that is given up.
const TRIES: usize = 64;

impl Operator for Faking {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let real = characters(value, &mut scratch.text)?;
        let mut random = ChaCha12Rng::from_seed(self.digester.digest(real.as_bytes()));
        let plain = |text: &str| text.trim().to_lowercase();
        let mut made = (0..TRIES).map(|_| (self.make)(self.kind, real, &mut random));
        let other = made.find(|made| plain(made) != plain(real) && !made.contains('{'));
        write_string(out, &other.ok_or(Refusal::OutOfDomain)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::crypto::{DataKey, KeyId, Secret};

    fn faking(kind: Kind, make: Make, domain: &str) -> Faking {
        let key = DataKey { id: KeyId([1; 16]), version: 1, secret: Secret::new([2; 32]) };
        Faking { digester: Digester::new(&key, "fake", domain), kind, make }
    }

    fn apply(faking: &Faking, real: &str) -> String {
        let mut out = Vec::new();
        let input = serde_json::to_string(real).unwrap();
        let value = Value::parse(&input).unwrap();
        faking.apply(&value, &mut Scratch::default(), &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn each_kind_has_values_in_each_locale_and_they_stay() {
        for (locale, make) in LOCALES {
            for (name, kind) in KINDS {
                let faking = faking(kind, make, "crm/name");
                let all: HashSet<String> =
                    (0..40).map(|n| apply(&faking, &n.to_string())).collect();
                assert!(all.len() > 10, "{locale} {name}: {all:?}");
                assert!(
                    all.iter().all(|one| !one.trim().is_empty() && !one.contains(['{', '#'])),
                    "{all:?}"
                );
                assert_eq!(apply(&faking, "x"), apply(&faking, "x"));
            }
        }
    }

    /// What was made up before stays so: a library that picks otherwise would change every stream.
    #[test]
    fn the_same_value_has_the_same_fake_in_every_version() {
        let fakes =
            |domain| KINDS.map(|(_, kind)| apply(&faking(kind, make::<EN>, domain), "Marie Curie"));
        assert_eq!(fakes("a"), GOLDEN);
        assert_ne!(fakes("a"), fakes("b"));
        assert_eq!(apply(&faking(Kind::Name, make::<JA_JP>, "a"), "Marie"), "大塚 翔");
    }

    #[test]
    fn a_postal_code_is_written_as_the_value_is_and_keeps_nothing_of_it() {
        let faking = faking(Kind::PostalCode, make::<EN>, "d");
        let shape = |text: &str| {
            text.chars()
                .map(|one| match one {
                    '0'..='9' => '9',
                    'A'..='Z' => 'A',
                    'a'..='z' => 'a',
                    other => other,
                })
                .collect::<String>()
        };
        for (real, expected) in [
            ("75011", "99999"),
            (" SW1A 2AA ", "AA9A 9AA"),
            ("1012-3456", "9999-9999"),
            ("Ünter", "Aaaaa"),
            ("千代田区 100", "aaaa 999"),
            ("rue ä@b.c 5 and so on", "aaa aaaaa "),
            ("", "99999"),
            ("--", "99999"),
        ] {
            assert_eq!(shape(&apply(&faking, real)), expected, "{real}");
        }
    }

    #[test]
    fn it_is_never_the_value_itself() {
        for (_, make) in LOCALES {
            for kind in [Kind::LastName, Kind::FirstName] {
                let faking = faking(kind, make, "d");
                // Each value that is made up, as a real one.
                for n in 0..500 {
                    let real = apply(&faking, &n.to_string());
                    let other = apply(&faking, &format!(" {} ", real.to_uppercase()));
                    assert_ne!(other.to_lowercase(), real.to_lowercase());
                }
            }
        }
    }

    const GOLDEN: [&str; 9] = [
        "Paolo Senger",
        "Paolo",
        "Schaefer",
        "paolo.senger272@example.net",
        "Senger and McDermott and Sons",
        "852.256.2151",
        "Retta Passage 25621",
        "Sengerstad",
        "Uvphf Nrfe",
    ];
}
