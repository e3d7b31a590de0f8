"""HAProxy with the agent's files, by reloads and by its runtime API, as a server and as a client."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.consumers.asking import Answer, Asker, ask, context_of, load, refusal, resumes
from tests.consumers.members import Member, stale_files
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.consumers.upstream import Upstream
from tests.peers.authority import PeerAuthority

PAGE = "haproxy.md"
RELOAD, LISTS = "/etc/handfast/haproxy.sh", "/etc/handfast/haproxy-lists.sh"
HOOKS = pytest.mark.parametrize("hook", [RELOAD, pytest.param(LISTS, marks=pytest.mark.slow)])
"""Where the second hook ends in what the first does, it is tried less often."""


@dataclass(frozen=True)
class Served:
    """HAProxy and its agent."""

    program: Program
    port: int
    member: Member

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.program.pid).children()}

    async def hear_of_revocation(self) -> None:
        """The agent is told and its hook reloads."""
        await self.reloaded_by(self.member.listen())

    async def reloaded_by(self, cause: Coroutine[Any, Any, object]) -> None:
        """Returns when the worker of before has ended."""
        before = self.workers()
        await cause
        await eventually(lambda: self.workers().isdisjoint(before), self.program.said)


def configure(home: Path, directory: Path, port: int, behind: int, **changes: str) -> Path:
    places = {"/run/handfast/web": str(directory), "/run/haproxy.sock": f"{home}/haproxy.sock"}
    ports = {"bind :8443": f"bind 127.0.0.1:{port}", "localhost:9443": f"127.0.0.1:{behind}"}
    file = home / "haproxy.cfg"
    file.write_text(block(PAGE, "/etc/haproxy/haproxy.cfg", places | ports | changes))
    return file


def command(home: Path) -> list[str]:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert haproxy is not None, "tests/system-packages.sh installs it"
    return [haproxy, "-W", "-f", str(home / "haproxy.cfg"), "-p", str(home / "haproxy.pid"), "-S", str(home / "m.sock")]


@contextlib.asynccontextmanager
async def serving(
    home: Path, peer: PeerAuthority, service: Upstream, hook: str = RELOAD, **changes: str
) -> AsyncIterator[Served]:
    port = free_port()
    scripts = {RELOAD: str(home / "haproxy.sh"), LISTS: str(home / "haproxy-lists.sh")}
    master = {"/run/haproxy.pid": f"{home}/haproxy.pid", "/run/haproxy-master.sock": f"{home}/m.sock"}
    (home / "haproxy.sh").write_text(block(PAGE, RELOAD, master))
    places = {"/run/haproxy.sock": f"{home}/haproxy.sock", "/run/handfast/web": f"{home}/web"}
    more = {"/run/haproxy.loaded": f"{home}/haproxy.loaded", RELOAD: scripts[RELOAD]}
    (home / "haproxy-lists.sh").write_text(block(PAGE, LISTS, places | more))
    settings = block(PAGE, "agent.yaml", {"/run/handfast/web": f"{home}/web", RELOAD: scripts[hook]})
    member = await Member.enrol(home, peer, settings)
    configure(home, member.directory, port, service.server_port, **changes)
    async with running(command(home), home, [port]) as program:
        served = Served(program, port, member)
        if hook == LISTS:
            await served.reloaded_by(member.reload())  # what it last loaded is known from now on
        yield served


async def test_a_client_with_a_certificate_is_served_through_and_one_without_is_not(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service) as haproxy:
        answer = await asyncio.to_thread(ask, haproxy.port, context_of(client))
        assert answer == Answer(200, b"seen", haproxy.member.serial), haproxy.program.said()
        bare = await asyncio.to_thread(ask, haproxy.port, context_of(None, client.bundle.roots_pem))
        assert bare.status == 0
        assert service.asked == ["/"]


@pytest.mark.parametrize("size", ["0", "1000"])
async def test_sessions_are_not_resumed_unless_somebody_allows_them(
    tmp_path: Path, peer: PeerAuthority, service: Upstream, size: str
) -> None:
    """C7: a cache is the control, which shows that a caller of these tests would resume."""
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service, **{"cachesize 0": f"cachesize {size}"}) as haproxy:
        assert await asyncio.to_thread(resumes, haproxy.port, context_of(client)) == (size != "0")


@HOOKS
async def test_rotations_fail_no_request(tmp_path: Path, peer: PeerAuthority, service: Upstream, hook: str) -> None:
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer, service, hook) as haproxy, load(haproxy.port, context) as seen:
        workers = haproxy.workers()
        for _ in range(3):
            await seen.answer_with(await haproxy.member.rotate(), haproxy.program.said)
        assert haproxy.program.runs
        assert haproxy.workers().isdisjoint(workers), "by reloads"
    assert seen.failed == []


async def test_a_revoked_client_is_refused_and_its_open_connection_ends(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: by the reload."""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    async with serving(tmp_path, peer, service) as haproxy:
        with Asker(haproxy.port, context_of(revoked)) as open_one:
            assert (await asyncio.to_thread(open_one.ask)).good
            peer.authority.revoke(revoked)
            assert (await asyncio.to_thread(open_one.ask)).good, "nothing was told yet"
            await haproxy.hear_of_revocation()
            assert (await asyncio.to_thread(open_one.ask)).status == 0
        asked = len(service.asked)
        for _ in range(3):
            assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, haproxy.port, context_of(revoked))
        assert len(service.asked) == asked
        assert (await asyncio.to_thread(ask, haproxy.port, context_of(good))).good


