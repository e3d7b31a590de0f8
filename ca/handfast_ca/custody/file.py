"""CA keys in files: sealed with Argon2id and AES-256-GCM, mode 0600 from the first moment, refused when wider.

PKCS#8's own encryption stretches a passphrase with 2,048 rounds of PBKDF2, which is not good enough for a CA's key. The
container is one JSON document; everything in it but the sealed key is authenticated with it (RFC 9106, 4; SP 800-38D).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from handfast.errors import Broken, Conflict, Invalid, NotFound, Refused
from handfast.keys import CaPrivateKey
from handfast_ca.durable import sync_directory

__all__ = ["Stretching", "is_sealed", "load_key", "read_container", "seal", "store_key", "unseal"]

FORMAT = "handfast-key-v1"
NO_PASSPHRASE = "none"  # noqa: S105 - says that there is none
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Stretching:
    """Argon2id parameters (RFC 9106, 4: the second recommended option). ``memory_kib`` in KiB."""

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 64 * 1024

    def derive(self, passphrase: bytes, salt: bytes) -> bytes:
        kdf = Argon2id(salt=salt, length=32, iterations=self.iterations, lanes=self.lanes, memory_cost=self.memory_kib)
        return kdf.derive(passphrase)


DEFAULT_STRETCHING = Stretching()
_BOUNDS = Stretching(iterations=16, lanes=16, memory_kib=1024 * 1024)
"""A container can't make us work harder than this before its passphrase is checked."""


def seal(key: CaPrivateKey, passphrase: bytes | None, stretching: Stretching = DEFAULT_STRETCHING) -> bytes:
    """The key as a file holds it. ``passphrase`` None is the explicit choice of a file that is protected by its mode
    alone.
    """
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if passphrase is None:
        return _dump({"format": FORMAT, "kdf": NO_PASSPHRASE}, plain)
    if not passphrase:
        raise Invalid("the passphrase is empty", reason="EMPTY_PASSPHRASE", hint="--no-passphrase says it on purpose")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    header = {"format": FORMAT, "kdf": "argon2id", **asdict(stretching), "salt": salt.hex(), "nonce": nonce.hex()}
    sealed = AESGCM(stretching.derive(passphrase, salt)).encrypt(nonce, plain, _authenticated(header))
    return _dump(header, sealed)


def unseal(data: bytes, passphrase: bytes | None) -> CaPrivateKey:
    """Raises ``Invalid`` (``KEY_MALFORMED``) or ``Refused`` (``WRONG_PASSPHRASE``, ``PASSPHRASE_NEEDED``)."""
    try:
        header = json.loads(data)
        sealed = base64.b64decode(header.pop("key"), validate=True)
        plain = sealed if header["kdf"] == NO_PASSPHRASE else _open(header, sealed, passphrase)
        key = serialization.load_der_private_key(plain, password=None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid("the key file is not a Handfast key container", reason="KEY_MALFORMED") from error
    return key  # type: ignore[return-value]  # only what seal() took gets in


def _open(header: dict[str, object], sealed: bytes, passphrase: bytes | None) -> bytes:
    if passphrase is None:
        raise Refused(
            "the key file is sealed, and no passphrase was given",
            reason="PASSPHRASE_NEEDED",
            hint="name a file that holds it: issuer.passphrase_file",
        )
    stretching = Stretching(*(int(str(header[name])) for name in ("iterations", "lanes", "memory_kib")))
    if any(value > limit for value, limit in zip(asdict(stretching).values(), asdict(_BOUNDS).values(), strict=True)):
        raise Invalid("the key file asks for more work than any of ours would", reason="KEY_MALFORMED")
    secret = stretching.derive(passphrase, bytes.fromhex(str(header["salt"])))
    try:
        return AESGCM(secret).decrypt(bytes.fromhex(str(header["nonce"])), sealed, _authenticated(header))
    except InvalidTag as error:
        raise Refused("the passphrase is wrong, or the key file was changed", reason="WRONG_PASSPHRASE") from error


def _authenticated(header: dict[str, object]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def _dump(header: dict[str, object], key: bytes) -> bytes:
    return json.dumps({**header, "key": base64.b64encode(key).decode("ascii")}, indent=2).encode("ascii") + b"\n"


def store_key(
    path: Path, key: CaPrivateKey, passphrase: bytes | None, stretching: Stretching = DEFAULT_STRETCHING
) -> None:
    """Writes a new file, mode 0600 whatever the umask, durable on return. ``Conflict`` (``KEY_EXISTS``) when there is
    one.
    """
    data = seal(key, passphrase, stretching)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    except FileExistsError as error:
        raise Conflict(f"there is a key file {path} already", reason="KEY_EXISTS") from error
    with os.fdopen(file, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    sync_directory(path.parent)


def is_sealed(path: Path) -> bool:
    """Whether the key file needs a passphrase. False for what is no key file: :func:`load_key` says what is wrong."""
    try:
        return bool(json.loads(path.read_bytes())["kdf"] != NO_PASSPHRASE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_key(path: Path, passphrase: bytes | None) -> CaPrivateKey:
    """Reads a key file. Raises what :func:`read_container` and :func:`unseal` raise."""
    return unseal(read_container(path), passphrase)


def read_container(path: Path) -> bytes:
    """A key file as it is, sealed or not. ``NotFound`` (``NO_KEY``), or ``Broken`` (``KEY_FILE_MODE``) when others than
    its owner could read or change it (threat E1), or swap it because it is a link (E6), or it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no key file {path}", reason="NO_KEY") from error
    except OSError as error:
        if path.is_symlink():
            raise Broken(
                f"key file {path} is a symbolic link: who may change the link chooses the key",
                reason="KEY_FILE_MODE",
                hint="name the file itself: issuer.key in the configuration",
            ) from error
        raise Broken(f"key file {path} cannot be read: {error.strerror}", reason="KEY_FILE_MODE") from error
    with os.fdopen(file, "rb") as stored:
        _check_mode(path, os.fstat(stored.fileno()))
        return stored.read()


def _check_mode(path: Path, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~_MODE:
        raise Broken(
            f"key file {path} has mode {mode:04o}, wider than {_MODE:04o}",
            reason="KEY_FILE_MODE",
            hint=f"chmod 600 {path}, and ask who may have read it",
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise Broken(f"key file {path} belongs to user {found.st_uid}, not to {os.geteuid()}", reason="KEY_FILE_MODE")
