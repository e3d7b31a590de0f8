"""Server credentials that follow a source, and leave no session behind a change of it that could be resumed.

grpcio asks for its configuration once for every new connection, on a thread of the C core; the answer is made beforehand and
only looked up. A *new* configuration object makes a new TLS context, which knows no ticket of the one before: nothing is
resumed past a change of leaf, bundle or revocation list. Between changes a session may be resumed, and proves what its first
handshake did; the guard judges every call on it by the present snapshot, as on any other.

Why not a new object for each handshake: the C core replaces its context while other threads still begin handshakes with the
old one (grpc/grpc issue 36693, open), and aborts the process when two meet. With one replacement for each connection, three
hundred idle connections were enough for that in about one of four runs.

Not promised here: revocation. The handshake proves a path to a root and nothing else. :mod:`handfast.rpc.guard` judges.
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

SETTLE_SECONDS = 0.02
"""Before a context is replaced: connections that began with the old one have this long to take hold of it."""


def server_credentials(
    source: Source, *, require_client: bool = True, clock: Clock | None = None
) -> grpc.ServerCredentials:
    """Credentials for one ``add_secure_port``, of a sync or an aio server; a second port takes credentials of its own.

    While the source has nothing, or only an expired certificate, every handshake fails: the server then presents a
    certificate that nobody trusts and trusts nobody.

    ``require_client=False`` does not ask for client certificates at all (grpcio cannot ask without demanding): for ports
    whose callers cannot have one yet.
    """
    configurations = _Configurations(source, clock or SystemClock(), require_client)
    return grpc.dynamic_ssl_server_credentials(
        configurations.first(),
        configurations.fetch,  # type: ignore[arg-type]  # None is "unchanged", which the stubs do not know
        require_client_authentication=require_client,
    )


class _Configurations:
    """Keeps the PEM texts of the present snapshot. The C core calls :meth:`fetch` under a lock of its own, one by one."""

    def __init__(self, source: Source, clock: Clock, require_client: bool) -> None:
        self._source = source
        self._clock = clock
        self._require_client = require_client
        self._handed_out: Credentials | None = None

    def first(self) -> grpc.ServerCertificateConfiguration:
        self._handed_out = self._present()
        return self._configuration(self._handed_out)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """None while nothing changed: grpcio keeps its context."""
        present = self._present()
        if present is self._handed_out:
            return None
        time.sleep(SETTLE_SECONDS)
        self._handed_out = present
        return self._configuration(present)

    def _present(self) -> Credentials | None:
        try:
            snapshot = self._source.current()
        except HandfastError:
            return None
        return None if self._clock.now().timestamp() > snapshot.leaf.expires_at else snapshot

    def _configuration(self, snapshot: Credentials | None) -> grpc.ServerCertificateConfiguration:
        key, chain, roots = _nobody()
        if snapshot is not None:
            key, chain, roots = snapshot.key_pem, snapshot.chain_pem, snapshot.bundle.roots_pem or roots
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots if self._require_client else None)


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
