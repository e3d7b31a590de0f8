"""Many revocations with one word, and a reissue of all that is out, over the ledger in memory and a manual clock."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from handfast.certificates import Leaf, format_serial
from handfast.csr import build_csr
from handfast.errors import Broken, Conflict, HandfastError, Invalid, NotFound, Refused, Unauthenticated
from handfast.identity import SpiffeId
from handfast.keys import generate, spki_sha256
from handfast.revocation import Reason
from handfast_ca.audit_revocations import recorded_revocations
from handfast_ca.authority import Authority, Issued
from handfast_ca.incident import MassFilter
from handfast_ca.mass_revoker import BATCH, MassProgress
from tests.ca.core import NOW
from tests.ca.test_authority import CEREMONY, OPERATOR, Bench

pytestmark = pytest.mark.timeout(60)
WEBS = "spiffe://test.example/shop/*"


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    await made.authority.start()
    yield made
    await made.authority.close()


async def issue(bench: Bench, name: str, *, entry: bool = True) -> Issued:
    identity = SpiffeId.parse(f"spiffe://test.example/{name}")
    if entry:
        await bench.authority.add_entry(str(identity), by="admin")
    return await bench.authority.sign(identity, build_csr(generate()), by="admin")


async def revoke(bench: Bench, reason: Reason = Reason.SUPERSEDED, **wanted: Any) -> MassProgress:
    progress = [one async for one in bench.authority.revoke_many(MassFilter(**wanted), reason, by="admin")]
    assert [one.crl_number is None for one in progress] == [True] * (len(progress) - 1) + [False]
    return progress[-1]


def revoking(bench: Bench) -> list[dict[str, Any]]:
    return [line for line in bench.audit.records if line["event"] == "revoke"]


async def test_a_pattern_of_names_takes_whole_identities_and_nobody_else(bench: Bench) -> None:
    """C9: certificates, tokens and renewals of each; the list carries them when it returns, and one line tells it."""
    shop = [await issue(bench, f"shop/{number}") for number in range(7)]
    other = await issue(bench, "other")
    token = await bench.token(SpiffeId.parse("spiffe://test.example/shop/3"))
    done = await revoke(bench, identity_glob=WEBS)
    assert (done.certificates, done.total, done.identities, done.crl_number) == (7, 7, 7, bench.crl().number)
    assert bench.crl().serials == {one.record.serial for one in shop}
    line = revoking(bench)[-1]
    assert (line["count"], line["reason"], line["by"]) == (7, "superseded", "admin")
    assert line["serials"] == [format_serial(one.record.serial) for one in shop]
    assert line["detail"] == f"identity {WEBS}"
    with pytest.raises(Unauthenticated):
        await bench.authority.enrol(await bench.enrolment(token=token))
    with pytest.raises(Unauthenticated) as caught:
        await bench.authority.renew(bench.renewal(shop[0]))
    assert caught.value.reason == "REVOKED"
    await bench.authority.renew(bench.renewal(other))


async def test_saying_it_twice_is_no_error_and_revokes_nothing_more(bench: Bench) -> None:
    """C5."""
    await issue(bench, "shop/a")
    first = await revoke(bench, identity_glob=WEBS)
    again = await revoke(bench, identity_glob=WEBS)
    assert (again.certificates, again.already_revoked) == (0, 1)
    assert again.crl_number is not None
    assert first.crl_number is not None
    assert again.crl_number >= first.crl_number
    assert [(line["count"], line["repeated"], line["entries"]) for line in revoking(bench)] == [
        (1, False, 1),
        (0, True, 1),
    ]


async def test_identities_that_hold_nothing_yet_lose_what_waits_for_them_and_the_trail_says_so(bench: Bench) -> None:
    """C9: an entry and a token are enough to be one of them."""
    identity = SpiffeId.parse("spiffe://test.example/shop/new")
    await bench.authority.add_entry(str(identity), by="admin")
    token = await bench.token(identity)
    done = await revoke(bench, identity_glob=WEBS)
    assert (done.certificates, done.identities) == (0, 1)
    assert [(line["count"], line["entries"]) for line in revoking(bench)] == [(0, 1)]
    with pytest.raises(Unauthenticated):
        await bench.authority.enrol(await bench.enrolment(token=token))


def mass_line(authority: Authority) -> tuple[str, str] | None:
    """What `handfast status` says of mass revocations."""
    return next(((str(one.level), one.detail) for one in authority.status() if one.name == "mass"), None)


async def many(bench: Bench, count: int) -> MassFilter:
    """So many certificates of one identity, and a filter that picks them one by one."""
    identity = (await issue(bench, "shop/a")).record.spiffe_id
    for _ in range(count - 1):
        await bench.authority.sign(identity, build_csr(generate()), by="admin")
    return MassFilter(issuer_key_id=CEREMONY.issuer.key_id)


async def cut_off(bench: Bench, wanted: MassFilter) -> None:
    """After the first batch."""
    async with aclosing(bench.authority.revoke_many(wanted, Reason.SUPERSEDED, by="admin")) as progress:
        async for one in progress:
            if one.certificates:
                return


async def test_one_that_was_cut_off_is_reported_over_restarts_until_the_same_is_said_again(bench: Bench) -> None:
    """C5: with how far it came; another filter does not settle it; nothing goes on by itself."""
    wanted = await many(bench, BATCH + 1)
    assert mass_line(bench.authority) is None
    await cut_off(bench, wanted)
    said = f"of issuer {wanted.issuer_key_id.hex()} by admin, begun {NOW:%Y-%m-%dT%H:%M:%SZ}"
    told = ("warning", f"{said}: {BATCH} of {BATCH + 1} revoked when it was cut off")
    assert mass_line(bench.authority) == told
    await revoke(bench, identity_glob="spiffe://test.example/other/*", issuer_key_id=b"", spki_sha256=b"x" * 32)
    authority = bench.again()
    await authority.start()
    assert mass_line(authority) == told
    assert len(bench.crl().serials) == BATCH
    async for one in authority.revoke_many(wanted, Reason.SUPERSEDED, by="admin"):
        line = mass_line(authority)
        if one.crl_number is None:
            assert line is not None
            assert line[0] == "ok"
    assert mass_line(authority) is None
    await authority.close()
    authority = bench.again()
    await authority.start()
    assert mass_line(authority) is None


async def test_what_was_revoked_and_not_written_down_is_written_at_the_next_start(bench: Bench) -> None:
    """C5, J9: a stop between the two loses no serial for a restore, and none stands twice."""
    wanted = await many(bench, BATCH + 1)
    progress = bench.authority.revoke_many(wanted, Reason.SUPERSEDED, by="admin")
    await anext(progress)
    bench.audit.broken = True
    with pytest.raises(Broken):
        await anext(progress)
    bench.audit.broken = False
    assert revoking(bench) == []
    for _ in range(2):
        authority = bench.again()
        await authority.start()
        line = mass_line(authority)
        assert line is not None
        assert f"{BATCH} of {BATCH + 1} revoked when it was cut off" in line[1]
        written = [(one["count"], one["reason"], one["by"]) for one in revoking(bench)]
        assert written == [(BATCH, "superseded", "admin")]
        await authority.close()
    assert set(revoking(bench)[0]["serials"]) == {format_serial(serial) for serial in bench.crl().serials}


async def test_one_that_was_cut_off_is_not_reported_when_all_that_it_meant_has_expired(bench: Bench) -> None:
    """What was issued since is another matter."""
    await cut_off(bench, await many(bench, BATCH + 1))
    bench.clock.advance(timedelta(hours=25))
    assert mass_line(bench.authority) is None


async def test_one_that_is_cut_off_half_way_is_finished_when_it_is_said_again(bench: Bench) -> None:
    """C5: what was told is revoked and written down; the rest follows."""
    issuer = CEREMONY.issuer.key_id
    identity = (await issue(bench, "shop/a")).record.spiffe_id
    for _ in range(BATCH):
        await bench.authority.sign(identity, build_csr(generate()), by="admin")
    wanted = MassFilter(issuer_key_id=issuer)
    told = 0
    async with aclosing(bench.authority.revoke_many(wanted, Reason.SUPERSEDED, by="admin")) as progress:
        async for one in progress:
            told = one.certificates
            if told:
                break
    assert told == BATCH
    assert [line["count"] for line in revoking(bench)] == [BATCH]
    done = await revoke(bench, issuer_key_id=issuer)
    assert (done.certificates, done.already_revoked) == (1, BATCH)
    assert len(bench.crl().serials) == BATCH + 1


async def test_who_stops_listening_in_the_middle_of_a_batch_leaves_no_half_of_it(bench: Bench) -> None:
    """C5: revoked, announced and written down, or none of it."""
    made = await issue(bench, "shop/a")

    async def listen() -> None:
        await revoke(bench, identity_glob=WEBS)

    task = asyncio.create_task(listen())
    while not (await bench.ledger.find(made.record.serial)).revoked_at:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bench.authority.close()
    assert len(revoking(bench)) == 1
    assert made.record.serial in bench.crl().serials


async def test_a_span_of_time_takes_what_was_renewed_from_it_since(bench: Bench) -> None:
    """C4: an expired certificate's renewals live on, and go."""
    suspect = await issue(bench, "shop/a")
    bench.clock.advance(timedelta(hours=1))
    renewed = await bench.authority.renew(bench.renewal(suspect))
    innocent = await issue(bench, "shop/b")
    bench.clock.advance(timedelta(hours=23, minutes=30))
    done = await revoke(bench, issued_from=NOW, issued_until=NOW + timedelta(minutes=1))
    assert done.certificates == 1
    assert (await bench.authority.certificate(renewed.record.serial)).revoked_at is not None
    assert (await bench.authority.certificate(innocent.record.serial)).revoked_at is None


