"""From the operator's revocation to the last refusal: a hundred agents with their services, then a thousand watchers.

A real CA process; ``BENCH_AGENTS`` real agents, each a process; for each a service on the agent's socket with a guard and mutual TLS,
in four processes; and in one more a thief, who holds a connection and an open stream to every service. The operator revokes his
certificate by the call that ``handfast revoke`` makes. Measured from its return (and from its begin) until the *last* stream has
ended, and until the last call that follows it over the same connection is refused, as the thief sees it; what came before the
return counts as 0. A stream's end is what shows the moment: calling a hundred services without a pause would measure the calls. So
the time of a refused call is an upper bound. The baseline is one call to every service at once, until the last has answered.

Then ``BENCH_WATCHERS`` watches of trust are added, each over mutual TLS and a connection of its own, from four processes, and all but
``KEPT`` of the agents end: measured is the last of all watchers that was told, and the last refusal of the services that are left. The
baseline is one call over every watcher's connection at once.

Each revocation begins in a second in which no list was signed, so that the command does not wait for one. All of it shares one machine:
a mesh has a machine for each agent. ``BENCH_RUNS`` sets how often.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.cli import context as contexts
from handfast.cli.operator import operator_credentials
from handfast.csr import build_csr
from handfast.keys import dump_private_key_pem, generate
from handfast.rpc.aio_channel import aio_channel
from handfast.sources import StaticSource
from handfast.wire.codec import certificates_from_wire
from handfast.wire.v1 import registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from tests.bench.bench_issuing import unlimited
from tests.bench.bench_start import LONGEST, compile_all, port
from tests.bench.report import report
from tests.ca_serve.process import PROGRAM, TRUST_DOMAIN, RunningServe

AGENTS = int(os.environ.get("BENCH_AGENTS", "100"))
WATCHERS = int(os.environ.get("BENCH_WATCHERS", "1000"))
RUNS = int(os.environ.get("BENCH_RUNS", "50"))
KEPT = 10
PROCESSES = 4
STARTING = 6
"""Agents that enrol at a time."""

THIEF, WATCHER = f"spiffe://{TRUST_DOMAIN}/thief", f"spiffe://{TRUST_DOMAIN}/watcher"


@dataclass(frozen=True)
class Run:
    """Seconds: a call to everybody; the operator's call; from its return to the last of each."""

    round: float
    command: float
    stream: float
    call: float
    watcher: float = 0.0


class Helper:
    """A process that does one job after another."""

    def __init__(self, stack: ExitStack, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self._end)

    def tell(self, job: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(await asyncio.to_thread(self._process.stdout.readline))

    async def ask(self, **job: object) -> Any:
        self.tell(job)
        return await self.hear()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(LONGEST)


@dataclass(frozen=True)
class Bench:
    """Everything that runs."""

    ca: RunningServe
    registry: Any
    directory: Path
    stack: ExitStack

    @property
    def root(self) -> str:
        return (self.ca.directory / "root" / "root.crt").read_text("ascii")

    async def enter(self, identity: str) -> None:
        entry = registry_pb2.Entry(spiffe_id=identity, dns_names=["localhost"])
        await self.registry.AddEntry(registry_pb2.AddEntryRequest(entry=entry), timeout=LONGEST)

    async def certified(self, identity: str) -> tuple[int, dict[str, str]]:
        """A certificate on the operator's word: its serial, and what a client needs of it."""
        key = generate()
        issued = await self.registry.Sign(
            registry_pb2.SignRequest(spiffe_id=identity, csr=build_csr(key)), timeout=LONGEST
        )
        chain = certificates_from_wire(issued.chain)
        pem = "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in chain)
        return chain[0].serial_number, {
            "root": self.root, "key": dump_private_key_pem(key).decode("ascii"), "chain": pem,
        }  # fmt: skip

    async def agent(self, number: int) -> tuple[Path, subprocess.Popen[bytes]]:
        """One that has its first certificate, and its socket."""
        identity, place = f"spiffe://{TRUST_DOMAIN}/service/{number}", self.directory / str(number)
        place.mkdir()
        await self.enter(identity)
        token = await self.registry.CreateToken(registry_pb2.CreateTokenRequest(spiffe_id=identity), timeout=LONGEST)
        (place / "token").write_text(token.token)
        (place / "token").chmod(0o600)
        settings = {
            "ca": {
                "address": f"localhost:{port(self.ca.grpc)}",
                "enrol": f"localhost:{port(self.ca.enrol)}",
                "http": f"http://{self.ca.http}",
            },
            "trust_domain": TRUST_DOMAIN,
            "trust": {"file": str(self.ca.directory / "root" / "root.crt")},
            "identity": identity,
            "dns_names": ["localhost"],
            "join_token": {"file": "token"},
            "directory": "out",
            "socket": "run/agent.sock",
        }
        (place / "agent.yaml").write_text(yaml.safe_dump(settings))
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [*PROGRAM, "agent", "run", "--config", str(place / "agent.yaml")], stdout=log, stderr=log
            )
        self.stack.callback(process.wait, LONGEST)
        self.stack.callback(process.terminate)
        until = time.monotonic() + LONGEST
        while not (place / "out" / "tls.key").exists():
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < until, (place / "log").read_text()
            await asyncio.sleep(0.02)
        return place / "run" / "agent.sock", process


