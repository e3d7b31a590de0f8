"""Server credentials that follow a source, and leave no session behind that could be resumed.

grpcio asks for its configuration once for every new connection, on a thread of the C core that holds the GIL; the answer is
made beforehand and only looked up. A *new* configuration object for each handshake invalidates the tickets of the one before,
so that nothing is ever resumed past a change of leaf, bundle or revocation list (a full handshake costs some milliseconds).

Not promised here: revocation. The handshake proves a path to a root and nothing else. :mod:`handfast.rpc.guard` judges.
"""

from __future__ import annotations

import secrets
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


def server_credentials(
    source: Source, *, require_client: bool = True, clock: Clock | None = None
) -> grpc.ServerCredentials:
    """Credentials for ``add_secure_port`` of sync and aio servers.

    While the source has nothing, or only an expired certificate, every handshake fails: the server then presents a
    certificate that nobody trusts and trusts nobody.

    ``require_client=False`` does not ask for client certificates at all (grpcio cannot ask without demanding): for ports
    whose callers cannot have one yet.
    """
    configurations = _Configurations(source, clock or SystemClock(), require_client)
    return grpc.dynamic_ssl_server_credentials(
        configurations.fetch(), configurations.fetch, require_client_authentication=require_client
    )


class _Configurations:
    """Keeps the PEM texts of the present snapshot, and wraps them anew for each handshake."""

    def __init__(self, source: Source, clock: Clock, require_client: bool) -> None:
        self._source = source
        self._clock = clock
        self._require_client = require_client
        self._snapshot: Credentials | None = None
        self._texts = _nobody()

    def fetch(self) -> grpc.ServerCertificateConfiguration:
        key, chain, roots = self._present_texts()
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots if self._require_client else None)

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
