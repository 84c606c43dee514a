//! The desk: who may see a value sees it, when the audit trail has it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64_simd::URL_SAFE_NO_PAD;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::actor::Actor;
use super::approval::{Signer, Ticket};
use crate::audit::{Access, AccessedValue};
use crate::config;
use crate::crypto::ciphertext::{self, Made};
use crate::crypto::{KeyError, KeySource, Secret};
use crate::kafka::{SinkError, Trail};
use crate::operator::{Site, Treatment};
use crate::policy::roles::{Approval, Roles, ViewName};
use crate::policy::{Chosen, Policy, View};

/// So many actors are remembered before those are forgotten who have not asked for a while.
const REMEMBERED: usize = 10_000;

/// The policies, roles and keys that are in force.
pub struct InForce {
    pub policies: Vec<Arc<Policy>>,
    pub roles: Option<Arc<Roles>>,
    pub keys: Arc<dyn KeySource>,
}

impl InForce {
    fn view(&self, name: &str) -> Option<(&Policy, &View, ViewName)> {
        let (policy, view) = name.split_once('/')?;
        let policy = self.policies.iter().find(|one| one.name == policy)?;
        let view = policy.views.iter().find(|one| one.name == view)?;
        let name = ViewName { policy: policy.name.clone(), view: view.name.clone() };
        Some((policy, view, name))
    }
}

/// A value that somebody wants to see.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The view that it stands in, as POLICY/VIEW.
    pub view: String,
    /// Where it stands there; indexes of arrays may stand in it.
    pub path: String,
    /// The ciphertext.
    pub value: String,
    /// The class that it was sealed as, where the policy has it in another now.
    #[serde(default)]
    pub class: Option<String>,
    /// Of `mode: fpe`, which says nothing of its key: the version, where that is not the primary one.
    #[serde(default)]
    pub version: Option<u32>,
}

/// A request to see values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    pub purpose: String,
    pub values: Vec<Asked>,
    /// A second person's yes to these values, as [`Desk::approve`] gave it.
    #[serde(default)]
    pub approval: Option<String>,
}

/// What becomes of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Revealed,
    /// No role of the actor grants it.
    Denied,
    /// A role grants it once a second person has agreed.
    NeedsApproval,
    /// The data subject is forgotten.
    Erased,
    /// It does not open: it was changed, moved from another place, or is none of ours.
    Refused,
}

impl Outcome {
    pub const ALL: [Outcome; 5] = [
        Outcome::Revealed,
        Outcome::Denied,
        Outcome::NeedsApproval,
        Outcome::Erased,
        Outcome::Refused,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Revealed => "revealed",
            Outcome::Denied => "denied",
            Outcome::NeedsApproval => "needs_approval",
            Outcome::Erased => "erased",
            Outcome::Refused => "refused",
        }
    }
}

/// What becomes of one value, and the value.
#[derive(Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// JSON text, as it was.
    pub value: Option<Secret<Vec<u8>>>,
    /// Nothing but the key that was tried says that this is the value: `mode: fpe` has no room for more.
    pub unauthenticated: bool,
}

impl Answer {
    fn without(outcome: Outcome) -> Answer {
        Answer { outcome, value: None, unauthenticated: false }
    }
}

/// The answers to a request, in its order.
#[derive(Debug)]
pub struct Revealed {
    pub answers: Vec<Answer>,
    /// What a second person has to agree to, where one has to.
    pub request: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("too many requests: try again in {} s", .0.as_secs() + 1)]
    Limited(Duration),
    #[error("{0}")]
    Invalid(String),
    #[error("the approval is not of this deployment, not for these values, or too old")]
    Approval,
    /// The audit trail or the keys are away: nothing is shown that is not written down.
    #[error("{0}")]
    Away(String),
}

impl From<SinkError> for AccessError {
    fn from(error: SinkError) -> Self {
        AccessError::Away(format!("the audit trail cannot be written: {error}"))
    }
}

impl From<KeyError> for AccessError {
    fn from(error: KeyError) -> Self {
        AccessError::Away(error.to_string())
    }
}

/// Opens values for those who may see them.
pub struct Desk {
    in_force: Box<dyn Fn() -> InForce + Send + Sync>,
    trail: Trail,
    limits: DefaultKeyedRateLimiter<String>,
    most: NonZeroUsize,
}

/// What is known of a value before it is opened.
struct Place<'p> {
    view: ViewName,
    path: String,
    class: &'p str,
    domain: String,
    chosen: &'p Chosen,
    source: &'p View,
}

impl Desk {
    /// `in_force` gives what is in force at each request.
    pub fn new(
        in_force: impl Fn() -> InForce + Send + Sync + 'static,
        trail: Trail,
        access: &config::Access,
    ) -> Desk {
        let quota: NonZeroU32 = access.requests_per_minute;
        Desk {
            in_force: Box::new(in_force),
            trail,
            limits: RateLimiter::keyed(Quota::per_minute(quota)),
            most: access.values_per_request,
        }
    }

