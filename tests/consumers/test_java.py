"""Java with the agent's files: PKIX with lists, a server and a client that follow them without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.consumers.asking import Answer, Asker, ask, context_of, load
from tests.consumers.lines import talking
from tests.consumers.members import Member, stale_files
from tests.consumers.pages import block
from tests.consumers.programs import Program, free_port, running
from tests.consumers.upstream import Upstream
from tests.peers.authority import PeerAuthority

pytestmark = pytest.mark.slow
PAGE = "java.md"
LINES = """
import java.net.URI;
import java.nio.file.Path;
import java.util.Scanner;

final class Lines {
    public static void main(String[] arguments) {
        Client client = new Client(new Mesh(Path.of(arguments[0])));
        for (Scanner in = new Scanner(System.in); in.hasNextLine(); ) {
            try {
                System.out.println(client.ask(URI.create(in.nextLine())));
            } catch (Exception error) {
                Throwable cause = error;
                while (cause.getCause() != null) cause = cause.getCause();
                System.out.println(cause.getMessage());
            }
        }
    }
}
"""


@dataclass(frozen=True)
class Served:
    """A server of Java's and its agent."""

    program: Program
    port: int
    member: Member


def compiled(home: Path, port: int) -> list[str]:
    """The page's classes, and one that reads addresses. Returns the words that start a class of them."""
    changes = {"Server": {"/run/handfast/web": f"{home}/web", "8443": str(port)}}
    for name in ("Asking", "Mesh", "Server", "Client"):
        (home / f"{name}.java").write_text(block(PAGE, f"{name}.java", changes.get(name, {})))
    (home / "Lines.java").write_text(LINES)
    javac = shutil.which("javac")
    assert javac is not None, "tests/system-packages.sh all installs it"
    files = [str(home / f"{name}.java") for name in ("Asking", "Mesh", "Server", "Client", "Lines")]
    subprocess.run([javac, "-Xlint:all", "-Werror", "-d", str(home / "classes"), *files], check=True, timeout=100)
    return [str(Path(javac).with_name("java")), "-cp", str(home / "classes")]


async def enrolled(home: Path, peer: PeerAuthority) -> Member:
    return await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")


@contextlib.asynccontextmanager
async def serving(home: Path, peer: PeerAuthority) -> AsyncIterator[Served]:
    port, member = free_port(), await enrolled(home, peer)
    java = await asyncio.to_thread(compiled, home, port)
    async with running([*java, "Server"], home, [port]) as program:
        yield Served(program, port, member)


async def test_rotations_fail_no_request_and_restart_nothing(tmp_path: Path, peer: PeerAuthority) -> None:
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer) as served:
        answer = await asyncio.to_thread(ask, served.port, context_of(client))
        assert answer == Answer(200, b"seen", served.member.serial), served.program.said()
        bare = await asyncio.to_thread(ask, served.port, context_of(None, client.bundle.roots_pem))
        assert bare.status == 0
        async with load(served.port, context_of(client)) as seen:
            for _ in range(5):
                await seen.answer_with(await served.member.rotate(), served.program.said)
        assert served.program.runs
    assert seen.failed == []


async def test_a_revoked_client_is_refused_on_new_and_on_open_connections(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6, C7: in the handshake, and with each request of a connection that is open."""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    async with serving(tmp_path, peer) as served:
        with Asker(served.port, context_of(revoked)) as open_one:
            assert (await asyncio.to_thread(open_one.ask)).good
            peer.authority.revoke(revoked)
            await served.member.listen()
            assert (await asyncio.to_thread(open_one.ask)).status == 403
        assert (await asyncio.to_thread(ask, served.port, context_of(revoked))).status == 0
        assert (await asyncio.to_thread(ask, served.port, context_of(good))).good


HANGS = 'if (exchange.getRequestURI().getPath().equals("/slow")) while (!Thread.interrupted()) java.util.concurrent.locks.LockSupport.park();'


async def test_an_answer_that_does_not_end_is_cut_after_the_longest_time_of_an_answer(
    tmp_path: Path, peer: PeerAuthority
) -> None:
    """C6: the one setting of the JDK's server that bounds what is under way, whoever asked."""
    port, member = free_port(), await enrolled(tmp_path, peer)
    java = await asyncio.to_thread(compiled, tmp_path, port)
    file = tmp_path / "Server.java"
    writing = "exchange.getResponseBody().write(seen);"
    assert writing in file.read_text()
    file.write_text(file.read_text().replace(writing, f"{HANGS} {writing}"))
    javac = [
        str(Path(java[0]).with_name("javac")),
        "-cp",
        f"{tmp_path}/classes",
        "-d",
        f"{tmp_path}/classes",
        str(file),
    ]
    subprocess.run(javac, check=True, timeout=100)
    options = ["-Dsun.net.httpserver.maxRspTime=1"]
    context = context_of(peer.authority.issue("/client"))
    async with running([java[0], *options, *java[1:], "Server"], tmp_path, [port]):
        assert (await asyncio.to_thread(ask, port, context)).serial == member.serial
        assert "IncompleteRead" in (await asyncio.to_thread(ask, port, context, "/slow")).error


async def test_when_its_own_certificate_is_revoked_it_shakes_no_hand(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6"""
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer) as served:
        assert (await asyncio.to_thread(ask, served.port, context)).good
        peer.authority.revoke(served.member.present)
        await served.member.listen()
        assert (await asyncio.to_thread(ask, served.port, context)).status == 0


async def test_a_client_follows_rotations_and_refuses_a_revoked_server(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6, the other direction."""
    member = await enrolled(tmp_path, peer)
    java = await asyncio.to_thread(compiled, tmp_path, free_port())
    url = f"https://localhost:{service.server_port}/"
    with talking([*java, "Lines", str(member.directory)]) as client:
        for _ in range(5):
            assert await client.ask(url) == "seen"
            await member.rotate()
        peer.authority.revoke(service.source.current())
        await member.listen()
        assert "Certificate has been revoked" in await client.ask(url)
    assert len(service.asked) == 5


async def test_an_ended_list_refuses_everybody(tmp_path: Path) -> None:
    """D2: fail closed, as a server and as a client."""
    port, client = free_port(), stale_files(tmp_path / "web")
    java = await asyncio.to_thread(compiled, tmp_path, port)
    async with running([*java, "Server"], tmp_path, [port]):
        assert (await asyncio.to_thread(ask, port, context_of(client))).status == 0
        with talking([*java, "Lines", str(tmp_path / "web")]) as caller:
            said = await caller.ask(f"https://localhost:{port}/")
            assert "Could not determine revocation status" in said
