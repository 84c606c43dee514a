//! Rows that wait until they may be published: in memory up to a limit of bytes, beyond it in a file.
//!
//! The file is a cache of this process: it has no name, nothing in it is synced, and what is in it is sealed under a
//! key that is in memory alone. It ends with [`Rows`], or with the process.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};
use zeroize::Zeroizing;

use crate::crypto::aead::{self, Cipher, NONCE};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
/// What redb keeps of the file in memory.
const CACHE: usize = 32 << 20;
/// A transaction is written at so many bytes of new rows, or at so many rows that come and go.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS: usize = 1000;
/// A file without rows is given back if it is larger than that: it would take some time to make a new one for a few.
const KEPT_FILE: u64 = 64 << 20;
/// What the map and the allocator add to a row in memory.
const OVERHEAD: usize = 64;

/// What went wrong with the file. It says nothing of what is in a row.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("{folder}: no file can be made there for rows that wait: {error}")]
    Make { folder: PathBuf, error: io::Error },
    #[error("{folder}: the file of rows that wait: {attempt}: {error}")]
    /// Once the system could not read or write the file, redb does neither again: the rows in it are lost here, and to
    /// be had from the changelog anew.
    File { folder: PathBuf, attempt: &'static str, error: Box<redb::Error> },
    #[error("{folder}: the file of rows that wait: row {id} is not as it was written")]
    Altered { folder: PathBuf, id: u64 },
}

/// Rows by id.
///
/// An id that is greater than all before costs least: only another one may be there already.
pub struct Rows {
    /// For rows in memory, with what they cost there beyond their bytes.
    limit: usize,
    folder: Option<PathBuf>,
    memory: HashMap<u64, Box<[u8]>>,
    /// How much of the limit is used.
    used: usize,
    store: Option<Store>,
    bytes: usize,
    highest: Option<u64>,
}

impl Rows {
    /// The file is made in the folder when it is needed first. Without a folder all rows stay in memory.
    pub fn new(memory_limit: usize, folder: Option<PathBuf>) -> Rows {
        Rows {
            limit: memory_limit,
            folder,
            memory: HashMap::new(),
            used: 0,
            store: None,
            bytes: 0,
            highest: None,
        }
    }

    /// Takes the place of a row of that id. After an error the row is not there, and the one before it may be.
    pub fn insert(&mut self, id: u64, row: Vec<u8>) -> Result<(), RowsError> {
        if self.highest.is_some_and(|highest| id <= highest) {
            self.remove(id)?;
        }
        let size = row.len();
        let cost = size.saturating_add(OVERHEAD);
        match &self.folder {
            Some(folder) if self.used.saturating_add(cost) > self.limit => {
                let store = match &mut self.store {
                    Some(store) => store,
                    none => none.insert(Store::make(folder)?),
                };
                store.insert(id, row)?;
            }
            _ => {
                self.memory.insert(id, row.into_boxed_slice());
                self.used = self.used.saturating_add(cost);
            }
        }
        self.bytes = self.bytes.saturating_add(size);
        self.highest = self.highest.max(Some(id));
        Ok(())
    }

    pub fn get(&self, id: u64) -> Result<Option<Cow<'_, [u8]>>, RowsError> {
        match (self.memory.get(&id), &self.store) {
            (Some(row), _) => Ok(Some(Cow::Borrowed(row))),
            (None, Some(store)) => store.get(id),
            (None, None) => Ok(None),
        }
    }

    /// After an error the row is still there.
    pub fn remove(&mut self, id: u64) -> Result<Option<Vec<u8>>, RowsError> {
        let row = match self.memory.remove(&id) {
            Some(row) => {
                self.used = self.used.saturating_sub(row.len().saturating_add(OVERHEAD));
                Some(row.into_vec())
            }
            None => match &mut self.store {
                Some(store) => store.remove(id)?,
                None => None,
            },
        };
        self.bytes = self.bytes.saturating_sub(row.as_ref().map_or(0, Vec::len));
        if self.store.as_ref().is_some_and(Store::is_waste) {
            self.store = None;
        }
        Ok(row)
    }

    /// An id that is greater than all before.
    pub fn next_id(&self) -> u64 {
        self.highest.map_or(0, |highest| highest.saturating_add(1))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.memory.len().saturating_add(self.on_disk())
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of all rows, without what it takes to keep them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows are beyond the limit of memory: in the file, or in the next batch for it.
    #[cfg(test)]
    pub fn on_disk(&self) -> usize {
        self.store.as_ref().map_or(0, Store::len)
    }
}

