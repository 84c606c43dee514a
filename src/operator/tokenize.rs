//! `tokenize`: a keyed pseudonym, the same for the same value inside one domain.

use std::sync::Arc;

use base64_simd::URL_SAFE_NO_PAD;

use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Bound, Keyed, Operator, Refusal, Scratch, Site, Treatment};
use crate::crypto::mac::Digester;
use crate::crypto::{DataKey, KeyError, KeySource, Purpose};
use crate::json::{Value, write_string};

pub const SPEC: Spec = Spec {
    name: "tokenize",
    family: Family::Pseudonymize,
    summary: "Replaces the value by HMAC-SHA-256 under a key of its domain, in base64url: tables of one domain \
              still join on it, and nobody without the key can try values out. The string \"7\" and the \
              number 7 have the same token.",
    takes: Takes::Any,
    gives: Gives::String,
    reversible: false,
    deterministic: true,
    distinct: true,
    of_subject: false,
    parameters: &[
        Parameter { name: "prefix", default: "none", doc: "text before the token, such as `cus_`" },
        Parameter {
            name: "bytes",
            default: "32",
            doc: "how many bytes of the HMAC to keep, 16 to 32; the token is 4/3 as long",
        },
    ],
    examples: &[
        Example { policy: "tokenize", input: "1001", output: "" },
        Example { policy: "tokenize: { prefix: cus_, bytes: 16 }", input: r#""1001""#, output: "" },
    ],
    build: |arguments| {
        let prefix = arguments.text("prefix").unwrap_or_default().to_owned();
        let bytes = arguments.number("bytes", 16..=32).unwrap_or(32) as usize;
        Some(Treatment::Keyed(Arc::new(Tokenize { prefix, bytes })))
    },
};

struct Tokenize {
    prefix: String,
    bytes: usize,
}

impl Keyed for Tokenize {
    fn bind(&self, site: Site<'_>, keys: &dyn KeySource) -> Result<Bound, KeyError> {
        let key = keys.primary(Purpose::Token)?;
        let tokenizer = Tokenizer::new(&key, site.domain, &self.prefix, self.bytes);
        Ok(Bound::with_key(tokenizer, Purpose::Token, key))
    }
}

/// Makes the tokens of one domain.
pub struct Tokenizer {
    digester: Digester,
    /// The opening quote and the prefix, escaped.
    opening: Vec<u8>,
    bytes: usize,
}

impl Tokenizer {
    pub fn new(key: &DataKey, domain: &str, prefix: &str, bytes: usize) -> Self {
        let mut opening = Vec::new();
        write_string(&mut opening, prefix);
        opening.pop();
        Tokenizer { digester: Digester::new(key, "token", domain), opening, bytes }
    }

    /// Makes tokens of the names of members, in quotes.
    pub fn for_names(key: &DataKey, domain: &str) -> Self {
        let digester = Digester::new(key, "name", domain);
        Tokenizer { digester, opening: vec![b'"'], bytes: 16 }
    }

    /// Appends the token of `input` in quotes.
    pub fn quoted(&self, input: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.opening);
        self.token(input, out);
        out.push(b'"');
    }

    /// Appends the token of `input` without quotes or prefix.
    pub fn token(&self, input: &[u8], out: &mut Vec<u8>) {
        let digest = self.digester.digest(input);
        let kept = digest.get(..self.bytes).unwrap_or(&digest);
        // More than it takes: what is appended is reserved exactly.
        out.reserve(2 * kept.len());
        URL_SAFE_NO_PAD.encode_append(kept, out);
    }
}

impl Operator for Tokenizer {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        self.quoted(value.characters(&mut scratch.text).as_bytes(), out);
        Ok(())
    }
}
