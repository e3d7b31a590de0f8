"""Renewing a certificate that lies in files, with itself as the proof."""

from __future__ import annotations

from pathlib import Path

import click

from handfast.certificates import Leaf, load_certificates, pem_chain
from handfast.cli.context import load
from handfast.cli.files import read_file, write_file
from handfast.cli.session import TIMEOUT, connected
from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.keys import load_private_key

__all__ = ["renew_files"]


def renew_files(ctx: click.Context, cert_file: Path, key_file: Path) -> Leaf:
    """Replaces certificate and key. The key first goes beside its place, so that a crash leaves the old pair whole."""
    from handfast.csr import build_csr
    from handfast.keys import dump_private_key_pem, generate
    from handfast.sources import DirectorySource, StaticSource
    from handfast.wire.codec import certificates_from_wire
    from handfast.wire.v1 import authority_pb2
    from handfast.wire.v1.authority_pb2_grpc import AuthorityStub

    context = load(ctx.find_root().obj)
    operators = DirectorySource(context.credentials)
    try:
        trusted = operators.current()
    finally:
        operators.close()
    present = Credentials.build(
        key=load_private_key(read_file(key_file)),
        chain=load_certificates(read_file(cert_file)),
        bundle=trusted.bundle,
        crls=[known.der for known in trusted.revocations.lists.values()],
        now=SystemClock().now(),
    )
    key = generate()
    request = authority_pb2.RenewRequest(csr=build_csr(key, credential=present.leaf.der))
    with connected(StaticSource(present), context) as channel:
        issued = AuthorityStub(channel).Renew(request, timeout=TIMEOUT)
    chain = certificates_from_wire(issued.chain)
    renewed = Leaf.of(chain[0])
    fresh_key = key_file.with_name(key_file.name + ".new")
    write_file(fresh_key, dump_private_key_pem(key), mode=0o600)
    write_file(cert_file, pem_chain(chain), mode=0o644)
    fresh_key.replace(key_file)
    return renewed
