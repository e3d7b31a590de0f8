"""Who signs OCSP answers: a certificate of its own profile and lint, watched and renewed, and never outlived."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.certificates import Leaf
from handfast.errors import Broken, Refused
from handfast.identity import SpiffeId
from handfast.lifetime import Validity
from handfast.revocation import Reason
from handfast_ca.issuer import LocalIssuer
from handfast_ca.ledger import CertificateFilter, Status
from handfast_ca.lint import IssuerFacts
from handfast_ca.ocsp.certificate import (
    RESPONDER_PROFILE,
    ResponderPlan,
    lint_responder,
    responder_builder,
    responder_name,
)
from handfast_ca.ocsp.responder import Said
from handfast_ca.status import Level
from tests.ca.core import NOW, TRUST_DOMAIN, Ceremony
from tests.ca.ocsp_bench import CEREMONY, ISSUER, OcspBench, status
from tests.ca.test_template_and_lint import Mutation, _replaced, _usage, _with, _without

RESPONDER = SpiffeId.parse("spiffe://test.example/handfast/ocsp")
HOUR = timedelta(hours=1)


@pytest.fixture
async def bench() -> OcspBench:
    return await OcspBench().start()


def plan(**other: Any) -> ResponderPlan:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    serial = 0xA5 << 120
    validity = RESPONDER_PROFILE.validity(24 * HOUR, now=NOW, issuer_not_after=ISSUER.not_valid_after_utc)
    return ResponderPlan(**{"serial": serial, "validity": validity, "name": responder_name(TRUST_DOMAIN, serial), "public_key": key, **other})  # fmt: skip


def rehearsed(wanted: ResponderPlan, mutation: Mutation = lambda builder: builder) -> bytes:
    builder = responder_builder(wanted, ISSUER.subject, CEREMONY.issuer.key_id)
    return CEREMONY.issuer.rehearse(mutation(builder)).public_bytes(Encoding.DER)


FACTS = IssuerFacts.of(ISSUER)
SAN = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://test.example/web")])
USAGES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH])
MUTATIONS: dict[str, Mutation] = {
    "no nocheck": _without(x509.OCSPNoCheck.oid),
    "no usage": _without(x509.ExtendedKeyUsage.oid),
    "another usage too": _replaced(USAGES, False),
    "CA:TRUE": _replaced(x509.BasicConstraints(ca=True, path_length=None), True),
    "keyCertSign": _replaced(_usage(key_cert_sign=True), True),
    "a SPIFFE ID": _replaced(SAN, False),
    "foreign AKI": _replaced(x509.AuthorityKeyIdentifier(b"x" * 20, None, None), False),
    "another issuer's name": _with(issuer_name=x509.Name([])),
    "a longer life": _with(not_valid_after=(NOW + 48 * HOUR).replace(tzinfo=None)),
    "another key": _with(public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
    "a workload": lambda builder: _replaced(SAN, True)(
        _without(x509.OCSPNoCheck.oid)(
            _replaced(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)(builder)
        )
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_mutated_responder_certificate_is_blocked_before_the_key_is_touched(mutation: Mutation) -> None:
    wanted = plan()
    lint_responder(rehearsed(wanted), wanted, FACTS)
    with pytest.raises(Broken) as caught:
        lint_responder(rehearsed(wanted, mutation), wanted, FACTS)
    assert caught.value.reason == "LINT"


@pytest.mark.parametrize(
    "other",
    [
        {"serial": 1},
        {"validity": Validity(NOW, NOW + 25 * HOUR)},
        {"validity": Validity(NOW, ISSUER.not_valid_after_utc)},
    ],
)
def test_a_plan_that_breaks_the_profile_is_blocked_too(other: dict[str, Any]) -> None:
    """D10: a day at most, and never past the issuing CA."""
    wanted = plan(**other)
    with pytest.raises(Broken):
        lint_responder(rehearsed(wanted), wanted, FACTS)


def test_bytes_that_are_no_certificate_are_blocked() -> None:
    with pytest.raises(Broken):
        lint_responder(b"\x30\x00", plan(), FACTS)


async def test_the_signer_is_issued_by_the_steps_of_every_certificate(bench: OcspBench) -> None:
    """In the ledger, in the audit trail, by the issuing CA itself; good when asked about; nobody in the mesh."""
    signer = bench.signers.present(NOW)
    assert signer is not None
    certificate = signer.certificate
    certificate.verify_directly_issued_by(ISSUER)
    record = await bench.ledger.find(certificate.serial_number)
    assert (record.spiffe_id, record.status, record.obtained_by) == (RESPONDER, Status.ISSUED, "internal")
    (line,) = [one for one in bench.audit.records if one["event"] == "issue-ocsp-signer"]
    assert (line["decision"], line["serial"]) == ("granted", f"{certificate.serial_number:x}")
    assert certificate.extensions.get_extension_for_class(x509.OCSPNoCheck)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert signer.validity.duration == 24 * HOUR
    assert (await bench.ask(certificate.serial_number)).said is Said.GOOD
    with pytest.raises(Refused):
        Leaf.of(certificate)
    assert "PRIVATE" not in repr(signer)


async def test_it_is_renewed_at_half_of_its_life_with_another_key(bench: OcspBench) -> None:
    """D10: watched like any leaf."""
    first = bench.signers.present(NOW)
    assert first is not None
    bench.clock.advance(11 * HOUR)
    await bench.signers.renew_if_due()
    assert bench.signers.present(bench.clock.now()) is first
    bench.clock.advance(HOUR)
    await bench.signers.renew_if_due()
    second = bench.signers.present(bench.clock.now())
    assert second is not None
    assert second.certificate.public_key() != first.certificate.public_key()


async def test_a_revoked_signer_is_replaced_at_the_next_look(bench: OcspBench) -> None:
    first = bench.signers.present(NOW)
    assert first is not None
    await bench.authority.revoke_serial(first.certificate.serial_number, Reason.KEY_COMPROMISE, by="admin")
    await bench.signers.renew_if_due()
    assert bench.signers.present(NOW) is not first


async def test_an_answer_never_outlives_its_signer_and_an_expired_signer_signs_nothing(bench: OcspBench) -> None:
    """D10: the trail cannot be written, so that no other signer comes."""
    serial = (await bench.issue()).record.serial
    signer = bench.signers.present(NOW)
    assert signer is not None
    end = signer.validity.not_after
    bench.audit.broken = True
    bench.clock.advance(end - NOW - timedelta(minutes=4))
    await bench.signers.renew_if_due()
    answer = bench.read(await bench.ask(serial, b"n" * 32), serial, b"n" * 32)
    assert answer.until == end
    bench.clock.advance(timedelta(minutes=4, seconds=1))
    await bench.signers.renew_if_due()
    reply = await bench.ask(serial, b"n" * 32)
    assert (reply.said, status(reply)) == (Said.TRY_LATER, ocsp.OCSPResponseStatus.TRY_LATER)
    assert bench.signers.present(bench.clock.now()) is None
    bench.audit.broken = False
    await bench.signers.renew_if_due()
    assert (await bench.ask(serial, b"n" * 32)).said is Said.GOOD


async def test_how_the_signer_is_stands_in_the_status(bench: OcspBench) -> None:
    """D10: a renewal that fails is a warning while the old one signs, and a failure when it has ended."""

    def line() -> Any:
        return next(one for one in bench.authority.status() if one.name == "ocsp")

    assert line().level is Level.OK
    bench.audit.broken = True
    bench.clock.advance(13 * HOUR)
    await bench.signers.renew_if_due()
    assert line().level is Level.WARNING
    bench.clock.advance(12 * HOUR)
    assert line().level is Level.FAILED
    assert "audit" in line().detail


async def test_where_nobody_wants_a_signer_there_is_none() -> None:
    quiet = OcspBench()
    await quiet.authority.start()
    assert "ocsp" not in {line.name for line in quiet.authority.status()}
    assert quiet.signers.present(NOW) is None
    assert (await quiet.ask(77)).said is Said.TRY_LATER


class _Lying:
    """The real issuer with a lever: what it signs is not what it rehearsed."""

    def __init__(self, change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder]) -> None:
        real = CEREMONY.issuer
        self.certificate, self.key_id, self.chain, self._change = real.certificate, real.key_id, real.chain, change
        self.rehearse, self.sign_crl = real.rehearse, real.sign_crl

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return await CEREMONY.issuer.sign(self._change(builder))


async def test_a_certificate_that_is_not_the_linted_one_signs_nothing() -> None:
    bench = OcspBench(issuer=_Lying(lambda builder: builder.add_extension(x509.PrecertPoison(), critical=False)))
    await bench.authority.start()
    await bench.signers.renew_if_due()
    assert bench.signers.present(NOW) is None
    (record,) = (await bench.authority.list_certificates(CertificateFilter())).items
    assert record.der is None
    assert [one["reason"] for one in bench.audit.records if one["decision"] == "refused"] == ["LINT"]


async def test_near_the_end_of_the_issuing_ca_the_signer_ends_with_it() -> None:
    """J10: no longer than the issuer, and none at all in its last minute."""
    ceremony = Ceremony(NOW)
    bench = OcspBench(
        issuer=LocalIssuer(ceremony.issuing.certificate, ceremony.issuing.key), bundle=ceremony.bundle, root_crls=()
    )
    end = ceremony.issuing.certificate.not_valid_after_utc
    bench.clock.advance(end - NOW - HOUR)
    await bench.authority.time.start()
    await bench.signers.renew_if_due()
    signer = bench.signers.present(bench.clock.now())
    assert signer is not None
    assert signer.validity.not_after < end
    with pytest.raises(Refused) as caught:
        bench.clock.advance(HOUR - timedelta(seconds=30))
        await bench.signers.renewed()
    assert caught.value.reason == "ISSUER_EXPIRING"
    assert isinstance(signer.certificate.signature_hash_algorithm, hashes.SHA256)
