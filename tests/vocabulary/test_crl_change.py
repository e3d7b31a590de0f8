"""A list that was put together from another one counts only when its issuer signed the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from handfast.bundle import TrustBundle
from handfast.crl_change import ListStep
from handfast.crl_history import StepHistory
from handfast.errors import HandfastError
from handfast.identity import TrustDomain
from handfast.keys import key_identifier
from handfast.revocation import RevocationList
from handfast.testing import TestAuthority
from tests.peers.lists import signed_list, step_to

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
AUTHORITY = TestAuthority()


def made(number: int, serials: list[int], authority: TestAuthority = AUTHORITY, **how: Any) -> bytes:
    return signed_list(authority.issuer, authority.issuer_key, number, serials, NOW + number * SECOND, **how)


def read(der: bytes, authority: TestAuthority = AUTHORITY) -> RevocationList:
    return RevocationList.verify(der, authority.bundle, now=NOW + timedelta(hours=1))


def after(known: RevocationList, *steps: ListStep, now: datetime = NOW + timedelta(hours=1)) -> RevocationList:
    return known.after(steps, AUTHORITY.bundle, now=now)


def refusal(known: RevocationList, *steps: ListStep) -> str:
    """Why the steps lead to nothing. What is known stays as it is."""
    before = (known.der, known.serials)
    with pytest.raises(HandfastError) as refused:
        after(known, *steps)
    assert (known.der, known.serials) == before
    return refused.value.reason


def test_a_step_makes_the_very_octets_that_the_issuer_signed() -> None:
    """H6: an entry leaves, two come; number, times and signature are the later list's."""
    base, newer = made(1, [5, 6, 7]), made(2, [5, 7, 8, 9])
    found = after(read(base), step_to(newer, 1, removed=[1], added=2))
    assert found == read(newer)
    assert (found.der, set(found.serials), found.number) == (newer, {5, 7, 8, 9}, 2)


@pytest.mark.parametrize(("old", "removed", "new", "added"), [([], [], [1], 1), ([1], [0], [], 0), ([], [], [], 0)])
def test_a_list_without_entries_can_stand_at_either_end(
    old: list[int], removed: list[int], new: list[int], added: int
) -> None:
    """RFC 5280, 5.1.2.6: the field is absent then."""
    newer = made(2, new)
    found = after(read(made(1, old)), step_to(newer, 1, removed=removed, added=added))
    assert (found.der, set(found.serials)) == (newer, set(new))


def test_several_steps_are_one_assembly() -> None:
    """What an earlier one added a later one may remove."""
    lists = [made(1, [1, 2, 3]), made(2, [1, 3, 4]), made(3, [1, 4, 5]), made(4, [1, 5])]
    steps = [
        step_to(lists[1], 1, removed=[1], added=1),
        step_to(lists[2], 2, removed=[1], added=1),
        step_to(lists[3], 3, removed=[1]),
    ]
    assert after(read(lists[0]), *steps).der == lists[3]
    assert after(read(lists[1]), *steps).der == lists[3]


def test_steps_that_lead_to_what_is_known_change_nothing() -> None:
    """D1: a repeated or late message is no rollback."""
    newer = made(2, [1, 2])
    known = read(newer)
    assert after(known, step_to(newer, 1, added=1)) is known


def test_a_step_that_begins_later_asks_for_the_whole_list() -> None:
    """D1: nothing is guessed over a gap."""
    assert refusal(read(made(1, [1])), step_to(made(4, [1, 2]), 3, added=1)) == "CRL_CHANGE_UNUSABLE"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda step: replace(step, removed=()),
        lambda step: replace(step, removed=(0, 1)),
        lambda step: replace(step, removed=(2,)),
        lambda step: replace(step, removed=(99,)),
        lambda step: replace(step, outline=step.outline[:-1]),
        lambda step: replace(step, outline=step.outline[:-1] + bytes([step.outline[-1] ^ 1])),
        lambda step: replace(step, outline=b""),
        lambda step: step_to(made(2, [5, 7, 8]), 1, removed=[1]),
        lambda step: step_to(made(2, [5, 7, 8, 9]), 1, removed=[1], added=3),
        lambda step: step_to(made(2, [5, 7, 8], TestAuthority()), 1, removed=[1], added=1),
        lambda step: replace(step, outline=made(2, [8])),
        lambda step: replace(step, outline=made(2, [])),
    ],
)
def test_what_does_not_make_a_list_that_the_issuer_signed_is_not_used(spoil: Callable[[ListStep], ListStep]) -> None:
    """D1, D5: entries left out, entries slipped in, other positions, other issuers, cut off, changed by a bit."""
    right = step_to(made(2, [5, 7, 8]), 1, removed=[1], added=1)
    known = read(made(1, [5, 6, 7]))
    assert after(known, right).serials == {5, 7, 8}
    assert refusal(known, spoil(right)) in ("CRL_CHANGE_UNUSABLE", "CRL_FOREIGN_ISSUER")


