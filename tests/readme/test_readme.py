"""The first screen of the README, pasted: three terminals, and the lines of a service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.ca_serve.process import free_ports

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
THE_CA, A_WORKLOAD, AN_OPERATOR = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
(A_SERVICE,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PORTS = ("7443", "7444", "7080", "8443")
pytestmark = pytest.mark.timeout(120)


class Person:
    """Pastes blocks of the README, with a home directory and ports of his own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def pasted(self, block: str) -> str:
        """The block's lines as they stand, but for ports and the place of the programs."""
        grpc, enrol, http, _ = (f"127.0.0.1:{port}" for port in self.ports.values())
        block = block.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
        block = block.replace("--write-context", f"--write-context --grpc {grpc} --enrol {enrol} --http {http}")
        return re.sub(r"\b(7443|7444|8443)\b", lambda found: self.ports[found[0]], block)

    def ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.ports['7080']}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def surroundings(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HANDFAST_", "XDG_"))}
        return {**mine, "HOME": str(self.home)}

    @contextmanager
    def terminal(self, block: str, until: Callable[[], bool]) -> Iterator[None]:
        """One whose last line goes on running; it ends with the block."""
        log = self.home / "log"
        with (
            log.open("ab") as written,
            subprocess.Popen(
                ["bash", "-ec", re.sub(r"\n(?=[^\n]+\n$)", "\nexec ", self.pasted(block))],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                env=self.surroundings,
                cwd=ROOT,
            ) as process,
        ):
            try:
                deadline = time.monotonic() + 60
                while not until():
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.02)
                yield
            finally:
                process.terminate()


def test_what_the_readme_shows_works_when_it_is_pasted(tmp_path: Path) -> None:
    """Three terminals, and the service's lines with the files that the agent keeps."""
    person = Person(tmp_path)
    web = tmp_path / "web"
    with person.terminal(THE_CA, person.ready), person.terminal(A_WORKLOAD, (web / "tls.crt").exists):
        service = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"{person.pasted(A_SERVICE)}\n\nimport asyncio\nasyncio.run(main())"],
            env={**person.surroundings, "HANDFAST_CREDENTIALS_DIR": str(web)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert service.returncode == 0, service.stderr
        done = subprocess.run(
            ["bash", "-ec", person.pasted(AN_OPERATOR)],
            env=person.surroundings,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "spiffe://prod.example/web" in done.stdout
    assert "×" not in done.stdout
    assert (tmp_path / "monday.tar").exists()
