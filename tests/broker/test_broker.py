"""Leases, revocations and scopes without a daemon."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.auth.broker import Broker, CredentialRevoked, Revocations, RouteBlocked, slot_of
from kheish.auth.credential_scope import CredentialScope, normalised
from kheish.core.problems import BadRequest
from tests.engine.world import FakeClock

EVERYTHING = CredentialScope()
NAMES = st.sampled_from(["a", "b", "c", "*"])


class Vault:
    """When each slot was written."""

    def __init__(self, **written: int) -> None:
        self.written = written

    def __call__(self, slot_id: str) -> int | None:
        return self.written.get(slot_id)


def broker(clock: FakeClock, vault: Vault) -> Broker:
    return Broker(clock=clock, written_at=vault)


def test_a_lease_is_used_again_until_half_of_it_is_over_and_then_replaced() -> None:
    clock = FakeClock()
    lending = broker(clock, Vault(key=1))
    first = lending.lend("session:s", EVERYTHING, "main", "key")
    clock.value += 29_999
    again = lending.lend("session:s", EVERYTHING, "main", "key")
    clock.value += 1
    later = lending.lend("session:s", EVERYTHING, "main", "key")

    assert again is first
    assert later.lease_id != first.lease_id
    assert later.grant_id == first.grant_id
    assert {lease.lease_id for lease in lending.active_leases("session:s")} == {first.lease_id, later.lease_id}

    clock.value += 30_000
    assert lending.active_leases("session:s") == [later]
    assert lending.find(first.lease_id) is None


def test_ids_are_43_characters_of_base64url() -> None:
    lease = broker(FakeClock(), Vault(key=1)).lend("session:s", EVERYTHING, "main", "key")

    for identifier in (lease.lease_id, lease.grant_id):
        assert len(identifier) == 43
        assert identifier.replace("-", "").replace("_", "").isalnum()


def test_an_expired_lease_does_not_let_a_request_out() -> None:
    clock = FakeClock()
    lending = broker(clock, Vault(key=1))
    lease = lending.lend("session:s", EVERYTHING, "main", "key")
    clock.value += 60_000

    with pytest.raises(CredentialRevoked):
        lending.require(lease.lease_id)


def test_a_slot_written_in_the_millisecond_of_its_revocation_lends_again() -> None:
    clock, vault = FakeClock(), Vault(key=1)
    lending = broker(clock, vault)
    old = lending.lend("session:s", EVERYTHING, "main", "key")
    revoked_at = lending.revoke_slot("key")
    with pytest.raises(CredentialRevoked, match="secrets set key"):
        lending.lend("session:s", EVERYTHING, "main", "key")

    vault.written["key"] = revoked_at + 1
    new = lending.lend("session:s", EVERYTHING, "main", "key")

    assert lending.active(new)
    assert lending.revoked(old)
    with pytest.raises(CredentialRevoked):
        lending.require(old.lease_id)


def test_rotating_or_deleting_a_secret_ends_its_leases_without_anybody_telling_the_broker() -> None:
    clock, vault = FakeClock(), Vault(key=1, other=1)
    lending = broker(clock, vault)
    rotated = lending.lend("session:s", EVERYTHING, "main", "key")
    deleted = lending.lend("session:s", EVERYTHING, "more", "other")
    vault.written["key"] = clock.value
    del vault.written["other"]

    assert lending.revoked(rotated)
    assert lending.revoked(deleted)
    assert lending.active_leases("session:s") == []
    assert lending.active(lending.lend("session:s", EVERYTHING, "main", "key"))


def test_a_revoked_subject_borrows_nothing_and_others_do() -> None:
    lending = broker(FakeClock(), Vault(key=1))
    held = lending.lend("session:s", EVERYTHING, "main", "key")

    assert lending.revoke_subject("session:s") == 1
    assert lending.revoke_subject("session:s") == 2

    with pytest.raises(CredentialRevoked):
        lending.require(held.lease_id)
    with pytest.raises(CredentialRevoked, match="session:s"):
        lending.lend("session:s", EVERYTHING, "main", "key")
    assert lending.active(lending.lend("session:t", EVERYTHING, "main", "key"))


def test_a_revocation_that_could_not_be_kept_is_taken_back() -> None:
    lending = broker(FakeClock(), Vault(key=1))
    lease = lending.lend("session:s", EVERYTHING, "main", "key")
    saved = lending.revocations()
    lending.revoke_subject("session:s")
    lending.revoke_slot("key")
    lending.revoke_lease(lease)

    lending.restore(saved, lease)

    lending.require(lease.lease_id)
    assert lending.lend("session:s", EVERYTHING, "main", "key") == lease


def test_what_the_rows_say_counts_after_a_restart() -> None:
    clock = FakeClock()
    before = broker(clock, Vault(key=1, other=1))
    lease = before.lend("session:s", EVERYTHING, "main", "key")
    known = Revocations(subjects={"session:gone": 1}, slots={"other": clock.value})

    after = Broker(clock=clock, written_at=Vault(key=1, other=1), revocations=known, leases=[lease])

    assert after.lend("session:s", EVERYTHING, "main", "key") == lease
    with pytest.raises(CredentialRevoked):
        after.lend("session:gone", EVERYTHING, "main", "key")
    with pytest.raises(CredentialRevoked):
        after.lend("session:s", EVERYTHING, "more", "other")


def test_a_blocked_route_is_named() -> None:
    scope = CredentialScope.of({"route_allow": ["anthropic"]})

    with pytest.raises(RouteBlocked, match="'openai'"):
        broker(FakeClock(), Vault(key=1)).lend("session:s", scope, "openai", "key")


def test_a_route_without_a_stored_key_has_a_slot_of_its_own() -> None:
    assert slot_of("main", None) == "inline-route:main"
    assert slot_of("main", "openai.prod") == "openai.prod"


@given(allow=st.lists(NAMES), deny=st.lists(NAMES), route=st.sampled_from(["a", "b", "c"]))
def test_deny_beats_allow_and_an_allow_list_excludes_the_rest(allow: list[str], deny: list[str], route: str) -> None:
    scope = CredentialScope.of(normalised({"route_allow": allow, "route_deny": deny}))
    denied = route in deny or "*" in deny
    allowed = not allow or route in allow or "*" in allow

    assert scope.lets_route(route) is (allowed and not denied)


@given(st.dictionaries(st.sampled_from(["route_allow", "mcp_server_deny"]), st.lists(st.text(max_size=3))))
def test_the_stored_form_is_normal_and_says_the_same(lists: dict[str, list[str]]) -> None:
    stored = normalised(lists)

    again = normalised({name: [str(x) for x in entries] for name, entries in (stored or {}).items()})  # type: ignore[union-attr]  # lists of texts
    assert again == stored
    assert stored is None or all(stored.values())


@pytest.mark.parametrize(
    "lists",
    [{"routes": ["a"]}, {"connector_credential_allow": ["slack"]}, {"connector_credential_deny": [":KEY"]}],
)
def test_an_unusable_scope_is_refused_by_name(lists: dict[str, list[str]]) -> None:
    with pytest.raises(BadRequest, match="credential_scope"):
        normalised(lists)
