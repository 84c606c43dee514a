//! `encrypt`: the value's exact JSON text under AES-256-GCM, or under AES-256-SIV where equal values shall look equal.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment};
use crate::crypto::ciphertext::{Algorithm, Sealer};
use crate::crypto::{KeyError, KeySource, Purpose};
use crate::json::Value;

pub const SPEC: Spec = Spec {
    name: "encrypt",
    family: Family::Encrypt,
    summary: "Encrypts the value's exact JSON text: it comes back byte for byte, type included. The ciphertext \
              names its key and is bound to domain and path (docs/ciphertext.md). `randomized` is AES-256-GCM \
              under a random nonce: nothing shows but the length. `deterministic` is AES-256-SIV (RFC 5297): equal \
              values of one field and domain have equal ciphertexts, so that they join, count and serve in record \
              keys, and whoever reads the view sees how often each occurs.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: true,
    deterministic: false,
    distinct: false,
    parameters: &[Parameter {
        name: "mode",
        default: "randomized",
        doc: "`randomized` or `deterministic`; `encrypt: deterministic` is short for the latter",
    }],
    examples: &[
        Example { policy: "encrypt", input: r#""ann@example.com""#, output: "" },
        Example { policy: "encrypt: deterministic", input: "1001", output: "" },
    ],
    build: |arguments| {
        let word = arguments.bare("mode");
        let deterministic =
            arguments.one_of(word, &["randomized", "deterministic"]) == Some("deterministic");
        Some(Treatment::Keyed(match deterministic {
            false => Arc::new(Encrypt(Algorithm::Aes256Gcm)),
            true => Arc::new(Encrypt(Algorithm::Aes256Siv)),
        }))
    },
};

/// `encrypt` in that mode. Not an operator of its own: it has the name and the parameters of [`SPEC`].
static DETERMINISTIC: Spec = Spec { deterministic: true, distinct: true, ..SPEC };

struct Encrypt(Algorithm);

impl Keyed for Encrypt {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Field)?;
        let sealer = Sealer::new(&key, self.0, site.domain, site.path);
        Ok(Bound { operator: Arc::new(Encrypting(sealer)), key: Some(key) })
    }

    fn spec(&self) -> Option<&'static Spec> {
        (self.0 == Algorithm::Aes256Siv).then_some(&DETERMINISTIC)
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
