"""Issuing, renewing and revoking over the memory ledger, with a clock that stands until it is moved.

Each refusal: its reason, nothing signed or stored, and exactly one line in the audit trail.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handfast.certificates import Leaf, Usage, verify_leaf
from handfast.csr import build_csr
from handfast.errors import Broken, Conflict, HandfastError, Invalid, NotFound, Refused, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.keys import PrivateKey, generate
from handfast.revocation import Reason, RevocationList
from handfast.testing import ManualClock
from handfast_ca.audit import MemoryAudit
from handfast_ca.authority import Authority, Issued
from handfast_ca.enrolment import Enrolment, Renewal
from handfast_ca.ledger import CertificateFilter
from handfast_ca.registration import Entry
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import DB, NOW, TRUST_DOMAIN, URLS, WEB, Ceremony

CEREMONY = Ceremony()
OPERATOR = SpiffeId.parse("spiffe://test.example/handfast/operator/admin")


class Bench:
    """An authority and everything it stands on, within reach of a test."""

    def __init__(self, **how: Any) -> None:
        self.clock = ManualClock(NOW)
        self.ledger = MemoryLedger()
        self.audit = MemoryAudit(self.clock)
        self.authority = self.again(**how)

    def again(self, **how: Any) -> Authority:
        """A new process over the same ledger and trail."""
        given: dict[str, Any] = {
            "trust_domain": TRUST_DOMAIN,
            "issuer": CEREMONY.issuer,
            "bundle": CEREMONY.bundle,
            "ledger": self.ledger,
            "audit": self.audit,
            "clock": self.clock,
            "urls": URLS,
            "reserved": {OPERATOR: Entry(OPERATOR, usages=frozenset({Usage.CLIENT}), version=0)},
            "root_crls": (CEREMONY.root_crl.public_bytes(serialization.Encoding.DER),),
            "sleep": self.sleep,
        }
        self.authority = Authority(**{**given, **how})
        return self.authority

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    async def token(self, identity: SpiffeId = WEB, **how: Any) -> str:
        return (await self.authority.create_token(identity, by="admin", **how)).token.text

    async def enrolment(self, key: PrivateKey | None = None, *, token: str = "", **asked: Any) -> Enrolment:
        token = token or await self.token()
        csr = build_csr(key or generate(), credential=token.encode(), **asked)
        return Enrolment(token, csr, peer_address="10.0.0.9")

    async def enrol(self) -> Issued:
        return await self.authority.enrol(await self.enrolment())

    def renewal(self, issued: Issued, **asked: Any) -> Renewal:
        leaf = Leaf.of(issued.chain[0])
        return Renewal(leaf, build_csr(generate(), credential=leaf.der, **asked))

    async def serials(self) -> set[int]:
        return {
            record.serial for record in (await self.authority.list_certificates(CertificateFilter(), limit=500)).items
        }

    def crl(self) -> RevocationList:
        return self.authority.trust().crls[CEREMONY.issuer.key_id]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.authority.start()
    await made.authority.add_entry(str(WEB), by="admin", dns_names=["web.shop.svc"])
    await made.authority.add_entry(str(DB), by="admin")
    yield made
    await made.authority.close()


async def refused(
    bench: Bench, kind: type[HandfastError], reason: str, act: Callable[[], Awaitable[object]]
) -> HandfastError:
    """What every refusal must show."""
    lines, serials = len(bench.audit.raw), await bench.serials()
    with pytest.raises(kind) as caught:
        await act()
    assert caught.value.reason == reason
    assert await bench.serials() == serials
    news = bench.audit.records[lines:]
    assert [(line["decision"], line["reason"]) for line in news] == [("refused", reason)]
    return caught.value


# --- issuing ----------------------------------------------------------------------------------------------------------


async def test_a_token_buys_one_certificate_that_leads_to_the_root(bench: Bench) -> None:
    issued = await bench.enrol()
    leaf = Leaf.of(issued.chain[0])
    assert leaf.spiffe_id == WEB
    assert leaf.dns_names == ("web.shop.svc",)
    verify_leaf(leaf, issued.chain[1:], CEREMONY.bundle.roots, usage=Usage.CLIENT, now=NOW)
    assert issued.record.der == leaf.der
    assert NOW < issued.renewal.opens < issued.renewal.closes < leaf.validity.not_after
    line = bench.audit.records[-1]
    assert (line["event"], line["decision"], line["serial"]) == ("enrol", "granted", leaf.serial_text)
    assert set(issued.trust.crls) == {CEREMONY.issuer.key_id, *(issued.trust.crls)}
    assert len(issued.trust.crls) == 2


async def test_a_token_is_worth_one_request(bench: Bench) -> None:
    """B1."""
    token = await bench.token()
    await bench.authority.enrol(await bench.enrolment(token=token))
    again = await bench.enrolment(token=token)
    await refused(bench, Unauthenticated, "TOKEN_SPENT", lambda: bench.authority.enrol(again))


async def test_the_same_request_again_gets_the_same_answer(bench: Bench) -> None:
    request = await bench.enrolment()
    first, second = await bench.authority.enrol(request), await bench.authority.enrol(request)
    assert second.repeated
    assert not first.repeated
    assert first.chain == second.chain


async def test_a_lost_renewal_is_answered_again(bench: Bench) -> None:
    renewal = bench.renewal(await bench.enrol())
    first, second = await bench.authority.renew(renewal), await bench.authority.renew(renewal)
    assert second.repeated
    assert first.chain == second.chain


async def test_many_at_once_spend_a_token_once(bench: Bench) -> None:
    """B1."""
    token = await bench.token()
    requests = [await bench.enrolment(token=token) for _ in range(16)]
    answers = await asyncio.gather(*(bench.authority.enrol(one) for one in requests), return_exceptions=True)
    assert sum(isinstance(answer, Issued) for answer in answers) == 1
    assert {answer.reason for answer in answers if isinstance(answer, HandfastError)} == {"TOKEN_SPENT"}


async def test_a_token_for_one_identity_is_none_for_another(bench: Bench) -> None:
    """B3."""
    request = replace(await bench.enrolment(), spiffe_id=str(DB))
    await refused(bench, Unauthenticated, "TOKEN_FOREIGN", lambda: bench.authority.enrol(request))
    assert not (await bench.authority.enrol(replace(request, spiffe_id=str(WEB)))).repeated


async def test_a_token_ends_after_its_time(bench: Bench) -> None:
    """B3."""
    request = await bench.enrolment()
    bench.clock.advance(timedelta(minutes=10, seconds=1))
    await refused(bench, Unauthenticated, "TOKEN_EXPIRED", lambda: bench.authority.enrol(request))


async def test_a_token_from_another_place_is_refused(bench: Bench) -> None:
    """B3."""
    request = await bench.enrolment(token=await bench.token(allowed_cidr="10.1.0.0/16"))
    await refused(bench, Unauthenticated, "TOKEN_ADDRESS", lambda: bench.authority.enrol(request))


async def test_a_malformed_token_is_refused_without_being_repeated(bench: Bench) -> None:
    """B2."""
    request = Enrolment("my-database-password", build_csr(generate()))
    error = await refused(bench, Unauthenticated, "TOKEN_MALFORMED", lambda: bench.authority.enrol(request))
    assert "password" not in error.message + repr(request)


async def test_a_csr_of_another_session_is_refused(bench: Bench) -> None:
    """A13."""
    request = await bench.enrolment()
    stolen = replace(request, token=await bench.token())
    await refused(bench, Refused, "CSR_NOT_BOUND", lambda: bench.authority.enrol(stolen))


async def test_another_tenant_s_identity_is_refused_when_enrolling_renewing_and_signing(bench: Bench) -> None:
    """A3: every path."""
    enrolment = await bench.enrolment(spiffe_id=DB)
    await refused(bench, Refused, "NOT_ENTITLED", lambda: bench.authority.enrol(enrolment))
    issued = await bench.enrol()
    renewal = bench.renewal(issued, spiffe_id=DB)
    await refused(bench, Refused, "NOT_ENTITLED", lambda: bench.authority.renew(renewal))
    csr = build_csr(generate(), spiffe_id=DB)
    await refused(bench, Refused, "NOT_ENTITLED", lambda: bench.authority.sign(WEB, csr, by="admin"))


async def test_a_key_of_one_live_identity_is_none_for_another(bench: Bench) -> None:
    """A12."""
    key = generate()
    await bench.authority.enrol(await bench.enrolment(key))
    other = await bench.enrolment(key, token=await bench.token(DB))
    await refused(bench, Refused, "KEY_IN_USE", lambda: bench.authority.enrol(other))


async def test_a_compromised_key_is_certified_for_nobody_any_more(bench: Bench) -> None:
    """A11."""
    key = generate()
    issued = await bench.authority.enrol(await bench.enrolment(key))
    await bench.authority.revoke_serial(issued.record.serial, Reason.KEY_COMPROMISE, by="admin")
    other = await bench.enrolment(key, token=await bench.token(DB))
    await refused(bench, Refused, "KEY_BLOCKED", lambda: bench.authority.enrol(other))


async def test_an_oversized_csr_is_refused_unread(bench: Bench) -> None:
    """A15."""
    request = Enrolment(await bench.token(), b"\x30" * 16385)
    await refused(bench, Invalid, "CSR_TOO_LARGE", lambda: bench.authority.enrol(request))


async def test_a_serial_that_exists_is_drawn_again(bench: Bench) -> None:
    """A17."""
    draws: list[bytes] = [b"\x11" * 16, b"\x11" * 16, b"\x22" * 16]

    def random_bytes(count: int) -> bytes:
        return draws.pop(0) if count == 16 else generate().private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]

    bench.again(random_bytes=random_bytes)
    first = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    second = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    assert (first.record.serial, second.record.serial) == (int("11" * 16, 16), int("22" * 16, 16))


async def test_near_the_issuer_s_end_nothing_is_issued(bench: Bench) -> None:
    """J10."""
    while bench.clock.now() < NOW + timedelta(days=89):
        bench.clock.advance(timedelta(hours=12))
        await bench.authority.publish_crl()
    bench.clock.advance(CEREMONY.issuing.certificate.not_valid_after_utc - bench.clock.now() - timedelta(seconds=40))
    request = await bench.enrolment()
    await refused(bench, Refused, "ISSUER_EXPIRING", lambda: bench.authority.enrol(request))
    assert "failed" in {str(line.level) for line in bench.authority.status()}


async def test_without_an_audit_trail_nothing_is_issued(bench: Bench) -> None:
    """G4."""
    request = await bench.enrolment()
    before, bench.audit.broken = await bench.serials(), True
    with pytest.raises(Unavailable) as caught:
        await bench.authority.enrol(request)
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    assert await bench.serials() == before
    bench.audit.broken = False
    assert not (await bench.authority.enrol(request)).repeated


async def test_a_caller_that_goes_away_finds_its_answer_when_it_asks_again(bench: Bench) -> None:
    request = await bench.enrolment()
    task = asyncio.create_task(bench.authority.enrol(request))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bench.authority.close()
    assert (await bench.authority.enrol(request)).repeated


async def test_the_ca_issues_for_its_own_operators_and_for_no_other_reserved_name(bench: Bench) -> None:
    issued = await bench.authority.issue_internal(OPERATOR, build_csr(generate()))
    assert Leaf.of(issued.chain[0]).usages == {Usage.CLIENT}
    assert (await bench.authority.renew(bench.renewal(issued))).record.spiffe_id == OPERATOR
    unknown = SpiffeId.parse("spiffe://test.example/handfast/operator/eve")
    await refused(bench, Refused, "NO_ENTRY", lambda: bench.authority.issue_internal(unknown, build_csr(generate())))


class _OtherBytes:
    """The real issuer with a lever: what it signs is not what it rehearsed."""

    def __init__(self) -> None:
        self.certificate, self.key_id, self.chain = (
            CEREMONY.issuer.certificate,
            CEREMONY.issuer.key_id,
            CEREMONY.issuer.chain,
        )
        self.rehearse, self.sign_crl = CEREMONY.issuer.rehearse, CEREMONY.issuer.sign_crl
        self.rehearse_crl, self.sign_tbs = CEREMONY.issuer.rehearse_crl, CEREMONY.issuer.sign_tbs

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return await CEREMONY.issuer.sign(builder.add_extension(x509.OCSPNoCheck(), critical=False))


async def test_a_certificate_that_is_not_the_linted_one_never_leaves(bench: Bench) -> None:
    """A1."""
    bench.again(issuer=_OtherBytes())
    with pytest.raises(Broken) as caught:
        await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    assert caught.value.reason == "LINT"
    (record,) = (await bench.authority.list_certificates(CertificateFilter())).items
    assert record.der is None


class _OneAndTheSame:
    """The real issuer with a lever: what it signs is what it rehearsed, and not what was decided."""

    def __init__(self) -> None:
        self.certificate, self.key_id, self.chain = (
            CEREMONY.issuer.certificate,
            CEREMONY.issuer.key_id,
            CEREMONY.issuer.chain,
        )
        self.sign_crl, self.signed = CEREMONY.issuer.sign_crl, 0

    def rehearse(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return CEREMONY.issuer.rehearse(builder.add_extension(x509.OCSPNoCheck(), critical=False))

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        self.signed += 1
        return await CEREMONY.issuer.sign(builder.add_extension(x509.OCSPNoCheck(), critical=False))


async def test_what_the_lint_finds_is_not_signed_though_it_would_be_signed_as_rehearsed(bench: Bench) -> None:
    """A1, D15: nothing is granted, and the key is not touched."""
    issuer = _OneAndTheSame()
    bench.again(issuer=issuer)
    with pytest.raises(Broken) as caught:
        await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    assert caught.value.reason == "LINT"
    assert issuer.signed == 0
    assert [line["decision"] for line in bench.audit.records if line["event"] == "sign"] == ["refused"]


# --- renewing ---------------------------------------------------------------------------------------------------------


async def test_a_renewal_is_of_the_same_identity_and_remembers_its_parent(bench: Bench) -> None:
    """C3."""
    issued = await bench.enrol()
    renewed = await bench.authority.renew(bench.renewal(issued))
    assert renewed.record.spiffe_id == WEB
    assert renewed.record.parent_serial == issued.record.serial
    assert renewed.record.obtained_by == "renewal"


async def test_policy_is_judged_again_at_each_renewal(bench: Bench) -> None:
    """C3: an entry that was changed counts as it is now, also when an older one is in memory."""
    issued = await bench.enrol()
    await bench.authority.remove_entry(WEB, by="admin")
    await bench.authority.add_entry(str(WEB), by="admin", dns_names=["new.svc"], lifetime=timedelta(hours=1))
    renewed = Leaf.of((await bench.authority.renew(bench.renewal(issued))).chain[0])
    assert renewed.dns_names == ("new.svc",)
    assert renewed.validity.duration == timedelta(hours=1)


async def test_nothing_is_renewed_when_the_entry_is_gone(bench: Bench) -> None:
    issued = await bench.enrol()
    await bench.authority.remove_entry(WEB, by="admin")
    await refused(bench, Refused, "NO_ENTRY", lambda: bench.authority.renew(bench.renewal(issued)))


async def test_a_revoked_certificate_renews_nothing(bench: Bench) -> None:
    """C1."""
    issued = await bench.enrol()
    await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    await refused(bench, Unauthenticated, "REVOKED", lambda: bench.authority.renew(bench.renewal(issued)))


async def test_a_certificate_that_expired_a_second_ago_renews_nothing(bench: Bench) -> None:
    """C2."""
    issued = await bench.enrol()
    bench.clock.advance(issued.record.not_after - NOW + timedelta(seconds=1))
    await refused(bench, Unauthenticated, "EXPIRED", lambda: bench.authority.renew(bench.renewal(issued)))


async def test_a_certificate_that_the_ledger_does_not_know_byte_for_byte_renews_nothing(bench: Bench) -> None:
    """C1: same serial, same issuer, other key."""
    issued = await bench.enrol()
    leaf = Leaf.of(issued.chain[0])
    forged = replace(leaf, der=leaf.der[:-1] + bytes([leaf.der[-1] ^ 1]))
    renewal = Renewal(forged, build_csr(generate(), credential=forged.der))
    await refused(bench, Unauthenticated, "UNKNOWN_CERTIFICATE", lambda: bench.authority.renew(renewal))


async def test_a_foreign_trust_domain_renews_nothing(bench: Bench) -> None:
    leaf = Leaf.of((await bench.enrol()).chain[0])
    foreign = replace(leaf, spiffe_id=SpiffeId.parse("spiffe://other.example/web"))
    renewal = Renewal(foreign, build_csr(generate(), credential=foreign.der))
    await refused(bench, Unauthenticated, "FOREIGN_TRUST_DOMAIN", lambda: bench.authority.renew(renewal))


# --- revoking ---------------------------------------------------------------------------------------------------------


async def test_a_revocation_is_on_a_new_crl_with_a_higher_number_when_it_returns(bench: Bench) -> None:
    issued, before = await bench.enrol(), bench.crl().number
    revoked = await bench.authority.revoke_serial(issued.record.serial, Reason.SUPERSEDED, by="admin")
    assert revoked.crl_number == bench.crl().number > before
    assert bench.crl().serials == {issued.record.serial}
    assert bench.authority.trust().announced == ()
    written = [(line["event"], line["decision"]) for line in bench.audit.records]
    assert written[-2:] == [("revoke", "granted"), ("crl", "granted")]


class _LeverOnLists:
    """The real issuer with two levers on its lists: it waits before it signs one, or signs an old one again."""

    def __init__(self) -> None:
        self.certificate, self.key_id, self.chain = (
            CEREMONY.issuer.certificate,
            CEREMONY.issuer.key_id,
            CEREMONY.issuer.chain,
        )
        self.rehearse, self.sign = CEREMONY.issuer.rehearse, CEREMONY.issuer.sign
        self.free = asyncio.Event()
        self.free.set()
        self.old: x509.CertificateRevocationList | None = None

    def rehearse_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        return CEREMONY.issuer.rehearse_crl(builder) if self.old is None else self.old

    async def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        await self.free.wait()
        return await CEREMONY.issuer.sign_crl(builder) if self.old is None else self.old

    async def sign_tbs(self, tbs: bytes) -> bytes:
        await self.free.wait()
        return await CEREMONY.issuer.sign_tbs(tbs)


async def test_a_revocation_is_told_before_its_list_is_signed(bench: Bench) -> None:
    """C5, C6: who watches need not wait for the signature."""
    issuer = _LeverOnLists()
    await bench.again(issuer=issuer).start()
    issued = await bench.enrol()
    async with aclosing(bench.authority.feed.watch()) as changes:
        await anext(changes)
        issuer.free.clear()
        revoking = asyncio.create_task(
            bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
        )
        try:
            async with asyncio.timeout(5):
                change = await anext(changes)
            assert [news.serial for news in change.announced] == [issued.record.serial]
            assert change.crls == ()
        finally:
            issuer.free.set()
            await revoking


async def test_a_list_that_is_not_the_planned_one_is_not_published(bench: Bench) -> None:
    """D1, D4: rightly signed, and an old one."""
    issuer = _LeverOnLists()
    await bench.again(issuer=issuer).start()
    issuer.old, before = x509.load_der_x509_crl(bench.crl().der), bench.crl()
    with pytest.raises(Broken) as caught:
        await bench.authority.publish_crl()
    assert caught.value.reason == "LINT"
    assert bench.crl() == before
    assert bench.audit.records[-1]["decision"] == "refused"


async def test_saying_it_twice_is_no_error_and_changes_nothing(bench: Bench) -> None:
    """C5."""
    issued = await bench.enrol()
    first = await bench.authority.revoke_serial(issued.record.serial, Reason.SUPERSEDED, by="admin")
    bench.clock.advance(timedelta(minutes=1))
    second = await bench.authority.revoke_serial(issued.record.serial, Reason.KEY_COMPROMISE, by="admin")
    assert second == replace(first, repeated=True)


async def test_revoking_a_certificate_revokes_what_was_renewed_from_it(bench: Bench) -> None:
    """C4."""
    first = await bench.enrol()
    second = await bench.authority.renew(bench.renewal(first))
    third = await bench.authority.renew(bench.renewal(second))
    await bench.authority.revoke_serial(first.record.serial, Reason.UNSPECIFIED, by="admin")
    assert bench.crl().serials == {issued.record.serial for issued in (first, second, third)}


async def test_revoking_an_identity_ends_its_certificates_its_tokens_and_its_renewals(bench: Bench) -> None:
    """C9."""
    issued, unused = await bench.enrol(), await bench.enrolment()
    revoked = await bench.authority.revoke_identity(WEB, Reason.PRIVILEGE_WITHDRAWN, by="admin")
    assert revoked.serials == (issued.record.serial,)
    await refused(bench, Unauthenticated, "REVOKED", lambda: bench.authority.renew(bench.renewal(issued)))
    await refused(bench, Unauthenticated, "TOKEN_SPENT", lambda: bench.authority.enrol(unused))


async def test_an_unknown_serial_is_not_found(bench: Bench) -> None:
    await refused(
        bench, NotFound, "NO_CERTIFICATE", lambda: bench.authority.revoke_serial(5, Reason.UNSPECIFIED, by="admin")
    )


def test_nothing_takes_a_revocation_back() -> None:
    """C8."""
    assert not [name for name in dir(Authority) if "unrevoke" in name or "restore" in name or "hold" in name]
    assert "certificate-hold" not in set(Reason)


async def test_a_revocation_reaches_everybody_even_when_it_cannot_be_written_down(bench: Bench) -> None:
    """J4: the error says what is missing."""
    issued = await bench.enrol()
    async with aclosing(bench.authority.feed.watch()) as changes:
        await anext(changes)
        bench.audit.broken = True
        with pytest.raises(HandfastError):
            await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
        change = await anext(changes)
    assert [news.serial for news in change.announced] == [issued.record.serial]
    bench.audit.broken = False
    again = await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    assert bench.crl().serials == {issued.record.serial}
    assert again.repeated


@pytest.mark.parametrize("finished", ["ledger", "audit", "feed"])
async def test_a_stop_after_any_step_leaves_it_revoked(bench: Bench, finished: str) -> None:
    """C5: the process dies after the ledger's, the audit's or the feed's step; the next one signs the CRL."""
    issued = await bench.enrol()
    await bench.ledger.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, now=bench.clock.now())
    if finished != "ledger":
        await bench.audit.append({"event": "revoke", "decision": "granted"})
    await bench.again().start()
    assert bench.crl().serials == {issued.record.serial}
    await refused(bench, Unauthenticated, "REVOKED", lambda: bench.authority.renew(bench.renewal(issued)))


