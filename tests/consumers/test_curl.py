"""curl with the agent's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from handfast.sources import StaticSource
from tests.consumers.members import Member, stale_files
from tests.consumers.programs import eventually
from tests.consumers.scripts import run, script
from tests.consumers.upstream import Upstream, upstream
from tests.peers.authority import PeerAuthority


async def enrolled(home: Path, peer: PeerAuthority) -> Member:
    return await Member.enrol(home, peer, f"identity: spiffe://prod.example/web\ndirectory: {home}/web")


def fetch(home: Path) -> Path:
    return script(home, "curl.md", "fetch.sh", {"/run/handfast/web": f"{home}/web"})


async def test_it_is_served_and_no_rotation_disturbs_it(tmp_path: Path, peer: PeerAuthority, service: Upstream) -> None:
    member, url = await enrolled(tmp_path, peer), f"https://localhost:{service.server_port}/"
    over = False

    async def ask_and_ask() -> list[str]:
        said = []
        while not over:
            done = await run(fetch(tmp_path), url)
            said.append(done.stdout or done.stderr)
        return said

    asking = asyncio.create_task(ask_and_ask())
    while len(service.asked) < 20:
        await member.rotate()
    over = True
    assert set(await asking) == {"seen"}


async def test_a_revoked_server_is_refused_and_an_open_transfer_lasts_until_max_time(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6: nothing but `--max-time` ends it."""
    member, url = await enrolled(tmp_path, peer), f"https://localhost:{service.server_port}/"
    transfer = asyncio.create_task(run(fetch(tmp_path), "--max-time", "3", f"{url}slow"))
    await eventually(lambda: "/slow" in service.asked)
    peer.authority.revoke(service.source.current())
    await member.listen()
    done = await run(fetch(tmp_path), url)
    assert done.returncode == 60
    assert "certificate revoked" in done.stderr
    assert service.asked == ["/slow"]
    assert (await transfer).returncode == 28


async def test_after_its_own_revocation_there_is_nothing_to_call_with(
    tmp_path: Path, peer: PeerAuthority, service: Upstream
) -> None:
    """C6"""
    member = await enrolled(tmp_path, peer)
    peer.authority.revoke(member.present)
    await member.listen()
    done = await run(fetch(tmp_path), f"https://localhost:{service.server_port}/")
    assert done.returncode == 58
    assert service.asked == []


async def test_an_ended_list_refuses_every_server(tmp_path: Path) -> None:
    """D2: fail closed."""
    with upstream(StaticSource(stale_files(tmp_path / "web"))) as service:
        done = await run(fetch(tmp_path), f"https://localhost:{service.server_port}/")
    assert done.returncode == 60
    assert "CRL has expired" in done.stderr
