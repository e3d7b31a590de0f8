"""A restored CA signs nothing until its agents told it what it lost, over the memory ledger (threat J9, rules R1 to R7).

The agents are played by what they hold: the CRLs that the CA of before signed.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from handfast.certificates import Leaf
from handfast.csr import build_csr
from handfast.errors import Forbidden, HandfastError, Invalid, Refused, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.revocation import Reason, RevocationList
from handfast_ca.authority import Authority, Issued
from handfast_ca.ceremony import make_issuer, make_root
from handfast_ca.crl import crl_builder
from handfast_ca.enrolment import Renewal
from handfast_ca.incident import REISSUE_WANTED, wish
from handfast_ca.issuer import LocalIssuer
from handfast_ca.ledger import CRL_EPOCH, CertificateFilter, CrlPlan, RevokedEntry
from handfast_ca.quarantine import BEGAN_AT, BEGUN
from handfast_ca.quorum import Quorum
from handfast_ca.status import Level
from handfast_ca.testimony import Checkpoint, Claim
from tests.ca.core import DB, NOW, TRUST_DOMAIN, WEB, Ceremony
from tests.ca.test_authority import CEREMONY, Bench, refused

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
OPERATOR = SpiffeId.parse("spiffe://test.example/handfast/operator/admin")


class Restorable(Bench):
    """A CA whose ledger can be copied, and put back when it has gone on."""

    async def begun(self) -> Restorable:
        await self.authority.start()
        await self.authority.add_entry(str(WEB), by="admin", dns_names=["web.shop.svc"])
        await self.authority.add_entry(str(DB), by="admin")
        return self

    def backup(self) -> Any:
        return copy.deepcopy(self.ledger)

    async def restore(self, backup: Any, **how: Any) -> Authority:
        """As `ca restore` does, where nothing is left: numbers leap and quarantine begins."""
        await backup.raise_mark(CRL_EPOCH, 1)
        await backup.raise_mark(BEGUN, await backup.mark(BEGUN) + 1)
        await backup.raise_mark(BEGAN_AT, int(self.clock.now().timestamp()))
        return await self.slip_in(backup, **how)

    async def slip_in(self, older: Any, **how: Any) -> Authority:
        """Without a word to anybody: the process only starts again."""
        self.ledger = older
        authority = self.again(**how)
        await authority.start()
        return authority

    def later(self, by: timedelta = MINUTE) -> None:
        self.clock.advance(by)

    async def revoke(self, issued: Issued, reason: Reason = Reason.SUPERSEDED) -> RevocationList:
        await self.authority.revoke_serial(issued.record.serial, reason, by="admin")
        return self.crl()

    async def enrol_as(self, identity: SpiffeId) -> Issued:
        return await self.authority.enrol(await self.enrolment(token=await self.token(identity)))

    def announced(self) -> set[int]:
        return {news.serial for news in self.authority.trust().announced}

    def told(self) -> set[int]:
        """Every serial that the CA tells everybody is revoked."""
        return self.announced() | self.crl().serials

    def line(self) -> tuple[str, str]:
        """Level and detail of the quarantine's line in `status`."""
        return next((str(one.level), one.detail) for one in self.authority.status() if one.name == "quarantine")


@pytest.fixture
async def bench() -> Restorable:
    return await Restorable().begun()


def held(known: RevocationList | bytes, number: int | None = None, *, kept: bool = True) -> Checkpoint:
    """What an agent says that holds this list."""
    der = known if isinstance(known, bytes) else known.der
    if number is None:
        assert isinstance(known, RevocationList)
        number = known.number
    return Checkpoint((Claim(CEREMONY.issuer.key_id, number, hashlib.sha256(der).digest(), kept),), 1)


async def witness(bench: Restorable, identity: SpiffeId, known: RevocationList) -> int:
    """An agent connects, and sends its list when it is asked to."""
    wanted = await bench.authority.witnesses.hear(identity, held(known))
    assert wanted in ((), (hashlib.sha256(known.der).digest(),))
    return await bench.authority.witnesses.take(identity, known.der) if wanted else 0


async def forged(number: int, serials: list[int], signer: LocalIssuer = CEREMONY.issuer) -> bytes:
    """A list of this CA's name, whoever signs it."""
    entries = tuple(RevokedEntry(serial, NOW, Reason.UNSPECIFIED) for serial in serials)
    plan = CrlPlan(CEREMONY.issuer.key_id, number, NOW, entries)
    made = await signer.sign_crl(crl_builder(plan, CEREMONY.issuer.certificate, 12 * HOUR))
    return made.public_bytes(serialization.Encoding.DER)


