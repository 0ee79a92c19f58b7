"""The control plane's boundary: who may call, decided once per request."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from enum import StrEnum
from pathlib import Path

import structlog

from kheish.auth.audit_file import AuditFile, printable
from kheish.auth.limiter import FailureLimiter, Verdict
from kheish.auth.roles import Access, required_access
from kheish.auth.tokens import FileToken, InlineToken, Token, Tokens
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.http.cors import CorsPolicy
from kheish.http.gate import Call, Refusal

log = structlog.get_logger(__name__)

_CHALLENGE = (("www-authenticate", 'Bearer realm="kheish-daemon"'),)
_RETRY_AFTER = (("retry-after", "60"),)


class BoundaryRefused(Problem):
    """The daemon would be open to others with these settings."""

    code, status = "settings_refused", 500


class MissingToken(Problem):
    """This endpoint needs a token: send `Authorization: Bearer <token>`."""

    domain, code, status = "auth", "missing_token", 401


class MalformedToken(Problem):
    """The Authorization header is not `Bearer <token>`."""

    domain, code, status = "auth", "malformed_token", 401


class InvalidToken(Problem):
    """The token is not one of this daemon's."""

    domain, code, status = "auth", "invalid_token", 401


class InsufficientAccess(Problem):
    """The token may only read; this needs the admin token."""

    domain, code, status = "auth", "insufficient_access", 403


class RateLimited(Problem):
    """Too many refused requests from this address; wait a minute."""

    domain, code, status = "auth", "rate_limited", 429


class AuthMode(StrEnum):
    AUTO = "auto"
    BEARER = "bearer"
    NONE = "none"


@value_class(frozen=True, kw_only=True, slots=True)
class AccessSettings:
    """What the operator said about access. Holds digests and file names, never a token."""

    mode: AuthMode = AuthMode.AUTO
    admin: Token | None = field(default=None, repr=False)
    read_only: Token | None = field(default=None, repr=False)
    cors: CorsPolicy = field(default_factory=CorsPolicy)


def tokens_for(settings: AccessSettings, bind_host: str) -> Tokens | None:
    """The tokens to ask for on this address; None: access control is off.

    Raises:
        BoundaryRefused: the daemon would be open to other machines, or the tokens contradict each other.
    """
    loopback = ipaddress.ip_address(bind_host).is_loopback
    if settings.mode is AuthMode.NONE:
        if not loopback:
            raise BoundaryRefused(
                f"--http-auth-mode none on {bind_host}: without tokens the daemon serves this machine only. "
                "Use a loopback address, or auto or bearer with an admin token."
            )
        return None
    if settings.admin is None:
        _refuse_without_admin(settings, bind_host, loopback)
        return None
    _refuse_equal(settings.admin, settings.read_only)
    return Tokens(admin=settings.admin, read_only=settings.read_only)


def _refuse_without_admin(settings: AccessSettings, bind_host: str, loopback: bool) -> None:
    remedy = "Give --http-admin-token-file (or KHEISH_DAEMON_ADMIN_TOKEN_FILE)."
    if settings.mode is AuthMode.BEARER:
        raise BoundaryRefused(f"--http-auth-mode bearer needs an admin token. {remedy}")
    if settings.read_only is not None:
        raise BoundaryRefused(f"There is a read-only token but no admin token: nobody could change anything. {remedy}")
    if not loopback:
        raise BoundaryRefused(
            f"--bind {bind_host}: other machines could reach it without a token. Use loopback, or: {remedy}"
        )


def _refuse_equal(admin: Token, read_only: Token | None) -> None:
    same_value = isinstance(admin, InlineToken) and isinstance(read_only, InlineToken) and admin == read_only
    same_file = isinstance(admin, FileToken) and isinstance(read_only, FileToken) and admin.path == read_only.path
    if same_value or same_file:
        raise BoundaryRefused("The admin token and the read-only token are the same. Give two different ones.")


