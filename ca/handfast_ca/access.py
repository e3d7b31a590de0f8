"""Who may call what: the table that the guard's policy and the HTTP routes are made from.

What is not in it cannot be called by anybody, operators among them (threat A19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from handfast.access import AccessPolicy, allow, any_of
from handfast.identity import SpiffeId, TrustDomain

__all__ = ["METHODS", "OPEN_METHODS", "POSTED", "ROUTES", "Audience", "policy"]


class Audience(StrEnum):
    """Who is let in, and how each proves it."""

    ANYBODY = "anybody"
    """Over HTTP: public facts, nothing to prove. Over gRPC: whoever brings a proof inside of the request."""
    WORKLOADS = "workloads"
    """Every identity of the trust domain, operators among them, by the certificate of its connection."""
    OPERATORS = "operators"
    """The identities that ``operators`` in the configuration names, by the certificate of their connection."""


_REGISTRY = (
    "AddEntry", "ListEntries", "GetEntry", "RemoveEntry", "CreateToken", "Sign",
    "ListCertificates", "GetCertificate", "Revoke", "ListAudit", "GetStatus", "Release",
    "SurveyRevocation", "RevokeMany", "BeginReissue", "GetReissue", "GetBlastRadius",
)  # fmt: skip

METHODS: Mapping[str, Audience] = MappingProxyType(
    {
        "/handfast.v1.Authority/Enrol": Audience.ANYBODY,  # a join token stands in the request
        "/handfast.v1.Authority/Renew": Audience.WORKLOADS,
        "/handfast.v1.Authority/GetTrust": Audience.WORKLOADS,
        "/handfast.v1.Authority/WatchTrust": Audience.WORKLOADS,
        "/handfast.v1.Authority/OfferCheckpoint": Audience.WORKLOADS,
        "/handfast.v1.Authority/OfferCrl": Audience.WORKLOADS,
        "/handfast.v1.Authority/ReportStatus": Audience.WORKLOADS,
        **{f"/handfast.v1.Registry/{method}": Audience.OPERATORS for method in _REGISTRY},
        "/grpc.health.v1.Health/Check": Audience.WORKLOADS,
        "/grpc.health.v1.Health/List": Audience.WORKLOADS,
        "/grpc.health.v1.Health/Watch": Audience.WORKLOADS,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Audience.OPERATORS,
    }
)
"""Every gRPC method."""

OPEN_METHODS = frozenset(method for method, audience in METHODS.items() if audience is Audience.ANYBODY)
"""All that a caller without a certificate may call."""

ROUTES: Mapping[str, Audience] = MappingProxyType(
    dict.fromkeys(
        (
            "/crl/{issuer}.crl",
            "/crl/{issuer}.pem",
            "/ca/{issuer}.cer",
            "/bundle",
            "/bundle.pem",
            "/ocsp",
            "/ocsp/{request:path}",
            "/livez",
            "/readyz",
            "/metrics",
        ),
        Audience.ANYBODY,
    )
)
"""Every path of the plain HTTP port, which serves GET and HEAD and changes nothing."""

POSTED = frozenset({"/ocsp"})
"""Paths that take POST alone (RFC 6960, A.1): a question travels in the body, and it changes nothing either."""


def policy(trust_domain: TrustDomain, operators: Sequence[SpiffeId]) -> AccessPolicy:
    """The table as the guard judges by it."""
    shared = [method for method, audience in METHODS.items() if audience is not Audience.OPERATORS]
    for_workloads = allow(f"spiffe://{trust_domain}/*", methods=shared)
    return any_of(allow(*operators, methods=list(METHODS)), for_workloads) if operators else for_workloads
