"""A CA and an agent that run, and OpenSSL on both ends of a handshake that staples what the agent wrote."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from handfast.cli.main import main
from tests.ca_serve.process import PROGRAM, RunningServe, free_ports

pytestmark = pytest.mark.timeout(90)
WEB = "spiffe://test.example/web"


def eventually(true: Callable[[], bool], what: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def running(*command: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        if process.stdin is not None:
            process.stdin.close()


def agent_config(ca: RunningServe, folder: Path) -> Path:
    ca.handfast("entry", "add", WEB, "--dns", "localhost").check()
    (folder / "token").write_text(ca.handfast("token", "create", WEB).check().out)
    file = folder / "agent.yaml"
    value = {
        "ca": {"address": ca.grpc, "enrol": ca.enrol, "http": f"http://{ca.http}"},
        "trust_domain": "test.example",
        "trust": {"file": str(ca.directory / "root" / "root.crt")},
        "identity": WEB,
        "dns_names": ["localhost"],
        "join_token": {"file": "token"},
        "directory": "out",
    }
    file.write_text(yaml.safe_dump(value))
    return file


def handshake(port: int, ca: RunningServe) -> str:
    """What a client hears that asks for a status, and demands that chain and answer verify."""
    root = ca.directory / "root" / "root.crt"
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(root), "-status"]
    ended = subprocess.run(command, input="Q\n", capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout + ended.stderr


def test_openssl_staples_what_the_agent_wrote_and_a_revocation_takes_it_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningServe.initialised(tmp_path / "ca") as ca:
        out = tmp_path / "out"
        config = agent_config(ca, tmp_path)
        with running(*PROGRAM, "agent", "run", "--config", config, log=tmp_path / "agent.log"):
            eventually((out / "ocsp.der").exists, "no answer was written")
            (port,) = free_ports(1)
            server = ("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", out / "tls.key")
            staple = ("-cert", out / "tls.crt", "-cert_chain", out / "tls.crt", "-status_file", out / "ocsp.der")
            with running(*server, *staple, log=tmp_path / "server.log"):
                eventually(lambda: "Verify return code: 0 (ok)" in handshake(port, ca), "no handshake")
                said = handshake(port, ca)
            assert "OCSP Response Status: successful (0x0)" in said
            assert "Cert Status: good" in said

            bundle = tmp_path / "bundle.pem"
            bundle.write_bytes(ca.get("/bundle.pem")[1])
            words = ["verify", out / "tls.crt", "--bundle", bundle, "--ocsp", out / "ocsp.der"]
            with pytest.raises(SystemExit) as left:
                main([str(word) for word in words])
            assert left.value.code == 0
            assert "good as of" in capsys.readouterr().out
            held = (out / "ocsp.der").read_bytes()

            ca.handfast("revoke", WEB).check()
            eventually(lambda: not (out / "ocsp.der").exists(), "the answer of a revoked certificate stays")
            assert not (out / "tls.key").exists()
            assert not os.path.lexists(out / "ocsp.der")
        (tmp_path / "old.der").write_bytes(held)
        assert "status" in ca.handfast("inspect", tmp_path / "old.der").check().out
