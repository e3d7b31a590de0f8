"""How long a CA and an agent take to start, and how much memory they need: real processes on this machine.

The CA: from exec to 200 at ``/readyz``, with a million certificates in SQLite (1.2 GB) and with none, by turns; after an
orderly end, and after ``kill -9``, when the whole file is read before it serves. The agent: from exec to its first certificate from
that CA, beside a bare Python that imports the same packages and ends. Memory is resident memory, in MiB.

Everything is compiled to bytecode before, as installers of wheels do. ``BENCH_ROWS`` and ``BENCH_WATCHERS`` set the sizes.
"""

from __future__ import annotations

import compileall
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

import handfast
import handfast_agent
import handfast_ca
from handfast.csr import build_csr
from handfast.keys import dump_private_key_pem, generate
from tests.bench.bench_issuing import pem
from tests.bench.report import report
from tests.bench.rows import fill
from tests.ca_serve.process import PROGRAM, TRUST_DOMAIN, RunningServe, free_ports

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
WATCHERS = int(os.environ.get("BENCH_WATCHERS", "1000"))
CLIENTS = 4
STARTS, AGENTS = 5, 7
LONGEST = 120.0
SETTLE_SECONDS = 2.0
IMPORTS_OF_CA = "import handfast.cli.main, handfast_ca.config, handfast_ca.serve"
IMPORTS_OF_AGENT = "import handfast.cli.main, handfast_agent.config, handfast_agent.serve"


@dataclass(frozen=True)
class Start:
    """Seconds on the clock and of CPU until it was ready."""

    wall: float
    cpu: float


def main() -> None:
    compile_all()
    with TemporaryDirectory() as directory:
        empty = RunningServe.initialised(Path(directory) / "empty")
        full = RunningServe.initialised(Path(directory) / "full")
        with full:
            assert full.stop() == 0
        fill(full.directory / "state" / "ledger.db", ROWS)
        report(f"start of the CA (baseline: the same without a certificate; medians of {STARTS})", starts(empty, full))
        with full:
            report(
                f"start of the agent, medians of {AGENTS} (baseline: Python with the same imports)",
                agents(full, Path(directory)),
            )
            report("memory (ratio: against Python with the same imports)", memory(full, Path(directory)))


def compile_all() -> None:
    for place in (
        *(Path(str(one.__file__)).parent for one in (handfast, handfast_ca, handfast_agent)),
        sysconfig.get_path("purelib"),
    ):
        compileall.compile_dir(str(place), quiet=2, workers=0)


# --- the CA -----------------------------------------------------------------------------------------------------------


def starts(empty: RunningServe, full: RunningServe) -> list[dict[str, Any]]:
    killed, bare, orderly, imports = [], [], [], []
    for _ in range(STARTS):
        killed.append(started(full))  # the first time, the file is one that no CA has closed
        wait_checked(full)
        full.stop()
        bare.append(started(empty))
        empty.stop()
        orderly.append(started(full))
        wait_checked(full)
        full.kill()
        imports.append(imported_and_ended(IMPORTS_OF_CA))
    return [
        *compared("empty ledger (baseline: Python with the same imports)", bare, imports),
        *compared(f"{ROWS:,} certificates, after an orderly end", orderly, bare, goal=1.0),
        *compared(f"{ROWS:,} certificates, after kill -9", killed, bare),
    ]


def started(ca: RunningServe) -> Start:
    """From exec to the first 200 at ``/readyz``; it goes on running."""
    ca.log.unlink(missing_ok=True)
    begin = time.perf_counter()
    ca.launch()
    ca.wait_ready(LONGEST)
    return Start(time.perf_counter() - begin, cpu_seconds(ca.pid))


def wait_checked(ca: RunningServe) -> None:
    until(lambda: "the ledger was read whole" in ca.log.read_text(), "the ledger is read whole")


