//! The key store on SQLite and on a real PostgreSQL: a key for each data subject, rotation, races, what a thief gets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it should"
)]

mod support;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use support::engine::{Engine, engine_with};
use support::postgres::Postgres;
use veilstream::config::{Config, KeyStore};
use veilstream::crypto::ciphertext::{self, Label};
use veilstream::crypto::{KeyError, KeyId, KeySource, Purpose};
use veilstream::keys::{Ring, Status, USES};
use veilstream::rewrite::Reason;

const POLICY: &str = "
policy: crm
version: 1
source: { topic: raw, format: debezium }
subject: { path: id, population: customers }
fields: { id: identifier, email: email, contact.phone: phone, plan: public }
views:
  fraud:
    topic: fraud
    key: drop
    classes: { identifier: keep, email: encrypt, phone: encrypt, public: keep }
";

/// A folder with what a key store needs, and the database of it.
struct Place {
    folder: tempfile::TempDir,
    postgres: Option<Postgres>,
}

impl Place {
    fn sqlite() -> Place {
        Place::new(None)
    }

    fn postgres() -> Place {
        Place::new(Some(Postgres::start()))
    }

    fn new(postgres: Option<Postgres>) -> Place {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("passphrase"), "correct horse battery\n").unwrap();
        if let Some(postgres) = &postgres {
            postgres.url_file(folder.path());
        }
        Place { folder, postgres }
    }

    fn told(&self) -> KeyStore {
        let database = match &self.postgres {
            None => "sqlite: keys.db",
            Some(_) => "postgres: { file: postgres-url }",
        };
        let text = format!(
            "kafka: {{ bootstrap: 'localhost:1' }}\npolicies: [p]\nquarantine: {{ topic: q }}\n\
             audit: {{ topic: a }}\nkey_store:\n  {database}\n  kek: {{ file: {{ path: kek.json, \
             passphrase: {{ file: passphrase }} }} }}\n"
        );
        let file = self.path().join("worker.yaml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).unwrap().key_store.unwrap()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn create(&self) -> Ring {
        Ring::create(&self.told(), self.path()).unwrap()
    }

    fn open(&self) -> Ring {
        Ring::open(&self.told(), self.path()).unwrap()
    }

    fn sql(&self, text: &str) {
        match &self.postgres {
            Some(postgres) => drop(postgres.sql(text)),
            None => self.python("c.execute(sys.argv[2]); c.commit()", text),
        }
    }

    /// A copy of the database as it is now, for another folder; of SQLite's alone.
    fn back_up(&self, folder: &Path) {
        if self.postgres.is_none() {
            let to = folder.join("keys.db");
            self.python("c.backup(sqlite3.connect(sys.argv[2]))", to.to_str().unwrap());
        }
    }

    fn python(&self, work: &str, argument: &str) {
        let script = format!("import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); {work}");
        let mut python = std::process::Command::new("python3");
        let ran = python.args(["-c", &script]).arg(self.path().join("keys.db")).arg(argument);
        assert!(ran.status().unwrap().success());
    }
}

fn both(test: impl Fn(Place)) {
    for place in [Place::sqlite(), Place::postgres()] {
        test(place);
    }
}

