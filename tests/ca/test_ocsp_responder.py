"""What the responder says and what it refuses, over the memory ledger. Its answers are read by the library's reader."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from handfast.errors import Broken, Invalid
from handfast.ocsp import CertificateStatus, build_request
from handfast.revocation import Reason
from handfast.testing import TestAuthority
from handfast_ca.ledger import CertificateRecord, Intention
from handfast_ca.ocsp import encoding
from handfast_ca.ocsp.question import MAX_REQUEST_BYTES, read_question
from handfast_ca.ocsp.responder import Said
from tests.ca.core import NOW, WEB
from tests.ca.ocsp_bench import ISSUER, MINUTE, LeverLedger, OcspBench, question, status

CRITICAL = encoding.Extension(oid=x509.ObjectIdentifier("1.2.3.4"), critical=True, value=b"\x05\x00")
HARMLESS = encoding.Extension(oid=x509.ObjectIdentifier("1.2.3.4"), critical=False, value=b"\x05\x00")


@pytest.fixture
async def bench() -> OcspBench:
    return await OcspBench().start()


def intention(serial: int, issuer_key_id: bytes) -> Intention:
    return Intention(
        serial=serial,
        issuer_key_id=issuer_key_id,
        spiffe_id=WEB,
        spki_sha256=b"k" * 32,
        request_digest=b"r" * 32,
        dns_names=(),
        not_before=NOW,
        not_after=NOW + timedelta(hours=1),
        obtained_by="operator",
        entry_version=0,
        now=NOW,
    )


# --- what is true (D9) ------------------------------------------------------------------------------------------------


async def test_a_serial_that_nobody_issued_is_unknown(bench: OcspBench) -> None:
    """D9: random, impossible and enormous ones; the answer is signed, short-lived, and kept for nobody."""
    for serial in (1, 0x1234, 1 << 158, 1 << 159, 1 << 400, 0):
        reply = await bench.ask(serial)
        answer = bench.read(reply, serial)
        assert (reply.said, answer.status) == (Said.UNKNOWN, CertificateStatus.UNKNOWN)
        assert answer.until - answer.this_update == MINUTE
    assert bench.responder.known == 0


async def test_a_serial_that_was_promised_is_good_only_when_it_is_issued(bench: OcspBench) -> None:
    """D9: an intention is not an issued certificate, and answers about it do not linger."""
    serial, key_id = 0xA5 << 120, bench.authority.issuer.key_id
    await bench.ledger.intend(intention(serial, key_id))
    assert (await bench.ask(serial)).said is Said.UNKNOWN
    await bench.ledger.complete(serial, key_id, b"der")
    assert (await bench.ask(serial)).said is Said.GOOD


async def test_a_serial_of_another_issuer_is_unknown(bench: OcspBench) -> None:
    """D9: the ledger may hold more than one CA's certificates."""
    await bench.ledger.intend(intention(77, b"another issuer"))
    await bench.ledger.complete(77, b"another issuer", b"der")
    assert (await bench.ask(77)).said is Said.UNKNOWN


async def test_what_was_issued_is_good_for_ten_minutes(bench: OcspBench) -> None:
    issued = await bench.issue()
    reply = await bench.ask(issued.record.serial)
    answer = bench.read(reply, issued.record.serial)
    answer.require_good()
    assert answer.until - answer.this_update == timedelta(minutes=10)
    assert answer.this_update == NOW
    # Whole seconds of the CA's clock, wherever one stands in the answer.
    assert ocsp.load_der_ocsp_response(reply.der).produced_at_utc == NOW


async def test_a_revocation_is_told_at_once_also_to_those_who_got_a_kept_answer(bench: OcspBench) -> None:
    """Revoked is what the next answer says, in the same second, with and without a nonce, with time and reason."""
    serial = (await bench.issue()).record.serial
    assert (await bench.ask(serial)).said is Said.GOOD
    assert (await bench.ask(serial)).kept
    await bench.authority.revoke_serial(serial, Reason.KEY_COMPROMISE, by="admin")
    for nonce in (b"", b"n" * 32):
        answer = bench.read(await bench.ask(serial, nonce), serial, nonce)
        assert (answer.status, answer.reason) == (CertificateStatus.REVOKED, Reason.KEY_COMPROMISE)
        assert answer.revoked_at == NOW