async def test_a_span_begins_with_the_moment_of_issue_and_not_with_not_before(bench: Bench) -> None:
    """notBefore lies half a minute before it."""
    made = await issue(bench, "shop/a")
    assert made.record.not_before < NOW
    done = await revoke(bench, issued_from=NOW, issued_until=NOW)
    assert done.certificates == 1


async def test_a_key_is_blocked_for_every_identity_and_its_certificates_go(bench: Bench) -> None:
    """A11: known to us or not, with the renewals that whoever had it may have made."""
    key = generate()
    made = await issue(bench, "shop/a")
    await bench.authority.add_entry("spiffe://test.example/b", by="admin")
    identity = SpiffeId.parse("spiffe://test.example/b")
    taken = await bench.authority.sign(identity, build_csr(key), by="admin")
    thief = await bench.authority.renew(bench.renewal(taken))
    done = await revoke(bench, Reason.KEY_COMPROMISE, spki_sha256=spki_sha256(key.public_key()))
    assert (done.certificates, done.key_blocked) == (2, True)
    assert bench.crl().serials == {taken.record.serial, thief.record.serial}
    for blocked in (key, None):
        csr = build_csr(key if blocked else generate())
        if blocked is None:
            await bench.authority.sign(made.record.spiffe_id, csr, by="admin")
        else:
            with pytest.raises(Refused) as caught:
                await bench.authority.sign(made.record.spiffe_id, csr, by="admin")
            assert caught.value.reason == "KEY_BLOCKED"
    again = await revoke(bench, Reason.KEY_COMPROMISE, spki_sha256=spki_sha256(key.public_key()))
    assert not again.key_blocked
    unknown = await revoke(bench, Reason.KEY_COMPROMISE, spki_sha256=b"u" * 32)
    assert (unknown.certificates, unknown.key_blocked) == (0, True)
    assert [line["repeated"] for line in bench.audit.records if line["event"] == "block-key"] == [False, True, False]


