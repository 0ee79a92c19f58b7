-- What a session took and used stands in the row that every commit of it changes anyway: two trees less a commit. Before
-- the texts, which can be long: whoever sums it up reads the beginnings of rows.
DROP VIEW sound_sessions;
CREATE TABLE counted_sessions (
    session_id TEXT PRIMARY KEY,
    agent_id TEXT NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    pending_approvals INTEGER NOT NULL DEFAULT 0,
    pending_questions INTEGER NOT NULL DEFAULT 0,
    journal_len INTEGER NOT NULL DEFAULT 0,
    checkpoint_len INTEGER NOT NULL DEFAULT 0,
    journal_bytes INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    thread_id TEXT,
    persona_id TEXT,
    permission_mode TEXT,
    capability_scope TEXT,
    credential_scope TEXT,
    route_policy TEXT,
    reply_targets TEXT,
    last_assistant_message TEXT,
    last_error TEXT,
    todos TEXT
);
INSERT INTO counted_sessions
SELECT session_id, agent_id, created_at_ms, updated_at_ms, status, pending_approvals, pending_questions, journal_len,
       checkpoint_len, COALESCE(journal_sizes.bytes, 0), COALESCE(usage_by_session.input_tokens, 0),
       COALESCE(usage_by_session.output_tokens, 0), COALESCE(usage_by_session.cost_usd, 0), thread_id, persona_id,
       permission_mode, capability_scope, credential_scope, route_policy, reply_targets, last_assistant_message,
       last_error, todos
  FROM sessions
  LEFT JOIN journal_sizes USING (session_id)
  LEFT JOIN usage_by_session USING (session_id);
DROP TABLE journal_sizes;
DROP TABLE usage_by_session;
DROP TABLE sessions;
ALTER TABLE counted_sessions RENAME TO sessions;
-- As it was, over the columns it was over: a count that is damaged takes no session away.
CREATE VIEW sound_sessions AS
SELECT * FROM sessions
 WHERE typeof(session_id) = 'text' AND typeof(agent_id) = 'text' AND typeof(status) = 'text'
   AND typeof(created_at_ms) = 'integer' AND typeof(updated_at_ms) = 'integer'
   AND typeof(pending_approvals) = 'integer' AND typeof(pending_questions) = 'integer'
   AND typeof(journal_len) = 'integer' AND typeof(checkpoint_len) = 'integer'
   AND typeof(thread_id) IN ('text', 'null') AND typeof(persona_id) IN ('text', 'null')
   AND typeof(last_assistant_message) IN ('text', 'null') AND typeof(last_error) IN ('text', 'null')
   AND typeof(permission_mode) IN ('text', 'null')
   AND (capability_scope IS NULL OR CASE WHEN json_valid(capability_scope)
                                  THEN json_type(capability_scope) IN ('object', 'null') END)
   AND (credential_scope IS NULL OR CASE WHEN json_valid(credential_scope)
                                  THEN json_type(credential_scope) IN ('object', 'null') END)
   AND (route_policy IS NULL OR CASE WHEN json_valid(route_policy)
                                  THEN json_type(route_policy) IN ('object', 'null') END)
   AND (reply_targets IS NULL OR CASE WHEN json_valid(reply_targets)
                                  THEN json_type(reply_targets) IN ('array', 'null') END)
   AND (todos IS NULL OR CASE WHEN json_valid(todos)
                                  THEN json_type(todos) IN ('array', 'null') END);
