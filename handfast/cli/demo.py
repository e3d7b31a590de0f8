"""``handfast demo``: the whole story on this machine, with real processes; 0 only if every step was seen to happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import grpc
import grpc.aio

import handfast
from handfast.cli.demo_mesh import Mesh, Service, wait_for
from handfast.cli.demo_service import FOLLOW, GREET, Peer
from handfast.cli.output import Column, emit_one, note, output_option
from handfast.errors import HandfastError, Refused
from handfast.rpc.folder import private_folder
from handfast.sources import StaticSource

__all__ = ["demo"]

ROTATE_EVERY = 0.3
LONGEST_REFUSAL = 10.0
_COLUMNS = (
    Column("CA ready", lambda row: f"{row['ready_seconds']:.1f} s"),
    Column("two services enrolled", lambda row: f"{row['enrolled_seconds']:.1f} s"),
    Column("calls made", lambda row: f"{row['calls']}, and {row['stream_messages']} messages on streams"),
    Column("rotations under load", "rotations"),
    Column("failed calls", "failed_calls"),
    Column("the revoke command took", lambda row: f"{row['revoke_command_ms']:.0f} ms, from its start to its return"),
    Column(
        "revoked client: call",
        lambda row: f"refused by payments ({row['refused_with']}), {_when(row['client_call_refused_ms'])}",
    ),
    Column("revoked client: open stream", lambda row: f"ended, {_when(row['client_stream_ended_ms'])}"),
    Column("revoked client: new connection", lambda row: f"refused ({row['new_connection_refused_with']})"),
    Column(
        "revoked server: call",
        lambda row: f"refused by its client ({row['server_refused_with']}), {_when(row['server_call_refused_ms'])}",
    ),
    Column("revoked server: open stream", lambda row: f"cut, {_when(row['server_stream_cut_ms'])}"),
)


def _when(milliseconds: float) -> str:
    """Against the return of the operator's command.

    >>> _when(12.3), _when(-45.6)
    ('12 ms after the command returned', '46 ms before the command returned')
    """
    return f"{abs(milliseconds):.0f} ms {'after' if milliseconds > 0 else 'before'} the command returned"


@dataclass
class Refusal:
    """When a call and a stream with the stolen key ended, in seconds since the operator's command returned, and why."""

    call: float
    stream: float
    reason: str


@click.command()
@click.option(
    "--seconds", default=6.0, show_default=True, type=click.FloatRange(1, 3600), help="How long the load lasts."
)
@output_option
def demo(seconds: float, output: str) -> None:
    """A CA, two agents and two gRPC services on this machine: enrol, call, rotate under load, revoke, refuse.

    Exits 0 only if every step was seen to work. Refusals are told against the moment in which the operator's command returned, and
    come before it as a rule: the CA tells everybody before it answers.
    """
    with private_folder("handfast-demo-", room=48) as folder, Mesh.at(Path(folder), note) as mesh:
        began = time.monotonic()
        mesh.start_ca()
        ready = time.monotonic() - began
        note(f"√ the CA of {mesh.orders.identity.split('/')[2]} is ready")
        for service in mesh.services:
            mesh.enrol_service(service)
            note(f"√ {service.name} has enrolled: its agent keeps {service.identity}")
        enrolled = time.monotonic() - began
        for service, other in (mesh.services, mesh.services[::-1]):
            mesh.start_service(service, other)
        for service in mesh.services:
            wait_for(partial(service.heard, "ready"), f"the service {service.name}")
        note("√ orders and payments call each other over mutual TLS, unary calls and streams")
        counted = _rotate_under_load(mesh, seconds)
        command, client, fresh, server = asyncio.run(_revoke(mesh))
    row = {
        "ready_seconds": round(ready, 3),
        "enrolled_seconds": round(enrolled, 3),
        "calls": counted["calls"],
        "stream_messages": counted["messages"],
        "rotations": counted["rotations"],
        "failed_calls": counted["failed"],
        "revoke_command_ms": _ms(command),
        "client_call_refused_ms": _ms(client.call),
        "client_stream_ended_ms": _ms(client.stream),
        "refused_with": client.reason,
        "new_connection_refused_with": fresh,
        "server_call_refused_ms": _ms(server.call),
        "server_stream_cut_ms": _ms(server.stream),
        "server_refused_with": server.reason,
    }
    note("")
    emit_one(row, _COLUMNS, output, name="failed_calls")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _rotate_under_load(mesh: Mesh, seconds: float) -> dict[str, int]:
    """Both agents renew again and again while both services call. Raises ``Refused`` when one call failed."""
    note(f"  both agents renew every {ROTATE_EVERY} s for {seconds:g} s …")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        mesh.rotate()
        mesh.check_alive()
        time.sleep(ROTATE_EVERY)
    reports = [service.report() for service in mesh.services]
    counted = {name: sum(report[name] for report in reports) for name in ("calls", "messages", "failed", "rotations")}
    if counted["failed"]:
        failures = [line for service in mesh.services for line in service.listen() if line["event"] == "failed"]
        raise Refused(f"{counted['failed']} calls failed during rotations: {failures}", reason="DEMO_FAILED")
    if not all(report["rotations"] for report in reports):
        raise Refused("no rotation was seen", reason="DEMO_FAILED")
    note(f"√ {counted['rotations']} rotations, {counted['calls']} calls, none failed")
    return counted


