"""grpcio through the library with the agent's files: servers and clients, sync and aio, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import handfast
from tests.consumers.asking import context_of, leaf_of
from tests.consumers.lines import Lines, talking
from tests.consumers.members import Member
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running
from tests.library.mesh import plain_sync
from tests.peers.authority import PeerAuthority

PAGE = "grpc.md"
KINDS = pytest.mark.parametrize(
    ("server", "client"),
    [("server_aio", "client_sync"), pytest.param("server_sync", "client_aio", marks=pytest.mark.slow)],
)
"""Each role is held in both ways by `tests/library` too; here two of the four are enough for every day."""


@contextlib.asynccontextmanager
async def mesh(
    home: Path, peer: PeerAuthority, server: str, client: str
) -> AsyncIterator[tuple[int, Member, Member, Program, Lines]]:
    """The page's server as ``orders`` and its client as ``web``, each with an agent."""
    port = free_port()
    members = {}
    for name, program in (("orders", server), ("web", client)):
        settings = f"identity: spiffe://prod.example/{name}\ndirectory: {home}/{name}/files"
        members[name] = await Member.enrol(home / name, peer, settings)
        (home / f"{program}.py").write_text(block(PAGE, f"{program}.py", {"8443": str(port)}))
    where = {"HANDFAST_CREDENTIALS_DIR": str(members["orders"].directory)}
    async with running([sys.executable, home / f"{server}.py"], home, [port], environment=where) as program_of_server:
        where = {"HANDFAST_CREDENTIALS_DIR": str(members["web"].directory)}
        with talking([sys.executable, str(home / f"{client}.py")], environment=where) as caller:
            yield port, members["orders"], members["web"], program_of_server, caller


@KINDS
async def test_rotations_of_both_sides_fail_no_call(
    tmp_path: Path, peer: PeerAuthority, server: str, client: str
) -> None:
    context = context_of(peer.authority.issue("/client"))
    async with mesh(tmp_path, peer, server, client) as (port, orders, web, program, caller):
        for _ in range(3):
            assert await caller.ask() == "spiffe://prod.example/web", program.said()
            serial = await orders.rotate()
            await web.rotate()
            await eventually(lambda serial=serial: leaf_of(port, context) == serial, program.said)  # type: ignore[misc]
        assert await caller.ask() == "spiffe://prod.example/web"


@KINDS
async def test_a_revoked_client_is_refused_and_its_stream_ends(
    tmp_path: Path, peer: PeerAuthority, server: str, client: str
) -> None:
    """C6"""
    revoked = peer.authority.issue("/client")
    async with mesh(tmp_path, peer, server, client) as (port, orders, _, program, caller):
        with plain_sync(f"localhost:{port}", revoked) as channel:
            assert await asyncio.to_thread(channel.unary_unary("/shop.v1.Orders/Who"), b"", timeout=30)
            stream = channel.unary_stream("/shop.v1.Orders/Ticks")(b"", timeout=60)
            assert await asyncio.to_thread(next, stream) == b"tick"
            peer.authority.revoke(revoked)
            await orders.listen()
            with pytest.raises(grpc.RpcError) as ended:
                await asyncio.to_thread(list, stream)
            assert handfast.from_rpc_error(ended.value).reason == "REVOKED", program.said()
            with pytest.raises(grpc.RpcError) as refused:
                await asyncio.to_thread(channel.unary_unary("/shop.v1.Orders/Who"), b"", timeout=30)
            assert handfast.from_rpc_error(refused.value).reason == "REVOKED"
        assert await caller.ask() == "spiffe://prod.example/web"


@KINDS
async def test_a_revoked_server_gets_no_call(tmp_path: Path, peer: PeerAuthority, server: str, client: str) -> None:
    """C6, the other direction: its own agent says nothing to it, as one that is in other hands."""
    async with mesh(tmp_path, peer, server, client) as (_, orders, web, _, caller):
        assert await caller.ask() == "spiffe://prod.example/web"
        peer.authority.revoke(orders.present)
        await web.listen()
        said = await caller.ask()
        while said != "REVOKED":  # the library looks five times a second
            assert said in ("spiffe://prod.example/web", "UNAVAILABLE")
            said = await caller.ask()
