"""What the CA answered, against what was asked for. Nothing is written or served before this said yes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from handfast.certificates import Usage
from handfast.credentials import Credentials
from handfast.errors import Broken, HandfastError, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId
from handfast.keys import PrivateKey
from handfast.lifetime import RenewalWindow, format_duration
from handfast_agent.trust import News, Trust

__all__ = ["Answer", "Wanted", "checked"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who the workload is meant to be, and what its certificate must carry.

    ``max_lifetime``: no certificate that lives longer is taken; None leaves that to the CA.
    """

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()
    usages: frozenset[Usage] = frozenset(Usage)
    max_lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came from the CA, parsed and not yet believed."""

    chain: tuple[x509.Certificate, ...]
    news: News
    suggested: RenewalWindow | None = None


def checked(
    wanted: Wanted, key: PrivateKey, chain: Sequence[x509.Certificate], trust: Trust, now: datetime
) -> Credentials:
    """The credentials, when key, identity, path, validity, names and usages are those that were asked for.

    Raises ``Broken`` (``ANSWER_MISMATCH``) with every reason. Does not look at revocations: the driver does.
    """
    if trust.bundle is None:
        raise Broken("the CA answered without a trust bundle", reason="ANSWER_MISMATCH")
    try:
        credentials = Credentials.build(
            key=key,
            chain=chain,
            bundle=trust.bundle,
            revocations=trust.revocations,
            now=now,
        )
    except HandfastError as error:
        raise Broken(
            f"what the CA answered is not usable: {error.message}",
            reason="ANSWER_MISMATCH",
            violations=error.violations,
        ) from error
    found = ViolationsCollector()
    leaf = credentials.leaf
    if leaf.spiffe_id != wanted.spiffe_id:
        found.add("spiffe_id", "ANSWER_MISMATCH", f"the certificate is for {leaf.spiffe_id}, not {wanted.spiffe_id}")
    for name in sorted(set(wanted.dns_names) - set(leaf.dns_names)):
        found.add("dns_names", "ANSWER_MISMATCH", f"the certificate lacks the DNS name {name}")
    for address in sorted(set(wanted.ip_addresses) - set(leaf.ip_addresses), key=str):
        found.add("ip_addresses", "ANSWER_MISMATCH", f"the certificate lacks the address {address}")
    for usage in sorted(wanted.usages - leaf.usages):
        found.add("usages", "ANSWER_MISMATCH", f"the certificate is not for use as a TLS {usage}")
    _check_lifetime(wanted, credentials, found)
    found.raise_if_any(
        "what the CA answered is not what was asked for",
        kind=Broken,
        hint="the configuration must not ask for more than the entry gives: `handfast entry show`",
    )
    return credentials


def _check_lifetime(wanted: Wanted, credentials: Credentials, found: ViolationsCollector) -> None:
    """A leaf that outlives its issuer would be no leaf of anybody before its end."""
    validity = credentials.leaf.validity
    for issuer in credentials.chain[1:2]:
        if validity.not_after > issuer.not_valid_after_utc:
            ends = issuer.not_valid_after_utc.isoformat()
            found.add("not_after", "ANSWER_MISMATCH", f"the certificate outlives its issuer, which ends at {ends}")
    if wanted.max_lifetime is not None and validity.duration > wanted.max_lifetime:
        found.add(
            "not_after",
            "ANSWER_MISMATCH",
            f"validity {format_duration(validity.duration)} exceeds max_lifetime {format_duration(wanted.max_lifetime)}",
        )
