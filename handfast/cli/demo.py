"""``handfast demo``: the whole story on this machine, with real processes; 0 only if every step was seen to happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import grpc
import grpc.aio

import handfast
from handfast.cli.demo_mesh import Mesh, Service, wait_for
from handfast.cli.demo_service import FOLLOW, GREET
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
    Column("revoke → command returned", lambda row: f"{row['revoke_to_return_ms']:.0f} ms"),
    Column(
        "revoke → new call refused", lambda row: f"{row['revoke_to_call_refused_ms']:.0f} ms, {row['refused_with']}"
    ),
    Column("revoke → open stream ended", lambda row: f"{row['revoke_to_stream_ended_ms']:.0f} ms"),
    Column("a new connection", lambda row: f"refused, {row['new_connection_refused_with']}"),
    Column("revoke → nobody calls it", lambda row: f"{row['revoke_to_no_longer_called_ms']:.0f} ms"),
    Column("revoke → calls to it are cut", lambda row: f"{row['revoke_to_its_streams_cut_ms']:.0f} ms"),
)


@dataclass
class Refusal:
    """How long it took until the stolen credentials were worth nothing, in seconds since the operator's command started."""

    command: float
    call: float
    stream: float
    reason: str
    new_connection: str


@click.command()
@click.option(
    "--seconds", default=6.0, show_default=True, type=click.FloatRange(1, 3600), help="How long the load lasts."
)
@output_option
def demo(seconds: float, output: str) -> None:
    """A CA, two agents and two gRPC services on this machine: enrol, call, rotate under load, revoke, refuse.

    Exits 0 only if every step was seen to work. Times after the revocation count from the start of the operator's command,
    which returns later than the refusals come: the CA tells everybody before it answers.
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
        refusal, cut = asyncio.run(_revoke(mesh))
    row = {
        "ready_seconds": round(ready, 3),
        "enrolled_seconds": round(enrolled, 3),
        "calls": counted["calls"],
        "stream_messages": counted["messages"],
        "rotations": counted["rotations"],
        "failed_calls": counted["failed"],
        "revoke_to_return_ms": _ms(refusal.command),
        "revoke_to_call_refused_ms": _ms(refusal.call),
        "revoke_to_stream_ended_ms": _ms(refusal.stream),
        "refused_with": refusal.reason,
        "new_connection_refused_with": refusal.new_connection,
        "revoke_to_no_longer_called_ms": _ms(cut["call"]),
        "revoke_to_its_streams_cut_ms": _ms(cut["stream"]),
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


async def _revoke(mesh: Mesh) -> tuple[Refusal, dict[str, float]]:
    """Somebody has copied the key of orders, and has a connection and a stream open; then orders is revoked."""
    following = handfast.from_directory(mesh.orders.files)
    stolen = StaticSource(following.current())  # a thief does not follow the agent
    following.close()
    payments = mesh.payments
    async with handfast.aio_channel(stolen, payments.address, server=payments.identity) as channel:
        await channel.unary_unary(GREET)(b"", timeout=5)
        stream = channel.unary_stream(FOLLOW)(b"")
        ticks = aiter(stream)
        await anext(ticks)
        note("  a thief with the key of orders calls payments, over a connection and a stream that stay open …")
        call_ends = asyncio.create_task(_until_refused(channel))
        stream_ends = asyncio.create_task(_until_ended(ticks))
        asked = time.monotonic()
        await asyncio.to_thread(mesh.run, "revoke", mesh.orders.identity, "--reason", "key-compromise")
        returned = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_REFUSAL):
                (call_at, reason), stream_at = await asyncio.gather(call_ends, stream_ends)
        except TimeoutError:
            raise Refused("the revoked identity is still served", reason="DEMO_FAILED") from None
    note(f"√ payments refuses the stolen key: {reason}")
    fresh = await _try_new_connection(stolen, payments)
    note(f"√ a new connection with it is refused: {fresh}")
    cut = await asyncio.to_thread(_seen_from_payments, payments, asked)
    note("√ the other direction: payments calls orders no more, and its streams from there are cut")
    return Refusal(returned - asked, call_at - asked, stream_at - asked, reason, fresh), cut


async def _until_refused(channel: handfast.AioChannel) -> tuple[float, str]:
    greet = channel.unary_unary(GREET)
    while True:
        try:
            await greet(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            return time.monotonic(), handfast.from_rpc_error(error).reason
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


def _seen_from_payments(payments: Service, asked: float) -> dict[str, float]:
    """When payments' own calls to orders were refused, and its streams from there ended."""
    return {
        kind: wait_for(
            partial(payments.heard, "failed", after=asked, kind=kind),
            f"the end of {kind}s to the revoked service",
            LONGEST_REFUSAL,
        )["at"]
        - asked
        for kind in ("call", "stream")
    }
