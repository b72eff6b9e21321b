CREATE TABLE IF NOT EXISTS hayate_tokens (
    uid int unsigned NOT NULL,
    fid int unsigned NOT NULL,
    PRIMARY KEY (uid, fid)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS hayate_deletions (
    info_hash binary(20) NOT NULL PRIMARY KEY,
    reason varchar(64) NOT NULL,
    deleted_at bigint NOT NULL
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS hayate_passkeys (
    passkey varbinary(64) NOT NULL PRIMARY KEY,
    uid int unsigned NOT NULL,
    good_until bigint NOT NULL
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS hayate_audit (
    id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at bigint NOT NULL,
    verb varchar(32) NOT NULL,
    target varchar(255) NOT NULL,
    outcome varchar(32) NOT NULL,
    source varchar(64) NOT NULL
) ENGINE=InnoDB;

UPDATE hayate_schema SET version = 2 WHERE version < 2;
