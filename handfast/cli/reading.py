"""What a file holds, as plain values that ``inspect`` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp

from handfast.certificates import Usage, authority_key_id, fingerprint, format_serial, subject_key_id
from handfast.cli.crl import row as crl_row
from handfast.cli.output import shown_time
from handfast.errors import Invalid
from handfast.keys import spki_sha256
from handfast.ocsp import ocsp_url

__all__ = ["certificate_item", "read_items"]

Item = dict[str, Any]
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def read_items(data: bytes, source: str = "it") -> list[Item]:
    """Every object in a PEM text, or the one object of a DER file. Raises ``Invalid`` when there is none."""
    items = list(_pem_items(data)) or [item for item in [_der_item(data) or _container_item(data)] if item]
    if not items:
        raise Invalid(
            f"there is nothing X.509 in {source}: no certificate, key, CSR, CRL or OCSP answer, neither PEM nor DER",
            reason="UNREADABLE",
        )
    return items


def _pem_items(data: bytes) -> Iterator[Item]:
    for match in _PEM.finditer(data):
        label, block = match.group(1).decode("ascii"), match.group(0)
        try:
            yield _pem_item(label, block)
        except ValueError as error:
            raise Invalid(f"the PEM block {label!r} cannot be read: {error}", reason="UNREADABLE") from error


def _pem_item(label: str, block: bytes) -> Item:
    if label == "CERTIFICATE":
        return certificate_item(x509.load_pem_x509_certificate(block))
    if label == "X509 CRL":
        return crl_item(x509.load_pem_x509_crl(block))
    if label.endswith("CERTIFICATE REQUEST"):
        return csr_item(x509.load_pem_x509_csr(block))
    if label == "ENCRYPTED PRIVATE KEY":
        return {"name": "key", "kind": "private key", "key": "encrypted (PKCS#8)"}
    if label.endswith("PRIVATE KEY"):
        return private_key_item(serialization.load_pem_private_key(block, password=None))
    if label.endswith("PUBLIC KEY"):
        return public_key_item(serialization.load_pem_public_key(block))
    return {"name": label, "kind": f"unknown PEM block {label!r}"}


def _der_item(data: bytes) -> Item | None:
    readers: tuple[Callable[[], Item], ...] = (
        lambda: certificate_item(x509.load_der_x509_certificate(data)),
        lambda: crl_item(x509.load_der_x509_crl(data)),
        lambda: csr_item(x509.load_der_x509_csr(data)),
        lambda: private_key_item(serialization.load_der_private_key(data, password=None)),
        lambda: public_key_item(serialization.load_der_public_key(data)),
        lambda: ocsp_item(ocsp.load_der_ocsp_response(data)),
    )
    for read in readers:
        try:
            return read()
        except (ValueError, TypeError):
            continue
    return None


def _container_item(data: bytes) -> Item | None:
    """A CA's key file (``handfast_ca.custody``): named, never opened."""
    try:
        header = json.loads(data)
        if not header["format"].startswith("handfast-key-"):
            return None
        sealed = "not sealed: its file mode protects it" if header["kdf"] == "none" else f"sealed ({header['kdf']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"name": "key", "kind": "private key of a CA", "key": sealed}


def certificate_item(certificate: x509.Certificate) -> Item:
    extensions = certificate.extensions
    names = _names(extensions)
    aki, ski = authority_key_id(certificate), subject_key_id(certificate)
    item: Item = {
        "name": format_serial(certificate.serial_number),
        "kind": "CA certificate" if _is_ca(extensions) else "certificate",
        "serial": format_serial(certificate.serial_number),
        "subject": certificate.subject.rfc4514_string() or None,
        "issuer": certificate.issuer.rfc4514_string(),
        "identity": [name for name in names["uris"] if name.startswith("spiffe://")],
        "dns_names": names["dns"],
        "ip_addresses": names["ips"],
        "not_before": shown_time(certificate.not_valid_before_utc),
        "not_after": shown_time(certificate.not_valid_after_utc),
        "usages": _usages(extensions),
        **_limits_of_a_ca(extensions),
        "key": _key_name(certificate.public_key()),
        "key_sha256": spki_sha256(certificate.public_key()).hex(),
        "fingerprint": fingerprint(certificate),
        "crl_urls": _crl_urls(extensions),
        "ocsp_url": ocsp_url(certificate),
        "issuer_key_id": aki.hex() if aki else None,
        "subject_key_id": ski.hex() if ski else None,
    }
    return item


