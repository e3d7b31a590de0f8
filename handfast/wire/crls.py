"""Revocation lists on the wire: whole, as changes, or not at all when the reader has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from handfast.bundle import TrustBundle
from handfast.crl_change import ListStep, unusable
from handfast.crl_history import StepHistory
from handfast.errors import Invalid
from handfast.revocation import RevocationList, Revocations
from handfast.wire.v1 import trust_pb2, workload_pb2

__all__ = [
    "KnownList",
    "change_from_wire",
    "change_to_wire",
    "known_from_wire",
    "lists_from_snapshot",
    "put_lists",
    "reader_to_wire",
]

NUMBER_OCTETS = 20


@dataclass(frozen=True, slots=True)
class KnownList:
    """A list that somebody says it has."""

    number: int
    sha256: bytes


def change_to_wire(issuer_key_id: bytes, steps: Iterable[ListStep]) -> trust_pb2.CrlChange:
    return trust_pb2.CrlChange(
        issuer_key_id=issuer_key_id,
        steps=[
            trust_pb2.CrlStep(base_number=_number(step.base_number), removed=step.removed, outline=step.outline)
            for step in steps
        ],
    )


def change_from_wire(message: trust_pb2.CrlChange) -> tuple[bytes, tuple[ListStep, ...]]:
    """Raises ``Invalid`` (``INVALID_NUMBER``)."""
    steps = (ListStep(_read(step.base_number), tuple(step.removed), step.outline) for step in message.steps)
    return message.issuer_key_id, tuple(steps)


def reader_to_wire(known: Revocations) -> trust_pb2.CrlReader:
    """Of somebody who takes changes and has these lists."""
    lists = (
        trust_pb2.KnownCrl(
            issuer_key_id=one.issuer_key_id, number=_number(one.number), sha256=hashlib.sha256(one.der).digest()
        )
        for one in known.lists.values()
    )
    return trust_pb2.CrlReader(changes=True, known=lists)


def known_from_wire(reader: trust_pb2.CrlReader) -> Mapping[bytes, KnownList]:
    return {one.issuer_key_id: KnownList(_read(one.number), one.sha256) for one in reader.known}


def put_lists(
    message: workload_pb2.CredentialsSnapshot, lists: Revocations, before: Revocations, history: StepHistory
) -> None:
    """Into a snapshot for a reader that takes changes and was sent ``before``."""
    for key_id, newest in lists.lists.items():
        known = before.lists.get(key_id)
        if known is not None and known.der == newest.der:
            message.kept_crls.append(key_id)
            continue
        steps = history.steps(known.number, newest) if known is not None else ()
        if steps:
            message.crl_changes.append(change_to_wire(key_id, steps))
        else:
            message.crls.append(trust_pb2.Crl(issuer_key_id=key_id, der=newest.der))


def lists_from_snapshot(
    message: workload_pb2.CredentialsSnapshot, before: Revocations, bundle: TrustBundle, now: datetime
) -> Revocations:
    """The lists of a snapshot, each verified. ``before`` are those of the snapshot before on the same stream.

    Raises as :meth:`RevocationList.verify` and :meth:`RevocationList.after` do; then the whole snapshot must be asked for.
    """
    lists = [_before(before, key_id) for key_id in message.kept_crls]
    lists += [_verified(crl.der, before, bundle, now) for crl in message.crls]
    for change in message.crl_changes:
        key_id, steps = change_from_wire(change)
        lists.append(_before(before, key_id).after(steps, bundle, now=now))
    known = Revocations()
    for one in lists:
        known = known.with_list(one)
    return known


def _before(before: Revocations, key_id: bytes) -> RevocationList:
    known = before.lists.get(key_id)
    if known is None:
        raise unusable("there is no list of its issuer to take it from")
    return known


def _verified(der: bytes, before: Revocations, bundle: TrustBundle, now: datetime) -> RevocationList:
    """Octets that were verified before are not verified again."""
    same = next((one for one in before.lists.values() if one.der == der and bundle.issuer(one.issuer_key_id)), None)
    return same or RevocationList.verify(der, bundle, now=now)


def _number(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _read(octets: bytes) -> int:
    if len(octets) > NUMBER_OCTETS:
        raise Invalid(f"a CRL number of {len(octets)} octets is longer than {NUMBER_OCTETS}", reason="INVALID_NUMBER")
    return int.from_bytes(octets, "big")
