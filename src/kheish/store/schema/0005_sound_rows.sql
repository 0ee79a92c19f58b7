-- A damaged row is left out instead of breaking every answer that holds it; a column can hold any type.
DROP VIEW sound_runs;
CREATE VIEW sound_runs AS
SELECT * FROM runs
 WHERE typeof(run_id) = 'text' AND typeof(session_id) = 'text' AND typeof(agent_id) = 'text'
   AND typeof(kind) = 'text' AND typeof(status) = 'text'
   AND typeof(number) = 'integer' AND typeof(live) = 'integer'
   AND typeof(submitted_at_ms) = 'integer' AND typeof(updated_at_ms) = 'integer'
   AND typeof(accepted_position) = 'integer'
   AND typeof(first_offset) = 'integer' AND typeof(last_offset) = 'integer'
   AND typeof(started_at_ms) IN ('integer', 'null') AND typeof(finished_at_ms) IN ('integer', 'null')
   AND typeof(due_at_ms) IN ('integer', 'null') AND typeof(error) IN ('text', 'null')
   AND CASE WHEN json_valid(request) THEN json_type(request) = 'object' END
   AND (input_metadata IS NULL OR (typeof(input_metadata) = 'text' AND json_valid(input_metadata)))
   AND (usage IS NULL OR CASE WHEN json_valid(usage)
                                  THEN json_type(usage) IN ('object', 'null') END)
   AND (pending_approvals IS NULL OR CASE WHEN json_valid(pending_approvals)
                                          THEN json_type(pending_approvals) = 'array' END)
   AND (pending_questions IS NULL OR CASE WHEN json_valid(pending_questions)
                                          THEN json_type(pending_questions) = 'array' END);
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
CREATE VIEW sound_outputs AS
SELECT * FROM outputs WHERE typeof(body) = 'text' AND json_valid(body);