# --- nothing is signed ------------------------------------------------------------------------------------------------


async def test_a_restored_ca_signs_nothing_and_says_so(bench: Restorable) -> None:
    """J9, R1: no certificate and no CRL; the last one is served, and an agent is told when to ask again."""
    web = await bench.enrol()
    backup, last = bench.backup(), bench.crl()
    bench.later()
    await bench.restore(backup)
    error = await refused(bench, Unavailable, "QUARANTINED", lambda: bench.authority.renew(bench.renewal(web)))
    assert error.retry_after
    await refused(
        bench,
        Unavailable,
        "QUARANTINED",
        lambda: bench.authority.sign(WEB, build_csr(generate()), by="admin"),
    )
    await refused(bench, Unavailable, "QUARANTINED", bench.authority.publish_crl)
    assert bench.crl().der == last.der
    level, detail = bench.line()
    assert level == Level.WARNING
    assert "0 of 1 identities answered, missing spiffe://test.example/web" in detail
    again = bench.again()
    await again.start()
    assert again.quarantine.is_open
    assert bench.crl().der == last.der


async def test_without_its_own_and_its_operators_certificates_nobody_could_end_it(bench: Restorable) -> None:
    """J9: those it issues all the same."""
    await bench.restore(bench.backup())
    issued = await bench.authority.issue_internal(OPERATOR, build_csr(generate()))
    assert issued.record.spiffe_id == OPERATOR


async def test_what_is_revoked_in_quarantine_is_told_at_once_and_stays(bench: Restorable) -> None:
    """J9, R1: durable and announced, also after another start; on a list as soon as one is signed."""
    web = await bench.enrol()
    await bench.restore(bench.backup())
    done = await bench.authority.revoke_serial(web.record.serial, Reason.SUPERSEDED, by="admin")
    assert done.crl_number == 0
    assert bench.announced() == {web.record.serial}
    await bench.slip_in(bench.ledger)
    assert bench.announced() == {web.record.serial}
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    assert bench.crl().serials == {web.record.serial}
    assert bench.announced() == set()


async def test_ocsp_calls_nothing_good_before_it_knows(bench: Restorable) -> None:
    """J9, D9: what is revoked it says; of all else it says to ask later, also of what it was asked about before."""
    web, db = await bench.enrol(), await bench.enrol_as(DB)

    async def said(issued: Issued) -> str:
        asked = ocsp.OCSPRequestBuilder().add_certificate(issued.chain[0], issued.chain[1], hashes.SHA256()).build()
        return str((await bench.authority.responder.answer(asked.public_bytes(serialization.Encoding.DER))).said)

    await bench.authority.responder.signers.renew_if_due()
    assert await said(web) == "good"
    await bench.authority.quarantine.begin("a test", bench.crl().number)
    assert await said(web) == "try-later"
    await bench.authority.revoke_serial(db.record.serial, Reason.SUPERSEDED, by="admin")
    assert await said(db) == "revoked"
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    assert await said(web) == "good"


# --- what is learnt ---------------------------------------------------------------------------------------------------


async def test_every_revocation_on_a_list_that_an_agent_holds_comes_back(bench: Restorable) -> None:
    """J9, R2: of what the backup knows and of what it never heard; the list is served on, and numbers rise past it."""
    web, db = await bench.enrol(), await bench.enrol_as(DB)
    backup = bench.backup()
    late = await bench.enrol_as(DB)
    bench.later()
    await bench.revoke(web, Reason.KEY_COMPROMISE)
    bench.later()
    last = await bench.revoke(late)
    bench.later()
    await bench.restore(backup, quorum=Quorum(2))
    assert bench.told() == set()
    assert await witness(bench, DB, last) == 2
    assert bench.told() == {web.record.serial, late.record.serial}
    assert bench.crl().der == last.der
    assert (await bench.ledger.find(late.record.serial)).describe(bench.clock.now()) == "revoked"
    granted = [line for line in bench.audit.records if line["event"] == "revoke" and line["by"] == str(DB)]
    assert {serial for line in granted for serial in line["serials"]} == {  # type: ignore[attr-defined]
        f"{one.record.serial:x}" for one in (web, late)
    }
    assert bench.authority.quarantine.is_open
    await witness(bench, WEB, last)
    assert not bench.authority.quarantine.is_open
    assert bench.crl().number > 1 << 64 > last.number
    assert bench.crl().serials == last.serials
    assert db.record.serial not in bench.told()


