"""What each ./dev command does. Runs inside .venv."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
PYTHON = str(BIN / "python")
CODE = ("src", "tools", "examples", "bench")
"""Held to every rule; tests are linted and formatted too."""
TESTS_NEEDING_MORE = "not container and not browser and not long"


def demo(arguments: Sequence[str]) -> NoReturn:
    os.chdir(ROOT)
    _become(PYTHON, "-m", "examples.demo.run", *arguments)


def bench(arguments: Sequence[str]) -> NoReturn:
    os.chdir(ROOT)
    _become(PYTHON, "-m", "bench.run", *arguments)


def serve(arguments: Sequence[str]) -> NoReturn:
    _become(str(BIN / "kheish-daemon"), "serve", *arguments)


def lock(arguments: Sequence[str]) -> NoReturn:
    _become(PYTHON, str(ROOT / "tools" / "lock_files.py"), "write", *arguments)


def test(arguments: Sequence[str]) -> NoReturn:
    chosen = [argument for argument in arguments if argument != "--all"]
    if "--all" in arguments:
        # Late, and by path: this file runs as a script.
        sys.path.insert(0, str(ROOT))
        from tools.container_engine import prepare

        prepare()
        # What is missing from here on is a failure, not a test left out.
        os.environ["KHEISH_TEST_ALL"] = "1"
    selection = [] if "--all" in arguments else ["-m", TESTS_NEEDING_MORE]
    os.chdir(ROOT)
    # One file stays on one worker, so a daemon shared by a file's tests is started once.
    _become(PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadfile", *selection, *chosen)


def check(arguments: Sequence[str]) -> NoReturn:
    """Run every check, also after one failed, and say at the end which did."""
    if arguments:
        sys.exit("dev check takes no arguments")
    code = [folder for folder in CODE if any((ROOT / folder).rglob("*.py"))]
    steps: dict[str, list[str]] = {
        "lint": [str(BIN / "ruff"), "check", "."],
        "format": [str(BIN / "ruff"), "format", "--check", "."],
        "types": [str(BIN / "mypy"), *code],
        "imports": [str(BIN / "lint-imports")],
        "house rules": [PYTHON, "tools/house_rules.py", *code],
        "locks": [PYTHON, "tools/lock_files.py", "check"],
    }
    if (ROOT / "tools" / "sdk_types.py").exists():
        steps["sdk types"] = [PYTHON, "-m", "tools.sdk_types", "--check"]
    failed = [name for name, command in steps.items() if not _passes(name, command)]
    print(f"check: {', '.join(failed)} failed" if failed else f"check: {len(steps)} of {len(steps)} passed", flush=True)
    sys.exit(bool(failed))


def _passes(name: str, command: list[str]) -> bool:
    print(f"--- {name}", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)
    print(f"    {'ok' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - started:.1f} s", flush=True)
    return done.returncode == 0


def _become(program: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and the exit status are the program's own."""
    os.execv(program, [program, *arguments])  # noqa: S606  # a fixed program, no shell


COMMANDS: dict[str, Callable[[Sequence[str]], NoReturn]] = {
    "demo": demo,
    "test": test,
    "check": check,
    "bench": bench,
    "serve": serve,
    "lock": lock,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
