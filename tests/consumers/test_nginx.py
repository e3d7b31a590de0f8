"""nginx with the agent's files: as a server of clients with certificates, and as the client of a service."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.agent.running import RunningAgent, configuration
from tests.consumers.asking import Answer, Asker, ask, context_of, load, resumes
from tests.consumers.members import TRUST_DOMAIN, Member, stale_files
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.consumers.upstream import Upstream
from tests.peers.authority import PeerAuthority

PAGE = "nginx.md"
MAIN = """
pid nginx.pid;
error_log stderr info;
daemon off;
worker_processes 2;
{main}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    include web.conf;
}}
"""


@dataclass(frozen=True)
class Served:
    """nginx, its agent, and the service behind it."""

    program: Program
    port: int
    member: Member
    service: Upstream

    def said(self) -> str:
        return self.program.said()

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.program.pid).children()}

    def accepting(self) -> set[int]:
        """Workers that were not told to end: nginx says so in their titles."""
        return {child.pid for child in psutil.Process(self.program.pid).children() if not _is_ending(child)}

    async def hear_of_revocation(self) -> None:
        """The agent is told and its hook reloads."""
        await self.reloaded_by(self.member.listen())

    async def reloaded_by(self, cause: Coroutine[Any, Any, object]) -> None:
        """Returns when the last worker of before has ended."""
        before = self.workers()
        await cause
        await eventually(lambda: self.workers().isdisjoint(before), self.said)


def _is_ending(worker: psutil.Process) -> bool:
    try:
        return "shutting down" in " ".join(worker.cmdline())
    except psutil.NoSuchProcess:
        return True


def configure(home: Path, directory: Path, port: int, behind: int, shutdown: str = "10s") -> Path:
    changes = {"/run/handfast/web": str(directory), "listen 8443": f"listen 127.0.0.1:{port}"}
    service = {"localhost:9443": f"127.0.0.1:{behind}"}
    (home / "web.conf").write_text(block(PAGE, "/etc/nginx/conf.d/web.conf", changes | service))
    main = MAIN.format(main=block(PAGE, "/etc/nginx/nginx.conf", {"10s": shutdown}))
    (home / "nginx.conf").write_text(main)
    return home / "nginx.conf"


def command(home: Path) -> list[str]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert nginx is not None, "tests/system-packages.sh installs it"
    return [nginx, "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")]


def settings(home: Path) -> str:
    """The page's part of ``agent.yaml``, beside its hook."""
    script = home / "nginx.sh"
    changes = {"nginx -c /etc/nginx/nginx.conf": shlex.join(command(home)), "/run/nginx.pid": f"{home}/nginx.pid"}
    script.write_text(block(PAGE, "/etc/handfast/nginx.sh", changes))
    return block(PAGE, "agent.yaml", {"/run/handfast/web": f"{home}/web", "/etc/handfast/nginx.sh": str(script)})


@contextlib.asynccontextmanager
async def serving(home: Path, peer: PeerAuthority, service: Upstream, shutdown: str = "10s") -> AsyncIterator[Served]:
    port = free_port()
    member = await Member.enrol(home, peer, settings(home))
    configure(home, member.directory, port, service.server_port, shutdown)
    async with running(command(home), home, [port]) as program:
        yield Served(program, port, member, service)


async def test_a_client_with_a_certificate_is_served_through_and_one_without_is_not(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service) as nginx:
        answer = await asyncio.to_thread(ask, nginx.port, context_of(client))
        assert answer == Answer(200, b"seen", nginx.member.serial), nginx.said()
        bare = await asyncio.to_thread(ask, nginx.port, context_of(None, client.bundle.roots_pem))
        assert bare.status == 400
        assert service.asked == ["/"]


@pytest.mark.parametrize("tickets", ["off", "on"])
async def test_sessions_are_not_resumed_unless_somebody_allows_them(
    tmp_path: Path, peer: PeerAuthority, service: Upstream, tickets: str
) -> None:
    """C7: `on` is the control, which shows that a caller of these tests would resume."""
    client = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service) as nginx:
        file = tmp_path / "web.conf"
        file.write_text(re.sub(r"(ssl_session_tickets +)off", rf"\g<1>{tickets}", file.read_text()))
        await nginx.reloaded_by(nginx.member.rotate())
        assert await asyncio.to_thread(resumes, nginx.port, context_of(client)) == (tickets == "on")


async def test_rotations_fail_no_request_and_restart_nothing(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer, service) as nginx, load(nginx.port, context) as seen:
        for _ in range(3):
            serial = await nginx.member.rotate()
            await seen.answer_with(serial, nginx.said)
        assert nginx.program.runs
    assert seen.failed == []
    assert len(seen.serials) >= 3