async def test_a_second_restore_of_the_same_backup_goes_past_the_numbers_of_the_first(bench: Restorable) -> None:
    """J9, R3: both leap to the same epoch, and an agent tells how far the first one came."""
    await bench.enrol()
    first, second = bench.backup(), bench.backup()
    bench.later()
    await bench.restore(first)
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    bench.later()
    last = await bench.authority.publish_crl()
    assert last.number > 1 << 64
    bench.later()
    await bench.restore(second)
    await witness(bench, WEB, last)
    assert not bench.authority.quarantine.is_open
    assert bench.crl().number > 2 << 64
    assert bench.crl().this_update > last.this_update


async def test_two_lists_of_one_number_are_both_learnt_from(bench: Restorable) -> None:
    """J9: two CAs over one backup signed them; both are the CA's word."""
    web, db = await bench.enrol(), await bench.enrol_as(DB)
    backup = bench.backup()
    lists = [await forged(50, [web.record.serial]), await forged(50, [db.record.serial])]
    bench.later()
    await bench.restore(backup, quorum=Quorum(3))
    for identity, der in zip((WEB, DB), lists, strict=True):
        assert await bench.authority.witnesses.hear(identity, held(der, 50)) != ()
        assert await bench.authority.witnesses.take(identity, der) == 1
    assert bench.told() == {web.record.serial, db.record.serial}


async def test_a_list_that_the_ca_did_not_sign_teaches_nothing(bench: Restorable) -> None:
    """J9, D5: another key under this CA's name, a changed byte, rubbish; each counts as no answer."""
    web = await bench.enrol()
    bench.later()
    await bench.restore(bench.backup())
    root = make_root(TRUST_DOMAIN, now=NOW)
    other = make_issuer(root, TRUST_DOMAIN, now=NOW)
    genuine = await forged(50, [web.record.serial])
    bad = [
        await forged(50, [web.record.serial], LocalIssuer(other.certificate, other.key)),
        genuine[:-1] + bytes([genuine[-1] ^ 1]),
        b"rubbish",
        Ceremony().root_crl.public_bytes(serialization.Encoding.DER),
    ]
    for der in bad:
        assert await bench.authority.witnesses.hear(WEB, held(der, 50)) != ()
        with pytest.raises((Invalid, Refused)):
            await bench.authority.witnesses.take(WEB, der)
        assert bench.audit.records[-1]["decision"] == "refused"
        assert bench.told() == set()
        assert bench.authority.witnesses.answered == 0
    assert bench.authority.quarantine.is_open


async def test_a_list_that_nobody_asked_for_is_not_read(bench: Restorable) -> None:
    """J9, H4."""
    await bench.enrol()
    der = await forged(50, [1])
    await refused(bench, Refused, "LIST_NOT_WANTED", lambda: bench.authority.witnesses.take(WEB, der))


async def test_one_agent_at_a_time_sends_a_list_and_the_next_one_does_when_it_fails(bench: Restorable) -> None:
    """J9, H4: a thousand agents hold the same list; it arrives once."""
    web = await bench.enrol()
    last = await bench.revoke(web)
    backup = bench.backup()
    del last
    newest = await forged(50, [web.record.serial, 77])
    bench.later()
    await bench.restore(backup, quorum=Quorum(5))
    hear = bench.authority.witnesses.hear
    assert await hear(WEB, held(newest, 50)) != ()
    second = asyncio.create_task(hear(DB, held(newest, 50)))
    third = asyncio.create_task(hear(OPERATOR, held(newest, 50)))
    await asyncio.sleep(0)
    assert not second.done()
    assert await bench.authority.witnesses.take(WEB, newest) == 1
    assert await second == await third == ()


async def test_when_the_one_that_was_asked_is_gone_the_next_one_is(bench: Restorable) -> None:
    """J9, H2: one of those that wait, and not all of them at once."""
    web = await bench.enrol()
    newest = await forged(50, [web.record.serial])
    bench.later()
    await bench.restore(bench.backup(), quorum=Quorum(5))
    witnesses = bench.authority.witnesses
    assert await witnesses.hear(WEB, held(newest, 50)) != ()
    witnesses.patience = 0.01
    waiting = [asyncio.create_task(witnesses.hear(identity, held(newest, 50))) for identity in (DB, OPERATOR)]
    asked, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [one.result() for one in asked] == [(hashlib.sha256(newest).digest(),)]
    assert await witnesses.take(DB, newest) == 1
    await asyncio.gather(*waiting)


