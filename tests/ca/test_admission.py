"""Who gets a certificate and what it says: threats A0 to A3, A6, A13, A16."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.certificates import Usage
from handfast.csr import binding, build_csr, parse_csr
from handfast.errors import Invalid, Refused
from handfast.identity import SpiffeId
from handfast.keys import KeyAlgorithm, generate
from handfast_ca.admission import admit, key_policy
from handfast_ca.profile import Profile
from handfast_ca.registration import Entry, Proof
from tests.ca.core import DB, NOW, WEB, entry

PROFILE = Profile()
KEY = generate()
NAMES = ["a.svc", "b.svc", "c.svc", "d.svc"]
names = st.lists(st.sampled_from(NAMES), unique=True)


def _ask(entitled: Entry, **asked: object) -> object:
    lifetime = asked.pop("lifetime", None)
    request = parse_csr(build_csr(KEY, credential=b"proof", **asked))  # type: ignore[arg-type]
    return admit(request, entitled, PROFILE, binding=binding(b"proof"), lifetime=lifetime)  # type: ignore[arg-type]


def test_the_certificate_says_what_the_entry_says_whatever_less_was_asked_for() -> None:
    """A0."""
    entitled = entry(dns_names=["a.svc", "b.svc"], ip_addresses=["10.0.0.7"], usages=["server"])
    admitted = admit(parse_csr(build_csr(KEY)), entitled, PROFILE, binding=None)
    assert admitted.spiffe_id == WEB
    assert admitted.dns_names == ("a.svc", "b.svc")
    assert admitted.ip_addresses == (ip_address("10.0.0.7"),)
    assert admitted.usages == {Usage.SERVER}
    assert admitted.lifetime == timedelta(hours=24)


def test_every_reason_is_told_at_once() -> None:
    """A3, A6, A13, A16."""
    request = parse_csr(
        build_csr(KEY, spiffe_id=DB, dns_names=["evil.svc"], ip_addresses=[ip_address("169.254.169.254")])
    )
    with pytest.raises(Refused) as refused:
        admit(
            request,
            entry(proofs=["operator"]),
            PROFILE,
            binding=binding(b"proof"),
            lifetime=timedelta(days=3650),
            proof=Proof.JOIN_TOKEN,
        )
    assert [violation.reason for violation in refused.value.violations] == [
        "PROOF_NOT_ALLOWED",
        "CSR_NOT_BOUND",
        "NOT_ENTITLED",
        "NOT_ENTITLED",
        "NOT_ENTITLED",
        "LIFETIME",
    ]


@given(entitled=names, asked=names)
def test_a_name_is_refused_exactly_when_the_entry_lacks_it(entitled: list[str], asked: list[str]) -> None:
    """A0: neither dropped nor merged."""
    extra = set(asked) - set(entitled)
    if not extra:
        admitted = _ask(entry(dns_names=entitled), dns_names=asked)
        assert admitted.dns_names == tuple(entitled)  # type: ignore[attr-defined]
        return
    with pytest.raises(Refused) as refused:
        _ask(entry(dns_names=entitled), dns_names=asked)
    assert [violation.reason for violation in refused.value.violations] == ["NOT_ENTITLED"] * len(extra)


@given(path=st.sampled_from(["/web", "/web2", "/WEB", "/web/x", "/we"]))
def test_only_the_entry_s_own_spiffe_id_may_stand_in_a_request(path: str) -> None:
    """A3."""
    asked = SpiffeId(WEB.trust_domain, path)
    if asked == WEB:
        assert _ask(entry(), spiffe_id=asked).spiffe_id == WEB  # type: ignore[attr-defined]
        return
    with pytest.raises(Refused) as refused:
        _ask(entry(), spiffe_id=asked)
    assert refused.value.reason == "NOT_ENTITLED"


@given(seconds=st.integers(min_value=-10, max_value=200_000))
def test_a_wish_only_ever_shortens(seconds: int) -> None:
    """A16."""
    wanted = timedelta(seconds=seconds)
    if 60 <= seconds <= 3600:
        assert _ask(entry(lifetime=timedelta(hours=1)), lifetime=wanted).lifetime == wanted  # type: ignore[attr-defined]
        return
    with pytest.raises(Refused) as refused:
        _ask(entry(lifetime=timedelta(hours=1)), lifetime=wanted)
    assert refused.value.reason == "LIFETIME"


def test_a_profile_that_became_stricter_bounds_older_entries() -> None:
    request = parse_csr(build_csr(KEY))
    admitted = admit(request, entry(), Profile.for_lifetime(timedelta(hours=2)), binding=None)
    assert admitted.lifetime == timedelta(hours=2)


def test_rsa_is_taken_only_where_the_entry_says_so() -> None:
    """A10."""
    csr = build_csr(generate(KeyAlgorithm.RSA2048))
    assert parse_csr(csr, keys=key_policy(entry(allow_rsa=True)))
    with pytest.raises(Refused) as refused:
        parse_csr(csr, keys=key_policy(entry()))
    assert refused.value.reason == "UNSUPPORTED_KEY"


# --- validity ---------------------------------------------------------------------------------------------------------


@given(seconds=st.integers(min_value=60, max_value=86_400), micros=st.integers(min_value=0, max_value=999_999))
def test_a_leaf_lives_as_long_as_it_was_given_with_its_last_second_and_is_valid_now(seconds: int, micros: int) -> None:
    """A16: the duration counts the last second (RFC 5280, 4.1.2.5)."""
    now = NOW + timedelta(microseconds=micros)
    life = timedelta(seconds=seconds)
    validity = PROFILE.validity(life, now=now, issuer_not_after=NOW + timedelta(days=90))
    assert validity.duration == life
    assert validity.contains(now)
    assert now - validity.not_before <= timedelta(seconds=32)
    assert validity.not_before.microsecond == validity.not_after.microsecond == 0


def test_a_leaf_of_a_day_is_backdated_by_thirty_seconds() -> None:
    validity = PROFILE.validity(timedelta(hours=24), now=NOW, issuer_not_after=NOW + timedelta(days=90))
    assert NOW - validity.not_before == timedelta(seconds=30)


def test_a_leaf_ends_before_its_issuer() -> None:
    """J10."""
    end = NOW + timedelta(hours=2)
    assert PROFILE.validity(timedelta(hours=24), now=NOW, issuer_not_after=end).not_after == end - timedelta(seconds=1)


@pytest.mark.parametrize("left", [-3600, 0, 1, 30, 31])
def test_near_the_issuer_s_end_the_ca_refuses_rather_than_truncating_to_nothing(left: int) -> None:
    """J10."""
    with pytest.raises(Refused) as refused:
        PROFILE.validity(timedelta(hours=24), now=NOW, issuer_not_after=NOW + timedelta(seconds=left))
    assert refused.value.reason == "ISSUER_EXPIRING"


@pytest.mark.parametrize(
    ("hours", "fits"), [(24, True), (11, True), (10.8, True), (10.7, False), (2.4, False), (25, False)]
)
def test_a_crl_lives_as_long_as_an_outage_that_its_leaves_survive_and_no_longer_than_they(
    hours: float, fits: bool
) -> None:
    """D4, D2: a list that covered a tenth of a life would be refused at the start, not found out in the night."""
    validity = timedelta(hours=hours)
    if fits:
        assert Profile(crl_validity=validity, publish_every=validity / 4).crl_validity == validity
        return
    with pytest.raises(Invalid) as refused:
        Profile(crl_validity=validity, publish_every=validity / 4)
    assert refused.value.reason == "CRL_FUSE"


def test_a_profile_that_cannot_hold_tells_every_mistake() -> None:
    with pytest.raises(Invalid) as refused:
        Profile(longest=timedelta(seconds=1), backdate=timedelta(hours=1), crl_validity=timedelta(seconds=1))
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["longest", "backdate", "crl_validity", "publish_every"]
