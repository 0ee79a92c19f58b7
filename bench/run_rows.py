"""The rows of the loads of runs, from what each side did in each round. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

from bench.figures import Figure, figure
from bench.limits import Answered
from bench.sides import NO_TOOL, ONE_TOOL, Driven, Kind, Name

KINDS = (NO_TOOL, ONE_TOOL)
SESSIONS = (1, 16, 64)
"""At the same time. In this order: the fewest connections first."""
Engine = Literal["ours", "library"]
"""What makes the model calls of a side: the daemon's own HTTP engine or the HTTP library."""
_LEAST_S = 1e-6
_LEAST_RUNS = "at least 0.4 (wanted: 0.6)"
_MOST_OVERHEAD = {50: 2.5, 95: 3.0}
"""Times the floor's, by percentile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Everything that was measured. Lists have one item a round, and those of one load belong together one by one."""

    driven: defaultdict[tuple[Name, str, int], list[Driven]] = field(default_factory=lambda: defaultdict(list))
    """By side, key of the kind, and sessions at the same time."""
    bare_call_s: defaultdict[tuple[str, Engine], list[float]] = field(default_factory=lambda: defaultdict(list))
    """The median of a first model call by itself, in each round of one session."""
    model: list[Answered] = field(default_factory=list)

    def beyond_calls_ms(self, name: Name, kind: Kind) -> list[list[float]]:
        """Of each run of one session, less its model calls with the client of this side."""
        bare_s = self.bare_call_s[kind.key, engine(name)]
        return [
            [max(seconds - kind.calls * call_s, _LEAST_S) * 1000 for seconds in driven.seconds]
            for driven, call_s in zip(self.driven[name, kind.key, 1], bare_s, strict=True)
        ]

    def floor_calls_per_s(self) -> float:
        """The most model calls the floor made in a second, of all rounds of all loads."""
        loads = [(kind, self.driven["floor", kind.key, sessions]) for kind in KINDS for sessions in SESSIONS]
        return max(driven.per_s * kind.calls for kind, rounds in loads for driven in rounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Beside:
    """A daemon beside a floor."""

    key_end: str
    row_end: str
    daemon: Name
    floor: Name
    floor_name: str

    @property
    def judged(self) -> bool:
        """Beside the loop that anybody would write. One that borrows the daemon's engine has a part of the daemon."""
        return engine(self.floor) == "library"


_EACH = (
    _Beside(key_end="", row_end="", daemon="daemon", floor="floor", floor_name="floor"),
    _Beside(
        key_end=".same_library",
        row_end=", daemon on the library",
        daemon="library_daemon",
        floor="library_floor",
        floor_name="floor on the library",
    ),
    _Beside(key_end=".library", row_end="", daemon="daemon", floor="library_floor", floor_name="floor on the library"),
)


def engine(name: Name) -> Engine:
    return "library" if name in ("library_daemon", "library_floor") else "ours"


def rows(found: Found) -> tuple[list[Figure], list[Figure]]:
    """Of runs, and of what must never be the slow part of them."""
    loads = [(kind, sessions) for kind in KINDS for sessions in SESSIONS]
    runs = [
        *(_throughput(found, beside, kind, sessions) for kind, sessions in loads for beside in _EACH),
        *(each for kind, sessions in loads for beside in _EACH for each in _processor(found, beside, kind, sessions)),
        *(_overhead(found, beside, kind, part) for kind in KINDS for part in (50, 95) for beside in _EACH),
    ]
    return runs, _never_the_slow_part(found)


def _throughput(found: Found, beside: _Beside, kind: Kind, sessions: int) -> Figure:
    daemon, floor = (
        [each.per_s for each in found.driven[name, kind.key, sessions]] for name in (beside.daemon, beside.floor)
    )
    return figure(
        f"throughput.{kind.key}.{sessions}{beside.key_end}",
        f"runs, {kind.label}, {_counted(sessions)}{beside.row_end}",
        "runs/s",
        daemon,
        floor,
        beside_name=beside.floor_name,
        better="higher",
        aim=_LEAST_RUNS if beside.judged else "",
    )


def _processor(found: Found, beside: _Beside, kind: Kind, sessions: int) -> list[Figure]:
    """Nothing where the system does not tell."""
    pair = [found.driven[name, kind.key, sessions] for name in (beside.daemon, beside.floor)]
    daemon, floor = ([each.cpu_s * 1000 for each in driven if each.cpu_s] for driven in pair)
    if not len(daemon) == len(floor) == len(pair[0]):
        return []
    return [
        figure(
            f"processor.{kind.key}.{sessions}{beside.key_end}",
            f"processor time of a run, {kind.label}, {_counted(sessions)}{beside.row_end}",
            "ms",
            daemon,
            floor,
            beside_name=beside.floor_name,
        )
    ]


def _overhead(found: Found, beside: _Beside, kind: Kind, percentile: int) -> Figure:
    """What a bare call takes with a side's own client is taken off."""
    calls = "its model call" if kind.calls == 1 else f"its {kind.calls} model calls"
    daemon, floor = (
        [_percentile(runs, percentile) for runs in found.beyond_calls_ms(name, kind)]
        for name in (beside.daemon, beside.floor)
    )
    return figure(
        f"overhead.{kind.key}.p{percentile}{beside.key_end}",
        f"a run beyond {calls}, {kind.label}, p{percentile}{beside.row_end}",
        "ms",
        daemon,
        floor,
        beside_name=beside.floor_name,
        aim=f"at most {_MOST_OVERHEAD[percentile]:g} x" if beside.judged else "",
        note=_bare_note(found, beside, kind),
    )


def _bare_note(found: Found, beside: _Beside, kind: Kind) -> str:
    client = engine(beside.daemon)
    if client != engine(beside.floor):
        return ""  # each row with the same client on both sides says it of its own
    took_ms = median(found.bare_call_s[kind.key, client]) * 1000
    where = ", on the library," if client == "library" else ""
    return f"1 session; a bare call{where} takes {took_ms:.2f} ms, median"


def _never_the_slow_part(found: Found) -> list[Figure]:
    """The model server and the load client beside the fastest they had to keep up with."""
    most = [found.floor_calls_per_s()] * len(found.model)
    return [
        figure(
            "limit.model_server",
            "the fake model server by itself",
            "calls/s",
            [each.per_s for each in found.model],
            most,
            better="higher",
            note="beside the most model calls the floor made: it is never the slow part",
        ),
        figure(
            "limit.load_client",
            "the load client by itself",
            "requests/s",
            [1 / each.client_cpu_s for each in found.model],
            most,
            better="higher",
            note="requests for a second of its processor time, beside the same",
        ),
    ]


def _percentile(values: Sequence[float], percentile: int) -> float:
    return quantiles(values, n=100)[percentile - 1]


def _counted(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"
