"""What the CA answered, against what was asked for. Nothing is written or served before this said yes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from handfast.certificates import Usage
from handfast.credentials import Credentials
from handfast.errors import Broken, HandfastError, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId
from handfast.keys import PrivateKey
from handfast.lifetime import RenewalWindow
from handfast_agent.trust import News, Trust

__all__ = ["Answer", "Wanted", "checked"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who the workload is meant to be, and what its certificate must carry."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()
    usages: frozenset[Usage] = frozenset(Usage)


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
    found.raise_if_any("what the CA answered is not what was asked for", kind=Broken)
    return credentials
