"""CA keys at rest: threats E1 and E2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.errors import Broken, Conflict, HandfastError, Invalid, NotFound, Refused
from handfast.keys import generate, spki_der
from handfast_ca.custody.file import Stretching, load_key, seal, store_key, unseal

QUICK = Stretching(iterations=1, lanes=1, memory_kib=64)
PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_what_is_stored_is_read_back(tmp_path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> None:
    path = tmp_path / "issuer.key"
    store_key(path, key, passphrase, QUICK)
    assert spki_der(load_key(path, passphrase).public_key()) == spki_der(key.public_key())


def test_the_file_is_for_its_owner_alone_from_the_first_moment_whatever_the_umask(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """E1."""
    path = tmp_path / "issuer.key"
    before = os.umask(0)
    try:
        store_key(path, key, PASSPHRASE, QUICK)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o700, 0o604])
def test_a_key_that_others_could_read_is_refused(tmp_path: Path, key: ec.EllipticCurvePrivateKey, mode: int) -> None:
    """E1."""
    path = tmp_path / "issuer.key"
    store_key(path, key, PASSPHRASE, QUICK)
    path.chmod(mode)
    with pytest.raises(Broken) as refused:
        load_key(path, PASSPHRASE)
    assert refused.value.reason == "KEY_FILE_MODE"
    assert f"{mode:04o}" in refused.value.message


def test_a_key_is_never_written_over_another_nor_through_a_link(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """E6."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / "issuer.key").symlink_to(tmp_path / "other")
    with pytest.raises(Conflict):
        store_key(tmp_path / "issuer.key", key, PASSPHRASE, QUICK)
    assert (tmp_path / "other").read_text() == "precious"


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        load_key(tmp_path / "issuer.key", PASSPHRASE)
    assert missing.value.reason == "NO_KEY"


@pytest.mark.parametrize(("passphrase", "reason"), [(b"wrong", "WRONG_PASSPHRASE"), (None, "PASSPHRASE_NEEDED")])
def test_without_the_passphrase_there_is_no_key(
    key: ec.EllipticCurvePrivateKey, passphrase: bytes | None, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        unseal(seal(key, PASSPHRASE, QUICK), passphrase)
    assert refused.value.reason == reason


def test_an_empty_passphrase_is_not_taken_for_one(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(Invalid) as refused:
        seal(key, b"", QUICK)
    assert refused.value.reason == "EMPTY_PASSPHRASE"


@pytest.mark.parametrize("field", ["format", "iterations", "lanes", "memory_kib", "salt", "nonce", "key"])
def test_no_part_of_the_container_can_be_changed(key: ec.EllipticCurvePrivateKey, field: str) -> None:
    container = json.loads(seal(key, PASSPHRASE, Stretching(iterations=2, lanes=2, memory_kib=64)))
    value = container[field]
    changes = {"key": "A" + value[1:] if field == "key" and value[0] != "A" else "B", "format": "handfast-key-v2"}
    flipped = value[::-1] if isinstance(value, str) else value - 1
    container[field] = changes.get(field, flipped)
    with pytest.raises(HandfastError) as refused:
        unseal(json.dumps(container).encode(), PASSPHRASE)
    assert refused.value.reason in {"WRONG_PASSPHRASE", "KEY_MALFORMED"}


def test_a_container_cannot_ask_for_a_gigabyte_of_work(key: ec.EllipticCurvePrivateKey) -> None:
    """H5."""
    container = json.loads(seal(key, PASSPHRASE, QUICK))
    container["memory_kib"] = 1 << 30
    with pytest.raises(Invalid) as refused:
        unseal(json.dumps(container).encode(), PASSPHRASE)
    assert refused.value.reason == "KEY_MALFORMED"


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"key":"AAAA","kdf":"none"}', b"\xff"])
def test_what_is_no_container_is_called_so(data: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        unseal(data, PASSPHRASE)
    assert refused.value.reason == "KEY_MALFORMED"


def test_nothing_of_the_key_shows_in_the_file_or_in_an_error(key: ec.EllipticCurvePrivateKey) -> None:
    """E2."""
    scalar = key.private_numbers().private_value.to_bytes(48, "big")
    sealed = seal(key, PASSPHRASE, QUICK)
    assert scalar not in sealed
    assert scalar.hex().encode() not in sealed
    assert b"PRIVATE KEY" not in sealed


def test_a_process_that_holds_a_key_leaves_no_core_file() -> None:
    """E2. In a process of its own, since the limit can't be lifted again."""
    program = (
        "import resource\n"
        "from handfast_ca.custody.process import forbid_core_dumps\n"
        "print(forbid_core_dumps(), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "True (0, 0)"


def test_a_key_is_not_read_through_a_link(tmp_path: Path) -> None:
    """E6: who may write beside it could swap it."""
    store_key(tmp_path / "real.key", generate(), None)
    (tmp_path / "link.key").symlink_to("real.key")
    with pytest.raises(Broken, match=r"link\.key is a symbolic link") as refused:
        load_key(tmp_path / "link.key", None)
    assert refused.value.reason == "KEY_FILE_MODE"
    assert "issuer.key" in refused.value.hint


def test_a_key_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """E1: a loop of links is the one that even root cannot open."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Broken, match=r"a/x cannot be read"):
        load_key(tmp_path / "a" / "x", None)


def test_no_other_process_of_the_user_reads_the_memory_of_one_that_holds_a_key() -> None:
    """E2: the kernel is asked whether the process may be dumped, and so be attached to."""
    code = (
        "import ctypes; from handfast_ca.custody.process import forbid_core_dumps; forbid_core_dumps();"
        " print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "0"
