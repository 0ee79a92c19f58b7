from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def change(root: Path, *statements: str) -> None:
    """Change rows behind the daemon's back."""
    with closing(sqlite3.connect(root / "state" / "kheish.db", isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement
