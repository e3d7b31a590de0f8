"""The small parts of the core: ceremony, issuer, registration, CRLs, status, URLs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.errors import Broken, HandfastError, Invalid, Refused, Unavailable
from handfast.keys import CaPrivateKey
from handfast.revocation import Reason, RevocationList
from handfast_ca.ceremony import make_issuer
from handfast_ca.crl import check_departures, crl_builder, lint_crl
from handfast_ca.issuer import LocalIssuer, signature_hash
from handfast_ca.ledger import CrlPlan, RevokedEntry
from handfast_ca.registration import Proof, register
from handfast_ca.status import Level, crl_line, issuer_line, status_lines
from handfast_ca.urls import PublicUrls
from tests.ca.core import NOW, TRUST_DOMAIN, Ceremony

CEREMONY = Ceremony()


# --- ceremony ---------------------------------------------------------------------------------------------------------


def test_the_root_lives_ten_years_with_p384_and_the_issuing_ca_ninety_days_with_path_length_zero() -> None:
    root, issuing = CEREMONY.root.certificate, CEREMONY.issuing.certificate
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert root.public_key().curve.name == "secp384r1"  # type: ignore[union-attr]
    assert root.not_valid_after_utc - NOW > timedelta(days=3652)
    constraints = issuing.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert timedelta(days=89) < issuing.not_valid_after_utc - NOW < timedelta(days=90)
    issuing.verify_directly_issued_by(root)


def test_two_issuing_cas_never_share_a_name() -> None:
    """J7."""
    names = {make_issuer(CEREMONY.root, TRUST_DOMAIN, now=NOW).certificate.subject for _ in range(5)}
    assert len(names) == 5


def test_an_issuing_ca_never_outlives_its_root() -> None:
    """J10."""
    with pytest.raises(Refused) as refused:
        make_issuer(CEREMONY.root, TRUST_DOMAIN, now=NOW, lifetime=timedelta(days=4000))
    assert refused.value.reason == "ISSUER_EXPIRING"


def test_a_ca_shows_its_name_and_never_its_key() -> None:
    """E2."""
    assert repr(CEREMONY.root).startswith("CertificateAuthority('CN=test.example root")
    assert repr(CEREMONY.issuer).startswith("LocalIssuer('CN=test.example issuing CA")


# --- issuer -----------------------------------------------------------------------------------------------------------


def _self_signed(key: CaPrivateKey) -> x509.Certificate:
    name = CEREMONY.issuing.certificate.subject
    end = (NOW + timedelta(days=1)).replace(tzinfo=None)
    key_id = x509.SubjectKeyIdentifier(b"k" * 20)
    builder = x509.CertificateBuilder(
        name,
        name,
        key.public_key(),
        1 << 80,
        NOW.replace(tzinfo=None),
        end,
        [x509.Extension(key_id.oid, False, key_id)],
    )
    return builder.sign(key, signature_hash(key))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
async def test_rehearsal_and_signature_have_equal_bytes_for_every_kind_of_ca_key(key: CaPrivateKey) -> None:
    certificate = _self_signed(key)
    issuer = LocalIssuer(certificate, key)
    end = (NOW + timedelta(hours=1)).replace(tzinfo=None)
    public_key = CEREMONY.root.key.public_key()
    builder = x509.CertificateBuilder(
        certificate.subject, x509.Name([]), public_key, 1 << 90, NOW.replace(tzinfo=None), end, []
    )
    rehearsed, signed = issuer.rehearse(builder), await issuer.sign(builder)
    assert rehearsed.tbs_certificate_bytes == signed.tbs_certificate_bytes


def test_an_issuer_has_a_key_that_belongs_to_it_and_that_it_can_rehearse() -> None:
    with pytest.raises(Invalid) as other:
        LocalIssuer(CEREMONY.issuing.certificate, CEREMONY.root.key)
    assert other.value.reason == "KEY_MISMATCH"
    quantum = mldsa.MLDSA65PrivateKey.generate()
    with pytest.raises(Invalid) as unknown:
        LocalIssuer(_self_signed(quantum), quantum)
    assert unknown.value.reason == "UNSUPPORTED_KEY"


def test_an_issuer_without_a_key_identifier_is_refused() -> None:
    name, end = CEREMONY.issuing.certificate.subject, (NOW + timedelta(days=1)).replace(tzinfo=None)
    key = ec.generate_private_key(ec.SECP256R1())
    bare = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW.replace(tzinfo=None), end, [])
    with pytest.raises(Invalid) as refused:
        LocalIssuer(bare.sign(key, signature_hash(key)), key)
    assert refused.value.reason == "ISSUER_MALFORMED"


# --- registration -----------------------------------------------------------------------------------------------------


def test_an_entry_tells_all_its_mistakes_at_once() -> None:
    """A2, A4, A9."""
    with pytest.raises(Invalid) as refused:
        register(
            "spiffe://test.example/handfast/ca",
            trust_domain=TRUST_DOMAIN,
            longest=timedelta(hours=24),
            dns_names=["*", "*.svc", "", "a b", "Foo.svc", "svc.", "xn--pypal-4ve.com", "xn--pypal-4ve.com"],
            ip_addresses=["010.0.0.1"],
            usages=["both"],
            lifetime=timedelta(seconds=30),
            proofs=["word-of-honour"],
            comment="\u202e",
        )
    assert {violation.reason for violation in refused.value.violations} == {
        "RESERVED_PATH",
        "INVALID_DNS_NAME",
        "DUPLICATE",
        "INVALID_IP_ADDRESS",
        "INVALID",
        "LIFETIME",
        "INVALID_COMMENT",
    }
    assert len(refused.value.violations) == 13


def test_what_serves_alone_is_for_no_agent() -> None:
    """What renews and watches is a TLS client of the CA: a token for such an entry would be spent in vain."""
    made = partial(
        register, "spiffe://test.example/db", trust_domain=TRUST_DOMAIN, longest=timedelta(hours=24), usages=["server"]
    )
    assert made().proofs == {Proof.OPERATOR}
    assert made(proofs=["operator"]).proofs == {Proof.OPERATOR}
    for proofs in (["join-token"], ["join-token", "operator"]):
        with pytest.raises(Invalid) as refused:
            made(proofs=proofs)
        assert [(one.field, one.reason) for one in refused.value.violations] == [("proofs", "CLIENT_USAGE_NEEDED")]
    assert register(
        "spiffe://test.example/web", trust_domain=TRUST_DOMAIN, longest=timedelta(hours=24), usages=["client"]
    ).proofs == set(Proof)


def test_an_entry_of_another_trust_domain_is_refused() -> None:
    """A3."""
    with pytest.raises(Invalid) as refused:
        register("spiffe://other.example/web", trust_domain=TRUST_DOMAIN, longest=timedelta(hours=24))
    assert [violation.reason for violation in refused.value.violations] == ["FOREIGN_TRUST_DOMAIN"]


def test_an_entry_has_eight_names_at_most() -> None:
    """A15."""
    with pytest.raises(Invalid) as refused:
        register(
            "spiffe://test.example/web",
            trust_domain=TRUST_DOMAIN,
            longest=timedelta(hours=24),
            dns_names=[f"n{number}.svc" for number in range(9)],
        )
    assert refused.value.reason == "TOO_MANY_NAMES"


# --- CRLs and status --------------------------------------------------------------------------------------------------


def _list(plan: CrlPlan) -> RevocationList:
    builder = crl_builder(plan, CEREMONY.issuing.certificate, timedelta(hours=12))
    signed = builder.sign(CEREMONY.issuing.key, signature_hash(CEREMONY.issuing.key))
    return RevocationList.verify(signed.public_bytes(Encoding.DER), CEREMONY.bundle, now=NOW)


PLAN = CrlPlan(
    CEREMONY.issuer.key_id,
    1,
    NOW,
    (RevokedEntry(5, NOW, Reason.KEY_COMPROMISE), RevokedEntry(6, NOW, Reason.UNSPECIFIED)),
)


def test_a_list_says_why_unless_there_is_no_reason() -> None:
    """RFC 5280, 5.3.1."""
    crl = x509.load_der_x509_crl(_list(PLAN).der)
    assert {entry.serial_number: len(entry.extensions) for entry in crl} == {5: 1, 6: 0}


@pytest.mark.parametrize(
    ("planned", "validity"),
    [
        (replace(PLAN, entries=PLAN.entries[:1]), timedelta(hours=12)),
        (replace(PLAN, entries=(PLAN.entries[0], replace(PLAN.entries[1], serial=7))), timedelta(hours=12)),
        (replace(PLAN, number=PLAN.number + 1), timedelta(hours=12)),
        (replace(PLAN, this_update=PLAN.this_update + timedelta(hours=1)), timedelta(hours=11)),
        (PLAN, timedelta(hours=13)),
    ],
    ids=["entries", "as many others", "number", "thisUpdate", "nextUpdate"],
)
def test_a_list_that_is_not_what_was_planned_is_not_published(planned: CrlPlan, validity: timedelta) -> None:
    """D1, D2, D3, D4: each of the four alone."""
    made = _list(PLAN)
    lint_crl(made, PLAN, timedelta(hours=12))
    with pytest.raises(Broken) as refused:
        lint_crl(made, planned, validity)
    assert refused.value.reason == "LINT"


def test_a_serial_that_the_ledger_lost_may_not_leave_the_list() -> None:
    """D4."""
    with pytest.raises(Broken) as refused:
        check_departures(_list(PLAN), [5], [None])
    assert refused.value.reason == "CRL_ENTRIES_LOST"


@pytest.mark.parametrize(
    ("days", "level", "says"),
    [
        (1, Level.OK, "left"),
        (46, Level.WARNING, "50 %"),
        (69, Level.WARNING, "25 %"),
        (82, Level.FAILED, "10 %"),
        (91, Level.FAILED, "expired"),
    ],
)
def test_the_end_of_the_issuing_ca_is_told_in_time(days: int, level: Level, says: str) -> None:
    """J10."""
    line = issuer_line(CEREMONY.issuing.certificate, NOW + timedelta(days=days))
    assert line.level is level
    assert says in line.detail


@pytest.mark.parametrize(("hours", "level"), [(1, Level.OK), (7, Level.WARNING), (12, Level.FAILED)])
def test_the_age_of_the_list_is_told_in_time(hours: int, level: Level) -> None:
    """D2."""
    assert crl_line(_list(PLAN), NOW + timedelta(hours=hours)).level is level


def test_a_ca_without_a_list_and_with_a_wrong_clock_says_both() -> None:
    problem: HandfastError = Unavailable("the clock jumped", hint="set it right")
    lines = status_lines(
        issuer=CEREMONY.issuing.certificate,
        crl=None,
        clock_problem=problem,
        crl_problem=None,
        ledger_problem=None,
        now=NOW,
    )
    assert {line.name: line.level for line in lines} == {
        "expiry": Level.OK,
        "crl": Level.FAILED,
        "publishing": Level.OK,
        "file": Level.OK,
        "time": Level.FAILED,
    }
    assert lines[-1].hint == "set it right"


def test_a_ca_whose_ledger_is_damaged_is_not_ready_and_names_the_way_back() -> None:
    """J3."""
    problem = Broken("ledger ledger.db is damaged: row 7 missing", hint="`handfast ca restore`")
    lines = status_lines(
        issuer=CEREMONY.issuing.certificate,
        crl=None,
        clock_problem=None,
        crl_problem=None,
        ledger_problem=problem,
        now=NOW,
    )
    assert [(line.group, line.detail, line.hint) for line in lines if line.name == "file"] == [
        ("ledger", problem.message, "`handfast ca restore`")
    ]
    assert [line.name for line in lines if line.level is Level.FAILED] == ["crl", "file"]


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base", ["", "ca.example", "ftp://ca.example", "http://", "http://ca.example?x", "http://é.example"]
)
def test_a_public_url_that_certificates_cannot_carry_is_refused(base: str) -> None:
    with pytest.raises(Invalid) as refused:
        PublicUrls(base)
    assert refused.value.reason == "INVALID_URL"