@pytest.mark.parametrize("late", range(20))
async def test_of_a_renewal_and_a_revocation_at_once_no_live_descendant_is_left(late: int) -> None:
    """C4: two hundred interleavings; either the renewal fails or its serial is on the next CRL."""
    for turn in range(10):
        bench = Bench()
        await bench.authority.start()
        await bench.authority.add_entry(str(WEB), by="admin")
        issued = await bench.enrol()

        async def revoke(bench: Bench = bench, serial: int = issued.record.serial, steps: int = late) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            by_serial = bench.authority.revoke_serial(serial, Reason.UNSPECIFIED, by="admin")
            await (by_serial if steps % 2 else bench.authority.revoke_identity(WEB, Reason.UNSPECIFIED, by="admin"))
            if steps % 2 == 0:
                by_serial.close()

        async def renew(bench: Bench = bench, issued: Issued = issued, steps: int = turn) -> Issued:
            for _ in range(steps):
                await asyncio.sleep(0)
            return await bench.authority.renew(bench.renewal(issued))

        answer, _ = await asyncio.gather(renew(), revoke(), return_exceptions=True)
        await bench.authority.publish_crl()
        if isinstance(answer, Issued):
            assert answer.record.serial in bench.crl().serials
        else:
            assert isinstance(answer, HandfastError)
            assert answer.reason == "REVOKED"


