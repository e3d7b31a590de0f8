"""The rule for lists that no longer come (threats, 2.3), as a table: 4 states, 3 classes, 3 histories, for guard and tunnel alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from handfast.access import in_trust_domain, judge
from handfast.credentials import Credentials
from handfast.errors import Invalid
from handfast.identity import TrustDomain
from handfast.revocation import EMPTY, Freshness, FreshnessPolicy, Revocations
from handfast.rpc.aio_channel import aio_channel
from handfast.rpc.guard import AioGuard
from handfast.sources import StaticSource
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.codec import from_rpc_error
from tests.library.mesh import STREAM, UNARY, aio_server, plain_aio

pytestmark = pytest.mark.timeout(120)
EVERYBODY = in_trust_domain("test.example")
HOUR = timedelta(hours=1)

TABLE = """
state    class    revoked before the gap  revoked in the gap   not revoked
FRESH    policy   REVOKED                 OK                   OK
FRESH    strict   REVOKED                 OK                   OK
FRESH    bounded  REVOKED                 OK                   OK
STALE    policy   REVOKED                 OK                   OK
STALE    strict   REVOKED                 OK                   OK
STALE    bounded  REVOKED                 OK                   OK
EXPIRED  policy   REVOKED                 STALE_REVOCATIONS    STALE_REVOCATIONS
EXPIRED  strict   REVOKED                 STALE_REVOCATIONS    STALE_REVOCATIONS
EXPIRED  bounded  REVOKED                 OK                   OK
UNKNOWN  policy   UNKNOWN_REVOCATIONS     UNKNOWN_REVOCATIONS  UNKNOWN_REVOCATIONS
UNKNOWN  strict   UNKNOWN_REVOCATIONS     UNKNOWN_REVOCATIONS  UNKNOWN_REVOCATIONS
UNKNOWN  bounded  UNKNOWN_REVOCATIONS     UNKNOWN_REVOCATIONS  UNKNOWN_REVOCATIONS
"""
"""What a new connection is told. `policy`: the CA, its operators and calls of its services, with a bounded policy given to them in
vain. `strict`: everybody else, by default. `bounded`: everybody else where that was asked for. `revoked in the gap`: after the last
list that is known was made.
"""
HISTORIES = ("before", "gap", "never")
ROWS = [
    (state, kind, history, told)
    for state, kind, *cells in (line.split() for line in TABLE.strip().splitlines()[1:])
    for history, told in zip(HISTORIES, cells, strict=True)
]
AGES = {"FRESH": HOUR, "STALE": 3 * HOUR, "EXPIRED": timedelta(hours=12, minutes=30), "UNKNOWN": HOUR}
BOUNDED = FreshnessPolicy.bounded(timedelta(hours=20))
POLICIES = {"policy": BOUNDED, "strict": FreshnessPolicy(), "bounded": BOUNDED}


@dataclass
class Scene:
    """A peer, and what the other side knows about revocations at its own time."""

    authority: TestAuthority
    clock: ManualClock
    peer: StaticSource
    judging: StaticSource
    freshness: FreshnessPolicy


def scene(state: str, kind: str, history: str) -> Scene:
    authority = TestAuthority(clock=ManualClock(), list_validity=12 * HOUR)
    name = "/handfast/operator/admin" if kind == "policy" else "/peer"
    peer, own = (authority.issue(path, lifetime=24 * HOUR) for path in (name, "/own"))
    if history == "before":
        authority.revoke(peer)
    known = EMPTY if state == "UNKNOWN" else authority.revocations
    if history == "gap":
        authority.revoke(peer)
    clock = ManualClock(authority.clock.now())
    clock.advance(AGES[state])
    found = known.freshness(peer.leaf.issuer_key_id, clock.now())
    assert found is Freshness[state]
    return Scene(authority, clock, StaticSource(peer), knowing(own, known), POLICIES[kind])


def knowing(own: Credentials, known: Revocations) -> StaticSource:
    return StaticSource(replace(own, revocations=known))


async def told(call: Any) -> str:
    try:
        await call(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return "OK"


def test_the_table_has_36_rows() -> None:
    """D2, D6: nothing is left to chance."""
    assert len({row[:3] for row in ROWS}) == len(ROWS) == 36


@pytest.mark.parametrize(("state", "kind", "history", "expected"), ROWS)
async def test_a_guard_tells_a_caller_what_the_table_says(state: str, kind: str, history: str, expected: str) -> None:
    """D2, D6, C6: a new call on a new connection."""
    at = scene(state, kind, history)
    guard = AioGuard(at.judging, EVERYBODY, clock=at.clock, freshness=at.freshness)
    async with aio_server(at.judging, guard) as (target, _), plain_aio(target, at.peer.current()) as channel:
        assert await told(channel.unary_unary(UNARY)) == expected


@pytest.mark.parametrize(("state", "kind", "history", "expected"), ROWS)
async def test_a_tunnel_tells_of_a_server_what_the_table_says(
    state: str, kind: str, history: str, expected: str
) -> None:
    """D2, D6, C6: the other direction."""
    at = scene(state, kind, history)
    async with tunnelled(at) as call:
        assert await told(call) == expected


@asynccontextmanager
async def tunnelled(at: Scene) -> AsyncIterator[Any]:
    """A call through a tunnel to the peer, which lets everybody in."""
    welcoming = StaticSource(replace(at.peer.current(), revocations=at.authority.revocations))
    server = at.peer.current().spiffe_id
    async with (
        aio_server(welcoming, AioGuard(welcoming, EVERYBODY)) as (target, _),
        aio_channel(at.judging, target, server=server, clock=at.clock, freshness=at.freshness) as channel,
    ):
        yield channel.unary_unary(UNARY)


@pytest.mark.parametrize("direction", ["guard", "tunnel"])
async def test_a_bounded_grace_ends_to_the_second_and_never_after_the_certificate(direction: str) -> None:
    """D2: ``now < min(peer.notAfter, thisUpdate + max_stale)``."""
    at = scene("EXPIRED", "bounded", "never")
    known = at.judging.current().revocations
    peer = at.peer.current().leaf
    made_at = known.lists[peer.issuer_key_id].this_update
    for policy, end in (
        (FreshnessPolicy.bounded(timedelta(hours=13)), made_at + timedelta(hours=13)),
        (FreshnessPolicy.bounded(timedelta(days=365)), peer.validity.not_after),
    ):
        at.freshness = policy
        for before_end, expected in ((timedelta(seconds=1), "OK"), (timedelta(), "STALE_REVOCATIONS")):
            at.clock = ManualClock(end - before_end)
            async with asked(at, direction) as call:
                assert await told(call) == expected


async def test_a_connection_that_was_judged_good_is_told_each_state_in_its_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """D2, C6: what a guard remembers of a peer outlives neither the freshness of the list nor the bound of the grace."""
    at = scene("FRESH", "bounded", "never")
    peer = at.peer.current().leaf
    made_at = at.judging.current().revocations.lists[peer.issuer_key_id].this_update
    at.freshness = FreshnessPolicy.bounded(13 * HOUR)
    second, reasons = timedelta(seconds=1), []
    async with asked(at, "guard") as call:
        for moment in (2 * HOUR, 2 * HOUR + second, 12 * HOUR - second, 12 * HOUR, 13 * HOUR - second, 13 * HOUR):
            at.clock.advance(made_at + moment - at.clock.now())
            caplog.clear()
            reasons.append((await told(call), [record.message.rpartition(" ")[2] for record in caplog.records]))
    assert reasons == [
        ("OK", []),
        ("OK", ["(STALE)"]),
        ("OK", []),
        ("OK", ["(GRACE)"]),
        ("OK", []),
        ("STALE_REVOCATIONS", []),
    ]


@asynccontextmanager
async def asked(at: Scene, direction: str) -> AsyncIterator[Any]:
    if direction == "tunnel":
        async with tunnelled(at) as call:
            yield call
        return
    # The judging side's own certificate outlives the peer's, so that only the peer is in question.
    own = at.authority.issue("/own", lifetime=48 * HOUR)
    source = knowing(own, at.judging.current().revocations)
    guard = AioGuard(source, EVERYBODY, clock=at.clock, freshness=at.freshness)
    async with aio_server(source, guard) as (target, _), plain_aio(target, at.peer.current()) as channel:
        yield channel.unary_unary(UNARY)


def test_the_grace_is_never_longer_than_the_life_of_the_peer_s_certificate() -> None:
    """D2: a leaf of an hour is not accepted on a list of yesterday, whatever was asked for."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock, list_validity=timedelta(hours=1))
    known = authority.revocations
    clock.advance(timedelta(minutes=100))
    short = authority.issue("/peer", lifetime=HOUR)
    found = judged(short, known, clock, FreshnessPolicy.bounded(timedelta(days=30)))
    assert found == "STALE_REVOCATIONS"
    long = authority.issue("/peer", lifetime=5 * HOUR)
    assert judged(long, known, clock, FreshnessPolicy.bounded(timedelta(days=30))) == "GRACE"


