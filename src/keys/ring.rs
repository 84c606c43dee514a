//! The keys of a key store: those of the deployment in memory, those of its data subjects in a bounded cache.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::kek::{self, Kek, KekError, KekFile};
use super::keyset::{self, ChangeError, Key, Keyset, Status};
use super::store::{RingRow, Store, StoreError, SubjectRow};
use crate::config;
use crate::crypto::aead::{self, Cipher, NONCE};
use crate::crypto::ciphertext::{Algorithm, SealKey};
use crate::crypto::erasure::{Asked, Erasures, Pending};
use crate::crypto::{
    DataKey, KeyError, KeyId, KeySource, KeyState, Purpose, Secret, SubjectId, SubjectKeys, derive,
};

/// Values that one key seals under random nonces of 96 bits, at most. NIST SP 800-38D, section 8.3, allows 2^32; what
/// is counted is an estimate, and is counted behind.
pub const USES: u64 = 1 << 31;
/// How many subjects a query asks for: more than most batches have.
const PART: usize = 5_000;
/// How many keys of subjects are sealed anew in one transaction.
const AT_ONCE: u32 = 1000;

/// Why a key store does not open, or a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Kek(#[from] KekError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the key store: {0}")]
    Malformed(String),
    #[error("{0} keys are sealed by it: run `veilstream keys rewrap` first")]
    StillSeals(usize),
}

impl RingError {
    /// To wait may help.
    pub fn is_passing(&self) -> bool {
        match self {
            RingError::Store(StoreError::Late | StoreError::Outdated) => true,
            RingError::Store(StoreError::Database(error)) => error.as_database_error().is_none(),
            RingError::Kek(error) => error.is_passing(),
            _ => false,
        }
    }
}

/// An opened key store.
pub struct Ring {
    store: Store,
    kek: Box<dyn Kek>,
    keyset: Keyset,
    /// Which key-encryption key sealed each, and its uses, by the order of the keyset.
    told: Vec<(String, u64)>,
    revision: i64,
    /// By version: what the keys of subjects are sealed with.
    wraps: HashMap<u32, Cipher>,
    wrap: u32,
    cache: Cache<SubjectId, Prepared>,
    /// The newest erasure that the cache has heard of.
    heard: AtomicI64,
    /// Uses of keys that are not written yet.
    pending: Mutex<HashMap<(KeyId, u32), u64>>,
}

/// What is kept ready of a subject.
#[derive(Clone)]
struct Prepared {
    /// None for those who are forgotten.
    key: Option<Arc<SealKey>>,
    erased_ms: Option<i64>,
}

impl Prepared {
    fn enter(self, subject: SubjectId, found: &mut SubjectKeys) {
        found.keys.extend(self.key.map(|key| (subject, key)));
        found.erased.extend(self.erased_ms.map(|since| (subject, since)));
    }
}

/// What a key of the deployment is sealed for.
fn context(purpose: &str, id: KeyId, version: u32) -> String {
    format!("veilstream/v1/keyring/{purpose}/{id}/{version}")
}

/// What a subject's key is sealed for.
fn subject_aad(subject: SubjectId, id: KeyId, version: u32) -> [u8; 36] {
    let mut aad = [0; 36];
    let parts = subject.0.into_iter().chain(id.0).chain(version.to_be_bytes());
    aad.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    aad
}

fn wrapping(key: &DataKey) -> Cipher {
    Cipher::new(derive(key.secret.expose(), &[b"veilstream/v1/wrap"]).expose())
}

impl Ring {
    /// Makes the database, the key file where that is the provider, and the keys. What is there already is an error:
    /// nothing is overwritten.
    pub fn create(told: &config::KeyStore, folder: &Path) -> Result<Ring, RingError> {
        let store = Store::open(told, folder, true)?;
        if !store.keyring()?.is_empty() {
            return Err(RingError::Store(StoreError::Made));
        }
        if let Some(file) = told.kek.file.as_ref().filter(|file| !folder.join(&file.path).exists())
        {
            KekFile::create(file, folder)?;
        }
        let kek = kek::open(&told.kek, folder)?;
        let rows = sealed_rows(&Keyset::of(&Purpose::ALL).keys, kek.as_ref())?;
        for row in &rows {
            let elsewhere = row.sealed.as_deref().map(|sealed| kek.open(sealed, "elsewhere"));
            if elsewhere.is_some_and(|opened| opened.is_ok()) {
                let problem = "the provider does not bind a key to its place: it is too old";
                return Err(RingError::Malformed(problem.into()));
            }
        }
        store.write_keyring(rows, Vec::new(), store.revision()?)?;
        Ring::with(told, store, kek)
    }