async def test_what_was_intended_and_never_completed_is_revoked_at_the_next_start(bench: Bench) -> None:
    """J1."""
    bench.again(issuer=_OtherBytes())
    with pytest.raises(Broken):
        await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    await bench.again().start()
    assert len(bench.crl().serials) == 1
    assert await bench.serials() == bench.crl().serials


# --- CRLs -------------------------------------------------------------------------------------------------------------


async def test_a_burst_of_revocations_has_rising_numbers_and_no_two_lists_of_one_second(bench: Bench) -> None:
    """D3: none is ahead of the clock."""
    serials = [(await bench.authority.sign(WEB, build_csr(generate()), by="admin")).record.serial for _ in range(5)]
    seen = [bench.crl()]
    for serial in serials:
        await bench.authority.revoke_serial(serial, Reason.UNSPECIFIED, by="admin")
        seen.append(bench.crl())
    assert [later.number - earlier.number for earlier, later in itertools.pairwise(seen)] == [1] * 5
    assert len({crl.this_update for crl in seen}) == 6
    assert all(crl.this_update <= NOW for crl in seen)


async def test_many_revocations_at_once_share_few_lists(bench: Bench) -> None:
    """D3."""
    issued = [await bench.authority.sign(WEB, build_csr(generate()), by="admin") for _ in range(60)]
    before = bench.crl().number
    revoking = (bench.authority.revoke_serial(one.record.serial, Reason.UNSPECIFIED, by="admin") for one in issued)
    results = await asyncio.gather(*revoking)
    assert bench.crl().serials == {one.record.serial for one in issued}
    assert bench.crl().number - before <= 3
    assert all(result.crl_number <= bench.crl().number for result in results)


