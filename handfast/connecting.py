"""The front door: where this process gets its credentials from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from handfast.credentials import Source
from handfast.errors import Unavailable
from handfast.sources.directory import DirectorySource
from handfast.sources.socket import SocketSource

__all__ = ["connect", "from_directory", "from_socket"]

SOCKET = "HANDFAST_AGENT_SOCKET"
DIRECTORY = "HANDFAST_CREDENTIALS_DIR"


def connect(*, wait: float = 30.0, environment: Mapping[str, str] = os.environ) -> Source:
    """The agent beside us: by ``HANDFAST_AGENT_SOCKET``, or else the files in ``HANDFAST_CREDENTIALS_DIR``.

    Waits up to ``wait`` seconds for the first credentials of a socket. Raises ``Unavailable``: ``NO_SOURCE`` when neither
    variable is set, and as :func:`from_socket` and :func:`from_directory`.

    >>> connect(environment={})
    Traceback (most recent call last):
    handfast.errors.Unavailable: neither HANDFAST_AGENT_SOCKET nor HANDFAST_CREDENTIALS_DIR is set
    """
    if path := environment.get(SOCKET):
        return from_socket(path, wait=wait)
    if path := environment.get(DIRECTORY):
        return from_directory(path)
    raise Unavailable(
        f"neither {SOCKET} nor {DIRECTORY} is set",
        reason="NO_SOURCE",
        hint=f"start the agent with `socket: PATH` in its configuration, and this program with {SOCKET}=PATH",
    )


def from_socket(path: Path | str, *, wait: float = 30.0) -> SocketSource:
    """Credentials from an agent's Unix socket. News arrive as they happen, within milliseconds.

    Raises ``Unavailable`` after ``wait`` seconds: ``NO_AGENT`` when nobody answers, ``NO_CREDENTIALS`` when the agent has none.

    >>> from_socket("/run/handfast/nobody/agent.sock", wait=0.1)
    Traceback (most recent call last):
    handfast.errors.Unavailable: no agent answers at /run/handfast/nobody/agent.sock after 0.1 s
    """
    return SocketSource(path, wait=wait)


def from_directory(path: Path | str) -> DirectorySource:
    """Credentials from the files that an agent writes, looked at five times a second.

    Raises ``NotFound`` or ``Invalid`` when there is no good set of files yet.

    >>> import tempfile
    >>> from cryptography import x509
    >>> from cryptography.hazmat.primitives.serialization import Encoding
    >>> from handfast.testing import TestAuthority
    >>> authority = TestAuthority("prod.example")
    >>> web = authority.issue("/web")
    >>> crl_pem = x509.load_der_x509_crl(authority.crl).public_bytes(Encoding.PEM)
    >>> files = {
    ...     "tls.key": web.key_pem,
    ...     "tls.crt": web.chain_pem,
    ...     "ca.crt": web.bundle.roots_pem,
    ...     "crl.pem": crl_pem,
    ... }
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     for name, text in files.items():
    ...         _ = Path(directory, name).write_bytes(text)
    ...     source = from_directory(directory)
    >>> str(source.current().spiffe_id)
    'spiffe://prod.example/web'
    >>> source.close()
    """
    return DirectorySource(path)
