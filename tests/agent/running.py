"""An agent as its user runs it: `handfast agent run` as a process of its own, which tests stop, kill and start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from handfast.certificates import Leaf, fingerprint, load_certificates
from handfast.keys import load_private_key, matches
from tests.peers.authority import TOKEN, PeerAuthority

COMMAND = [sys.executable, "-c", "from handfast.cli.main import main; main()"]
LONGEST_WAIT = 60.0
"""Seconds until something that should happen counts as not happening, on a machine that is busy with other tests."""


def configuration(tmp_path: Path, peer: PeerAuthority, **changes: object) -> Path:
    """``agent.yaml`` for a peer of these tests, beside a token. ``changes`` of None leave a key out."""
    (tmp_path / "token").write_text(TOKEN)
    value = {
        "ca": {
            "address": f"127.0.0.1:{peer.mtls_port}",
            "enrol": f"127.0.0.1:{peer.enrol_port}",
            "http": f"http://127.0.0.1:{peer.http_port}",
        },
        "trust_domain": "test.example",
        "trust": {"fingerprint": fingerprint(peer.authority.root)},
        "identity": "spiffe://test.example/web",
        "join_token": {"file": "token"},
        "directory": "out",
        "socket": "run/agent.sock",
    } | changes
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump({key: one for key, one in value.items() if one is not None}))
    return file


def pair_in(directory: Path) -> Leaf | None:
    """The certificate of the present generation, held against its key; None when there is neither."""
    try:
        inside = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        files = Path(f"/proc/self/fd/{inside}")
        assert (files / "tls.key").exists() == (files / "tls.crt").exists(), "half of a pair"
        if not (files / "tls.key").exists():
            return None
        leaf = Leaf.of(load_certificates((files / "tls.crt").read_bytes())[0])
        assert matches(load_private_key((files / "tls.key").read_bytes()), leaf.certificate.public_key())
        return leaf
    finally:
        os.close(inside)


@dataclass
class RunningAgent:
    """The process of one configuration. Its files are under ``out``, its log in ``agent.log``, beside it."""

    config: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self.config.parent / "out"

    @property
    def key(self) -> Path:
        return self.directory / "tls.key"

    @property
    def log(self) -> Path:
        return self.config.parent / "agent.log"

    @property
    def messages(self) -> list[str]:
        """What every start wrote to its log, without the half line of one that was killed."""
        text = self.log.read_text("utf-8") if self.log.exists() else ""
        lines = [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [str(json.loads(line)["message"]) for line in lines]

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was never started"
        return self.process.pid

    def leaf(self) -> Leaf | None:
        return pair_in(self.directory)

    def remembered(self) -> dict[str, Any]:
        """The state that outlives the process; empty before the first."""
        file = self.config.parent / "out.state" / "state.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def launch(self) -> Self:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "agent", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        return self

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9``: no last words."""
        self.tell(signal.SIGKILL)
        self.wait_ended()

    def wait_ended(self) -> int:
        assert self.process is not None, "it was never started"
        return self.process.wait(LONGEST_WAIT)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Looks again and again; files give no event. Raises when the process ends before, or after a minute."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not true():
            assert self.process is not None
            assert self.process.poll() is None, f"it ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"not in {LONGEST_WAIT:g} s: {self.log.read_text()}"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self.launch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.wait_ended()
