"""Writes and checks the lock files: pinned, hashed, and silent about where packages come from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "requirements.lock"
OTEL = "requirements-otel.lock"
DEV = "requirements-dev.lock"
BUILD = "requirements-build.lock"
QUARANTINE = timedelta(days=7)
"""A release younger than this is not locked: most bad releases are withdrawn within days."""
_LINE = re.compile(
    r"""
    (?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[0-9][\w.+!]*)(\s;\s[\w\s.'"<>=!()]+)?\s\\   # a pinned package
    | \s{4}--hash=sha256:[0-9a-f]{64}(\s\\)?                                                 # one of its files
    | \s{4}\#(\svia)?(\s+(-c\s)?[\w.-]+(\s\(pyproject\.toml\))?)?                            # who asked for it
    """,
    re.VERBOSE,
)


def write() -> None:
    """Resolve again for Linux and macOS; the other locks take their versions from the development lock."""
    before = (datetime.now(UTC) - QUARANTINE).strftime("%Y-%m-%dT00:00:00Z")
    shared = [
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--strip-extras",
        "--exclude-newer",
        before,
    ]
    silent = ["--no-header", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--upgrade", *shared, *silent]
    compile_one = [*resolve, "pyproject.toml"]
    for target in (
        ["--extra", "dev", "-o", DEV],
        ["-c", DEV, "-o", RUNTIME],
        ["-c", DEV, "--extra", "otel", "-o", OTEL],
    ):
        subprocess.run([*compile_one, *target], cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)
    build = [*resolve, "--no-annotate", "-c", DEV, "-o", BUILD, "-"]
    wanted = "\n".join(_build_requirements()).encode()
    subprocess.run(build, cwd=ROOT, env=_environment(), check=True, input=wanted, stdout=subprocess.DEVNULL)
    check()


def _build_requirements() -> list[str]:
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return found


def check() -> None:
    """Exit 1 when a lock file holds anything but pins, hashes and package names, or misses a requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, extras = project["dependencies"], project["optional-dependencies"]
    texts = {lock: (ROOT / lock).read_text() for lock in (RUNTIME, OTEL, DEV, BUILD)}
    wanted = {
        RUNTIME: runtime,
        OTEL: [*runtime, *extras["otel"]],
        DEV: [*runtime, *extras["dev"], *extras["otel"]],
        BUILD: _build_requirements(),
    }
    found = [f"{lock}{fault}" for lock in texts for fault in faults(texts[lock], wanted[lock])]
    pins = {lock: _pins(text) for lock, text in texts.items()}
    for lock in (RUNTIME, OTEL, BUILD):
        found += [
            f"{lock}: {name} {pin} differs from {DEV}" for name, pin in pins[lock].items() if pins[DEV].get(name) != pin
        ]
    if found:
        sys.exit("\n".join(found))
    print(f"{len(pins[RUNTIME])} runtime and {len(pins[DEV])} development packages pinned and hashed; no index named")


def faults(text: str, requirements: list[str]) -> Iterator[str]:
    """Yield what is wrong with a lock file that should satisfy ``requirements``, each starting with its place."""
    # Late, so that writing the first lock needs nothing but the resolver.
    from packaging.requirements import Requirement

    for number, line in enumerate(text.splitlines(), 1):
        if not _LINE.fullmatch(line):
            yield f":{number}: not a pin, a hash or a package name: {line.strip()}"
    pins = _pins(text)
    for requirement in map(Requirement, requirements):
        version = pins.get(requirement.name)
        if version is None or not requirement.specifier.contains(version):
            yield f": {requirement} is not satisfied ({version}); run ./dev lock"


def _pins(text: str) -> dict[str, str]:
    found = map(_LINE.fullmatch, text.splitlines())
    return {match["name"]: match["version"] for match in found if match and match["name"]}


def _environment() -> dict[str, str]:
    """Hand pip's own index settings on to the resolver."""
    environment = dict(os.environ)
    for ours, theirs in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_INDEX", "PIP_EXTRA_INDEX_URL")):
        if theirs in environment:
            environment.setdefault(ours, environment[theirs])
    return environment


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]]()
