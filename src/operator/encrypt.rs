//! `encrypt`: AES-256-GCM; AES-256-SIV where equal values shall look equal; FF1 where the format shall stay.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{
    Arguments, Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment, Undone, characters,
};
use crate::crypto::ciphertext::{Algorithm, Place, Sealer, seal_to};
use crate::crypto::ff1::Ff1;
use crate::crypto::recipient::Recipient;
use crate::crypto::{KeyError, KeySource, Purpose, Secret};
use crate::json::{Value, write_string};

pub const SPEC: Spec = Spec {
    name: "encrypt",
    family: Family::Encrypt,
    summary: "Encrypts the value's exact JSON text: it comes back byte for byte, type included. The ciphertext \
              names its key and is bound to domain and path (docs/ciphertext.md). `randomized` is AES-256-GCM \
              under a random nonce: nothing shows but the length. `deterministic` is AES-256-SIV (RFC 5297): values \
              of one field and domain whose JSON texts are equal have equal ciphertexts, so that they join, count and \
              serve in record keys, and whoever reads the view sees how often each occurs; `1` and `1.0` are two \
              texts, and so is a letter written as it is and as an escape. `fpe` is FF1 (NIST SP 800-38G), for \
              systems that take nothing but a value of the old form: deterministic as well, of strings and numbers \
              only; the result is a string of the same length and alphabet that names no key and shows no change.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: true,
    deterministic: false,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter {
            name: "mode",
            default: "randomized",
            doc: "`randomized`, `deterministic` or `fpe`; `encrypt: deterministic` is short for the second",
        },
        Parameter {
            name: "scope",
            default: "subject",
            doc: "of `randomized`: `subject` seals under a key of the data subject's own, which an erasure destroys; it \
                  takes a `subject` in the policy and a `key_store` in worker.yaml, and where one of them is missing, \
                  and `scope` is not said, it is `policy`: one key for all",
        },
        Parameter {
            name: "recipient",
            default: "none",
            doc: "a name of the policy's `recipients`: seals to that public key by HPKE (RFC 9180), so that its owner \
                  alone can open it. It costs a key agreement for each value, some hundred times an `encrypt` without",
        },
        Parameter {
            name: "alphabet",
            default: "digits",
            doc: "of `fpe`: `digits`, `alphanumeric` (0-9, A-Z, a-z), or the characters themselves. Of a text, a \
                  million or more must be possible: 6 digits, 4 of `alphanumeric`; up to 512 characters. Others are \
                  quarantined: out_of_domain",
        },
        Parameter {
            name: "separators",
            default: "space and hyphen",
            doc: "of `fpe`: characters that stay where they are, and show: neither letters nor digits. Any other that is not of the alphabet: \
                  not_in_alphabet",
        },
    ],
    examples: &[
        Example { policy: "encrypt", input: r#""ann@example.com""#, output: "" },
        Example { policy: "encrypt: deterministic", input: "1001", output: "" },
        Example { policy: "encrypt: { mode: fpe }", input: r#""4111 1111 1111 1111""#, output: "" },
    ],
    build,
};

/// `encrypt` in the mode of that name. Not operators of their own: they have the name and the parameters of [`SPEC`].
static DETERMINISTIC: Spec = Spec { deterministic: true, distinct: true, ..SPEC };
static FPE: Spec = Spec { takes: Takes::Text, ..DETERMINISTIC };

const DIGITS: &str = "0123456789";
const ALPHANUMERIC: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn build(arguments: &mut Arguments<'_>) -> Option<Treatment> {
    let word = arguments.bare("mode");
    let mode = arguments.one_of(word, &["randomized", "deterministic", "fpe"]);
    Some(Treatment::Keyed(match mode {
        Some("fpe") => Arc::new(Preserve(Arc::new(Format::read(arguments)?))),
        Some("deterministic") => Arc::new(Encrypt(Algorithm::Aes256Siv)),
        _ => {
            if let Some(name) = arguments.scalar("recipient") {
                let recipient = arguments.recipient(name)?;
                return Some(Treatment::Keyed(Arc::new(ToRecipient(recipient))));
            }
            let word = arguments.scalar("scope");
            match arguments.one_of(word, &["subject", "policy"]) {
                Some("policy") => Arc::new(Encrypt(Algorithm::Aes256Gcm)),
                said => Arc::new(OfSubject { required: said.is_some() }),
            }
        }
    }))
}

struct Encrypt(Algorithm);

impl Keyed for Encrypt {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let purpose = match self.0 {
            Algorithm::Aes256Gcm => Purpose::Field,
            Algorithm::Aes256Siv => Purpose::Deterministic,
        };
        let key = keys.primary(purpose)?;
        let sealer = Sealer::new(&key, self.0, site.domain, site.path);
        let sealing = Some(sealer.key());
        Ok(Bound { sealing, ..Bound::with_key(Encrypting(sealer), purpose, key) })
    }

    fn spec(&self) -> Option<&'static Spec> {
        (self.0 == Algorithm::Aes256Siv).then_some(&DETERMINISTIC)
    }
}