fn event(id: &str, email: &str) -> String {
    format!(r#"{{"op":"c","before":null,"after":{{"id":{id},"email":"{email}","plan":"x"}}}}"#)
}

/// What the view has for an address in `after`.
fn sealed(engine: &mut Engine<impl KeySource>, event: &str) -> String {
    let out: serde_json::Value = serde_json::from_str(&engine.values(event)[0]).unwrap();
    out["after"]["email"].as_str().unwrap().to_owned()
}

fn label(sealed: &str) -> Label {
    ciphertext::label(&base64_simd::URL_SAFE_NO_PAD.decode_to_vec(sealed).unwrap()).unwrap()
}

fn open(keys: &dyn KeySource, sealed: &str) -> Option<String> {
    let label = label(sealed);
    let key = keys.find(label.key, label.version).ok()?;
    let opened = ciphertext::open_text(&key, "crm/fraud/email", "email", sealed).ok()?;
    Some(String::from_utf8(opened.expose().clone()).unwrap())
}

fn key_of(ring: &Ring, purpose: Purpose, version: u32) -> KeyId {
    let found = ring.list().find(|(key, ..)| (key.purpose, key.version) == (purpose, version));
    found.unwrap().0.id
}

#[test]
fn each_subject_has_a_key_of_its_own_that_stays() {
    both(|place| {
        let mut engine = engine_with(POLICY, place.create());
        let one = sealed(&mut engine, &event("1", "ann@example.com"));
        let again = sealed(&mut engine, &event("\"1\"", "ann@example.net"));
        let other = sealed(&mut engine, &event("2", "bob@example.com"));
        assert_eq!(label(&one), label(&again));
        assert_ne!(label(&one).key, label(&other).key);
        assert_eq!(open(&engine.keys, &one).as_deref(), Some("\"ann@example.com\""));
        // What names the key of another opens nothing.
        let bytes = |text: &str| base64_simd::URL_SAFE_NO_PAD.decode_to_vec(text).unwrap();
        let mut moved = bytes(&one);
        moved[2..22].copy_from_slice(&bytes(&other)[2..22]);
        let moved = base64_simd::URL_SAFE_NO_PAD.encode_to_string(moved);
        assert_eq!(open(&engine.keys, &moved), None);
        // Another worker, later.
        let mut later = engine_with(POLICY, place.open());
        let third = sealed(&mut later, &event("1", "ann@example.org"));
        assert_eq!(label(&third), label(&one));
        assert_eq!(open(&later.keys, &other).as_deref(), Some("\"bob@example.com\""));
        assert_eq!(later.keys.count().unwrap(), 2);
    });
}

#[test]
fn populations_keep_subjects_of_one_name_apart_unless_they_share_it() {
    let place = Place::sqlite();
    let keys = Arc::new(place.create());
    let label_under = |policy: &str| {
        let plan = veilstream::policy::Plan::compile(
            Arc::new(support::engine::parse(policy)),
            keys.as_ref(),
        );
        let plan = Arc::new(plan.unwrap());
        let mut rewriter = veilstream::rewrite::Rewriter::new(plan);
        rewriter.subjects(Some(event("1", "x").as_bytes())).after.unwrap()
    };
    let customers = label_under(POLICY);
    assert_eq!(customers, label_under(&POLICY.replace("policy: crm", "policy: orders")));
    assert_ne!(customers, label_under(&POLICY.replace("customers", "staff")));
    let own = |name: &str| {
        let policy = POLICY.replace("policy: crm", &format!("policy: {name}"));
        label_under(&policy.replace("{ path: id, population: customers }", "id"))
    };
    assert_ne!(own("crm"), own("orders"));
}

#[test]
fn a_row_that_does_not_say_whose_it_is_is_quarantined_where_it_would_be_encrypted() {
    let place = Place::sqlite();
    let mut engine = engine_with(POLICY, place.create());
    for row in [
        r#"{"email":"canary@x"}"#,
        r#"{"id":null,"email":"canary@x"}"#,
        r#"{"id":true,"email":"canary@x"}"#,
        r#"{"id":{"x":1},"email":"canary@x"}"#,
        r#"{"id":1,"id":2,"email":"canary@x"}"#,
        r#"{"id":1,"email":"canary@x","\u0069d":2}"#,
        r#"{"id":"","email":"canary@x"}"#,
        r#"{"id":"__debezium_unavailable_value","email":"canary@x"}"#,
    ] {
        let event = format!(r#"{{"op":"c","before":null,"after":{row}}}"#);
        let failure = engine.fail(&event);
        assert!(
            failure.reason == Reason::Subject || row.contains("{\"x\"") || row.contains("true"),
            "{row}: {failure}"
        );
        assert!(!failure.to_string().contains("canary"));
    }
    // A payload in a payload, and so on: found without end, it would be the end of the worker.
    let deep = r#"{"payload":"#.repeat(100_000);
    for end in ["", "1", &"}".repeat(100_000)] {
        assert_eq!(engine.fail(&format!("{deep}{end}")).stage.name(), "decode");
    }
    // Without anything to encrypt it does not matter.
    let out = engine.values(r#"{"op":"c","before":null,"after":{"plan":"x","email":null}}"#);
    assert_eq!(out[0], r#"{"op":"c","before":null,"after":{"plan":"x","email":null}}"#);
    // Escaped names are names.
    let out = sealed(
        &mut engine,
        r#"{"op":"c","before":null,"after":{"\u0069d":7,"email":"ann@example.com"}}"#,
    );
    assert_eq!(label(&out), label(&sealed(&mut engine, &event("7", "x"))));
}

#[test]
fn every_image_is_of_its_own_subject() {
    let place = Place::sqlite();
    let mut engine = engine_with(POLICY, place.create());
    let (one, two) = (event("1", "a"), event("2", "b"));
    let (one, two) = (label(&sealed(&mut engine, &one)), label(&sealed(&mut engine, &two)));
    let row = |id: u32| format!(r#"{{"email":"x","id":{id},"contact":{{"phone":"1"}}}}"#);
    for (before, after) in [(1, 2), (2, 1), (1, 1)] {
        // In whatever order they come, with a schema or without.
        for event in [
            format!(r#"{{"before":{},"after":{},"op":"u"}}"#, row(before), row(after)),
            format!(r#"{{"after":{},"op":"u", "before" : {}}}"#, row(after), row(before)),
            format!(
                r#"{{"schema":null,"payload":{{"op":"u","before":{},"after":{}}}}}"#,
                row(before),
                row(after)
            ),
        ] {
            let out: serde_json::Value = serde_json::from_str(&engine.values(&event)[0]).unwrap();
            let out = if out["payload"].is_null() { &out } else { &out["payload"] };
            for (image, id) in [("before", before), ("after", after)] {
                let expected = if id == 1 { one } else { two };
                assert_eq!(label(out[image]["email"].as_str().unwrap()), expected);
                assert_eq!(label(out[image]["contact"]["phone"].as_str().unwrap()), expected);
            }
        }
    }
    // No key of the last event is left for the next.
    let failure = engine.fail(r#"{"op":"c","before":null,"after":{"email":"x"}}"#);
    assert_eq!(failure.reason, Reason::Subject);
}

#[test]
fn whoever_comes_first_makes_the_key_and_all_use_it() {
    both(|place| {
        place.create();
        let rings: Vec<Arc<Ring>> = (0..4).map(|_| Arc::new(place.open())).collect();
        let policy = Arc::new(support::engine::parse(POLICY));
        let plan = veilstream::policy::Plan::compile(policy, rings[0].as_ref()).unwrap();
        let subject = plan.subject.unwrap();
        let wanted: Vec<_> = (0..300).map(|n| subject.identify(&n.to_string())).collect();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (ring, wanted) = (Arc::clone(&rings[n % 4]), wanted.clone());
                std::thread::spawn(move || ring.subjects(&wanted).unwrap().keys)
            })
            .collect();
        let found: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut all = HashSet::new();
        for subject in &wanted {
            let keys: HashSet<_> = found.iter().map(|keys| keys[subject].name()).collect();
            assert_eq!(keys.len(), 1);
            all.extend(keys);
        }
        assert_eq!(all.len(), wanted.len());
        assert_eq!(rings[0].count().unwrap(), wanted.len() as u64);
    });
}

#[test]
fn what_is_there_is_not_made_again_and_others_cannot_read_it() {
    both(|place| {
        place.create();
        let again = Ring::create(&place.told(), place.path());
        assert!(again.err().unwrap().to_string().contains("its keys already"));
        for file in ["kek.json", "keys.db", "keys.db-wal"] {
            let Ok(metadata) = std::fs::metadata(place.path().join(file)) else { continue };
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
        }
    });
    let place = Place::sqlite();
    let none = Ring::open(&place.told(), place.path()).err().unwrap().to_string();
    assert!(none.contains("keys init"), "{none}");
}

#[test]
fn a_key_store_opens_with_its_passphrase_and_key_file_alone() {
    let place = Place::sqlite();
    let mut engine = engine_with(POLICY, place.create());
    sealed(&mut engine, &event("1", "ann@example.com"));
    let fails = |place: &Place| {
        let error = Ring::open(&place.told(), place.path()).err().unwrap().to_string();
        assert!(!error.contains("horse") && !error.contains("another one here"), "{error}");
        error
    };
    let passphrase = place.path().join("passphrase");
    std::fs::write(&passphrase, "another one here").unwrap();
    assert!(fails(&place).contains("does not open"));
    std::fs::write(&passphrase, "short").unwrap();
    assert!(fails(&place).contains("12 characters"));
    std::fs::write(&passphrase, "correct horse battery").unwrap();
    place.open();
    // The key file of another key store with the same passphrase.
    let other = Place::sqlite();
    other.create();
    let kek = place.path().join("kek.json");
    let own = std::fs::read_to_string(&kek).unwrap();
    std::fs::copy(other.path().join("kek.json"), &kek).unwrap();
    assert!(fails(&place).contains("does not open"));
    // One that asks for all the memory there is, one of another format, one cut short, none.
    std::fs::write(&kek, own.replace("65536", "4000000000")).unwrap();
    assert!(fails(&place).contains("too much"));
    std::fs::write(&kek, own.replace("veilstream-kek", "other")).unwrap();
    assert!(fails(&place).contains("expected `format`"));
    std::fs::write(&kek, own.get(..own.len() / 2).unwrap()).unwrap();
    assert!(fails(&place).contains("line "));
    std::fs::remove_file(&kek).unwrap();
    assert!(fails(&place).contains("keys init"));
}

#[test]
fn rows_that_were_changed_or_exchanged_do_not_open() {
    both(|place| {
        let mut engine = engine_with(POLICY, place.create());
        sealed(&mut engine, &event("1", "a"));
        sealed(&mut engine, &event("2", "b"));
        // Subject 1 is given the sealed key of subject 2: both would be erased with one of them.
        place.sql("UPDATE subjects SET sealed = (SELECT sealed FROM subjects ORDER BY id LIMIT 1)");
        let mut later = engine_with(POLICY, place.open());
        let mut out = |id| {
            let event = event(id, "a");
            let out = later.try_records(None, Some(event.as_bytes()));
            out.map(drop).map_err(|failure| failure.reason)
        };
        let mut both = [out("1"), out("2")];
        both.sort_by_key(Result::is_ok);
        assert_eq!(both, [Err(Reason::Subject), Ok(())]);
        // New ones are not touched by that.
        sealed(&mut later, &event("3", "c"));
        place.sql("UPDATE keyring SET sealed = (SELECT sealed FROM keyring o WHERE o.purpose = 'wrap') WHERE purpose = 'field'");
        assert!(Ring::open(&place.told(), place.path()).is_err());
    });
}

#[test]
fn keys_rotate_and_old_copies_of_the_database_open_no_more() {
    both(|place| {
        let mut engine = engine_with(POLICY, place.create());
        let old = sealed(&mut engine, &event("1", "ann@example.com"));
        let copy = Place::sqlite();
        place.back_up(copy.path());
        // A running worker sees each change.
        let ring = place.open();
        assert!(ring.renew().unwrap().outdated.is_none());
        place.open().change(|keyset| keyset.rotate(Purpose::Wrap).map(drop)).unwrap();
        assert!(ring.renew().unwrap().outdated.is_some());
        let ring = place.open();
        let mut engine = engine_with(POLICY, place.open());
        let new = sealed(&mut engine, &event("2", "bob@example.com"));
        let wrap = key_of(&ring, Purpose::Wrap, 1);
        // Subjects' keys are sealed by the old wrapping key still: it cannot be destroyed.
        let destroy = |ring: &Ring, version| {
            ring.change(|keyset| keyset.set(wrap, version, Status::Destroyed).map(drop))
        };
        assert!(destroy(&ring, 1).unwrap_err().to_string().starts_with("1 keys of data subjects"));
        assert!(destroy(&ring, 2).unwrap_err().to_string().contains("primary"));
        assert_eq!(ring.rotate_kek().unwrap(), "file/2");
        ring.rewrap(None).unwrap();
        let ring = place.open();
        assert!(ring.list().all(|(_, kek, _)| kek == "file/2"));
        assert_eq!(ring.rewrap_subjects().unwrap(), 1);
        assert_eq!(ring.rewrap_subjects().unwrap(), 0);
        destroy(&ring, 1).unwrap();
        let ring = place.open();
        assert_eq!(open(&ring, &old).as_deref(), Some("\"ann@example.com\""));
        assert_eq!(open(&ring, &new).as_deref(), Some("\"bob@example.com\""));
        let back = ring.change(|keyset| keyset.set(wrap, 1, Status::Enabled).map(drop));
        assert!(back.unwrap_err().to_string().contains("does not come back"));
        let fixed = ring.change(|keyset| keyset.rotate(Purpose::Subject).map(drop));
        assert!(fixed.unwrap_err().to_string().contains("does not rotate"));
        ring.destroy_kek(1).unwrap();
        assert!(ring.destroy_kek(2).is_err());
        // A copy from before, with the key file of today.
        if place.postgres.is_none() {
            std::fs::copy(place.path().join("kek.json"), copy.path().join("kek.json")).unwrap();
            let error = Ring::open(&copy.told(), copy.path()).err().unwrap().to_string();
            assert!(error.contains("no key version 1"), "{error}");
        }
    });
}

#[test]
fn a_disabled_version_opens_nothing_until_it_is_enabled() {
    both(|place| {
        let ring = place.create();
        ring.change(|keyset| keyset.rotate(Purpose::Field).map(drop)).unwrap();
        let ring = place.open();
        let field = key_of(&ring, Purpose::Field, 1);
        assert_eq!(ring.primary(Purpose::Field).unwrap().version, 2);
        assert!(ring.find(field, 1).is_ok());
        for (status, opens) in
            [(Status::Disabled, false), (Status::Enabled, true), (Status::Destroyed, false)]
        {
            place.open().change(|keyset| keyset.set(field, 1, status).map(drop)).unwrap();
            assert_eq!(place.open().find(field, 1).is_ok(), opens);
        }
        // Who looked before another changed something is told so.
        let (a, b) = (place.open(), place.open());
        a.change(|keyset| keyset.rotate(Purpose::Token).map(drop)).unwrap();
        let late = b.change(|keyset| keyset.rotate(Purpose::Token).map(drop));
        assert!(late.unwrap_err().to_string().contains("by another at the same time"));
        let primaries = place.open();
        let primaries = primaries
            .list()
            .filter(|(key, ..)| key.purpose == Purpose::Token && key.status == Status::Primary);
        assert_eq!(primaries.count(), 1);
    });
}

#[test]
fn a_key_that_has_sealed_as_much_as_it_may_is_followed_by_the_next() {
    both(|place| {
        let mut engine = engine_with(POLICY, place.create());
        let old = sealed(&mut engine, &event("1", "ann@example.com"));
        let field = engine.keys.primary(Purpose::Field).unwrap();
        let Label { key, version, .. } = label(&old);
        engine.keys.used(key, version, USES);
        engine.keys.used(field.id, 1, USES / 2);
        engine.keys.used(field.id, 1, USES - USES / 2);
        // Who counts sees to the next key as well.
        assert!(engine.keys.renew().unwrap().outdated.is_some());
        let ring = place.open();
        let told = ring.list().find(|(key, ..)| key.id == field.id).unwrap().2;
        assert_eq!(told, USES);
        assert!(ring.renew().unwrap().outdated.is_none());
        let mut later = engine_with(POLICY, place.open());
        assert!(later.keys.renew().unwrap().outdated.is_none());
        assert_eq!(later.keys.primary(Purpose::Field).unwrap().version, 2);
        let new = sealed(&mut later, &event("1", "ann@example.com"));
        assert_eq!(label(&new), Label { version: 2, ..label(&old) });
        assert_eq!(open(&later.keys, &old).as_deref(), Some("\"ann@example.com\""));
        assert_eq!(open(&later.keys, &new).as_deref(), Some("\"ann@example.com\""));
        let ring = place.open();
        ring.change(|keyset| keyset.rotate(Purpose::Wrap).map(drop)).unwrap();
        let ring = place.open();
        assert_eq!(ring.rewrap_subjects().unwrap(), 2);
        assert_eq!(open(&ring, &old).as_deref(), Some("\"ann@example.com\""));
    });
}

/// Another worker, or a command, is ahead: its rows are waited for, and none is written that nobody would open.
#[test]
fn a_worker_that_lags_behind_a_rotation_loses_nothing() {
    both(|place| {
        let ring = place.create();
        let policy = Arc::new(support::engine::parse(POLICY));
        let subject = veilstream::policy::Plan::compile(policy, &ring).unwrap().subject.unwrap();
        let one = |name: &str| [subject.identify(name)];
        let old = ring.subjects(&one("1")).unwrap().keys[&one("1")[0]].name();
        let lagging = place.open();
        ring.change(|keyset| keyset.rotate(Purpose::Wrap).map(drop)).unwrap();
        let ring = place.open();
        ring.subjects(&one("2")).unwrap();
        let waits = |name: &str| {
            let error = lagging.subjects(&one(name)).err().unwrap();
            assert!(matches!(error, KeyError::Away(_)), "{error}");
        };
        // What the other has made, and what would be made under the old one.
        waits("2");
        waits("3");
        assert_eq!(lagging.subjects(&one("1")).unwrap().keys[&one("1")[0]].name(), old);
        assert_eq!(ring.rewrap_subjects().unwrap(), 1);
        assert!(place.open().rewrap_subjects().unwrap() == 0 && lagging.rewrap_subjects().is_ok());
        assert_eq!(place.open().subjects(&one("1")).unwrap().keys[&one("1")[0]].name(), old);
        assert_eq!(place.open().count().unwrap(), 2);
    });
}

/// A provider's key under the passphrase of [`Place`], at less than it costs to guess one: these tests open it often.
const CHEAP: &str = concat!(
    r#"{"format": "veilstream-kek", "version": 1, "argon2id": {"memory_kib": 8, "passes": 1, "lanes": 1}"#,
    r#", "salt": "LOCBI2mRJ7cZMj41oo/6Sg==""#,
    r#", "keys": [{"version": 1, "sealed": "yxsJVONNJd2tWcyDjQ072ZuQPcw+nTD4ZYJ7M/OXwhFbeBJdBNHFLAW9eAyo0P79iNSyrYKszwx7fxkQ"}]}"#
);

/// The database breaks off before a statement that changes something: PostgreSQL ends the connection, also within the
/// commit, and SQLite refuses the statement.
struct Traps<'p> {
    place: &'p Place,
    count: usize,
}

impl Traps<'_> {
    fn set(place: &Place) -> Traps<'_> {
        let tables = [
            ("keyring", "INSERT UPDATE"),
            ("revision", "UPDATE"),
            ("subjects", "INSERT UPDATE"),
            ("subject_versions", "INSERT UPDATE DELETE"),
            ("erased_keys", "INSERT"),
            ("erasures", "INSERT UPDATE"),
            ("holds", "INSERT DELETE"),
        ];
        let all = tables
            .iter()
            .flat_map(|(table, changes)| changes.split(' ').map(move |change| (*table, change)));
        let mut sql = String::from("CREATE TABLE trap (at INT); INSERT INTO trap VALUES (0);");
        if place.postgres.is_some() {
            sql += "CREATE SEQUENCE step; \
                    CREATE FUNCTION step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                    IF nextval('step') = (SELECT at FROM trap) THEN \
                    PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); END IF; \
                    RETURN NULL; END $$;";
        }
        let mut count = 0;
        for (table, change) in all {
            count += 1;
            sql += &match place.postgres {
                Some(_) => format!(
                    "CREATE TRIGGER before_{change} BEFORE {change} ON {table} EXECUTE FUNCTION step(); \
                     CREATE CONSTRAINT TRIGGER commit_{change} AFTER {change} ON {table} \
                     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION step();"
                ),
                None => format!(
                    "CREATE TRIGGER {table}_{change} BEFORE {change} ON {table} \
                     WHEN (SELECT at FROM trap) = {count} \
                     BEGIN SELECT RAISE(ABORT, 'stopped'); END;"
                ),
            };
        }
        match place.postgres {
            Some(_) => place.sql(&sql),
            None => place.python("c.executescript(sys.argv[2])", &sql),
        }
        Traps { place, count }
    }

    fn arm(&self, at: usize) {
        let sql = format!("UPDATE trap SET at = {at}");
        match self.place.postgres {
            Some(_) => self.place.sql(&format!("{sql}; SELECT setval('step', 1, false)")),
            None => self.place.sql(&sql),
        }
    }

    /// Does something once for each place where it can break off; after each break all is as before or as after, and it
    /// can be done. Gives how often it broke.
    fn each<T>(
        &self,
        what: &str,
        prepare: impl Fn(&Ring) -> T,
        act: impl Fn(&Ring, &T) -> Result<(), String>,
        known: &dyn Fn(&Ring) -> bool,
    ) {
        let mut broken = 0;
        let mut ring = self.place.open();
        for at in 1.. {
            let told = prepare(&ring);
            ring = self.place.open();
            self.arm(at);
            let done = act(&ring, &told);
            self.arm(0);
            let through = done.is_ok();
            if let Err(error) = done {
                broken += 1;
                ring = self.place.open();
                assert!(known(&ring), "{what}, broken at {at}: {error}");
                act(&ring, &told).unwrap_or_else(|error| panic!("{what}, after {at}: {error}"));
            }
            ring = self.place.open();
            assert!(known(&ring), "{what}, done after {at}");
            // SQLite's places have fixed numbers.
            if through && (self.place.postgres.is_some() || at == self.count) {
                break;
            }
        }
        assert!(broken > 0, "{what} never broke off");
    }
}

fn said<T>(done: Result<T, impl std::fmt::Display>) -> Result<(), String> {
    done.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_stop_between_any_two_statements_loses_no_key_and_leaves_none() {
    both(|place| {
        let file = place.path().join("kek.json");
        std::fs::write(&file, CHEAP).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut engine = engine_with(POLICY, place.create());
        let old = sealed(&mut engine, &event("1", "ann@example.com"));
        drop(engine);
        let traps = Traps::set(&place);
        let field = place.open().primary(Purpose::Field).unwrap();
        let next = std::cell::Cell::new(100);
        let subject = |ring: &Ring| {
            next.set(next.get() + 1);
            let policy = Arc::new(support::engine::parse(POLICY));
            let plan = veilstream::policy::Plan::compile(policy, ring).unwrap();
            [plan.subject.unwrap().identify(&next.get().to_string())]
        };
        // What was sealed opens, and of each kind one key is primary.
        let sound = |ring: &Ring| {
            let primary = |purpose| {
                ring.list()
                    .filter(|(key, ..)| (key.purpose, key.status) == (purpose, Status::Primary))
                    .count()
            };
            open(ring, &old).as_deref() == Some("\"ann@example.com\"")
                && Purpose::ALL.into_iter().all(|purpose| primary(purpose) == 1)
        };
        traps.each(
            "a new subject",
            subject,
            |ring, new| {
                let key =
                    ring.subjects(new).map_err(|error| error.to_string())?.keys[&new[0]].name();
                assert_eq!(place.open().subjects(new).unwrap().keys[&new[0]].name(), key);
                Ok(())
            },
            &sound,
        );
        traps.each(
            "a worn key of a subject",
            |ring| {
                let one = subject(ring);
                let (id, version) = ring.subjects(&one).unwrap().keys[&one[0]].name();
                ring.used(id, version, USES);
                ring.renew().unwrap();
                (one, id)
            },
            |ring, (one, id)| {
                let now =
                    ring.subjects(one).map_err(|error| error.to_string())?.keys[&one[0]].name();
                assert_eq!(now, (*id, 2));
                assert!(ring.find(*id, 1).is_ok() && ring.find(*id, 2).is_ok());
                Ok(())
            },
            &sound,
        );
        traps.each(
            "a rotation",
            |_| (),
            |ring, ()| said(ring.change(|keyset| keyset.rotate(Purpose::Field).map(drop))),
            &|ring| {
                let first = ring.find(field.id, 1);
                sound(ring) && first.is_ok_and(|key| key.secret.expose() == field.secret.expose())
            },
        );
        traps.each(
            "a destruction",
            |ring| {
                ring.change(|keyset| keyset.rotate(Purpose::Token).map(drop)).unwrap();
                let old = ring.primary(Purpose::Token).unwrap();
                (old.id, old.version)
            },
            |ring, (id, version)| {
                said(ring.change(|keyset| keyset.set(*id, *version, Status::Destroyed).map(drop)))?;
                assert!(place.open().find(*id, *version).is_err());
                Ok(())
            },
            &sound,
        );
        traps.each("a rewrap", |_| (), |ring, ()| said(ring.rewrap(None)), &sound);
        traps.each(
            "a rewrap of subjects",
            |ring| ring.change(|keyset| keyset.rotate(Purpose::Wrap).map(drop)).unwrap(),
            |ring, ()| {
                while ring.rewrap_subjects().map_err(|error| error.to_string())? > 0 {}
                Ok(())
            },
            &sound,
        );
        traps.each(
            "a person who is forgotten and comes back",
            |ring| {
                let one = subject(ring);
                (one, ring.subjects(&one).unwrap().keys[&one[0]].name())
            },
            |ring, (one, (id, version))| {
                let forget = ring.erasures().unwrap();
                let asked = forget.erase(one[0], "receipt", "customers", vec![1]);
                let asked = asked.map_err(|error| error.to_string())?;
                assert!(!matches!(asked, veilstream::crypto::erasure::Asked::Held));
                assert!(ring.find(*id, *version).is_err());
                assert_eq!(forget.leftover(one[0]).unwrap(), 0);
                let since = ring.subjects(one).map_err(|error| error.to_string())?.erased[&one[0]];
                let back = ring.rekey(&[(one[0], since)]).map_err(|error| error.to_string())?;
                assert_ne!(back.keys[&one[0]].name().0, *id);
                assert!(ring.find(*id, *version).is_err());
                Ok(())
            },
            &sound,
        );
    });
}

/// The first start, too: whatever of a key store is there, `keys init` makes the rest.
#[test]
fn a_stop_while_the_key_store_is_made_is_made_up_for() {
    let place = Place::postgres();
    place.sql(
        "CREATE TABLE trap (at INT); INSERT INTO trap VALUES (1); CREATE SEQUENCE step; \
         CREATE FUNCTION step() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('step') = (SELECT at FROM trap) THEN \
         PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); END IF; END $$; \
         CREATE EVENT TRIGGER step ON ddl_command_end EXECUTE FUNCTION step();",
    );
    let mut broken = 0;
    while let Err(error) = Ring::create(&place.told(), place.path()) {
        broken += 1;
        assert!(Ring::open(&place.told(), place.path()).is_err(), "{error}");
        place.sql(&format!("UPDATE trap SET at = {}; SELECT setval('step', 1, false)", broken + 1));
    }
    assert!(broken > 5, "{broken}");
    let whole = |place: &Place| assert_eq!(place.open().list().count(), Purpose::ALL.len());
    whole(&place);
    // The tables are there, and the provider's key; the keys are not.
    both(|place| {
        place.create();
        for sql in ["DELETE FROM keyring", "UPDATE revision SET number = 0"] {
            place.sql(sql);
        }
        assert!(Ring::open(&place.told(), place.path()).is_err());
        place.create();
        whole(&place);
    });
}

#[test]
fn postgresql_on_another_machine_is_spoken_to_over_tls_alone() {
    let place = Place::sqlite();
    let told = KeyStore {
        sqlite: None,
        postgres: Some(veilstream::config::SecretText::File("postgres-url".into())),
        ..place.told()
    };
    for (url, expected) in [
        ("postgres://u:canary@db.example.com/d?sslmode=disable", "`verify-full`"),
        ("postgres://u:canary@db.example.com/d?sslmode=require", "`verify-full`"),
        ("postgres://u:canary@db.example.com/d?sslmode=verify-ca", "`verify-full`"),
        ("postgres://u:canary@127.0.0.1/d?host=db.example.com", "its parameters may be"),
        ("postgres://u@127.0.0.1/d?pasword=canary", "its parameters may be"),
        ("mysql://u:canary@127.0.0.1/d", "no URL of PostgreSQL"),
        ("canary", "no URL of PostgreSQL"),
    ] {
        std::fs::write(place.path().join("postgres-url"), url).unwrap();
        let error = Ring::open(&told, place.path()).err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains("canary"), "{url}: {error}");
    }
}

#[test]
fn a_database_that_is_away_is_waited_for() {
    let mut place = Place::postgres();
    let ring = place.create();
    let plan = veilstream::policy::Plan::compile(Arc::new(support::engine::parse(POLICY)), &ring);
    let subject = plan.unwrap().subject.unwrap();
    let one = [subject.identify("1")];
    let first = ring.subjects(&one).unwrap().keys[&one[0]].name();
    place.postgres.as_mut().unwrap().stop();
    // What is cached is at hand; the rest is not, and is said to be away.
    assert_eq!(ring.subjects(&one).unwrap().keys[&one[0]].name(), first);
    let error = ring.subjects(&[subject.identify("2")]).err().unwrap();
    assert!(matches!(error, KeyError::Away(_)), "{error}");
    assert!(!error.to_string().contains("veilstream-test"));
    place.postgres.as_mut().unwrap().resume();
    assert!(ring.subjects(&[subject.identify("2")]).is_ok());
    assert_eq!(place.open().subjects(&one).unwrap().keys[&one[0]].name(), first);
}

#[test]
fn the_database_holds_neither_keys_nor_persons() {
    let place = Place::sqlite();
    let mut engine = engine_with(POLICY, place.create());
    let made = sealed(&mut engine, &event("\"ann-canary\"", "canary@example.com"));
    let Label { key, version, .. } = label(&made);
    let secrets: Vec<_> = [engine.keys.find(key, version).unwrap()]
        .into_iter()
        .chain(Purpose::ALL.into_iter().map(|one| engine.keys.primary(one).unwrap()))
        .collect();
    drop(engine);
    for file in ["keys.db", "keys.db-wal", "kek.json"] {
        let Ok(bytes) = std::fs::read(place.path().join(file)) else { continue };
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{file}");
        for secret in &secrets {
            let secret = secret.secret.expose();
            assert!(!bytes.windows(32).any(|window| window == secret), "{file}");
        }
    }
}
