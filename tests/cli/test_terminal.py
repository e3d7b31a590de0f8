"""Terminals, pipes and people who leave early: what the command line does with each."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.ca_serve.process import PROGRAM, RunningServe, handfast

HOSTILE = "evil\x1b[2J\u202egpj.exe\x9b31m\nnext"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One that anybody may have made, with a name that a terminal would obey."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, HOSTILE)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "hostile.crt"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("output", ["table", "json", "yaml", "name"])
def test_a_name_in_a_file_never_reaches_the_terminal_as_a_command(certificate: Path, output: str) -> None:
    """G1: escapes, direction marks and the eight-bit control characters, in every format."""
    done = handfast("inspect", certificate, "-o", output).check()
    assert [one for one in done.out.replace("\n", "") if not one.isprintable()] == []
    if output == "json":
        assert HOSTILE in json.loads(done.out)[0]["subject"]


def test_a_name_on_the_command_line_never_reaches_the_terminal_as_a_command() -> None:
    """G1: nor through an error."""
    for words in (["inspect", HOSTILE], [HOSTILE], ["entry", "list", "-o", HOSTILE]):
        done = handfast(*words)
        assert done.code in (1, 2)
        assert [one for one in done.err.replace("\n", "") if not one.isprintable()] == []


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(no_color: str, coloured: bool) -> None:
    """no-color.org; into a pipe it never goes."""
    surroundings = {**os.environ, "NO_COLOR": no_color, "HANDFAST_CONTEXT": "none.yaml"}
    person, terminal = pty.openpty()
    ended = subprocess.run([*PROGRAM, "doctor"], stdout=terminal, env=surroundings, timeout=60, check=False)
    os.close(terminal)
    shown = os.read(person, 65536)
    os.close(person)
    assert (ended.returncode, b"\x1b[" in shown) == (1, coloured)
    piped = subprocess.run([*PROGRAM, "doctor"], capture_output=True, env=surroundings, timeout=60, check=False)
    assert b"\x1b[" not in piped.stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ca", "--help"], ["completion", "bash"]])
def test_a_stdout_that_is_closed_or_gone_is_no_failure(words: list[str]) -> None:
    """`handfast … >&-` and `handfast … | true` say nothing."""
    for ending in (">&-", "| true; exit ${PIPESTATUS[0]}"):
        program = [*PROGRAM, *words]
        done = subprocess.run(
            ["bash", "-c", f'"$@" {ending}', "bash", *program], stderr=subprocess.PIPE, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_an_error_in_words() -> None:
    """J4."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"error: no space left on device\n")


@pytest.mark.timeout(90)
def test_control_c_ends_a_command_that_waits_for_a_silent_ca(tmp_path: Path) -> None:
    """130 as shells say it, and no traceback."""
    ca = RunningServe.initialised(tmp_path / "ca")
    with ca:
        os.kill(ca.pid, signal.SIGSTOP)
        try:
            with subprocess.Popen(
                [*PROGRAM, "entry", "list"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "HANDFAST_CONTEXT": str(ca.context)},
            ) as process:
                _until_connected(process.pid, int(ca.grpc.rpartition(":")[2]))
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=30)
        finally:
            os.kill(ca.pid, signal.SIGCONT)
    assert (process.returncode, out, err.strip()) == (130, b"", b"interrupted")


def _until_connected(pid: int, port: int) -> None:
    import time

    import psutil

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(one.raddr[1:] == (port,) for one in psutil.Process(pid).net_connections()):
            return
        time.sleep(0.02)
    raise AssertionError("it never connected")


def test_a_port_that_somebody_has_is_named_as_in_the_configuration(tmp_path: Path) -> None:
    """Before anything is opened: no traceback of a server's."""
    ca = RunningServe.initialised(tmp_path / "ca")
    host, _, port = ca.enrol.rpartition(":")
    with socket.create_server((host, int(port))):
        done = handfast("ca", "serve", "--config", ca.config)
    assert done.code == 3
    assert f"{ca.enrol} cannot be had: Address already in use" in done.err
    assert "Traceback" not in done.err
    assert len(ca.audit) == 2  # of `ca init`


def test_two_ports_that_are_one_are_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    """Said without a look at the machine, and so before it runs anywhere."""
    ca = RunningServe.initialised(tmp_path / "ca")
    text = ca.config.read_text("utf-8").replace(ca.enrol, ca.grpc)
    ca.config.write_text(text, "utf-8")
    done = handfast("ca", "check-config", ca.config)
    assert done.code != 0
    assert f"{ca.grpc} is that of listen.grpc too" in done.err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("handfast ca ", {"init", "serve", "check-config", "backup", "restore", "operator"}),
        ("handfast agent ", {"run", "once", "status"}),
        ("handfast cert list --st", {"--status"}),
        ("handfast ca init x --issuer-key ", {"p256", "p384"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_what_the_other_distributions_bring(shell: str, typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    asked = {"_HANDFAST_COMPLETE": f"{shell}_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        asked["COMP_CWORD"] = words[-1]
    done = subprocess.run(PROGRAM, env={**os.environ, **asked}, capture_output=True, text=True, check=False, timeout=60)
    found = set(done.stdout.replace(",", "\n").replace("\t", "\n").split("\n"))
    assert offered <= found, done.stderr
