"""The window of a session, over any conversation: small enough, whole, and the same from every prefix."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.messages import FinishReason, Generation, Message, Role, TextPart, ToolCallPart, ToolResultPart, Usage
from kheish.engine import entries as e
from kheish.engine.context import Transcript
from kheish.engine.decide import CallModel
from kheish.engine.entries import Recorded, RouteRef
from kheish.engine.relief import MODEL_DRIVEN, compaction, relieve
from kheish.engine.state import RunState, SessionState, advance
from kheish.engine.tokens import message_tokens
from kheish.engine.window import IDLE_TIMEOUT_MS, WindowPolicy, window_policy

STANDING = 300
TODOS = {"type": "todos", "todos": [{"id": "todo-1", "content": "finish the ledger", "completed": False}]}


@dataclass
class Session:
    """Writes a journal the way the engine does and keeps the window beside it."""

    window_tokens: int
    journal: list[Recorded] = field(default_factory=list)
    window: Transcript = field(default_factory=Transcript)
    state: SessionState = field(default_factory=lambda: SessionState(session_id="s"))
    now_ms: int = 1_000

    @property
    def run(self) -> RunState:
        assert self.state.active is not None
        return self.state.active

    @property
    def policy(self) -> WindowPolicy:
        return window_policy(self.run.route, self.run.generation)

    def add(self, entry: e.Entry) -> None:
        run_id = f"run-{sum(isinstance(r.entry, e.RunStarted) for r in self.journal)}"
        if isinstance(entry, e.InputAccepted | e.RunStarted):
            run_id = f"run-{sum(isinstance(r.entry, e.InputAccepted) for r in self.journal)}"
            if isinstance(entry, e.InputAccepted):
                run_id = f"run-{int(run_id[4:]) + 1}"
        offset = len(self.journal) + 1
        recorded = Recorded(session_id="s", offset=offset, at_ms=self.now_ms, run_id=run_id, entry=entry)
        self.journal.append(recorded)
        self.window.extend(recorded)
        self.state = advance(self.state, recorded)

    def ask(self, text: str) -> None:
        route = RouteRef(route_id="r", driver="d", model="m", context_window_tokens=self.window_tokens)
        self.add(
            e.InputAccepted(
                agent_id="a", kind="input", envelope={}, text=text, route=route, generation=Generation(), summary={}
            )
        )
        self.add(e.RunStarted())

    def relieve(self) -> int:
        """Do what the engine does before a model call; return how many rounds it took."""
        call = CallModel(turn=self.run.turn + 1, attempt=1)
        for rounds in itertools.count():
            assert rounds < 4, "relief never ends"
            found = relieve(self.run, call, self.window, now_ms=self.now_ms, standing_tokens=STANDING)
            again = relieve(self.run, call, self.window.copy(), now_ms=self.now_ms, standing_tokens=STANDING)
            assert found == again
            if found is None:
                return rounds
            for entry in found.entries:
                self.add(entry)
            if found.summarise:
                made = compaction(
                    self.window, self.policy, turn=call.turn, strategy=MODEL_DRIVEN, text="in short " * 50
                )
                assert made is not None
                self.add(made)
        raise AssertionError("unreachable")

    def reply(self, text: str, outputs: list[int], *, usage: Usage | None = None) -> None:
        turn = self.run.turn + 1
        calls = [
            ToolCallPart(call_id=f"call-{len(self.journal)}-{at}", name="look", input={}) for at in range(len(outputs))
        ]
        parts = (TextPart(text=text), *calls)
        finish = FinishReason.TOOL_CALLS if calls else FinishReason.COMPLETED
        self.add(
            e.ModelReplied(
                turn=turn, message_id=f"msg-{len(self.journal)}", parts=parts, finish_reason=finish,
                usage=usage or Usage(),
            )
        )  # fmt: skip
        for call, size in zip(calls, outputs, strict=True):
            effects = (TODOS,) if size % 7 == 0 else ()
            read = ({"type": "file_read", "path": f"file-{size}.txt"},)
            self.add(
                e.ToolFinished(
                    call_id=call.call_id, name="look", output="x" * size, effects=effects, context_updates=read
                )
            )

    def end(self) -> None:
        self.add(e.RunEnded(status=e.RunStatus.COMPLETED))


def check_whole(messages: tuple[Message, ...]) -> None:
    """Every result follows its call and every call has its result."""
    assert messages[0].role is Role.USER
    for before, message in itertools.pairwise((*messages, Message(role=Role.USER, parts=()))):
        asked = {call.call_id for call in before.tool_calls}
        answered = {part.call_id for part in message.parts if isinstance(part, ToolResultPart)}
        assert asked == answered


def check_fits(session: Session) -> None:
    window, policy = session.window, session.policy
    assert window.tokens == sum(map(message_tokens, window.messages()))
    latest = window.latest_input
    assert latest is not None
    last = next(at for at in reversed(range(len(window.items))) if window.items[at].message.role is not Role.TOOL)
    fixed = sum(item.tokens for item in {item.id: item for item in (latest, *window.items[last:])}.values())
    # What a compaction adds to what can never leave: the kept messages before, and the summary.
    least = fixed + STANDING + policy.memory_max * 2
    assert window.tokens + STANDING <= max(policy.threshold, least)


Turns = list[tuple[int, list[int]]]
sizes = st.one_of(st.integers(0, 400), st.integers(0, 40_000))
turns = st.lists(st.tuples(st.integers(0, 3_000), st.lists(sizes, max_size=6)), max_size=25)
runs = st.lists(st.tuples(st.integers(1, 3_000), turns), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(conversation=runs, window_tokens=st.sampled_from([4_000, 16_000, 64_000]), pause=st.booleans())
def test_a_window_stays_small_and_whole_over_any_conversation(
    conversation: list[tuple[int, Turns]], window_tokens: int, pause: bool
) -> None:
    session = Session(window_tokens)
    for number, (asked, happened) in enumerate(conversation):
        text = f"request {number} " + "q" * asked
        session.ask(text)
        for said, outputs in [*happened, (20, [])]:
            session.now_ms += IDLE_TIMEOUT_MS if pause else 1
            session.relieve()
            messages = session.window.messages()
            check_whole(messages)
            check_fits(session)
            assert text in [message.text for message in messages if message.role is Role.USER]
            session.reply("w" * said, outputs)
        session.end()

    folded = Transcript()
    for recorded in session.journal:
        folded.extend(recorded)
    assert folded == session.window


@settings(max_examples=25, deadline=None)
@given(conversation=runs)
def test_the_window_after_every_prefix_is_the_one_the_engine_had(conversation: list[tuple[int, Turns]]) -> None:
    session, seen = Session(4_000), []
    for asked, happened in conversation[:3]:
        session.ask("q" * asked)
        for said, outputs in happened[:8]:
            session.relieve()
            seen.append((len(session.journal), session.window.copy()))
            session.reply("w" * said, outputs)
        session.end()

    for length, window in seen:
        folded = Transcript()
        for recorded in session.journal[:length]:
            folded.extend(recorded)
        assert folded == window


@settings(max_examples=60, deadline=None)
@given(conversation=runs, after=st.integers(0, 10))
def test_two_overflows_are_relieved_to_the_least_that_a_call_can_do_with(
    conversation: list[tuple[int, Turns]], after: int
) -> None:
    session = Session(64_000)
    calls = 0
    for asked, happened in conversation:
        session.ask("the request " + "q" * asked)
        for said, outputs in [*happened, (20, [])]:
            session.relieve()
            calls += 1
            if calls == after:
                check_two_overflows(session)
            session.reply("w" * said, outputs)
        session.end()


def check_two_overflows(session: Session) -> None:
    kinds = []
    for attempt in (1, 2):
        before = session.window.tokens
        session.add(
            e.ModelFailed(turn=session.run.turn + 1, attempt=attempt, kind="context_window_exceeded", message="")
        )
        assert session.relieve() == 1
        kinds.append(type(session.journal[-1].entry))
        check_whole(session.window.messages())
        assert session.window.tokens <= before + session.policy.memory_max
    assert kinds == [e.Snipped, e.Compacted]
    exchange = [item for item in session.window.items if not item.is_input]
    assert sum(item.message.role is not Role.TOOL for item in exchange) <= 1


def big_run(session: Session, count: int, size: int = 4_000) -> None:
    for number in range(count):
        session.relieve()
        session.reply(f"step {number}", [size])


def boundaries(session: Session) -> list[str]:
    kinds = (e.Microcompacted, e.Snipped, e.Compacted)
    return [type(recorded.entry).__name__ for recorded in session.journal if isinstance(recorded.entry, kinds)]


def test_the_figures_of_a_200k_window_are_those_of_the_contract() -> None:
    policy = window_policy(RouteRef(route_id="r", driver="anthropic", model="claude-sonnet-4-6"), Generation())
    assert (policy.window, policy.threshold, policy.snip_budget) == (200_000, 167_000, 120_000)
    assert (policy.memory_min, policy.memory_max) == (10_000, 40_000)


def test_a_vendor_prefix_an_unknown_model_and_a_smaller_fallback_have_windows_too() -> None:
    def window(model: str, **generation: str) -> int:
        return window_policy(RouteRef(route_id="r", driver="d", model=model), Generation(**generation)).window  # type: ignore[arg-type]

    assert window("anthropic/claude-opus-4-6") == 200_000
    assert window("nobody-knows") == 128_000
    assert window("gpt-5.4", fallback_model="gpt-4o") == 128_000


def test_a_raised_output_ceiling_makes_room_for_itself() -> None:
    route = RouteRef(route_id="r", driver="anthropic", model="claude-sonnet-4-6")
    assert window_policy(route, Generation(), 40_000).threshold == 147_000
    assert window_policy(route, Generation(), 64_000).threshold == 137_000


def test_old_results_are_cleared_first_and_the_newest_five_stay() -> None:
    session = Session(16_000)
    session.ask("go")
    big_run(session, 14)

    assert boundaries(session) == ["Microcompacted"]
    results = [p for m in session.window.messages() for p in m.parts if isinstance(p, ToolResultPart)]
    shown = [result.output == "x" * 4_000 for result in results]
    cleared = shown.index(True)
    assert cleared > 0
    assert all(shown[cleared:])
    stub = results[0].output
    assert isinstance(stub, dict)
    assert (stub["truncated"], stub["raw_ref"], stub["bytes"]) == (True, f"tool_result:{results[0].call_id}", 4_002)


def test_results_are_cleared_when_nobody_spoke_for_a_quarter_of_an_hour() -> None:
    session = Session(64_000)
    session.ask("go")
    big_run(session, 8)
    session.now_ms += IDLE_TIMEOUT_MS - 1
    assert session.relieve() == 0
    session.now_ms += 1
    assert session.relieve() == 1
    cleared = session.journal[-1].entry
    assert isinstance(cleared, e.Microcompacted)
    assert len(cleared.cleared_tool_ids) == 2 + 1  # the eighth result is not read yet and counts as one of five
    assert session.relieve() == 0


def test_results_of_the_last_message_are_never_cleared_before_the_model_has_read_them() -> None:
    session = Session(16_000)
    session.ask("go")
    for _ in range(4):
        session.relieve()
        session.reply("many", [1_500] * 8)
    session.relieve()
    last = session.window.items[-1].message
    assert [part.output for part in last.parts if isinstance(part, ToolResultPart)] == ["x" * 1_500] * 8


def test_finished_exchanges_are_left_out_once_then_the_window_is_condensed() -> None:
    session = Session(16_000)
    for number in range(100):
        session.ask(f"question {number} " + "q" * 1_000)
        session.relieve()
        session.reply("answer " + "w" * 1_000, [])
        session.end()

    assert boundaries(session)[:4] == ["Snipped", "Compacted", "Snipped", "Compacted"]
    assert [r.entry.window_generation for r in session.journal if isinstance(r.entry, e.Compacted)][:2] == [1, 2]


def test_todos_requests_and_files_are_in_the_summary_and_in_the_restoration() -> None:
    session = Session(16_000)
    session.ask("keep the ledger in order")
    session.reply("planning", [7])  # writes the todo list
    session.end()
    session.ask("now the second part")
    while session.window.generation == 0:
        session.relieve()
        session.reply("word " * 400, [])
        assert len(session.journal) < 500

    summary = session.window.messages()[0].text
    for known in ("finish the ledger", "keep the ledger in order", "file-7.txt"):
        assert known in summary
    made = next(r.entry for r in session.journal if isinstance(r.entry, e.Compacted))
    assert made.strategy == "session_memory"
    assert made.restoration["session_control"] == {"plan_mode": False, "todos": TODOS["todos"]}
    assert {"message_id": "input-run-1", "content": "keep the ledger in order"} in made.restoration[  # type: ignore[operator]
        "retained_user_inputs"
    ]
    assert made.post_tokens < made.pre_tokens


def test_a_provider_that_counts_more_than_we_do_is_believed() -> None:
    session = Session(16_000)
    session.ask("go")
    session.reply("w" * 16_000, [])
    assert session.relieve() == 0
    session.reply("w" * 16_000, [], usage=Usage(input_tokens=9_000))
    for _ in range(8):
        session.reply("w" * 10, [])

    measured = replace(session.window, measured=None)
    call = CallModel(turn=99, attempt=1)
    assert relieve(session.run, call, measured, now_ms=0, standing_tokens=STANDING) is None
    counted = session.window.copy()
    counted.measured = replace(session.window.measured, tokens=15_000)  # type: ignore[type-var]
    assert relieve(session.run, call, counted, now_ms=0, standing_tokens=STANDING) is not None


def test_after_a_compaction_only_the_window_is_in_memory() -> None:
    session = Session(16_000)
    sizes_seen = []
    for number in range(300):
        session.ask(f"question {number}")
        session.relieve()
        session.reply("answer " + "w" * 800, [2_000, 2_000])
        session.end()
        sizes_seen.append((len(session.window.items), session.window.memory_bytes))
    assert max(sizes_seen[100:]) <= max(sizes_seen[:100])
    assert sizes_seen[-1][1] < 16_000 * 4 * 3
