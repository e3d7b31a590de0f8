"""What every ledger promises. Each implementation inherits :class:`LedgerContract` and gives the fixture ``ledger``.

Memory and SQLite today; PostgreSQL comes later, through this same suite.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from handfast.errors import Conflict, Exhausted, HandfastError, Invalid, NotFound, Refused, Unauthenticated
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.incident import MassFilter
from handfast_ca.ledger import (
    CRL_EPOCH,
    CertificateFilter,
    CertificateRecord,
    Completion,
    Intention,
    LearntList,
    Ledger,
    PresentedCertificate,
    RevokedEntry,
    Status,
    TokenRecord,
)
from handfast_ca.registration import Entry

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://test.example/web")
PAY = SpiffeId.parse("spiffe://test.example/pay")
ISSUER = b"issuer-key-id-000001"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def token(name: str, spiffe_id: SpiffeId = WEB, **changes: object) -> TokenRecord:
    made = TokenRecord(digest(name), name[:8], spiffe_id, NOW + timedelta(minutes=10), "admin")
    return replace(made, **changes)  # type: ignore[arg-type]


def intention(serial: int, spiffe_id: SpiffeId = WEB, **changes: object) -> Intention:
    made = Intention(
        serial=serial,
        issuer_key_id=ISSUER,
        spiffe_id=spiffe_id,
        spki_sha256=digest(f"key {serial}"),
        request_digest=digest(f"request {serial}"),
        dns_names=("web.test.example",),
        not_before=NOW - timedelta(seconds=30),
        not_after=NOW + HOUR,
        obtained_by="operator:admin",
        entry_version=0,
        now=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def presented(serial: int, spiffe_id: SpiffeId = WEB) -> PresentedCertificate:
    return PresentedCertificate(ISSUER, serial, hashlib.sha256(der(serial)).digest(), spiffe_id)


def der(serial: int) -> bytes:
    return f"certificate {serial}".encode()


async def issue(ledger: Ledger, serial: int, spiffe_id: SpiffeId = WEB, **changes: object) -> None:
    assert await ledger.intend(intention(serial, spiffe_id, **changes)) is None
    await ledger.complete(serial, ISSUER, der(serial))


async def unknown(ledger: Ledger, serial: int) -> bool:
    try:
        await ledger.find(serial)
    except NotFound as error:
        return error.reason == "NO_CERTIFICATE"
    return False


async def publish(ledger: Ledger, now: datetime) -> list[int]:
    plan = await ledger.plan_crl(ISSUER, now=now)
    await ledger.record_crl(plan, f"crl {plan.number}".encode(), now + HOUR)
    return [entry.serial for entry in plan.entries]


def _told(outcome: object) -> str | None:
    if isinstance(outcome, CertificateRecord):
        return str(outcome.serial)
    return outcome.reason if isinstance(outcome, HandfastError) else None


class LedgerContract:
    async def test_an_entry_comes_back_as_it_was_stored(self, ledger: Ledger) -> None:
        """Nothing of an entry gets lost in the store."""
        stored = await ledger.add_entry(Entry(WEB, dns_names=("a.example",), comment="one", created_at=NOW))
        assert await ledger.get_entry(WEB) == stored
        assert stored.dns_names == ("a.example",)

    async def test_a_second_entry_for_an_identity_is_refused(self, ledger: Ledger) -> None:
        """One identity, one entry."""
        await ledger.add_entry(Entry(WEB))
        with pytest.raises(Conflict) as refused:
            await ledger.add_entry(Entry(WEB, comment="other"))
        assert refused.value.reason == "ENTRY_EXISTS"
        assert (await ledger.get_entry(WEB)).comment == ""

    async def test_a_version_of_an_entry_never_comes_back(self, ledger: Ledger) -> None:
        """C4: what was admitted under a removed entry is not admitted under its successor."""
        first = await ledger.add_entry(Entry(WEB))
        await ledger.remove_entry(WEB)
        assert (await ledger.add_entry(Entry(WEB))).version > first.version

    async def test_pages_of_entries_join_to_all_of_them(self, ledger: Ledger) -> None:
        """A page token continues where the page ended."""
        names = [SpiffeId.parse(f"spiffe://test.example/n{number}") for number in range(5)]
        for name in names:
            await ledger.add_entry(Entry(name))
        first = await ledger.list_entries("*/n*", limit=3)
        rest = await ledger.list_entries("*/n*", limit=3, token=first.next_token)
        assert [entry.spiffe_id for entry in (*first.items, *rest.items)] == names
        assert rest.next_token == ""

    async def test_a_token_needs_an_entry_and_goes_with_it(self, ledger: Ledger) -> None:
        """B1: no token without an identity."""
        with pytest.raises(NotFound) as refused:
            await ledger.add_token(token("t"))
        assert refused.value.reason == "NO_ENTRY"
        await ledger.add_entry(Entry(WEB))
        await ledger.add_token(token("t"))
        await ledger.remove_entry(WEB)
        with pytest.raises(Unauthenticated) as spent:
            await ledger.find_token(digest("t"))
        assert spent.value.reason == "TOKEN_SPENT"

    async def test_sixty_tokens_in_sixteen_hands_give_sixty_certificates(self, ledger: Ledger) -> None:
        """B1: a token is redeemed once, whoever races for it."""
        version = (await ledger.add_entry(Entry(WEB))).version
        for number in range(60):
            await ledger.add_token(token(f"token {number}"))

        reasons: set[str] = set()

        async def hand(name: int) -> int:
            won = 0
            for number in range(60):
                wanted = intention(
                    1 + name * 60 + number, entry_version=version, token_digest=digest(f"token {number}")
                )
                try:
                    won += await ledger.intend(wanted) is None
                except Unauthenticated as error:
                    reasons.add(error.reason)
            return won

        assert sum(await asyncio.gather(*(hand(name) for name in range(16)))) == 60
        assert reasons == {"TOKEN_SPENT"}
        assert (await ledger.counts(now=NOW))["intended"] == 60

    @pytest.mark.parametrize(
        ("kept", "asked", "reason"),
        [
            ({"expires_at": NOW - SECOND}, {}, "TOKEN_EXPIRED"),
            ({"spiffe_id": PAY}, {}, "TOKEN_FOREIGN"),
            ({"allowed_cidr": "10.0.0.0/8"}, {"peer_address": "192.0.2.1"}, "TOKEN_ADDRESS"),
        ],
    )
    async def test_a_token_that_does_not_fit_is_refused_and_not_spent(
        self, ledger: Ledger, kept: dict[str, object], asked: dict[str, object], reason: str
    ) -> None:
        """B3: bound to identity, network and time."""
        await ledger.add_entry(Entry(WEB))
        await ledger.add_entry(Entry(PAY))
        await ledger.add_token(token("t", **kept))
        with pytest.raises(Unauthenticated) as refused:
            await ledger.intend(intention(1, token_digest=digest("t"), **asked))
        assert refused.value.reason == reason
        assert await unknown(ledger, 1)
        await ledger.find_token(digest("t"))

    async def test_an_entry_that_changed_or_went_refuses_the_intention(self, ledger: Ledger) -> None:
        """C4: the entry is judged again in the transaction."""
        with pytest.raises(Refused) as gone:
            await ledger.intend(intention(1, entry_version=1))
        version = (await ledger.add_entry(Entry(WEB))).version
        await ledger.revoke_identity(WEB, Reason.UNSPECIFIED, now=NOW)
        with pytest.raises(Refused) as changed:
            await ledger.intend(intention(1, entry_version=version))
        assert (gone.value.reason, changed.value.reason) == ("NO_ENTRY", "ENTRY_CHANGED")
        assert await unknown(ledger, 1)

    async def test_the_same_request_again_gets_the_same_record(self, ledger: Ledger) -> None:
        """A13: a lost answer is answered again, and spends nothing."""
        await issue(ledger, 1)
        again = await ledger.intend(intention(2, request_digest=digest("request 1")))
        assert again == await ledger.find(1)
        assert again == await ledger.answered(digest("request 1"), now=NOW)
        assert await ledger.answered(digest("request 1"), now=NOW + 2 * HOUR) is None

    async def test_a_renewal_stands_on_a_certificate_of_ours_that_counts(self, ledger: Ledger) -> None:
        """C1, C3: issuer, serial, bytes, identity; unrevoked and unexpired; and for nobody else."""
        await issue(ledger, 1)
        other_bytes = replace(presented(1), der_sha256=digest("other"))
        cases = [
            (presented(9), NOW, "UNKNOWN_CERTIFICATE"),
            (other_bytes, NOW, "UNKNOWN_CERTIFICATE"),
            (presented(1, PAY), NOW, "UNKNOWN_CERTIFICATE"),
            (presented(1), NOW + 2 * HOUR, "EXPIRED"),
        ]
        for shown, now, reason in cases:
            with pytest.raises(Unauthenticated) as refused:
                await ledger.intend(intention(2, presented=shown, now=now))
            assert refused.value.reason == reason
        with pytest.raises(Unauthenticated) as foreign:
            await ledger.intend(intention(2, PAY, presented=presented(1)))
        assert foreign.value.reason == "UNKNOWN_CERTIFICATE"
        await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW)
        with pytest.raises(Unauthenticated) as revoked:
            await ledger.intend(intention(2, presented=presented(1)))
        assert revoked.value.reason == "REVOKED"
        assert await unknown(ledger, 2)

    async def test_a_revocation_reaches_what_was_renewed_and_what_is_on_its_way(self, ledger: Ledger) -> None:
        """C4: never a live descendant of a revoked certificate."""
        await issue(ledger, 1)
        await issue(ledger, 2, presented=presented(1))
        await ledger.intend(intention(3, presented=presented(2)))
        records, repeated = await ledger.revoke_serial(1, Reason.SUPERSEDED, now=NOW)
        assert [record.serial for record in records] == [1, 2, 3]
        assert not repeated
        with pytest.raises(Refused) as refused:
            await ledger.complete(3, ISSUER, der(3))
        assert refused.value.reason == "REVOKED"
        assert await publish(ledger, NOW) == [1, 2, 3]

    async def test_the_first_reason_and_time_of_a_revocation_stay(self, ledger: Ledger) -> None:
        """Revoking twice changes nothing."""
        await issue(ledger, 1)
        first = await ledger.revoke_serial(1, Reason.SUPERSEDED, now=NOW)
        again = await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW + HOUR)
        assert again == (first[0], True)

    async def test_a_compromised_key_never_comes_back(self, ledger: Ledger) -> None:
        """A11: not for another identity either."""
        await issue(ledger, 1)
        await ledger.revoke_serial(1, Reason.KEY_COMPROMISE, now=NOW)
        with pytest.raises(Refused) as refused:
            await ledger.intend(intention(2, PAY, spki_sha256=digest("key 1")))
        assert refused.value.reason == "KEY_BLOCKED"
        assert await unknown(ledger, 2)

    async def test_two_live_identities_never_share_a_key(self, ledger: Ledger) -> None:
        """A12: refused while the other one is live."""
        await issue(ledger, 1)
        shared = intention(2, PAY, spki_sha256=digest("key 1"), not_after=NOW + 9 * HOUR)
        with pytest.raises(Refused) as refused:
            await ledger.intend(shared)
        assert refused.value.reason == "KEY_IN_USE"
        assert await ledger.intend(replace(shared, now=NOW + 2 * HOUR)) is None

    async def test_a_serial_is_used_once(self, ledger: Ledger) -> None:
        """A serial collision is no certificate, and completed bytes stay."""
        await issue(ledger, 1)
        with pytest.raises(Conflict) as refused:
            await ledger.intend(intention(1, request_digest=digest("other"), spki_sha256=digest("other")))
        with pytest.raises(Conflict) as rewritten:
            await ledger.complete(1, ISSUER, b"other")
        assert (refused.value.reason, rewritten.value.reason) == ("SERIAL_EXISTS", "SERIAL_EXISTS")
        assert (await ledger.find(1)).der == der(1)

    async def test_each_of_a_group_fares_as_if_it_had_come_alone(self, ledger: Ledger) -> None:
        """A11, A12, A17, B1, C1: good ones are recorded whatever befalls their neighbours, and none sees less than them."""
        await ledger.add_entry(Entry(WEB))
        await ledger.add_token(token("t"))
        await issue(ledger, 1)
        await ledger.block_key(digest("key 5"))
        group = [
            intention(2, token_digest=digest("t")),
            intention(3, token_digest=digest("t")),
            intention(4, request_digest=digest("request 1")),
            intention(5),
            intention(6, entry_version=7),
            intention(7, presented=presented(1)),
            intention(8, presented=presented(99)),
            intention(9, PAY, spki_sha256=digest("key 2")),
            intention(2, spki_sha256=digest("other")),
            intention(10),
        ]
        outcomes = await ledger.intend_all(group)
        assert [_told(outcome) for outcome in outcomes] == [
            *(None, "TOKEN_SPENT", "1", "KEY_BLOCKED", "ENTRY_CHANGED", None),
            *("UNKNOWN_CERTIFICATE", "KEY_IN_USE", "SERIAL_EXISTS", None),
        ]
        page = await ledger.list_certificates(CertificateFilter())
        assert {record.serial for record in page.items} == {1, 2, 7, 10}
        assert await ledger.intend_all([]) == []

    async def test_each_of_a_group_is_completed_or_told_why_not(self, ledger: Ledger) -> None:
        """C4: what was revoked meanwhile is not handed out; saying the same again changes nothing."""
        for serial in (1, 2, 3):
            await ledger.intend(intention(serial))
        await ledger.complete(1, ISSUER, der(1))
        await ledger.revoke_serial(2, Reason.UNSPECIFIED, now=NOW)
        done = [Completion(serial, ISSUER, der(serial)) for serial in (1, 2, 3, 4)]
        outcomes = await ledger.complete_all([*done, Completion(3, ISSUER, b"other bytes")])
        assert [_told(one) for one in outcomes] == ["1", "REVOKED", "3", "NO_CERTIFICATE", "SERIAL_EXISTS"]
        assert (await ledger.find(3)).der == der(3)
        assert await ledger.complete_all([]) == []

    async def test_a_dangling_intention_is_revoked_at_the_start(self, ledger: Ledger) -> None:
        """J1: its certificate may exist."""
        await issue(ledger, 1)
        await ledger.intend(intention(2))
        dangling = await ledger.revoke_dangling(now=NOW)
        assert [(record.serial, record.status) for record in dangling] == [(2, Status.INTENDED)]
        assert await publish(ledger, NOW) == [2]
        assert list(await ledger.revoke_dangling(now=NOW)) == []

    async def test_revoking_an_identity_takes_its_certificates_and_tokens(self, ledger: Ledger) -> None:
        """C9: with them goes every renewal; others are left alone."""
        await ledger.add_entry(Entry(WEB))
        await ledger.add_token(token("t"))
        await issue(ledger, 1)
        await issue(ledger, 2, PAY)
        records, _ = await ledger.revoke_identity(WEB, Reason.UNSPECIFIED, now=NOW)
        assert [record.serial for record in records] == [1]
        assert (await ledger.find(2)).revoked_at is None
        with pytest.raises(Unauthenticated):
            await ledger.find_token(digest("t"))
        with pytest.raises(NotFound):
            await ledger.revoke_identity(SpiffeId.parse("spiffe://test.example/no"), Reason.UNSPECIFIED, now=NOW)

    async def test_what_one_event_touches_is_found_with_what_was_renewed_from_it(self, ledger: Ledger) -> None:
        """C9: by name, issuer, span of time and key, expired roots of chains that live on among them."""
        early = {"not_before": NOW - 5 * HOUR, "not_after": NOW - HOUR}
        await issue(ledger, 1, WEB, **early, now=NOW - 5 * HOUR)
        await issue(ledger, 2, WEB, presented=presented(1), now=NOW - 2 * HOUR)
        await issue(ledger, 3, PAY)
        await ledger.intend(intention(4, PAY))
        other = b"issuer-key-id-000002"
        await ledger.intend(intention(5, PAY, issuer_key_id=other))

        async def found(**how: object) -> list[int]:
            return [one.serial for one in await ledger.live(MassFilter(**how), now=NOW)]

        assert await found(identity_glob="*/web") == [2]
        assert await found(identity_glob="*") == [2, 3, 4, 5]
        assert await found(issuer_key_id=ISSUER) == [2, 3, 4]
        span = {"issued_from": NOW - 6 * HOUR, "issued_until": NOW - 4 * HOUR}
        assert await found(**span) == [2]
        assert await found(**span, renewals=False) == []
        assert await found(**span, identity_glob="*/pay") == []
        assert await found(spki_sha256=digest("key 1")) == [2]
        assert await found(identity_glob="*", up_to=2, renewals=False) == [2]

    async def test_a_batch_is_revoked_in_one_step_and_tells_only_what_was_not_revoked_before(
        self, ledger: Ledger
    ) -> None:
        """C5: said again, nothing is told again; A11: the keys are blocked."""
        for serial in (1, 2, 3):
            await issue(ledger, serial)
        await ledger.revoke_serial(2, Reason.SUPERSEDED, now=NOW)
        records = await ledger.revoke_serials([1, 2, 99], Reason.KEY_COMPROMISE, now=NOW)
        assert [(one.serial, one.reason) for one in records] == [(1, Reason.KEY_COMPROMISE)]
        assert await ledger.revoke_serials([1, 2], Reason.KEY_COMPROMISE, now=NOW) == ()
        assert (await ledger.find(2)).reason is Reason.SUPERSEDED
        assert (await ledger.find(3)).revoked_at is None
        with pytest.raises(Refused) as refused:
            await ledger.intend(intention(9, PAY, spki_sha256=digest("key 2")))
        assert refused.value.reason == "KEY_BLOCKED"

    async def test_whole_identities_lose_certificates_tokens_and_what_is_on_its_way(self, ledger: Ledger) -> None:
        """C9: many names in one step, and names that nobody has are passed over."""
        for name, serial in ((WEB, 1), (PAY, 2)):
            await ledger.add_entry(Entry(name))
            await ledger.add_token(token(str(name), name))
            await issue(ledger, serial, name, entry_version=1)
        unknown_name = SpiffeId.parse("spiffe://test.example/nobody")
        records = await ledger.revoke_identities([WEB, PAY, unknown_name], Reason.UNSPECIFIED, now=NOW)
        assert [one.serial for one in records] == [1, 2]
        for name, serial in ((WEB, 11), (PAY, 12)):
            assert (await ledger.get_entry(name)).version == 2
            with pytest.raises(Unauthenticated):
                await ledger.find_token(digest(str(name)))
            with pytest.raises(Refused) as refused:
                await ledger.intend(intention(serial, name, entry_version=1))
            assert refused.value.reason == "ENTRY_CHANGED"
        assert await ledger.revoke_identities([WEB, PAY], Reason.UNSPECIFIED, now=NOW) == ()

    async def test_a_blocked_key_is_certified_for_nobody(self, ledger: Ledger) -> None:
        """A11: also a key that no certificate ever had."""
        assert await ledger.block_key(digest("key 7"))
        assert not await ledger.block_key(digest("key 7"))
        with pytest.raises(Refused) as refused:
            await ledger.intend(intention(7))
        assert refused.value.reason == "KEY_BLOCKED"
        assert await unknown(ledger, 7)

    async def test_a_reissue_knows_who_has_renewed_since_by_the_order_of_the_book(self, ledger: Ledger) -> None:
        """J6: by the book, whatever the clocks of certificates say."""
        assert await ledger.reissue() is None
        db = SpiffeId.parse("spiffe://test.example/db")
        await issue(ledger, 1, WEB)
        await issue(ledger, 2, PAY)
        await issue(ledger, 3, db)
        await ledger.revoke_serial(3, Reason.UNSPECIFIED, now=NOW - HOUR)
        order = await ledger.begin_reissue(now=NOW, renew_before=NOW + HOUR, backdate=timedelta(seconds=30))
        assert await ledger.reissue() == order
        assert (order.up_to, order.tainted_at, order.renew_before) == (3, NOW, NOW + HOUR)
        await issue(ledger, 4, WEB, presented=presented(1))
        stand = {one.spiffe_id: one for one in await ledger.standings(order)}
        assert set(stand) == {str(WEB), str(PAY)}
        assert stand[str(WEB)].renewed == NOW
        assert stand[str(PAY)].renewed is None
        assert stand[str(PAY)].old_until == NOW + HOUR
        await ledger.revoke_serials([1, 2], Reason.SUPERSEDED, now=NOW + SECOND)
        stand = {one.spiffe_id: one for one in await ledger.standings(order)}
        assert (stand[str(WEB)].old_until, stand[str(PAY)].old_until) == (None, None)
        assert stand[str(WEB)].renewed == NOW

    async def test_crl_numbers_and_times_rise_and_are_never_in_the_future(self, ledger: Ledger) -> None:
        """D3: one a second at most, thirty seconds to spare, then wait."""
        plans = [await ledger.plan_crl(ISSUER, now=NOW) for _ in range(31)]
        assert [plan.number for plan in plans] == list(range(1, 32))
        assert [plan.this_update for plan in plans] == [NOW + (step - 30) * SECOND for step in range(31)]
        with pytest.raises(Exhausted) as refused:
            await ledger.plan_crl(ISSUER, now=NOW)
        assert (refused.value.reason, refused.value.retry_after) == ("CRL_TOO_SOON", 1.0)

    async def test_the_newest_crl_is_kept_and_what_comes_late_is_refused(self, ledger: Ledger) -> None:
        """D1, J5: an older one that was slow to sign replaces nothing, and whoever made it is told not to publish it."""
        first, second = await ledger.plan_crl(ISSUER, now=NOW), await ledger.plan_crl(ISSUER, now=NOW)
        await ledger.record_crl(second, b"second", NOW + HOUR)
        with pytest.raises(Conflict) as refused:
            await ledger.record_crl(first, b"first", NOW + HOUR)
        assert refused.value.reason == "CRL_OUT_OF_TURN"
        assert await ledger.latest_crl(ISSUER) == b"second"
        with pytest.raises(Invalid) as unplanned:
            await ledger.record_crl(replace(second, number=9), b"ninth", NOW + HOUR)
        assert unplanned.value.reason == "CRL_UNPLANNED"

    async def test_a_list_that_was_planned_before_another_was_recorded_is_out_of_turn(self, ledger: Ledger) -> None:
        """J5: its number is higher, but it does not know what the other one carried."""
        first, second = await ledger.plan_crl(ISSUER, now=NOW), await ledger.plan_crl(ISSUER, now=NOW)
        await ledger.record_crl(first, b"first", NOW + HOUR)
        with pytest.raises(Conflict) as refused:
            await ledger.record_crl(second, b"second", NOW + HOUR)
        assert refused.value.reason == "CRL_OUT_OF_TURN"
        assert await ledger.latest_crl(ISSUER) == b"first"

    async def test_who_has_the_newest_list_is_told_what_changed_and_others_everything(self, ledger: Ledger) -> None:
        """H6: a plan costs what changed. D4: what is carried past expiry leaves, and the total says how many must be left."""
        for serial in (1, 2, 3):
            await issue(ledger, serial, not_after=NOW + serial * HOUR)
            await ledger.revoke_serial(serial, Reason.UNSPECIFIED, now=NOW)
        assert await publish(ledger, NOW) == [1, 2, 3]
        await issue(ledger, 4, not_after=NOW + 9 * HOUR)
        await ledger.revoke_serial(4, Reason.UNSPECIFIED, now=NOW)
        later = NOW + HOUR + 60 * SECOND
        plan = await ledger.plan_crl(ISSUER, now=later, base=1)
        assert ([e.serial for e in plan.entries], plan.removed, plan.total, plan.base) == ([4], (), 4, 1)
        await ledger.record_crl(plan, b"second", later + HOUR)
        past = await ledger.plan_crl(ISSUER, now=later + SECOND, base=2)
        assert ([e.serial for e in past.entries], past.removed, past.total) == ([], (1,), 3)
        again = await ledger.plan_crl(ISSUER, now=later + 2 * SECOND, base=2)
        assert (again.removed, again.total) == ((1,), 3)
        stranger = await ledger.plan_crl(ISSUER, now=later + 3 * SECOND, base=1)
        assert ([e.serial for e in stranger.entries], stranger.base) == ([2, 3, 4], 0)

    async def test_what_is_revoked_while_a_list_is_made_is_on_the_next(self, ledger: Ledger) -> None:
        """C4, J6: by the ledger's order, never by anybody's clock."""
        for serial in (1, 2):
            await issue(ledger, serial)
        await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW)
        plan = await ledger.plan_crl(ISSUER, now=NOW)
        await ledger.revoke_serial(2, Reason.UNSPECIFIED, now=NOW - 5 * SECOND)
        await ledger.record_crl(plan, b"first", NOW + HOUR)
        following = await ledger.plan_crl(ISSUER, now=NOW + SECOND, base=plan.number)
        assert [entry.serial for entry in following.entries] == [2]

    async def test_a_raised_epoch_puts_numbers_past_all_before(self, ledger: Ledger) -> None:
        """J9, D1 (RFC 5280, 5.2.3): ``epoch * 2^64 + sequence``, and never more than twenty octets."""
        assert (await ledger.plan_crl(ISSUER, now=NOW)).number == 1
        await ledger.raise_mark(CRL_EPOCH, 2**33)
        raised = [(await ledger.plan_crl(ISSUER, now=NOW)).number for _ in range(2)]
        assert raised == [(2**33 << 64) + 1, (2**33 << 64) + 2]
        assert raised[-1].bit_length() < 160

    async def test_a_revocation_is_carried_past_expiry_before_it_is_forgotten(self, ledger: Ledger) -> None:
        """D4 (RFC 5280, 3.3): and the record outlives the last CRL that carried it."""
        await issue(ledger, 1)
        await issue(ledger, 2)
        await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW)
        assert await publish(ledger, NOW) == [1]
        later = NOW + 3 * HOUR
        assert await ledger.forget_expired(now=later, keep=HOUR) == 1
        assert await unknown(ledger, 2)
        assert await publish(ledger, later) == [1]
        assert await ledger.forget_expired(now=later, keep=HOUR) == 0
        assert await publish(ledger, later + HOUR) == []
        assert await ledger.forget_expired(now=later, keep=HOUR) == 1
        assert await unknown(ledger, 1)

    async def test_a_link_in_a_chain_of_renewals_stays_as_long_as_its_origin(self, ledger: Ledger) -> None:
        """C4: revoking the origin still reaches what followed a short-lived certificate."""
        await issue(ledger, 1, not_after=NOW + 9 * HOUR)
        await issue(ledger, 2, presented=presented(1))
        await issue(ledger, 3, presented=presented(2), not_after=NOW + 9 * HOUR)
        assert await ledger.forget_expired(now=NOW + 3 * HOUR, keep=HOUR) == 0
        records, _ = await ledger.revoke_serial(1, Reason.UNSPECIFIED, now=NOW + 3 * HOUR)
        assert [record.serial for record in records] == [1, 2, 3]

    async def test_certificates_are_found_by_identity_status_and_expiry(self, ledger: Ledger) -> None:
        """Filters are joined by and; pages are in order of issue."""
        await issue(ledger, 1)
        await issue(ledger, 2, PAY)
        await ledger.intend(intention(3))
        by_name = await ledger.list_certificates(CertificateFilter(identity_glob="*/web"), limit=1)
        rest = await ledger.list_certificates(
            CertificateFilter(identity_glob="*/web"), limit=1, token=by_name.next_token
        )
        assert [page.items[0].serial for page in (by_name, rest)] == [1, 3]
        valid = await ledger.list_certificates(CertificateFilter(status="valid", now=NOW))
        assert [record.serial for record in valid.items] == [1, 2]
        assert (await ledger.list_certificates(CertificateFilter(expiring_before=NOW))).items == ()
        with pytest.raises(Invalid):
            await ledger.list_certificates(CertificateFilter(), token="not ours")

    async def test_looking_whether_it_can_be_written_changes_nothing(self, ledger: Ledger) -> None:
        """J2."""
        await issue(ledger, 1)
        before = await ledger.counts(now=NOW)
        await ledger.check()
        assert await ledger.counts(now=NOW) == before

    async def test_marks_only_rise(self, ledger: Ledger) -> None:
        """D1: high-water marks."""
        assert await ledger.mark("seen") == 0
        assert await ledger.raise_mark("seen", 7) == 7
        assert await ledger.raise_mark("seen", 3) == 7
        assert await ledger.mark("seen") == 7

    async def test_one_refusal_does_not_disturb_its_neighbours(self, ledger: Ledger) -> None:
        """J12: steps that share a commit share nothing else."""
        await issue(ledger, 5)
        same = {"request_digest": digest("new"), "spki_sha256": digest("new")}
        wanted = [intention(serial) if serial != 5 else intention(5, **same) for serial in range(1, 10)]
        answers = await asyncio.gather(*map(ledger.intend, wanted), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, HandfastError)]
        assert [error.reason for error in refused] == ["SERIAL_EXISTS"]
        assert (await ledger.counts(now=NOW))["intended"] == 8

    # --- what a ledger that lost its last hours takes back ---

    async def test_what_a_list_revokes_is_revoked_also_what_was_never_heard_of(self, ledger: Ledger) -> None:
        """J9: exactly what is new is returned, and the next list carries all of it."""
        for serial in (1, 2):
            await issue(ledger, serial)
        await ledger.revoke_serial(1, Reason.SUPERSEDED, now=NOW)
        taken = await ledger.learn(learnt(7, (1, 2, 3), Reason.KEY_COMPROMISE), unknown=PAY, until=NOW + HOUR)
        assert [(record.serial, record.spiffe_id) for record in taken] == [(2, WEB), (3, PAY)]
        assert (await ledger.find(1)).reason is Reason.SUPERSEDED
        assert (await ledger.find(3)).describe(NOW) == "revoked"
        assert await ledger.learn(learnt(7, (1, 2, 3)), unknown=PAY, until=NOW + HOUR) == ()
        with pytest.raises(Refused) as blocked:
            await ledger.intend(intention(9, spki_sha256=digest("key 2")))
        assert blocked.value.reason == "KEY_BLOCKED"
        assert list(await ledger.revoke_dangling(now=NOW)) == []
        assert sorted(await publish(ledger, NOW + HOUR)) == [1, 2, 3]

    async def test_numbers_and_times_go_on_after_those_of_a_learnt_list(self, ledger: Ledger) -> None:
        """J9, D1, D3: a higher number begins a new epoch; a lower one changes nothing."""
        first = await ledger.plan_crl(ISSUER, now=NOW)
        await ledger.record_crl(first, b"own", NOW + HOUR)
        await ledger.learn(learnt(0, (), this_update=NOW - HOUR), unknown=PAY, until=NOW)
        assert (await ledger.latest_crl(ISSUER), await ledger.mark(CRL_EPOCH)) == (b"own", 0)
        await ledger.learn(learnt(3 << 64, (), this_update=NOW + HOUR), unknown=PAY, until=NOW)
        assert (await ledger.latest_crl(ISSUER), await ledger.mark(CRL_EPOCH)) == (b"learnt", 4)
        plan = await ledger.plan_crl(ISSUER, now=NOW + 2 * HOUR)
        assert plan.number == (4 << 64) + 1
        with pytest.raises(Exhausted):
            await ledger.plan_crl(ISSUER, now=NOW + HOUR)
        await ledger.record_crl(plan, b"next", NOW + 3 * HOUR)
        assert await ledger.latest_crl(ISSUER) == b"next"

    async def test_a_ledger_without_any_list_learns_its_first(self, ledger: Ledger) -> None:
        """J9."""
        await ledger.learn(learnt(5, (8,)), unknown=PAY, until=NOW + HOUR)
        assert await ledger.latest_crl(ISSUER) == b"learnt"
        assert (await ledger.plan_crl(ISSUER, now=NOW + HOUR)).number == (1 << 64) + 1

    async def test_a_certificate_is_taken_back_once_and_never_with_a_blocked_key(self, ledger: Ledger) -> None:
        """J9, A11."""
        await issue(ledger, 1)
        known = await ledger.find(1)
        lost = replace(known, serial=2, spki_sha256=digest("key 2"), der=der(2), obtained_by="readmitted")
        await ledger.readmit(lost)
        assert await ledger.find(2) == lost
        with pytest.raises(Conflict) as twice:
            await ledger.readmit(lost)
        assert twice.value.reason == "SERIAL_EXISTS"
        await ledger.intend(intention(3, presented=presented(2)))
        await ledger.revoke_serial(1, Reason.KEY_COMPROMISE, now=NOW)
        with pytest.raises(Refused) as blocked:
            await ledger.readmit(replace(lost, serial=4, spki_sha256=known.spki_sha256))
        assert blocked.value.reason == "KEY_BLOCKED"
        assert await unknown(ledger, 4)


def learnt(
    number: int, serials: tuple[int, ...], reason: Reason = Reason.UNSPECIFIED, *, this_update: datetime = NOW
) -> LearntList:
    """A verified list that an agent held."""
    entries = tuple(RevokedEntry(serial, NOW, reason) for serial in serials)
    return LearntList(ISSUER, number, this_update, this_update + HOUR, entries, b"learnt")
