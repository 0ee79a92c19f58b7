-- Who borrowed which credential, and what is revoked. No secret is in any of these rows.
CREATE TABLE credential_grants (
    grant_id TEXT PRIMARY KEY,
    subject_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    route_id TEXT NOT NULL,
    slot_id TEXT NOT NULL,
    issued_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX credential_grants_by_subject ON credential_grants (subject_id);
CREATE TABLE credential_leases (
    lease_id TEXT PRIMARY KEY,
    grant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    subject_epoch INTEGER NOT NULL,
    route_id TEXT NOT NULL,
    slot_id TEXT NOT NULL,
    issued_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX credential_leases_by_expiry ON credential_leases (expires_at_ms);
CREATE TABLE revoked_subjects (
    subject_id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE revoked_slots (
    slot_id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