def imported_and_ended(imports: str) -> Start:
    """A Python that imports so much and ends without tidying up."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", f"{imports}\nimport os\nos._exit(0)"])
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = status
    assert status == 0
    return Start(wall, usage.ru_utime + usage.ru_stime)


def compared(what: str, these: Sequence[Start], those: Sequence[Start], goal: float = 0.0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for unit, mine, other in (
        ("s", [one.wall for one in these], [one.wall for one in those]),
        ("s CPU", [one.cpu for one in these], [one.cpu for one in those]),
    ):
        value, baseline = statistics.median(mine), statistics.median(other)
        rows.append({"what": what, "value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline})
    if goal:
        rows[0] |= {"goal": f"under {goal:g} s", "met": rows[0]["value"] < goal}
    return rows


# --- the agent --------------------------------------------------------------------------------------------------------


def agents(ca: RunningServe, directory: Path) -> list[dict[str, Any]]:
    runs, imports = [], []
    for number in range(AGENTS):
        with running_agent(ca, directory / f"agent{number}") as (_, start):
            runs.append(start)
        imports.append(imported_and_ended(IMPORTS_OF_AGENT))
    return compared("exec to first certificate", runs, imports, goal=0.3)


@contextmanager
def running_agent(ca: RunningServe, place: Path, *, health: bool = False) -> Any:
    """One that has just written its first certificate, and how it came to it."""
    place.mkdir()
    file = configured(ca, place, health)
    with ExitStack() as stack:
        log = stack.enter_context((place / "log").open("wb"))
        begin = time.perf_counter()
        process = subprocess.Popen([*PROGRAM, "agent", "run", "--config", str(file)], stderr=log)
        stack.callback(process.wait, LONGEST)
        stack.callback(process.terminate)
        until(lambda: (place / "out" / "tls.key").exists(), "the agent has a certificate", pause=0.001)
        yield process, Start(time.perf_counter() - begin, cpu_seconds(process.pid))


def configured(ca: RunningServe, place: Path, health: bool) -> Path:
    identity = f"spiffe://{TRUST_DOMAIN}/{place.name}"
    ca.handfast("entry", "add", identity).check()
    (place / "token").write_text(ca.handfast("token", "create", identity).check().out)
    value = {
        "ca": {
            "address": f"localhost:{port(ca.grpc)}",
            "enrol": f"localhost:{port(ca.enrol)}",
            "http": f"http://{ca.http}",
        },
        "trust_domain": TRUST_DOMAIN,
        "trust": {"file": str(ca.directory / "root" / "root.crt")},
        "identity": identity,
        "join_token": {"file": "token"},
        "directory": "out",
        "socket": "run/agent.sock",
    }
    if health:
        value["health"] = f"127.0.0.1:{free_ports(1)[0]}"
    file = place / "agent.yaml"
    file.write_text(yaml.safe_dump(value))
    return file


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(ca: RunningServe, directory: Path) -> list[dict[str, Any]]:
    wait_checked(ca)
    imports = imported(IMPORTS_OF_AGENT)
    rows = []
    for name, what in (("agent", "agent at rest"), ("monitored", "agent at rest, with its health port")):
        with running_agent(ca, directory / name, health=name == "monitored") as (agent, _):
            time.sleep(SETTLE_SECONDS)
            rows.append(in_memory(what, resident(agent.pid), imports, goal=60))
    rest = resident(ca.pid)
    rows.append(in_memory("CA at rest", rest, imported(IMPORTS_OF_CA)))
    with watched(ca, directory):
        time.sleep(SETTLE_SECONDS)
        many = resident(ca.pid)
    rows.append(in_memory(f"CA with {WATCHERS:,} watchers (baseline: at rest)", many, rest))
    rows.append({"what": "for each watcher", "value": (many - rest) * 1024 / WATCHERS, "unit": "KiB"})
    return rows


def in_memory(what: str, value: float, baseline: float, goal: float = 0.0) -> dict[str, Any]:
    row = {"what": what, "value": value, "unit": "MiB", "baseline": baseline, "ratio": value / baseline}
    return row | ({"goal": f"under {goal:g} MiB", "met": value < goal} if goal else {})


def imported(imports: str) -> float:
    """Resident memory of a Python that has imported so much, and nothing else."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{imports}\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    found = resident(process.pid)
    process.communicate(b"\n")
    return found


@contextmanager
def watched(ca: RunningServe, directory: Path) -> Any:
    """``WATCHERS`` watches of trust over mTLS, each over its own connection, from a few processes."""
    key, identity = generate(), f"spiffe://{TRUST_DOMAIN}/watcher"
    ca.handfast("entry", "add", identity).check()
    (directory / "watcher.csr").write_text(pem(build_csr(key)))
    chain = ca.handfast("cert", "sign", identity, "--csr", directory / "watcher.csr").check().out
    job = {
        "target": f"localhost:{port(ca.grpc)}",
        "root": (ca.directory / "root" / "root.crt").read_text(),
        "key": dump_private_key_pem(key).decode(),
        "chain": chain,
        "watches": WATCHERS // CLIENTS,
    }
    command = [sys.executable, "-m", "tests.bench.watching"]
    clients = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)
    ]
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(json.dumps(job) + "\n")
        client.stdin.flush()
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    yield
    for client in clients:
        client.communicate("end\n", timeout=LONGEST)


# --- what all of them need --------------------------------------------------------------------------------------------


def port(address: str) -> str:
    return address.rpartition(":")[2]


def resident(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 2**20)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def until(seen: Callable[[], bool], what: str, pause: float = 0.01) -> None:
    """Files give no event."""
    deadline = time.monotonic() + LONGEST
    while not seen():
        assert time.monotonic() < deadline, f"after {LONGEST:g} s it is not so: {what}"
        time.sleep(pause)


if __name__ == "__main__":
    main()
