"""From the operator's command returning to the refusal: a real CA, two agents, two services that call each other.

A hundred times somebody holds a certificate of ``orders``, calls ``payments`` without a pause and reads a stream, and the
operator revokes it. What is measured is the time from the answer to ``Revoke`` until the first call that fails and until
the stream ends. Below zero: the refusal came before the answer did. The baseline is the ``Revoke`` call itself.
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
    command = statistics.median(run.command for run in runs) * 1e3
    rows: list[dict[str, Any]] = []
    for what, taken in (
        ("new call refused", [run.call for run in runs]),
        ("open stream ended", [run.stream for run in runs]),
    ):
        p99 = statistics.quantiles(taken, n=100)[98] * 1e3
        rows.append({"what": f"{what}, median", "value": statistics.median(taken) * 1e3, "unit": "ms", "baseline": command,
                     "ratio": statistics.median(taken) * 1e3 / command})  # fmt: skip
        rows.append({"what": f"{what}, p99", "value": p99, "unit": "ms", "baseline": command, "ratio": p99 / command,
                     "goal": "under 50 ms", "met": p99 < 50})  # fmt: skip
    report(f"revoke to refusal, {RUNS} runs (baseline: median of the Revoke call)", rows)


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
        call = asyncio.create_task(first_refusal(channel))
        stream = asyncio.create_task(end_of(ticks))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await registry.Revoke(registry_pb2.RevokeRequest(serial=f"{stolen.leaf.serial:x}"), timeout=10)
        returned = time.perf_counter()
        call_at, stream_at = await asyncio.gather(call, stream)
    return Run(returned - began, call_at - returned, stream_at - returned)


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
