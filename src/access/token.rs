//! Tokens of an OpenID provider: JSON Web Tokens (RFC 7519) whose signature, issuer, audience and time are looked at,
//! under one algorithm that the configuration pins (RFC 8725). The signature itself is ring's to verify.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result as JwtResult};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::signature::{Error as SignatureError, Verifier as Verifies};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::signature as verify;
use serde_json::{Map, Value};
use ureq::Agent;

use super::actor::{Actor, By};
use crate::config::{TokenAlgorithm, Tokens};
use crate::outbound::{self, Endpoint};

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// An unknown key is asked for again after so long at the earliest: anybody can name one.
const AGAIN: Duration = Duration::from_secs(60);
/// Where there are none yet, so long.
const SOON: Duration = Duration::from_secs(5);
/// Keys are read again after so long: one that the provider has withdrawn is believed no longer.
const OLD: Duration = Duration::from_secs(600);
/// Those of a provider that is away are believed for so long.
const TOO_OLD: Duration = Duration::from_secs(3600);
/// Clocks may differ by so many seconds.
const LEEWAY: u64 = 30;
const LARGEST: u64 = 1 << 20;

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("access.tokens.{0}")]
    Setting(String),
    /// The token is not believed. Why is for the log alone.
    #[error("no valid token: {0}")]
    Refused(String),
    #[error("the keys of the OpenID provider cannot be had: {0}")]
    Away(String),
}

/// Reads tokens.
pub struct Verifier {
    told: Tokens,
    from: From,
    algorithm: Algorithm,
    keys: Mutex<Known>,
    /// Held by who asks the provider.
    asking: Mutex<()>,
}

enum From {
    File(PathBuf),
    Discovery(Agent, String),
}

#[derive(Default, Clone)]
struct Known {
    keys: Option<Arc<JwkSet>>,
    /// When they were asked for last, and when they were had.
    asked: Option<Instant>,
    had: Option<Instant>,
}

impl Verifier {
    /// Nothing is asked of the provider yet: it may be away when the worker starts.
    pub fn new(told: &Tokens, folder: &Path) -> Result<Verifier, TokenError> {
        // Another provider of this process would have been installed by veilstream itself.
        let _ = RING.install_default();
        let setting =
            |name: &str, problem: &str| Err(TokenError::Setting(format!("{name}: {problem}")));
        let from = match &told.keys {
            Some(file) => From::File(folder.join(file)),
            None => {
                if !Endpoint::parse(&told.issuer).is_some_and(|issuer| issuer.is_safe()) {
                    return setting(
                        "issuer",
                        "an address that begins with https, for discovery; or `keys`, a file",
                    );
                }
                let ca = told.ca.as_ref().map(|ca| folder.join(ca));
                let agent = outbound::agent(ca.as_deref(), PATIENCE)
                    .map_err(|problem| TokenError::Setting(format!("ca: {problem}")))?;
                let issuer = told.issuer.trim_end_matches('/');
                From::Discovery(agent, format!("{issuer}/.well-known/openid-configuration"))
            }
        };
        if told.audience.is_empty() {
            return setting("audience", "is empty");
        }
        let algorithm = match told.algorithm {
            TokenAlgorithm::RS256 => Algorithm::RS256,
            TokenAlgorithm::ES256 => Algorithm::ES256,
            TokenAlgorithm::EdDSA => Algorithm::EdDSA,
        };
        let verifier = Verifier {
            told: told.clone(),
            from,
            algorithm,
            keys: Mutex::default(),
            asking: Mutex::default(),
        };
        if let From::File(_) = verifier.from {
            verifier.read().map_err(|problem| TokenError::Setting(format!("keys: {problem}")))?;
        }
        Ok(verifier)
    }

