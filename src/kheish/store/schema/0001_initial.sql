CREATE TABLE journal (
    session_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    run_id TEXT,
    at_ms INTEGER NOT NULL,
    type TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (session_id, position)
) WITHOUT ROWID;

CREATE TABLE feed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    session_id TEXT,
    run_id TEXT,
    data TEXT NOT NULL
);

CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    agent_id TEXT NOT NULL UNIQUE,
    thread_id TEXT,
    persona_id TEXT,
    capability_scope TEXT,
    credential_scope TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    pending_approvals INTEGER NOT NULL DEFAULT 0,
    pending_questions INTEGER NOT NULL DEFAULT 0,
    journal_len INTEGER NOT NULL DEFAULT 0,
    last_assistant_message TEXT,
    last_error TEXT,
    route_policy TEXT,
    reply_targets TEXT,
    permission_mode TEXT,
    todos TEXT
);

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    submitted_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    accepted_position INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    live INTEGER NOT NULL,
    request TEXT NOT NULL,
    input_metadata TEXT,
    pending_approvals TEXT,
    pending_questions TEXT,
    due_at_ms INTEGER,
    usage TEXT,
    error TEXT
);
-- A damaged row is left out instead of breaking every answer that holds it.
CREATE VIEW sound_runs AS
SELECT * FROM runs
 WHERE json_valid(request)
   AND (input_metadata IS NULL OR json_valid(input_metadata))
   AND (pending_approvals IS NULL OR json_valid(pending_approvals))
   AND (pending_questions IS NULL OR json_valid(pending_questions))
   AND (usage IS NULL OR json_valid(usage));
CREATE INDEX runs_by_session ON runs (session_id, number);
CREATE INDEX runs_by_time ON runs (submitted_at_ms, run_id);
CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX runs_queued ON runs (session_id, number) WHERE status = 'queued';
CREATE INDEX runs_live ON runs (updated_at_ms, submitted_at_ms) WHERE live = 1;
CREATE INDEX runs_ended ON runs (updated_at_ms, submitted_at_ms) WHERE live = 0;

CREATE TABLE outputs (
    session_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, call_id)
);
CREATE INDEX outputs_by_session ON outputs (session_id, position);

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    run_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, key_hash)
) WITHOUT ROWID;

CREATE TABLE binding_keys (
    binding_key TEXT PRIMARY KEY,
    session_id TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE runtime_revisions (
    revision INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    setting TEXT NOT NULL,
    source TEXT NOT NULL,
    body TEXT NOT NULL
);