/// Under the key of the data subject, or, where that is not required and cannot be had, of the policy.
struct OfSubject {
    required: bool,
}

impl Keyed for OfSubject {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        match (site.subject, keys.has_subjects(), self.required) {
            (true, true, _) => {
                let operator = Arc::new(SubjectEncrypting(Place::new(site.domain, site.path)));
                Ok(Bound { operator, key: None, sealing: None })
            }
            (_, _, false) => Encrypt(Algorithm::Aes256Gcm).bind(site, keys),
            (false, _, true) => Err(KeyError::NoSubject),
            (true, false, true) => Err(KeyError::NoStore),
        }
    }
}

/// To the public key of somebody who is not the worker.
struct ToRecipient(Recipient);

impl Keyed for ToRecipient {
    fn bind(&self, site: Site<'_>, _: &dyn KeySource) -> Result<Bound, KeyError> {
        let place = Place::new(site.domain, site.path);
        let operator = Arc::new(Addressing { recipient: self.0.clone(), place });
        Ok(Bound { operator, key: None, sealing: None })
    }
}

struct Addressing {
    recipient: Recipient,
    place: Place,
}

impl Operator for Addressing {
    fn apply(&self, value: &Value<'_>, _: &mut Scratch, out: &mut Vec<u8>) -> Result<(), Refusal> {
        out.push(b'"');
        seal_to(&self.recipient, &self.place, value.text().as_bytes(), out);
        out.push(b'"');
        Ok(())
    }
}

struct SubjectEncrypting(Place);

impl Operator for SubjectEncrypting {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let key = scratch.subject_key.as_ref().ok_or(Refusal::Subject)?;
        out.push(b'"');
        key.seal_text(&self.0, value.text().as_bytes(), &mut scratch.bytes, out);
        out.push(b'"');
        Ok(())
    }
}

struct Encrypting(Sealer);

impl Operator for Encrypting {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        out.push(b'"');
        self.0.seal_text(value.text().as_bytes(), &mut scratch.bytes, out);
        out.push(b'"');
        Ok(())
    }
}

/// What of a text is encrypted, and what stays.
struct Format {
    alphabet: Vec<char>,
    numerals: FxHashMap<char, u16>,
    separators: String,
}

impl Format {
    fn read(arguments: &mut Arguments<'_>) -> Option<Format> {
        let scalar = arguments.scalar("alphabet");
        let alphabet = match scalar.map_or("digits", |word| word.as_str()) {
            "digits" => DIGITS,
            "alphanumeric" => ALPHANUMERIC,
            own => own,
        };
        let alphabet: Vec<char> = alphabet.chars().collect();
        let numbered = alphabet.iter().copied().zip(0..=u16::MAX);
        let numerals: FxHashMap<char, u16> = numbered.collect();
        if let Some(scalar) = scalar
            && (numerals.len() != alphabet.len() || alphabet.len() < 2)
        {
            let found = format!("`{}`", scalar.as_str());
            arguments.problem(
                scalar.span(),
                found,
                "`digits`, `alphanumeric`, or two or more different characters",
            );
        }
        let scalar = arguments.scalar("separators");
        let separators = scalar.map_or(" -", |word| word.as_str()).to_owned();
        let unfit = |one: char| one.is_alphanumeric() || numerals.contains_key(&one);
        if let Some(scalar) = scalar
            && separators.chars().any(unfit)
        {
            let found = format!("`{separators}`");
            let expected =
                "separators that are neither letters nor digits nor of the alphabet: they show";
            arguments.problem(scalar.span(), found, expected);
        }
        Some(Format { alphabet, numerals, separators })
    }
}

