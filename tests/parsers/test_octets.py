"""What strangers send: certificates, lists, PEM texts and messages (threat A20)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, load_certificates, pem_chain
from handfast.errors import HandfastError
from handfast.revocation import RevocationList, split_pem
from handfast.testing import TestAuthority
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, trust_pb2, workload_pb2
from handfast_agent.trust import Trust
from handfast_agent.upstream import read_answer
from tests.parsers.damage import octets

# The library's word on a serial that is negative or zero; ours comes when somebody asks for the certificate's meaning.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
AUTHORITY = TestAuthority()
WEB = AUTHORITY.issue("/web")
AUTHORITY.revoke(WEB)
NOW = datetime.now(UTC)
LEAF = WEB.leaf.der
CHAIN = pem_chain([*WEB.chain, AUTHORITY.root])
CRL_PEM = AUTHORITY.revocations.pem
ISSUER = AUTHORITY.issuer.public_bytes(Encoding.DER)
VERSION_3, VERSION_9 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08"
"""How a certificate says that it is of version 3, and of one that does not exist."""


@given(octets(LEAF, ISSUER) | st.binary(max_size=300))
@example(LEAF.replace(VERSION_3, VERSION_9))
def test_a_certificate_is_a_leaf_or_our_error(data: bytes) -> None:
    """A20, A1: and what was altered is no longer trusted, whatever it reads like."""
    try:
        leaf = Leaf.parse(data)
    except HandfastError:
        return
    assert leaf.der == data


@given(octets(CHAIN, CHAIN + CRL_PEM) | st.binary(max_size=300))
@example(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" * 3)
def test_a_pem_text_of_certificates_is_a_chain_or_our_error(data: bytes) -> None:
    """A20."""
    try:
        read = load_certificates(data)
    except HandfastError as error:
        assert error.reason == "CERTIFICATE_MALFORMED"
        return
    assert read
    try:
        Leaf.parse_pem(data)
        TrustBundle.from_pem(AUTHORITY.trust_domain, data)
    except HandfastError:
        pass


def test_a_certificate_of_a_version_that_does_not_exist_is_our_error_everywhere() -> None:
    """A20: the library has an error of its own for it, which is no ValueError."""
    strange = LEAF.replace(VERSION_3, VERSION_9)
    import base64

    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(strange) + b"-----END CERTIFICATE-----\n"
    for read in (
        lambda: Leaf.parse(strange),
        lambda: load_certificates(pem),
        lambda: codec.certificates_from_wire([strange]),
    ):
        try:
            read()
        except HandfastError as error:
            assert error.reason == "CERTIFICATE_MALFORMED"
        else:
            raise AssertionError("it was read")


@given(octets(AUTHORITY.crl) | st.binary(max_size=300))
def test_a_list_is_verified_or_refused(data: bytes) -> None:
    """A20, D5: what was altered has no good signature."""
    try:
        known = RevocationList.verify(data, AUTHORITY.bundle, now=NOW)
    except HandfastError:
        return
    assert known.der == data == AUTHORITY.crl


@given(octets(CRL_PEM, CRL_PEM * 2) | st.binary(max_size=300))
@example(b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n" * 3)
@example(b"-----BEGIN X509 CRL-----" * 1000)
def test_a_pem_text_of_lists_is_split_or_our_error(data: bytes) -> None:
    """A20."""
    try:
        ders = split_pem(data)
    except HandfastError as error:
        assert error.reason == "CRL_MALFORMED"
        return
    assert all(der.startswith(b"\x30") for der in ders)


BUNDLE = codec.bundle_to_wire(AUTHORITY.bundle).SerializeToString()
SNAPSHOT = codec.snapshot_to_wire(WEB).SerializeToString()
WITHDRAWN = codec.snapshot_to_wire(None, generation=7).SerializeToString()


@given(octets(BUNDLE) | st.binary(max_size=300))
@example(
    trust_pb2.TrustBundle(trust_domain="test.example", roots=[LEAF.replace(VERSION_3, VERSION_9)]).SerializeToString()
)
@example(trust_pb2.TrustBundle(trust_domain="UPPER", roots=[]).SerializeToString())
def test_a_bundle_message_is_a_bundle_or_our_error(data: bytes) -> None:
    """A20; what is no message at all never gets past gRPC."""
    try:
        message = trust_pb2.TrustBundle.FromString(data)
    except DecodeError:
        return
    try:
        bundle = codec.bundle_from_wire(message)
    except HandfastError:
        return
    assert str(bundle.trust_domain) == message.trust_domain
    assert len(bundle.roots) == len(message.roots)


@given(octets(SNAPSHOT, WITHDRAWN) | st.binary(max_size=300))
def test_a_snapshot_message_is_credentials_or_our_error(data: bytes) -> None:
    """A20, E2: and no key stands in the error."""
    try:
        message = workload_pb2.CredentialsSnapshot.FromString(data)
    except DecodeError:
        return
    try:
        credentials = codec.snapshot_from_wire(message, now=NOW)
    except HandfastError as error:
        assert error.message.isprintable()
        return
    assert credentials is None or credentials.leaf.der == message.chain[0]


ANSWER = authority_pb2.IssuedCredentials(
    chain=[LEAF, ISSUER],
    trust=trust_pb2.TrustUpdate(
        whole=True,
        bundle=codec.bundle_to_wire(AUTHORITY.bundle),
        crls=codec.crls_to_wire(AUTHORITY.revocations),
        announced=codec.announced_to_wire([(b"issuer", 4711)]),
    ),
    renewal=authority_pb2.RenewalWindow(not_before=codec.time_to_wire(NOW), not_after=codec.time_to_wire(NOW)),
).SerializeToString()


@given(octets(ANSWER) | st.binary(max_size=300))
def test_an_answer_of_the_ca_is_read_or_our_error(data: bytes) -> None:
    """A20, B8: and what is read is judged part by part, each refusal an alarm and none an end."""
    try:
        message = authority_pb2.IssuedCredentials.FromString(data)
    except DecodeError:
        return
    try:
        answer = read_answer(message)
    except HandfastError as error:
        assert error.reason == "ANSWER_MALFORMED"
        return
    trust, alarms = Trust().accept(answer.news, NOW)
    assert all(alarm.reason for alarm in alarms)
    assert trust.bundle is None or trust.bundle == answer.news.bundle


@given(
    st.lists(
        st.builds(trust_pb2.Revocation, issuer_key_id=st.binary(max_size=24), serial=st.binary(max_size=24)), max_size=3
    )
)
def test_announced_revocations_are_serials_or_our_error(messages: list[trust_pb2.Revocation]) -> None:
    """A20."""
    try:
        announced = codec.announced_from_wire(messages)
    except HandfastError as error:
        assert error.reason == "INVALID_SERIAL"
        return
    assert all(0 <= serial < 1 << 160 for _, serial in announced)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_times_and_durations_of_a_stranger_are_values_or_our_error(seconds: int, nanos: int) -> None:
    """A20."""
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    for read, message, reason in (
        (codec.time_from_wire, Timestamp(seconds=seconds, nanos=nanos), "INVALID_TIME"),
        (codec.duration_from_wire, Duration(seconds=seconds, nanos=nanos), "INVALID_DURATION"),
    ):
        try:
            read(message)
        except HandfastError as error:
            assert error.reason == reason
