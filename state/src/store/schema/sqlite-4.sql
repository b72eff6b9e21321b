CREATE INDEX IF NOT EXISTS hayate_deletions_deleted_at ON hayate_deletions (deleted_at);

CREATE INDEX IF NOT EXISTS hayate_passkeys_good_until ON hayate_passkeys (good_until);

CREATE INDEX IF NOT EXISTS hayate_passkeys_uid ON hayate_passkeys (uid);

CREATE INDEX IF NOT EXISTS transfer_history_hit_and_runs ON transfer_history (uid, fid) WHERE hnr = 1;

CREATE INDEX IF NOT EXISTS users_main_torrent_pass ON users_main (torrent_pass);

UPDATE hayate_schema SET version = 4 WHERE version < 4;
