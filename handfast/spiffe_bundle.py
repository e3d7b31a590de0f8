"""A trust bundle as a SPIFFE bundle document (SPIFFE Trust Domain and Bundle, 4): a JWK set of its roots.

Reading and writing one needs joserfc, which comes with the extra ``cli`` and with the CA; a service that has neither can still
import this. A document is read strictly: what two readers could take for two things is refused (threat D14).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.bundle import TrustBundle
from handfast.errors import HandfastError, Invalid
from handfast.identity import TrustDomain

__all__ = ["read_bundle_map", "read_spiffe_bundle", "spiffe_bundle"]

MAX_BYTES = 1024 * 1024


def spiffe_bundle(bundle: TrustBundle) -> bytes:
    """UTF-8 JSON with one key for each root; issuing CAs are no trust anchors, and are left out.

    An empty bundle becomes an empty ``keys``: nothing is trusted (4.1.3). Raises ``Invalid`` (``UNSUPPORTED_KEY``) for a
    root whose kind of key JWK sets do not carry here.
    """
    document = {
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": bundle.refresh_hint_seconds,
        "keys": [_key(root) for root in bundle.roots],
    }
    return json.dumps(document, indent=2).encode("utf-8") + b"\n"


def _key(root: x509.Certificate) -> dict[str, Any]:
    """``x5c`` holds exactly this one certificate (X.509-SVID, 6.2.1)."""
    der = root.public_bytes(Encoding.DER)
    return {"use": "x509-svid", **_parameters(root), "x5c": [base64.b64encode(der).decode("ascii")]}


def _parameters(root: x509.Certificate) -> dict[str, Any]:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    key = root.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return dict(ECKey.import_key(key).as_dict(private=False))
    if isinstance(key, rsa.RSAPublicKey):
        return dict(RSAKey.import_key(key).as_dict(private=False))
    if isinstance(key, ed25519.Ed25519PublicKey):
        return dict(OKPKey.import_key(key).as_dict(private=False))
    raise Invalid(
        f"the root {root.subject.rfc4514_string()!r} has a key that a SPIFFE bundle cannot carry",
        reason="UNSUPPORTED_KEY",
        hint="take the bundle as PEM",
    )


def read_spiffe_bundle(document: bytes, trust_domain: TrustDomain) -> TrustBundle:
    """The bundle of ``trust_domain``, which the document itself does not name: say where it came from.

    Keys for other uses than ``x509-svid`` are passed over (4.2.2); of the others, JWK parameters and the one certificate must
    agree. Without any key nothing is trusted (4.1.3). Raises ``Invalid`` (``BUNDLE_MALFORMED``).
    """
    return _bundle(_read(document), trust_domain)


def read_bundle_map(document: bytes) -> Mapping[TrustDomain, TrustBundle]:
    """``{"trust_domains": {NAME: bundle}}``: each domain with a bundle of its own, which vouches for nobody else (threat D13).

    Raises ``Invalid`` (``BUNDLE_MALFORMED``), for a domain that stands twice, too.
    """
    domains = _read(document).get("trust_domains")
    if not isinstance(domains, dict):
        raise _malformed("trust_domains is no object")
    try:
        return {domain: _bundle(one, domain) for name, one in domains.items() for domain in [TrustDomain(name)]}
    except HandfastError as error:
        raise _malformed(error.message) from error


def _read(document: bytes) -> dict[str, Any]:
    if len(document) > MAX_BYTES:
        raise _malformed(f"{len(document)} octets exceed the maximum of {MAX_BYTES}")
    try:
        read = json.loads(document.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{type(error).__name__}") from error
    if not isinstance(read, dict):
        raise _malformed("it is no object")
    return read


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON parsers differ in which of two they take (RFC 8259, 4): here neither."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _malformed(f"{next(name for name in names if names.count(name) > 1)[:80]!a} stands twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise _malformed(f"{text} is no number of JSON")


def _bundle(read: object, trust_domain: TrustDomain) -> TrustBundle:
    if not isinstance(read, dict) or not isinstance(read.get("keys"), list):
        raise _malformed("keys is no array")
    numbers = [read.get("spiffe_sequence", 0), read.get("spiffe_refresh_hint", 300)]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise _malformed("spiffe_sequence and spiffe_refresh_hint are no whole numbers below 2^63")
    roots = tuple(_root(key) for key in read["keys"] if not isinstance(key, dict) or key.get("use") == "x509-svid")
    return TrustBundle(trust_domain, roots, (), *numbers)


def _root(key: object) -> x509.Certificate:
    if not isinstance(key, dict):
        raise _malformed("a key is no object")
    chain = key.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise _malformed("x5c of an x509-svid key does not hold exactly one certificate")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
        own, said = _spki(certificate.public_key()), _spki(_public_key(key))
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception as error:
        raise _malformed(f"a certificate or key in it cannot be read: {type(error).__name__}") from error
    if own != said:
        raise _malformed("the parameters of a key are not those of its certificate")
    if not is_ca:
        raise _malformed("a certificate in it is no CA's")
    return certificate


def _public_key(key: dict[str, Any]) -> Any:
    from joserfc.jwk import JWKRegistry

    plain = {name: value for name, value in key.items() if name in ("kty", "crv", "x", "y", "n", "e")}
    return JWKRegistry.import_key(plain).public_key


def _spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _malformed(why: str) -> Invalid:
    return Invalid(f"the SPIFFE bundle cannot be used: {why}", reason="BUNDLE_MALFORMED")
