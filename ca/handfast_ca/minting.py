"""Steps 6 and 7 of the issuance cycle: what was planned is built and linted under a throw-away key; then the real key signs."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.errors import Broken
from handfast_ca.issuer import Issuer
from handfast_ca.lint import IssuerFacts, lint
from handfast_ca.template import LeafPlan, LeafTemplate
from handfast_ca.urls import PublicUrls

__all__ = ["Mint", "Rehearsed", "Signed"]


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """A leaf that was linted and is not signed yet: what ``builder`` makes, and ``tbs``, its octets to be signed."""

    plan: LeafPlan
    builder: x509.CertificateBuilder
    tbs: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Signed:
    """A finished leaf."""

    plan: LeafPlan
    certificate: x509.Certificate
    der: bytes


class Mint:
    """For one issuing CA."""

    def __init__(self, issuer: Issuer, urls: PublicUrls | None) -> None:
        self._issuer = issuer
        self._template = LeafTemplate(issuer.certificate, issuer.key_id, urls)
        self._facts = IssuerFacts.of(issuer.certificate, urls)

    def rehearse(self, plan: LeafPlan) -> Rehearsed:
        """6. The template builds, a throw-away key signs, the lint reads the finished bytes like a stranger. Raises
        ``Broken`` (``LINT``).
        """
        builder = self._template.builder(plan)
        rehearsed = self._issuer.rehearse(builder)
        lint(rehearsed.public_bytes(serialization.Encoding.DER), plan, self._facts)
        return Rehearsed(plan, builder, rehearsed.tbs_certificate_bytes)

    async def sign(self, rehearsed: Rehearsed) -> Signed:
        """7. The issuing key signs; what it signed is what was linted. Raises ``Broken`` (``LINT``), or ``Unavailable``
        (``KEY_UNAVAILABLE``).
        """
        certificate = await self._issuer.sign(rehearsed.builder)
        if certificate.tbs_certificate_bytes != rehearsed.tbs:
            raise Broken("the signed certificate is not the one that was linted", reason="LINT")
        return Signed(rehearsed.plan, certificate, certificate.public_bytes(serialization.Encoding.DER))
