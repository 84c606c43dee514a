//! What a key store does to forget somebody: their keys are destroyed at once, and what is left to do is noted until it
//! is done.

use super::{KeyError, KeyId, SubjectId};

/// What became of a wish to have somebody forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The keys are destroyed; so many there were.
    Destroyed(u64),
    /// They were already. Whether all the rest is done too.
    Already { done: bool },
    /// Somebody holds it up.
    Held,
}

/// An erasure that is not done.
#[derive(Debug, Clone)]
pub struct Pending {
    pub number: i64,
    pub subject: SubjectId,
    pub receipt: String,
    pub population: String,
    /// Who it is, sealed.
    pub person: Vec<u8>,
    pub keys: u64,
    /// When the keys were destroyed, by the database's clock, and how long ago that is.
    pub destroyed_ms: i64,
    pub age_ms: i64,
    /// When whoever took it on is waited for no longer.
    pub leased_until_ms: i64,
    /// The names of the keys.
    pub ids: Vec<KeyId>,
}

/// The part of a key store that forgets. Every call waits for the database.
pub trait Erasures: Send + Sync {
    /// Destroys all keys of a subject, and notes that the rest is to be done. `person` is who it is, sealed.
    fn erase(
        &self,
        subject: SubjectId,
        receipt: &str,
        population: &str,
        person: Vec<u8>,
    ) -> Result<Asked, KeyError>;

    /// Holds the erasure of a subject up, or no longer; whether that is a change. None where it is too late.
    fn hold(&self, subject: SubjectId, held: bool) -> Result<Option<bool>, KeyError>;

    /// `active`, `held`, `erasing` or `erased`; none for somebody who is not known.
    fn state(&self, subject: SubjectId) -> Result<Option<&'static str>, KeyError>;

    /// Takes on erasures of a population that are not done and that nobody else is at, for so long.
    fn lease(&self, population: &str, for_ms: i64, most: i64) -> Result<Vec<Pending>, KeyError>;

    /// How many versions of a subject's destroyed keys are there all the same.
    fn leftover(&self, subject: SubjectId) -> Result<u64, KeyError>;

    /// Goes on with one for so long from now, unless somebody else has taken it on.
    fn extend(&self, pending: &mut Pending, for_ms: i64) -> Result<(), KeyError>;

    /// Gives some back that could not be done yet: somebody else may try at once.
    fn give_back(&self, pending: &[Pending]) -> Result<(), KeyError>;

    /// All is done of these.
    fn done(&self, numbers: Vec<i64>) -> Result<(), KeyError>;

    /// How many are not done.
    fn unfinished(&self) -> Result<u64, KeyError>;
}
