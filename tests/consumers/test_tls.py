"""uvicorn and asyncio through `handfast.tls` with the agent's files, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.consumers.asking import Answer, Asker, ask, context_of, load, resumes
from tests.consumers.lines import talking
from tests.consumers.members import Member
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.consumers.upstream import Upstream
from tests.peers.authority import PeerAuthority

PAGE = "tls.md"


@dataclass(frozen=True)
class Served:
    """uvicorn and its agent."""

    program: Program
    port: int
    member: Member


@contextlib.asynccontextmanager
async def serving(home: Path, peer: PeerAuthority) -> AsyncIterator[Served]:
    port = free_port()
    member = await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")
    (home / "web.py").write_text(block(PAGE, "web.py", {"8443": str(port)}))
    where = {"HANDFAST_CREDENTIALS_DIR": str(member.directory)}
    async with running([sys.executable, home / "web.py"], home, [port], environment=where) as program:
        yield Served(program, port, member)


async def test_rotations_fail_no_request_and_restart_nothing(tmp_path: Path, peer: PeerAuthority) -> None:
    """C7: nor is a session resumed."""
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer) as served:
        answer = await asyncio.to_thread(ask, served.port, context)
        assert answer == Answer(200, b"seen", served.member.serial), served.program.said()
        assert not await asyncio.to_thread(resumes, served.port, context)
        async with load(served.port, context) as seen:
            for _ in range(3):
                await seen.answer_with(await served.member.rotate(), served.program.said)
        assert served.program.runs
    assert seen.failed == []


async def test_a_revoked_client_is_refused_on_new_and_on_open_connections(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6"""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    async with serving(tmp_path, peer) as served:
        with Asker(served.port, context_of(revoked)) as open_one:
            assert (await asyncio.to_thread(open_one.ask)).good
            peer.authority.revoke(revoked)
            await served.member.listen()
            await eventually(lambda: not open_one.ask().good, served.program.said)
        assert (await asyncio.to_thread(ask, served.port, context_of(revoked))).status == 0
        assert (await asyncio.to_thread(ask, served.port, context_of(good))).good


async def test_a_client_follows_rotations_and_refuses_a_revoked_server(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6, the other direction."""
    member = await Member.enrol(tmp_path, peer, f"identity: spiffe://prod.example/web\ndirectory: {tmp_path}/web")
    (tmp_path / "call.py").write_text(block(PAGE, "call.py", {"8443": str(service.server_port)}))
    where = {"HANDFAST_CREDENTIALS_DIR": str(member.directory)}
    with talking([sys.executable, str(tmp_path / "call.py")], environment=where) as client:
        for _ in range(3):
            assert await client.ask() == "HTTP/1.1 200 OK"
            await member.rotate()
        peer.authority.revoke(service.source.current())
        await member.listen()
        said = await client.ask()
        while said == "HTTP/1.1 200 OK":  # the library looks five times a second
            said = await client.ask()
        asked = len(service.asked)
        assert "REVOKED" in said
        assert "REVOKED" in await client.ask()
    assert len(service.asked) == asked
