"""What makes one CRL of another: entries that leave, entries that come, and the later list's own header and signature.

A list of 100,000 entries has some five megabytes, and the next one differs from it in a line or two. Whoever holds the first can
put the second together from a :class:`ListStep`, octet for octet. Nothing here is believed: what was assembled counts when its
signature, which is over the whole list, was verified (:meth:`handfast.revocation.RevocationList.after`). These are no delta CRLs
(RFC 5280, 5.2.4): every list that anybody signs or judges by is complete.

The DER is read and written by the library. What it cannot read as a version 2 list with nextUpdate and extensions
(RFC 5280, 5.1) raises ``Invalid`` (``CRL_CHANGE_UNUSABLE``), and the whole list must be had instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from cryptography.hazmat import asn1

from handfast.errors import Invalid

__all__ = ["Assembled", "ListStep", "assemble", "outline", "to_be_signed", "unusable"]


@dataclass(frozen=True, slots=True)
class ListStep:
    """From the list with ``base_number`` to the next one that was made.

    ``removed`` are positions in the base, rising. ``outline`` is the next list as it was signed, with those of its entries
    only that the base lacks; they stand at its end.
    """

    base_number: int
    removed: tuple[int, ...] = ()
    outline: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Assembled:
    """A list that was put together, unverified. ``added`` and ``removed`` are lists that hold only such entries, to be read:
    their signatures are worth nothing.
    """

    der: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    added: bytes = field(repr=False)
    removed: bytes = field(repr=False)
    count: int


@asn1.sequence
class _List:
    """CertificateList (RFC 5280, 5.1.1)."""

    tbs: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _Tbs:
    """TBSCertList (RFC 5280, 5.1.2). Without entries the list of them is absent (5.1.2.6)."""

    version: int
    algorithm: asn1.TLV
    issuer: asn1.TLV
    this_update: asn1.TLV
    next_update: asn1.TLV
    entries: list[asn1.TLV] | None
    extensions: Annotated[asn1.TLV, asn1.Explicit(0)]


def assemble(base: bytes, steps: Sequence[ListStep]) -> Assembled:
    """``base`` with all ``steps``, at least one, taken: the list that the last of them tells of. Raises ``Invalid``."""
    later, tbs = _read(steps[-1].outline)
    entries, removed = _read(base)[1].entries or [], list[asn1.TLV]()
    added: dict[int, asn1.TLV] = {}
    for step in steps:
        fresh = _read(step.outline)[1].entries or []
        # What an earlier step brought and this one takes away was never there.
        removed += [entry for entry in _picked(entries, step.removed) if added.pop(id(entry), None) is None]
        entries = _without(entries, step.removed) + fresh
        added |= {id(entry): entry for entry in fresh}
    whole = asn1.encode_der(_with_entries(tbs, entries))
    return Assembled(
        der=_written(whole, later),
        tbs=whole,
        added=_written(asn1.encode_der(_with_entries(tbs, list(added.values()))), later),
        removed=_written(asn1.encode_der(_with_entries(tbs, removed)), later),
        count=len(entries),
    )


def to_be_signed(base: bytes, removed: Sequence[int], rehearsed: bytes) -> bytes:
    """What the issuer signs: ``base`` without the positions ``removed``, with the entries and under the header of the list
    ``rehearsed``, which a throw-away key signed.
    """
    tbs = _read(rehearsed)[1]
    entries = _without(_read(base)[1].entries or [], removed) + (tbs.entries or [])
    return asn1.encode_der(_with_entries(tbs, entries))


def outline(rehearsed: bytes, signature: bytes) -> bytes:
    """The list ``rehearsed`` under the signature of the whole one."""
    of_it, _ = _read(rehearsed)
    return asn1.encode_der(replace(of_it, signature=asn1.BitString(signature, 0)))


def unusable(why: str) -> Invalid:
    return Invalid(f"the change of a CRL cannot be used: {why}", reason="CRL_CHANGE_UNUSABLE")


def _read(der: bytes) -> tuple[_List, _Tbs]:
    try:
        of_it = asn1.decode_der(_List, der)
        tbs: _Tbs = of_it.tbs.parse(_Tbs)
    except ValueError as error:
        raise unusable("a list in it is not DER as RFC 5280 has it") from error
    if asn1.encode_der(of_it.algorithm) != asn1.encode_der(tbs.algorithm):
        raise unusable("the two signature algorithms of a list in it differ (RFC 5280, 5.1.1.2)")
    return of_it, tbs


def _written(tbs: bytes, like: _List) -> bytes:
    return asn1.encode_der(replace(like, tbs=asn1.decode_der(asn1.TLV, tbs)))


def _with_entries(tbs: _Tbs, entries: list[asn1.TLV]) -> _Tbs:
    return replace(tbs, entries=entries or None)


def _picked(entries: list[asn1.TLV], positions: Iterable[int]) -> list[asn1.TLV]:
    try:
        return [entries[position] for position in positions]
    except IndexError as error:
        raise unusable(f"it removes an entry that a list of {len(entries)} does not have") from error


def _without(entries: list[asn1.TLV], positions: Sequence[int]) -> list[asn1.TLV]:
    if not positions:
        return entries
    leaving = set(positions)
    return [entry for position, entry in enumerate(entries) if position not in leaving]