/// Rows in a file.
struct Store {
    folder: PathBuf,
    /// The same file that the database has, to see how large it is.
    file: File,
    /// The file as of the last transaction that was written in full. The pages it still needs become free with the next.
    table: Option<ReadOnlyTable<u64, &'static [u8]>>,
    database: Database,
    cipher: Cipher,
    /// Rows that are not in the file yet, and how many bytes they are.
    fresh: BTreeMap<u64, Vec<u8>>,
    fresh_bytes: usize,
    /// What is still in the file, but removed.
    gone: BTreeSet<u64>,
    /// How many rows are in the file and not gone.
    written: usize,
}

impl Store {
    fn make(folder: &Path) -> Result<Store, RowsError> {
        let cannot = |error| RowsError::Make { folder: folder.to_owned(), error };
        let file = tempfile::tempfile_in(folder).map_err(cannot)?;
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(cannot)?;
        let backend = file
            .try_clone()
            .map_err(cannot)
            .and_then(|file| FileBackend::new(file).map_err(failed(folder, "open")))?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(Unsynced(backend))
            .map_err(failed(folder, "create"))?;
        let mut key = Zeroizing::new([0; 32]);
        rand::Rng::fill_bytes(&mut rand::rng(), key.as_mut());
        Ok(Store {
            folder: folder.to_owned(),
            file,
            table: None,
            database,
            cipher: Cipher::new(&key),
            fresh: BTreeMap::new(),
            fresh_bytes: 0,
            gone: BTreeSet::new(),
            written: 0,
        })
    }

    fn len(&self) -> usize {
        self.written.saturating_add(self.fresh.len())
    }

    /// Whether it has no rows and much of the disk.
    fn is_waste(&self) -> bool {
        self.len() == 0 && self.file.metadata().is_ok_and(|file| file.len() > KEPT_FILE)
    }

    /// For an id that has no row.
    fn insert(&mut self, id: u64, row: Vec<u8>) -> Result<(), RowsError> {
        self.make_room(row.len())?;
        self.fresh_bytes = self.fresh_bytes.saturating_add(row.len());
        self.fresh.insert(id, row);
        Ok(())
    }

