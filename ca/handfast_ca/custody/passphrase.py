"""Where a CA that starts by itself finds the passphrase of its key."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from handfast.errors import Refused

__all__ = ["CREDENTIAL", "VARIABLE", "find_passphrase", "read_passphrase"]

_log = logging.getLogger(__name__)
VARIABLE = "HANDFAST_PASSPHRASE_FILE"
CREDENTIAL = "handfast-passphrase"
"""The name to give it in systemd's ``LoadCredential=`` or ``LoadCredentialEncrypted=``."""


def find_passphrase(configured: Path | None, environment: Mapping[str, str]) -> bytes | None:
    """The first line of the first file that is named: by ``HANDFAST_PASSPHRASE_FILE``, as a systemd credential, in the
    configuration. None when none is. Raises ``Refused`` (``NO_PASSPHRASE_FILE``) when the one named cannot be read.
    """
    named = environment.get(VARIABLE)
    if named:
        return read_passphrase(Path(named))
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return read_passphrase(Path(credentials) / CREDENTIAL)
    return None if configured is None else read_passphrase(configured)


def read_passphrase(path: Path) -> bytes:
    """The first line of the file, without its end. One that others may read is taken, with a warning: a secret that a pod
    mounts is often as wide as that, and behind the pod's own walls.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except OSError as error:
        raise Refused(
            f"the passphrase file {path} cannot be read: {error.strerror}",
            reason="NO_PASSPHRASE_FILE",
            hint=f"name it under issuer.passphrase_file, or in {VARIABLE}",
        ) from error
    if mode & 0o007:
        _log.warning("the passphrase file %s has mode %04o, and others may read it: chmod 600", path, mode)
    return text.split(b"\n", 1)[0].removesuffix(b"\r")
