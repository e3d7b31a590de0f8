"""One more revocation when 100,000 are in force: what it costs the CA, an agent and a service, and what it weighs.

A CA process with a full ledger, an agent process beside it, and in this process a service on the agent's socket. The operator
revokes one certificate after another. The yardstick is OpenSSL: how long its command line takes to read the list once, less what
starting it takes. Everything is verified whole at each hop.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from handfast.certificates import subject_key_id
from handfast.cli import context as contexts
from handfast.cli.demo_mesh import Mesh
from handfast.cli.operator import operator_credentials
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.keys import generate
from handfast.rpc.aio_channel import aio_channel
from handfast.sources import StaticSource
from handfast.sources.socket import SocketSource
from handfast.wire.v1 import registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryStub

from .report import report
from .revoked import fill

REVOKED, RUNS = 100_000, 20
GOAL_MS, GOAL_MB = 150.0, 150.0


@dataclass
class Run:
    """Seconds: until ``Revoke`` returned, until the service had the list; the longest that this process stood still."""

    published: float
    swapped: float
    longest_pause: float


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Mesh.at(Path(folder), lambda _shown: None) as mesh:
        mesh.init_ca()
        issuer = x509.load_pem_x509_certificate((Path(folder) / "ca" / "issuer" / "issuer.crt").read_bytes())
        key_id = subject_key_id(issuer) or b""
        await fill(Path(folder) / "ca" / "state" / "ledger.db", key_id, REVOKED)
        mesh.serve_ca()
        mesh.enrol_service(mesh.orders)
        assert mesh.orders.agent is not None
        context = contexts.load(str(mesh.context))
        operator = StaticSource(operator_credentials(context, datetime.now(UTC)))
        service = SocketSource(mesh.orders.socket)
        try:
            async with aio_channel(operator, context.authority, server=context.server) as to_ca:
                runs = [await once(RegistryStub(to_ca), service, key_id, mesh.orders.identity) for _ in range(RUNS)]
            der = service.current().revocations.lists[key_id].der
            report(
                f"one more revocation beside {REVOKED:,} ({len(der) / 1e6:.1f} MB, baseline: OpenSSL reads the list)",
                rows(runs, parse_by_openssl(der, Path(folder)), megabytes(mesh.orders.agent.pid)),
            )
        finally:
            service.close()


async def once(registry: Any, service: SocketSource, key_id: bytes, identity: str) -> Run:
    csr = build_csr(generate())
    issued = await registry.Sign(registry_pb2.SignRequest(spiffe_id=identity, csr=csr), timeout=30)
    serial = x509.load_der_x509_certificate(issued.chain[0]).serial_number
    arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def look(credentials: Credentials | None) -> None:
        if credentials is not None and serial in credentials.revocations.lists[key_id].serials:
            at = time.perf_counter()
            loop.call_soon_threadsafe(lambda: arrived.done() or arrived.set_result(at))

    unsubscribe = service.subscribe(look)
    with pauses() as longest:
        began = time.perf_counter()
        await registry.Revoke(registry_pb2.RevokeRequest(serial=f"{serial:x}", reason="unspecified"), timeout=30)
        published = time.perf_counter()
        swapped = await asyncio.wait_for(arrived, 30)
    unsubscribe()
    return Run(published - began, swapped - published, longest[0])


@contextmanager
def pauses() -> Iterator[list[float]]:
    """The longest time that a thread which only wants to run did not run."""
    longest, ended = [0.0], threading.Event()

    def spin() -> None:
        last = time.perf_counter()
        while not ended.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield longest
    finally:
        ended.set()
        thread.join()


def parse_by_openssl(der: bytes, folder: Path) -> float:
    """Seconds."""
    file = folder / "list.crl"
    file.write_bytes(der)

    def took(*words: str) -> float:
        began = time.perf_counter()
        subprocess.run(["openssl", *words], check=True, capture_output=True)
        return time.perf_counter() - began

    reading = [took("crl", "-inform", "DER", "-in", str(file), "-noout") for _ in range(5)]
    return statistics.median(reading) - statistics.median(took("version") for _ in range(5))


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("a running process has VmRSS")


def rows(runs: list[Run], openssl: float, memory: float) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for what, taken, goal in (
        ("published: Revoke returned", [run.published for run in runs], GOAL_MS),
        ("swapped in, agent and service, after that", [run.swapped for run in runs], GOAL_MS),
        ("longest pause of a thread of the service", [run.longest_pause for run in runs], None),
    ):
        median = statistics.median(taken)
        row = {
            "what": f"{what}, median",
            "value": median * 1e3,
            "unit": "ms",
            "baseline": openssl * 1e3,
            "ratio": median / openssl,
        }
        if goal is not None:
            row |= {"goal": f"under {goal:.0f} ms", "met": median * 1e3 < goal}
        made.append(row)
        made.append({"what": f"{what}, worst of {len(taken)}", "value": max(taken) * 1e3, "unit": "ms"})
    made.append(
        {
            "what": "agent, resident",
            "value": memory,
            "unit": "MB",
            "goal": f"under {GOAL_MB:.0f} MB",
            "met": memory < GOAL_MB,
        }
    )
    return made


if __name__ == "__main__":
    asyncio.run(main())
