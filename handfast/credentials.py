"""One immutable snapshot of all that a service needs for mutual TLS: key, chain, trust bundle, revocations.

Parts of different generations never meet: whoever reads a snapshot reads one generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from cryptography import x509

from handfast.access import AccessPolicy
from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, pem_chain, verify_leaf
from handfast.errors import Refused
from handfast.identity import SpiffeId
from handfast.keys import PrivateKey, dump_private_key_pem, matches
from handfast.revocation import EMPTY, RevocationList, Revocations

__all__ = ["Credentials", "PolicyReporter", "Source", "Subscriber"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A workload's credentials, checked when they are made: see :meth:`build`.

    ``key`` never shows in a repr. ``generation`` rises with every change of anything in here.

    >>> from handfast.testing import TestAuthority
    >>> credentials = TestAuthority("prod.example").issue("/web")
    >>> str(credentials.spiffe_id), credentials.leaf.dns_names
    ('spiffe://prod.example/web', ('localhost',))
    """

    leaf: Leaf
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    key: PrivateKey = field(repr=False)
    bundle: TrustBundle = field(repr=False)
    revocations: Revocations = field(repr=False)
    generation: int = 0

    @classmethod
    def build(
        cls,
        *,
        key: PrivateKey,
        chain: Iterable[x509.Certificate],
        bundle: TrustBundle,
        crls: Iterable[bytes] = (),
        revocations: Revocations = EMPTY,
        announced: Iterable[tuple[bytes, int]] = (),
        generation: int = 0,
        now: datetime,
    ) -> Credentials:
        """Checks everything that can be checked without a network, so that a broken set is never published.

        The key is the leaf's, the leaf leads to a root of the bundle and is valid at ``now``, the trust domain is the
        bundle's, each of ``crls`` is signed by a CA of the bundle; the lists of ``revocations`` were verified before, and are
        not verified again. Does not demand that CRLs are there, or fresh, or that they
        spare the own leaf: the guard judges that at every call. Raises ``Refused`` or ``Invalid``.
        """
        certificates = tuple(chain)
        if not certificates:
            raise Refused("the certificate chain is empty", reason="UNTRUSTED")
        leaf = Leaf.of(certificates[0])
        if not matches(key, leaf.certificate.public_key()):
            raise Refused(f"the private key is not the key of {leaf}", reason="KEY_MISMATCH")
        if leaf.spiffe_id.trust_domain != bundle.trust_domain:
            raise Refused(
                f"{leaf.spiffe_id} is not of the bundle's trust domain {bundle.trust_domain}",
                reason="FOREIGN_TRUST_DOMAIN",
            )
        usage = Usage.CLIENT if Usage.CLIENT in leaf.usages else Usage.SERVER
        verify_leaf(leaf, certificates[1:], bundle.roots, usage=usage, now=now)
        for der in crls:
            revocations = revocations.with_list(RevocationList.verify(der, bundle, now=now))
        return cls(leaf, certificates, key, bundle, revocations.announce(announced), generation)

    @property
    def spiffe_id(self) -> SpiffeId:
        return self.leaf.spiffe_id

    @property
    def chain_pem(self) -> bytes:
        """Leaf, then intermediates: what ``tls.crt`` holds."""
        return pem_chain(self.chain)

    @property
    def key_pem(self) -> bytes:
        """PKCS#8, not encrypted: what ``tls.key`` holds."""
        return dump_private_key_pem(self.key)


Subscriber = Callable[[Credentials | None], None]


@runtime_checkable
class PolicyReporter(Protocol):
    """A source that tells operators what is enforced with its credentials. ``report_policy`` returns at once, and raises
    nothing: who cannot be told now is told with the next snapshot.
    """

    def report_policy(self, policy: AccessPolicy) -> None: ...


class Source(Protocol):
    """Where a service's credentials come from: an agent's socket, a directory, a constant.

    ``current`` returns the present snapshot at once, without waiting, and raises ``Unavailable``
    (``NO_CREDENTIALS``) when there is none or it was withdrawn. ``subscribe`` calls back after every change, with None
    for a withdrawal, on any thread, in order; the callback must be quick and must not raise. It returns a function
    that ends the subscription. A source keeps its old snapshot when a new one is broken, and says so in the log.

    >>> from handfast.testing import TestAuthority
    >>> authority, serials = TestAuthority("prod.example"), []
    >>> source = authority.source("/web")
    >>> end = source.subscribe(lambda news: serials.append(news.leaf.serial if news else None))
    >>> authority.rotate(source)
    >>> serials == [source.current().leaf.serial]
    True
    >>> end()
    """

    def current(self) -> Credentials: ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]: ...

    def close(self) -> None: ...
