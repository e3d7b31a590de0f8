"""A CA as its operator runs it: `handfast ca init`, then `handfast ca serve` as a process of its own, on free ports.

``with RunningServe.initialised(tmp_path / "ca") as ca:`` has it started and ready; ``ca.handfast("entry", "list")`` is an
operator's command; at the end comes SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = [sys.executable, "-c", "from handfast.cli.main import main; main()"]
TRUST_DOMAIN = "test.example"
LONGEST_START = 30.0
"""Seconds until a start counts as failed, on a machine that is busy with other tests."""


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str

    def check(self) -> Self:
        assert self.code == 0, self.err
        return self

    def json(self) -> Any:
        return json.loads(self.check().out)


def handfast(*words: object, context: Path | None = None, given: str = "", **environment: str) -> Done:
    """Runs the command line to its end. ``environment`` is added to that of the tests."""
    surroundings = {**os.environ, **environment}
    if context is not None:
        surroundings["HANDFAST_CONTEXT"] = str(context)
    ended = subprocess.run(
        [*PROGRAM, *map(str, words)], input=given, capture_output=True, text=True, env=surroundings, timeout=60
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different. Another process may take one before it is used; none of ours does."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]


@dataclass
class RunningServe:
    """One CA directory and the process that serves it, which can be stopped, killed and started again."""

    directory: Path
    grpc: str
    enrol: str
    http: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def initialised(cls, directory: Path, *options: object) -> Self:
        """Runs ``ca init``: without a passphrase, unless ``options`` say more. Nothing is started yet."""
        addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        words = ["--trust-domain", TRUST_DOMAIN]
        for name, address in zip(("--grpc", "--enrol", "--http"), addresses, strict=True):
            words += [name, address]
        handfast("ca", "init", directory, *words, *(options or ("--no-passphrase",))).check()
        return cls(directory, *addresses)

    @property
    def config(self) -> Path:
        return self.directory / "handfast.yaml"

    @property
    def context(self) -> Path:
        """The first operator's, for ``HANDFAST_CONTEXT``."""
        return self.directory / "operator" / "context.yaml"

    @property
    def log(self) -> Path:
        """What every start wrote to stdout and stderr."""
        return self.directory / "serve.log"

    @property
    def audit(self) -> list[dict[str, Any]]:
        lines = (self.directory / "state" / "audit.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was never started"
        return self.process.pid

    def configure(self, **sections: Any) -> None:
        """Adds sections to ``handfast.yaml``, for the next start. JSON is YAML, too."""
        with self.config.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}: {json.dumps(value)}\n" for name, value in sections.items())

    def handfast(self, *words: object, given: str = "") -> Done:
        """An operator's command."""
        return handfast(*words, context=self.context, given=given)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET over HTTP. Raises ``OSError`` when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def start(self) -> Self:
        """Starts the process, and returns when ``/readyz`` answers 200. Raises when it ends before."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "ca", "serve", "--config", str(self.config), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )

    def wait_ready(self, within: float = LONGEST_START) -> None:
        deadline = time.monotonic() + within
        answer: object = None
        while time.monotonic() < deadline:
            code = None if self.process is None else self.process.poll()
            assert code is None, f"`ca serve` ended with {code}: {self.log.read_text('utf-8')}"
            try:
                answer = self.get("/readyz")
            except OSError as error:
                answer = error
            else:
                if answer[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not ready after {within} s: {answer}; {self.log.read_text('utf-8')}")

    def wait_ended(self, within: float = LONGEST_START) -> int:
        """The exit code; negative for the signal that ended it."""
        assert self.process is not None, "it was never started"
        return self.process.wait(within)

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_ended()

    def kill(self) -> None:
        """``kill -9``: no last words."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_ended()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(LONGEST_START)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
