"""A trust bundle as a SPIFFE bundle document (SPIFFE Trust Domain and Bundle, 4): a JWK set of its roots.

Writing one needs joserfc, which comes with the extra ``cli`` and with the CA; a service that has neither can still import
this.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.bundle import TrustBundle
from handfast.errors import Invalid

__all__ = ["spiffe_bundle"]


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
