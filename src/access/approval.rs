//! A second person's yes, without a place to keep it: the desk signs what was asked for, and signs it again for who
//! agrees. What is signed is bound to the actor, the purpose and the very values, for a while.

use base64_simd::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::crypto::mac::Digester;
use crate::crypto::{KeyError, KeySource, Purpose};

/// How long a request waits for its approval, and an approval for its use, in seconds.
const LIFE: u64 = 3600;

/// What somebody asked for that needs a second person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub actor: String,
    /// How that is known: a name of one kind may be another person of the other.
    pub by: String,
    pub purpose: String,
    /// View and class of each value that needs approval.
    pub grants: Vec<(String, String)>,
    /// SHA-256 over all values of the request, in hexadecimal.
    pub digest: String,
    /// Who agreed; none while it waits.
    pub approver: Option<String>,
    /// Seconds since the epoch.
    pub until: u64,
}

/// Signs tickets, under a key of the deployment: every worker takes them.
pub struct Signer(Digester);

impl Signer {
    pub fn new(keys: &dyn KeySource) -> Result<Signer, KeyError> {
        Ok(Signer(Digester::new(&keys.primary(Purpose::Digest)?, "approval", "")))
    }

    /// A ticket as text, good for a while from `now`, in seconds since the epoch.
    pub fn sign(&self, mut ticket: Ticket, now: u64) -> String {
        ticket.until = now.saturating_add(LIFE);
        // Text and numbers alone: they always serialize.
        let json = serde_json::to_vec(&ticket).unwrap_or_default();
        let mac = self.0.digest(&json);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode_to_string(bytes);
        format!("{}.{}", encode(&json), encode(&mac))
    }

    /// The ticket, where this deployment signed it and its time is not over.
    pub fn open(&self, text: &str, now: u64) -> Option<Ticket> {
        let (json, mac) = text.trim().split_once('.')?;
        let json = URL_SAFE_NO_PAD.decode_to_vec(json).ok()?;
        let mac = URL_SAFE_NO_PAD.decode_to_vec(mac).ok()?;
        if !bool::from(self.0.digest(&json).as_slice().ct_eq(&mac)) {
            return None;
        }
        let ticket: Ticket = serde_json::from_slice(&json).ok()?;
        (now < ticket.until).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keyset;

    #[test]
    fn a_ticket_is_good_as_it_was_signed_and_for_a_while() {
        let signer = Signer::new(&Keyset::generate()).unwrap();
        let ticket = Ticket {
            actor: "ann".into(),
            by: "token".into(),
            purpose: "case".into(),
            grants: vec![("crm/fraud".into(), "card".into())],
            digest: "d".into(),
            approver: None,
            until: 0,
        };
        let text = signer.sign(ticket.clone(), 1000);
        assert_eq!(signer.open(&text, 1000), Some(Ticket { until: 4600, ..ticket.clone() }));
        assert_eq!(signer.open(&text, 4600), None);
        let approved = signer.sign(Ticket { approver: Some("bob".into()), ..ticket }, 1000);
        let (json, _) = approved.split_once('.').unwrap();
        let (_, mac) = text.split_once('.').unwrap();
        for forged in [format!("{json}.{mac}"), json.to_owned(), String::new(), ".".into()] {
            assert_eq!(signer.open(&forged, 1000), None, "{forged}");
        }
        assert_eq!(Signer::new(&Keyset::generate()).unwrap().open(&text, 1000), None);
    }
}
