from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.house import House, opened


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon that asks before it writes or runs commands."""
    async with opened(tmp_path) as found:
        yield found


@pytest.fixture
async def free(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon that asks nobody."""
    async with opened(tmp_path, permission_mode="bypassPermissions") as found:
        yield found
