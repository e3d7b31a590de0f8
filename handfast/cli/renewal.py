"""Renewing a certificate that lies in files, with itself as the proof."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, load_certificates, pem_chain
from handfast.cli.context import Context, load
from handfast.cli.files import read_file, write_file
from handfast.cli.operator import with_fresh_lists
from handfast.cli.session import TIMEOUT, connected
from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Refused
from handfast.keys import load_private_key, matches
from handfast.revocation import RevocationList, split_pem

__all__ = ["renew_files"]


def renew_files(ctx: click.Context, cert_file: Path | None, key_file: Path | None) -> Leaf:
    """Replaces certificate and key; without names, those of the operator. ``credentials.pem`` beside them follows.

    Two files cannot be replaced in one step, so the new key first goes to ``KEY.new``: a crash leaves a whole pair, or a
    certificate whose key lies there, and the next renewal puts it in its place.
    """
    from handfast.csr import build_csr
    from handfast.keys import dump_private_key_pem, generate
    from handfast.sources import StaticSource
    from handfast.wire.codec import certificates_from_wire
    from handfast.wire.v1 import authority_pb2
    from handfast.wire.v1.authority_pb2_grpc import AuthorityStub

    context = load(ctx.find_root().obj)
    cert_file, key_file = cert_file or context.credentials / "tls.crt", key_file or context.credentials / "tls.key"
    _refuse_an_agents(cert_file)
    waiting_key = key_file.with_name(key_file.name + ".new")
    present = _present(context, cert_file, key_file, waiting_key)
    _refuse_a_servers(present.leaf)
    key = generate()
    request = authority_pb2.RenewRequest(csr=build_csr(key, credential=present.leaf.der))
    with connected(StaticSource(present), context) as channel:
        issued = AuthorityStub(channel).Renew(request, timeout=TIMEOUT)
    chain, key_pem = certificates_from_wire(issued.chain), dump_private_key_pem(key)
    renewed = Leaf.of(chain[0])
    write_file(waiting_key, key_pem, mode=0o600)
    write_file(cert_file, pem_chain(chain), mode=0o644)
    waiting_key.replace(key_file)
    together = cert_file.with_name("credentials.pem")
    if together.exists():
        write_file(together, key_pem + pem_chain(chain), mode=0o600)
    return renewed


def _refuse_an_agents(cert_file: Path) -> None:
    if (cert_file.parent / "..data").is_symlink():
        raise Refused(
            f"{cert_file.parent} belongs to an agent, which renews what is in it",
            reason="AGENTS_DIRECTORY",
            hint="`handfast agent status` shows when it will",
        )


def _refuse_a_servers(leaf: Leaf) -> None:
    if Usage.CLIENT not in leaf.usages:
        raise Refused(
            f"{leaf} is for TLS servers alone, and whoever renews shows it to the CA as a client's",
            reason="WRONG_USAGE",
            hint=f"`handfast cert issue {leaf.spiffe_id} --out DIRECTORY` makes a new one",
        )


def _present(context: Context, cert_file: Path, key_file: Path, waiting_key: Path) -> Credentials:
    """The pair as it lies there, with the roots and lists of the context's directory to judge the CA by."""
    chain = load_certificates(read_file(cert_file))
    key = load_private_key(read_file(key_file))
    if waiting_key.exists() and not matches(key, chain[0].public_key()):
        waiting_key.replace(key_file)
        key = load_private_key(read_file(key_file))
    roots = TrustBundle.from_pem(context.trust_domain, read_file(context.credentials / "ca.crt"))
    bundle = TrustBundle(context.trust_domain, roots.roots, (*roots.issuers, *chain[1:]))
    now = SystemClock().now()
    present = Credentials.build(key=key, chain=chain, bundle=bundle, crls=_lists(context, bundle, now), now=now)
    return with_fresh_lists(context, present, now)


def _lists(context: Context, bundle: TrustBundle, now: datetime) -> list[bytes]:
    """Those in the context's directory that this chain's CAs have signed. Without any, fresh ones are fetched."""
    file = context.credentials / "crl.pem"
    found = split_pem(read_file(file)) if file.exists() else ()
    return [der for der in found if _is_ours(der, bundle, now)]


def _is_ours(der: bytes, bundle: TrustBundle, now: datetime) -> bool:
    try:
        RevocationList.verify(der, bundle, now=now)
    except HandfastError:
        return False
    return True
