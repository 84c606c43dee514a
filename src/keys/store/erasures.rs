//! What the database knows of those who are forgotten, or may not be.

use super::{CLAIM, Pool, Store, StoreError, SubjectRow, is_live, key_id, subject_id};
use crate::crypto::erasure::{Asked, Pending};
use crate::crypto::{KeyId, SubjectId};

const NOW_SQLITE: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
const NOW_POSTGRES: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

impl Store {
    /// The database's clock, in SQL: those of several machines may differ.
    fn now(&self) -> &'static str {
        match self.is_postgres() {
            true => NOW_POSTGRES,
            false => NOW_SQLITE,
        }
    }

    /// Destroys all keys of a subject, in one transaction with the note that the rest is to be done. A subject who is
    /// not known is noted as well: later events are dropped.
    pub fn erase(
        &self,
        subject: SubjectId,
        unused: KeyId,
        receipt: String,
        population: String,
        person: Vec<u8>,
    ) -> Result<Asked, StoreError> {
        let note = format!(
            "INSERT INTO erasures (subject, receipt, population, person, keys, destroyed_ms) \
             VALUES ($1, $2, $3, $4, $5, {})",
            self.now()
        );
        let destroy = format!(
            "UPDATE subjects SET sealed = NULL, uses = 0, erased_ms = {} \
             WHERE subject = $1 AND (sealed IS NOT NULL OR erased_ms IS NULL)",
            self.now()
        );
        let id = subject.0;
        let asked = with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(CLAIM).execute(&mut *transaction).await?;
            let held = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM holds WHERE subject = $1");
            let (held,) = held.bind(id.as_slice()).fetch_one(&mut *transaction).await?;
            if held > 0 {
                return Ok(Asked::Held);
            }
            let sql = "INSERT INTO subjects (subject, id, version, wrap) \
                       VALUES ($1, $2, 0, 0) ON CONFLICT (subject) DO NOTHING";
            let query = sqlx::query(sql).bind(id.as_slice()).bind(unused.0.as_slice());
            query.execute(&mut *transaction).await?;
            // From here on nobody gives the subject another key.
            let query = sqlx::query(sqlx::AssertSqlSafe(destroy)).bind(id.as_slice());
            let destroyed = query.execute(&mut *transaction).await?;
            if destroyed.rows_affected() == 0 {
                let sql = "SELECT COUNT(*) FROM erasures WHERE subject = $1 AND done_ms IS NULL";
                let left = sqlx::query_as::<_, (i64,)>(sql).bind(id.as_slice());
                let (left,) = left.fetch_one(&mut *transaction).await?;
                return Ok(Asked::Already { done: left == 0 });
            }
            let sql = "INSERT INTO erased_keys (id, subject) SELECT id, subject FROM subjects \
                       WHERE subject = $1 AND version > 0";
            let query = sqlx::query(sql).bind(id.as_slice()).execute(&mut *transaction).await?;
            let current = query.rows_affected();
            let sql = "DELETE FROM subject_versions \
                       WHERE id = (SELECT id FROM subjects WHERE subject = $1)";
            let query = sqlx::query(sql).bind(id.as_slice()).execute(&mut *transaction).await?;
            let keys = current + query.rows_affected();
            sqlx::query(sqlx::AssertSqlSafe(note))
                .bind(id.as_slice())
                .bind(receipt)
                .bind(population)
                .bind(person)
                .bind(keys as i64)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(Asked::Destroyed(keys))
        })?;
        if matches!(asked, Asked::Destroyed(_)) {
            self.settle()?;
        }
        Ok(asked)
    }

    /// Holds the erasure of a subject up, or no longer; whether that is a change. None where there is nobody to be
    /// held: the subject is forgotten.
    pub fn hold(&self, subject: SubjectId, held: bool) -> Result<Option<bool>, StoreError> {
        let id = subject.0;
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(CLAIM).execute(&mut *transaction).await?;
            let sql = "SELECT COUNT(*) FROM subjects \
                       WHERE subject = $1 AND sealed IS NULL AND erased_ms IS NOT NULL";
            let erased = sqlx::query_as::<_, (i64,)>(sql).bind(id.as_slice());
            let (erased,) = erased.fetch_one(&mut *transaction).await?;
            if held && erased > 0 {
                return Ok(None);
            }
            let sql = match held {
                true => "INSERT INTO holds (subject) VALUES ($1) ON CONFLICT (subject) DO NOTHING",
                false => "DELETE FROM holds WHERE subject = $1",
            };
            let query = sqlx::query(sql).bind(id.as_slice()).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(Some(query.rows_affected() > 0))
        })
    }

    /// `active`, `held`, `erasing` or `erased`; none for somebody who is not known.
    pub fn state(&self, subject: SubjectId) -> Result<Option<&'static str>, StoreError> {
        let id = subject.0;
        let sql = "SELECT (SELECT COUNT(*) FROM holds WHERE subject = $1), \
                   (SELECT COUNT(*) FROM subjects \
                    WHERE subject = $1 AND sealed IS NULL AND erased_ms IS NOT NULL), \
                   (SELECT COUNT(*) FROM erasures WHERE subject = $1 AND done_ms IS NULL), \
                   (SELECT COUNT(*) FROM subjects WHERE subject = $1)";
        with!(self, |pool| {
            let query = sqlx::query_as::<_, (i64, i64, i64, i64)>(sql).bind(id.as_slice());
            Ok(match query.fetch_one(pool).await? {
                (_, _, 1.., _) => Some("erasing"),
                (1.., ..) => Some("held"),
                (_, 1.., ..) => Some("erased"),
                (_, _, _, 1..) => Some("active"),
                _ => None,
            })
        })
    }

    /// Takes on erasures of a population that are not done and that nobody else is at, for so long.
    pub fn lease(
        &self,
        population: String,
        for_ms: i64,
        most: i64,
    ) -> Result<Vec<Pending>, StoreError> {
        type Row = (i64, Vec<u8>, String, Option<Vec<u8>>, i64, i64, i64, i64);
        let now = self.now();
        let sql = format!(
            "UPDATE erasures SET leased_until_ms = {now} + $1 WHERE number IN \
             (SELECT number FROM erasures WHERE done_ms IS NULL AND leased_until_ms <= {now} \
             AND population = $3 ORDER BY number LIMIT $2) \
             RETURNING number, subject, receipt, person, keys, destroyed_ms, {now} - destroyed_ms, \
             leased_until_ms"
        );
        let of = population.clone();
        let rows = with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(CLAIM).execute(&mut *transaction).await?;
            let query = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql));
            let query = query.bind(for_ms).bind(most).bind(of);
            let rows = query.fetch_all(&mut *transaction).await?;
            let mut taken = Vec::new();
            for row in rows {
                let sql = "SELECT id FROM erased_keys WHERE subject = $1";
                let query = sqlx::query_as::<_, (Vec<u8>,)>(sql).bind(row.1.clone());
                taken.push((row, query.fetch_all(&mut *transaction).await?));
            }
            transaction.commit().await?;
            Ok(taken)
        })?;
        let mut pending = Vec::new();
        for (row, ids) in rows {
            let (number, subject, receipt, person, keys, destroyed_ms, age_ms, until) = row;
            pending.push(Pending {
                number,
                subject: subject_id(&subject)?,
                receipt,
                population: population.clone(),
                person: person.unwrap_or_default(),
                keys: keys as u64,
                destroyed_ms,
                age_ms,
                leased_until_ms: until,
                ids: ids.iter().map(|(id,)| key_id(id)).collect::<Result<_, _>>()?,
            });
        }
        pending.sort_by_key(|one| one.number);
        Ok(pending)
    }

    /// How many versions of a subject's destroyed keys are there all the same.
    pub fn leftover(&self, subject: SubjectId) -> Result<u64, StoreError> {
        let id = subject.0;
        with!(self, |pool| {
            let sql = "SELECT (SELECT COUNT(*) FROM subject_versions WHERE id IN \
                       (SELECT id FROM erased_keys WHERE subject = $1)) + (SELECT COUNT(*) FROM subjects \
                       WHERE sealed IS NOT NULL AND id IN (SELECT id FROM erased_keys WHERE subject = $1))";
            let query = sqlx::query_as::<_, (i64,)>(sql).bind(id.as_slice());
            let (count,) = query.fetch_one(pool).await?;
            Ok(count as u64)
        })
    }

    /// Goes on with an erasure for so long from now; gives until when. None where somebody else has it.
    pub fn extend(&self, number: i64, until: i64, for_ms: i64) -> Result<Option<i64>, StoreError> {
        let sql = format!(
            "UPDATE erasures SET leased_until_ms = {} + $1 \
             WHERE number = $2 AND leased_until_ms = $3 RETURNING leased_until_ms",
            self.now()
        );
        with!(self, |pool| {
            let query = sqlx::query_as::<_, (i64,)>(sqlx::AssertSqlSafe(sql));
            let query = query.bind(for_ms).bind(number).bind(until);
            Ok(query.fetch_optional(pool).await?.map(|(until,)| until))
        })
    }

    /// Gives erasures back that could not be done, as far as nobody else has them by now: somebody may try at once.
    pub fn give_back(&self, leases: Vec<(i64, i64)>) -> Result<(), StoreError> {
        with!(self, |pool| {
            for (number, until) in leases {
                let sql = "UPDATE erasures SET leased_until_ms = 0 \
                           WHERE number = $1 AND leased_until_ms = $2";
                sqlx::query(sql).bind(number).bind(until).execute(pool).await?;
            }
            Ok(())
        })
    }

    /// All is done: who it was is forgotten here too.
    pub fn done(&self, numbers: Vec<i64>) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE erasures SET person = NULL, done_ms = {} WHERE number = $1",
            self.now()
        );
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(CLAIM).execute(&mut *transaction).await?;
            for number in numbers {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).bind(number);
                query.execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(())
        })?;
        self.settle()
    }

    /// How many erasures are not done.
    pub fn unfinished(&self) -> Result<u64, StoreError> {
        with!(self, |pool| {
            let sql = "SELECT COUNT(*) FROM erasures WHERE done_ms IS NULL";
            let (count,) = sqlx::query_as::<_, (i64,)>(sql).fetch_one(pool).await?;
            Ok(count as u64)
        })
    }

    /// The newest erasure, 0 before the first.
    pub fn newest_erasure(&self) -> Result<i64, StoreError> {
        with!(self, |pool| {
            let sql = "SELECT COALESCE(MAX(number), 0) FROM erasures";
            let (number,) = sqlx::query_as::<_, (i64,)>(sql).fetch_one(pool).await?;
            Ok(number)
        })
    }

    /// Whose keys were destroyed since an erasure, and the newest one.
    pub fn erased_since(&self, number: i64) -> Result<(i64, Vec<SubjectId>), StoreError> {
        let sql = "SELECT number, subject FROM erasures WHERE number > $1 ORDER BY number";
        let rows = with!(self, |pool| {
            let query = sqlx::query_as::<_, (i64, Vec<u8>)>(sql).bind(number);
            Ok(query.fetch_all(pool).await?)
        })?;
        let newest = rows.last().map_or(number, |(number, _)| *number);
        let subjects = rows.iter().map(|(_, subject)| subject_id(subject));
        Ok((newest, subjects.collect::<Result<_, _>>()?))
    }

    /// Gives subjects who are forgotten the keys of `new`. Whoever comes first has made the key.
    pub fn rekey(&self, new: Vec<SubjectRow>, wrap: u32) -> Result<(), StoreError> {
        let (claim, live) = self.locks();
        with!(self, |pool| {
            let mut transaction = pool.begin().await?;
            sqlx::query(claim).execute(&mut *transaction).await?;
            is_live(sqlx::query_as(live).fetch_all(&mut *transaction).await?, wrap)?;
            for row in &new {
                let sql = "UPDATE subjects SET id = $1, version = $2, wrap = $3, sealed = $4 \
                           WHERE subject = $5 AND sealed IS NULL AND erased_ms = $6";
                sqlx::query(sql)
                    .bind(row.id.0.as_slice())
                    .bind(i64::from(row.version))
                    .bind(i64::from(row.wrap))
                    .bind(row.sealed.as_deref())
                    .bind(row.subject.0.as_slice())
                    .bind(row.erased_ms)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(())
        })
    }
}
