"""Identities and names are matched whole: what is read is what stood there, or nothing (threats A2, A4, A9)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.errors import Invalid
from handfast.identity import (
    MAX_SPIFFE_ID_BYTES,
    SpiffeId,
    TrustDomain,
    parse_dns_name,
    parse_ip_address,
)

AMBIGUOUS = [
    "spiffe://td/a/../b",
    "spiffe://td/..",
    "spiffe://td/./a",
    "spiffe://td/a/.",
    "spiffe://td//a",
    "spiffe://td/a//b",
    "spiffe://td/a%2fb",
    "spiffe://td/a%2Fb",
    "spiffe://td/%61",
    "spiffe://td/a?x=1",
    "spiffe://td/a#x",
    "spiffe://user@td/a",
    "spiffe://user:secret@td/a",
    "spiffe://td:443/a",
    "spiffe://TD/a",
    "SPIFFE://td/a",
    "Spiffe://td/a",
    "spiffe:td/a",
    "spiffe:/td/a",
    "spiffe:///a",
    "https://td/a",
    "td/a",
    "spiffe://td/a/",
    "spiffe://td/",
    "spiffe://td",
    "spiffe://",
    "",
    "spiffe://td/a\0",
    "spiffe://td/a\n",
    " spiffe://td/a",
    "spiffe://td/a ",
    "spiffe://td/a b",
    "spiffe://td/a\\b",
    "spiffe://td/a;b",
    "spiffe://td/a*",
    "spiffe://td/ä",
    "spiffe://tд/a",
    "spiffe://td/\u202ea",
    "spiffe://td/а",
    "spiffe://[::1]/a",
    "spiffe://td%2eexample/a",
    "spiffe://td/" + "a" * (MAX_SPIFFE_ID_BYTES + 1 - len("spiffe://td/")),
    "spiffe://" + "t" * 256 + "/a",
]
texts = st.text(max_size=60) | st.text("spife:/td.-_%?#@*aA0 \0ä", max_size=40).map(lambda rest: f"spiffe://{rest}")


def reason(read: object, text: str) -> str:
    with pytest.raises(Invalid) as caught:
        read(text)  # type: ignore[operator]
    return caught.value.reason


@pytest.mark.parametrize("text", AMBIGUOUS, ids=lambda text: ascii(text)[:40])
def test_a_spiffe_id_that_could_be_read_in_two_ways_is_refused_and_never_mended(text: str) -> None:
    """A4."""
    assert reason(SpiffeId.parse, text) == "INVALID_SPIFFE_ID"


def test_a_spiffe_id_may_be_2048_octets_long_and_no_more() -> None:
    """A4: SPIFFE-ID, 2.3; the length 2,049 is refused."""
    longest = "spiffe://td/" + "a" * (MAX_SPIFFE_ID_BYTES - len("spiffe://td/"))
    assert str(SpiffeId.parse(longest)) == longest
    assert reason(SpiffeId.parse, longest + "a") == "INVALID_SPIFFE_ID"
    assert reason(lambda path: SpiffeId(TrustDomain("td"), path), longest[len("spiffe://td") :] + "a")


@given(texts)
@example("spiffe://td/a")
def test_a_spiffe_id_is_its_text_or_it_raises(text: str) -> None:
    """A4: ``str(parse(s)) == s``."""
    try:
        read = SpiffeId.parse(text)
    except Invalid as error:
        assert error.reason == "INVALID_SPIFFE_ID"
        assert error.message.isascii()
    else:
        assert str(read) == text
        assert SpiffeId(read.trust_domain, read.path) == read


@given(st.from_regex(r"spiffe://[a-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,9}){1,4}", fullmatch=True))
def test_what_the_grammar_allows_is_read_unless_a_segment_is_a_step(text: str) -> None:
    """A4: SPIFFE-ID, 2.2; ``.`` and ``..`` are the only segments of these letters that are refused."""
    if {".", ".."} & set(text.removeprefix("spiffe://").split("/")[1:]):
        assert reason(SpiffeId.parse, text) == "INVALID_SPIFFE_ID"
    else:
        assert str(SpiffeId.parse(text)) == text


@given(st.text(max_size=40))
def test_a_trust_domain_is_its_text_or_it_raises(text: str) -> None:
    """A4."""
    try:
        assert str(TrustDomain(text)) == text
    except Invalid as error:
        assert error.reason == "INVALID_TRUST_DOMAIN"


@pytest.mark.parametrize("path", ["a", "", "/a/", "/a b", "/..", "/a/./b"])
def test_a_path_is_judged_however_the_identity_is_made(path: str) -> None:
    """A4: also where no text is parsed."""
    assert reason(lambda given: SpiffeId(TrustDomain("td"), given), path) == "INVALID_SPIFFE_ID"


@pytest.mark.parametrize(
    "text",
    [
        "*", "*.svc", "w*b.svc", "", "a b", "Foo.svc", "svc.", ".svc", "a..b", "-a.svc", "a-.svc", "a_b.svc", "a.1",
        "10.0.0.7", "0x7f", "a.0x1f", "web\0.svc", "web\n", "web.svc\n", "ä.svc", "xn--\u0430.svc", "\u202eweb.svc",
        "a" * 64 + ".svc", ".".join(["a" * 49] * 5 + ["svc1"]),
    ],
    ids=lambda text: ascii(text)[:40],
)  # fmt: skip
def test_a_dns_name_that_is_not_plain_lower_case_ldh_is_refused(text: str) -> None:
    """A2, A9: wildcards, empty labels, upper case, trailing dots, spaces, underscores, numbers, U-labels."""
    assert reason(parse_dns_name, text) == "INVALID_DNS_NAME"


@given(st.text(max_size=40) | st.text("aAzZ09.-_*: \0", max_size=40))
@example("web.shop.svc")
@example("xn--pypal-4ve.com")
def test_a_dns_name_is_its_text_or_it_raises(text: str) -> None:
    """A2."""
    try:
        assert parse_dns_name(text) == text
    except Invalid as error:
        assert error.reason == "INVALID_DNS_NAME"
        assert error.message.isascii()


@given(st.text(max_size=40) | st.ip_addresses().map(str) | st.text("0123456789abcdef:.%x", max_size=30))
@example("::ffff:10.0.0.7")
@example("fe80::1%eth0")
@example("010.0.0.7")
@example("2001:DB8::7")
def test_an_ip_address_is_its_text_or_it_raises(text: str) -> None:
    """A6: one text for one address."""
    try:
        assert str(parse_ip_address(text)) == text
    except Invalid as error:
        assert error.reason == "INVALID_IP_ADDRESS"
    else:
        assert not text.startswith("::ffff:")
