"""Control-plane tokens: given inline or by file, compared by digest in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Protocol

from kheish.auth.roles import Access
from kheish.core.problems import Problem
from kheish.core.values import value_class

_MAX_FILE_BYTES = 64 * 1024


class TokenRefused(Problem):
    """A token cannot be used as it was given."""

    code, status = "settings_refused", 500


class Token(Protocol):
    """One expected token."""

    def digest(self) -> bytes | None:
        """SHA-256 of the token as it is now; None while it cannot be used."""
        ...


@value_class(frozen=True, kw_only=True, slots=True)
class InlineToken:
    """Given at the start; only its digest is kept."""

    sha256: bytes

    def digest(self) -> bytes | None:
        return self.sha256


@value_class(frozen=True, kw_only=True, slots=True)
class FileToken:
    """Read again for each decision, so that an atomic replacement counts from the next request on."""

    path: Path

    def digest(self) -> bytes | None:
        try:
            # Each request waits for this, and a file object would double it.
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                content = os.read(file, _MAX_FILE_BYTES + 1)
            finally:
                os.close(file)
        except OSError:
            return None
        token = content.strip()
        return _sha256(token) if token and len(content) <= _MAX_FILE_BYTES else None


def configured(name: str, *, value: str | None, file: str | None) -> Token | None:
    """The token given as ``value`` or in ``file``; None when neither is. ``name`` says which one, for errors.

    Raises:
        TokenRefused: both are given, or what is given is blank or cannot be read.
    """
    if value is not None and file is not None:
        raise TokenRefused(f"The {name} token is given twice, as a value and as a file. Keep one.")
    if value is not None:
        if not value.strip():
            raise TokenRefused(f"The {name} token is blank. Give a token, or leave it out.")
        return InlineToken(sha256=_sha256(value.strip().encode()))
    if file is None:
        return None
    token = FileToken(path=Path(file).absolute())
    if token.digest() is None:
        raise TokenRefused(
            f"The {name} token file {file} cannot be read, is blank, or is larger than {_MAX_FILE_BYTES} bytes."
        )
    return token


@value_class(frozen=True, kw_only=True, slots=True)
class Tokens:
    """The tokens that open the control plane."""

    admin: Token
    read_only: Token | None = None

    @property
    def duplicate(self) -> bool:
        """Both tokens are the same right now: nothing is opened."""
        read_only = None if self.read_only is None else self.read_only.digest()
        return read_only is not None and read_only == self.admin.digest()

    @property
    def files(self) -> list[FileToken]:
        """The tokens that come from files."""
        return [token for token in (self.admin, self.read_only) if isinstance(token, FileToken)]

    def access_of(self, presented: bytes) -> Access | None:
        """What ``presented`` opens; None when it opens nothing.

        While both tokens are the same nobody can tell the roles apart: nothing is opened.
        """
        given = _sha256(presented)
        admin = self.admin.digest()
        read_only = None if self.read_only is None else self.read_only.digest()
        if admin is not None and read_only is not None and hmac.compare_digest(admin, read_only):
            return None
        if admin is not None and hmac.compare_digest(given, admin):
            return Access.ADMIN
        if read_only is not None and hmac.compare_digest(given, read_only):
            return Access.READ_ONLY
        return None


def _sha256(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
