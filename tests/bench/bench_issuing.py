"""Issuing at 64 in flight: a real ``handfast ca serve`` beside a real OpenBao, the same requests, in the same run.

Handfast renews over mutual TLS, which is what agents do all day: authorised, intention, lint, audit, signature, durable,
answered; SQLite and the audit file with full sync. OpenBao signs through its PKI engine with raft storage over TLS, and
writes no audit. One identity renews thousands of times, so its limit is lifted; the count is kept all the same. The
requests are made before. The server's CPU time is that of its process; clients are processes of
their own on the same cores, so the rate is what is left beside them, and what they cost is told, too.

``python -m tests.bench.bench_issuing``; ``BENCH_CERTIFICATES`` sets how many.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.certificates import Leaf
from handfast.csr import build_csr
from handfast.keys import dump_private_key_pem, generate
from handfast_ca.quotas import MOST
from tests.bench.openbao import running_openbao
from tests.bench.report import report
from tests.ca_serve.process import TRUST_DOMAIN, RunningServe

CERTIFICATES = int(os.environ.get("BENCH_CERTIFICATES", "6000"))
WARM_UP = 300
CLIENTS = 2
IN_FLIGHT = 64
IDENTITY = f"spiffe://{TRUST_DOMAIN}/bench"


@dataclass(frozen=True)
class Agent:
    """An identity with its certificate, and the requests that it is going to make: each with a new key."""

    key_pem: str
    chain_pem: str
    warm_up: Sequence[bytes]
    csrs: Sequence[bytes]


@dataclass(frozen=True)
class Measured:
    per_second: float
    cpu_us: float
    median_ms: float
    p99_ms: float
    client_us: float


def main() -> None:
    with TemporaryDirectory() as directory:
        with unlimited(RunningServe.initialised(Path(directory) / "ca")) as ca:
            agents = [enrolled(ca, number, Path(directory)) for number in range(CLIENTS)]
            ours = measured(ca.pid, agents, lambda agent, csrs: handfast_job(ca, agent, csrs))
        with running_openbao(Path(directory) / "openbao") as openbao:
            theirs = measured(
                openbao.process.pid,
                agents,
                lambda agent, csrs: {
                    "kind": "openbao",
                    "port": openbao.port,
                    "root": str(openbao.root),
                    "token": openbao.token,
                    "uri": IDENTITY,
                    "csrs": [pem(csr) for csr in csrs],
                },
            )
    report(f"issuing, {CERTIFICATES} certificates, {IN_FLIGHT} in flight (baseline: OpenBao)", rows(ours, theirs))


def unlimited(ca: RunningServe) -> RunningServe:
    """Its configuration takes as much from one identity and one address as a configuration can say."""
    most = {"burst": MOST, "per_minute": MOST}
    ca.configure(limits={"renewals_per_identity": most, "requests_per_address": most})
    return ca


def rows(ours: Measured, theirs: Measured) -> list[dict[str, Any]]:
    ratio = ours.per_second / theirs.per_second
    return [
        compared("certificates", ours.per_second, theirs.per_second, "1/s", "at least 3000/s", ours.per_second >= 3000),
        compared("rate over OpenBao's", ratio, 1.0, "times", "at least 2", ratio >= 2),
        compared("server CPU each", ours.cpu_us, theirs.cpu_us, "us", "at most 300 us", ours.cpu_us <= 300),
        compared("median", ours.median_ms, theirs.median_ms, "ms"),
        compared("p99", ours.p99_ms, theirs.p99_ms, "ms", "under 30 ms", ours.p99_ms < 30),
        compared("client CPU each", ours.client_us, theirs.client_us, "us"),
    ]


def compared(
    what: str, value: float, baseline: float, unit: str, goal: str = "", met: bool | None = None
) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what, "value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline}
    return row | ({"goal": goal, "met": met} if goal else {})


def enrolled(ca: RunningServe, number: int, directory: Path) -> Agent:
    """Its first certificate comes from the operator. Requests are bound to it, so they are made after it."""
    key, identity = generate(), f"{IDENTITY}/{number}"
    ca.handfast("entry", "add", identity).check()
    first = directory / f"{number}.csr"
    first.write_text(pem(build_csr(key)))
    chain = ca.handfast("cert", "sign", identity, "--csr", first).check().out
    leaf = Leaf.parse_pem(chain.encode())
    share = CERTIFICATES // CLIENTS
    csrs = [build_csr(generate(), credential=leaf.der) for _ in range(WARM_UP + share)]
    return Agent(dump_private_key_pem(key).decode(), chain, csrs[:WARM_UP], csrs[WARM_UP:])


def pem(csr: bytes) -> str:
    return x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()


def handfast_job(ca: RunningServe, agent: Agent, csrs: Sequence[bytes]) -> dict[str, Any]:
    return {
        "kind": "handfast",
        "target": f"localhost:{ca.grpc.rpartition(':')[2]}",
        "root": (ca.directory / "root" / "root.crt").read_text(),
        "key": agent.key_pem,
        "chain": agent.chain_pem,
        "csrs": [base64.b64encode(csr).decode() for csr in csrs],
    }


Job = Callable[[Agent, Sequence[bytes]], dict[str, Any]]


def measured(pid: int, agents: Sequence[Agent], job: Job) -> Measured:
    """Warms the server up, then lets all clients begin together."""
    run(pid, [job(agent, agent.warm_up) for agent in agents])
    return run(pid, [job(agent, agent.csrs) for agent in agents])


def run(pid: int, jobs: Sequence[dict[str, Any]]) -> Measured:
    clients = [client(job | {"in_flight": IN_FLIGHT // len(jobs)}) for job in jobs]
    for one in clients:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    cpu = cpu_seconds(pid)
    for one in clients:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    answers = [json.loads(one.communicate()[0]) for one in clients]
    elapsed, used = max(answer["elapsed"] for answer in answers), cpu_seconds(pid) - cpu
    taken = sorted(seconds for answer in answers for seconds in answer["taken"])
    count = len(taken)
    assert count == sum(len(job["csrs"]) for job in jobs), "not every request was answered"
    return Measured(
        per_second=count / elapsed,
        cpu_us=used / count * 1e6,
        median_ms=taken[count // 2] * 1000,
        p99_ms=taken[count * 99 // 100] * 1000,
        client_us=sum(answer["cpu"] for answer in answers) / count * 1e6,
    )


def client(job: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.asking"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process


def cpu_seconds(pid: int) -> float:
    """Of the whole process: every thread, user and system."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
