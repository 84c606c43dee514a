//! The database of a key store: SQLite on this machine, or PostgreSQL for many workers. It sees sealed keys and keyed
//! digests, never a key or a person.

use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::background::Background;
use crate::config;
use crate::crypto::{KeyId, SubjectId};

/// The same with either pool. The SQL is the same; `$pool` differs in its type.
macro_rules! with {
    ($store:expr, |$pool:ident| $work:expr) => {{
        let pool = $store.pool();
        $store.wait(async move {
            match &*pool {
                Pool::Sqlite($pool) => $work,
                Pool::Postgres($pool) => $work,
            }
        })
    }};
}

// Behind the macro, which it uses.
mod erasures;

/// How long one request may take, the wait for a connection included.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 4;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the key store: {0}")]
    Database(sqlx::Error),
    #[error("the key store: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    #[error("the key store: no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the key store: {0}")]
    Setting(String),
    #[error("there is no key store in {0}: make one with `veilstream keys init --config`")]
    Missing(String),
    /// Somebody else changed it at the same time.
    #[error("the keys were changed by another at the same time; look at them, and try again")]
    Conflict,
    #[error("the key store has its keys already")]
    Made,
    /// Other keys are in force than the one who asks has read.
    #[error("the wrapping key is another since it was read")]
    Outdated,
    #[error("{0} keys of data subjects are sealed by it: run `veilstream keys rewrap` first")]
    StillWraps(u64),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Database(error)
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        StoreError::Migrate(error)
    }
}

/// A row of the keyring.
pub struct RingRow {
    pub id: KeyId,
    pub version: u32,
    pub purpose: String,
    pub status: String,
    pub kek: String,
    pub sealed: Option<Vec<u8>>,
    pub uses: u64,
}

/// A data subject's primary key.
#[derive(Clone)]
pub struct SubjectRow {
    pub subject: SubjectId,
    pub id: KeyId,
    pub version: u32,
    /// The version of the wrapping key.
    pub wrap: u32,
    /// None where the subject is forgotten.
    pub sealed: Option<Vec<u8>>,
    pub uses: u64,
    /// When the subject was last forgotten, in milliseconds since the epoch.
    pub erased_ms: Option<i64>,
}

/// Of a key by its name: whose it is, the version of the wrapping key, and the sealed key.
pub type Found = (SubjectId, u32, Option<Vec<u8>>);

enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A database with the runtime that its connections live on. The calls block: never call them from within that
/// runtime. They may be called from within another.
pub struct Store {
    pool: Mutex<Arc<Pool>>,
    /// Makes another pool: connections that nobody answers on are not waited for.
    lazy: Box<dyn Fn() -> Pool + Send + Sync>,
    background: Background,
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        StoreError::Setting(error.to_string())
    }
}

impl Store {
    /// Opens the database; makes it, where `make` is said.
    pub fn open(told: &config::KeyStore, folder: &Path, make: bool) -> Result<Store, StoreError> {
        let background = Background::start("keys")?;
        let lazy: Box<dyn Fn() -> Pool + Send + Sync> = match (&told.sqlite, &told.postgres) {
            (Some(path), _) => {
                let path = folder.join(path);
                if make {
                    // Its journals get the mode of the file.
                    let mut file = std::fs::OpenOptions::new();
                    let made = file.create(true).append(true).mode(0o600).open(&path);
                    made.map_err(|error| {
                        StoreError::Setting(format!("{}: {error}", path.display()))
                    })?;
                } else if !path.exists() {
                    return Err(StoreError::Missing(path.display().to_string()));
                }
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(PATIENCE / 2)
                    // What is deleted is overwritten: a destroyed key does not linger in a free page.
                    .pragma("secure_delete", "ON");
                Box::new(move || {
                    let pool = SqlitePoolOptions::new()
                        .max_connections(CONNECTIONS)
                        .acquire_timeout(PATIENCE / 2);
                    Pool::Sqlite(pool.connect_lazy_with(options.clone()))
                })
            }
            (None, Some(url)) => {
                let url =
                    url.read(folder).map_err(|error| StoreError::Setting(error.to_string()))?;
                let options = postgres(url.expose())?;
                Box::new(move || {
                    let pool = PgPoolOptions::new()
                        .max_connections(CONNECTIONS)
                        .acquire_timeout(PATIENCE / 2);
                    Pool::Postgres(pool.connect_lazy_with(options.clone()))
                })
            }
            // Config::load has seen to it that there is one.
            (None, None) => return Err(StoreError::Setting("no database is named".into())),
        };
        // A pool is made on the runtime that it lives on.
        let made = background.wait(PATIENCE, async move {
            let pool = Arc::new(lazy());
            (pool, lazy)
        });
        let (pool, lazy) = made.ok_or(StoreError::Late)?;
        let store = Store { pool: Mutex::new(pool), lazy, background };
        let migrations = store.migrations();
        match make {
            true => with!(store, |pool| Ok(migrations.run(pool).await?))?,
            // A migration of a later version is made by hand: workers of two versions may be at work.
            false => store.current()?,
        }
        Ok(store)
    }

    fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Background::wait`], with lateness an error like others.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.background.wait(PATIENCE, work).unwrap_or_else(|| {
            // A network that swallows everything would hold its connections for many minutes.
            let _guard = self.background.enter();
            let new = Arc::new((self.lazy)());
            *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = new;
            Err(StoreError::Late)
        })
    }

    fn is_postgres(&self) -> bool {
        matches!(*self.pool(), Pool::Postgres(_))
    }

    fn migrations(&self) -> Migrator {
        let sql = match *self.pool() {
            Pool::Sqlite(_) => include_str!("sqlite.sql"),
            Pool::Postgres(_) => include_str!("postgres.sql"),
        };
        let kind = MigrationType::Simple;
        let first = Migration::new(1, "keys".into(), kind, sql.into_sql_str(), false);
        Migrator::with_migrations(vec![first])
    }

    /// Whether the tables are those of this version.
    fn current(&self) -> Result<(), StoreError> {
        let sql =
            "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version DESC LIMIT 1";
        let newest = with!(self, |pool| {
            Ok(sqlx::query_as::<_, (i64,)>(sql).fetch_optional(pool).await?)
        });
        match newest {
            Ok(Some((1,))) => Ok(()),
            Ok(Some((other,))) => Err(StoreError::Setting(format!(
                "its tables are of version {other}, and this veilstream knows version 1"
            ))),
            Ok(None) => Err(StoreError::Missing("the database".into())),
            Err(StoreError::Database(error)) if is_no_table(&error) => {
                Err(StoreError::Missing("the database".into()))
            }
            Err(error) => Err(error),
        }
    }

    pub fn revision(&self) -> Result<i64, StoreError> {
        with!(self, |pool| {
            let sql = "SELECT number FROM revision";
            let (number,) = sqlx::query_as::<_, (i64,)>(sql).fetch_one(pool).await?;
            Ok(number)
        })
    }

    pub fn keyring(&self) -> Result<Vec<RingRow>, StoreError> {
        type Row = (Vec<u8>, i64, String, String, String, Option<Vec<u8>>, i64);
        let sql = "SELECT id, version, purpose, status, kek, sealed, uses FROM keyring \
                   ORDER BY purpose, version";
        let rows: Vec<Row> = with!(self, |pool| Ok(sqlx::query_as(sql).fetch_all(pool).await?))?;
        rows.into_iter()
            .map(|(id, version, purpose, status, kek, sealed, uses)| {
                let (id, version) = (key_id(&id)?, number(version)?);
                Ok(RingRow { id, version, purpose, status, kek, sealed, uses: uses as u64 })
            })
            .collect()
    }

    /// Writes rows of the keyring, in one transaction: primary ones last, each purpose having one. `revision` is
    /// what they were made from; `unused` are versions of the wrapping key that may seal no subject's key.
    pub fn write_keyring(
        &self,
        rows: Vec<RingRow>,
        unused: Vec<u32>,
        revision: i64,
    ) -> Result<(), StoreError> {
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            let claim = "UPDATE revision SET number = number + 1 WHERE number = $1";
            let claimed = sqlx::query(claim).bind(revision).execute(&mut *transaction).await?;
            if claimed.rows_affected() == 0 {
                return Err(StoreError::Conflict);
            }
            let sql = "INSERT INTO keyring (id, version, purpose, status, kek, sealed) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id, version) DO UPDATE \
                       SET status = excluded.status, kek = excluded.kek, sealed = excluded.sealed";
            for row in &rows {
                sqlx::query(sql)
                    .bind(row.id.0.as_slice())
                    .bind(i64::from(row.version))
                    .bind(row.purpose.as_str())
                    .bind(row.status.as_str())
                    .bind(row.kek.as_str())
                    .bind(row.sealed.as_deref())
                    .execute(&mut *transaction)
                    .await?;
            }
            // Who writes keys of subjects holds the rows of the wrapping keys: none is under way now.
            for version in unused {
                let query = sqlx::query_as::<_, (i64,)>(WRAPPED).bind(i64::from(version));
                let (count,) = query.fetch_one(&mut *transaction).await?;
                if count > 0 {
                    return Err(StoreError::StillWraps(count as u64));
                }
            }
            transaction.commit().await?;
            Ok(())
        })
    }

    /// Moves what SQLite keeps of earlier states out of its journal, where destroyed keys would linger.
    pub fn settle(&self) -> Result<(), StoreError> {
        let pool = self.pool();
        self.wait(async move {
            if let Pool::Sqlite(pool) = &*pool {
                sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(pool).await?;
            }
            Ok(())
        })
    }

    /// The rows of those that are known. One query.
    pub fn subjects(&self, wanted: &[SubjectId]) -> Result<Vec<SubjectRow>, StoreError> {
        let pool = self.pool();
        let wanted = wanted.to_vec();
        let rows = self.wait(async move {
            Ok(match &*pool {
                Pool::Sqlite(pool) => {
                    let sql = "SELECT s.subject, s.id, s.version, s.wrap, s.sealed, s.uses, s.erased_ms \
                               FROM json_each($1) j JOIN subjects s ON s.subject = unhex(j.value)";
                    let list = hex_list(wanted.iter().map(|one| one.0));
                    sqlx::query_as(sql).bind(list).fetch_all(pool).await?
                }
                Pool::Postgres(pool) => {
                    let sql = "SELECT subject, id, version, wrap, sealed, uses, erased_ms \
                               FROM subjects WHERE subject = ANY($1)";
                    let list: Vec<Vec<u8>> = wanted.iter().map(|one| one.0.to_vec()).collect();
                    sqlx::query_as(sql).bind(list).fetch_all(pool).await?
                }
            })
        })?;
        Ok(rows.into_iter().filter_map(subject_row).collect())
    }

    /// Writes the rows of new subjects and gives what is there now: whoever came first has made the key.
    /// They are in order, so that two workers do not wait for each other.
    pub fn add_subjects(
        &self,
        new: Vec<SubjectRow>,
        wrap: u32,
    ) -> Result<Vec<SubjectRow>, StoreError> {
        let pool = self.pool();
        let rows = self.wait(async move {
            Ok(match &*pool {
                Pool::Sqlite(pool) => {
                    let sql = "INSERT INTO subjects (subject, id, version, wrap, sealed) \
                               SELECT unhex(j.value->>0), unhex(j.value->>1), 1, $2, \
                               unhex(j.value->>2) FROM json_each($1) j WHERE true \
                               ON CONFLICT (subject) DO UPDATE SET subject = excluded.subject \
                               RETURNING subject, id, version, wrap, sealed, uses, erased_ms";
                    let rows = new.iter().map(|row| {
                        let sealed = hex(row.sealed.as_deref().unwrap_or_default());
                        format!("[\"{}\",\"{}\",\"{sealed}\"]", hex(&row.subject.0), hex(&row.id.0))
                    });
                    let list = format!("[{}]", rows.collect::<Vec<_>>().join(","));
                    let mut transaction = pool.begin().await?;
                    sqlx::query(CLAIM).execute(&mut *transaction).await?;
                    let live = sqlx::query_as(LIVE_SQLITE).fetch_all(&mut *transaction).await?;
                    is_live(live, wrap)?;
                    let query = sqlx::query_as(sql).bind(list).bind(i64::from(wrap));
                    let rows = query.fetch_all(&mut *transaction).await?;
                    transaction.commit().await?;
                    rows
                }
                Pool::Postgres(pool) => {
                    let sql = "INSERT INTO subjects (subject, id, version, wrap, sealed) \
                               SELECT n.subject, n.id, 1, $3, n.sealed \
                               FROM UNNEST($1::bytea[], $2::bytea[], $4::bytea[]) \
                               AS n (subject, id, sealed) \
                               ON CONFLICT (subject) DO UPDATE SET subject = excluded.subject \
                               RETURNING subject, id, version, wrap, sealed, uses, erased_ms";
                    let of = |part: fn(&SubjectRow) -> Vec<u8>| -> Vec<Vec<u8>> {
                        new.iter().map(part).collect()
                    };
                    let mut transaction = pool.begin().await?;
                    let live = sqlx::query_as(LIVE_POSTGRES).fetch_all(&mut *transaction).await?;
                    is_live(live, wrap)?;
                    let rows = sqlx::query_as(sql)
                        .bind(of(|row| row.subject.0.to_vec()))
                        .bind(of(|row| row.id.0.to_vec()))
                        .bind(i64::from(wrap))
                        .bind(of(|row| row.sealed.clone().unwrap_or_default()))
                        .fetch_all(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    rows
                }
            })
        })?;
        Ok(rows.into_iter().filter_map(subject_row).collect())
    }

    /// The version of a subject's key that a ciphertext names: its subject, wrapping version and sealed key. Of a key
    /// that an erasure destroyed there is none in that.
    pub fn find(&self, id: KeyId, version: u32) -> Result<Option<Found>, StoreError> {
        type Row = (Vec<u8>, i64, Option<Vec<u8>>);
        let sql = "SELECT subject, wrap, sealed FROM subjects \
                   WHERE id = $1 AND version = $2 AND sealed IS NOT NULL \
                   UNION ALL SELECT s.subject, v.wrap, v.sealed FROM subject_versions v \
                   JOIN subjects s ON s.id = v.id WHERE v.id = $1 AND v.version = $2 \
                   UNION ALL SELECT subject, 0, NULL FROM erased_keys WHERE id = $1";
        let row: Option<Row> = with!(self, |pool| {
            let query = sqlx::query_as(sql).bind(id.0.as_slice()).bind(i64::from(version));
            Ok(query.fetch_optional(pool).await?)
        })?;
        let Some((subject, wrap, sealed)) = row else { return Ok(None) };
        Ok(Some((subject_id(&subject)?, number(wrap)?, sealed)))
    }

    /// A subject gets its next version, unless another has seen to that already. What is there now becomes the earlier
    /// one, whatever sealed it meanwhile.
    pub fn rotate_subject(&self, old: SubjectRow, new: SubjectRow) -> Result<(), StoreError> {
        let (claim, live) = self.locks();
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(claim).execute(&mut *transaction).await?;
            is_live(sqlx::query_as(live).fetch_all(&mut *transaction).await?, new.wrap)?;
            let sql = "INSERT INTO subject_versions (id, version, wrap, sealed) \
                       SELECT id, version, wrap, sealed FROM subjects \
                       WHERE subject = $1 AND version = $2 AND sealed IS NOT NULL";
            let kept = sqlx::query(sql)
                .bind(old.subject.0.as_slice())
                .bind(i64::from(old.version))
                .execute(&mut *transaction)
                .await?;
            if kept.rows_affected() == 0 {
                return Ok(());
            }
            let sql = "UPDATE subjects SET version = $1, wrap = $2, sealed = $3, uses = 0 \
                       WHERE subject = $4 AND version = $5 AND sealed IS NOT NULL";
            let rotated = sqlx::query(sql)
                .bind(i64::from(new.version))
                .bind(i64::from(new.wrap))
                .bind(new.sealed.as_deref())
                .bind(old.subject.0.as_slice())
                .bind(i64::from(old.version))
                .execute(&mut *transaction)
                .await?;
            if rotated.rows_affected() == 0 {
                // Forgotten in between: nothing of the key is kept.
                return Ok(());
            }
            transaction.commit().await?;
            Ok(())
        })
    }

    /// What a transaction that writes keys of subjects begins with: the right to write, and the rows of the wrapping
    /// keys, which stay as they are until it ends.
    fn locks(&self) -> (&'static str, &'static str) {
        match self.is_postgres() {
            true => ("SELECT 1", LIVE_POSTGRES),
            false => (CLAIM, LIVE_SQLITE),
        }
    }

    /// Counts uses of a key, whosever it is.
    pub fn used(&self, id: KeyId, version: u32, uses: u64) -> Result<(), StoreError> {
        with!(self, |pool| {
            for sql in [
                "UPDATE keyring SET uses = uses + $1 WHERE id = $2 AND version = $3",
                "UPDATE subjects SET uses = uses + $1 WHERE id = $2 AND version = $3",
            ] {
                let query = sqlx::query(sql).bind(uses as i64);
                let query = query.bind(id.0.as_slice()).bind(i64::from(version));
                if query.execute(pool).await?.rows_affected() > 0 {
                    break;
                }
            }
            Ok(())
        })
    }

    /// How many subjects have a key, or how many of their keys a version of the wrapping key seals.
    pub fn count(&self, wrap: Option<u32>) -> Result<u64, StoreError> {
        let sql = match wrap {
            None => "SELECT COUNT(*) FROM subjects WHERE sealed IS NOT NULL",
            Some(_) => WRAPPED,
        };
        with!(self, |pool| {
            let query = sqlx::query_as::<_, (i64,)>(sql);
            let query = match wrap {
                None => query,
                Some(wrap) => query.bind(i64::from(wrap)),
            };
            let (count,) = query.fetch_one(pool).await?;
            Ok(count as u64)
        })
    }

    /// Some keys of subjects that an earlier version than `wrap` seals, current ones and earlier ones.
    pub fn wrapped_before(&self, wrap: u32, most: u32) -> Result<Vec<SubjectRow>, StoreError> {
        let sql = "SELECT subject, id, version, wrap, sealed, uses, erased_ms FROM subjects \
                   WHERE wrap < $1 AND sealed IS NOT NULL \
                   UNION ALL SELECT s.subject, v.id, v.version, v.wrap, v.sealed, 0, s.erased_ms \
                   FROM subject_versions v JOIN subjects s ON s.id = v.id \
                   WHERE v.wrap < $1 AND v.sealed IS NOT NULL ORDER BY 1 LIMIT $2";
        let rows = with!(self, |pool| {
            let query = sqlx::query_as(sql).bind(i64::from(wrap)).bind(i64::from(most));
            Ok(query.fetch_all(pool).await?)
        })?;
        Ok(rows.into_iter().filter_map(subject_row).collect())
    }

    /// Keys of subjects sealed anew; those that were changed meanwhile stay as they are.
    pub fn rewrap(&self, rows: Vec<(SubjectRow, Vec<u8>)>, wrap: u32) -> Result<(), StoreError> {
        let (claim, live) = self.locks();
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(claim).execute(&mut *transaction).await?;
            is_live(sqlx::query_as(live).fetch_all(&mut *transaction).await?, wrap)?;
            for (old, sealed) in &rows {
                for sql in [
                    "UPDATE subjects SET wrap = $1, sealed = $2 \
                     WHERE id = $3 AND version = $4 AND wrap = $5 AND sealed IS NOT NULL",
                    "UPDATE subject_versions SET wrap = $1, sealed = $2 \
                     WHERE id = $3 AND version = $4 AND wrap = $5 AND sealed IS NOT NULL",
                ] {
                    sqlx::query(sql)
                        .bind(i64::from(wrap))
                        .bind(sealed.as_slice())
                        .bind(old.id.0.as_slice())
                        .bind(i64::from(old.version))
                        .bind(i64::from(old.wrap))
                        .execute(&mut *transaction)
                        .await?;
                }
            }
            transaction.commit().await?;
            Ok(())
        })
    }
}

/// How many keys of subjects a version of the wrapping key seals.
const WRAPPED: &str = "SELECT (SELECT COUNT(*) FROM subjects WHERE wrap = $1 AND sealed IS NOT NULL) \
                       + (SELECT COUNT(*) FROM subject_versions WHERE wrap = $1 AND sealed IS NOT NULL)";
/// SQLite has one writer: whoever writes first is it. On PostgreSQL it is who changes keys of the deployment, erases, or
/// holds up.
const CLAIM: &str = "UPDATE revision SET number = number";
const LIVE_SQLITE: &str =
    "SELECT version FROM keyring WHERE purpose = 'wrap' AND status = 'primary'";
/// The rows are held until the transaction ends: meanwhile no wrapping key is rotated or destroyed.
const LIVE_POSTGRES: &str = "SELECT CASE status WHEN 'primary' THEN version ELSE 0 END FROM keyring WHERE purpose = 'wrap' FOR SHARE";

/// Keys are sealed by the primary wrapping key alone: an earlier one may be destroyed at any time.
fn is_live(primary: Vec<(i64,)>, wrap: u32) -> Result<(), StoreError> {
    match primary.contains(&(i64::from(wrap),)) {
        true => Ok(()),
        false => Err(StoreError::Outdated),
    }
}

fn is_no_table(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    error.code().as_deref() == Some("42P01") || error.message().contains("no such table")
}

/// To another machine only over TLS, and its certificate and name are looked at.
fn postgres(url: &str) -> Result<PgConnectOptions, StoreError> {
    let wrong =
        |problem: &str| Err(StoreError::Setting(format!("`key_store.postgres`: {problem}")));
    // sqlx logs the parameters that it does not know, with their values.
    let known = ["application_name", "sslcert", "sslkey", "sslmode", "sslrootcert"];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut names = query.split('&').filter(|pair| !pair.is_empty());
    if !names.all(|pair| known.iter().any(|name| pair.starts_with(&format!("{name}=")))) {
        return wrong(
            "its parameters may be application_name, sslcert, sslkey, sslmode, sslrootcert",
        );
    }
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return wrong("no URL of PostgreSQL");
    }
    // sqlx's message may quote the password.
    let Ok(options) = PgConnectOptions::from_str(url) else {
        return wrong("no URL of PostgreSQL");
    };
    let host = options.get_host().trim_matches(['[', ']']);
    let here = host == "localhost"
        || host.starts_with('/')
        || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback());
    match (here, options.get_ssl_mode()) {
        (true, _) | (false, PgSslMode::VerifyFull) => Ok(options),
        // The default.
        (false, PgSslMode::Prefer) => Ok(options.ssl_mode(PgSslMode::VerifyFull)),
        (false, _) => wrong("to another machine `sslmode` is `verify-full`, the default"),
    }
}

type RawSubject = (Vec<u8>, Vec<u8>, i64, i64, Option<Vec<u8>>, i64, Option<i64>);

/// None, and a word in the log, for a row that is not as veilstream writes it: it costs its subject alone.
fn subject_row(row: RawSubject) -> Option<SubjectRow> {
    let (subject, id, version, wrap, sealed, uses, erased_ms) = row;
    let parsed = (|| {
        Ok::<_, StoreError>(SubjectRow {
            subject: subject_id(&subject)?,
            id: key_id(&id)?,
            version: number(version)?,
            wrap: number(wrap)?,
            sealed,
            uses: uses as u64,
            erased_ms,
        })
    })();
    parsed.inspect_err(|error| tracing::error!("{error}")).ok()
}

fn malformed() -> StoreError {
    StoreError::Setting("a row is not as veilstream writes it".into())
}

fn key_id(bytes: &[u8]) -> Result<KeyId, StoreError> {
    bytes.try_into().map(KeyId).map_err(|_| malformed())
}

fn subject_id(bytes: &[u8]) -> Result<SubjectId, StoreError> {
    bytes.try_into().map(SubjectId).map_err(|_| malformed())
}

fn number(number: i64) -> Result<u32, StoreError> {
    number.try_into().map_err(|_| malformed())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A JSON list: SQLite takes no arrays, and JSON no bytes.
fn hex_list(ids: impl Iterator<Item = [u8; 16]>) -> String {
    let ids: Vec<String> = ids.map(|id| format!("\"{}\"", hex(&id))).collect();
    format!("[{}]", ids.join(","))
}