    pub fn open(told: &config::KeyStore, folder: &Path) -> Result<Ring, RingError> {
        let store = Store::open(told, folder, false)?;
        Ring::with(told, store, kek::open(&told.kek, folder)?)
    }

    /// The same, sealed by another provider than the configuration's.
    pub fn open_by(
        told: &config::KeyStore,
        folder: &Path,
        kek: Box<dyn Kek>,
    ) -> Result<Ring, RingError> {
        Ring::with(told, Store::open(told, folder, false)?, kek)
    }

    fn with(told: &config::KeyStore, store: Store, kek: Box<dyn Kek>) -> Result<Ring, RingError> {
        // Before the rows: a change in between is seen as one, later.
        let revision = store.revision()?;
        let heard = store.newest_erasure()?;
        let (mut keyset, mut of_rows) = (Keyset::default(), Vec::new());
        for row in store.keyring()? {
            of_rows.push((row.kek.clone(), row.uses));
            keyset.keys.push(opened(row, kek.as_ref())?);
        }
        let wraps: HashMap<u32, Cipher> = keyset
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Wrap && key.status != Status::Disabled)
            .filter_map(Key::data_key)
            .map(|key| (key.version, wrapping(&key)))
            .collect();
        let primary = keyset.primary(Purpose::Wrap);
        let primary = primary.map_err(|error| RingError::Malformed(error.to_string()))?;
        Ok(Ring {
            store,
            kek,
            keyset,
            told: of_rows,
            revision,
            wraps,
            wrap: primary.version,
            cache: Cache::builder()
                .max_capacity(told.cached_subjects.get())
                .time_to_live(Duration::from_secs(told.cached_s.get()))
                .build(),
            pending: Mutex::default(),
            heard: AtomicI64::new(heard),
        })
    }

    /// The keys of the deployment, each with the name of what seals it and how many values it sealed.
    pub fn list(&self) -> impl Iterator<Item = (&Key, &str, u64)> {
        let told = self.told.iter().map(|(kek, uses)| (kek.as_str(), *uses));
        self.keyset.keys.iter().zip(told).map(|(key, (kek, uses))| (key, kek, uses))
    }

    /// How many data subjects have a key.
    pub fn count(&self) -> Result<u64, RingError> {
        Ok(self.store.count(None)?)
    }

    /// Changes the keyset in the store: who has it open opens it anew, workers by themselves.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Keyset) -> Result<T, ChangeError>,
    ) -> Result<T, RingError> {
        let mut changed = self.keyset.clone();
        let done = change(&mut changed)?;
        let differs = |key: &&Key| {
            let old =
                self.keyset.keys.iter().find(|old| (old.id, old.version) == (key.id, key.version));
            old.is_none_or(|old| old.status != key.status)
        };
        // A purpose has one primary key at any time: what was one is written before what becomes one.
        let mut different: Vec<Key> = changed.keys.iter().filter(differs).cloned().collect();
        different.sort_by_key(|key| key.status == Status::Primary);
        let unused = different
            .iter()
            .filter(|key| key.purpose == Purpose::Wrap && key.status == Status::Destroyed)
            .map(|key| key.version)
            .collect();
        let rows = sealed_rows(&different, self.kek.as_ref())?;
        self.store.write_keyring(rows, unused, self.revision)?;
        if different.iter().any(|key| key.status == Status::Destroyed) {
            self.store.settle()?;
        }
        Ok(done)
    }

    /// Seals all keys of the deployment by the newest key-encryption key, of another provider where one is named.
    pub fn rewrap(&self, by: Option<&dyn Kek>) -> Result<(), RingError> {
        let kek = by.unwrap_or(self.kek.as_ref());
        let rows = sealed_rows(&self.keyset.keys, kek)?;
        self.store.write_keyring(rows, Vec::new(), self.revision)?;
        Ok(self.store.settle()?)
    }

    /// Seals the keys of some data subjects by the primary wrapping key; gives how many it were.
    pub fn rewrap_subjects(&self) -> Result<usize, RingError> {
        let rows = self.store.wrapped_before(self.wrap, AT_ONCE)?;
        let mut sealed = Vec::new();
        for row in rows {
            let key = self.unwrapped(&row).ok_or_else(|| {
                RingError::Malformed(format!(
                    "the key {} version {} does not open",
                    row.id, row.version
                ))
            })?;
            let new = self.wrapped(row.subject, row.id, row.version, &key).ok_or_else(|| {
                RingError::Malformed("the primary wrapping key is disabled".into())
            })?;
            sealed.push((row, new));
        }
        let count = sealed.len();
        match count {
            0 => self.store.settle()?,
            _ => self.store.rewrap(sealed, self.wrap)?,
        }
        Ok(count)
    }

    /// A new key-encryption key from now on; what is sealed stays so until [`Ring::rewrap`].
    pub fn rotate_kek(&self) -> Result<String, RingError> {
        Ok(self.kek.rotate()?)
    }

    /// Destroys an old version of the key-encryption key, which seals none of the keys any more. Copies of the
    /// database from before open no more.
    pub fn destroy_kek(&self, version: u32) -> Result<(), RingError> {
        let ends = format!("/{version}");
        match self.told.iter().filter(|(kek, _)| kek.ends_with(&ends)).count() {
            0 => Ok(self.kek.destroy(version)?),
            sealed => Err(RingError::StillSeals(sealed)),
        }
    }

    /// A subject's key in the clear; none where it does not open.
    fn unwrapped(&self, row: &SubjectRow) -> Option<Secret<[u8; 32]>> {
        let cipher = self.wraps.get(&row.wrap)?;
        let (nonce, body) = row.sealed.as_deref()?.split_first_chunk::<NONCE>()?;
        let aad = subject_aad(row.subject, row.id, row.version);
        let opened = Secret::new(cipher.open(nonce, &aad, body).ok()?);
        Some(Secret::new(opened.expose().as_slice().try_into().ok()?))
    }

    fn wrapped(
        &self,
        subject: SubjectId,
        id: KeyId,
        version: u32,
        key: &Secret<[u8; 32]>,
    ) -> Option<Vec<u8>> {
        let cipher = self.wraps.get(&self.wrap)?;
        let nonce = aead::nonce();
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(key.expose());
        cipher.seal(&nonce, &subject_aad(subject, id, version), &mut sealed, NONCE);
        Some(sealed)
    }

    fn fresh(&self, subject: SubjectId, id: KeyId, version: u32) -> SubjectRow {
        let sealed = self.wrapped(subject, id, version, &keyset::random_secret());
        SubjectRow { subject, id, version, wrap: self.wrap, sealed, uses: 0, erased_ms: None }
    }

    /// Prepares the keys of rows; a row that does not open gives none, and its subject's records go to quarantine.
    /// A wrapping key that is not known here, or is disabled, is one that others know: then it is waited for.
    fn prepare(&self, rows: Vec<SubjectRow>, found: &mut SubjectKeys) -> Result<(), StoreError> {
        for row in rows {
            if row.sealed.is_some() && !self.wraps.contains_key(&row.wrap) {
                return Err(StoreError::Outdated);
            }
            let key = self.unwrapped(&row).map(|secret| {
                let key = DataKey { id: row.id, version: row.version, secret };
                Arc::new(SealKey::new(&key, Algorithm::Aes256Gcm))
            });
            if row.sealed.is_some() && key.is_none() {
                let (key, version) = (row.id, row.version);
                tracing::error!(%key, version, "the key of a data subject does not open");
                continue;
            }
            let prepared = Prepared { key, erased_ms: row.erased_ms };
            self.cache.insert(row.subject, prepared.clone());
            prepared.enter(row.subject, found);
        }
        Ok(())
    }

    /// Gives the next version to subjects whose keys have sealed as many values as one key may.
    fn rotate_worn(&self, rows: &mut [SubjectRow]) -> Result<(), StoreError> {
        for row in rows.iter_mut().filter(|row| row.uses >= USES && row.sealed.is_some()) {
            let new = self.fresh(row.subject, row.id, row.version.saturating_add(1));
            self.store.rotate_subject(row.clone(), new)?;
            let now = self.store.subjects(&[row.subject])?;
            if let Some(now) = now.into_iter().next() {
                *row = now;
            }
        }
        Ok(())
    }

    fn look_up(&self, missing: &[SubjectId], found: &mut SubjectKeys) -> Result<(), StoreError> {
        let mut rows = self.store.subjects(missing)?;
        self.rotate_worn(&mut rows)?;
        let known: std::collections::HashSet<SubjectId> =
            rows.iter().map(|row| row.subject).collect();
        let new: Vec<SubjectRow> = missing
            .iter()
            .filter(|subject| !known.contains(subject))
            .map(|subject| self.fresh(*subject, keyset::random_id(), 1))
            .collect();
        self.prepare(rows, found)?;
        match new.is_empty() {
            true => Ok(()),
            false => self.prepare(self.store.add_subjects(new, self.wrap)?, found),
        }
    }
}