    fn get(&self, id: u64) -> Result<Option<Cow<'_, [u8]>>, RowsError> {
        match self.fresh.get(&id) {
            Some(row) => Ok(Some(Cow::Borrowed(row))),
            None => Ok(self.read(id)?.map(Cow::Owned)),
        }
    }

    fn remove(&mut self, id: u64) -> Result<Option<Vec<u8>>, RowsError> {
        if let Some(row) = self.fresh.remove(&id) {
            self.fresh_bytes = self.fresh_bytes.saturating_sub(row.len());
            return Ok(Some(row));
        }
        let Some(row) = self.read(id)? else { return Ok(None) };
        self.make_room(0)?;
        self.gone.insert(id);
        self.written = self.written.saturating_sub(1);
        Ok(Some(row))
    }

    /// A row of the file.
    fn read(&self, id: u64) -> Result<Option<Vec<u8>>, RowsError> {
        let Some(table) = &self.table else { return Ok(None) };
        if self.gone.contains(&id) {
            return Ok(None);
        }
        let Some(sealed) = table.get(id).map_err(failed(&self.folder, "read a row"))? else {
            return Ok(None);
        };
        match open(&self.cipher, id, sealed.value()) {
            Some(row) => Ok(Some(row)),
            None => Err(RowsError::Altered { folder: self.folder.clone(), id }),
        }
    }

    /// Writes a batch if one more would be too many.
    fn make_room(&mut self, bytes: usize) -> Result<(), RowsError> {
        let rows = self.fresh.len().saturating_add(self.gone.len());
        let full = self.fresh_bytes.saturating_add(bytes) > BATCH_BYTES && !self.fresh.is_empty();
        if rows >= BATCH_ROWS || full { self.write() } else { Ok(()) }
    }

    /// Writes the batch. After an error it is still to be written.
    fn write(&mut self) -> Result<(), RowsError> {
        let folder = &self.folder;
        let batch = self.database.begin_write().map_err(failed(folder, "begin a transaction"))?;
        {
            let mut table = batch.open_table(TABLE).map_err(failed(folder, "open its table"))?;
            for id in &self.gone {
                table.remove(id).map_err(failed(folder, "remove a row"))?;
            }
            let mut sealed = Vec::new();
            for (id, row) in &self.fresh {
                seal(&self.cipher, *id, row, &mut sealed);
                table.insert(id, sealed.as_slice()).map_err(failed(folder, "write a row"))?;
            }
        }
        batch.commit().map_err(failed(folder, "commit a transaction"))?;
        let rows = self.database.begin_read().map_err(failed(folder, "begin to read"))?;
        self.table = Some(rows.open_table(TABLE).map_err(failed(folder, "open its table"))?);
        self.written = self.written.saturating_add(self.fresh.len());
        self.fresh.clear();
        self.fresh_bytes = 0;
        self.gone.clear();
        Ok(())
    }
}

/// Nonce, ciphertext and tag of a row.
fn seal(cipher: &Cipher, id: u64, row: &[u8], sealed: &mut Vec<u8>) {
    let nonce = aead::nonce();
    sealed.clear();
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(row);
    cipher.seal(&nonce, &id.to_be_bytes(), sealed, NONCE);
}

fn open(cipher: &Cipher, id: u64, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    cipher.open(nonce, &id.to_be_bytes(), sealed).ok()
}

fn failed<E: Into<redb::Error>>(
    folder: &Path,
    attempt: &'static str,
) -> impl FnOnce(E) -> RowsError {
    move |error| RowsError::File {
        folder: folder.to_owned(),
        attempt,
        error: Box::new(error.into()),
    }
}