async def test_more_lists_than_a_second_has_room_for_wait_for_the_next(bench: Bench) -> None:
    """D3."""
    for _ in range(40):
        await bench.authority.publish_crl()
    assert bench.crl().this_update <= bench.clock.now()
    assert bench.clock.now() > NOW


class _Forgetful(MemoryLedger):
    """The real ledger with a lever: somebody deleted revoked rows behind its back."""

    forgotten = False

    async def plan_crl(self, issuer_key_id: bytes, *, now: Any, base: int = 0) -> Any:
        plan = await super().plan_crl(issuer_key_id, now=now, base=base)
        return replace(plan, entries=(), total=0) if self.forgotten else plan

    async def find(self, serial: int) -> Any:
        if self.forgotten:
            raise NotFound("gone", reason="NO_CERTIFICATE")
        return await super().find(serial)


async def test_a_crl_that_would_lose_a_revocation_is_not_signed_and_the_old_one_stays(bench: Bench) -> None:
    """D4."""
    bench.ledger = _Forgetful()
    await bench.again().start()
    await bench.authority.add_entry(str(WEB), by="admin")
    issued = await bench.enrol()
    await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    old, lines = bench.crl(), len(bench.audit.raw)
    bench.ledger.forgotten = True
    with pytest.raises(Broken) as caught:
        await bench.authority.publish_crl()
    assert caught.value.reason == "CRL_ENTRIES_LOST"
    assert bench.crl() is old
    assert [(line["event"], line["decision"]) for line in bench.audit.records[lines:]] == [("crl", "refused")]
    assert any(line.level == "failed" and line.name == "publishing" for line in bench.authority.status())
    await bench.again().start()
    assert bench.crl().der == old.der


