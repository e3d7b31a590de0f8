"""A CA's parts in memory, for the tests of its core."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from handfast.bundle import TrustBundle
from handfast.identity import SpiffeId, TrustDomain
from handfast_ca.ceremony import CertificateAuthority, make_issuer, make_root, make_root_crl
from handfast_ca.issuer import LocalIssuer
from handfast_ca.registration import Entry, register
from handfast_ca.urls import PublicUrls

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain("test.example")
URLS = PublicUrls("http://ca.test.example:7080")
WEB = SpiffeId.parse("spiffe://test.example/web")
DB = SpiffeId.parse("spiffe://test.example/db")


class Ceremony:
    """One root, one issuing CA, the root's list and the bundle of both, as of ``now``."""

    def __init__(self, now: datetime = NOW) -> None:
        self.root: CertificateAuthority = make_root(TRUST_DOMAIN, now=now)
        self.issuing: CertificateAuthority = make_issuer(self.root, TRUST_DOMAIN, now=now, urls=URLS)
        self.root_crl = make_root_crl(self.root, now=now, next_update=now + timedelta(days=120))
        self.issuer = LocalIssuer(self.issuing.certificate, self.issuing.key)
        self.bundle = TrustBundle(TRUST_DOMAIN, (self.root.certificate,), (self.issuing.certificate,), sequence=1)


def entry(identity: SpiffeId = WEB, **fields: object) -> Entry:
    """A valid entry for the test trust domain."""
    given: dict[str, object] = {"dns_names": ["web.shop.svc"], **fields}
    return register(str(identity), trust_domain=TRUST_DOMAIN, longest=timedelta(hours=24), **given)  # type: ignore[arg-type]
