"""OpenSSL's programs with the agent's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from handfast.sources import StaticSource
from tests.consumers.asking import ask, context_of, refusal
from tests.consumers.members import Member, stale_files
from tests.consumers.programs import free_port, running
from tests.consumers.scripts import run, script
from tests.consumers.upstream import Upstream, upstream
from tests.peers.authority import PeerAuthority

REQUEST = "GET / HTTP/1.0\r\n\r\n"


def scripts(home: Path, port: int) -> dict[str, Path]:
    here, trusted = {"/run/handfast/web": f"{home}/web"}, {"/run/handfast/trusted.pem": f"{home}/trusted.pem"}
    address = {"localhost:8443": f"localhost:{port}"}
    return {
        name: script(home, "openssl.md", f"{name}.sh", here | trusted | (address if name in ("ask", "serve") else {}))
        for name in ("trusted", "verify", "ask", "serve")
    }


async def enrolled(home: Path, peer: PeerAuthority) -> Member:
    return await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")


async def test_verify_and_s_client_refuse_what_is_revoked(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: from their next start on."""
    member, commands = await enrolled(tmp_path, peer), scripts(tmp_path, service.server_port)
    (tmp_path / "peer.pem").write_bytes(service.source.current().chain_pem)
    await run(commands["trusted"])
    assert (await run(commands["verify"], str(tmp_path / "peer.pem"))).returncode == 0
    assert "seen" in (await run(commands["ask"], words=REQUEST)).stdout
    await member.rotate()
    assert "seen" in (await run(commands["ask"], words=REQUEST)).stdout
    asked = len(service.asked)
    peer.authority.revoke(service.source.current())
    await member.listen()
    await run(commands["trusted"])
    for done in (await run(commands["verify"], str(tmp_path / "peer.pem")), await run(commands["ask"], words=REQUEST)):
        assert done.returncode != 0
        assert "certificate revoked" in done.stderr
    assert len(service.asked) == asked


async def test_s_server_knows_what_it_started_with_and_no_more(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6: it is refused by the next start, and only by that."""
    member, port = await enrolled(tmp_path, peer), free_port()
    commands, revoked, good = scripts(tmp_path, port), peer.authority.issue("/client"), peer.authority.issue("/other")
    await run(commands["trusted"])
    async with running(["/bin/sh", commands["serve"]], tmp_path, [port]):
        first = member.serial
        assert (await asyncio.to_thread(ask, port, context_of(revoked))).serial == first
        peer.authority.revoke(revoked)
        await member.listen()
        await member.rotate()
        answer = await asyncio.to_thread(ask, port, context_of(revoked))
        assert (answer.good, answer.serial) == (True, first)
    await run(commands["trusted"])
    async with running(["/bin/sh", commands["serve"]], tmp_path, [port]) as program:
        answer = await asyncio.to_thread(ask, port, context_of(good))
        assert (answer.good, answer.serial) == (True, member.serial), program.said()
        assert "CERTIFICATE_REVOKED" in await asyncio.to_thread(refusal, port, context_of(revoked))


@pytest.mark.parametrize("present", [True, False])
async def test_without_a_list_of_today_nobody_is_good(tmp_path: Path, present: bool) -> None:
    """D2, D6: fail closed."""
    client = stale_files(tmp_path / "web")
    with upstream(StaticSource(client)) as service:
        commands = scripts(tmp_path, service.server_port)
        await run(commands["trusted"])
        if not present:
            (tmp_path / "trusted.pem").write_bytes(client.bundle.roots_pem)
        done = await run(commands["ask"], words=REQUEST)
    assert done.returncode != 0
    assert ("CRL has expired" if present else "unable to get certificate CRL") in done.stderr