# --- when it ends -----------------------------------------------------------------------------------------------------


async def test_it_does_not_wait_for_whom_a_learnt_list_revokes(bench: Restorable) -> None:
    """J9, R2: the guard would not let it in any more."""
    web = await bench.enrol()
    await bench.enrol_as(DB)
    backup = bench.backup()
    bench.later()
    last = await bench.revoke(web)
    bench.later()
    await bench.restore(backup)
    await witness(bench, DB, last)
    assert not bench.authority.quarantine.is_open


async def test_it_waits_for_every_identity_that_an_agent_got_a_certificate_for(bench: Restorable) -> None:
    """J9, R2: the default quorum. What an operator signed has no agent that could answer."""
    await bench.enrol()
    await bench.enrol_as(DB)
    pay = SpiffeId.parse("spiffe://test.example/pay")
    await bench.authority.add_entry(str(pay), by="admin")
    await bench.authority.sign(pay, build_csr(generate()), by="admin")
    last = bench.crl()
    bench.later()
    await bench.restore(bench.backup())
    assert await witness(bench, WEB, last) == 0
    assert bench.authority.quarantine.is_open
    assert "1 of 2 identities answered, missing spiffe://test.example/db" in bench.line()[1]
    await refused(
        bench,
        Refused,
        "WITNESSES_MISSING",
        lambda: bench.authority.witnesses.release(by="admin", accept_loss=False),
    )
    await witness(bench, DB, last)
    assert not bench.authority.quarantine.is_open
    assert bench.line() == (Level.OK, "over since 2026-06-01T12:01:00Z, 0 revocations learnt from agents")
    assert [one.name for one in bench.authority.status() if one.group == "restore"] == ["quarantine"]


async def test_nobody_at_all_is_no_quorum_however_old_the_backup(bench: Restorable) -> None:
    """J9: when every certificate in it has expired, that says nothing about those issued since."""
    await bench.enrol()
    backup = bench.backup()
    bench.later(timedelta(days=3))
    await bench.restore(backup)
    await bench.authority.witnesses.look_again()
    assert bench.authority.quarantine.is_open


async def test_it_ends_when_so_many_answered_or_after_the_time_that_is_configured(bench: Restorable) -> None:
    """J9, R2: `restore.quorum` and `restore.wait`; what the latter loses is shown for ever."""
    await bench.enrol()
    await bench.enrol_as(DB)
    last, backup = bench.crl(), bench.backup()
    again = bench.backup()
    await bench.restore(backup, quorum=Quorum(1))
    await witness(bench, WEB, last)
    assert not bench.authority.quarantine.is_open
    await bench.restore(again, quorum=Quorum(wait=HOUR))
    await bench.authority.witnesses.look_again()
    assert bench.authority.quarantine.is_open
    bench.later(HOUR)
    await bench.authority.witnesses.look_again()
    assert not bench.authority.quarantine.is_open
    assert ("loss", Level.WARNING) in [(one.name, one.level) for one in bench.authority.status()]


async def test_an_operator_ends_it_and_the_loss_is_shown_for_ever(bench: Restorable) -> None:
    """J9, R2: written down, with who said it; also after another start."""
    await bench.enrol()
    await bench.restore(bench.backup())
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    line = next(line for line in bench.audit.records if line["event"] == "release")
    assert (line["by"], line["decision"]) == ("admin", "granted")
    assert "0 of 1 identities answered" in str(line["detail"])
    await bench.slip_in(bench.ledger)
    assert ("loss", Level.WARNING) in [(one.name, one.level) for one in bench.authority.status()]
    await refused(
        bench,
        Refused,
        "NOT_QUARANTINED",
        lambda: bench.authority.witnesses.release(by="admin", accept_loss=True),
    )


async def test_credentials_from_before_the_restore_give_no_power(bench: Restorable) -> None:
    """J9, A19: an operator who was revoked after the backup must not end what would tell."""
    before = Leaf.of((await bench.authority.issue_internal(OPERATOR, build_csr(generate()))).chain[0])
    bench.later()
    await bench.restore(bench.backup())
    with pytest.raises(Forbidden) as caught:
        bench.authority.quarantine.check_operator(before)
    assert caught.value.reason == "OPERATOR_BEFORE_RESTORE"
    since = Leaf.of((await bench.authority.issue_internal(OPERATOR, build_csr(generate()))).chain[0])
    bench.authority.quarantine.check_operator(since)
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    bench.authority.quarantine.check_operator(before)


