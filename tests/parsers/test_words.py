"""What people type: durations, serials, fingerprints, tokens, networks (threat A20)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.certificates import format_serial, parse_fingerprint, parse_serial
from handfast.errors import HandfastError, Invalid
from handfast.identity import SpiffeId
from handfast.lifetime import format_duration, parse_duration
from handfast.rpc.tunnel import Peer
from handfast_ca.enrolment import JoinToken, parse_cidr
from handfast_ca.urls import PublicUrls

odd = st.text(max_size=50) | st.text("0123456789smhdxabcdefABCDEF:._-+ \0²٣hft", max_size=50)


@given(odd)
def test_a_duration_is_positive_or_refused(text: str) -> None:
    """A20."""
    try:
        read = parse_duration(text)
    except Invalid as error:
        assert error.reason == "INVALID_DURATION"
        assert error.message.isascii()
    else:
        assert timedelta() < read <= timedelta(days=36500)
        assert parse_duration(format_duration(read)) == read


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=36500)))
def test_every_duration_is_read_back_to_the_second(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration - timedelta(microseconds=duration.microseconds)


@pytest.mark.parametrize("text", ["0s", "-1h", "1h1h", "36501d", "1.5h", "1", "h", "1 h", "٣h", "1H", "9" * 31 + "s"])
def test_a_duration_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_duration(text)
    assert caught.value.reason == "INVALID_DURATION"


SERVER = SpiffeId.parse("spiffe://test.example/server")
READERS: dict[str, Callable[[str], object]] = {
    "serial": parse_serial,
    "fingerprint": parse_fingerprint,
    "network": parse_cidr,
    "join token": JoinToken.parse,
    "public URL": PublicUrls,
    "address of a server": lambda text: Peer.parse(text, SERVER),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@given(text=odd)
def test_a_word_is_a_value_or_our_error(read: Callable[[str], object], text: str) -> None:
    """A20."""
    try:
        read(text)
    except HandfastError as error:
        assert error.message.isascii()


@given(odd)
def test_a_join_token_that_is_none_is_not_repeated(text: str) -> None:
    """A20, B2: what was sent may be a secret of another kind."""
    sent = f"zq{text}"
    with pytest.raises(HandfastError) as caught:
        JoinToken.parse(sent)
    assert caught.value.reason == "TOKEN_MALFORMED"
    assert sent not in caught.value.message + caught.value.hint


@given(st.binary(min_size=32, max_size=32))
def test_a_token_is_its_text(octets: bytes) -> None:
    made = JoinToken.make(lambda _count: octets)
    assert JoinToken.parse(made.text) == made
    assert made.text not in repr(made)


@given(st.integers(1, (1 << 159) - 1))
def test_a_serial_is_read_back(serial: int) -> None:
    assert parse_serial(format_serial(serial)) == serial
