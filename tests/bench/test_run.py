"""The bench's own conduct: what breaks, what is kept, and that the floor pays what the daemon pays."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import run
from bench.figures import Figure, Scale, figure
from bench.load import Client
from bench.plots import draw
from bench.processes import child
from bench.report import BEGIN, END
from bench.run import decode, encode, main
from tests.bench.results import results

BENCH = Path(run.__file__).parent


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules that measure nothing, and files of their own."""

    def steady(scale: Scale) -> list[Figure]:
        return [figure("a", "a row", "ms", [1, 1, scale.times(1, 1)], [1, 1, 1])]

    def breaks(scale: Scale) -> list[Figure]:
        raise SystemExit("a server did not start")

    for name, measure in (("steady", steady), ("breaks", breaks)):
        module = ModuleType(f"bench.{name}")
        module.measure = measure  # type: ignore[attr-defined]  # a module made here
        monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "performance.md").write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(run, "MODULES", ("steady", "breaks"))
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "ACCEPTED", tmp_path / "accepted.json")
    monkeypatch.setattr(run, "PAGE", tmp_path / "performance.md")
    return tmp_path


def test_what_breaks_takes_nothing_with_it_and_nothing_is_accepted(place: Path) -> None:
    status = main(["--quick", "--accept"])

    assert status == 1
    assert [each.key for each in decode((place / "results" / "latest.json").read_bytes()).figures] == ["a"]
    assert not (place / "accepted.json").exists()


def test_one_module_runs_alone_and_is_compared_with_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(figure("a", "a row", "ms", [2, 2, 2], [1, 1, 1]))
    (place / "before.json").write_bytes(encode(before))

    status = main(["--only", "steady", "--compare", str(place / "before.json")])

    assert status == 0
    assert "better  a row: ratio 2.00 -> 1.00" in capsys.readouterr().out


def test_accepted_results_are_kept_with_their_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MODULES", ("steady",))

    status = main(["--accept"])

    assert status == 0
    assert decode((place / "accepted.json").read_bytes()).scale == "full"
    assert "| a row | 1.00 | 1.00 ms | floor 1.00 |" in (place / "performance.md").read_text()


@pytest.mark.parametrize("asked", [["--accept", "--only", "steady"], ["--compare"], ["--only", "unknown"]])
def test_what_cannot_be_done_is_refused_before_anything_runs(place: Path, asked: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(asked)

    assert not (place / "results").exists()


def test_pictures_are_drawn_of_what_there_is(place: Path) -> None:
    pytest.importorskip("matplotlib")
    keys = [f"throughput.{kind}.{count}" for kind in ("no_tool", "one_tool") for count in (1, 16, 64)]
    keys += [f"overhead.{kind}.p{part}" for kind in ("no_tool", "one_tool") for part in (50, 95)]
    keys = [key + end for key in keys for end in ("", ".same_library")]
    every = [figure(key, key, "ms", [1, 2, 3], [1, 1, 1], aim="at least 0.4") for key in (*keys, "limit.rows")]

    assert [path.name for path in draw(results(*every), place)] == ["throughput.png", "overhead.png", "ratios.png"]
    assert [path.name for path in draw(results(every[0]), place)] == ["ratios.png"]
    assert draw(results(), place) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("content", "commits"), [("hi", 2), ("use a tool", 4)])
async def test_the_floor_makes_the_commits_of_a_run(place: Path, content: str, commits: int) -> None:
    (place / "note.txt").write_text("a note\n")
    with child([sys.executable, str(BENCH / "model_server.py")], place / "model.log") as model:
        command = [sys.executable, str(BENCH / "floor.py"), str(place / "floor.db"), str(place), model.url]
        with child(command, place / "floor.log") as floor:
            async with Client(floor.url) as client:
                answer = await client.post("/v1/sessions/one/input", {"content": content})

    rows = sqlite3.connect(place / "floor.db")
    assert answer == b'{"status":"completed","output":"done"}'
    assert rows.execute("SELECT count(*) FROM rows").fetchone() == (commits,)
    rows.close()