# --- certificates that the backup does not know -----------------------------------------------------------------------


async def restored_without(bench: Restorable) -> Issued:
    """A certificate that was issued after the backup; quarantine is over."""
    await bench.enrol()
    backup, last = bench.backup(), bench.crl()
    bench.later()
    late = await bench.enrol()
    bench.later()
    await bench.restore(backup)
    await witness(bench, WEB, last)
    assert not bench.authority.quarantine.is_open
    return late


async def test_a_certificate_that_was_issued_after_the_backup_is_renewed(bench: Restorable) -> None:
    """J9, R4: it is taken back as issued, with its line, and revoking it reaches what was renewed from it."""
    late = await restored_without(bench)
    renewed = await bench.authority.renew(bench.renewal(late))
    taken = await bench.ledger.find(late.record.serial)
    assert (taken.obtained_by, taken.parent_serial, taken.der) == ("readmitted", None, late.record.der)
    assert [line["event"] for line in bench.audit.records[-2:]] == ["readmit", "renew"]
    done = await bench.authority.revoke_serial(late.record.serial, Reason.SUPERSEDED, by="admin")
    assert set(done.serials) == {late.record.serial, renewed.record.serial}


async def test_one_that_a_learnt_list_revokes_never_comes_back(bench: Restorable) -> None:
    """J9, R4, C1."""
    await bench.enrol()
    backup = bench.backup()
    bench.later()
    late = await bench.enrol()
    last = await bench.revoke(late)
    bench.later()
    await bench.restore(backup)
    await witness(bench, WEB, last)
    assert not bench.authority.quarantine.is_open
    await refused(bench, Unauthenticated, "REVOKED", lambda: bench.authority.renew(bench.renewal(late)))


async def test_policy_is_judged_as_always(bench: Restorable) -> None:
    """J9, R4: who was registered after the backup has no entry."""
    await bench.enrol()
    backup, last = bench.backup(), bench.crl()
    bench.later()
    pay = SpiffeId.parse("spiffe://test.example/pay")
    await bench.authority.add_entry(str(pay), by="admin")
    late = await bench.enrol_as(pay)
    bench.later()
    await bench.restore(backup)
    await witness(bench, WEB, last)
    with pytest.raises(Refused) as caught:
        await bench.authority.renew(bench.renewal(late))
    assert caught.value.reason == "NO_ENTRY"


async def test_a_stranger_s_and_a_later_one_are_unknown_as_ever(bench: Restorable) -> None:
    """J9, R4, C1: another issuer of the same name; and what this ledger ought to know, since it was never restored after."""
    await restored_without(bench)
    other = Restorable()
    other.clock = bench.clock
    key = generate()
    root = make_root(TRUST_DOMAIN, now=NOW)
    fake = make_issuer(root, TRUST_DOMAIN, now=NOW)
    template = x509.load_der_x509_certificate((await bench.enrol()).record.der or b"")
    stranger = _signed_like(template, key, LocalIssuer(fake.certificate, fake.key), NOW)
    later = _signed_like(template, key, CEREMONY.issuer, bench.clock.now() + MINUTE)
    bench.later(5 * MINUTE)
    for certificate in (await stranger, await later):
        leaf = Leaf.of(certificate)
        await refused(
            bench,
            Unauthenticated,
            "UNKNOWN_CERTIFICATE",
            lambda leaf=leaf: bench.authority.renew(  # type: ignore[misc]
                Renewal(leaf, build_csr(generate(), credential=leaf.der))
            ),
        )


