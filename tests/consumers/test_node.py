"""Node with the agent's files: a server and a client that follow them without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.consumers.asking import Answer, Asker, ask, context_of, load, resumes
from tests.consumers.lines import talking
from tests.consumers.members import Member, stale_files
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.consumers.upstream import Upstream
from tests.peers.authority import PeerAuthority

PAGE = "node.md"
SLOWLY = """
function serve(request, response) {
  if (request.url !== "/slow") return void response.end("seen");
  response.writeHead(200);
  response.write("se");
  console.log("half of an answer");
}
"""
LINES = """
import { createInterface } from "node:readline";
import { ask } from "./client.mjs";
for await (const url of createInterface({ input: process.stdin })) {
  console.log(await ask(url).catch((error) => error.code));
}
process.exit(0);
"""


def node() -> str:
    found = shutil.which("node")
    assert found is not None, "tests/system-packages.sh installs it"
    return found


def write_modules(home: Path, port: int) -> None:
    """The page's own, with an answer beside that does not end, and a client that reads addresses."""
    (home / "credentials.mjs").write_text(block(PAGE, "credentials.mjs", {"/run/handfast/web": f"{home}/web"}))
    body = 'function serve(_request, response) {\n  response.end("seen");\n}\n'
    changes = {"8443": f'{port}, "127.0.0.1"', body: SLOWLY, "10_000": "1_000"}
    (home / "server.mjs").write_text(block(PAGE, "server.mjs", changes))
    (home / "client.mjs").write_text(block(PAGE, "client.mjs", {}))
    (home / "lines.mjs").write_text(LINES)


@dataclass(frozen=True)
class Served:
    """A server of Node's and its agent."""

    program: Program
    port: int
    member: Member


@contextlib.asynccontextmanager
async def serving(home: Path, peer: PeerAuthority) -> AsyncIterator[Served]:
    port = free_port()
    member = await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")
    write_modules(home, port)
    async with running([node(), home / "server.mjs"], home, [port]) as program:
        yield Served(program, port, member)


async def test_a_client_with_a_certificate_is_served_and_no_session_resumed(
    tmp_path: Path, peer: PeerAuthority
) -> None:
    """C7"""
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer) as served:
        answer = await asyncio.to_thread(ask, served.port, context_of(client))
        assert answer == Answer(200, b"seen", served.member.serial), served.program.said()
        bare = await asyncio.to_thread(ask, served.port, context_of(None, client.bundle.roots_pem))
        assert bare.status == 0
        assert not await asyncio.to_thread(resumes, served.port, context_of(client))


async def test_rotations_fail_no_request_and_restart_nothing(tmp_path: Path, peer: PeerAuthority) -> None:
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer) as served, load(served.port, context) as seen:
        for _ in range(5):
            await seen.answer_with(await served.member.rotate(), served.program.said)
        assert served.program.runs
    assert seen.failed == []


async def test_a_revoked_client_is_refused_and_its_open_connections_end(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6: an idle connection at once, an answer that does not end after the delay of the page."""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    async with serving(tmp_path, peer) as served:
        slow = asyncio.create_task(asyncio.to_thread(ask, served.port, context_of(revoked), "/slow"))
        await eventually(lambda: "half of an answer" in served.program.said())
        with Asker(served.port, context_of(revoked)) as idle:
            assert (await asyncio.to_thread(idle.ask)).good
            peer.authority.revoke(revoked)
            await served.member.listen()
            assert await asyncio.to_thread(idle.wait_for_the_end)
        assert (await asyncio.to_thread(ask, served.port, context_of(revoked))).status == 0
        assert (await asyncio.to_thread(ask, served.port, context_of(good))).good
        assert (await slow).status == 0


async def test_when_its_own_certificate_is_revoked_it_exits(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6"""
    async with serving(tmp_path, peer) as served:
        peer.authority.revoke(served.member.present)
        await served.member.listen()
        await eventually(lambda: not served.program.runs, served.program.said)
        assert served.program.process.returncode == 1


async def test_a_client_follows_rotations_and_refuses_a_revoked_server(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6, the other direction."""
    member = await Member.enrol(tmp_path, peer, f"identity: spiffe://prod.example/web\ndirectory: {tmp_path}/web")
    write_modules(tmp_path, free_port())
    url = f"https://localhost:{service.server_port}/"
    with talking([node(), str(tmp_path / "lines.mjs")]) as client:
        for _ in range(5):
            assert await client.ask(url) == "seen"
            await member.rotate()
        peer.authority.revoke(service.source.current())
        await member.listen()
        said = [await client.ask(url)]
        while said[-1] == "seen":  # the watch's event is on its way
            said.append(await client.ask(url))
        asked = len(service.asked)
        assert [said[-1], await client.ask(url)] == ["CERT_REVOKED", "CERT_REVOKED"]
        assert len(service.asked) == asked


async def test_a_client_without_a_certificate_of_its_own_calls_nobody(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6"""
    member = await Member.enrol(tmp_path, peer, f"identity: spiffe://prod.example/web\ndirectory: {tmp_path}/web")
    write_modules(tmp_path, free_port())
    url = f"https://localhost:{service.server_port}/"
    with talking([node(), str(tmp_path / "lines.mjs")]) as client:
        assert await client.ask(url) == "seen"
        peer.authority.revoke(member.present)
        await member.listen()
        said = [await client.ask(url)]
        while said[-1] == "seen":  # the watch's event is on its way
            said.append(await client.ask(url))
        assert said[-1] == "NO_CREDENTIALS"


async def test_an_ended_list_refuses_everybody(tmp_path: Path) -> None:
    """D2: fail closed."""
    port, client = free_port(), stale_files(tmp_path / "web")
    write_modules(tmp_path, port)
    async with running([node(), tmp_path / "server.mjs"], tmp_path, [port]):
        assert (await asyncio.to_thread(ask, port, context_of(client))).status == 0
        with talking([node(), str(tmp_path / "lines.mjs")]) as caller:
            assert await caller.ask(f"https://localhost:{port}/") == "CRL_HAS_EXPIRED"
