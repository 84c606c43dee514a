-- Keys of the whole deployment; `sealed` by the key-encryption key that `kek` names.
CREATE TABLE keyring (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    status TEXT NOT NULL,
    kek TEXT NOT NULL,
    sealed BLOB,
    uses INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (id, version)
);
CREATE UNIQUE INDEX keyring_primary ON keyring (purpose) WHERE status = 'primary';

-- Goes up with every change of the keyring.
CREATE TABLE revision (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL);
INSERT INTO revision VALUES (1, 0);

-- Data subjects by a keyed digest, each with its primary key; `sealed` by the `wrap` version of the keyring. Who is
-- forgotten has none, and `erased_ms` says since when; who has come back has both.
CREATE TABLE subjects (
    subject BLOB PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    wrap INTEGER NOT NULL,
    sealed BLOB,
    uses INTEGER NOT NULL DEFAULT 0,
    erased_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX subjects_wrap ON subjects (wrap, subject);

-- Their earlier keys.
CREATE TABLE subject_versions (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    wrap INTEGER NOT NULL,
    sealed BLOB,
    PRIMARY KEY (id, version)
) WITHOUT ROWID;

-- Data subjects who may not be erased.
CREATE TABLE holds (
    subject BLOB PRIMARY KEY
) WITHOUT ROWID;

-- Keys that erasures destroyed, by their names: what they sealed is told from what is foreign.
CREATE TABLE erased_keys (
    id BLOB PRIMARY KEY,
    subject BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX erased_keys_subject ON erased_keys (subject);

-- Erasures, as far as they are. `person` says whom, sealed, until it is done.
CREATE TABLE erasures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    subject BLOB NOT NULL,
    receipt TEXT NOT NULL,
    population TEXT NOT NULL,
    person BLOB,
    keys INTEGER NOT NULL,
    destroyed_ms INTEGER NOT NULL,
    leased_until_ms INTEGER NOT NULL DEFAULT 0,
    done_ms INTEGER
);
CREATE INDEX erasures_subject ON erasures (subject);
