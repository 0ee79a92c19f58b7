"""One key, one run (sessions-and-runs cases 6 and 7)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kheish.runs.ingress import behaviour
from kheish.runs.models import SubmitRun
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

RUNS = "/v1/sessions/s/runs"


async def test_the_same_request_under_one_key_is_one_run(house: House) -> None:
    await house.session()
    first = await house.post(RUNS, {"content": "hi"}, key="k")
    await house.settled()
    second = await house.post(RUNS, {"content": "hi"}, key=" k ")
    in_body = await house.post(RUNS, {"content": "hi", "idempotency_key": "k"})

    assert {first.status_code, second.status_code, in_body.status_code} == {202}
    assert {reply.json()["run_id"] for reply in (first, second, in_body)} == {"run-1"}
    assert second.json()["status"] == "completed"
    assert await house.run_count() == 1


async def test_another_request_under_the_key_is_a_conflict(house: House) -> None:
    await house.session()
    await house.post(RUNS, {"content": "hi"}, key="k")
    other = await house.post(RUNS, {"content": "ho"}, key="k")

    assert (other.status_code, other.json()["domain"], other.json()["code"]) == (
        409,
        "idempotency",
        "idempotency_conflict",
    )
    assert await house.run_count() == 1


@pytest.mark.parametrize(
    ("header", "body"), [("a", "b"), ("", None), (" ", None), (None, ""), (None, "  "), ("a", ""), ("", "a")]
)
async def test_keys_that_are_blank_or_disagree_are_refused(house: House, header: str | None, body: str | None) -> None:
    await house.session()
    request = {"content": "hi"} if body is None else {"content": "hi", "idempotency_key": body}
    response = await house.post(RUNS, request, key=header)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_idempotency_key")
    assert await house.run_count() == 0


async def test_a_header_key_must_be_ascii(house: House) -> None:
    await house.session()
    headers = [(b"idempotency-key", "schlüssel".encode("latin-1"))]
    response = await house.client.post(RUNS, json={"content": "hi"}, headers=headers)

    assert (response.status_code, response.json()["code"]) == (400, "invalid_idempotency_key")


async def test_ten_posts_at_once_make_one_run(free: House) -> None:
    await free.session()
    replies = await asyncio.gather(*(free.post(RUNS, {"content": "count once"}, key="k") for _ in range(10)))
    await free.settled()

    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["run_id"] for reply in replies}) == 1
    assert await free.run_count() == 1
    assert free.count == ["once"]


async def test_a_key_counts_for_its_session_only(house: House) -> None:
    await house.session("a")
    await house.session("b")
    first = await house.post("/v1/sessions/a/runs", {"content": "hi"}, key="k")
    second = await house.post("/v1/sessions/b/runs", {"content": "hi"}, key="k")

    assert first.json()["run_id"] != second.json()["run_id"]


async def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session()
        first = (await before.post(RUNS, {"content": "hi"}, key="k")).json()
        await before.settled()
    async with opened(tmp_path) as after:
        again = await after.post(RUNS, {"content": "hi"}, key="k")
        other = await after.post(RUNS, {"content": "ho"}, key="k")

        assert again.json()["run_id"] == first["run_id"]
        assert other.status_code == 409
        assert await after.run_count() == 1


async def test_a_refused_request_does_not_use_up_its_key(house: House) -> None:
    await house.session()
    refused = await house.post(RUNS, {"content": "hi", "provider": "nowhere"}, key="k")
    accepted = await house.post(RUNS, {"content": "hi"}, key="k")

    assert (refused.status_code, accepted.status_code) == (400, 202)


async def test_a_field_that_a_request_leaves_out_is_not_part_of_it_and_one_that_it_names_is(house: House) -> None:
    await house.session()
    plain = await house.post(RUNS, {"content": "hi"}, key="k")
    named = await house.post(RUNS, {"content": "hi", "on_restart": "interrupt"}, key="k")
    wrong = await house.post(RUNS, {"content": "hi", "on_in_doubt": "guess"}, key="k")

    assert [answer.status_code for answer in (plain, named, wrong)] == [202, 409, 422]
    # What a release without these fields would have made of the same request.
    older = SubmitRun(content="hi").model_dump(mode="json", exclude={"idempotency_key", "on_restart", "on_in_doubt"})
    assert behaviour(SubmitRun(content="hi")) == older
