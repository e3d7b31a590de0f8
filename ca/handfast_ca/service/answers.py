"""The core's values as messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from handfast.bundle import TrustBundle
from handfast.certificates import format_serial
from handfast.crl_history import StepHistory
from handfast.lifetime import RenewalWindow
from handfast.revocation import RevocationList
from handfast.wire import codec
from handfast.wire.crls import KnownList, change_to_wire, known_from_wire
from handfast.wire.v1 import authority_pb2, registry_pb2, trust_pb2
from handfast_ca.authority import Issued
from handfast_ca.feed import Announcement, TrustChange, TrustState
from handfast_ca.incident import Reissue
from handfast_ca.ledger import CertificateRecord
from handfast_ca.registration import Entry

__all__ = ["TrustMessages", "certificate_message", "entry_message", "issued_message"]


class TrustMessages:
    """Trust on the wire. What is sent to many, whole states and changes alike, is encoded once for all of them."""

    def __init__(self, history: StepHistory) -> None:
        self._history = history
        self._state: TrustState | None = None
        self._change: TrustChange | None = None
        self._whole = trust_pb2.TrustUpdate()
        self._latest: dict[bool, trust_pb2.TrustUpdate] = {}
        self._digests: dict[bytes, tuple[RevocationList, bytes]] = {}

    def whole(
        self, state: TrustState, now: datetime, reader: trust_pb2.CrlReader | None = None
    ) -> trust_pb2.TrustUpdate:
        """Without the lists that the reader says it has, and with changes of those that it has older. Raises ``Invalid``."""
        if reader is not None and reader.known:
            change = self._missing(TrustChange.whole_of(state), known_from_wire(reader))
            return _sent(_trust_message(change, changes=reader.changes), now)
        if state is not self._state:
            self._state, self._whole = state, _trust_message(TrustChange.whole_of(state), changes=False)
        return _sent(self._whole, now)

    def change(self, change: TrustChange, now: datetime, *, changes: bool) -> trust_pb2.TrustUpdate:
        """``changes``: the reader takes changes of lists."""
        if change is not self._change:
            self._change, self._latest = change, {}
        if changes not in self._latest:
            self._latest[changes] = _trust_message(change, changes=changes)
        return _sent(self._latest[changes], now)

    def _missing(self, whole: TrustChange, known: Mapping[bytes, KnownList]) -> TrustChange:
        crls = tuple(crl for crl in whole.crls if known.get(crl.issuer_key_id) != self._as_known(crl))
        steps = {
            crl.issuer_key_id: self._history.steps(known[crl.issuer_key_id].number, crl)
            for crl in crls
            if crl.issuer_key_id in known
        }
        return replace(whole, crls=crls, steps={key_id: found for key_id, found in steps.items() if found})

    def _as_known(self, crl: RevocationList) -> KnownList:
        kept = self._digests.get(crl.issuer_key_id)
        if kept is None or kept[0] is not crl:
            kept = self._digests[crl.issuer_key_id] = (crl, sha256(crl.der).digest())
        return KnownList(crl.number, kept[1])


def _sent(message: trust_pb2.TrustUpdate, now: datetime) -> trust_pb2.TrustUpdate:
    copy = trust_pb2.TrustUpdate()
    copy.CopyFrom(message)
    copy.sent_at.CopyFrom(codec.time_to_wire(now))
    return copy


def _trust_message(change: TrustChange, *, changes: bool) -> trust_pb2.TrustUpdate:
    steps = change.steps if changes else {}
    return trust_pb2.TrustUpdate(
        whole=change.whole,
        revision=change.revision,
        bundle=None if change.bundle is None else codec.bundle_to_wire(change.bundle),
        crls=[
            trust_pb2.Crl(issuer_key_id=crl.issuer_key_id, der=crl.der)
            for crl in change.crls
            if crl.issuer_key_id not in steps
        ],
        crl_changes=[change_to_wire(key_id, found) for key_id, found in steps.items()],
        announced=[_announcement(news) for news in change.announced],
        reissue=None if change.reissue is None else _order(change.reissue),
    )


def _order(order: Reissue) -> trust_pb2.Reissue:
    return trust_pb2.Reissue(
        tainted_at=codec.time_to_wire(order.tainted_at),
        renew_before=codec.time_to_wire(order.renew_before),
        backdate=codec.duration_to_wire(order.backdate),
    )


def _announcement(news: Announcement) -> trust_pb2.Revocation:
    return trust_pb2.Revocation(
        issuer_key_id=news.issuer_key_id,
        serial=codec.serial_to_bytes(news.serial),
        revoked_at=codec.time_to_wire(news.revoked_at),
        reason=news.reason.value,
    )


def issued_message(issued: Issued, trust: trust_pb2.TrustUpdate) -> authority_pb2.IssuedCredentials:
    """``trust`` is the whole of ``issued.trust``."""
    leaf = issued.record.der
    assert leaf is not None, "what is issued was completed"
    return authority_pb2.IssuedCredentials(
        chain=[leaf, *map(codec.der, issued.chain[1:])],
        trust=trust,
        renewal=_window(issued.renewal),
        repeated_answer=issued.repeated,
    )


def _window(window: RenewalWindow) -> authority_pb2.RenewalWindow:
    return authority_pb2.RenewalWindow(
        not_before=codec.time_to_wire(window.opens), not_after=codec.time_to_wire(window.closes)
    )


def entry_message(entry: Entry) -> registry_pb2.Entry:
    return registry_pb2.Entry(
        spiffe_id=str(entry.spiffe_id),
        dns_names=entry.dns_names,
        ip_addresses=[str(address) for address in entry.ip_addresses],
        usages=sorted(entry.usages),
        lifetime=codec.duration_to_wire(entry.lifetime),
        proofs=sorted(entry.proofs),
        selectors=entry.selectors,
        allow_rsa=entry.allow_rsa,
        created_at=None if entry.created_at is None else codec.time_to_wire(entry.created_at),
        created_by=entry.created_by,
        version=entry.version,
        comment=entry.comment,
    )


def certificate_message(
    record: CertificateRecord, now: datetime, bundle: TrustBundle, *, whole: bool
) -> registry_pb2.Certificate:
    """``whole`` also carries the certificate itself. The issuer's name is empty when the bundle does not know it any more."""
    issuer = bundle.issuer(record.issuer_key_id)
    der = record.der if whole else None
    return registry_pb2.Certificate(
        serial=format_serial(record.serial),
        spiffe_id=str(record.spiffe_id),
        dns_names=record.dns_names,
        not_before=codec.time_to_wire(record.not_before),
        not_after=codec.time_to_wire(record.not_after),
        status=record.describe(now),
        issuer="" if issuer is None else issuer.subject.rfc4514_string(),
        revoked_at=None if record.revoked_at is None else codec.time_to_wire(record.revoked_at),
        revocation_reason="" if record.reason is None else record.reason.value,
        obtained_by=record.obtained_by,
        public_key_sha256=record.spki_sha256.hex(),
        der=der or b"",
        issuer_key_id=record.issuer_key_id.hex(),
    )
