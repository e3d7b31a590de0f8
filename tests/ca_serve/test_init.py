"""`handfast ca init` as a person meets it at a terminal, and a script without one."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.cli.context import load
from tests.ca_serve.process import PROGRAM, RunningServe, handfast

pytestmark = pytest.mark.timeout(90)
INIT = ("ca", "init", "ca", "--trust-domain", "test.example")
INTERRUPT = "^C"
LONGEST = 30.0
"""Seconds without a word from a command until it counts as hanging."""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, and where their user's settings are."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "settings" / "handfast" / "context.yaml"


@dataclass
class AtTerminal:
    code: int
    out: str
    shown: str


def at_terminal(*words: str, answers: Sequence[tuple[str, str]] = ()) -> AtTerminal:
    """Runs a command with a terminal for stdin and stderr, and answers each question when it is asked."""
    person, terminal = pty.openpty()
    command = [*PROGRAM, *words]
    with subprocess.Popen(
        command, stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        os.close(terminal)
        shown, waiting = "", list(answers)
        while True:
            if not select.select([person], [], [], LONGEST)[0]:
                process.kill()
                raise AssertionError(f"nothing more is shown: {shown}")
            try:
                seen = os.read(person, 4096)
            except OSError:  # EIO: the other end was closed, as Linux says it
                break
            shown += seen.decode()
            if waiting and waiting[0][0] in shown.rpartition("\n")[2]:
                answer = waiting.pop(0)[1]
                if answer == INTERRUPT:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(person, answer.encode() + b"\n")
                shown += "\n"
        os.close(person)
        assert process.stdout is not None
        out = process.stdout.read()
    assert waiting == []
    return AtTerminal(process.wait(), out, shown)


def test_without_a_terminal_it_does_not_wait_for_a_passphrase(work: Path) -> None:
    """E1: nobody is asked who is not there, and no key is left without a passphrase by accident."""
    done = handfast(*INIT)
    assert (done.code, done.out) == (2, "")
    assert "--passphrase-file, or --no-passphrase on purpose" in done.err
    assert list(work.iterdir()) == []


def test_stdout_has_the_fingerprint_of_the_root_and_nothing_else(work: Path) -> None:
    done = handfast(*INIT, "--no-passphrase").check()
    root = x509.load_pem_x509_certificate((work / "ca" / "root" / "root.crt").read_bytes())
    from cryptography.hazmat.primitives import hashes

    assert done.out == f"sha256:{root.fingerprint(hashes.SHA256()).hex()}\n"


@pytest.mark.parametrize(("wish", "curve"), [((), "secp256r1"), (("--issuer-key", "p384"), "secp384r1")])
def test_the_issuing_key_is_the_one_chosen_and_the_root_s_is_p_384(
    work: Path, wish: tuple[str, ...], curve: str
) -> None:
    handfast(*INIT, "--no-passphrase", *wish).check()
    for path, expected in (("issuer/issuer.crt", curve), ("root/root.crt", "secp384r1")):
        key = x509.load_pem_x509_certificate((work / "ca" / path).read_bytes()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == expected


def test_keys_and_state_are_for_their_owner_whatever_the_umask(work: Path) -> None:
    """E1."""
    before = os.umask(0)
    try:
        handfast(*INIT, "--no-passphrase").check()
    finally:
        os.umask(before)
    modes = {str(path.relative_to(work)): path.stat().st_mode & 0o777 for path in work.rglob("*")}
    assert {modes[f"ca/{name}"] for name in ("root/root.key", "issuer/issuer.key", "operator/tls.key")} == {0o600}
    assert {modes[f"ca/{name}"] for name in ("root", "issuer", "state", "operator")} | {modes["ca"]} == {0o700}
    assert [name for name, mode in modes.items() if mode & 0o022] == []


@pytest.mark.parametrize("wish", [("--grpc", "nonsense"), ("--public-url", "nonsense"), ("--server-name", "NO_NAME")])
def test_a_wish_that_no_configuration_may_hold_leaves_nothing_behind(work: Path, wish: tuple[str, str]) -> None:
    done = handfast(*INIT, "--no-passphrase", *wish)
    assert (done.code, done.out) == (1, "")
    assert wish[1] in done.err
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("there", ["a CA", "something", "a file"])
def test_what_is_there_already_is_left_as_it_is(work: Path, there: str) -> None:
    if there == "a file":
        (work / "ca").write_text("precious")
    else:
        (work / "ca").mkdir()
        (work / "ca" / ("handfast.yaml" if there == "a CA" else "notes")).write_text("precious")
    done = handfast(*INIT, "--no-passphrase")
    assert (done.code, done.out) == (1, "")
    assert ("there is a CA in ca already" if there == "a CA" else "not an empty directory") in done.err
    assert [path.read_text() for path in work.rglob("*") if path.is_file()] == ["precious"]


def test_a_script_that_wants_the_context_gets_it_and_nothing_is_written_over(work: Path, place: Path) -> None:
    handfast(*INIT, "--no-passphrase", "--write-context").check()
    written = place.read_text("utf-8")
    assert load(None if os.environ.get("HANDFAST_CONTEXT") else str(place)).credentials == work / "ca" / "operator"
    again = handfast("ca", "init", "other", "--trust-domain", "other.example", "--no-passphrase", "--write-context")
    assert (again.code, again.out) == (1, "")
    assert "already" in again.err
    assert place.read_text("utf-8") == written
    assert not (work / "other").exists()


@pytest.mark.parametrize("wish", [(), ("--no-write-context",)])
def test_a_script_that_does_not_ask_for_the_context_is_told_where_it_is(
    work: Path, place: Path, wish: tuple[str, ...]
) -> None:
    done = handfast(*INIT, "--no-passphrase", *wish).check()
    assert f"export HANDFAST_CONTEXT={work}/ca/operator/context.yaml" in done.err
    assert not place.exists()


def test_at_a_terminal_it_asks_for_a_passphrase_and_offers_the_context(work: Path, place: Path) -> None:
    """E1: the passphrase does not show, and seals both keys."""
    done = at_terminal(
        *INIT,
        answers=[
            ("Write the operator's context", "y"),
            ("Passphrase for the keys", "correct horse"),
            ("Repeat for confirmation", "correct horse"),
        ],
    )
    assert done.code == 0, done.shown
    assert done.out.startswith("sha256:")
    assert "correct horse" not in done.shown
    for name in ("root/root.key", "issuer/issuer.key"):
        assert json.loads((work / "ca" / name).read_bytes())["kdf"] == "argon2id"
    assert load(str(place)).credentials == work / "ca" / "operator"


def test_at_a_terminal_another_context_is_replaced_only_on_a_yes(work: Path, place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("precious")
    declined = at_terminal(*INIT, "--no-passphrase", answers=[("Replace it by that of test.example? [y/N]", "")])
    assert (declined.code, place.read_text()) == (0, "precious")
    agreed = at_terminal(
        "ca", "init", "two", "--trust-domain", "test.example", "--no-passphrase", answers=[("Replace it", "y")]
    )
    assert agreed.code == 0
    assert load(str(place)).credentials == work / "two" / "operator"


def test_control_c_at_the_question_leaves_nothing_behind(work: Path) -> None:
    done = at_terminal(*INIT, "--no-write-context", answers=[("Passphrase for the keys", INTERRUPT)])
    assert done.code == 130
    assert "Traceback" not in done.shown
    assert list(work.iterdir()) == []


def test_an_operator_s_key_that_others_may_read_is_told_with_every_command(tmp_path: Path) -> None:
    """E1: nobody listens here, and the warning comes before that is found out."""
    ca = RunningServe.initialised(tmp_path / "ca")
    assert "others may read it" not in ca.handfast("entry", "list").err
    (tmp_path / "ca" / "operator" / "tls.key").chmod(0o644)
    assert "tls.key has mode 0644, and others may read it: chmod 600" in ca.handfast("entry", "list").err