async def test_an_entry_leaves_the_list_after_one_list_past_its_expiry_and_is_forgotten_after_that(
    bench: Bench,
) -> None:
    """D4; RFC 5280, 3.3."""
    issued = await bench.enrol()
    await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    bench.clock.advance(timedelta(hours=23))
    await bench.authority.publish_crl()
    bench.clock.advance(timedelta(hours=2))
    assert (await bench.authority.publish_crl()).serials == {issued.record.serial}
    assert await bench.authority.forget_expired(keep=timedelta()) == 0
    assert (await bench.authority.publish_crl()).serials == frozenset()
    assert await bench.authority.forget_expired(keep=timedelta()) == 1
    assert (await bench.authority.publish_crl()).serials == frozenset()


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jump", "reason"), [(-timedelta(seconds=61), "CLOCK_BEHIND"), (timedelta(days=1, seconds=61), "CLOCK_AHEAD")]
)
async def test_a_clock_that_jumped_signs_nothing_until_an_operator_says_it_is_right(
    bench: Bench, jump: timedelta, reason: str
) -> None:
    """J8."""
    issued = await bench.enrol()
    bench.clock.step(jump)
    renewal = bench.renewal(issued)
    csr = build_csr(generate())
    with pytest.raises(Unavailable) as caught:
        await bench.authority.sign(WEB, csr, by="admin")
    assert caught.value.reason == reason
    with pytest.raises(Unavailable):
        await bench.authority.publish_crl()
    assert any(line.group == "clock" and line.level == "failed" for line in bench.authority.status())
    await bench.authority.accept_clock(by="admin")
    assert (await bench.authority.sign(WEB, csr, by="admin")).record.der
    assert renewal.presented.spiffe_id == WEB


