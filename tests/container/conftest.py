from __future__ import annotations

import pytest

from tests.container.engine import Engine, source_copy


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="session")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The engine, with the image really built from what a clean clone holds."""
    engine.build(source_copy(tmp_path_factory.mktemp("clone")))
    return engine
