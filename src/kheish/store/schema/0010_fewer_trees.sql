-- What SQLite may have to take back of a statement is in memory, with what pages held that were given free before it in this
-- transaction. So no row that is copied may fail, and the events come last: their pages would be in use again at once.
-- Runs are in the order of their numbers, which is that of their acceptance: no index of numbers, none of times.
DROP VIEW sound_runs;
DROP VIEW sound_outputs;
CREATE TABLE numbered_runs (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
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
-- The number of a run is the one in its id; where the id is damaged, it is the stored one, and a lost id is made from it. Of
-- rows that contradict each other all the same, those whose id and number agree go first; the run of a row that is left out
-- is in the journal. What is sorted is in memory: places alone, not all rows; the limit keeps their order.
INSERT OR IGNORE INTO numbered_runs
SELECT CASE WHEN run_id GLOB 'run-[0-9]*' THEN CAST(SUBSTR(run_id, 5) AS INTEGER)
            WHEN typeof(number) = 'integer' THEN number ELSE 0 END,
       COALESCE(run_id, 'run-' || number), session_id, agent_id, kind, status, submitted_at_ms, updated_at_ms,
       started_at_ms, finished_at_ms, accepted_position, first_offset, last_offset, live, request, input_metadata,
       pending_approvals, pending_questions, due_at_ms, usage, error
  FROM (SELECT rowid AS place FROM runs ORDER BY 'run-' || number IS NOT run_id, number LIMIT -1) AS placed
 CROSS JOIN runs ON runs.rowid = placed.place;
DROP TABLE runs;
ALTER TABLE numbered_runs RENAME TO runs;
-- Without columns that change while a run goes on: its row is all that such a commit touches.
CREATE INDEX runs_by_session ON runs (session_id);
CREATE INDEX runs_queued ON runs (session_id) WHERE status = 'queued';
CREATE INDEX runs_live ON runs (session_id) WHERE live = 1;
CREATE INDEX runs_ended ON runs (updated_at_ms, submitted_at_ms, status, live) WHERE live = 0;
-- A damaged row is left out instead of breaking every answer that holds it; all columns but the number can hold any type.
CREATE VIEW sound_runs AS
SELECT * FROM runs
 WHERE typeof(run_id) = 'text' AND typeof(session_id) = 'text' AND typeof(agent_id) = 'text'
   AND typeof(kind) = 'text' AND typeof(status) = 'text' AND typeof(live) = 'integer'
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
-- Outputs are where their entries are, and a run knows between which: one tree. The run is part of the key so that no row
-- of old, however damaged, contradicts another; only one that lost a value altogether is left out.
CREATE TABLE placed_outputs (
    session_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (session_id, position, run_id, call_id)
) WITHOUT ROWID;
INSERT OR IGNORE INTO placed_outputs
SELECT session_id, run_id, call_id, position, body FROM outputs ORDER BY session_id, position;
DROP TABLE outputs;
ALTER TABLE placed_outputs RENAME TO outputs;
CREATE VIEW sound_outputs AS
SELECT * FROM outputs WHERE typeof(body) = 'text' AND json_valid(body);
-- The newest event always stays, so the next id follows from it: no page a commit that counts ids. A count that is ahead
-- of the events, because the newest were too large to be kept, is kept as a row without content. A lost value must not keep
-- the daemon from its start: that event is a gap, as it was.
CREATE TABLE events_in_order (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    session_id TEXT,
    run_id TEXT,
    data TEXT NOT NULL
);
INSERT OR IGNORE INTO events_in_order
SELECT id, COALESCE(type, ''), session_id, run_id, COALESCE(data, '') FROM feed ORDER BY id;
INSERT INTO events_in_order (id, type, data)
SELECT counted.last, '', ''
  FROM (SELECT MAX(seq) AS last FROM sqlite_sequence WHERE name = 'feed' AND typeof(seq) = 'integer') AS counted
 WHERE counted.last > COALESCE((SELECT MAX(id) FROM feed), 0);
DROP TABLE feed;
ALTER TABLE events_in_order RENAME TO feed;