async def main() -> None:
    compile_all()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        ca = unlimited(RunningServe.initialised(Path(folder) / "ca"))
        stack.enter_context(ca)
        context = contexts.load(str(ca.context))
        operator = StaticSource(operator_credentials(context, datetime.now(UTC)))
        async with aio_channel(operator, context.authority, server=context.server) as to_ca:
            bench = Bench(ca, RegistryStub(to_ca), Path(folder), stack)  # type: ignore[no-untyped-call,unused-ignore]
            await bench.enter(THIEF)
            await bench.enter(WATCHER)
            await measure(bench)


async def measure(bench: Bench) -> None:
    agents = await started(bench)
    groups = [agents[first::PROCESSES] for first in range(PROCESSES)]
    services = [Helper(bench.stack, "tests.bench.serving") for group in groups if group]
    ports: list[int] = []
    for service, group in zip(services, groups, strict=False):
        ports += await service.ask(sockets=[str(socket) for socket, _ in group], caller=THIEF)
    thief = Helper(bench.stack, "tests.bench.thief")
    runs = [await once(bench, thief, ports) for _ in range(RUNS)]
    few = [await once(bench, thief, ports[:2]) for _ in range(max(RUNS // 5, 2))]
    report(
        f"revoke to the last refusal, {AGENTS} agents, {RUNS} runs (baseline: one call to every service at once)",
        rows(runs, few, under=100),
    )
    for _, agent in agents[KEPT:]:
        agent.terminate()
    watchers = await watching(bench)
    # The services were dealt out to the processes by turns: ports stand in that order.
    dealt = [at for first in range(PROCESSES) for at in range(first, AGENTS, PROCESSES)]
    kept = [socket for at, socket in zip(dealt, ports, strict=True) if at < KEPT]
    runs = [await once(bench, thief, kept, watchers) for _ in range(RUNS)]
    report(
        f"revoke to the last refusal, {WATCHERS:,} watchers, of {len(kept)} services, {len(runs)} runs "
        "(baseline: one call over every watcher's connection at once)",
        rows(runs, (), under=500),
    )


async def watching(bench: Bench) -> list[Helper]:
    _, pair = await bench.certified(WATCHER)
    watchers = [Helper(bench.stack, "tests.bench.listening") for _ in range(PROCESSES)]
    target = f"localhost:{port(bench.ca.grpc)}"
    await ask_all(watchers, do="open", watches=WATCHERS // PROCESSES, target=target, **pair)
    return watchers


async def started(bench: Bench) -> list[tuple[Path, subprocess.Popen[bytes]]]:
    turn = asyncio.Semaphore(STARTING)

    async def start(number: int) -> tuple[Path, subprocess.Popen[bytes]]:
        async with turn:
            return await bench.agent(number)

    return await asyncio.gather(*(start(number) for number in range(AGENTS)))


async def once(bench: Bench, thief: Helper, ports: Sequence[int], watchers: Sequence[Helper] = ()) -> Run:
    serial, pair = await bench.certified(THIEF)
    await thief.ask(do="open", ports=ports, **pair)
    rounds = [await ask_all(watchers or [thief], do="round") for _ in range(2)]
    await asyncio.sleep(1.1)  # the second of the last list is over
    began = time.monotonic()
    await bench.registry.Revoke(registry_pb2.RevokeRequest(serial=f"{serial:x}"), timeout=LONGEST)
    returned = time.monotonic()
    told = await ask_all(watchers, do="told", serial=f"{serial:x}")
    ends = await thief.ask(do="ends")
    assert {reason for _, _, reason in ends} == {"REVOKED"}
    last_stream, last_call = (max(end[at] for end in ends) - returned for at in (0, 1))
    return Run(max(rounds[-1]), returned - began, last_stream, last_call, max(told, default=returned) - returned)


async def ask_all(helpers: Sequence[Helper], **job: object) -> list[Any]:
    return await asyncio.gather(*(helper.ask(**job) for helper in helpers))


def rows(runs: Sequence[Run], few: Sequence[Run], under: float) -> list[dict[str, Any]]:
    everybody = statistics.median(run.round for run in runs) * 1e3
    found = []
    ends = [("last stream ended", [run.stream for run in runs]), ("last new call refused", [run.call for run in runs])]
    if not few:
        ends.append(("last watcher told", [run.watcher for run in runs]))
    for what, moments in ends:
        taken = [max(moment, 0.0) for moment in moments]
        found.append(row(f"{what}, p50 after the return", statistics.median(taken), everybody))
        found.append(row(f"{what}, p99 after the return", p99(taken), everybody, under))
    found.append(row("the Revoke call, p50", statistics.median(run.command for run in runs), everybody))
    whole = [run.command + max(run.call, run.stream, run.watcher) for run in runs]
    found.append(row("from its begin to the last of all, p50", statistics.median(whole), everybody))
    found.append(row("from its begin to the last of all, p99", p99(whole), everybody))
    if few:
        two = statistics.median(run.command + max(run.call, run.stream) for run in few)
        found.append(row("the same when only two are waited for, p50", two, everybody))
    return found


def row(what: str, seconds: float, baseline: float, under: float = 0.0) -> dict[str, Any]:
    value = seconds * 1e3
    made = {"what": what, "value": value, "unit": "ms", "baseline": baseline, "ratio": value / baseline}
    return made | ({"goal": f"under {under:g} ms", "met": value < under} if under else {})


def p99(taken: Sequence[float]) -> float:
    """The worst, where there are fewer than a hundred."""
    return sorted(taken)[max(len(taken) * 99 // 100 - 1, 0) if len(taken) >= 100 else -1]


if __name__ == "__main__":
    asyncio.run(main())