async def test_a_revocation_while_the_ledger_is_read_is_not_answered_with_good(bench: OcspBench) -> None:
    """The revocation gets in between the ledger's answer and the signature; nothing good is kept, either."""
    serial = (await bench.issue()).record.serial
    replies = asyncio.gather(*(bench.ask(serial, bytes([n]) * 16) for n in range(20)))
    await bench.authority.revoke_serial(serial, Reason.SUPERSEDED, by="admin")
    await replies
    assert (await bench.ask(serial)).said is Said.REVOKED


async def test_an_unspecified_reason_is_left_out(bench: OcspBench) -> None:
    """RFC 5280, 5.3.1, as in the list."""
    serial = (await bench.issue()).record.serial
    await bench.authority.revoke_serial(serial, Reason.UNSPECIFIED, by="admin")
    answer = bench.read(await bench.ask(serial), serial)
    assert (answer.status, answer.reason) == (CertificateStatus.REVOKED, None)


@pytest.mark.parametrize("reason", [one for one in Reason if one is not Reason.UNSPECIFIED])
async def test_every_reason_is_told_as_the_list_tells_it(bench: OcspBench, reason: Reason) -> None:
    serial = (await bench.issue()).record.serial
    await bench.authority.revoke_serial(serial, reason, by="admin")
    assert bench.read(await bench.ask(serial), serial).reason is reason


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_an_answer_without_a_nonce_is_signed_once_in_five_minutes(bench: OcspBench) -> None:
    """The same bytes, without asking the ledger; after half of its life there is a fresh one."""
    serial = (await bench.issue()).record.serial
    first = await bench.ask(serial)
    asked = bench.ledger.asked
    bench.clock.advance(5 * MINUTE - timedelta(seconds=1))
    again = await bench.ask(serial)
    assert (again.der, again.kept, bench.ledger.asked) == (first.der, True, asked)
    bench.clock.advance(timedelta(seconds=1))
    fresh = await bench.ask(serial)
    assert not fresh.kept
    assert bench.read(fresh, serial).this_update == bench.clock.now()


async def test_an_answer_with_a_nonce_is_signed_for_whoever_asked(bench: OcspBench) -> None:
    """D8: of the moment, and its own; the ledger is asked once in five minutes all the same."""
    serial = (await bench.issue()).record.serial
    await bench.ask(serial)
    asked = bench.ledger.asked
    bench.clock.advance(MINUTE)
    replies = [await bench.ask(serial, bytes([n]) * 32) for n in (1, 2)]
    assert replies[0].der != replies[1].der
    assert bench.read(replies[1], serial, bytes([2]) * 32).this_update == bench.clock.now()
    assert bench.ledger.asked == asked


async def test_what_is_kept_has_a_bound(bench: OcspBench) -> None:
    """H3: the one that nobody asked about for longest makes room."""
    first, second, third = [(await bench.issue()).record.serial for _ in range(3)]
    small = bench.responding(max_known=2)
    for serial in (first, second, first, third):
        await small.answer(build_request(serial, ISSUER))
    assert small.known == 2
    kept = [(await small.answer(build_request(serial, ISSUER))).kept for serial in (first, third, second)]
    assert kept == [True, True, False]


async def test_a_clock_that_was_set_back_brings_no_answer_of_the_future(bench: OcspBench) -> None:
    """J8: what was kept has a thisUpdate that lies ahead now; nothing is signed, and the error is no answer."""
    serial = (await bench.issue()).record.serial
    await bench.ask(serial)
    bench.clock.step(-timedelta(hours=2))
    assert status(await bench.ask(serial)) is ocsp.OCSPResponseStatus.TRY_LATER


# --- how it is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
async def test_each_way_to_name_the_issuer_is_answered_in_kind(
    bench: OcspBench, algorithm: hashes.HashAlgorithm
) -> None:
    serial = (await bench.issue()).record.serial
    der = question(serial, algorithm)
    for _ in range(2):
        reply = await bench.responder.answer(der)
        bench.read(reply, serial).require_good()
        assert isinstance(ocsp.load_der_ocsp_response(reply.der).hash_algorithm, type(algorithm))


