"""How the command line comes by the server side, and what the start leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc, json, os, signal, sys
from kheish.daemon.server_side import serve_main

main = serve_main()
unused = {"rich", "fastapi", "kheish.providers.script"}
importing = {"collects": gc.isenabled(), "unused": sorted(unused & set(sys.modules))}
status = main(json.loads(sys.argv[1]), on_ready=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
served = {"status": status, "collects": gc.isenabled(), "keeps": gc.get_freeze_count() > 50_000}
import rich
print(json.dumps([importing, served]))
"""


def test_a_start_collects_no_garbage_imports_nothing_it_has_no_use_for_and_keeps_the_rest_for_good(
    tmp_path: Path,
) -> None:
    (tmp_path / "workspace").mkdir()
    options = {
        "bind": "127.0.0.1:0",
        "state_root": str(tmp_path / "state"),
        "workspace_root": str(tmp_path / "workspace"),
        "allow_empty_routes": True,
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": "src"}, timeout=50)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"collects": False, "unused": []},
        {"status": 0, "collects": True, "keeps": True},
    ]
