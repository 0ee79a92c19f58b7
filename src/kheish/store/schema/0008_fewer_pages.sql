-- A record takes about a kilobyte: in the tree of its key it needed a page of its own beside it, in order of arrival not.
CREATE TABLE external_actions_in_order (
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
);
INSERT INTO external_actions_in_order SELECT * FROM external_actions ORDER BY bucket, position;
DROP TABLE external_actions;
ALTER TABLE external_actions_in_order RENAME TO external_actions;
-- Live runs are few: one small index finds them, whatever they wait for. Those that ended are counted in the other one.
DROP INDEX runs_by_status;
DROP INDEX runs_live;
DROP INDEX runs_ended;
CREATE INDEX runs_live ON runs (session_id, status, live) WHERE live = 1;
CREATE INDEX runs_ended ON runs (updated_at_ms, submitted_at_ms, status, live) WHERE live = 0;
-- The same for the journal: the entries of all sessions that share a commit share its pages.
CREATE TABLE journal_in_order (
    session_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    run_id TEXT,
    at_ms INTEGER NOT NULL,
    type TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (session_id, position)
);
INSERT INTO journal_in_order SELECT * FROM journal ORDER BY session_id, position;
DROP TABLE journal;
ALTER TABLE journal_in_order RENAME TO journal;
