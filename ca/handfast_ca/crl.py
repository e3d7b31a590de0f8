"""What a CRL says, and whether it may take the place of the one before. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509

from handfast.errors import Broken, ViolationsCollector
from handfast.revocation import Reason, RevocationList, format_crl_number
from handfast_ca.ledger import CertificateRecord, CrlPlan, RevokedEntry

__all__ = ["Difference", "check_departures", "crl_builder", "difference", "lint_crl"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What comes to a list and what leaves it."""

    added: tuple[RevokedEntry, ...]
    removed: frozenset[int]


def crl_builder(
    plan: CrlPlan, issuer: x509.Certificate, validity: timedelta, entries: Iterable[RevokedEntry] | None = None
) -> x509.CertificateRevocationListBuilder:
    """Version 2, with CRL number and AKI. The entries, all of the plan's when none are given, go through the constructor:
    adding them one by one is quadratic.
    """
    extensions = (x509.CRLNumber(plan.number), x509.AuthorityKeyIdentifier(plan.issuer_key_id, None, None))
    return x509.CertificateRevocationListBuilder(
        issuer_name=issuer.subject,
        last_update=plan.this_update.replace(tzinfo=None),
        next_update=(plan.this_update + validity).replace(tzinfo=None),
        extensions=[x509.Extension(value.oid, False, value) for value in extensions],
        revoked_certificates=[_entry(revoked) for revoked in (plan.entries if entries is None else entries)],
    )


def _entry(revoked: RevokedEntry) -> x509.RevokedCertificate:
    """No reason code for "unspecified": it should be absent (RFC 5280, 5.3.1)."""
    reason = x509.CRLReason(revoked.reason.flag)
    given: list[x509.Extension[x509.ExtensionType]]
    given = [] if revoked.reason is Reason.UNSPECIFIED else [x509.Extension(reason.oid, False, reason)]
    moment = revoked.revoked_at.replace(tzinfo=None, microsecond=0)
    return x509.RevokedCertificateBuilder(revoked.serial, moment, given).build()


def difference(previous: RevocationList, plan: CrlPlan) -> Difference | None:
    """From ``previous`` to the planned list. None when a plan of differences does not fit it: list and ledger disagree, and must
    be compared whole.
    """
    if plan.base == 0:
        wanted = {revoked.serial for revoked in plan.entries}
        fresh = tuple(revoked for revoked in plan.entries if revoked.serial not in previous.serials)
        return Difference(fresh, previous.serials - wanted)
    removed = frozenset(plan.removed)
    fits = (
        plan.base == previous.number
        and removed <= previous.serials
        and not any(revoked.serial in previous.serials for revoked in plan.entries)
        and len(previous.serials) - len(removed) + len(plan.entries) == plan.total
    )
    return Difference(plan.entries, removed) if fits else None


def check_departures(
    previous: RevocationList, gone: Iterable[int], records: Iterable[CertificateRecord | None]
) -> None:
    """An entry may leave only when its certificate expired and a list of after that moment carried it (RFC 5280, 3.3).

    ``records`` in the order of ``gone``; None where the ledger has no such certificate. Raises ``Broken``
    (``CRL_ENTRIES_LOST``): the list must not be signed then, for it would bring revoked certificates back (threat D4).
    """
    found = ViolationsCollector()
    for serial, record in zip(gone, records, strict=True):
        if record is None:
            found.add(
                "entries", "CRL_ENTRIES_LOST", f"serial {serial:x} was revoked, and the ledger no longer knows it"
            )
        elif previous.this_update <= record.not_after:
            found.add(
                "entries",
                "CRL_ENTRIES_LOST",
                f"serial {serial:x} was revoked and expires at {record.not_after:%Y-%m-%dT%H:%M:%SZ}, "
                f"after the last CRL of {previous.this_update:%Y-%m-%dT%H:%M:%SZ}",
            )
    found.raise_if_any(
        "the next CRL would lose revocations and was not signed; the old one stays",
        kind=Broken,
        hint="compare the ledger with a backup: `handfast ca restore` never loses a revocation",
    )


def lint_crl(made: RevocationList, plan: CrlPlan, validity: timedelta, previous: RevocationList | None = None) -> None:
    """The signed list, read back like a stranger, says what was planned. Raises ``Broken`` (``LINT``).

    ``made`` was verified with what it says itself. For a plan of differences ``previous`` is the list that it tells them
    from, which was read in full when it was made.
    """
    planned = {revoked.serial for revoked in plan.entries}
    if plan.base and previous is not None:
        entries = made.serials - previous.serials == planned
        entries = entries and previous.serials - made.serials == frozenset(plan.removed)
        total = plan.total
    else:
        entries, total = made.serials == planned, len(planned)
    same = (
        made.number == plan.number
        and made.this_update == plan.this_update
        and made.next_update == plan.this_update + validity
        and entries
        and len(x509.load_der_x509_crl(made.der)) == len(made.serials) == total
    )
    if not same:
        raise Broken(
            f"CRL number {format_crl_number(plan.number)} is not what was planned, and is not published", reason="LINT"
        )