async def _revoke(mesh: Mesh) -> tuple[float, Refusal, str, Refusal]:
    """Somebody has copied the key of orders. He calls payments with it, and serves with it what payments calls; then orders is
    revoked. How long the command took, his refusals as a client, his last attempt, and how he was given up as a server.
    """
    following = handfast.from_directory(mesh.orders.files)
    stolen = StaticSource(following.current())  # a thief does not follow the agent
    following.close()
    payments, honest = mesh.payments, handfast.from_socket(mesh.payments.socket)
    async with (
        handfast.aio_channel(stolen, payments.address, server=payments.identity) as from_thief,
        _serving(stolen, payments.identity) as address,
        handfast.aio_channel(honest, address, server=mesh.orders.identity) as to_thief,
    ):
        as_client, as_server = await _Victim.of(from_thief), await _Victim.of(to_thief)
        note("  a thief with the key of orders calls payments, over a connection and a stream that stay open …")
        note(
            "  … and serves as orders: payments' key is used to call him, over a connection and a stream that stay open …"
        )
        asked = time.monotonic()
        await asyncio.to_thread(mesh.run, "revoke", mesh.orders.identity, "--reason", "key-compromise")
        returned = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_REFUSAL):
                client, server = await as_client.refusal(returned), await as_server.refusal(returned)
        except TimeoutError:
            raise Refused("the revoked identity is still served, or called", reason="DEMO_FAILED") from None
    note(f"√ a revoked client: payments refuses the stolen key: {client.reason}")
    fresh = await _try_new_connection(stolen, payments)
    note(f"√ a new connection with it is refused: {fresh}")
    note(
        f"√ a revoked server: whoever called the thief cuts the connection, and refuses to call him again: {server.reason}"
    )
    honest.close()
    return returned - asked, client, fresh, server


@asynccontextmanager
async def _serving(stolen: StaticSource, caller: str) -> AsyncIterator[str]:
    """The thief's own server, which nobody tells of anything. Its address."""
    guard = handfast.AioGuard(stolen, handfast.allow(caller))
    server = grpc.aio.server(interceptors=[guard], handlers=[Peer().handler()])
    port = server.add_secure_port("localhost:0", handfast.server_credentials(stolen))
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(0)
        guard.close()


class _Victim:
    """A connection with calls and a stream, and how both end."""

    def __init__(self, channel: handfast.AioChannel, ticks: AsyncIterator[bytes]) -> None:
        self._call = asyncio.create_task(_until_refused(channel))
        self._stream = asyncio.create_task(_until_ended(ticks))

    @classmethod
    async def of(cls, channel: handfast.AioChannel) -> _Victim:
        await channel.unary_unary(GREET)(b"", timeout=5)
        ticks = aiter(channel.unary_stream(FOLLOW)(b""))
        await anext(ticks)
        return cls(channel, ticks)

    async def refusal(self, returned: float) -> Refusal:
        (call_at, reason), stream_at = await asyncio.gather(self._call, self._stream)
        return Refusal(call_at - returned, stream_at - returned, reason)


async def _until_refused(channel: handfast.AioChannel) -> tuple[float, str]:
    greet = channel.unary_unary(GREET)
    while True:
        try:
            await greet(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            reason = handfast.from_rpc_error(error).reason
            if reason != "UNAVAILABLE":  # cut in the middle of a call: the next one is told why
                return time.monotonic(), reason
        await asyncio.sleep(0.001)


async def _until_ended(ticks: AsyncIterator[bytes]) -> float:
    try:
        async for _tick in ticks:
            pass
    except grpc.aio.AioRpcError:
        pass  # however it ends, it has ended
    return time.monotonic()


async def _try_new_connection(stolen: StaticSource, payments: Service) -> str:
    async with handfast.aio_channel(stolen, payments.address, server=payments.identity) as channel:
        try:
            await channel.unary_unary(GREET)(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            found: HandfastError = handfast.from_rpc_error(error)
            return found.reason
    raise Refused("a new connection with the revoked key was served", reason="DEMO_FAILED")
