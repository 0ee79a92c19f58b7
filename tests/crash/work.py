"""What the agents of the laboratory do, and the model that makes them do it.

A piece of work is a label and a list of steps drawn from the seed. The model is a function of the request: it finds
the label and the turn in the conversation and asks for the calls of that step. Its last message says how every call
went, so the answer of a run proves what the model was told.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.model_server import Answer, Call, Json, Refusal, Request, Response, Stream

EFFECTS = "effects"
"""Folder in the workspace; every call with an effect leaves its own token there."""
BEGINS = "work: "
FORBIDDEN = "forbidden"
"""The operator denies a command that holds this word."""
OPTION = "blue"
"""What the operator answers to every question."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One tool call, and what its result holds when all is well."""

    tool: str
    arguments: Json
    expect: str
    token: str | None = None
    """The line its effect leaves."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One assistant message."""

    asks: tuple[Ask, ...]
    refused_first: bool = False
    """The provider is overloaded when it is asked for this message the first time."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run: what its agent does and says."""

    label: str
    steps: tuple[Step, ...]
    cut: bool = False
    """The last message comes in two pieces: the first hits the output ceiling."""
    hangs: bool = False
    """It waits for a command that does not end; somebody stops the run."""
    options: dict[str, str] = field(default_factory=dict)
    """Fields of the request beside the content."""

    @property
    def fragile(self) -> bool:
        """It asked to be interrupted by a restart."""
        return self.options.get("on_restart") == "interrupt"

    @property
    def content(self) -> str:
        return f"{BEGINS}{self.label}"

    @property
    def tokens(self) -> list[str]:
        return [ask.token for step in self.steps for ask in step.asks if ask.token is not None]

    @property
    def emitted(self) -> list[str]:
        return [ask.expect for step in self.steps for ask in step.asks if ask.tool == "emit_output"]

    @property
    def calm_answer(self) -> str:
        """The final answer of a run that nothing happened to."""
        return self.answer([["ok"] * len(step.asks) for step in self.steps])

    def answer(self, outcomes: list[list[str]]) -> str:
        return f"{self.label}: " + ", ".join(" ".join(outcome) for outcome in outcomes)


# Kinds of steps


def _file(label: str) -> str:
    return f"{EFFECTS}/{label}.txt"


def _append(label: str, token: str, then: str = "") -> Ask:
    command = f"echo {token} | tee -a {EFFECTS}/{label}.log{then}"
    return Ask(tool="bash", arguments={"command": command}, expect=token, token=token)


def looking(label: str, token: str) -> tuple[Ask, ...]:
    """Side by side."""
    return (
        Ask(tool="read_file", arguments={"path": _file(label)}, expect=f"begin {label}"),
        Ask(tool="glob_search", arguments={"pattern": f"{EFFECTS}/{label}.*"}, expect=f"{label}.txt"),
        Ask(tool="grep_search", arguments={"pattern": f"begin {label}$", "base": EFFECTS}, expect=f"{label}.txt"),
    )


def command(label: str, token: str) -> tuple[Ask, ...]:
    return (_append(label, token),)


def slow_command(label: str, token: str) -> tuple[Ask, ...]:
    """Long enough to be caught in the middle, with a grandchild."""
    return (_append(label, token, "; sleep 0.3 & wait"),)


def _leftover(label: str, token: str) -> tuple[Ask, ...]:
    """Leaves something running that must not outlive the call, or the daemon."""
    return (_append(label, token, "; sleep 900 > /dev/null 2>&1 & sleep 0.3"),)


def _two_commands(label: str, token: str) -> tuple[Ask, ...]:
    first, second = _append(label, f"{token}a"), _append(label, f"{token}b", "; sleep 0.1")
    return (first, *looking(label, token)[:1], second)


def _write(label: str, token: str) -> tuple[Ask, ...]:
    path = f"{EFFECTS}/{label}-{token}.new"
    return (Ask(tool="write_file", arguments={"path": path, "content": f"{token}\n"}, expect=path, token=token),)


def editing(label: str, token: str) -> tuple[Ask, ...]:
    edit = {"path": _file(label), "old_text": "end\n", "new_text": f"{token}\nend\n"}
    return (Ask(tool="edit_file", arguments=edit, expect=_file(label), token=token),)


def _patch(label: str, token: str) -> tuple[Ask, ...]:
    hunk = {"path": _file(label), "old_text": "end\n", "new_text": f"{token}\nend\n"}
    return (Ask(tool="apply_patch", arguments={"hunks": [hunk]}, expect=_file(label), token=token),)


def _todos(label: str, token: str) -> tuple[Ask, ...]:
    return (Ask(tool="todo_write", arguments={"todos": [{"content": token}]}, expect=token),)


def emitting(label: str, token: str) -> tuple[Ask, ...]:
    return (Ask(tool="emit_output", arguments={"content": token}, expect=token),)


def asking(label: str, token: str) -> tuple[Ask, ...]:
    options = [{"id": OPTION, "label": "Blue"}, {"id": "red", "label": "Red"}]
    question = {"id": token, "question": f"Which colour for {token}?", "options": options}
    return (Ask(tool="ask_user_question", arguments={"questions": [question]}, expect=OPTION),)


def _denied(label: str, token: str) -> tuple[Ask, ...]:
    """Denied by the operator where commands need an approval, and then not run."""
    ask = _append(label, token, f" # {FORBIDDEN}")
    return (Ask(tool=ask.tool, arguments=ask.arguments, expect="", token=token),)