    /// The roles that a user of the operating system has.
    pub fn roles_of_user(&self, name: &str) -> Vec<String> {
        let roles = (self.in_force)().roles;
        roles.map(|roles| roles.of_user(name)).unwrap_or_default()
    }

    /// The answers to a request; they are in the audit trail, allowed or denied. It waits for key store and broker.
    pub fn reveal(&self, actor: &Actor, asked: &Reveal) -> Result<Revealed, AccessError> {
        self.limit(actor)?;
        if asked.values.is_empty() || asked.values.len() > self.most.get() {
            return Err(AccessError::Invalid(format!("`values`: 1 to {} of them", self.most)));
        }
        let in_force = (self.in_force)();
        let signer = Signer::new(in_force.keys.as_ref())?;
        let digest = digest(&asked.values);
        let approval = match &asked.approval {
            None => None,
            Some(text) => {
                let ticket = signer.open(text, now()).filter(|ticket| {
                    let said = (ticket.actor.as_str(), ticket.purpose.as_str(), &ticket.digest);
                    said == (&actor.name, &asked.purpose, &digest)
                        && ticket.by == actor.by.name()
                        && ticket.approver.is_some()
                });
                if ticket.is_none() {
                    let access = self.event(actor, "reveal", &in_force, &asked.purpose);
                    self.trail.write(|auditor| auditor.accessed(&access))?;
                    return Err(AccessError::Approval);
                }
                ticket
            }
        };
        let mut answers = Vec::new();
        let mut values = Vec::new();
        let mut waiting = Vec::new();
        for one in &asked.values {
            let place = in_force.place(one);
            let granted = place.as_ref().and_then(|place| {
                let roles = in_force.roles.as_ref()?;
                roles.reveals(&actor.roles, &place.view, place.class, &asked.purpose)
            });
            let (answer, key) = match (&place, granted) {
                (Some(place), Some(needed)) => {
                    let grant = (place.view.to_string(), place.class.to_owned());
                    let agreed = approval.as_ref().is_some_and(|of| of.grants.contains(&grant));
                    match needed == Approval::No || agreed {
                        true => open(in_force.keys.as_ref(), place, one)?,
                        false => {
                            waiting.push(grant);
                            (Answer::without(Outcome::NeedsApproval), None)
                        }
                    }
                }
                _ => (Answer::without(Outcome::Denied), None),
            };
            values.push(AccessedValue {
                view: place.as_ref().map(|place| place.view.to_string()),
                path: place.as_ref().map(|place| place.path.clone()),
                class: place.as_ref().map(|place| place.class.to_owned()),
                outcome: answer.outcome.name(),
                key,
            });
            answers.push(answer);
        }
        let refused = [Outcome::Denied, Outcome::NeedsApproval];
        let access = Access {
            allowed: !answers.iter().any(|answer| refused.contains(&answer.outcome)),
            approved_by: approval.as_ref().and_then(|ticket| ticket.approver.clone()),
            values,
            ..self.event(actor, "reveal", &in_force, &asked.purpose)
        };
        self.trail.write(|auditor| auditor.accessed(&access))?;
        waiting.sort_unstable();
        waiting.dedup();
        let ticket = Ticket {
            actor: actor.name.clone(),
            by: actor.by.name().to_owned(),
            purpose: asked.purpose.clone(),
            grants: waiting,
            digest,
            approver: None,
            until: 0,
        };
        let request = (!ticket.grants.is_empty()).then(|| signer.sign(ticket, now()));
        Ok(Revealed { answers, request })
    }

    /// What a request that waits for approval asks for, for the one who is to agree.
    pub fn request(&self, text: &str) -> Result<Ticket, AccessError> {
        let signer = Signer::new((self.in_force)().keys.as_ref())?;
        let ticket = signer.open(text, now()).filter(|ticket| ticket.approver.is_none());
        ticket.ok_or(AccessError::Approval)
    }

    /// Agrees to a request. None where the actor may not: it is their own, or more than they may see themselves. Users of
    /// the operating system agree among themselves, and so do those with tokens: one person has a name in each.
    pub fn approve(&self, actor: &Actor, text: &str) -> Result<Option<String>, AccessError> {
        self.limit(actor)?;
        let in_force = (self.in_force)();
        let ticket = self.request(text)?;
        let may = |(view, class): &(String, String)| {
            let roles = in_force.roles.as_ref()?;
            let (_, _, name) = in_force.view(view)?;
            roles.reveals(&actor.roles, &name, class, &ticket.purpose)
        };
        let allowed = ticket.actor != actor.name
            && ticket.by == actor.by.name()
            && ticket.grants.iter().all(|one| may(one).is_some());
        let values = ticket.grants.iter().map(|(view, class)| AccessedValue {
            view: Some(view.clone()),
            path: None,
            class: Some(class.clone()),
            outcome: if allowed { "approved" } else { "denied" },
            key: None,
        });
        let access = Access {
            allowed,
            values: values.collect(),
            ..self.event(actor, "approve", &in_force, &ticket.purpose)
        };
        self.trail.write(|auditor| auditor.accessed(&access))?;
        let signer = Signer::new(in_force.keys.as_ref())?;
        let approver = Some(actor.name.clone());
        Ok(allowed.then(|| signer.sign(Ticket { approver, ..ticket }, now())))
    }

