"""Creates and refreshes .venv from the lock file. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.lock"
STAMP = VENV / "installed.json"


def main() -> None:
    with _alone():
        wanted = _fingerprints()
        found = _installed()
        if found != wanted:
            if found.get("locked") != wanted["locked"]:
                _say("creating .venv from requirements-dev.lock (once, a minute or so)")
                _create()
            _install_project()
            STAMP.write_text(json.dumps(wanted))
        # As a package that is installed brings its bytecode: a start that compiles it all is a quarter longer, and each
        # is where Python is told to write none. What did not change is left alone.
        compileall.compile_dir(ROOT / "src", quiet=2)


@contextmanager
def _alone() -> Iterator[None]:
    """Two commands started side by side must not build the same environment twice."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _fingerprints() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    described = json.dumps([project["build-system"], project["project"]], sort_keys=True)
    # An environment holds absolute paths, so a moved clone needs a new one.
    locked = f"{ROOT} {sys.version_info[:2]} {LOCK.read_text()}"
    return {
        "locked": hashlib.sha256(locked.encode()).hexdigest(),
        "project": hashlib.sha256(described.encode()).hexdigest(),
    }


def _installed() -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _create() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    # Some systems ship Python without ensurepip; their own pip can then fill the environment.
    venv.create(VENV, with_pip=importlib.util.find_spec("ensurepip") is not None, symlinks=True)
    # The lock is named as constraints, too: older releases of pip apply a pin to a package, not to the same package
    # asked for with an extra, and would take the newest release for the latter.
    _pip("install", "--require-hashes", "-r", str(LOCK), "-c", str(LOCK))


def _install_project() -> None:
    _pip("install", "--no-index", "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def _pip(*arguments: str) -> None:
    python = str(VENV / "bin" / "python")
    own = next(VENV.glob("lib/python*/site-packages/pip"), None)
    pip = [python, "-m", "pip"] if own else [sys.executable, "-m", "pip", "--python", python]
    quiet = ("-qq", "--disable-pip-version-check", "--no-input")
    done = subprocess.run([*pip, *arguments, *quiet], check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        _say("the packages were not installed; see above (without any pip, Debian needs python3-venv)")
        sys.exit(done.returncode)


def _say(text: str) -> None:
    print(f"dev: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