async def test_an_algorithm_without_parameters_is_the_same(bench: OcspBench) -> None:
    """RFC 5754, 2: NULL or nothing, and the CertID comes back as it went."""
    serial = (await bench.issue()).record.serial
    with_null = question(serial, hashes.SHA256())
    without = changed(with_null, null=False)
    assert without != with_null
    for der in (with_null, without):
        reply = await bench.responder.answer(der)
        assert (reply.said, reply.kept) == (Said.GOOD, False)
        bench.read(reply, serial).require_good()


@pytest.mark.parametrize("length", [1, 15, 16, 32, 127, 128])
async def test_a_nonce_of_1_to_128_octets_comes_back(bench: OcspBench, length: int) -> None:
    """D8: RFC 9654, 2.1."""
    serial, nonce = (await bench.issue()).record.serial, b"\x2f" * length
    bench.read(await bench.ask(serial, nonce), serial, nonce).require_good()


def changed(
    der: bytes,
    *,
    null: bool = True,
    name_hash: bytes | None = None,
    version: int = 0,
    more: int = 0,
    none: bool = False,
    single: encoding.Extension | None = None,
    extensions: tuple[encoding.Extension, ...] = (),
) -> bytes:
    """A request that the library would not build."""
    request = asn1.decode_der(encoding.Request, der)
    one = request.tbs.requests[0]
    cert = one.cert.parse(encoding.CertId)
    cert.algorithm.parameters = asn1.Null() if null else None
    cert.issuer_name_hash = name_hash or cert.issuer_name_hash
    one.cert = encoding.raw(asn1.encode_der(cert))
    one.extensions = [single] if single else None
    request.tbs.version = version
    request.tbs.requests = [] if none else [one] * (1 + more)
    request.tbs.extensions = list(extensions) or None
    return asn1.encode_der(request)


def nonce(octets: int, *, wrapped: bool = True) -> encoding.Extension:
    value = asn1.encode_der(b"n" * octets) if wrapped else b"n" * octets
    return encoding.Extension(oid=encoding.NONCE, critical=False, value=value)


GOOD_REQUEST = question(77, hashes.SHA1())
HOSTILE = {
    "nothing": b"",
    "garbage": b"\x30\x80\x00",
    "truncated": GOOD_REQUEST[:-1],
    "something behind it": GOOD_REQUEST + b"\0",
    "oversized": b"\x30\x82\xff\xff" + b"\0" * MAX_REQUEST_BYTES,
    "several": changed(GOOD_REQUEST, more=1),
    "none": changed(GOOD_REQUEST, none=True),
    "version 2": changed(GOOD_REQUEST, version=1),
    "unknown critical": changed(GOOD_REQUEST, extensions=(CRITICAL,)),
    "unknown critical of the single request": changed(GOOD_REQUEST, single=CRITICAL),
    "no octet in the nonce": changed(GOOD_REQUEST, extensions=(nonce(0),)),
    "129 octets in the nonce": changed(GOOD_REQUEST, extensions=(nonce(129),)),
    "4096 octets in the nonce": changed(GOOD_REQUEST, extensions=(nonce(4096),)),
    "a nonce that is no OCTET STRING": changed(GOOD_REQUEST, extensions=(nonce(16, wrapped=False),)),
    "two nonces": changed(GOOD_REQUEST, extensions=(nonce(16), nonce(16))),
}


