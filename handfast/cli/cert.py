"""``handfast cert``: certificates as operators handle them."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from handfast.cli.duration import DURATION
from handfast.cli.exits import Exit
from handfast.cli.files import read_file, write_file
from handfast.cli.output import Column, emit, emit_one, note, output_option, shown_time
from handfast.cli.session import TIMEOUT, pages, registry
from handfast.cli.suggestion import suggesting
from handfast.errors import HandfastError, NotFound

__all__ = ["cert"]

LIST = [
    Column("serial", "serial"),
    Column("identity", "identity"),
    Column("status", "status"),
    Column("not after", "not_after"),
    Column("obtained by", "obtained_by"),
]
DETAIL = [
    *LIST,
    Column("DNS names", "dns_names"),
    Column("not before", "not_before"),
    Column("issuer", "issuer"),
    Column("public key", "public_key_sha256"),
    Column("revoked", "revoked_at"),
    Column("reason", "revocation_reason"),
]


@click.group()
def cert() -> None:
    """Certificates: issue, sign, renew, list, show."""


@cert.command("issue")
@click.argument("spiffe_id")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory for key and certificate."
)
@click.option("--ttl", type=DURATION, help="Shorter than the entry's lifetime, like 1h.")
@click.pass_context
def issue(ctx: click.Context, spiffe_id: str, out: Path, ttl: timedelta | None) -> None:
    """Make a key here and have it certified for SPIFFE_ID, into --out in the layout that the agent writes.

    For people and for what cannot run an agent. Nobody renews it: `handfast cert renew` does when asked.
    """
    from handfast.csr import build_csr
    from handfast.identity import SpiffeId
    from handfast.keys import dump_private_key_pem, generate
    from handfast.wire.v1 import registry_pb2

    SpiffeId.parse(spiffe_id)
    _check_writable(out)
    key = generate()
    request = registry_pb2.SignRequest(spiffe_id=spiffe_id, csr=build_csr(key), lifetime=_lifetime(ttl))
    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        issued = stub.Sign(request, timeout=TIMEOUT)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_credentials(out, dump_private_key_pem(key), issued)
    note(f"written to {out}: tls.crt, tls.key, ca.crt, crl.pem")


@cert.command("sign")
@click.argument("spiffe_id")
@click.option(
    "--csr",
    "csr_file",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="PKCS#10, PEM or DER; - is stdin.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the chain; stdout when absent."
)
@click.option("--ttl", type=DURATION, help="Shorter than the entry's lifetime, like 1h.")
@click.pass_context
def sign(ctx: click.Context, spiffe_id: str, csr_file: Path, out: Path | None, ttl: timedelta | None) -> None:
    """Certify the public key of a CSR for SPIFFE_ID. Names in the CSR must be the entry's."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from handfast.cli.files import write_result
    from handfast.csr import parse_csr
    from handfast.keys import LEAF_KEYS_WITH_RSA
    from handfast.wire.v1 import registry_pb2

    data = read_file(csr_file)
    parse_csr(
        data, keys=LEAF_KEYS_WITH_RSA, allow_pem=True
    )  # a mistake is told here, before anything is asked of the CA
    if data.lstrip().startswith(b"-----"):
        data = x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
    request = registry_pb2.SignRequest(spiffe_id=spiffe_id, csr=data, lifetime=_lifetime(ttl))
    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        issued = stub.Sign(request, timeout=TIMEOUT)
    write_result(out, _chain_pem(issued.chain))


@cert.command("renew")
@click.option(
    "--cert",
    "cert_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Present certificate chain, PEM. [default: the operator's own]",
)
@click.option("--key", "key_file", type=click.Path(dir_okay=False, path_type=Path), help="Its private key, PEM.")
@click.pass_context
def renew(ctx: click.Context, cert_file: Path | None, key_file: Path | None) -> None:
    """Renew with the present certificate as the proof; both files are replaced, the key by a new one.

    Without --cert and --key it renews the operator's own certificate, which every command needs.
    """
    from handfast.cli.renewal import renew_files

    if (cert_file is None) != (key_file is None):
        raise click.UsageError("--cert and --key go together")
    renewed = renew_files(ctx, cert_file, key_file)
    note(f"renewed {renewed.spiffe_id} until {shown_time(renewed.validity.not_after)}")