/// The keys as rows, sealed by the newest key-encryption key.
fn sealed_rows(keys: &[Key], kek: &dyn Kek) -> Result<Vec<RingRow>, KekError> {
    let row = |key: &Key| {
        let context = context(key.purpose.name(), key.id, key.version);
        let seal = |secret: &Secret<[u8; 32]>| kek.seal(secret.expose(), &context);
        let sealed = key.secret.as_ref().map(seal).transpose()?;
        let (kek, sealed) = sealed.map(|sealed| (sealed.kek, sealed.bytes)).unzip();
        Ok(RingRow {
            id: key.id,
            version: key.version,
            purpose: key.purpose.name().into(),
            status: key.status.name().into(),
            kek: kek.unwrap_or_default(),
            sealed,
            uses: 0,
        })
    };
    keys.iter().map(row).collect()
}

fn opened(row: RingRow, kek: &dyn Kek) -> Result<Key, RingError> {
    let unknown = |what: &str| {
        RingError::Malformed(format!("the key {} has no {what} that veilstream knows", row.id))
    };
    let purpose = Purpose::ALL.into_iter().find(|one| one.name() == row.purpose);
    let status = Status::ALL.into_iter().find(|one| one.name() == row.status);
    let purpose = purpose.ok_or_else(|| unknown("purpose"))?;
    let status = status.ok_or_else(|| unknown("status"))?;
    let context = context(&row.purpose, row.id, row.version);
    let secret = row.sealed.as_deref().map(|sealed| kek.open(sealed, &context)).transpose()?;
    Ok(Key { purpose, status, id: row.id, version: row.version, secret })
}

