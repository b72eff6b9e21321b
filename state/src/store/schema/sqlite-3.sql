CREATE INDEX IF NOT EXISTS transfer_history_active ON transfer_history (active, last_announce);

UPDATE hayate_schema SET version = 3 WHERE version < 3;