@cert.command("needs-renewal")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--fraction",
    type=click.FloatRange(0.01, 0.99),
    default=0.5,
    show_default=True,
    help="Due from this share of its life on.",
)
def needs_renewal(file: Path, fraction: float) -> None:
    """Exit 0 when the certificate in FILE is due for renewal, 1 when it is not, 2 when FILE cannot be read."""
    from handfast.certificates import load_certificates
    from handfast.clock import SystemClock

    try:
        certificate = load_certificates(read_file(file))[0]
    except HandfastError as error:  # 1 would say "not due" to a script, for ever
        raise click.UsageError(f"{file}: {error.message}") from error
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    due = begin + (end - begin) * fraction
    is_due = SystemClock().now() >= due
    note(f"{'due since' if is_due else 'not due before'} {shown_time(due)}; it expires {shown_time(end)}")
    raise SystemExit(Exit.DONE if is_due else Exit.REFUSED)


@cert.command("list")
@click.option(
    "--identity", default="", metavar="GLOB", help="Only identities that match, like 'spiffe://prod.example/shop/*'."
)
@click.option("--status", type=click.Choice(["valid", "revoked", "expired", "intended"]), help="Only these.")
@click.option("--expiring-within", type=DURATION, help="Only those that expire within this time, like 12h.")
@output_option
@click.pass_context
def list_(
    ctx: click.Context, identity: str, status: str | None, expiring_within: timedelta | None, output: str
) -> None:
    """List certificates."""
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.ListCertificatesRequest(
        identity_glob=identity, status=status or "", expiring_within=_lifetime(expiring_within), page_size=500
    )
    with registry(ctx) as stub:
        rows = [row(found) for page in pages(stub.ListCertificates, request) for found in page.certificates]
    filtered = identity or status or expiring_within
    emit(rows, LIST, output, name="serial", empty="no certificate matches" if filtered else "no certificates")


@cert.command("show")
@click.argument("serial")
@click.option("--pem", is_flag=True, help="Print the certificate itself.")
@output_option
@click.pass_context
def show(ctx: click.Context, serial: str, pem: bool, output: str) -> None:
    """Show the certificate with this serial."""
    from handfast.certificates import format_serial, parse_serial
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        request = registry_pb2.GetCertificateRequest(serial=format_serial(parse_serial(serial)))
        found = stub.GetCertificate(request, timeout=TIMEOUT)
    if pem:
        print(_chain_pem([found.der]).decode("ascii"), end="")
    else:
        emit_one(row(found), DETAIL, output, name="serial")


def row(message: Any) -> dict[str, Any]:
    """A certificate as the ``json`` output shows it."""
    from handfast.wire.codec import time_from_wire

    revoked = time_from_wire(message.revoked_at) if message.HasField("revoked_at") else None
    return {
        "serial": message.serial,
        "identity": message.spiffe_id,
        "dns_names": list(message.dns_names),
        "not_before": shown_time(time_from_wire(message.not_before)),
        "not_after": shown_time(time_from_wire(message.not_after)),
        "status": message.status,
        "issuer": message.issuer,
        "obtained_by": message.obtained_by,
        "public_key_sha256": message.public_key_sha256,
        "revoked_at": shown_time(revoked),
        "revocation_reason": message.revocation_reason or None,
    }


def _lifetime(wanted: timedelta | None) -> Any:
    from handfast.wire.codec import duration_to_wire

    return None if wanted is None else duration_to_wire(wanted)


def _check_writable(out: Path) -> None:
    """Before anything is issued; and nothing is made yet, since the CA may refuse."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise NotFound(f"{out} cannot be written: {nearest} is no directory to write to", reason="NO_FILE")


def _chain_pem(ders: Any) -> bytes:
    from handfast.certificates import pem_chain
    from handfast.wire.codec import certificates_from_wire

    return pem_chain(certificates_from_wire(ders))


def _write_credentials(out: Path, key_pem: bytes, issued: Any) -> None:
    from handfast.wire.codec import bundle_from_wire

    chain = _chain_pem(issued.chain)
    trusted = bundle_from_wire(issued.trust.bundle)
    write_file(out / "tls.key", key_pem, mode=0o600)
    write_file(out / "tls.crt", chain, mode=0o644)
    write_file(out / "credentials.pem", key_pem + chain, mode=0o600)
    write_file(out / "ca.crt", trusted.roots_pem, mode=0o644)
    write_file(out / "crl.pem", _crls_pem(issued.trust.crls), mode=0o644)


def _crls_pem(crls: Any) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(x509.load_der_x509_crl(crl.der).public_bytes(Encoding.PEM) for crl in crls)
