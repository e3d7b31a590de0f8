"""A test kit for services that use Handfast: an authority in memory, and a clock that a test moves.

Nothing here touches the network or the disk, and nothing here is fit for production: the root key lies in memory.

>>> authority = TestAuthority("test.example")
>>> web = authority.issue("/web")
>>> str(web.spiffe_id)
'spiffe://test.example/web'
>>> authority.revoke(web)
>>> authority.issue("/db").revocations.revoked(web.leaf.issuer_key_id, web.leaf.serial)
True
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, subject_key_id
from handfast.clock import Clock, SystemClock
from handfast.credentials import Credentials
from handfast.identity import IPAddress, SpiffeId, TrustDomain
from handfast.keys import PrivateKey, PublicKey, generate, key_identifier
from handfast.revocation import Reason, RevocationList, Revocations
from handfast.sources.static import StaticSource

__all__ = ["ManualClock", "TestAuthority"]

LOOPBACK: tuple[IPAddress, ...] = (ipaddress.IPv4Address("127.0.0.1"),)


class ManualClock:
    """A clock that stands until it is moved.

    >>> clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    >>> clock.advance(timedelta(minutes=1))
    >>> clock.now().minute, clock.monotonic()
    (1, 60.0)
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = (start or datetime.now(UTC)).replace(microsecond=0)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Both clocks go on, as time does."""
        self._now += by
        self._monotonic += by.total_seconds()

    def step(self, by: timedelta) -> None:
        """Only the wall clock jumps, as when somebody sets it."""
        self._now += by


class TestAuthority:
    """Root, issuing CA and revocation list of one trust domain, in memory.

    Sources made by :meth:`source` follow: they see every revocation at once, and rotate when :meth:`rotate` says so.

    >>> authority = TestAuthority("prod.example")
    >>> orders, web = authority.source("/orders"), authority.source("/web")
    >>> leaf = web.current().leaf
    >>> authority.revoke(leaf)
    >>> orders.current().revocations.revoked(leaf.issuer_key_id, leaf.serial)
    True
    """

    __test__ = False  # for pytest: this is no test class

    def __init__(
        self,
        trust_domain: str = "test.example",
        *,
        clock: Clock | None = None,
        list_validity: timedelta = timedelta(hours=12),
    ) -> None:
        self.trust_domain = TrustDomain(trust_domain)
        self.clock = clock or SystemClock()
        self.list_validity = list_validity
        self._lock = threading.RLock()
        self._revoked: dict[int, tuple[datetime, Reason]] = {}
        self._sources: list[tuple[StaticSource, dict[str, object]]] = []
        self._generation = 0
        self._number = 0
        self._sequence = 1
        self._last_update = datetime.fromtimestamp(0, UTC)
        self.root_key, self.root = self._make_root()
        self.issuer_key, self.issuer = self._make_issuer()
        self.bundle = self._make_bundle((self.root,), (self.issuer,))
        self._root_list = self._sign_list(self.root, self.root_key, 1, self.clock.now() - timedelta(minutes=1), ())
        self.crl = self._publish()

    def issue(
        self,
        identity: str = "/workload",
        *,
        dns_names: Iterable[str] = ("localhost",),
        ip_addresses: Iterable[IPAddress] = LOOPBACK,
        usages: Iterable[Usage] = tuple(Usage),
        lifetime: timedelta = timedelta(hours=1),
        key: PrivateKey | None = None,
    ) -> Credentials:
        """Credentials for a SPIFFE ID, or for a path in this trust domain."""
        key = key or generate()
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(self._identity(identity)))]
        names += [x509.DNSName(name) for name in dns_names]
        names += [x509.IPAddress(address) for address in ip_addresses]
        certificate = self.sign_leaf(key.public_key(), names, usages=usages, lifetime=lifetime)
        return self._credentials(key, certificate)

    def sign_leaf(
        self,
        public_key: PublicKey,
        names: Iterable[x509.GeneralName],
        *,
        usages: Iterable[Usage] = tuple(Usage),
        lifetime: timedelta = timedelta(hours=1),
        not_before: datetime | None = None,
    ) -> x509.Certificate:
        """Signs whatever names it is given: tests of refusals need wrong certificates too."""
        now = self.clock.now().replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.issuer.subject)
            .public_key(public_key)
            .serial_number(secrets.randbits(127) | 1)
            .not_valid_before(not_before or now - timedelta(seconds=30))
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(_issuer_reference(self.issuer), critical=False)
            .add_extension(x509.SubjectKeyIdentifier(key_identifier(public_key)), critical=False)
        )
        oids = [usage.oid for usage in usages]
        if oids:
            builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
        return builder.sign(self.issuer_key, hashes.SHA256())

    def revoke(self, revoked: Credentials | Leaf | int, reason: Reason = Reason.UNSPECIFIED) -> None:
        """Signs a new list with this certificate on it, and gives it to every source. Twice is no error."""
        self.revoke_all([revoked if isinstance(revoked, int) else _leaf(revoked).serial], reason)

    def revoke_all(self, serials: Iterable[int], reason: Reason = Reason.UNSPECIFIED) -> None:
        """As :meth:`revoke`, with one new list for them all."""
        with self._lock:
            for serial in serials:
                self._revoked.setdefault(serial, (self.clock.now(), reason))
            self.crl = self._publish()
            self._tell_sources()

    def source(self, identity: str = "/workload", **how: object) -> StaticSource:
        """A source whose credentials follow this authority; ``how`` is passed to :meth:`issue` at each rotation."""
        source = StaticSource(self.issue(identity, **how))  # type: ignore[arg-type]
        with self._lock:
            self._sources.append((source, {"identity": identity, **how}))
        return source

    def rotate(self, source: StaticSource | None = None) -> None:
        """New key and certificate for one source, or for all."""
        with self._lock:
            for known, how in self._sources:
                if source is None or known is source:
                    known.publish(self.issue(**how))  # type: ignore[arg-type]

    def refresh_list(self) -> None:
        """Signs the list again, as the CA does on schedule."""
        with self._lock:
            self.crl = self._publish()
            self._tell_sources()

    def set_roots(self, roots: Iterable[x509.Certificate], issuers: Iterable[x509.Certificate] = ()) -> None:
        """Another bundle for everybody; no roots at all means that nothing is trusted."""
        with self._lock:
            self._sequence += 1
            self.bundle = self._make_bundle(tuple(roots), tuple(issuers))
            self._tell_sources()

    @property
    def revocations(self) -> Revocations:
        """As every member of the trust domain knows them now."""
        now = self.clock.now()
        known = Revocations()
        for der in (self._root_list, self.crl):
            known = known.with_list(RevocationList.verify(der, self._own_bundle, now=now))
        return known

    @property
    def _own_bundle(self) -> TrustBundle:
        return self._make_bundle((self.root,), (self.issuer,))

    def _identity(self, text: str) -> SpiffeId:
        return SpiffeId.parse(f"spiffe://{self.trust_domain}{text}" if text.startswith("/") else text)

    def _make_bundle(self, roots: tuple[x509.Certificate, ...], issuers: tuple[x509.Certificate, ...]) -> TrustBundle:
        return TrustBundle(self.trust_domain, roots, issuers, self._sequence)

    def _credentials(self, key: PrivateKey, certificate: x509.Certificate) -> Credentials:
        with self._lock:
            self._generation += 1
            leaf = Leaf.of(certificate)
            return Credentials(leaf, (certificate, self.issuer), key, self.bundle, self.revocations, self._generation)

    def _tell_sources(self) -> None:
        revocations = self.revocations
        for source, _ in self._sources:
            present = source.peek()
            if present is not None:
                self._generation += 1
                source.publish(
                    replace(present, bundle=self.bundle, revocations=revocations, generation=self._generation)
                )

    def _publish(self) -> bytes:
        """thisUpdate rises by a second with each number, backdated so that it is never ahead of the clock for thirty."""
        now = self.clock.now().replace(microsecond=0)
        this_update = max(self._last_update + timedelta(seconds=1), now - timedelta(seconds=30))
        self._last_update = this_update
        self._number += 1
        entries = tuple((serial, at, reason) for serial, (at, reason) in self._revoked.items())
        return self._sign_list(self.issuer, self.issuer_key, self._number, this_update, entries)

    def _sign_list(
        self,
        issuer: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        number: int,
        this_update: datetime,
        entries: Iterable[tuple[int, datetime, Reason]],
    ) -> bytes:
        revoked = [
            x509.RevokedCertificateBuilder(serial, at.replace(microsecond=0, tzinfo=None)).build()
            for serial, at, _ in entries
        ]
        builder = x509.CertificateRevocationListBuilder(
            issuer.subject,
            this_update.replace(tzinfo=None),
            (this_update + self.list_validity).replace(tzinfo=None),
            revoked_certificates=revoked,
        )
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        builder = builder.add_extension(_issuer_reference(issuer), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def _make_root(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{self.trust_domain} test root {secrets.token_hex(4)}")
        return key, self._sign_ca(name, key, name, key, None, path_length=1)

    def _make_issuer(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{self.trust_domain} test issuer {secrets.token_hex(4)}")
        return key, self._sign_ca(name, key, self.root.subject, self.root_key, self.root, path_length=0)

    def _sign_ca(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer_name: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        *,
        path_length: int,
    ) -> x509.Certificate:
        now = self.clock.now().replace(microsecond=0)
        own_id = x509.SubjectKeyIdentifier(key_identifier(key.public_key()))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(secrets.randbits(127) | 1)
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(own_id, critical=False)
        )
        if issuer is not None:
            builder = builder.add_extension(_issuer_reference(issuer), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def _leaf(of: Credentials | Leaf) -> Leaf:
    return of.leaf if isinstance(of, Credentials) else of


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _issuer_reference(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(subject_key_id(issuer), None, None)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
