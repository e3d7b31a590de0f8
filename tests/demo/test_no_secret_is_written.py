"""No secret in anything that an end-to-end run writes, but in the files that are there to keep it."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.cli.demo_mesh import Mesh
from handfast.keys import load_private_key

pytestmark = pytest.mark.timeout(180)

KEEPERS = {"tls.key", "credentials.pem", "join-token", "issuer.key", "root.key"}
"""Files whose purpose is to hold a secret, each of mode 0600."""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def forms_of(key_file: Path) -> set[bytes]:
    """How a private key could have got into a text: the PEM's lines, DER, and DER in base64 and hexadecimal."""
    key = load_private_key(key_file.read_bytes())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    lines = [line for line in key_file.read_bytes().splitlines() if not line.startswith(b"-----")]
    scalar = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    return {
        der,
        base64.b64encode(der),
        der.hex().encode(),
        *lines[1:2],
        scalar,
        scalar.hex().encode(),
        base64.b64encode(scalar),
    }


def what_processes_show() -> dict[str, bytes]:
    """Arguments and environment of every process that this test started, as anybody on the machine can read them."""
    shown = {}
    for process in psutil.Process().children(recursive=True):
        for name in ("cmdline", "environ"):
            place = Path(f"/proc/{process.pid}/{name}")
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                shown[str(place)] = place.read_bytes()
    return shown


def test_no_key_and_no_token_is_in_what_a_run_wrote(tmp_path: Path) -> None:
    """B2, G2: arguments, environments, logs, audit log, ledger, state and configuration of a CA, two agents and two services, up to a revocation."""
    secrets: dict[bytes, str] = {}
    shown: dict[str, bytes] = {}

    def collect() -> None:
        shown.update(what_processes_show())
        for file in tmp_path.rglob("*"):
            if file.name == "tls.key":
                secrets.update(dict.fromkeys(forms_of(file), f"the key {file}"))
            elif file.name == "join-token":
                secrets[file.read_bytes().strip()] = f"the token {file}"

    with Mesh.at(tmp_path, lambda _shown: None) as mesh:
        mesh.start_ca()
        for service in mesh.services:
            mesh.enrol_service(service)
        collect()
        for service, other in (mesh.services, mesh.services[::-1]):
            mesh.start_service(service, other)
        wait_until(lambda: all(service.heard("ready") for service in mesh.services))
        before = (mesh.orders.files / "tls.crt").read_bytes()
        mesh.rotate()
        wait_until(lambda: (mesh.orders.files / "tls.crt").read_bytes() != before)
        collect()
        mesh.run("revoke", mesh.orders.identity)
        mesh.check_alive()
    assert len(secrets) > 20
    assert len(shown) > 3
    for place, data in shown.items():
        assert [what for secret, what in secrets.items() if secret in data] == [], place
    read = 0
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name not in KEEPERS:
            data = file.read_bytes()
            read += 1
            assert [what for secret, what in secrets.items() if secret in data] == [], file
    assert read > 15
    wide = [file for file in tmp_path.rglob("*") if file.name in KEEPERS and file.stat().st_mode & 0o077]
    assert wide == []
