-- Keys of the whole deployment; `sealed` by the key-encryption key that `kek` names.
CREATE TABLE keyring (
    id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    purpose TEXT NOT NULL,
    status TEXT NOT NULL,
    kek TEXT NOT NULL,
    sealed BYTEA,
    uses BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (id, version)
);
CREATE UNIQUE INDEX keyring_primary ON keyring (purpose) WHERE status = 'primary';

-- Goes up with every change of the keyring.
CREATE TABLE revision (one BIGINT PRIMARY KEY CHECK (one = 1), number BIGINT NOT NULL);
INSERT INTO revision VALUES (1, 0);

-- Data subjects by a keyed digest, each with its primary key; `sealed` by the `wrap` version of the keyring.
CREATE TABLE subjects (
    subject BYTEA PRIMARY KEY,
    id BYTEA NOT NULL UNIQUE,
    version BIGINT NOT NULL,
    wrap BIGINT NOT NULL,
    sealed BYTEA,
    uses BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX subjects_wrap ON subjects (wrap, subject);

-- Their earlier keys.
CREATE TABLE subject_versions (
    id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    wrap BIGINT NOT NULL,
    sealed BYTEA,
    PRIMARY KEY (id, version)
);
