"""One name, one key: a revocation list is in force for a *name* (RFC 5280, 5), whatever key signed it (threat J7).

Verifiers that go by the name alone would take the list of one key for that of another, and with it lose every revocation that
only the other one carries. So each ledger remembers which key a name belonged to, and no other one signs under it.
"""

from __future__ import annotations

import hashlib

from cryptography import x509

from handfast.errors import Refused
from handfast_ca.ledger import Ledger

__all__ = ["claim_name"]

_OCTETS = 7
"""Of the key's digest: what a mark, a whole number of 63 bits, has room for."""


async def claim_name(ledger: Ledger, issuing: x509.Certificate, key_id: bytes) -> None:
    """The first key that signs under a name keeps it for ever; its certificate may be renewed.

    Raises ``Refused`` (``ISSUER_NAME_REUSED``), and then nothing was signed or changed.
    """
    name = f"issuer {hashlib.sha256(issuing.subject.public_bytes()).hexdigest()}"
    own = int.from_bytes(hashlib.sha256(key_id).digest()[:_OCTETS], "big")
    if await ledger.mark(name) == 0:
        await ledger.raise_mark(name, own)
    if await ledger.mark(name) != own:
        raise Refused(
            f"the name {issuing.subject.rfc4514_string()!r} belongs to another key, which has signed with this ledger",
            reason="ISSUER_NAME_REUSED",
            hint="make the issuing CA with a name of its own: `handfast ca init` gives each one a random part",
        )