class ControlPlane:
    """Checks tokens and roles, limits failures, and writes down what it refused."""

    def __init__(self, *, settings: AccessSettings, bind_host: str, audit: Path, clock: Clock) -> None:
        self._tokens = tokens_for(settings, bind_host)
        self._cors = settings.cors
        self._audit = AuditFile(audit)
        self._limiter = FailureLimiter()
        self._clock = clock
        if self._tokens is None:
            log.warning("control_plane.auth_off", consequence="every process of this machine may use the daemon")

    @property
    def enabled(self) -> bool:
        return self._tokens is not None

    @property
    def cors(self) -> CorsPolicy:
        return self._cors

    def require_boundary(self, bind_host: str) -> None:
        """Called by the server right before it listens.

        Raises:
            BoundaryRefused: the address is open to other machines and no token is asked for.
        """
        if self._tokens is None and not ipaddress.ip_address(bind_host).is_loopback:
            raise BoundaryRefused(f"Listening on {bind_host} without tokens is never possible.")

    def status(self) -> JsonObject:
        """What the status shows of access; never a token."""
        files = [] if self._tokens is None else self._tokens.files
        loaded = [file.digest() is not None for file in files]
        return {
            "auth_enabled": self.enabled,
            "auth_duplicate_token": self._tokens is not None and self._tokens.duplicate,
            "auth_token_file_count": len(files),
            "auth_token_file_error_count": loaded.count(False),
            "auth_token_files": [
                {"path": str(file.path), "token_loaded": works} for file, works in zip(files, loaded, strict=True)
            ],
            "externally_exposed_without_auth": False,
            "cors_policy": self._cors.name,
            "cors_allowed_origin_count": len(self._cors.origins),
        }

    def warnings(self) -> list[JsonObject]:
        """What an operator should know about the tokens, as health warnings."""
        if self._tokens is None:
            message = "no token is asked for: every process of this machine may use the daemon"
            action = "To keep others out, start it with --http-admin-token-file."
            return [_warning("auth_disabled", message, action, severity="info")]
        found: list[JsonObject] = []
        for file in self._tokens.files:
            if file.digest() is None:
                message = f"the token file {file.path} is missing, blank or unreadable: its token opens nothing"
                found.append(_warning("auth_token_file_unreadable", message, "Put a token into the file."))
        if self._tokens.admin.digest() is None:
            found.append(_warning("auth_no_admin_token", "nobody can change anything", "Restore the admin token."))
        if self._tokens.duplicate:
            message = "the admin token and the read-only token are the same: no token opens anything"
            found.append(_warning("auth_duplicate_token", message, "Give two different tokens."))
        return found

    def check(self, call: Call) -> Refusal | None:
        """None when the call's token opens what it asks for."""
        if self._tokens is None:
            return None
        needed = required_access(call.method, call.path)
        problem = self._problem(self._tokens, call.authorization, needed)
        if problem is None:
            return None
        limited = self._note("auth_failure", "auth_rate_limited", problem.code, call, needed)
        if limited:
            return Refusal(problem=RateLimited(), headers=_RETRY_AFTER)
        return Refusal(problem=problem, headers=_CHALLENGE if problem.status == 401 else ())

    def origin_refused(self, call: Call) -> None:
        """Write down that a page of another origin called; the answer stays the same however often."""
        self._note("cors_origin_rejected", "cors_origin_rate_limited", "origin_not_allowed", call, None)

    def _problem(self, tokens: Tokens, authorization: str | None, needed: Access) -> Problem | None:
        if authorization is None:
            return MissingToken()
        scheme, _, presented = authorization.strip().partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            return MalformedToken()
        # Header values arrive as Latin-1 text; these are the bytes that were sent.
        access = tokens.access_of(presented.encode("latin-1", "replace"))
        if access is None:
            return InvalidToken()
        return None if access is Access.ADMIN or needed is Access.READ_ONLY else InsufficientAccess()

    def _note(self, event: str, limited_event: str, reason: str, call: Call, needed: Access | None) -> bool:
        """Count and write down one refusal; True when its address has had too many of them."""
        now = self._clock.now_ms()
        verdict = self._limiter.failed((reason, call.remote_addr or ""), now)
        if verdict is not Verdict.LIMITED:
            name = event if verdict is Verdict.COUNTED else limited_event
            record: JsonObject = {
                "timestamp_ms": now,
                "event": name,
                "method": printable(call.method),
                "path": printable(call.path),
                "reason": reason,
            }
            optional = {"origin": call.origin, "remote_addr": call.remote_addr, "required_access": needed}
            record.update((key, printable(value)) for key, value in optional.items() if value is not None)
            self._audit.append(record)
        return verdict is not Verdict.COUNTED


def _warning(code: str, message: str, action: str, *, severity: str = "error") -> JsonObject:
    return {"severity": severity, "code": code, "message": message, "action": action}