async def _signed_like(template: x509.Certificate, key: Any, signer: LocalIssuer, not_before: Any) -> x509.Certificate:
    """The same names, another serial and key; the extensions as they are, the issuer's key identifier among them."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(key.public_key())
        .serial_number(template.serial_number + 1)
        .not_valid_before(not_before)
        .not_valid_after(not_before + HOUR)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return await signer.sign(builder)


# --- a restore that nobody spoke of -----------------------------------------------------------------------------------


async def test_the_first_agent_that_talks_to_a_silently_restored_ca_gives_it_away(bench: Restorable) -> None:
    """J9, R7: it refuses to sign, says so as failed, and takes the revocation back; only an operator ends that."""
    web = await bench.enrol()
    backup = bench.backup()
    bench.later()
    last = await bench.revoke(web)
    bench.later()
    last = await bench.authority.publish_crl()
    bench.later()
    await bench.slip_in(backup)
    assert not bench.authority.quarantine.is_open
    assert web.record.serial not in bench.told()
    assert await witness(bench, DB, last) == 1
    assert bench.told() == {web.record.serial}
    level, detail = bench.line()
    assert (level, "spiffe://test.example/db holds CRL number" in detail) == (Level.FAILED, True)
    await refused(
        bench,
        Unavailable,
        "QUARANTINED",
        lambda: bench.authority.sign(DB, build_csr(generate()), by="admin"),
    )
    await bench.authority.witnesses.look_again()
    assert bench.authority.quarantine.is_open
    await bench.slip_in(bench.ledger)
    assert bench.line()[0] == Level.FAILED
    await bench.authority.witnesses.release(by="admin", accept_loss=True)
    assert bench.crl().number > 1 << 64
    assert bench.crl().serials == {web.record.serial}


async def test_one_that_has_published_past_the_agents_numbers_is_given_away_by_what_it_forgot(
    bench: Restorable,
) -> None:
    """J9, R7: the number alone would no longer tell."""
    web = await bench.enrol()
    backup = bench.backup()
    bench.later()
    last = await bench.revoke(web)
    bench.later()
    await bench.slip_in(backup)
    for _ in range(4):
        bench.later()
        await bench.authority.publish_crl()
    assert bench.crl().number > last.number
    assert await witness(bench, DB, last) == 1
    assert bench.line()[0] == Level.FAILED
    assert bench.told() == {web.record.serial}


async def test_a_ca_that_lost_nothing_is_never_halted_by_what_agents_hold(bench: Restorable) -> None:
    """J9, H4: every list that it ever published, across starts and retention."""
    lists = []
    for _ in range(3):
        lists.append(await bench.revoke(await bench.enrol()))
        bench.later(timedelta(hours=9))
    bench.later(timedelta(days=9))
    for _ in range(3):
        await bench.authority.accept_clock(by="admin")
        bench.later(HOUR)
        lists.append(await bench.authority.publish_crl())
        await bench.authority.forget_expired()
    assert (await bench.authority.list_certificates(CertificateFilter())).items == ()
    await bench.slip_in(bench.ledger)
    for known in lists:
        assert await witness(bench, WEB, known) == 0
    assert not bench.authority.quarantine.is_open
    assert [one for one in bench.authority.status() if one.group == "restore"] == []


async def test_a_claim_without_its_list_is_shown_and_halts_nothing(bench: Restorable) -> None:
    """J9, H4: a workload that only says so could halt the CA otherwise."""
    assert await bench.authority.witnesses.hear(WEB, held(b"", 1 << 100, kept=False)) == ()
    assert not bench.authority.quarantine.is_open
    shown = [(one.name, one.level) for one in bench.authority.status() if one.group == "restore"]
    assert shown == [("claims", Level.WARNING)]


async def test_a_quarantine_that_cannot_be_written_down_is_one_all_the_same(bench: Restorable) -> None:
    """J9, J4: the marks come first."""
    web = await bench.enrol()
    backup = bench.backup()
    last = await bench.revoke(web)
    bench.later()
    await bench.slip_in(backup)
    bench.audit.broken = True
    with pytest.raises(HandfastError):
        await witness(bench, DB, last)
    bench.audit.broken = False
    assert bench.authority.quarantine.is_open


async def test_an_order_to_renew_that_the_clock_keeps_back_is_given_when_an_operator_says_that_it_is_right(
    bench: Restorable,
) -> None:
    """J9, J8: a restore asked for it, and weeks later the CA starts; nothing is ordered before it believes its clock."""
    await bench.ledger.raise_mark(REISSUE_WANTED, wish(bench.clock.now(), 10 * MINUTE))
    bench.clock.step(timedelta(days=20))
    authority = await bench.slip_in(bench.ledger)
    await authority.reissue_wanted()
    assert authority.trust().reissue is None
    await authority.accept_clock(by="admin")
    await authority.reissue_wanted()
    order = authority.trust().reissue
    assert order is not None
    assert order.renew_before - order.tainted_at == 10 * MINUTE
    await authority.reissue_wanted()
    assert authority.trust().reissue == order
