-- Bytes of entries per session, kept with every append: the status page must not read whole journals.
CREATE TABLE journal_sizes (
    session_id TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO journal_sizes (session_id, bytes)
SELECT session_id, SUM(LENGTH(CAST(body AS BLOB))) FROM journal GROUP BY session_id;
