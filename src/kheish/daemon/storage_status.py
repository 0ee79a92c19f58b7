"""What the status says of the disks: can they be written and read, which sessions they closed, what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import StoreRejected, StoreUnavailable, StoreUnreadable
from kheish.engine.engine import SessionCrashed
from kheish.engine.quarantine import Quarantine
from kheish.store.statistics import WriteStatistics

LISTED_SESSIONS = 20
"""Quarantined sessions that are named."""

_RESTORE = (
    "Other sessions are not affected. Run `kheish-daemon state verify`; to get this session back, stop the daemon and "
    "restore a backup with `kheish-daemon state restore`."
)
_ACTIONS: Mapping[str, str] = {
    SessionCrashed.code: "Look at the daemon's log and report it; the session is tried again when it is used.",
    StoreUnreadable.code: "Check the disk and run `kheish-daemon state verify`; it is tried again every minute.",
    StoreRejected.code: "Run `kheish-daemon state verify`; it is tried again every few seconds.",
}


def store_probe(path: Path, statistics: WriteStatistics) -> JsonObject:
    """The newest commit in the shape of the other probes; costs no write."""
    probe: JsonObject = {
        "name": "store",
        "path": str(path),
        "state": "ok" if statistics.writable else "error",
        "writable": statistics.writable,
        "latency_ms": 0,
        "code": "ok" if statistics.writable else StoreUnavailable.code,
        "message": "writable",
    }
    if not statistics.writable:
        failure = statistics.last_failure
        probe["message"] = "the newest commit failed" if failure is None else failure.message
        probe["action"] = "Make room, or repair the disk or its mount. The daemon then goes on by itself."
    return probe


def store_health(statistics: WriteStatistics) -> JsonObject:
    """What the store refused since the start."""
    failure = statistics.last_failure
    found: JsonObject = {
        "store_writable": statistics.writable,
        "write_error_count": statistics.failed_units,
        "read_error_count": statistics.failed_reads,
    }
    if failure is not None:
        found["last_error"] = {"code": failure.code, "message": failure.message, "at_ms": failure.at_ms}
    return found


def closed_sessions(quarantine: Quarantine) -> JsonObject:
    """The quarantined sessions, those that have been there longest by name."""
    listed: list[JsonValue] = [
        {
            "session_id": session_id,
            "code": one.code,
            "message": one.message,
            "since_ms": one.since_ms,
            "action": _ACTIONS.get(one.code, _RESTORE),
        }
        for session_id, one in quarantine.listed(LISTED_SESSIONS).items()
    ]
    return {"quarantined_session_count": len(quarantine), "quarantined_sessions": listed}


def warnings(storage: JsonObject, *, readable: bool) -> list[JsonObject]:
    """What of the ``storage`` block an operator must act on."""
    found: list[JsonObject] = []
    probes = storage["probes"]
    assert isinstance(probes, list)
    for probe in probes:
        assert isinstance(probe, dict)
        if probe["writable"]:
            continue
        if probe["name"] == "store":
            text = f"the store refuses writes ({probe['message']}): runs wait, nothing new is accepted"
            found.append(_error("store_not_writable", text, probe["action"]))
        else:
            text = f"{probe['name']} is not writable: {probe['message']}"
            found.append(_error("storage_write_probe_failed", text, probe["action"]))
    if not readable:
        text = "parts of this status are missing: the store cannot be read"
        action = "Look at storage.last_error and run `kheish-daemon state verify`."
        found.append(_error("store_not_readable", text, action))
    if count := storage["quarantined_session_count"]:
        text = f"sessions that cannot go on: {count}"
        found.append(_error("sessions_quarantined", text, "Look at storage.quarantined_sessions."))
    return found


def _error(code: str, message: str, action: JsonValue) -> JsonObject:
    return {"severity": "error", "code": code, "message": message, "action": action}