def _impossible(label: str, token: str) -> tuple[Ask, ...]:
    """Refused before anybody is asked, beside something that is not."""
    return (Ask(tool="no_such_tool", arguments={"token": token}, expect="no_such_tool"), *looking(label, token)[:1])


def hang(label: str, token: str) -> tuple[Ask, ...]:
    """A command that does not end, with a child of its own."""
    return (_append(label, token, "; sleep 900 & sleep 900"),)


Kind = Callable[[str, str], tuple[Ask, ...]]
KINDS: tuple[Kind, ...] = (
    looking,
    command,
    slow_command,
    _leftover,
    _two_commands,
    _write,
    editing,
    _patch,
    _todos,
    emitting,
    asking,
    _denied,
    _impossible,
)


def draw(label: str, seed: int, turns: int) -> Work:
    """The work of this label; the same for the same seed. Every kind comes up before one comes up again."""
    chance = random.Random(f"{seed}:{label}")
    kinds: list[Kind] = []
    while len(kinds) < turns:
        kinds += chance.sample(KINDS, len(KINDS))
    steps = tuple(
        Step(asks=kind(label, f"{label}t{number:02}"), refused_first=chance.random() < 0.04)
        for number, kind in enumerate(kinds[:turns])
    )
    options = chance.choices(({}, {"on_in_doubt": "ask"}, {"on_restart": "interrupt"}), weights=(8, 3, 1))[0]
    return Work(label=label, steps=steps, cut=chance.random() < 0.3, options=options)


def hanging(label: str) -> Work:
    """Work that somebody stops."""
    return Work(label=label, steps=(Step(asks=hang(label, f"{label}t00")),), hangs=True)


# The model


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request as the model server saw it."""

    label: str
    turn: int
    at_ms: int
    messages: tuple[str, ...]
    """Hash of each message, in order."""


@dataclass(kw_only=True)
class Model:
    """Answers by the label and the turn it finds in a request; remembers every request."""

    seed: int
    works: dict[str, Work] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    pause: Callable[[random.Random], float] = lambda chance: chance.uniform(0, 0.03)
    """Seconds before an answer begins."""
    confused: list[str] = field(default_factory=list)
    """Requests that make no sense, and why."""
    _refused: set[tuple[str, int]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def respond(self, request: Request) -> Response:
        at_ms = time.time_ns() // 1_000_000
        messages = request.body["messages"]
        try:
            label, outcomes = self._read(messages)
        except Exception:
            self.confused.append(traceback.format_exc() + json.dumps(messages)[-4000:])
            raise
        turn = len(outcomes)
        hashes = tuple(hashlib.sha256(json.dumps(message).encode()).hexdigest() for message in messages)
        with self._lock:
            self.arrivals.append(Arrival(label=label, turn=turn, at_ms=at_ms, messages=hashes))
        chance = random.Random(f"{self.seed}:{label}:{turn}")
        await asyncio.sleep(self.pause(chance))
        step = self._step(label, turn)
        if step is not None and step.refused_first and (label, turn) not in self._refused:
            self._refused.add((label, turn))
            return Refusal(status=529, headers={"Retry-After": "1"})
        answer = self._answer(self.works[label], turn, outcomes)
        return Stream(answer=answer, frame_seconds=chance.choice((0, 0, 0.002, 0.01)))

    def requests(self, label: str, turn: int) -> list[Arrival]:
        with self._lock:
            return [arrival for arrival in self.arrivals if (arrival.label, arrival.turn) == (label, turn)]

    def _step(self, label: str, turn: int) -> Step | None:
        steps = self.works[label].steps
        return steps[turn] if turn < len(steps) else None

    def _answer(self, work: Work, turn: int, outcomes: list[list[str]]) -> Answer:
        if turn < len(work.steps):
            asks = work.steps[turn].asks
            calls = [Call(name=a.tool, arguments=a.arguments, id=f"call_{turn}_{n}") for n, a in enumerate(asks)]
            return Answer(text=f"step {turn}" if turn % 2 else "", calls=calls)
        text = work.answer(outcomes[: len(work.steps)])
        half = len(text) // 2
        if not work.cut:
            return Answer(text=text)
        return Answer(text=text[:half], finish="length") if turn == len(work.steps) else Answer(text=text[half:])

    def _read(self, messages: list[Json]) -> tuple[str, list[list[str]]]:
        """The label, and for each answer the model gave since then how its calls went."""
        begin = max(number for number, message in enumerate(messages) if _begins(message))
        label = str(messages[begin]["content"]).removeprefix(BEGINS)
        steps = iter(self.works[label].steps)
        outcomes: list[list[str]] = []
        for number, message in enumerate(messages[begin:], start=begin):
            if message["role"] == "assistant":
                step = next(steps, None)
                results = [found["content"] for found in _results(messages[number + 1 :])]
                asks = () if step is None else step.asks
                outcomes.append([_outcome(ask, result) for ask, result in zip(asks, results, strict=True)])
        return label, outcomes


def _begins(message: Json) -> bool:
    return message["role"] == "user" and str(message["content"]).startswith(BEGINS)


def _results(following: list[Json]) -> Iterator[Json]:
    for message in following:
        if message["role"] != "tool":
            return
        yield message


def _outcome(ask: Ask, result: str) -> str:
    if in_doubt(result):
        return "doubt"
    return "ok" if ask.expect in result else f"odd({result[:200]})"


def in_doubt(output: Any) -> bool:
    """The result says that a restart of the daemon left open whether the call took effect."""
    text = output if isinstance(output, str) else json.dumps(output)
    return '"reason":"daemon_restart"' in text.replace(" ", "")