def crl_item(crl: x509.CertificateRevocationList) -> Item:
    item: Item = {"name": crl.issuer.rfc4514_string(), "kind": "revocation list", **crl_row(crl)}
    item["serials"] = [format_serial(entry.serial_number) for entry in crl][:20]
    if len(crl) > 20:
        item["serials"].append(f"and {len(crl) - 20} more")
    return item


def csr_item(csr: x509.CertificateSigningRequest) -> Item:
    names = _names(csr.extensions)
    return {
        "name": "csr",
        "kind": "certificate request",
        "subject": csr.subject.rfc4514_string() or None,
        "identity": names["uris"],
        "dns_names": names["dns"],
        "ip_addresses": names["ips"],
        "key": _key_name(csr.public_key()),
        "key_sha256": spki_sha256(csr.public_key()).hex(),
        "signature": "valid" if csr.is_signature_valid else "WRONG",
    }


def ocsp_item(answer: ocsp.OCSPResponse) -> Item:
    """As it says, believed by nobody: `handfast verify --ocsp` checks one."""
    item: Item = {"name": "ocsp", "kind": "OCSP answer", "response": answer.response_status.name.lower()}
    if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return item
    signer = (
        answer.responder_name.rfc4514_string() if answer.responder_name else (answer.responder_key_hash or b"").hex()
    )
    reason = answer.revocation_reason
    return item | {
        "serial": format_serial(answer.serial_number),
        "status": answer.certificate_status.name.lower(),
        "this_update": shown_time(answer.this_update_utc),
        "next_update": shown_time(answer.next_update_utc) if answer.next_update_utc else None,
        "revoked_at": shown_time(answer.revocation_time_utc) if answer.revocation_time_utc else None,
        "reason": reason.value if reason else None,
        "signed_by": signer,
    }


def private_key_item(key: Any) -> Item:
    public = key.public_key()
    return {"name": "key", "kind": "private key", "key": _key_name(public), "key_sha256": spki_sha256(public).hex()}


def public_key_item(key: Any) -> Item:
    return {"name": "key", "kind": "public key", "key": _key_name(key), "key_sha256": spki_sha256(key).hex()}


def _names(extensions: x509.Extensions) -> dict[str, list[str]]:
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return {"uris": [], "dns": [], "ips": []}
    return {
        "uris": found.get_values_for_type(x509.UniformResourceIdentifier),
        "dns": found.get_values_for_type(x509.DNSName),
        "ips": [str(address) for address in found.get_values_for_type(x509.IPAddress)],
    }


def _is_ca(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _limits_of_a_ca(extensions: x509.Extensions) -> Item:
    """How many CAs may follow below it, None for any number, and which names it is confined to. Nothing for a leaf."""
    if not _is_ca(extensions):
        return {}
    try:
        permitted = extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        permitted = []
    return {
        "path_length": extensions.get_extension_for_class(x509.BasicConstraints).value.path_length,
        "confined_to": [str(name.value) for name in permitted],
    }


def _usages(extensions: x509.Extensions) -> list[str]:
    try:
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    known = {usage.oid: str(usage) for usage in Usage}
    return [known.get(oid, oid.dotted_string) for oid in extended]


def _crl_urls(extensions: x509.Extensions) -> list[str]:
    try:
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for point in points for name in point.full_name or [] if isinstance(name.value, str)]


def _key_name(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.strip("_").removesuffix("PublicKey")
