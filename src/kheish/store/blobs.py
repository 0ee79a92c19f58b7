"""Large or binary content as files named by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from kheish.core.problems import Problem
from kheish.store.files import private_folder, sync


class BlobMissing(Problem):
    """The content is gone or damaged."""

    domain, code, status = "storage", "blob_missing", 500


class BlobStore:
    """Write once, read many, verified on read. Blocking: call it off the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """Store ``content`` durably and return its SHA-256 as lower-case hex."""
        sha256 = hashlib.sha256(content).hexdigest()
        target = self.path(sha256)
        if target.exists():
            return sha256
        private_folder(target.parent)
        temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(target.parent)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return the content.

        Raises:
            BlobMissing: there is no such file, or its bytes do not match its name.
        """
        try:
            content = self.path(sha256).read_bytes()
        except OSError as error:
            raise BlobMissing(f"The blob {sha256} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BlobMissing(f"The blob {sha256} is damaged: its bytes do not match its name.")
        return content
