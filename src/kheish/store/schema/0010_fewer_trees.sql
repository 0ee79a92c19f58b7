-- The newest event always stays, so the next id follows from it: no page a commit that counts ids. A count that is ahead
-- of the events, because the newest were too large to be kept, is kept as a row without content.
CREATE TABLE events_in_order (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    session_id TEXT,
    run_id TEXT,
    data TEXT NOT NULL
);
INSERT INTO events_in_order SELECT id, type, session_id, run_id, data FROM feed ORDER BY id;
INSERT INTO events_in_order (id, type, data)
SELECT counted.last, '', ''
  FROM (SELECT MAX(seq) AS last FROM sqlite_sequence WHERE name = 'feed' AND typeof(seq) = 'integer') AS counted
 WHERE counted.last > COALESCE((SELECT MAX(id) FROM feed), 0);
DROP TABLE feed;
ALTER TABLE events_in_order RENAME TO feed;