async def test_the_highest_time_is_remembered_across_a_restart(bench: Bench) -> None:
    """J8."""
    bench.clock.advance(timedelta(hours=1))
    await bench.enrol()
    bench.clock.step(-timedelta(minutes=30))
    await bench.again().start()
    with pytest.raises(Unavailable) as caught:
        await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    assert caught.value.reason == "CLOCK_BEHIND"


# --- entries, tokens, the rest ----------------------------------------------------------------------------------------


async def test_an_entry_is_added_once_and_with_all_its_mistakes_told(bench: Bench) -> None:
    await refused(bench, Conflict, "ENTRY_EXISTS", lambda: bench.authority.add_entry(str(WEB), by="admin"))
    error = await refused(
        bench,
        Invalid,
        "FOREIGN_TRUST_DOMAIN",
        lambda: bench.authority.add_entry("spiffe://other.example/x", by="admin", dns_names=["*"], usages=["both"]),
    )
    assert len(error.violations) == 3


async def test_a_token_needs_an_entry_that_takes_it_and_lives_ten_minutes_at_most(bench: Bench) -> None:
    """B3."""
    ops = SpiffeId.parse("spiffe://test.example/ops")
    await refused(bench, NotFound, "NO_ENTRY", lambda: bench.token(ops))
    await bench.authority.add_entry(str(ops), by="admin", proofs=["operator"])
    await refused(bench, Refused, "PROOF_NOT_ALLOWED", lambda: bench.token(ops))
    await refused(bench, Invalid, "LIFETIME", lambda: bench.token(lifetime=timedelta(minutes=11)))
    await refused(bench, Invalid, "INVALID_CIDR", lambda: bench.token(allowed_cidr="10.0.0.1/8"))


