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

-- Data subjects by a keyed digest, each with its primary key; `sealed` by the `wrap` version of the keyring.
CREATE TABLE subjects (
    subject BLOB PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    wrap INTEGER NOT NULL,
    sealed BLOB,
    uses INTEGER NOT NULL DEFAULT 0
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
