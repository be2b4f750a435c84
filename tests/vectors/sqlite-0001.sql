-- The tables as keylatch 0.1.0 made them in SQLite: revision 0001.
CREATE TABLE api_keys (
	id VARCHAR(16) NOT NULL,
	prefix VARCHAR(24) NOT NULL,
	hash VARCHAR(255) NOT NULL,
	name VARCHAR(255) NOT NULL,
	owner VARCHAR(255),
	scopes JSON NOT NULL,
	metadata JSON NOT NULL,
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	expires_at DATETIME,
	revoked_at DATETIME,
	revoked_reason VARCHAR(255),
	last_used_at DATETIME,
	use_count BIGINT NOT NULL,
	successor VARCHAR(16),
	PRIMARY KEY (id)
);
CREATE INDEX ix_api_keys_updated_at ON api_keys (updated_at);
CREATE INDEX ix_api_keys_owner ON api_keys (owner);
CREATE TABLE api_key_events (
	id INTEGER NOT NULL,
	key_id VARCHAR(16) NOT NULL,
	at DATETIME NOT NULL,
	action VARCHAR(16) NOT NULL,
	actor VARCHAR(255),
	details JSON NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX ix_api_key_events_key_id ON api_key_events (key_id);
