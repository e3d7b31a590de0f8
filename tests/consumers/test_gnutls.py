"""GnuTLS's programs with the agent's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from handfast.sources import StaticSource
from tests.consumers.asking import ask, context_of
from tests.consumers.members import Member, stale_files
from tests.consumers.programs import free_port, running
from tests.consumers.scripts import run, script
from tests.consumers.upstream import Upstream, upstream
from tests.peers.authority import PeerAuthority

REQUEST = "GET / HTTP/1.0\r\n\r\n"


def scripts(home: Path, port: int) -> dict[str, Path]:
    here, trusted = {"/run/handfast/web": f"{home}/web"}, {"/run/handfast/trusted.pem": f"{home}/trusted.pem"}
    address = {"--port 8443": f"--port {port}"}
    return {
        name: script(home, "gnutls.md", f"{name}.sh", here | trusted | (address if name in ("ask", "serve") else {}))
        for name in ("trusted", "verify", "ask", "serve")
    }


async def enrolled(home: Path, peer: PeerAuthority) -> Member:
    return await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")


async def test_certtool_and_gnutls_cli_refuse_what_is_revoked(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: from their next start on."""
    member, commands = await enrolled(tmp_path, peer), scripts(tmp_path, service.server_port)
    chain = tmp_path / "peer.pem"
    chain.write_bytes(service.source.current().chain_pem)
    await run(commands["trusted"])
    assert (await run(commands["verify"], str(chain))).returncode == 0
    assert "seen" in (await run(commands["ask"], words=REQUEST)).stdout
    await member.rotate()
    assert "seen" in (await run(commands["ask"], words=REQUEST)).stdout
    asked = len(service.asked)
    peer.authority.revoke(service.source.current())
    await member.listen()
    for done in (await run(commands["verify"], str(chain)), await run(commands["ask"], words=REQUEST)):
        assert done.returncode != 0
        assert "certificate chain is revoked" in done.stdout.lower()
    assert len(service.asked) == asked


async def test_gnutls_serv_knows_what_it_started_with_and_no_more(tmp_path: Path, peer: PeerAuthority) -> None:
    """C6: it is refused by the next start, and only by that."""
    member, port = await enrolled(tmp_path, peer), free_port()
    commands, revoked, good = scripts(tmp_path, port), peer.authority.issue("/client"), peer.authority.issue("/other")
    await run(commands["trusted"])
    async with running(["/bin/sh", commands["serve"]], tmp_path, [port]):
        first = member.serial
        assert (await asyncio.to_thread(ask, port, context_of(revoked))).good
        peer.authority.revoke(revoked)
        await member.listen()
        await member.rotate()
        answer = await asyncio.to_thread(ask, port, context_of(revoked))
        assert (answer.good, answer.serial) == (True, first)
    async with running(["/bin/sh", commands["serve"]], tmp_path, [port]) as program:
        answer = await asyncio.to_thread(ask, port, context_of(good))
        assert (answer.good, answer.serial) == (True, member.serial), program.said()
        assert (await asyncio.to_thread(ask, port, context_of(revoked))).status == 0


async def test_an_ended_list_refuses_every_server(tmp_path: Path) -> None:
    """D2: fail closed."""
    with upstream(StaticSource(stale_files(tmp_path / "web"))) as service:
        commands = scripts(tmp_path, service.server_port)
        await run(commands["trusted"])
        done = await run(commands["ask"], words=REQUEST)
    assert done.returncode != 0
    assert "Error in the CRL verification" in done.stderr
    assert service.asked == []


async def test_a_list_that_is_missing_is_not_asked_for(tmp_path: Path, peer: PeerAuthority, service: Upstream) -> None:
    """D6: GnuTLS fails open there, and the page says so. A GnuTLS that fails closed would change the page."""
    member, commands = await enrolled(tmp_path, peer), scripts(tmp_path, service.server_port)
    peer.authority.revoke(service.source.current())
    await member.listen()
    await run(commands["trusted"])
    (member.directory / "..data" / "crl.pem").write_bytes(root_list(member))
    assert "seen" in (await run(commands["ask"], words=REQUEST)).stdout


def root_list(member: Member) -> bytes:
    """The lists of the present generation, without the issuing CA's."""
    revocations = member.present.revocations
    issuer = member.present.leaf.issuer_key_id
    return b"".join(known.pem() for key, known in revocations.lists.items() if key != issuer)