async def test_an_older_entry_for_servers_alone_gets_no_token(bench: Bench) -> None:
    db = SpiffeId.parse("spiffe://test.example/older-db")
    await bench.ledger.add_entry(Entry(db, usages=frozenset({Usage.SERVER})))
    await refused(bench, Refused, "CLIENT_USAGE_NEEDED", lambda: bench.token(db))


async def test_an_entry_for_tokens_alone_is_signed_for_by_no_operator(bench: Bench) -> None:
    only = SpiffeId.parse("spiffe://test.example/only")
    await bench.authority.add_entry(str(only), by="admin", proofs=["join-token"])
    await refused(
        bench, Refused, "PROOF_NOT_ALLOWED", lambda: bench.authority.sign(only, build_csr(generate()), by="admin")
    )


async def test_no_secret_of_a_whole_life_is_in_the_trail(bench: Bench) -> None:
    """G2."""
    token = await bench.token()
    issued = await bench.authority.enrol(await bench.enrolment(token=token))
    await bench.authority.renew(bench.renewal(issued))
    trail = b"".join(bench.audit.raw)
    assert token.encode() not in trail
    assert token[4:20].encode() not in trail
    assert token[4:12].encode() in trail


async def test_what_an_edge_refuses_is_written_down_too(bench: Bench) -> None:
    """H4."""
    lines = len(bench.audit.raw)
    error = Unavailable("11 requests exceed the maximum of 10", reason="RATE_LIMITED")
    await bench.authority.refuse("renew", error, peer_address="10.0.0.9", spiffe_id=str(WEB))
    assert [(line["event"], line["reason"]) for line in bench.audit.records[lines:]] == [("renew", "RATE_LIMITED")]


