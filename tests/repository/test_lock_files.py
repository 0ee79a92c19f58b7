from __future__ import annotations

import pytest

from tools.lock_files import faults

PIN = f"click==8.5.1 \\\n    --hash=sha256:{'0' * 64}\n    # via kheish (pyproject.toml)\n"


def test_a_pinned_and_hashed_package_is_accepted() -> None:
    assert list(faults(PIN, ["click>=8.3"])) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "--extra-index-url https://packages.example/simple",
        "--find-links /srv/wheels",
        "# compiled with https://packages.example/simple",
        "    # via -r /srv/checkout/requirements.in",
        "click @ https://packages.example/click-8.5.1.whl",
        "click @ file:///srv/click-8.5.1.whl",
        "click>=8.3",
        "-e .",
    ],
)
def test_a_line_that_names_a_place_or_leaves_a_version_open_is_refused(line: str) -> None:
    assert list(faults(f"{line}\n{PIN}", [])) == [f":1: not a pin, a hash or a package name: {line.strip()}"]


@pytest.mark.parametrize(
    ("requirement", "version"), [("click>=9", "8.5.1"), ("click<8", "8.5.1"), ("structlog>=26", "None")]
)
def test_a_requirement_that_the_lock_does_not_meet_is_named(requirement: str, version: str) -> None:
    assert list(faults(PIN, [requirement])) == [f": {requirement} is not satisfied ({version}); run ./dev lock"]
