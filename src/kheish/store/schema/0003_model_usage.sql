-- What model calls used, kept apart from runs so that a budget outlives them.
CREATE TABLE usage_by_session (
    session_id TEXT PRIMARY KEY,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL
);
CREATE TABLE usage_by_hour (
    route_id TEXT NOT NULL,
    model TEXT NOT NULL,
    hour INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    PRIMARY KEY (route_id, model, hour)
);
INSERT INTO usage_by_session (session_id, input_tokens, output_tokens, cost_usd)
SELECT session_id,
       SUM(COALESCE(json_extract(usage, '$.input_tokens'), 0)),
       SUM(COALESCE(json_extract(usage, '$.output_tokens'), 0)),
       SUM(COALESCE(json_extract(usage, '$.cost_usd'), 0))
  FROM runs
 WHERE usage IS NOT NULL AND json_valid(usage)
 GROUP BY session_id;