async def test_the_keys_of_a_mass_key_compromise_are_blocked(bench: Bench) -> None:
    """A11."""
    key = generate()
    await issue(bench, "shop/a")
    identity = SpiffeId.parse("spiffe://test.example/shop/a")
    await bench.authority.sign(identity, build_csr(key), by="admin")
    await bench.authority.add_entry("spiffe://test.example/b", by="admin")
    await revoke(bench, Reason.KEY_COMPROMISE, identity_glob=WEBS)
    with pytest.raises(Refused) as caught:
        await bench.authority.sign(SpiffeId.parse("spiffe://test.example/b"), build_csr(key), by="admin")
    assert caught.value.reason == "KEY_BLOCKED"


async def test_the_ca_and_its_operators_are_spared_and_named(bench: Bench) -> None:
    """C9: whoever revokes everything still has a CA that says so."""
    await bench.authority.issue_internal(OPERATOR, build_csr(generate()))
    await issue(bench, "shop/a")
    survey = await bench.authority.survey_revocation(MassFilter(identity_glob="*"))
    assert survey.spared == (str(OPERATOR),)
    assert survey.identities == ("spiffe://test.example/shop/a",)
    done = await revoke(bench, identity_glob="*")
    assert done.certificates == 1


@pytest.mark.parametrize(
    ("wanted", "kind", "reason"),
    [(MassFilter(), Invalid, "EMPTY_FILTER"), (MassFilter("spiffe://test.example/none"), NotFound, "NO_CERTIFICATE")],
    ids=["no filter", "nothing fits"],
)
async def test_what_means_nothing_is_refused(
    bench: Bench, wanted: MassFilter, kind: type[HandfastError], reason: str
) -> None:
    """C5: with its reason, one line, and nothing revoked."""
    await issue(bench, "shop/a")
    lines = len(bench.audit.raw)
    with pytest.raises(kind) as caught:
        _ = [one async for one in bench.authority.revoke_many(wanted, Reason.SUPERSEDED, by="admin")]
    assert caught.value.reason == reason
    assert [(line["decision"], line["reason"]) for line in bench.audit.records[lines:]] == [("refused", reason)]
    assert bench.crl().serials == frozenset()


