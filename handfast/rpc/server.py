"""Server credentials that follow a source, and leave no session behind that could be resumed past a change.

grpcio asks for its configuration once for every new connection, on a thread of the C core that holds the GIL. A *new*
configuration invalidates the tickets of the one before, so that nothing is resumed past a change of leaf, bundle or
revocation list; without a change the answer is None, which keeps both.

A new configuration at every handshake would resume nothing at all, and is not safe: the C core (1.85) lets go of the one
before while a handshake that began a moment ago has not taken hold of it yet, and the process ends with a segmentation
fault within seconds of a hundred handshakes at a time. So a new one is given only when something changed, and only when
whoever asked last has had time to take hold (docs/adr/0004-per-call-judging.md).

Not promised here: revocation, and the dates of a certificate in a resumed session. The handshake proves a path to a root
and nothing else. :mod:`handfast.rpc.guard` judges every call, whatever the handshake was.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import cache

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from handfast.certificates import pem_chain
from handfast.clock import Clock, SystemClock
from handfast.credentials import Credentials, Source
from handfast.errors import HandfastError
from handfast.keys import dump_private_key_pem, generate

__all__ = ["server_credentials"]

TO_TAKE_HOLD = 0.05
"""Seconds between the last question and a new answer. The C core needs a microsecond, unless its thread is held up."""


def server_credentials(
    source: Source, *, require_client: bool = True, clock: Clock | None = None
) -> grpc.ServerCredentials:
    """Credentials for one ``add_secure_port`` of a sync or aio server; a second port needs credentials of its own.

    While the source has nothing, or only an expired certificate, every handshake fails: the server then presents a
    certificate that nobody trusts and trusts nobody.

    ``require_client=False`` does not ask for client certificates at all (grpcio cannot ask without demanding): for ports
    whose callers cannot have one yet.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from handfast.testing import TestAuthority
    >>> source = TestAuthority("prod.example").source("/orders")
    >>> server = grpc.server(
    ...     ThreadPoolExecutor(8)
    ... )  # with handfast.Guard among its interceptors: it is the guard that refuses
    >>> server.add_secure_port("127.0.0.1:0", server_credentials(source)) > 0
    True
    """
    configurations = _Configurations(source, clock or SystemClock(), require_client)
    return grpc.dynamic_ssl_server_credentials(
        configurations.present(),
        configurations.fetch,  # type: ignore[arg-type]  # gRPC takes None for "as it was"; its stubs do not know
        require_client_authentication=require_client,
    )


class _Configurations:
    """Keeps the PEM texts of the present snapshot, and what the port has of them. The C core asks one at a time."""

    def __init__(self, source: Source, clock: Clock, require_client: bool) -> None:
        self._source = source
        self._clock = clock
        self._require_client = require_client
        self._snapshot: Credentials | None = None
        self._texts = _nobody()
        self._handed: tuple[bytes, bytes, bytes] | None = None
        self._asked = time.monotonic()

    def present(self) -> grpc.ServerCertificateConfiguration:
        self._handed = key, chain, roots = self._present_texts()
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots if self._require_client else None)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """None when nothing changed. Holds up those who connect in the moment of a change, and nobody else."""
        try:
            if self._present_texts() is self._handed:
                return None
            time.sleep(max(0.0, self._asked + TO_TAKE_HOLD - time.monotonic()))
            return self.present()
        finally:
            self._asked = time.monotonic()

    def _present_texts(self) -> tuple[bytes, bytes, bytes]:
        try:
            snapshot = self._source.current()
        except HandfastError:
            return _nobody()
        if self._clock.now().timestamp() > snapshot.leaf.expires_at:
            return _nobody()
        if snapshot is not self._snapshot:
            roots = snapshot.bundle.roots_pem or _nobody()[2]
            self._texts = (snapshot.key_pem, snapshot.chain_pem, roots)
            self._snapshot = snapshot
        return self._texts


@cache
def _nobody() -> tuple[bytes, bytes, bytes]:
    """Key, certificate and root of nobody: grpcio keeps its old configuration when it is given none."""
    key = generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "no credentials")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), secrets.randbits(127) | 1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = pem_chain([certificate])
    return dump_private_key_pem(key), pem, pem