def test_a_list_of_another_base_with_the_same_number_does_not_come_out_right() -> None:
    """D1: two lists of one number cannot be told apart by their number, but by the signature of what comes next."""
    assert refusal(read(made(1, [5, 66])), step_to(made(2, [5, 6, 7]), 1, added=1)) == "CRL_CHANGE_UNUSABLE"


def test_a_future_list_is_refused_by_a_step_too() -> None:
    """D2."""
    newer = signed_list(AUTHORITY.issuer, AUTHORITY.issuer_key, 2, [1, 2], NOW + timedelta(minutes=5))
    known = RevocationList.verify(made(1, [1]), AUTHORITY.bundle, now=NOW + SECOND)
    with pytest.raises(HandfastError) as refused:
        after(known, step_to(newer, 1, added=1), now=NOW + SECOND)
    assert refused.value.reason == "CRL_FUTURE"


def test_an_unknown_critical_extension_of_an_entry_that_comes_is_refused() -> None:
    """D7."""
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    newer = made(2, [1], entry=[x509.Extension(odd.oid, True, odd)])
    assert refusal(read(made(1, [])), step_to(newer, 1, added=1)) == "CRL_UNKNOWN_CRITICAL"


def test_an_entry_that_stands_twice_is_not_used() -> None:
    """D4: removing one of the two would un-revoke what the other still says."""
    assert refusal(read(made(1, [1, 2])), step_to(made(2, [1, 2, 2]), 1, added=1)) == "CRL_CHANGE_UNUSABLE"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
)
def test_every_kind_of_issuing_key_will_do(key: Any, algorithm: Any) -> None:
    """D5: verified with the issuer's key, whatever it is."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer of its kind")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, NOW.replace(tzinfo=None), datetime(2027, 1, 1))
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(key.public_key())), critical=False)
        .sign(key, algorithm)
    )
    bundle, now = TrustBundle(TrustDomain("test.example"), (certificate,)), NOW + timedelta(hours=1)
    older, newer = (signed_list(certificate, key, n, range(n), NOW, algorithm=algorithm) for n in (1, 2))
    known = RevocationList.verify(older, bundle, now=now)
    assert known.after([step_to(newer, 1, added=1)], bundle, now=now).der == newer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(1, 12)), min_size=2, max_size=6))
def test_any_run_of_lists_can_be_followed_from_any_of_them(wanted: list[set[int]]) -> None:
    """H6: what leaves and comes in any order; every list along the way is the one that was signed."""
    orders, steps, ders = [sorted(wanted[0])], [], [made(1, sorted(wanted[0]))]
    for number, (old, new) in enumerate(pairwise(wanted), 2):
        order, fresh = orders[-1], sorted(new - old)
        orders.append([serial for serial in order if serial in new] + fresh)
        ders.append(made(number, orders[-1]))
        gone = [at for at, serial in enumerate(order) if serial not in new]
        steps.append(step_to(ders[-1], number - 1, removed=gone, added=len(fresh)))
    for der in ders:
        found = after(read(der), *steps)
        assert (found.der, set(found.serials)) == (ders[-1], wanted[-1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(-3, 1 << 33), max_size=4))
def test_no_octets_end_an_assembly_in_another_way_than_with_our_error(outline: bytes, removed: list[int]) -> None:
    """A20: a CA that sends garbage costs a request for the whole list, and nothing else."""
    known = read(made(1, [1, 2]))
    assert refusal(known, ListStep(1, tuple(removed), outline)) == "CRL_CHANGE_UNUSABLE"


# --- the history of steps ---------------------------------------------------------------------------------------------


def test_a_history_leads_from_any_list_of_its_run_to_the_newest_and_from_no_other() -> None:
    """H6."""
    history, ders = StepHistory(), [made(1, [1]), made(2, [1, 2]), made(3, [1, 2, 3])]
    known = read(ders[0])
    history.note(known)
    for number in (2, 3):
        known = after(known, step_to(ders[number - 1], number - 1, added=1))
        history.note(known)
        history.note(known)
    assert [step.base_number for step in history.steps(1, known)] == [1, 2]
    assert [step.base_number for step in history.steps(2, known)] == [2]
    assert history.steps(0, known) == history.steps(3, known) == history.steps(1, read(ders[1])) == ()


def test_a_list_that_came_whole_begins_a_new_run() -> None:
    """D1: nobody is led over a gap."""
    history = StepHistory()
    second = after(read(made(1, [1])), step_to(made(2, [1, 2]), 1, added=1))
    for newest in (read(made(1, [1])), second, read(made(5, [1]))):
        history.note(newest)
    assert history.steps(1, read(made(5, [1]))) == ()


def test_who_would_be_sent_more_than_the_list_gets_the_list() -> None:
    """H6: after a mass event the steps are no saving."""
    history, known = StepHistory(), read(made(1, []))
    history.note(known)
    known = after(known, step_to(made(2, list(range(1, 3001))), 1, added=3000))
    history.note(known)
    assert history.steps(1, known) == ()