impl Format {
    /// Appends the text with what is of the alphabet exchanged for what `cipher` makes of it.
    fn exchange(
        &self,
        text: &str,
        out: &mut String,
        cipher: impl FnOnce(Vec<u16>) -> Option<Vec<u16>>,
    ) -> Result<(), Refusal> {
        let Format { alphabet, numerals, separators } = self;
        let mut found = Vec::new();
        for character in text.chars() {
            match numerals.get(&character) {
                Some(numeral) => found.push(*numeral),
                None if separators.contains(character) => {}
                None => return Err(Refusal::NotInAlphabet),
            }
        }
        let made = cipher(found).ok_or(Refusal::OutOfDomain)?;
        let mut made = made.into_iter().filter_map(|at| alphabet.get(usize::from(at)));
        for character in text.chars() {
            let stays = !numerals.contains_key(&character);
            let character =
                if stays { &character } else { made.next().ok_or(Refusal::OutOfDomain)? };
            out.push(*character);
        }
        Ok(())
    }
}

struct Preserve(Arc<Format>);

impl Keyed for Preserve {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Deterministic)?;
        let radix = self.0.alphabet.len() as u32;
        let cipher = Ff1::at(&key, radix, site.domain, site.path);
        let operator = Preserving { format: Arc::clone(&self.0), cipher };
        Ok(Bound::with_key(operator, Purpose::Deterministic, key))
    }

    fn undo(
        &self,
        site: Site<'_>,
        keys: &dyn KeySource,
        version: Option<u32>,
        text: &str,
    ) -> Option<Result<Undone, KeyError>> {
        let key = keys.primary(Purpose::Deterministic).and_then(|key| match version {
            Some(version) if version != key.version => keys.find(key.id, version),
            _ => Ok(key),
        });
        Some(key.map(|key| {
            let radix = self.0.alphabet.len() as u32;
            let cipher = Ff1::at(&key, radix, site.domain, site.path)?;
            let mut out = String::new();
            self.0.exchange(text, &mut out, |found| cipher.decrypt(found).ok()).ok()?;
            let mut json = Vec::new();
            write_string(&mut json, &out);
            drop(Secret::new(out));
            Some(Secret::new(json))
        }))
    }

    fn spec(&self) -> Option<&'static Spec> {
        Some(&FPE)
    }
}

struct Preserving {
    format: Arc<Format>,
    /// None for an alphabet that FF1 does not take; the parser refuses such.
    cipher: Option<Ff1>,
}

impl Operator for Preserving {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let text = characters(value, &mut scratch.text)?;
        let cipher = self.cipher.as_ref().ok_or(Refusal::OutOfDomain)?;
        scratch.other.clear();
        self.format.exchange(text, &mut scratch.other, |found| cipher.encrypt(found).ok())?;
        write_string(out, &scratch.other);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::testing::read;

    #[test]
    fn what_is_no_mode_alphabet_or_separator_is_refused() {
        for (policy, expected) in [
            ("encrypt: fep", "`fep` / one of randomized, deterministic, fpe"),
            (
                "encrypt: { mode: fpe, alphabet: a }",
                "`a` / `digits`, `alphanumeric`, or two or more different characters",
            ),
            (
                "encrypt: { mode: fpe, alphabet: abca }",
                "`abca` / `digits`, `alphanumeric`, or two or more different characters",
            ),
            (
                "encrypt: { mode: fpe, separators: '-0' }",
                "`-0` / separators that are neither letters nor digits nor of the alphabet: they show",
            ),
            (
                "encrypt: { mode: fpe, separators: x }",
                "`x` / separators that are neither letters nor digits nor of the alphabet: they show",
            ),
            (
                "encrypt: { alphabet: digits }",
                "the parameter `alphabet` / one of mode, recipient, scope, for `encrypt`",
            ),
        ] {
            assert_eq!(read(policy).err().as_deref(), Some(&[expected.to_owned()][..]), "{policy}");
        }
    }
}