async def test_the_ledger_remembers_how_long_the_trail_is(bench: Bench) -> None:
    """G3."""
    await bench.authority.checkpoint_audit()
    assert await bench.ledger.mark("audit") == bench.audit.position.seq > 0
    page = await bench.authority.read_audit(newest_first=True, limit=1)
    assert f'"seq":{bench.audit.position.seq},' in page.items[0]


# --- the feed ---------------------------------------------------------------------------------------------------------


async def test_a_watcher_gets_the_whole_state_then_each_change_ahead_of_its_proof(bench: Bench) -> None:
    issued = await bench.enrol()
    async with aclosing(bench.authority.feed.watch()) as changes:
        whole = await anext(changes)
        assert whole.whole
        assert whole.bundle == CEREMONY.bundle
        assert len(whole.crls) == 2
        assert bench.authority.feed.watchers == 1
        revoking = asyncio.create_task(
            bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
        )
        seen: set[int] = set()
        while not seen:
            change = await anext(changes)
            assert not change.whole
            seen = {news.serial for news in change.announced} | {
                serial for crl in change.crls for serial in crl.serials
            }
        assert seen == {issued.record.serial}
        await revoking
    assert bench.authority.feed.watchers == 0


async def test_a_slow_watcher_skips_and_never_misses_the_last(bench: Bench) -> None:
    serials = [(await bench.authority.sign(WEB, build_csr(generate()), by="admin")).record.serial for _ in range(5)]
    async with aclosing(bench.authority.feed.watch()) as changes:
        first = await anext(changes)
        for serial in serials:
            await bench.authority.revoke_serial(serial, Reason.UNSPECIFIED, by="admin")
        change = await anext(changes)
    assert change.revision > first.revision + 1
    assert {serial for crl in change.crls for serial in crl.serials} == set(serials)
    assert change.bundle is None


async def test_watchers_that_are_equally_far_share_one_change(bench: Bench) -> None:
    async with aclosing(bench.authority.feed.watch()) as one, aclosing(bench.authority.feed.watch()) as other:
        await anext(one)
        await anext(other)
        await bench.authority.publish_crl()
        assert await anext(one) is await anext(other)


async def test_a_bundle_only_moves_forward(bench: Bench) -> None:
    """D11."""
    feed = bench.authority.feed
    feed.replace_bundle(replace(CEREMONY.bundle, sequence=2))
    with pytest.raises(Refused) as caught:
        feed.replace_bundle(CEREMONY.bundle)
    assert caught.value.reason == "BUNDLE_ROLLBACK"
    assert feed.state.bundle.sequence == 2