async def test_a_revoked_client_is_refused_and_its_open_connection_ends(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: by the reload; the idle connection of the worker that is replaced is closed at once."""
    revoked, good = peer.authority.issue("/client"), peer.authority.issue("/other")
    async with serving(tmp_path, peer, service) as nginx:
        with Asker(nginx.port, context_of(revoked)) as open_one:
            assert (await asyncio.to_thread(open_one.ask)).good
            peer.authority.revoke(revoked)
            assert (await asyncio.to_thread(open_one.ask)).good, "nothing was told yet"
            await nginx.hear_of_revocation()
            assert (await asyncio.to_thread(open_one.ask)).status == 0
        asked = len(service.asked)
        assert [(await asyncio.to_thread(ask, nginx.port, context_of(revoked))).status for _ in range(5)] == [400] * 5
        assert len(service.asked) == asked
        assert (await asyncio.to_thread(ask, nginx.port, context_of(good))).good


async def test_an_agent_in_a_process_of_its_own_does_all_that_by_the_push_of_the_ca(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: the other tests tell the agent when to listen; here nobody does."""
    client, port = peer.authority.issue("/client"), free_port()
    revoked = context_of(client)
    configure(tmp_path, tmp_path / "web", port, service.server_port)
    shown = {"trust_domain": TRUST_DOMAIN, "dns_names": ["localhost"], **yaml.safe_load(settings(tmp_path))}
    with RunningAgent(configuration(tmp_path, peer, **shown)) as agent:
        await eventually(lambda: (tmp_path / "web" / "tls.key").exists() and peer.watchers == 1)
        async with running(command(tmp_path), tmp_path, [port]) as program:
            first = await asyncio.to_thread(ask, port, revoked)
            assert first.good, program.said()
            agent.tell(signal.SIGUSR1)
            await eventually(lambda: ask(port, revoked).serial not in (0, first.serial), program.said)
            peer.authority.revoke(client)
            peer.push()
            await eventually(lambda: ask(port, revoked).status == 400, program.said)
            assert program.runs


async def test_a_reload_that_failed_is_repeated_until_the_list_bites(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: nginx cannot be told when the list comes; nothing else comes after it."""
    client, port = peer.authority.issue("/client"), free_port()
    revoked = context_of(client)
    configure(tmp_path, tmp_path / "web", port, service.server_port)
    shown = {"trust_domain": TRUST_DOMAIN, "dns_names": ["localhost"], **yaml.safe_load(settings(tmp_path))}
    pid, away = tmp_path / "nginx.pid", tmp_path / "away"
    with RunningAgent(configuration(tmp_path, peer, **shown)) as agent:
        await eventually(lambda: (tmp_path / "web" / "tls.key").exists() and peer.watchers == 1)
        async with running(command(tmp_path), tmp_path, [port]) as program:
            first = await asyncio.to_thread(ask, port, revoked)
            agent.tell(signal.SIGUSR1)
            await eventually(lambda: ask(port, revoked).serial not in (0, first.serial), program.said)
            pid.rename(away)
            failed = _failed(agent)
            list_before = (tmp_path / "web" / "crl.pem").read_bytes()
            peer.authority.revoke(client)
            peer.push()
            await eventually(lambda: (tmp_path / "web" / "crl.pem").read_bytes() != list_before, agent.log.read_text)
            await eventually(lambda: _failed(agent) > failed, agent.log.read_text)
            assert (await asyncio.to_thread(ask, port, revoked)).good, "nobody could tell it yet"
            away.rename(pid)
            await eventually(lambda: ask(port, revoked).status == 400, program.said)
            assert program.runs


def _failed(agent: RunningAgent) -> int:
    return sum(message.startswith("hook failed") for message in agent.messages)


async def test_an_answer_under_way_is_finished_and_no_other_follows_over_its_connection(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: by the reload."""
    revoked = peer.authority.issue("/client")
    # Only the end of the answer may end it here, however slow the machine is.
    async with serving(tmp_path, peer, service, shutdown="120s") as nginx:
        with Asker(nginx.port, context_of(revoked)) as open_one:
            asking = asyncio.create_task(asyncio.to_thread(open_one.ask, "/slow"))
            await eventually(lambda: "/slow" in service.asked, nginx.said)
            before = nginx.accepting()
            peer.authority.revoke(revoked)
            await nginx.member.listen()
            await eventually(lambda: nginx.accepting().isdisjoint(before), nginx.said)
            assert not (await asyncio.to_thread(ask, nginx.port, context_of(revoked))).good
            service.release.set()
            assert (await asking).body == b"seen"
            assert (await asyncio.to_thread(open_one.ask)).status == 0


async def test_an_answer_that_does_not_end_is_cut_after_the_shutdown_timeout(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: `worker_shutdown_timeout` bounds what a reload leaves."""
    revoked = peer.authority.issue("/client")
    async with serving(tmp_path, peer, service, shutdown="1s") as nginx:
        running_one = asyncio.create_task(asyncio.to_thread(ask, nginx.port, context_of(revoked), "/slow"))
        await eventually(lambda: "/slow" in service.asked, nginx.said)
        peer.authority.revoke(revoked)
        await nginx.member.listen()
        assert (await running_one).status == 0
        assert not service.release.is_set()


async def test_a_revoked_service_behind_gets_no_request(tmp_path: Path, peer: PeerAuthority, service: Upstream) -> None:
    """C6, the other direction: nginx is the client."""
    context = context_of(peer.authority.issue("/client"))
    async with serving(tmp_path, peer, service) as nginx:
        assert (await asyncio.to_thread(ask, nginx.port, context)).good
        peer.authority.revoke(service.source.current())
        await nginx.hear_of_revocation()
        asked = len(service.asked)
        assert (await asyncio.to_thread(ask, nginx.port, context)).status == 502
        assert len(service.asked) == asked
        assert "certificate revoked" in nginx.said()


async def test_when_its_own_certificate_is_revoked_it_is_stopped(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: a reload without a key would leave the old one in use."""
    async with serving(tmp_path, peer, service) as nginx:
        peer.authority.revoke(nginx.member.present)
        await nginx.member.listen()
        assert not (nginx.member.directory / "tls.key").exists()
        await eventually(lambda: not nginx.program.runs, nginx.said)


async def test_an_ended_list_refuses_everybody(tmp_path: Path, service: Upstream) -> None:
    """D2: fail closed."""
    port = free_port()
    client = stale_files(tmp_path / "web")
    configure(tmp_path, tmp_path / "web", port, service.server_port)
    async with running(command(tmp_path), tmp_path, [port]) as program:
        assert (await asyncio.to_thread(ask, port, context_of(client))).status == 400
        assert "CRL has expired" in program.said()
    assert service.asked == []
