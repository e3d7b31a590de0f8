"""Requests that ask for more than they may have, at the CA itself: every way in, every class of name and key.

Each is refused with its reason, nothing is signed or stored, and the audit trail has exactly one line more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID

from handfast.certificates import Leaf
from handfast.csr import binding, build_csr
from handfast.errors import HandfastError, Invalid, Refused, Unauthenticated
from handfast.keys import generate
from handfast.revocation import Reason
from handfast_ca.enrolment import Enrolment, Renewal
from tests.ca.core import DB, NOW, WEB
from tests.ca.test_authority import Bench, refused
from tests.vocabulary.test_csr import signed_again

KEY = generate()
Spoil = Callable[[x509.CertificateSigningRequestBuilder], x509.CertificateSigningRequestBuilder]
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
CA_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.authority.start()
    await made.authority.add_entry(str(WEB), by="admin", dns_names=["web.shop.svc"])
    await made.authority.add_entry(str(DB), by="admin")
    yield made
    await made.authority.close()


@dataclass(frozen=True)
class Vector:
    """A request that is bound to its proof, and wrong in one way."""

    reason: str
    spoil: Spoil = lambda builder: builder
    key: SigningKey = KEY
    subject: str = ""
    kind: type[HandfastError] = Refused

    def csr(self, credential: bytes | None) -> bytes:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, self.subject, _validate=False)] if self.subject else []
        builder = self.spoil(x509.CertificateSigningRequestBuilder(x509.Name(attributes)))
        if credential is not None:
            builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, binding(credential).encode())
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(self.key, digest).public_bytes(Encoding.DER)


def names(*general: x509.GeneralName) -> Spoil:
    return lambda builder: builder.add_extension(x509.SubjectAlternativeName(general), critical=False)


def IP(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def extension(value: x509.ExtensionType) -> Spoil:
    return lambda builder: builder.add_extension(value, critical=True)


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
VECTORS = {
    "A1 CA:TRUE": Vector("CSR_FORBIDDEN_EXTENSION", extension(x509.BasicConstraints(ca=True, path_length=None))),
    "A1 keyCertSign": Vector("CSR_FORBIDDEN_EXTENSION", extension(CA_USAGE)),
    "A2 wildcard": Vector("INVALID_DNS_NAME", names(DNS("*"))),
    "A2 wildcard below": Vector("INVALID_DNS_NAME", names(DNS("*.svc"))),
    "A2 empty": Vector("INVALID_DNS_NAME", names(DNS(""))),
    "A2 space": Vector("INVALID_DNS_NAME", names(DNS("a b"))),
    "A2 upper case": Vector("INVALID_DNS_NAME", names(DNS("Web.shop.svc"))),
    "A2 trailing dot": Vector("INVALID_DNS_NAME", names(DNS("web.shop.svc."))),
    "A2 underscore": Vector("INVALID_DNS_NAME", names(DNS("web_shop.svc"))),
    "A2 not entitled": Vector("NOT_ENTITLED", names(DNS("db.shop.svc"))),
    "A3 another tenant": Vector("NOT_ENTITLED", names(URI(str(DB)))),
    "A4 two steps": Vector("INVALID_SPIFFE_ID", names(URI("spiffe://test.example/db/../web"))),
    "A4 upper case": Vector("INVALID_SPIFFE_ID", names(URI("spiffe://TEST.example/web"))),
    "A4 percent": Vector("INVALID_SPIFFE_ID", names(URI("spiffe://test.example/%77eb"))),
    "A4 trailing slash": Vector("INVALID_SPIFFE_ID", names(URI("spiffe://test.example/web/"))),
    "A4 2049 octets": Vector("INVALID_SPIFFE_ID", names(URI("spiffe://test.example/" + "a" * 2027))),
    "A5 two identities": Vector("CSR_FORBIDDEN_NAME", names(URI(str(WEB)), URI(str(DB)))),
    "A5 one identity twice": Vector("CSR_FORBIDDEN_NAME", names(URI(str(WEB)), URI(str(WEB)))),
    "A6 metadata service": Vector("NOT_ENTITLED", names(IP("169.254.169.254"))),
    "A6 loopback": Vector("NOT_ENTITLED", names(IP("127.0.0.1"))),
    "A6 service network": Vector("NOT_ENTITLED", names(IP("10.96.0.1"))),
    "A6 loopback of IPv6": Vector("NOT_ENTITLED", names(IP("::1"))),
    "A6 beside a good name": Vector("NOT_ENTITLED", names(URI(str(WEB)), DNS("web.shop.svc"), IP("10.96.0.1"))),
    "A7 e-mail": Vector("CSR_FORBIDDEN_NAME", names(x509.RFC822Name("root@test.example"))),
    "A7 otherName": Vector("CSR_FORBIDDEN_NAME", names(x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"))),
    "A7 directory name": Vector("CSR_FORBIDDEN_NAME", names(x509.DirectoryName(x509.Name([])))),
    "A7 registered ID": Vector("CSR_FORBIDDEN_NAME", names(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))),
    "A8 NUL": Vector("CSR_FORBIDDEN_NAME", subject="admin\0.evil"),
    "A8 control": Vector("CSR_FORBIDDEN_NAME", subject="admin\x1b[2J"),
    "A8 direction": Vector("CSR_FORBIDDEN_NAME", subject="admin\u202e"),
    "A8 more than a KiB": Vector("CSR_FORBIDDEN_NAME", subject="a" * 1100),
    "A9 A-label": Vector("NOT_ENTITLED", names(DNS("xn--pypal-4ve.com"))),
    "A10 RSA-1024": Vector("UNSUPPORTED_KEY", key=rsa.generate_private_key(65537, 1024)),
    "A10 RSA with exponent 3": Vector("UNSUPPORTED_KEY", key=rsa.generate_private_key(3, 2048)),
    "A10 secp256k1": Vector("UNSUPPORTED_KEY", key=ec.generate_private_key(ec.SECP256K1())),
    "A10 P-521": Vector("UNSUPPORTED_KEY", key=ec.generate_private_key(ec.SECP521R1())),
    "A10 Ed25519": Vector("UNSUPPORTED_KEY", key=ed25519.Ed25519PrivateKey.generate()),
    "A14 unknown critical extension": Vector(
        "CSR_FORBIDDEN_EXTENSION", extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"))
    ),
    "A14 unknown attribute": Vector(
        "CSR_FORBIDDEN_EXTENSION", lambda builder: builder.add_attribute(x509.ObjectIdentifier("1.2.3"), b"x")
    ),
}  # fmt: skip
Way = Callable[[Bench, Callable[[bytes | None], bytes]], Awaitable[Callable[[], Awaitable[object]]]]


async def enrolling(bench: Bench, make: Callable[[bytes | None], bytes]) -> Callable[[], Awaitable[object]]:
    token = await bench.token()
    request = Enrolment(token, make(token.encode()), peer_address="10.0.0.9")
    return lambda: bench.authority.enrol(request)


async def renewing(bench: Bench, make: Callable[[bytes | None], bytes]) -> Callable[[], Awaitable[object]]:
    leaf = Leaf.of((await bench.enrol()).chain[0])
    request = Renewal(leaf, make(leaf.der), peer_address="10.0.0.9")
    return lambda: bench.authority.renew(request)


async def signing(bench: Bench, make: Callable[[bytes | None], bytes]) -> Callable[[], Awaitable[object]]:
    return lambda: bench.authority.sign(WEB, make(None), by="admin")


WAYS = [enrolling, renewing, signing]


@pytest.mark.filterwarnings("ignore:Attribute's length must be")  # the library's word on a long name, where we build it
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
async def test_a_request_for_more_than_the_entry_gives_is_refused_on_every_way_in(
    bench: Bench, vector: Vector, way: Way
) -> None:
    """A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A14: with its reason, nothing stored, one line."""
    await refused(bench, vector.kind, vector.reason, await way(bench, vector.csr))
    assert all(not line.get("dns_names") or line["decision"] == "granted" for line in bench.audit.records)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda der: der[:-1] + bytes([der[-1] ^ 1]), "CSR_BAD_SIGNATURE"),
        (lambda der: der + b"\0", "CSR_MALFORMED"),
        (lambda der: der[:-1], "CSR_MALFORMED"),
        (lambda der: b"", "CSR_MALFORMED"),
        (lambda der: b"\x30\x80" + der[4:] + b"\0\0", "CSR_MALFORMED"),
        (lambda der: signed_again(twice=True), "CSR_MALFORMED"),
        (lambda der: der.replace(b"\x06\x08*\x86H\xce=\x03\x01\x07", b"\x06\x08*\x86H\xce=\x03\x01\x01"), "CSR_MALFORMED"),
    ],
    ids=["last byte flipped", "trailing byte", "cut", "nothing", "indefinite length", "extension twice", "P-192 said"],
)  # fmt: skip
async def test_what_is_not_exactly_one_signed_request_is_refused_on_every_way_in(
    bench: Bench, spoil: Callable[[bytes], bytes], reason: str, way: Way
) -> None:
    """A13, A14, A20, A10."""
    make = Vector("").csr
    await refused(bench, Invalid, reason, await way(bench, lambda credential: spoil(make(credential))))


@pytest.mark.parametrize("way", [enrolling, renewing])
async def test_pem_is_for_operators_alone(bench: Bench, way: Way) -> None:
    """A14: who enrols or renews sends DER, and nothing around it."""

    def armoured(credential: bytes | None) -> bytes:
        return x509.load_der_x509_csr(Vector("").csr(credential)).public_bytes(Encoding.PEM)

    await refused(bench, Invalid, "CSR_MALFORMED", await way(bench, armoured))


@pytest.mark.parametrize("place", range(1, 65, 9))
async def test_a_point_that_is_not_on_its_curve_is_refused(bench: Bench, place: int) -> None:
    """A10: wherever the coordinates were altered."""
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    moved = bytearray(point)
    moved[place] ^= 1

    def make(credential: bytes | None) -> bytes:
        return Vector("").csr(credential).replace(point, bytes(moved))

    await refused(bench, Invalid, "CSR_MALFORMED", await enrolling(bench, make))


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
@pytest.mark.parametrize("subject", ["Mallory", "a" * 65, "a" * 900, "<script>", "spiffe://test.example/db"])
async def test_a_subject_that_harms_nobody_is_looked_at_and_never_used(bench: Bench, subject: str) -> None:
    """A8: the certificate never has text of the request."""
    csr, lines = Vector("", subject=subject).csr(None), len(bench.audit.raw)
    issued = await bench.authority.sign(WEB, csr, by="admin")
    certificate = issued.chain[0]
    assert certificate.subject == x509.Name([])
    assert subject.encode() not in certificate.public_bytes(Encoding.DER)
    assert subject.encode() not in b"".join(bench.audit.raw[lines:])


async def test_a_renewal_request_that_was_made_for_the_certificate_before_is_refused(bench: Bench) -> None:
    """A13: stale binding."""
    first = await bench.enrol()
    second = await bench.authority.renew(bench.renewal(first))
    stale = Renewal(Leaf.of(second.chain[0]), bench.renewal(first).csr)
    await refused(bench, Refused, "CSR_NOT_BOUND", lambda: bench.authority.renew(stale))


@pytest.mark.parametrize(
    "lifetime", [timedelta(days=3650), timedelta(hours=24, seconds=1), timedelta(0), -timedelta(1)]
)
@pytest.mark.parametrize("way", ["enrol", "renew", "sign"])
async def test_a_lifetime_beyond_the_entry_s_is_refused_and_not_cut(
    bench: Bench, lifetime: timedelta, way: str
) -> None:
    """A16: on every way in. No request can name the two ends themselves."""
    enrolment = replace(await bench.enrolment(), lifetime=lifetime)
    renewal = replace(bench.renewal(await bench.enrol()), lifetime=lifetime)
    ways = {
        "enrol": lambda: bench.authority.enrol(enrolment),
        "renew": lambda: bench.authority.renew(renewal),
        "sign": lambda: bench.authority.sign(WEB, build_csr(generate()), by="admin", lifetime=lifetime),
    }
    await refused(bench, Refused, "LIFETIME", ways[way])


async def test_a_good_certificate_of_another_is_no_ground_to_renew_on(bench: Bench) -> None:
    """C3: a handshake proves one identity, and the ledger knows whose serial it is."""
    leaf = Leaf.of((await bench.enrol()).chain[0])
    claimed = replace(leaf, spiffe_id=DB)
    renewal = Renewal(claimed, build_csr(generate(), credential=claimed.der))
    await refused(bench, Unauthenticated, "UNKNOWN_CERTIFICATE", lambda: bench.authority.renew(renewal))


async def test_a_revoked_identity_leaves_no_certificate_off_the_list(bench: Bench) -> None:
    """C9: all that it obtained, in every way, is on the next list; its key compromise blocks every key."""
    first = await bench.enrol()
    obtained = [
        first,
        await bench.authority.renew(bench.renewal(first)),
        await bench.enrol(),
        await bench.authority.sign(WEB, build_csr(generate()), by="admin"),
    ]
    untouched = await bench.authority.sign(DB, build_csr(generate()), by="admin")
    await bench.authority.revoke_identity(WEB, Reason.KEY_COMPROMISE, by="admin")
    assert bench.crl().serials == {issued.record.serial for issued in obtained}
    assert untouched.record.serial not in bench.crl().serials


@pytest.mark.parametrize("jump", [-timedelta(days=1), timedelta(days=365)])
async def test_a_clock_that_is_a_day_behind_or_a_year_ahead_signs_nothing(bench: Bench, jump: timedelta) -> None:
    """J8: refused, with a line, and with nothing stored."""
    renewal = bench.renewal(await bench.enrol())
    lines, serials = len(bench.audit.raw), await bench.serials()
    bench.clock.step(jump)
    with pytest.raises(HandfastError) as caught:
        await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    assert caught.value.reason == ("CLOCK_BEHIND" if jump < timedelta() else "CLOCK_AHEAD")
    assert await bench.serials() == serials
    decided = [line["reason"] for line in bench.audit.records[lines:] if "decision" in line]
    assert decided == [caught.value.reason]
    assert renewal.presented.spiffe_id == WEB


async def test_a_machine_that_was_suspended_for_eight_hours_goes_on(bench: Bench) -> None:
    """J8: that much is no lie, and the list it wakes up with is still good."""
    await bench.enrol()
    bench.clock.step(timedelta(hours=8))
    assert (await bench.enrol()).record.der
    assert bench.crl().next_update > NOW + timedelta(hours=8)