@pytest.mark.parametrize("der", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_request_is_malformed_and_nobody_is_asked_anything(bench: OcspBench, der: bytes) -> None:
    """D8: an error without a signature; neither the ledger nor the signer is touched, and the trail stays as it is."""
    asked, lines = bench.ledger.asked, len(bench.audit.records)
    reply = await bench.responder.answer(der)
    assert (reply.said, status(reply)) == (Said.MALFORMED, ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
    assert (bench.ledger.asked, len(bench.audit.records), bench.responder.known) == (asked, lines, 0)


def test_why_a_request_is_malformed_has_a_reason() -> None:
    """D8: for the tests of others and for logs."""
    reasons = {}
    for name, der in HOSTILE.items():
        with pytest.raises(Invalid) as caught:
            read_question(der)
        reasons[name] = caught.value.reason
    assert reasons["several"] == reasons["none"] == "OCSP_SEVERAL"
    assert reasons["unknown critical"] == reasons["unknown critical of the single request"] == "OCSP_UNKNOWN_CRITICAL"
    assert {reasons[name] for name in HOSTILE if "nonce" in name} == {"OCSP_NONCE"}


async def test_what_is_not_critical_is_passed_over(bench: OcspBench) -> None:
    der = changed(GOOD_REQUEST, single=HARMLESS, extensions=(HARMLESS,))
    assert (await bench.responder.answer(der)).said is Said.UNKNOWN


async def test_of_another_ca_it_says_nothing(bench: OcspBench) -> None:
    """RFC 5019, 2.2.3: also where only one of both hashes is another's, or the hash is one that nobody uses."""
    other = TestAuthority()
    wrong, half = build_request(77, other.issuer), changed(GOOD_REQUEST, name_hash=b"x" * 20)
    sha224 = question(77, hashes.SHA224())
    for der in (wrong, build_request(77, other.root), half, sha224):
        reply = await bench.responder.answer(der)
        assert (reply.said, status(reply)) == (Said.UNAUTHORIZED, ocsp.OCSPResponseStatus.UNAUTHORIZED)


async def test_while_the_ledger_is_away_it_says_try_later(bench: OcspBench) -> None:
    """J2, D9: never good without having looked; what was found out a moment ago still holds."""
    known, other = (await bench.issue()).record.serial, (await bench.issue()).record.serial
    await bench.ask(known)
    bench.ledger.lost = True
    assert status(await bench.ask(other)) is ocsp.OCSPResponseStatus.TRY_LATER
    assert (await bench.ask(known)).kept
    bench.clock.advance(6 * MINUTE)
    assert status(await bench.ask(known)) is ocsp.OCSPResponseStatus.TRY_LATER
    bench.ledger.lost = False
    assert (await bench.ask(other)).said is Said.GOOD


async def test_a_ledger_that_is_behind_the_feed_is_not_believed(bench: OcspBench) -> None:
    """D9: the feed has the revocation, the ledger calls it good: no answer rather than a wrong one."""
    serial = (await bench.issue()).record.serial
    restored = await bench.ledger.find(serial)
    await bench.authority.revoke_serial(serial, Reason.SUPERSEDED, by="admin")

    class Behind(LeverLedger):
        async def find(self, wanted: int) -> CertificateRecord:
            return restored

    reply = await bench.responding(ledger=Behind()).answer(build_request(serial, ISSUER))
    assert status(reply) is ocsp.OCSPResponseStatus.TRY_LATER


async def test_a_fault_of_ours_is_an_internal_error(bench: OcspBench) -> None:
    class Damaged(LeverLedger):
        async def find(self, wanted: int) -> CertificateRecord:
            raise Broken("a page is damaged", reason="LEDGER_DAMAGED")

    reply = await bench.responding(ledger=Damaged()).answer(build_request(77, ISSUER))
    assert status(reply) is ocsp.OCSPResponseStatus.INTERNAL_ERROR


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_asked_is_read_or_invalid(data: st.DataObject) -> None:
    """A20: fuzz of the request parser: every byte may change, go or come."""
    der = bytearray(data.draw(st.sampled_from([GOOD_REQUEST, build_request(1 << 127, ISSUER, nonce=b"n" * 32)])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(Invalid):
        found = read_question(bytes(der))
        assert isinstance(found.cert.serial, int)
        assert len(found.nonce) <= 131


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_every_request_gets_a_response_that_the_library_reads(noise: bytes) -> None:
    """A20: noise is answered with an error, and the responder lives."""
    reply = asyncio.run(OcspBench().responder.answer(noise))
    assert status(reply) is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_the_library_s_own_writer_and_ours_say_the_same(bench: OcspBench) -> None:
    """Two encoders of one answer, byte for byte up to the signature: RFC 6960, 4.2.1."""
    serial = (await bench.issue()).record.serial
    ours = ocsp.load_der_ocsp_response((await bench.ask(serial, b"n" * 32)).der)
    again = ocsp.load_der_ocsp_response(ours.public_bytes(Encoding.DER))
    assert again.tbs_response_bytes == ours.tbs_response_bytes
    assert ours.responder_name is None
    assert len(ours.certificates) == 1
    assert [one.oid for one in ours.extensions] == [encoding.NONCE]
    assert not ours.single_extensions