    /// Counts a request that is not for the desk.
    pub fn admit(&self, actor: &Actor) -> Result<(), AccessError> {
        self.limit(actor)
    }

    fn limit(&self, actor: &Actor) -> Result<(), AccessError> {
        if self.limits.len() > REMEMBERED {
            self.limits.retain_recent();
        }
        let checked = self.limits.check_key(&format!("{}:{}", actor.by.name(), actor.name));
        checked.map_err(|until| {
            AccessError::Limited(until.wait_time_from(DefaultClock::default().now()))
        })
    }

    /// What is said of every request. A purpose that no role knows may be anything.
    fn event(
        &self,
        actor: &Actor,
        what: &'static str,
        in_force: &InForce,
        purpose: &str,
    ) -> Access {
        let roles = in_force.roles.as_ref();
        let known = roles.is_some_and(|roles| roles.purposes.iter().any(|one| one == purpose));
        Access {
            actor: actor.name.clone(),
            by: actor.by.name(),
            roles: roles
                .map(|roles| roles.named(&actor.roles).map(|role| role.name.clone()).collect())
                .unwrap_or_default(),
            what,
            purpose: if known { purpose.to_owned() } else { "<unknown>".into() },
            allowed: false,
            approved_by: None,
            records: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl InForce {
    /// Where a value stands by the names of its policy; none where that has no such place.
    fn place(&self, asked: &Asked) -> Option<Place<'_>> {
        let (policy, view, name) = self.view(&asked.view)?;
        let path = without_indexes(&asked.path);
        let field = policy.fields.iter().find(|field| field.path.to_string() == path)?;
        let (class, chosen) = match &asked.class {
            Some(class) if *class != field.class => {
                let (class, chosen) = view.classes.iter().find(|(name, _)| name == class)?;
                // Where the treatment names the domain, the class is not a part of it: nothing would tell the values of
                // one class from another's.
                if chosen.domain.is_some() || view.field(field)?.domain.is_some() {
                    return None;
                }
                (class, chosen)
            }
            _ => (&field.class, view.field(field)?),
        };
        let domain = chosen.domain.clone().unwrap_or_else(|| policy.domain(view, class));
        Some(Place { view: name, path, class, domain, chosen, source: view })
    }
}

/// The path as policies have it: `contacts[].phone` for `contacts[0].phone`.
fn without_indexes(path: &str) -> String {
    let mut out = String::new();
    let mut index = false;
    for character in path.chars() {
        match (index, character) {
            (true, '0'..='9') => continue,
            _ => index = character == '[',
        }
        out.push(character);
    }
    out
}

/// Opens a value, and says which key it names.
fn open(
    keys: &dyn KeySource,
    place: &Place<'_>,
    asked: &Asked,
) -> Result<(Answer, Option<String>), AccessError> {
    let (path, domain) = (&place.path, &place.domain);
    let site = Site { path, domain, group: domain, subject: true };
    let refused = || Answer::without(Outcome::Refused);
    if let Treatment::Keyed(keyed) = &place.chosen.treatment
        && let Some(undone) =
            keyed.undo(site, &place.source.keys(keys)?, asked.version, &asked.value)
    {
        let answer = match undone {
            Ok(Some(value)) => {
                Answer { outcome: Outcome::Revealed, value: Some(value), unauthenticated: true }
            }
            Err(error) if error.is_passing() => return Err(error.into()),
            Ok(None) | Err(_) => refused(),
        };
        return Ok((answer, None));
    }
    let sealed = URL_SAFE_NO_PAD.decode_to_vec(asked.value.trim()).ok();
    let Some((sealed, label)) =
        sealed.and_then(|sealed| ciphertext::label(&sealed).ok().map(|label| (sealed, label)))
    else {
        return Ok((refused(), None));
    };
    // What is sealed to a recipient's public key is for that one to open.
    let answer = match (label.made, keys.find(label.key, label.version)) {
        (Made::To, _) => refused(),
        (_, Ok(key)) => match ciphertext::open(&key, &place.domain, &place.path, &sealed) {
            Ok(value) => {
                Answer { outcome: Outcome::Revealed, value: Some(value), unauthenticated: false }
            }
            Err(_) => refused(),
        },
        (_, Err(KeyError::Erased(_))) => Answer::without(Outcome::Erased),
        (_, Err(error)) if error.is_passing() => return Err(error.into()),
        (_, Err(_)) => refused(),
    };
    Ok((answer, Some(label.key.to_string())))
}

/// Of all values of a request: an approval is for these.
fn digest(values: &[Asked]) -> String {
    // Text and numbers alone: they always serialize.
    let json = serde_json::to_vec(values).unwrap_or_default();
    Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
