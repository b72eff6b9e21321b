CREATE TABLE IF NOT EXISTS hayate_tokens (
    uid INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 4294967295),
    fid INTEGER NOT NULL CHECK (fid BETWEEN 0 AND 4294967295),
    PRIMARY KEY (uid, fid)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS hayate_deletions (
    info_hash BLOB NOT NULL PRIMARY KEY CHECK (length(info_hash) = 20),
    reason TEXT NOT NULL CHECK (length(reason) <= 64),
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS hayate_passkeys (
    passkey TEXT NOT NULL PRIMARY KEY CHECK (length(passkey) <= 64),
    uid INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 4294967295),
    good_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS hayate_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    verb TEXT NOT NULL,
    target TEXT NOT NULL CHECK (length(target) <= 255),
    outcome TEXT NOT NULL,
    source TEXT NOT NULL
) STRICT;

UPDATE hayate_schema SET version = 2 WHERE version < 2;