impl KeySource for Ring {
    fn primary(&self, purpose: Purpose) -> Result<DataKey, KeyError> {
        self.keyset.primary(purpose)
    }

    fn find(&self, id: KeyId, version: u32) -> Result<DataKey, KeyError> {
        if let Ok(key) = self.keyset.find(id, version) {
            return Ok(key);
        }
        let row = self.store.find(id, version).map_err(away)?;
        let (subject, wrap, sealed) = row.ok_or(KeyError::Unknown(id, version))?;
        if sealed.is_none() {
            return Err(KeyError::Erased(id));
        }
        let row = SubjectRow { subject, id, version, wrap, sealed, uses: 0, erased_ms: None };
        let secret = self.unwrapped(&row).ok_or(KeyError::Unknown(id, version))?;
        Ok(DataKey { id, version, secret })
    }

    fn has_subjects(&self) -> bool {
        true
    }

    fn subjects(&self, wanted: &[SubjectId]) -> Result<SubjectKeys, KeyError> {
        let mut found = SubjectKeys::default();
        let mut missing = Vec::new();
        for subject in wanted {
            match self.cache.get(subject) {
                Some(prepared) => {
                    prepared.enter(*subject, &mut found);
                    found.cached += 1;
                }
                None => missing.push(*subject),
            }
        }
        if !missing.is_empty() {
            // What is found stays in the cache, should a later part not be had in time.
            for part in missing.chunks(PART) {
                self.look_up(part, &mut found).map_err(away)?;
            }
            // Keys that are too old, or too many, are wiped now and not at some later time.
            self.cache.run_pending_tasks();
        }
        Ok(found)
    }

    fn erasures(&self) -> Option<&dyn Erasures> {
        Some(self)
    }

    fn rekey(&self, wanted: &[(SubjectId, i64)]) -> Result<SubjectKeys, KeyError> {
        let fresh = |(subject, since): &(SubjectId, i64)| SubjectRow {
            erased_ms: Some(*since),
            ..self.fresh(*subject, keyset::random_id(), 1)
        };
        self.store.rekey(wanted.iter().map(fresh).collect(), self.wrap).map_err(away)?;
        let subjects: Vec<SubjectId> = wanted.iter().map(|(subject, _)| *subject).collect();
        subjects.iter().for_each(|subject| self.cache.invalidate(subject));
        self.subjects(&subjects)
    }

