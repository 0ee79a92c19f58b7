"""Who uses the daemon while it is killed: a submitter, an operator, a stopper and watchers.

Each is a thread with a client that tries again when the daemon is away, as a careful client does.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.crash.work import FORBIDDEN, OPTION, Work

_AWAY_S = 0.02
_LOOK_S = 0.03
"""Between looks: these threads poll as people do; nothing depends on how often."""
_READ_S = 15
"""Streams say something every ten seconds."""


class Person(threading.Thread, ABC):
    """Does its rounds until it is told to stop; what goes wrong in a round is kept for the checks."""

    def __init__(self, name: str, url: Callable[[], str]) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self._stopped = threading.Event()
        self._client = httpx2.Client(trust_env=False, timeout=_READ_S)
        self.troubles: list[str] = []

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        with self._client:
            while not self._stopped.is_set():
                try:
                    self.round()
                except httpx2.TransportError:
                    self._stopped.wait(_AWAY_S)
                except Exception as error:
                    self.troubles.append(f"{self.name}: {error!r}")
                    self._stopped.wait(1)

    @abstractmethod
    def round(self) -> None:
        """What this one does again and again."""

    def call(self, method: str, path: str, body: object = None, *, key: str | None = None) -> httpx2.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._client.request(method, self._url() + path, json=body, headers=headers)

    def rest(self) -> None:
        self._stopped.wait(_LOOK_S)


@dataclass(frozen=True, kw_only=True)
class Submission:
    session: str
    work: Work


class Submitter(Person):
    """Submits each piece of work until the daemon has answered, with the label as idempotency key."""

    def __init__(self, url: Callable[[], str]) -> None:
        super().__init__("submitter", url)
        self._waiting: list[Submission] = []
        self.accepted: dict[str, str] = {}
        """Label to run id, as answered with 202."""
        self.answers: list[tuple[str, str]] = []
        """Every pair that was ever answered."""

    def add(self, submission: Submission) -> None:
        self._waiting.append(submission)

    @property
    def idle(self) -> bool:
        return not self._waiting

    def round(self) -> None:
        if not self._waiting:
            return self.rest()
        submission = self._waiting[0]
        created = self.call("POST", "/v1/sessions", {"session_id": submission.session})
        assert created.status_code in (201, 409), created.text
        label = submission.work.label
        body = {"content": submission.work.content, **submission.work.options}
        answer = self.call("POST", f"/v1/sessions/{submission.session}/runs", body, key=label)
        if answer.status_code == 503:
            return self.rest()
        assert answer.status_code == 202, answer.text
        run_id = str(answer.json()["run_id"])
        self.answers.append((label, run_id))
        self.accepted[label] = run_id
        self._waiting.pop(0)
        return None


class Operator(Person):
    """Allows what waits, all at once or one by one, denies what is forbidden, and answers questions."""

    def __init__(self, url: Callable[[], str], chance: random.Random) -> None:
        super().__init__("operator", url)
        self._chance = chance
        self.resolved = 0

    def round(self) -> None:
        for kind in ("approvals", "questions"):
            listed = self.call("GET", f"/v1/{kind}")
            assert listed.status_code == 200, listed.text
            for run_id, waiting in _by_run(listed.json()).items():
                self._resolve(kind, run_id, waiting)
        self.rest()

    def _resolve(self, kind: str, run_id: str, requests: list[dict[str, Any]]) -> None:
        if kind == "questions":
            (request,) = requests
            answers = [{"question_id": one["id"], "selected_option_ids": [OPTION]} for one in request["questions"]]
            body: dict[str, Any] = {"resolution": {"request_id": request["id"], "answers": answers}}
        else:
            chosen = self._chance.sample(requests, self._chance.randint(1, len(requests)))
            body = {"resolutions": [_resolution(request) for request in chosen]}
        answer = self.call("POST", f"/v1/runs/{run_id}/{kind}", body)
        # Answered before, by a request whose reply was lost in a kill.
        assert answer.status_code in (202, 400, 409, 503), answer.text
        self.resolved += answer.status_code == 202


def _by_run(listed: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in listed:
        found.setdefault(str(one["run_id"]), []).append(one["request"])
    return found


def _resolution(request: dict[str, Any]) -> dict[str, Any]:
    # What may have run must not run again: that is what the checks count.
    denied = FORBIDDEN in json.dumps(request) or request.get("in_doubt") is True
    return {"request_id": request["id"], "behavior": "deny" if denied else "allow"}


class Stopper(Person):
    """Stops runs that hang once their command has begun: every second one by a cancel, the others by an interrupt."""

    def __init__(self, url: Callable[[], str], hanging: Callable[[], list[tuple[str, str]]]) -> None:
        super().__init__("stopper", url)
        self._hanging = hanging

    def round(self) -> None:
        for run_id, session in self._hanging():
            by_cancel = int(run_id.rpartition("-")[2]) % 2
            path = f"/v1/runs/{run_id}/cancel" if by_cancel else f"/v1/sessions/{session}/interrupt"
            answer = self.call("POST", path)
            assert answer.status_code in (200, 202, 409, 503), answer.text
        self.rest()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One event as a watcher saw it."""

    id: int
    type: str
    data: str


class Watcher(Person):
    """Reads one stream from the beginning and reconnects with the last id it saw."""

    def __init__(self, name: str, url: Callable[[], str], path: str) -> None:
        super().__init__(name, url)
        self.path = path
        self.seen: list[Seen] = []
        self.connections = 0

    @property
    def last_id(self) -> int:
        return self.seen[-1].id if self.seen else 0

    def round(self) -> None:
        headers = {"Last-Event-ID": str(self.last_id)}
        with self._client.stream("GET", self._url() + self.path, headers=headers) as response:
            if response.status_code in (404, 503):
                return self.rest()  # what it watches does not exist yet, or the daemon is about to stop
            assert response.status_code == 200, response.status_code
            self.connections += 1
            for frame in frames(response):
                if "id" in frame:
                    self.seen.append(Seen(id=int(frame["id"]), type=frame["event"], data=frame["data"]))
                if self._stopped.is_set():
                    return None
        return None


def frames(response: httpx2.Response) -> Iterator[dict[str, str]]:
    """Whole frames of an event stream; half a frame at the end of a broken connection is none."""
    frame: dict[str, str] = {}
    with contextlib.suppress(httpx2.TransportError):
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(":")
                if name:
                    frame[name] = value.removeprefix(" ")
            elif frame:
                yield frame
                frame = {}
