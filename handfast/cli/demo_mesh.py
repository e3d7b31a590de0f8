"""The processes of the demo: a CA, two agents, two services, each started, spoken to and ended by its process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from handfast.errors import HandfastError, Unavailable

__all__ = ["TRUST_DOMAIN", "Mesh", "Service"]

TRUST_DOMAIN = "demo.example"
HANDFAST = [sys.executable, "-m", "handfast"]
LONGEST_START = 60.0
_LOOK = 0.02


@dataclass
class Service:
    """One workload: its agent, its program, and the lines that the program has said."""

    name: str
    address: str
    folder: Path
    agent: subprocess.Popen[bytes] | None = None
    program: subprocess.Popen[bytes] | None = None
    _read: int = 0
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/{self.name}"

    @property
    def socket(self) -> Path:
        return self.folder / "private" / "agent.sock"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def listen(self) -> list[dict[str, Any]]:
        """All that the program has said until now."""
        lines = (self.folder / "said.jsonl").read_bytes()
        end = lines.rfind(b"\n") + 1
        self.said += [json.loads(line) for line in lines[self._read : end].splitlines()]
        self._read = max(end, self._read)
        return self.said

    def heard(self, event: str, after: float = 0.0, **facts: object) -> dict[str, Any] | None:
        """The first event of this kind after a moment."""
        for line in self.listen():
            if line["event"] == event and line["at"] >= after and facts.items() <= line.items():
                return line
        return None

    def report(self) -> dict[str, Any]:
        """What the program has counted until now."""
        assert self.program is not None
        asked = time.monotonic()
        self.program.send_signal(signal.SIGUSR1)
        found = wait_for(lambda: self.heard("report", after=asked), f"the report of {self.name}")
        return dict(found)


def wait_for(find: Callable[[], Any], what: str, seconds: float = LONGEST_START) -> Any:
    """What ``find`` returns, when it is something. Raises ``Unavailable``."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not come within {seconds:g} s", reason="DEMO_FAILED")
        time.sleep(_LOOK)
    return found


class Mesh:
    """Everything in one directory, on free ports of the loopback interface."""

    def __init__(self, folder: Path, stack: ExitStack, show: Callable[[str], None]) -> None:
        self.folder = folder
        self._stack = stack
        self._show = show
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        grpc, enrol, http, orders, payments = (f"127.0.0.1:{port}" for port in _free_ports(5))
        self.grpc, self.enrol, self.http = grpc, enrol, http
        self.orders = Service("orders", orders.replace("127.0.0.1", "localhost"), folder / "orders")
        self.payments = Service("payments", payments.replace("127.0.0.1", "localhost"), folder / "payments")

    @classmethod
    @contextmanager
    def at(cls, folder: Path, show: Callable[[str], None]) -> Iterator[Mesh]:
        """Ends every process that it started, whatever happens."""
        with ExitStack() as stack:
            yield cls(folder, stack, show)

    @property
    def services(self) -> tuple[Service, Service]:
        return self.orders, self.payments

    @property
    def context(self) -> Path:
        return self.folder / "ca" / "operator" / "context.yaml"

    def start_ca(self) -> None:
        self.init_ca()
        self.serve_ca()

    def init_ca(self) -> None:
        self.run(
            *("ca", "init", "ca", "--trust-domain", TRUST_DOMAIN, "--no-passphrase", "--no-write-context"),
            *("--grpc", self.grpc, "--enrol", self.enrol, "--http", self.http),
        )
        # Nobody renews every 300 ms but a demonstration.
        with (self.folder / "ca" / "handfast.yaml").open("a", encoding="utf-8") as config:
            yaml.safe_dump({"limits": {"renewals_per_identity": {"burst": 1000, "per_minute": 1000}}}, config)

    def serve_ca(self) -> None:
        self._start("ca", [*HANDFAST, "ca", "serve", "--config", "ca/handfast.yaml"])
        wait_for(self._is_ready, "the CA's readiness")

    def enrol_service(self, service: Service) -> None:
        """An entry, a join token in a file, and an agent that enrols with it."""
        service.folder.mkdir()
        self.run("entry", "add", service.identity, "--dns", "localhost", "--ttl", "1h")
        token = service.folder / "join-token"
        token.write_text(self.run("token", "create", service.identity))
        token.chmod(0o600)
        settings = {
            "ca": {"address": self.grpc, "enrol": self.enrol, "http": f"http://{self.http}"},
            "trust_domain": TRUST_DOMAIN,
            "trust": {"file": str(self.folder / "ca" / "root" / "root.crt")},
            "identity": service.identity,
            "dns_names": ["localhost"],
            "join_token": {"file": str(token)},
            "directory": str(service.files),
            "socket": str(service.socket),
        }
        config = service.folder / "agent.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        service.agent = self._start(
            f"{service.name}-agent", [*HANDFAST, "agent", "run", "--config", f"{service.name}/agent.yaml"]
        )
        wait_for((service.files / "tls.crt").exists, f"the certificate of {service.name}")

    def start_service(self, service: Service, other: Service) -> None:
        command = [sys.executable, "-m", "handfast.cli.demo_service", service.address, other.address, other.identity]
        said = self._stack.enter_context((service.folder / "said.jsonl").open("wb"))
        environment = {"HANDFAST_AGENT_SOCKET": str(service.socket)}
        service.program = self._start(service.name, command, environment, said)

    def run(self, *words: str) -> str:
        """One command of an operator, shown as he would type it; what it printed."""
        self._show(" ".join(["$ handfast", *words]))
        done = subprocess.run(
            [*HANDFAST, *words],
            cwd=self.folder,
            env={**os.environ, "HANDFAST_CONTEXT": str(self.context)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.check_alive()
            raise HandfastError(f"`handfast {' '.join(words)}` failed: {done.stderr.strip()}", reason="DEMO_FAILED")
        return done.stdout

    def rotate(self) -> None:
        """Both agents renew at once."""
        for service in self.services:
            assert service.agent is not None
            service.agent.send_signal(signal.SIGUSR1)

    def check_alive(self) -> None:
        """Raises with the last words of a process that has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                last_words = (self.folder / f"{name}.log").read_text("utf-8")[-2000:]
                raise HandfastError(
                    f"the process {name!r} ended with {process.returncode}: {last_words}", reason="DEMO_FAILED"
                )

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _start(
        self, name: str, command: list[str], environment: dict[str, str] | None = None, stdout: Any = None
    ) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout or log,
            stderr=log,
        )
        self._stack.callback(_end, process)
        self._started[name] = process
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
