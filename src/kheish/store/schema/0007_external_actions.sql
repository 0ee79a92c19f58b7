-- The signed trail of external actions: one chain per bucket, written in the commits it tells about.
CREATE TABLE external_actions (
    bucket TEXT NOT NULL,
    position INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    session_id TEXT,
    agent_id TEXT,
    run_id TEXT,
    tool_call_id TEXT,
    principal_id TEXT,
    parent_principal_id TEXT,
    grant_id TEXT,
    phase TEXT NOT NULL,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    request_digest TEXT,
    response_digest TEXT,
    outcome TEXT,
    prev_hash TEXT,
    record_hash TEXT NOT NULL,
    key_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (bucket, position)
) WITHOUT ROWID;
CREATE TABLE external_action_checkpoints (
    bucket TEXT PRIMARY KEY,
    record_count INTEGER NOT NULL,
    last_record_hash TEXT,
    key_id TEXT NOT NULL,
    signature TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE external_action_keys (
    key_id TEXT PRIMARY KEY,
    vouched_by TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    signature TEXT NOT NULL
) WITHOUT ROWID;