/// A file that is never synced: nobody reads it after this process.
///
/// redb's `Durability::None` is not the same. It frees no page that the last durable transaction has, and what it
/// notes of the others stays in memory until the next one: hence durable transactions that cost no sync.
#[derive(Debug)]
struct Unsynced(FileBackend);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::ReadableTable;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    fn on_disk(limit: usize) -> (tempfile::TempDir, Rows) {
        let folder = tempfile::tempdir().unwrap();
        let rows = Rows::new(limit, Some(folder.path().to_owned()));
        (folder, rows)
    }

    fn file(rows: &Rows) -> &File {
        &rows.store.as_ref().unwrap().file
    }

    fn size(rows: &Rows) -> u64 {
        file(rows).metadata().unwrap().len()
    }

    /// The batch is written, and nothing of it is in redb's cache alone.
    fn content(rows: &mut Rows) -> Vec<u8> {
        let store = rows.store.as_mut().unwrap();
        store.write().unwrap();
        let mut content = vec![0; store.file.metadata().unwrap().len() as usize];
        store.file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    fn contains(content: &[u8], what: &[u8]) -> bool {
        content.windows(what.len()).any(|window| window == what)
    }

    fn is_empty(folder: &Path) -> bool {
        std::fs::read_dir(folder).unwrap().next().is_none()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u8, usize),
        Next(u8, usize),
        Remove(u64),
        Get(u64),
        Write,
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![20 => 0..400_usize, 1 => 500_000..1_500_000_usize];
        prop_oneof![
            2 => (0..60_u64, any::<u8>(), length.clone())
                .prop_map(|(id, byte, length)| Step::Insert(id, byte, length)),
            4 => (any::<u8>(), length).prop_map(|(byte, length)| Step::Next(byte, length)),
            4 => (0..60_u64).prop_map(Step::Remove),
            2 => (0..60_u64).prop_map(Step::Get),
            1 => Just(Step::Write),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn is_a_map(
            limit in 0..3000_usize,
            with_folder in prop::bool::weighted(0.9),
            steps in prop::collection::vec(step(), 1..150),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut rows = Rows::new(limit, with_folder.then(|| folder.path().to_owned()));
            let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Insert(id, byte, length) => {
                        rows.insert(id, vec![byte; length]).unwrap();
                        model.insert(id, vec![byte; length]);
                    }
                    Step::Next(byte, length) => {
                        rows.insert(next, vec![byte; length]).unwrap();
                        model.insert(next, vec![byte; length]);
                        next += 1;
                    }
                    Step::Remove(id) => prop_assert!(rows.remove(id).unwrap() == model.remove(&id)),
                    Step::Get(id) => {
                        let row = rows.get(id).unwrap();
                        prop_assert!(row.as_deref() == model.get(&id).map(Vec::as_slice));
                    }
                    Step::Write => {
                        if let Some(store) = &mut rows.store {
                            store.write().unwrap();
                        }
                    }
                }
                prop_assert_eq!(rows.len(), model.len());
                prop_assert_eq!(rows.is_empty(), model.is_empty());
                prop_assert_eq!(rows.bytes(), model.values().map(Vec::len).sum::<usize>());
                prop_assert!(rows.on_disk() <= rows.len());
                prop_assert!(!with_folder || rows.used <= limit);
                prop_assert!(with_folder || rows.on_disk() == 0);
            }
            for (id, row) in &model {
                let got = rows.get(*id).unwrap();
                prop_assert!(got.as_deref() == Some(row.as_slice()));
            }
        }
    }

    #[test]
    fn memory_is_used_again() {
        let (_folder, mut rows) = on_disk(10 * (100 + OVERHEAD));
        for id in 0..15 {
            rows.insert(id, vec![1; 100]).unwrap();
        }
        assert_eq!((rows.len(), rows.on_disk()), (15, 5));
        for id in 0..10 {
            rows.remove(id).unwrap();
        }
        for id in 15..25 {
            rows.insert(id, vec![1; 100]).unwrap();
        }
        assert_eq!((rows.len(), rows.on_disk()), (15, 5));
    }

    #[test]
    fn nothing_is_readable() {
        let (_folder, mut rows) = on_disk(0);
        let canary = b"canary-5c9f-alice@example.com";
        for id in 0..3000 {
            rows.insert(id, canary.repeat(10)).unwrap();
        }
        rows.insert(3000, canary.repeat(50_000)).unwrap();
        let content = content(&mut rows);
        assert!(content.len() > 2_000_000);
        assert!(!contains(&content, b"canary") && !contains(&content, b"alice"));

        // What is searched is what holds the rows: sealed ones are found.
        let table = rows.store.as_ref().unwrap().table.as_ref().unwrap();
        let sealed = table.get(7).unwrap().unwrap().value().to_vec();
        assert!(contains(&content, &sealed));
        assert_eq!(rows.get(7).unwrap().unwrap().as_ref(), canary.repeat(10));
    }

    #[test]
    fn a_nonce_and_an_id_seal_once() {
        let cipher = Cipher::new(&[7; 32]);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        seal(&cipher, 1, b"row", &mut first);
        seal(&cipher, 1, b"row", &mut second);
        assert_ne!(first, second);
        assert_eq!(open(&cipher, 1, &first).unwrap(), b"row");
        assert_eq!(open(&cipher, 2, &first), None);
        assert_eq!(open(&cipher, 1, &first[1..]), None);
        assert_eq!(open(&cipher, 1, &[]), None);
        for at in 0..first.len() {
            let mut altered = first.clone();
            altered[at] ^= 1;
            assert_eq!(open(&cipher, 1, &altered), None);
        }
    }

    #[test]
    fn an_altered_row_is_an_error() {
        let (_folder, mut rows) = on_disk(0);
        rows.insert(1, b"one".to_vec()).unwrap();
        rows.insert(2, b"two".to_vec()).unwrap();
        let store = rows.store.as_mut().unwrap();
        store.write().unwrap();
        let batch = store.database.begin_write().unwrap();
        {
            let mut table = batch.open_table(TABLE).unwrap();
            let two = table.get(2).unwrap().unwrap().value().to_vec();
            table.insert(1, two.as_slice()).unwrap();
        }
        batch.commit().unwrap();
        store.table = Some(store.database.begin_read().unwrap().open_table(TABLE).unwrap());
        assert!(matches!(rows.get(1), Err(RowsError::Altered { id: 1, .. })));
        assert!(matches!(rows.remove(1), Err(RowsError::Altered { id: 1, .. })));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.remove(2).unwrap().unwrap(), b"two");
    }

    #[test]
    fn the_file_has_no_name() {
        let (folder, mut rows) = on_disk(0);
        for id in 0..5000 {
            rows.insert(id, vec![1; 300]).unwrap();
        }
        // A process that is killed now leaves nothing.
        assert!(is_empty(folder.path()));
        assert_eq!(file(&rows).metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        drop(rows);
        assert!(is_empty(folder.path()));
    }

    #[test]
    fn the_file_stays_small_while_rows_come_and_go() {
        let (_folder, mut rows) = on_disk(0);
        let (window, mut largest) = (20_000, 0);
        for id in 0..20 * window {
            rows.insert(id, vec![1; 100 + (id % 400) as usize]).unwrap();
            if id >= window {
                // Not the oldest ones first.
                let oldest = id - window;
                let going = oldest / window * window + oldest % window * 7919 % window;
                assert!(rows.remove(going).unwrap().is_some());
            }
            if id == 3 * window {
                largest = size(&rows);
            }
        }
        assert_eq!(rows.len() as u64, window);
        // Pages are taken again: no more than one step of growth from where it was early on.
        assert!(size(&rows) <= 2 * largest, "{} after {largest}", size(&rows));
        assert!(size(&rows) < 8 * rows.bytes() as u64, "{} for {}", size(&rows), rows.bytes());
    }

    #[test]
    fn a_large_file_without_rows_is_given_back() {
        let (_folder, mut rows) = on_disk(0);
        for id in 0..100 {
            rows.insert(id, vec![1; 1 << 20]).unwrap();
        }
        assert!(size(&rows) > KEPT_FILE);
        for id in 0..100 {
            assert_eq!(rows.remove(id).unwrap().unwrap().len(), 1 << 20);
        }
        assert!(rows.store.is_none() && rows.is_empty());
        rows.insert(100, vec![1; 100]).unwrap();
        assert_eq!(rows.get(100).unwrap().unwrap().len(), 100);
    }

    #[test]
    fn a_folder_that_takes_no_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let read_only = folder.path().join("read-only");
        std::fs::create_dir(&read_only).unwrap();
        std::fs::set_permissions(&read_only, PermissionsExt::from_mode(0o500)).unwrap();
        let mut folders = vec![missing, PathBuf::from("/proc"), PathBuf::from("/dev/null")];
        // Root writes wherever it likes.
        if File::create(read_only.join("probe")).is_err() {
            folders.push(read_only);
        }
        for folder in folders {
            let mut rows = Rows::new(100 + OVERHEAD, Some(folder.clone()));
            rows.insert(1, vec![b'x'; 100]).unwrap();
            let error = rows.insert(2, vec![b'x'; 100]).unwrap_err();
            assert!(matches!(error, RowsError::Make { .. }));
            let message = error.to_string();
            assert!(message.starts_with(&format!("{}: ", folder.display())), "{message}");
            assert!(message.contains("os error"), "{message}");
            assert_eq!((rows.len(), rows.bytes(), rows.on_disk()), (1, 100, 0));
            assert_eq!(rows.remove(1).unwrap().unwrap().len(), 100);
            rows.insert(2, vec![b'x'; 100]).unwrap();
        }
    }
}
