"""Why a chain leads to no trusted root, in words. It explains a refusal and never decides one: ``verify_leaf`` does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from handfast.bundle import TrustBundle
from handfast.cli.output import shown_time

__all__ = ["explain_path"]

E = TypeVar("E", bound=x509.ExtensionType)
LONGEST = 8
"""Steps that are followed upward: a chain may run in a circle."""


def explain_path(chain: Sequence[x509.Certificate], bundle: TrustBundle, now: datetime) -> str:
    """The first fault on the way up from the leaf; empty when this walk finds none."""
    if not bundle.roots:
        return "there is no self-signed certificate in the bundle given: a root is what a chain must lead to"
    known = (*chain[1:], *bundle.issuers, *bundle.roots)
    child = chain[0]
    for below in range(LONGEST):
        namesakes = [one for one in known if one.subject == child.issuer]
        if not namesakes:
            return f"nobody given is the issuer {_name(child.issuer)}: neither the chain nor the bundle holds it"
        signers = [one for one in namesakes if _signed(child, one)]
        if not signers:
            return f"{_name(child.issuer)} has the right name, but another key: it did not sign {_name(child.subject)}"
        signer = signers[0]
        fault = _fault(signer, chain[0], below, now)
        if fault:
            return fault
        if signer in bundle.roots:
            return ""
        if signer.subject == signer.issuer:
            return f"the chain ends at {_name(signer.subject)}, which is not among the roots given"
        child = signer
    return f"no root within {LONGEST} steps"


def _signed(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _fault(ca: x509.Certificate, leaf: x509.Certificate, below: int, now: datetime) -> str:
    """What forbids ``ca`` to stand here; ``below`` counts the CAs between it and the leaf (RFC 5280, 4.2.1.9)."""
    name = _name(ca.subject)
    if now > ca.not_valid_after_utc:
        return f"the CA {name} expired at {shown_time(ca.not_valid_after_utc)}"
    if now < ca.not_valid_before_utc:
        return f"the CA {name} is not valid before {shown_time(ca.not_valid_before_utc)}"
    constraints = _extension(ca, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return f"{name} is no CA, and may sign nothing"
    if constraints.path_length is not None and below > constraints.path_length:
        return f"{name} allows {constraints.path_length} CAs below it, and there are {below} (path length)"
    usage = _extension(ca, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return f"{name} may not sign certificates (key usage)"
    return _name_fault(ca, leaf)


def _name_fault(ca: x509.Certificate, leaf: x509.Certificate) -> str:
    """Hosts of URIs only: that is what our CAs constrain (RFC 5280, 4.2.1.10)."""
    constraints, names = _extension(ca, x509.NameConstraints), _extension(leaf, x509.SubjectAlternativeName)
    permitted = [
        tree.value for tree in (constraints.permitted_subtrees if constraints else None) or [] if _is_uri(tree)
    ]
    if not permitted or names is None:
        return ""
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        host = uri.partition("://")[2].partition("/")[0]
        if not any(host == tree or (tree.startswith(".") and host.endswith(tree)) for tree in permitted):
            return f"{_name(ca.subject)} may only name {', '.join(permitted)}, and this is {uri} (name constraints)"
    return ""


def _is_uri(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.UniformResourceIdentifier)


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()) if name.rdns else "the leaf"
