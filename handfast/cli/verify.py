"""``handfast verify``: is this chain good, and if not, why, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli.checks import Check, Level, any_failed, as_rows, print_checks
from handfast.cli.exits import Exit
from handfast.cli.files import read_file
from handfast.cli.output import output_option, print_document, shown_time
from handfast.errors import HandfastError, Invalid

if TYPE_CHECKING:
    from cryptography import x509

    from handfast.bundle import TrustBundle
    from handfast.certificates import Leaf
    from handfast.revocation import Revocations

__all__ = ["verify"]

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--bundle", "bundle_file", required=True, type=_FILE, help="Trusted roots, PEM; issuing CAs may stand beside them."
)
@click.option(
    "--crl",
    "crl_file",
    type=_FILE,
    help="Revocation lists, PEM. Without it, revocation is not checked, and it says so.",
)
@click.option("--ocsp", "ocsp_file", type=_FILE, help="An OCSP answer about the certificate, DER.")
@click.option(
    "--usage",
    type=click.Choice(["client", "server"]),
    default="client",
    show_default=True,
    help="For which role in TLS.",
)
@click.option("--identity", default="", help="The SPIFFE ID that it must have.")
@click.option("--dns", default="", help="A DNS name that it must have.")
@output_option
def verify(
    file: Path,
    bundle_file: Path,
    crl_file: Path | None,
    ocsp_file: Path | None,
    usage: str,
    identity: str,
    dns: str,
    output: str,
) -> None:
    """Verify the certificate chain in FILE (leaf first) against a trust bundle and revocation lists.

    Exits 0 when all is well, 1 when something is not.
    """
    from handfast.clock import SystemClock

    now = SystemClock().now()
    checks = list(_verify(file, bundle_file, crl_file, ocsp_file, usage, identity, dns, now))
    if output in ("json", "yaml"):
        print_document(as_rows(checks), output)
    elif output == "name":
        for check in checks:
            print(check.name)
    else:
        print_checks(checks)
    raise SystemExit(Exit.REFUSED if any_failed(checks) else Exit.DONE)


def _verify(
    file: Path,
    bundle_file: Path,
    crl_file: Path | None,
    ocsp_file: Path | None,
    usage: str,
    identity: str,
    dns: str,
    now: datetime,
) -> Iterator[Check]:
    from handfast.bundle import TrustBundle
    from handfast.certificates import Leaf, Usage, verify_leaf

    chain = _certificates(file)
    group = str(file)
    try:
        leaf = Leaf.of(chain[0])
    except HandfastError as error:
        for violation in error.violations or (error,):
            yield Check(
                group,
                "X.509-SVID",
                Level.FAILED,
                str(violation),
                "this is not a leaf that Handfast would issue or accept",
            )
        return
    yield Check(group, "X.509-SVID", Level.OK, str(leaf))
    with _naming(bundle_file):
        bundle = TrustBundle.from_pem(leaf.spiffe_id.trust_domain, read_file(bundle_file))
    try:
        path = verify_leaf(leaf, chain[1:], bundle.roots, known=bundle.issuers, usage=Usage(usage), now=now)
    except HandfastError as error:
        yield _path_refused(group, error, chain, bundle, now)
    else:
        names = " ← ".join(one.subject.rfc4514_string() or str(leaf.spiffe_id) for one in path)
        yield Check(group, "path", Level.OK, names)
        yield Check(group, "validity", Level.OK, f"until {shown_time(leaf.validity.not_after)}")
    yield from _verify_names(group, leaf, identity, dns)
    if ocsp_file is not None:
        yield _verify_ocsp(group, leaf, (*bundle.issuers, *chain[1:]), read_file(ocsp_file), now)
    if crl_file is not None or ocsp_file is None:
        yield _verify_revocation(group, leaf, chain, bundle, crl_file, now)


def _certificates(file: Path) -> tuple[x509.Certificate, ...]:
    from handfast.certificates import load_certificates

    with _naming(file):
        return load_certificates(read_file(file))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """What is wrong with the text of a file names the file, since several are given."""
    try:
        yield
    except Invalid as error:
        raise Invalid(
            f"{file}: {error.message}", reason=error.reason, hint=f"`handfast inspect {file}` shows what it holds"
        ) from error


_PATH_HINTS = {
    "EXPIRED": "renew it: `handfast cert renew`, or look why the agent did not: `handfast agent status`",
    "NOT_YET_VALID": "compare the clocks of this machine and of the CA",
    "WRONG_USAGE": "choose --usage, or give its entry the usage: `handfast entry add … --usage client,server`",
    "UNTRUSTED": "`handfast bundle download` gets the roots, `handfast inspect` shows what is in each file",
}


def _path_refused(
    group: str, error: HandfastError, chain: tuple[x509.Certificate, ...], bundle: TrustBundle, now: datetime
) -> Check:
    from handfast.cli.path_words import explain_path

    words = explain_path(chain, bundle, now) if error.reason == "UNTRUSTED" else ""
    return Check(group, "path", Level.FAILED, words or error.message, _PATH_HINTS.get(error.reason, ""))


def _verify_names(group: str, leaf: Leaf, identity: str, dns: str) -> Iterator[Check]:
    if identity:
        good = str(leaf.spiffe_id) == identity
        yield Check(
            group,
            "identity",
            Level.OK if good else Level.FAILED,
            f"{leaf.spiffe_id}" + ("" if good else f" is not {identity}"),
            "is it the right file, and the right --identity?",
        )
    if dns:
        good = dns in leaf.dns_names
        names = ", ".join(leaf.dns_names) or "none"
        yield Check(
            group,
            "DNS name",
            Level.OK if good else Level.FAILED,
            dns if good else f"{dns} is not among its names ({names})",
            "its entry says which names it may carry: `handfast entry show`",
        )


def _verify_revocation(
    group: str,
    leaf: Leaf,
    chain: tuple[x509.Certificate, ...],
    bundle: TrustBundle,
    crl_file: Path | None,
    now: datetime,
) -> Check:
    if crl_file is None:
        hint = "give the lists with --crl; `handfast crl download` gets them"
        return Check(group, "revocation", Level.WARNING, "not checked", hint)
    from handfast.bundle import TrustBundle

    signers = TrustBundle(bundle.trust_domain, bundle.roots, (*bundle.issuers, *chain[1:]))
    try:
        known = _load_lists(read_file(crl_file), signers, now)
    except HandfastError as error:
        return Check(group, "revocation", Level.FAILED, error.message, "`handfast crl download` gets the present lists")
    found = _not_good(leaf, known, now)
    if found is not None:
        return Check(group, "revocation", Level.FAILED, *found)
    return Check(group, "revocation", Level.OK, f"not on list number {_number(known, leaf)}")


def _not_good(leaf: Leaf, known: Revocations, now: datetime) -> tuple[str, str] | None:
    """What the lists have against it, and a hint. A revocation counts however old the list is."""
    from handfast.revocation import Freshness

    if known.revoked(leaf.issuer_key_id, leaf.serial):
        return f"serial {leaf.serial_text} is revoked", "there is no way back: enrol again with a new key"
    state = known.freshness(leaf.issuer_key_id, now)
    if state is Freshness.UNKNOWN:
        return "no list of its issuer is in the file", "`handfast crl download` gets all of them"
    if state is Freshness.EXPIRED:
        until = shown_time(known.lists[leaf.issuer_key_id].next_update)
        return f"the list ended at {until}, and says nothing about now", "`handfast crl download` gets a new one"
    return None


def _number(known: Revocations, leaf: Leaf) -> str:
    from handfast.revocation import format_crl_number

    return format_crl_number(known.lists[leaf.issuer_key_id].number)


def _verify_ocsp(group: str, leaf: Leaf, issuers: tuple[x509.Certificate, ...], der: bytes, now: datetime) -> Check:
    from handfast.certificates import subject_key_id
    from handfast.ocsp import OcspAnswer

    issuer = next((one for one in issuers if subject_key_id(one) == leaf.issuer_key_id), None)
    if issuer is None:
        return Check(
            group,
            "OCSP",
            Level.FAILED,
            "its issuing CA is in neither file",
            "`handfast bundle download --with-issuers`",
        )
    try:
        answer = OcspAnswer.verify(der, serial=leaf.serial, issuer=issuer, now=now)
        answer.require_good()
    except HandfastError as error:
        return Check(group, "OCSP", Level.FAILED, error.message, "ask again: an answer lives ten minutes")
    return Check(group, "OCSP", Level.OK, f"good as of {shown_time(answer.this_update)}")


def _load_lists(pem: bytes, signers: TrustBundle, now: datetime) -> Revocations:
    from handfast.revocation import EMPTY, RevocationList, split_pem

    known = EMPTY
    for der in split_pem(pem):
        known = known.with_list(RevocationList.verify(der, signers, now=now))
    return known
