"""An interactive prompt on one session, over the same API as every other command."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from kheish.cli.daemon_client import DaemonClient, as_rows, translated
from kheish.cli.failures import ExitCode, Failure, HttpFailure, Unreachable
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.prompting import ask_questions, read_line
from kheish.cli.streams import tail_cursor, updated_run
from kheish.cli.terminal import Screen
from kheish.cli.waiting import OVER, WAITING

if TYPE_CHECKING:
    from kheish.sdk.sse import Event

_LOOK_AFTER_SECONDS = 2.0
"""Silence after which the run itself is looked at: an event may have been missed."""


class _Left(Exception):
    """The user closed standard input while something waited for an answer."""


def chat_with(client: DaemonClient, session_id: str) -> None:
    """Read lines, submit each as a run and show it; opens the session when it does not exist."""
    client.call("POST", "sessions", body={"session_id": session_id})
    chat = Chat(client, session_id)
    try:
        chat.catch_up()
        chat.talk()
    except _Left:
        chat.screen.note(f"the run waits on: kheish-daemon sessions chat {session_id}")


class Chat:
    """One conversation: a thread reads the session's events, the main thread shows them and asks."""

    def __init__(self, client: DaemonClient, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self.screen = Screen()
        self._events: queue.SimpleQueue[Event | Failure] = queue.SimpleQueue()
        self._settled: set[str] = set()
        """Requests that were answered here; a late event must not ask again."""
        self._watching = threading.Event()
        """Its stream stands: what a model writes from now on is seen."""
        # From the position now, so that nothing between here and the first connection is lost.
        cursor = tail_cursor(client)
        threading.Thread(target=self._read, args=(cursor,), name="chat-events", daemon=True).start()

    def talk(self) -> None:
        """Submit lines until standard input ends."""
        while True:
            try:
                line = read_line("you> ")
            except EOFError:
                self.screen.end_line()
                return
            except KeyboardInterrupt:
                self.screen.note("")
                continue
            if line.strip():
                # Not for ever: a daemon that cannot be reached is found out by the request.
                self._watching.wait(_LOOK_AFTER_SECONDS)
                run = self._client.call_object("POST", "sessions", self._session_id, "runs", body={"content": line})
                self.follow(run)

    def catch_up(self) -> None:
        """Follow what the session works on already."""
        params: dict[str, str | int | bool | None] = {"session_id": self._session_id, "limit": 100}
        runs = as_rows(self._client.call("GET", "runs", params=params))
        for run in runs:
            if run.get("status") not in OVER:
                self.follow(run)

    def follow(self, run: JsonObject) -> None:
        """Show the run until it is over; Ctrl-C stops it."""
        while True:
            try:
                self._follow(run)
            except KeyboardInterrupt:
                run = self._stop(str(run["run_id"]))
            else:
                return

    def _follow(self, run: JsonObject) -> None:
        run_id = str(run["run_id"])
        while run.get("status") not in OVER:
            if run.get("status") in WAITING and self._answer(run):
                # The events tell how it goes on; a look could be ahead of them.
                run = {**run, "status": "running"}
            event = self._next()
            if event is None:
                run = self._look_if_reachable(run)
            elif _run_of(event) == run_id:
                run = updated_run(event) or run
                if run.get("status") not in WAITING:
                    self.screen.show(event)
        self.screen.close(self._look(run_id))

    def _next(self) -> Event | None:
        try:
            event = self._events.get(timeout=_LOOK_AFTER_SECONDS)
        except queue.Empty:
            return None
        if isinstance(event, Failure):
            raise event
        return event

    def _look(self, run_id: str) -> JsonObject:
        return self._client.call_object("GET", "runs", run_id)

    def _look_if_reachable(self, run: JsonObject) -> JsonObject:
        try:
            return self._look(str(run["run_id"]))
        except Unreachable:
            # The stream decides how long a restart may take; it ends with its own failure.
            return run

    def _read(self, cursor: int) -> None:
        try:
            with translated():
                for event in self._client.sdk.sessions.stream(
                    self._session_id, cursor=cursor, opened=self._watching.set
                ):
                    self._events.put(event)
        except Failure as failure:
            self._events.put(failure)

    def _stop(self, run_id: str) -> JsonObject:
        run = self._look(run_id)
        if run.get("status") == "queued":
            # Interrupting the session would stop the run before ours.
            return self._client.call_object("POST", "runs", run_id, "cancel")
        self._client.call("POST", "sessions", self._session_id, "interrupt")
        return self._look(run_id)

    def _answer(self, run: JsonObject) -> bool:
        """Ask for what the run waits for; False when all of that was answered here already."""
        approvals = [request for request in _requests(run, "pending_approvals") if self._is_open(request)]
        questions = [request for request in _requests(run, "pending_questions") if self._is_open(request)]
        run_id = str(run["run_id"])
        try:
            if approvals:
                resolutions: list[JsonValue] = [self._ask_approval(request) for request in approvals]
                self._send(run_id, "approvals", {"resolutions": resolutions}, approvals)
            for request in questions:
                self.screen.end_line()
                answers: list[JsonValue] = ask_questions(request)
                resolution: JsonObject = {"request_id": request.get("id"), "answers": answers}
                self._send(run_id, "questions", {"resolution": resolution}, [request])
        except EOFError:
            raise _Left from None
        return bool(approvals or questions)

    def _is_open(self, request: JsonObject) -> bool:
        return str(request.get("id")) not in self._settled

    def _ask_approval(self, request: JsonObject) -> JsonObject:
        self.screen.request(request)
        resolution: JsonObject = {"request_id": request.get("id")}
        while True:
            word, _, reason = read_line("allow? [y/n, or n and why] ").strip().partition(" ")
            if word.lower() in ("y", "yes"):
                return {**resolution, "behavior": "allow"}
            if word.lower() in ("n", "no"):
                given: JsonObject = {"reason": reason.strip()} if reason.strip() else {}
                return {**resolution, "behavior": "deny", **given}

    def _send(self, run_id: str, resource: str, body: JsonObject, requests: list[JsonObject]) -> None:
        try:
            self._client.call("POST", "runs", run_id, resource, body=body)
        except HttpFailure as failure:
            self.screen.note(f"not taken: {failure.detail}", "yellow")
            if failure.exit_code != ExitCode.CONFLICT:
                return
            # A conflict: somebody else answered first.
        self._settled.update(str(request.get("id")) for request in requests)


def _run_of(event: Event) -> str | None:
    for holder in (event.data, event.data.get("run"), event.data.get("trace"), event.data.get("output")):
        if isinstance(holder, dict) and isinstance(run_id := holder.get("run_id"), str):
            return run_id
    return None


def _requests(run: JsonObject, name: str) -> list[JsonObject]:
    found = run.get(name)
    return [request for request in found if isinstance(request, dict)] if isinstance(found, list) else []
