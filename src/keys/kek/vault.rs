//! HashiCorp Vault and OpenBao: the transit secrets engine (its API: `/v1/transit/encrypt/NAME` and so on).

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64_simd::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use zeroize::Zeroize;

use super::{Kek, KekError, Sealed};
use crate::config::{self, SecretText};
use crate::crypto::Secret;
use crate::outbound::{Endpoint, agent};

const PROVIDER: &str = "Vault";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: u64 = 64 << 10;

/// A key of the transit engine.
pub struct Vault {
    agent: Agent,
    /// `ADDRESS/v1/MOUNT`.
    base: String,
    key: String,
    namespace: Option<String>,
    /// Read at each request: an agent renews it.
    token: SecretText,
    folder: PathBuf,
}

fn refused(problem: impl Into<String>) -> KekError {
    KekError::Refused { provider: PROVIDER, problem: problem.into() }
}

/// A name that is part of a path.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    !text.is_empty()
        && text.bytes().all(fits)
        && !text.split('/').any(|part| part.is_empty() || part == "..")
}

impl Vault {
    pub fn new(told: &config::VaultTransit, folder: &Path) -> Result<Vault, KekError> {
        let wrong =
            |what: &str| Err(KekError::Setting(format!("`key_store.kek.vault_transit`: {what}")));
        let Some(endpoint) = Endpoint::parse(&told.address) else {
            return wrong("`address` is no http or https URL");
        };
        if !endpoint.is_safe() {
            return wrong("`address`: to another machine it takes https");
        }
        if !is_name(&told.mount) || !is_name(&told.key) || told.key.contains('/') {
            return wrong("`mount` and `key` are names: letters, digits, `-`, `_` and `.`");
        }
        let authorities = told.ca.as_ref().map(|file| folder.join(file));
        let agent = agent(authorities.as_deref(), PATIENCE).map_err(|problem| {
            KekError::Setting(format!("`key_store.kek.vault_transit.ca`: {problem}"))
        })?;
        Ok(Vault {
            agent,
            base: format!("{}/v1/{}", told.address.trim_end_matches('/'), told.mount),
            key: told.key.clone(),
            namespace: told.namespace.clone(),
            token: told.token.clone(),
            folder: folder.into(),
        })
    }

    /// The `data` of an answer. Its messages are not told: they are another's words.
    fn post(&self, what: &str, mut body: String) -> Result<Value, KekError> {
        let token = self.token.read(&self.folder);
        let token = token.map_err(|error| KekError::Setting(error.to_string()))?;
        let mut request = self
            .agent
            .post(format!("{}/{what}", self.base))
            .header("X-Vault-Token", token.expose().as_str())
            .header("Content-Type", "application/json");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let away = |problem: String| KekError::Away { provider: PROVIDER, problem };
        let answer = request.send(body.as_bytes());
        body.zeroize();
        let mut answer = answer.map_err(|error| match error {
            ureq::Error::Http(_) => {
                KekError::Setting("the token of Vault is not to be sent in a header".into())
            }
            error => away(error.to_string()),
        })?;
        let status = answer.status().as_u16();
        match status {
            200..=299 => {}
            429 | 500..=599 => return Err(away(format!("status {status}"))),
            403 => {
                return Err(refused(
                    "the token may not do that, or is no longer valid (status 403)",
                ));
            }
            404 => return Err(refused("there is no such key or mount (status 404)")),
            _ => return Err(refused(format!("status {status}"))),
        }
        let text = answer.body_mut().with_config().limit(LARGEST).read_to_string();
        let mut text = text.map_err(|error| away(error.to_string()))?;
        let parsed = match text.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_str::<Value>(&text),
        };
        text.zeroize();
        let mut parsed = parsed.map_err(|_| refused("an answer that is no JSON"))?;
        Ok(parsed.get_mut("data").map(Value::take).unwrap_or_default())
    }
}

/// The text of a member, which is wiped when it is dropped.
fn take(data: &mut Value, name: &str) -> Result<Secret<String>, KekError> {
    match data.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Ok(Secret::new(text)),
        _ => Err(refused(format!("an answer without `{name}`"))),
    }
}

impl Kek for Vault {
    fn seal(&self, key: &[u8; 32], context: &str) -> Result<Sealed, KekError> {
        let plaintext = Secret::new(STANDARD.encode_to_string(key));
        let context = STANDARD.encode_to_string(context);
        // By hand: a value of serde_json's would not be wiped.
        let body =
            format!(r#"{{"plaintext":"{}","associated_data":"{context}"}}"#, plaintext.expose());
        let mut data = self.post(&format!("encrypt/{}", self.key), body)?;
        let text = take(&mut data, "ciphertext")?;
        // `vault:v3:...`
        let version = text.expose().split(':').nth(1).and_then(|part| part.strip_prefix('v'));
        let version = version.and_then(|digits| digits.parse::<u32>().ok());
        let version = version.ok_or_else(|| refused("a ciphertext that names no version"))?;
        let name = format!("vault-transit/{}/{version}", self.key);
        Ok(Sealed { kek: name, bytes: text.expose().as_bytes().to_vec() })
    }

    fn open(&self, sealed: &[u8], context: &str) -> Result<Secret<[u8; 32]>, KekError> {
        let text = std::str::from_utf8(sealed).map_err(|_| refused("it did not seal that"))?;
        let body =
            json!({ "ciphertext": text, "associated_data": STANDARD.encode_to_string(context) });
        let mut data = self.post(&format!("decrypt/{}", self.key), body.to_string())?;
        let plaintext = take(&mut data, "plaintext")?;
        let bytes = STANDARD.decode_to_vec(plaintext.expose());
        let bytes = Secret::new(bytes.map_err(|_| refused("an answer that is no base64"))?);
        let key = bytes.expose().as_slice().try_into();
        Ok(Secret::new(key.map_err(|_| refused("an answer that is no key"))?))
    }

    fn rotate(&self) -> Result<String, KekError> {
        self.post(&format!("keys/{}/rotate", self.key), "{}".into())?;
        Ok(format!("the newest version of {} in Vault", self.key))
    }

    fn destroy(&self, _version: u32) -> Result<(), KekError> {
        Err(refused(format!(
            "its versions are Vault's to destroy: raise `min_decryption_version` of {}, then trim it",
            self.key
        )))
    }
}
