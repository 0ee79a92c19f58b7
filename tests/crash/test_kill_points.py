"""Kills at chosen places: inside a commit, before it, right after it, and at the statements of a start."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest

from tests.crash.daemon import KillPoint, Stage
from tests.crash.invariants import Report
from tests.crash.killing import TYPES
from tests.crash.laboratory import World
from tests.crash.work import Kind, Step, Work, asking, command, editing, emitting, hanging, looking, slow_command
from tests.e2e.daemon_process import DEADLINE_S, wait_for_text

pytestmark = [pytest.mark.e2e, pytest.mark.crash]

MakeWorld = Callable[..., World]
Checked = Callable[[World], Report]
KINDS: Sequence[Kind] = (command, asking, looking, editing, emitting)
"""With an overloaded provider and an answer that is cut these bring up every type of entry of an undisturbed run."""
STAGES = (Stage.BEFORE_COMMIT, Stage.AFTER_COMMIT)


def everything(label: str) -> Work:
    steps = [Step(asks=kind(label, f"{label}t{n:02}"), refused_first=n == 1) for n, kind in enumerate(KINDS)]
    return Work(label=label, steps=tuple(steps), cut=True)


def reading(label: str) -> Work:
    """Something that is running, and waits for nobody, when the daemon is killed."""
    return Work(label=label, steps=tuple(Step(asks=looking(label, "")) for _ in range(12)))


def die_at(world: World, points: Sequence[KillPoint]) -> None:
    """Let a daemon with work to resume and with new work die at each point, one after the other."""
    assert world.start()
    world.open()
    for number, point in enumerate(points):
        world.submit(f"session-{number}-old", reading(f"old-{number}"))
        world.until_accepted()
        world.kill("instant")
        world.submit(f"session-{number}", everything(f"new-{number}"))
        if point.type == "stop_requested":
            world.submit(f"session-{number}-stopped", hanging(f"stopped-{number}"))
        died = not world.start(point) or world.await_death("point", DEADLINE_S)
        assert died, f"the daemon did not come to {point}"
        assert world.start()
        world.until_progress(0)
    world.until_over()


def test_killed_around_the_commits_of_an_approval_a_tool_and_an_answer(
    crash_world: MakeWorld, checked: Checked
) -> None:
    points = [
        KillPoint(stage=Stage.AFTER_COMMIT, type="approvals_resolved"),
        KillPoint(stage=Stage.BEFORE_COMMIT, type="tool_intended"),
        KillPoint(stage=Stage.INSIDE, type="tool_finished"),
        KillPoint(stage=Stage.AFTER_COMMIT, type="run_ended"),
    ]
    made = crash_world(mode="default")
    die_at(made, points)

    assert checked(made).kills == 2 * len(points)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_type_of_entry(crash_world: MakeWorld, checked: Checked, stage: Stage) -> None:
    made = crash_world(mode="default")
    die_at(made, [KillPoint(stage=stage, type=type) for type in ("input_accepted", *TYPES)])

    assert checked(made).kills == 2 * (len(TYPES) + 1)


def test_killed_while_draining_right_after_a_result_was_recorded(crash_world: MakeWorld, checked: Checked) -> None:
    made = crash_world(mode="bypass-permissions")
    label = "draining"
    made.submit("session", Work(label=label, steps=(Step(asks=slow_command(label, "token")),)))
    assert made.start(KillPoint(stage=Stage.AFTER_COMMIT, type="tool_finished"))
    made.open()
    wait_for_text(made.effects / f"{label}.log", "token")
    made.daemon.signal(signal.SIGTERM)
    assert made.await_death("drain", DEADLINE_S)
    assert made.start()
    made.until_over()

    assert checked(made).in_doubt_calls == 0


@pytest.mark.parametrize("step", [40, pytest.param(4, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_killed_at_the_statements_of_the_first_starts(crash_world: MakeWorld, checked: Checked, step: int) -> None:
    """Each start gets ``step`` statements further than the one before, the making of the schema included."""
    made = crash_world(images=False)
    die_at_boot(made, step)
    made.submit("session", everything("work"))
    made.open()
    made.until_over()

    assert checked(made).kills >= 2


def test_killed_at_the_statements_of_a_start_with_work_to_resume(crash_world: MakeWorld, checked: Checked) -> None:
    made = crash_world(mode="bypass-permissions")
    for number in range(3):
        label = f"work-{number}"
        steps = [Step(asks=slow_command(label, f"{label}t{n}")) for n in range(4)]
        made.submit(f"session-{number}", Work(label=label, steps=tuple(steps)))
    assert made.start()
    made.open()
    made.until_accepted()
    for nth in (4, 20):
        made.until_progress(0)
        made.kill("instant")
        if not made.start(KillPoint(stage=Stage.BOOT, nth=nth)) or made.await_death("boot", DEADLINE_S):
            assert made.start()
    made.until_over()

    report = checked(made)
    assert report.kills == 4
    assert report.resumes > 0


def die_at_boot(world: World, step: int) -> None:
    """Start until a start outlives its statements."""
    for nth in range(1, 10_000, step):
        if world.start(KillPoint(stage=Stage.BOOT, nth=nth)):
            world.kill("boot")
            break
    assert world.start()