async def test_after_an_answer_under_way_one_more_follows_over_its_connection_and_no_other(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: the limit that the page tells. That one says `Connection: close`."""
    revoked = peer.authority.issue("/client")
    # Only the end of the answer may end it here, however slow the machine is.
    async with serving(tmp_path, peer, service, **{"hard-stop-after 10s": "hard-stop-after 120s"}) as haproxy:
        with Asker(haproxy.port, context_of(revoked)) as open_one:
            asking = asyncio.create_task(asyncio.to_thread(open_one.ask, "/slow"))
            await eventually(lambda: "/slow" in service.asked, haproxy.program.said)
            peer.authority.revoke(revoked)
            await haproxy.member.listen()
            await eventually(lambda: not ask(haproxy.port, context_of(revoked)).good, haproxy.program.said)
            service.release.set()
            assert (await asking).body == b"seen"
            assert (await asyncio.to_thread(open_one.ask)).last
            assert (await asyncio.to_thread(open_one.ask)).status == 0


async def test_an_answer_that_does_not_end_is_cut_by_the_hard_stop(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: `hard-stop-after` bounds what a reload leaves."""
    revoked = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service, **{"hard-stop-after 10s": "hard-stop-after 1s"}) as haproxy:
        asking = asyncio.create_task(asyncio.to_thread(ask, haproxy.port, context_of(revoked), "/slow"))
        await eventually(lambda: "/slow" in service.asked, haproxy.program.said)
        peer.authority.revoke(revoked)
        await haproxy.member.listen()
        assert (await asking).status == 0
        assert not service.release.is_set()


async def test_through_the_runtime_api_new_handshakes_are_refused_and_an_open_connection_goes_on(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: the limit of this way is that only idle time ends a connection."""
    revoked = peer.authority.issue("/client")
    shorter = {"timeout http-keep-alive 60s": "timeout http-keep-alive 5s"}
    async with serving(tmp_path, peer, service, LISTS, **shorter) as haproxy:
        workers = haproxy.workers()
        context = context_of(revoked)
        with Asker(haproxy.port, context) as busy, Asker(haproxy.port, context) as idle:
            assert (await asyncio.to_thread(idle.ask)).good
            async with load(haproxy.port, context, kept=busy) as seen:
                peer.authority.revoke(revoked)
                await haproxy.member.listen()
                assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, haproxy.port, context)
                asked = seen.asked
                await eventually(lambda: seen.asked > asked + 1, haproxy.program.said)
                assert seen.failed == []
            assert await asyncio.to_thread(idle.wait_for_the_end)
        assert haproxy.workers() == workers


@HOOKS
async def test_a_revoked_service_behind_gets_no_request(
    tmp_path: Path, peer: PeerAuthority, service: Upstream, hook: str
) -> None:
    """C6, the other direction: HAProxy is the client."""
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer, service, hook) as haproxy:
        assert (await asyncio.to_thread(ask, haproxy.port, context)).good
        peer.authority.revoke(service.source.current())
        await (haproxy.hear_of_revocation() if hook == RELOAD else haproxy.member.listen())
        asked = len(service.asked)
        assert (await asyncio.to_thread(ask, haproxy.port, context)).status == 503
        assert len(service.asked) == asked


async def test_a_list_that_is_too_long_for_the_runtime_api_is_loaded_by_a_reload(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: nothing that was revoked is left out."""
    revoked = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service, LISTS) as haproxy:
        peer.authority.revoke_all([revoked.leaf.serial, *range(1, 1000)])
        await haproxy.hear_of_revocation()
        assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, haproxy.port, context_of(revoked))


async def test_a_reload_that_fails_is_a_hook_that_fails_until_it_can_succeed(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: HAProxy takes the signal, cannot read its configuration, and goes on with the old list."""
    revoked = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service) as haproxy:
        configuration = (tmp_path / "haproxy.cfg").read_text()
        (tmp_path / "haproxy.cfg").write_text(f"{configuration}\nnonsense\n")
        peer.authority.revoke(revoked)
        await haproxy.member.listen(told=False)
        assert haproxy.member.agent.hooks.failing == ("/bin/sh ended with status 1 (attempt 1)",)
        assert (await asyncio.to_thread(ask, haproxy.port, context_of(revoked))).good, "the limit of a failed reload"
        (tmp_path / "haproxy.cfg").write_text(configuration)
        await haproxy.reloaded_by(haproxy.member.told())
        assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, haproxy.port, context_of(revoked))


async def test_when_its_own_certificate_is_revoked_it_is_stopped(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: a reload without a key would leave the old one in use."""
    async with serving(tmp_path, peer, service) as haproxy:
        peer.authority.revoke(haproxy.member.present)
        await haproxy.member.listen()
        assert not (haproxy.member.directory / "credentials.pem").exists()
        await eventually(lambda: not haproxy.program.runs, haproxy.program.said)


async def test_an_ended_list_refuses_everybody(tmp_path: Path, service: Upstream) -> None:
    """D2: fail closed."""
    port = free_port()
    client = stale_files(tmp_path / "web")
    configure(tmp_path, tmp_path / "web", port, service.server_port)
    async with running(command(tmp_path), tmp_path, [port]):
        assert "CERTIFICATE_EXPIRED" in await asyncio.to_thread(refusal, port, context_of(client))
    assert service.asked == []
