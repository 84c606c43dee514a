//! `encrypt`: AES-256-GCM over the value's exact JSON text.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment};
use crate::crypto::ciphertext::Sealer;
use crate::crypto::{KeyError, KeySource, Purpose};
use crate::json::Value;

pub const SPEC: Spec = Spec {
    name: "encrypt",
    family: Family::Encrypt,
    summary: "Encrypts the value's exact JSON text with AES-256-GCM under a random nonce: it comes back byte \
              for byte, type included. The ciphertext names its key and is bound to domain and path \
              (docs/ciphertext.md).",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: true,
    deterministic: false,
    distinct: false,
    parameters: &[],
    examples: &[Example { policy: "encrypt", input: r#""ann@example.com""#, output: "" }],
    build: |_| Some(Treatment::Keyed(Arc::new(Encrypt))),
};

struct Encrypt;

impl Keyed for Encrypt {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Field)?;
        let sealer = Sealer::new(&key, site.domain, site.path);
        Ok(Bound { operator: Arc::new(Encrypting(sealer)), key: Some(key) })
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
