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

-- Data subjects by a keyed digest, each with its primary key; `sealed` by the `wrap` version of the keyring. Who is
-- forgotten has none, and `erased_ms` says since when; who has come back has both.
CREATE TABLE subjects (
    subject BYTEA PRIMARY KEY,
    id BYTEA NOT NULL UNIQUE,
    version BIGINT NOT NULL,
    wrap BIGINT NOT NULL,
    sealed BYTEA,
    uses BIGINT NOT NULL DEFAULT 0,
    erased_ms BIGINT
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

-- Data subjects who may not be erased.
CREATE TABLE holds (
    subject BYTEA PRIMARY KEY
);

-- Keys that erasures destroyed, by their names: what they sealed is told from what is foreign.
CREATE TABLE erased_keys (
    id BYTEA PRIMARY KEY,
    subject BYTEA NOT NULL
);
CREATE INDEX erased_keys_subject ON erased_keys (subject);

-- Erasures, as far as they are. `person` says whom, sealed, until it is done.
CREATE TABLE erasures (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject BYTEA NOT NULL,
    receipt TEXT NOT NULL,
    population TEXT NOT NULL,
    person BYTEA,
    keys BIGINT NOT NULL,
    destroyed_ms BIGINT NOT NULL,
    leased_until_ms BIGINT NOT NULL DEFAULT 0,
    done_ms BIGINT
);
CREATE INDEX erasures_subject ON erasures (subject);