async def test_it_reaches_everybody_even_when_it_cannot_be_written_down(bench: Bench) -> None:
    """G4: the error says so."""
    made = await issue(bench, "shop/a")
    progress = bench.authority.revoke_many(MassFilter(identity_glob=WEBS), Reason.SUPERSEDED, by="admin")
    await anext(progress)
    bench.audit.broken = True
    with pytest.raises(Broken) as caught:
        await anext(progress)
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    assert [news.serial for news in bench.authority.trust().announced] == [made.record.serial]
    await bench.authority.close()


async def test_a_restore_learns_every_serial_of_a_batch_from_the_trail(bench: Bench, tmp_path: Any) -> None:
    """C8: none is left out of its line."""
    identity = (await issue(bench, "shop/a")).record.spiffe_id
    for _ in range(BATCH):
        await bench.authority.sign(identity, build_csr(generate()), by="admin")
    await revoke(bench, identity_glob=WEBS)
    trail = tmp_path / "audit.jsonl"
    trail.write_bytes(b"".join(bench.audit.raw))
    assert {one.serial for one in recorded_revocations(trail)} == bench.crl().serials
    assert len(bench.crl().serials) == BATCH + 1


# --- the reissue ---------------------------------------------------------------------------------------------------


async def test_a_reissue_is_told_to_all_who_watch_and_to_all_who_come_back(bench: Bench) -> None:
    """C9: also by the process that comes after the one that was told."""
    await issue(bench, "shop/a")
    begun = await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    async with aclosing(bench.authority.feed.watch()) as watch:
        whole = await anext(watch)
    assert whole.reissue == begun.order
    assert whole.reissue is not None
    assert whole.reissue.renew_before == NOW + timedelta(minutes=10)
    again = bench.again()
    await again.start()
    assert again.trust().reissue == begun.order
    line = next(line for line in bench.audit.records if line["event"] == "reissue")
    assert (line["decision"], line["detail"], line["by"]) == ("granted", "window 10m", "admin")