def judged(
    peer: Credentials, known: Revocations, clock: ManualClock, freshness: FreshnessPolicy, method: str = UNARY
) -> str:
    return judge(
        peer.leaf,
        method,
        policy=EVERYBODY,
        trust_domain=TrustDomain("test.example"),
        revocations=known,
        now=clock.now(),
        freshness=freshness,
    ).reason


def test_calls_that_issue_revoke_and_decide_are_judged_strictly_whoever_calls() -> None:
    """D2: bounded grace is for the data path."""
    at = scene("EXPIRED", "bounded", "never")
    peer, known = at.peer.current(), at.judging.current().revocations
    assert judged(peer, known, at.clock, BOUNDED) == "GRACE"
    for method in ("/handfast.v1.Authority/Renew", "/handfast.v1.Registry/Revoke"):
        assert judged(peer, known, at.clock, BOUNDED, method) == "STALE_REVOCATIONS"


async def test_streams_that_were_let_in_stay_while_the_list_is_expired_and_end_with_the_certificate() -> None:
    """D2, C6: existing streams until notAfter, also where new calls are refused."""
    at = scene("STALE", "strict", "never")
    own = at.authority.issue("/own", lifetime=48 * HOUR)
    source = knowing(own, at.judging.current().revocations)
    guard = AioGuard(source, EVERYBODY, clock=at.clock)
    async with aio_server(source, guard) as (target, _), plain_aio(target, at.peer.current()) as channel:
        stream = channel.unary_stream(STREAM)(b"")
        await stream.read()
        at.clock.advance(10 * HOUR)
        assert await told(channel.unary_unary(UNARY)) == "STALE_REVOCATIONS"
        guard.sweep()
        assert not stream.done()
        at.clock.advance(12 * HOUR)
        guard.sweep()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert from_rpc_error(ended.value).reason == "EXPIRED"


