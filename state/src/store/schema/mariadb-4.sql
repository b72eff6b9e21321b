ALTER TABLE hayate_deletions ADD INDEX IF NOT EXISTS deleted_at (deleted_at);

ALTER TABLE hayate_passkeys ADD INDEX IF NOT EXISTS good_until (good_until), ADD INDEX IF NOT EXISTS uid (uid);

UPDATE hayate_schema SET version = 4 WHERE version < 4;