    /// Whose token it is. It may wait for the provider.
    pub fn actor(&self, token: &str) -> Result<Actor, TokenError> {
        let refused = |why: &str| TokenError::Refused(why.to_owned());
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused("its form"))?;
        let key = self.key(header.kid.as_deref())?;
        let mut rules = Validation::new(self.algorithm);
        rules.set_issuer(&[&self.told.issuer]);
        rules.set_audience(&[&self.told.audience]);
        // What is absent is not looked at unless it is required.
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        rules.validate_nbf = true;
        rules.leeway = LEEWAY;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules);
        let claims = claims.map_err(|error| refused(reason(error.kind())))?.claims;
        let name = claims.get(&self.told.actor_claim).and_then(Value::as_str).unwrap_or_default();
        let sound = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
        if !sound {
            return Err(refused("it does not name the actor"));
        }
        let roles = match claims.get(&self.told.roles_claim) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(Value::String(words)) => words.split_whitespace().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Actor { name: name.to_owned(), by: By::Token, roles })
    }

    /// The key that a token names; where it names none, the only one there is.
    fn key(&self, kid: Option<&str>) -> Result<DecodingKey, TokenError> {
        let find = |set: &JwkSet| {
            let mut fit = set
                .keys
                .iter()
                .filter(|key| self.fits(key))
                .filter(|key| kid.is_none_or(|kid| key.common.key_id.as_deref() == Some(kid)));
            match (fit.next(), fit.next()) {
                (Some(key), None) => DecodingKey::from_jwk(key).ok(),
                _ => None,
            }
        };
        let known = || self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let age = |known: &Known| known.had.map(|had| had.elapsed());
        let mut now = known();
        let found = now.keys.as_deref().and_then(find);
        let asking = match (found, age(&now)) {
            (Some(key), Some(age)) if age < OLD => return Ok(key),
            // One asks, and the others go on with what there is.
            (Some(key), Some(age)) if age < TOO_OLD => match self.asking.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(key),
                Err(TryLockError::Poisoned(lock)) => lock.into_inner(),
                Ok(lock) => lock,
            },
            // There is nothing to go on with.
            _ => self.asking.lock().unwrap_or_else(PoisonError::into_inner),
        };
        now = known();
        let pause = if now.keys.is_none() { SOON } else { AGAIN };
        if now.asked.is_none_or(|asked| asked.elapsed() > pause) {
            let read = self.read();
            // From its answer on: it may have taken long.
            now.asked = Some(Instant::now());
            match read {
                Ok(keys) => {
                    now.keys = Some(Arc::new(keys));
                    now.had = Some(Instant::now());
                }
                Err(problem) => {
                    tracing::warn!("the keys of the OpenID provider cannot be had: {problem}");
                }
            }
            *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = now.clone();
        }
        drop(asking);
        match now.keys.as_deref().filter(|_| age(&now).is_some_and(|age| age < TOO_OLD)) {
            None => Err(TokenError::Away("see the log".into())),
            Some(keys) => {
                find(keys).ok_or_else(|| TokenError::Refused("its key is unknown".into()))
            }
        }
    }

    /// Whether a key may verify: it is of the pinned algorithm and meant to.
    fn fits(&self, key: &Jwk) -> bool {
        let common = &key.common;
        let told = common.key_algorithm.is_none_or(|told| told.to_string() == self.name());
        let used =
            common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let kind = matches!(
            (&key.algorithm, self.algorithm),
            (AlgorithmParameters::RSA(_), Algorithm::RS256)
                | (AlgorithmParameters::EllipticCurve(_), Algorithm::ES256)
                | (AlgorithmParameters::OctetKeyPair(_), Algorithm::EdDSA)
        );
        told && used && kind
    }

    fn name(&self) -> &'static str {
        match self.told.algorithm {
            TokenAlgorithm::RS256 => "RS256",
            TokenAlgorithm::ES256 => "ES256",
            TokenAlgorithm::EdDSA => "EdDSA",
        }
    }

    fn read(&self) -> Result<JwkSet, String> {
        let text = match &self.from {
            From::File(file) => std::fs::read(file).map_err(|error| error.to_string())?,
            From::Discovery(agent, address) => {
                let document: Value = serde_json::from_slice(&get(agent, address)?)
                    .map_err(|_| format!("{address}: no JSON"))?;
                if document.get("issuer").and_then(Value::as_str) != Some(&self.told.issuer) {
                    return Err(format!(
                        "{address}: its issuer is another than access.tokens.issuer"
                    ));
                }
                let keys = document.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
                if !Endpoint::parse(keys).is_some_and(|keys| keys.is_safe()) {
                    return Err(format!("{address}: its jwks_uri does not begin with https"));
                }
                get(agent, keys)?
            }
        };
        serde_json::from_slice(&text).map_err(|_| "no JSON Web Key Set".to_owned())
    }
}

fn get(agent: &Agent, address: &str) -> Result<Vec<u8>, String> {
    let mut answer = agent.get(address).call().map_err(|error| format!("{address}: {error}"))?;
    if !answer.status().is_success() {
        return Err(format!("{address}: status {}", answer.status().as_u16()));
    }
    let body = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
    body.map_err(|error| format!("{address}: {error}"))
}

/// For the log: nothing of the token.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "its time is over",
        ErrorKind::ImmatureSignature => "its time has not come",
        ErrorKind::InvalidIssuer => "another issuer",
        ErrorKind::InvalidAudience => "another audience",
        ErrorKind::InvalidSignature => "its signature",
        ErrorKind::InvalidAlgorithm => "another algorithm than access.tokens.algorithm",
        ErrorKind::MissingRequiredClaim(_) => "exp, iss or aud is missing",
        _ => "its form",
    }
}

/// jsonwebtoken's seam for signatures: ring verifies, and nothing signs.
static RING: CryptoProvider = CryptoProvider {
    verifier_factory: verifier,
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    match algorithm.family() == key.family() {
        true => Ok(Box::new(Ring(*algorithm, key.clone()))),
        false => Err(ErrorKind::InvalidKeyFormat.into()),
    }
}

struct Ring(Algorithm, DecodingKey);

impl Verifies<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        let verified = match (self.0, self.1.kind()) {
            (Algorithm::RS256, RsaModulusExponent { n, e }) => {
                // ring takes no leading zeros, which some providers write.
                let n = n.iter().position(|byte| *byte != 0).and_then(|at| n.get(at..));
                let key = verify::RsaPublicKeyComponents { n: n.unwrap_or_default(), e };
                key.verify(&verify::RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, SecretOrDer(point)) => {
                let key = verify::UnparsedPublicKey::new(&verify::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature)
            }
            (Algorithm::EdDSA, SecretOrDer(point)) => {
                verify::UnparsedPublicKey::new(&verify::ED25519, point).verify(message, signature)
            }
            _ => return Err(SignatureError::new()),
        };
        verified.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}
