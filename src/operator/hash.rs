//! `hash`: a keyed digest of the exact value, in hexadecimal.

use std::sync::Arc;

use super::spec::{Example, Family, Gives, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment};
use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose};
use crate::json::Value;

pub const SPEC: Spec = Spec {
    name: "hash",
    family: Family::Pseudonymize,
    summary: "Replaces the value by HMAC-SHA-256 of its exact JSON text, as 64 hexadecimal digits: tells \
              whether a value changed, its type included. Keyed, because a phone number's plain hash is \
              found by trying all numbers.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: true,
    of_subject: false,
    parameters: &[],
    examples: &[Example { policy: "hash", input: r#""ann@example.com""#, output: "" }],
    build: |_| Some(Treatment::Keyed(Arc::new(Hash))),
};

struct Hash;

impl Keyed for Hash {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Token)?;
        let digester = Digester::new(&key, "hash", site.domain);
        Ok(Bound::with_key(Hashing(digester), Purpose::Token, key))
    }
}

struct Hashing(Digester);

impl Operator for Hashing {
    fn apply(&self, value: &Value<'_>, _: &mut Scratch, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let hex = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        out.push(b'"');
        for byte in self.0.digest(value.text().as_bytes()) {
            out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
        out.push(b'"');
        Ok(())
    }
}
