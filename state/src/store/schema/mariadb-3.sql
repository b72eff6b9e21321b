UPDATE hayate_schema SET version = 3 WHERE version < 3;