    fn used(&self, id: KeyId, version: u32, uses: u64) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = pending.entry((id, version)).or_insert(0);
        *counted = counted.saturating_add(uses);
    }

    fn renew(&self) -> Result<KeyState, KeyError> {
        self.write_uses().map_err(away)?;
        self.forget().map_err(away)?;
        let revision = self.store.revision().map_err(away)?;
        let rows = self.store.keyring().map_err(away)?;
        let purpose =
            |row: &RingRow| Purpose::ALL.into_iter().find(|one| one.name() == row.purpose);
        let uses =
            rows.iter().filter_map(|row| Some((purpose(row)?, row.id, row.version, row.uses)));
        let mut state = KeyState {
            outdated: (revision != self.revision).then_some(revision),
            uses: uses.collect(),
        };
        let worn = |key: &&Key| {
            let uses = rows.iter().find(|row| (row.id, row.version) == (key.id, key.version));
            key.status == Status::Primary
                && matches!(key.purpose, Purpose::Field | Purpose::Quarantine)
                && uses.is_some_and(|row| row.uses >= USES)
        };
        // One at a time: the change is made from what was read.
        if state.outdated.is_none()
            && let Some(key) = self.keyset.keys.iter().find(worn)
        {
            let purpose = key.purpose;
            tracing::warn!(
                key = %key.id,
                version = key.version,
                "sealed as many values as it may: it is rotated"
            );
            let changed = self.change(|keyset| keyset.rotate(purpose).map(drop));
            changed.map_err(|error| KeyError::Away(error.to_string()))?;
            state.outdated = Some(revision + 1);
        }
        Ok(state)
    }
}

impl Erasures for Ring {
    fn erase(
        &self,
        subject: SubjectId,
        receipt: &str,
        population: &str,
        person: Vec<u8>,
    ) -> Result<Asked, KeyError> {
        let unused = keyset::random_id();
        let (receipt, population) = (receipt.to_owned(), population.to_owned());
        let asked = self.store.erase(subject, unused, receipt, population, person).map_err(away)?;
        self.cache.invalidate(&subject);
        Ok(asked)
    }

    fn hold(&self, subject: SubjectId, held: bool) -> Result<Option<bool>, KeyError> {
        self.store.hold(subject, held).map_err(away)
    }

    fn state(&self, subject: SubjectId) -> Result<Option<&'static str>, KeyError> {
        self.store.state(subject).map_err(away)
    }

    fn lease(&self, population: &str, for_ms: i64, most: i64) -> Result<Vec<Pending>, KeyError> {
        self.store.lease(population.to_owned(), for_ms, most).map_err(away)
    }

    fn extend(&self, pending: &mut Pending, for_ms: i64) -> Result<(), KeyError> {
        let (number, until) = (pending.number, pending.leased_until_ms);
        if let Some(until) = self.store.extend(number, until, for_ms).map_err(away)? {
            pending.leased_until_ms = until;
        }
        Ok(())
    }

    fn leftover(&self, subject: SubjectId) -> Result<u64, KeyError> {
        self.store.leftover(subject).map_err(away)
    }

    fn give_back(&self, pending: &[Pending]) -> Result<(), KeyError> {
        let leases = pending.iter().map(|one| (one.number, one.leased_until_ms)).collect();
        self.store.give_back(leases).map_err(away)
    }

    fn done(&self, numbers: Vec<i64>) -> Result<(), KeyError> {
        self.store.done(numbers).map_err(away)
    }

    fn unfinished(&self) -> Result<u64, KeyError> {
        self.store.unfinished().map_err(away)
    }
}

impl Ring {
    /// Takes keys out of the cache that erasures have destroyed since it was last asked.
    fn forget(&self) -> Result<(), StoreError> {
        let (newest, subjects) = self.store.erased_since(self.heard.load(Ordering::Relaxed))?;
        for subject in subjects {
            self.cache.invalidate(&subject);
        }
        self.heard.fetch_max(newest, Ordering::Relaxed);
        self.cache.run_pending_tasks();
        Ok(())
    }

    fn write_uses(&self) -> Result<(), StoreError> {
        let locked = || self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut *locked());
        for ((id, version), uses) in &pending {
            if let Err(error) = self.store.used(*id, *version, *uses) {
                // Some may count twice then: too much rather than too little.
                for (key, uses) in pending {
                    *locked().entry(key).or_insert(0) += uses;
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// It is tried again: a database that is away comes back.
fn away(error: StoreError) -> KeyError {
    KeyError::Away(error.to_string())
}