async def test_the_timeline_follows_the_ledger_until_nobody_is_missing(bench: Bench) -> None:
    """Half, nine tenths and last, to the second."""
    issued = [await issue(bench, f"shop/{number}") for number in range(10)]
    await bench.authority.issue_internal(OPERATOR, build_csr(generate()))
    begun = await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    assert (begun.total, begun.renewed, len(begun.missing), begun.ended) == (10, 0, 10, False)
    for one in issued[:9]:
        bench.clock.advance(timedelta(seconds=10))
        await bench.authority.renew(bench.renewal(one))
    seen = await bench.authority.reissue_timeline()
    assert (seen.renewed, seen.half_at, seen.nine_tenths_at) == (
        9,
        NOW + timedelta(seconds=50),
        NOW + timedelta(seconds=90),
    )
    assert [(one.spiffe_id, one.state) for one in seen.missing] == [("spiffe://test.example/shop/9", "old")]
    assert seen.last_at is None
    bench.clock.advance(timedelta(seconds=10))
    await bench.authority.renew(bench.renewal(issued[9]))
    seen = await bench.authority.reissue_timeline()
    assert (seen.ended, seen.missing, seen.last_at) == (True, (), NOW + timedelta(seconds=100))


async def test_what_is_older_than_the_reissue_is_revoked_and_what_was_renewed_stays(bench: Bench) -> None:
    """C4: renewals of the old are the new ones here."""
    old = await issue(bench, "shop/a")
    begun = await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    new = await bench.authority.renew(bench.renewal(old))
    done = await revoke(bench, up_to=begun.order.up_to, renewals=False)
    assert done.certificates == 1
    assert bench.crl().serials == {old.record.serial}
    leaf = Leaf.of(new.chain[0])
    assert leaf.serial not in bench.crl().serials
    seen = await bench.authority.reissue_timeline()
    assert (seen.total, seen.renewed) == (1, 1)


async def test_who_expired_or_was_revoked_during_a_reissue_stays_on_the_list_of_the_missing(bench: Bench) -> None:
    """A drill that loses somebody says whom."""
    await issue(bench, "shop/a")
    await issue(bench, "shop/b")
    await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    await bench.authority.revoke_identity(SpiffeId.parse("spiffe://test.example/shop/b"), Reason.SUPERSEDED, by="admin")
    bench.clock.advance(timedelta(hours=25))
    seen = await bench.authority.reissue_timeline()
    assert [(one.spiffe_id[-1], one.state) for one in seen.missing] == [("a", "expired"), ("b", "revoked")]
    assert seen.ended


async def test_a_second_reissue_waits_for_the_first(bench: Bench) -> None:
    """C5: refused with its reason, one line, and the first order stands."""
    await issue(bench, "shop/a")
    first = await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    bench.clock.advance(timedelta(minutes=1))
    lines = len(bench.audit.raw)
    with pytest.raises(Conflict) as caught:
        await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")
    assert caught.value.reason == "REISSUE_RUNNING"
    assert [line["reason"] for line in bench.audit.records[lines:]] == ["REISSUE_RUNNING"]
    assert bench.authority.trust().reissue == first.order
    bench.clock.advance(timedelta(minutes=10))
    assert (await bench.authority.begin_reissue(timedelta(minutes=10), by="admin")).order != first.order


@pytest.mark.parametrize("window", [timedelta(seconds=9), timedelta(hours=25)])
async def test_a_window_nobody_can_keep_is_refused(bench: Bench, window: timedelta) -> None:
    """H8: shorter than an agent can spread itself over, or longer than any certificate."""
    with pytest.raises(Invalid) as caught:
        await bench.authority.begin_reissue(window, by="admin")
    assert caught.value.reason == "INVALID_WINDOW"
    assert bench.audit.records[-1]["decision"] == "refused"
    assert bench.authority.trust().reissue is None
    with pytest.raises(NotFound):
        await bench.authority.reissue_timeline()