@pytest.mark.parametrize(
    "made", [lambda: FreshnessPolicy.bounded(timedelta()), lambda: FreshnessPolicy(refresh=timedelta(seconds=-1))]
)
def test_a_policy_without_a_bound_cannot_be_made(made: Any) -> None:
    """D2."""
    with pytest.raises(Invalid) as refused:
        made()
    assert refused.value.reason == "INVALID_FRESHNESS"


async def test_a_grace_is_alarmed_in_both_directions(caplog: pytest.LogCaptureFixture) -> None:
    """D2: never in silence."""
    for direction in ("guard", "tunnel"):
        caplog.clear()
        async with asked(scene("EXPIRED", "bounded", "never"), direction) as call:
            assert await told(call) == "OK"
        alarms = [record for record in caplog.records if record.message.endswith("(GRACE)")]
        assert [record.levelname for record in alarms] == ["ERROR"]


def test_a_short_list_goes_stale_at_half_of_its_life() -> None:
    """D2: who makes lists of twenty minutes makes one every five."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock, list_validity=timedelta(minutes=20))
    known, issuer = authority.revocations, authority.issue("/peer").leaf.issuer_key_id
    made_at = known.lists[issuer].this_update
    assert known.freshness(issuer, made_at + timedelta(minutes=10)) is Freshness.FRESH
    assert known.freshness(issuer, made_at + timedelta(minutes=10, seconds=1)) is Freshness.STALE
    assert known.freshness(issuer, made_at + timedelta(minutes=20)) is Freshness.EXPIRED
