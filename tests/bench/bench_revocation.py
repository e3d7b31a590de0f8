"""From the operator's command returning to the refusal: a real CA, two agents, two services that call each other.

A hundred times somebody holds a certificate of ``orders``, calls ``payments`` without a pause and reads a stream, and the
operator revokes it, by the call that ``handfast revoke`` makes (over a connection that stands; the command line's own start is
left out). The time runs from the answer to ``Revoke`` until the first call that fails, and until the stream ends; a refusal that
was there before the answer counts as 0. The baseline is an empty call on the same connection, before. CA, agents and services are
processes of their own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio

from handfast.cli import context as contexts
from handfast.cli.demo_mesh import Mesh, wait_for
from handfast.cli.demo_service import FOLLOW, GREET
from handfast.cli.operator import operator_credentials
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.keys import generate
from handfast.rpc.aio_channel import AioChannel, aio_channel
from handfast.sources import StaticSource
from handfast.wire.codec import certificates_from_wire
from handfast.wire.v1 import registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryStub

from .report import report

RUNS = 100


@dataclass
class Run:
    """Seconds."""

    empty: float
    command: float
    call: float
    stream: float


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Mesh.at(Path(folder), lambda _shown: None) as mesh:
        mesh.start_ca()
        for service in mesh.services:
            mesh.enrol_service(service)
        for service, other in (mesh.services, mesh.services[::-1]):
            mesh.start_service(service, other)
        for service in mesh.services:
            wait_for(partial(service.heard, "ready"), service.name)
        context = contexts.load(str(mesh.context))
        operator = StaticSource(operator_credentials(context, datetime.now(UTC)))
        async with aio_channel(operator, context.authority, server=context.server) as to_ca:
            runs = [await once(RegistryStub(to_ca), operator.current(), mesh) for _ in range(RUNS)]
    report(f"revoke to refusal, {RUNS} runs (baseline: an empty call in the same run)", rows(runs))


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    empty = statistics.median(run.empty for run in runs) * 1e3
    found = [row("the Revoke call, median", statistics.median(run.command for run in runs) * 1e3, empty)]
    for what, taken in (
        ("new call refused", [max(run.call, 0.0) for run in runs]),
        ("open stream ended", [max(run.stream, 0.0) for run in runs]),
    ):
        p99 = statistics.quantiles(taken, n=100)[98] * 1e3
        found.append(row(f"{what}, median after it", statistics.median(taken) * 1e3, empty))
        found.append(row(f"{what}, p99 after it", p99, empty) | {"goal": "under 50 ms", "met": p99 < 50})
    early = sum(run.call <= 0 and run.stream <= 0 for run in runs)
    found.append({"what": "both refused before the Revoke call returned", "value": early, "unit": f"of {len(runs)}"})
    whole = statistics.median(run.command + max(run.call, run.stream) for run in runs) * 1e3
    found.append(row("from the Revoke call's begin to both, median", whole, empty))
    return found


def row(what: str, value: float, baseline: float) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": "ms", "baseline": baseline, "ratio": value / baseline}


async def once(registry: Any, operator: Credentials, mesh: Mesh) -> Run:
    key = generate()
    issued = await registry.Sign(
        registry_pb2.SignRequest(spiffe_id=mesh.orders.identity, csr=build_csr(key)), timeout=10
    )
    chain = certificates_from_wire(issued.chain)
    crls = [known.der for known in operator.revocations.lists.values()]
    stolen = Credentials.build(key=key, chain=chain, bundle=operator.bundle, crls=crls, now=datetime.now(UTC))
    async with aio_channel(StaticSource(stolen), mesh.payments.address, server=mesh.payments.identity) as channel:
        ticks = aiter(channel.unary_stream(FOLLOW)(b""))
        await anext(ticks)
        empty = await empty_call(channel)
        call = asyncio.create_task(first_refusal(channel))
        stream = asyncio.create_task(end_of(ticks))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await registry.Revoke(registry_pb2.RevokeRequest(serial=f"{stolen.leaf.serial:x}"), timeout=10)
        returned = time.perf_counter()
        call_at, stream_at = await asyncio.gather(call, stream)
    return Run(empty, returned - began, call_at - returned, stream_at - returned)


async def empty_call(channel: AioChannel) -> float:
    greet = channel.unary_unary(GREET)
    await greet(b"", timeout=10)
    began = time.perf_counter()
    await greet(b"", timeout=10)
    return time.perf_counter() - began


async def first_refusal(channel: AioChannel) -> float:
    greet = channel.unary_unary(GREET)
    while True:
        try:
            await greet(b"", timeout=10)
        except grpc.aio.AioRpcError:
            return time.perf_counter()


async def end_of(ticks: Any) -> float:
    try:
        async for _tick in ticks:
            pass
    except grpc.aio.AioRpcError:
        pass  # it has ended
    return time.perf_counter()


if __name__ == "__main__":
    asyncio.run(main())
