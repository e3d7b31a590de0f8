"""``handfast ca init``: a root, an issuing CA and a configuration, in a directory that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.certificates import fingerprint, pem_chain
from handfast.errors import Conflict
from handfast.identity import TrustDomain
from handfast_ca.ceremony import ROOT_CRL_MARGIN, make_issuer, make_root, make_root_crl
from handfast_ca.custody.file import store_key
from handfast_ca.urls import PublicUrls

__all__ = ["Initialised", "Wishes", "initialise"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person may choose. Addresses are HOST:PORT. ``passphrase_file`` is only named in the configuration, for
    ``serve`` to find it.
    """

    trust_domain: TrustDomain
    grpc: str = "127.0.0.1:7443"
    enrol: str = "127.0.0.1:7444"
    http: str = "127.0.0.1:7080"
    public_url: str = ""
    server_names: tuple[str, ...] = ("localhost",)
    passphrase_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Initialised:
    directory: Path
    config: Path
    root_fingerprint: str
    issuer_not_after: datetime


def initialise(directory: Path, wishes: Wishes, *, passphrase: bytes | None, now: datetime) -> Initialised:
    """Builds beside the place, then renames. Raises ``Conflict`` (``CA_EXISTS``) when the directory has something in it."""
    if directory.exists() and any(directory.iterdir()):
        raise Conflict(f"{directory} is not empty", reason="CA_EXISTS", hint="name a directory that is not there yet")
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        root, not_after = _fill(building, wishes, passphrase, now)
        if directory.exists():
            directory.rmdir()
        building.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Initialised(directory, directory / "handfast.yaml", fingerprint(root), not_after)


def _fill(folder: Path, wishes: Wishes, passphrase: bytes | None, now: datetime) -> tuple[x509.Certificate, datetime]:
    for name in ("root", "issuer", "state"):
        (folder / name).mkdir(mode=0o700)
    urls = PublicUrls(_public_url(wishes))
    root = make_root(wishes.trust_domain, now=now)
    issuing = make_issuer(root, wishes.trust_domain, now=now, urls=urls)
    until = issuing.certificate.not_valid_after_utc
    crl = make_root_crl(root, now=now, next_update=until + ROOT_CRL_MARGIN)
    store_key(folder / "root" / "root.key", root.key, passphrase)
    store_key(folder / "issuer" / "issuer.key", issuing.key, passphrase)
    _write(folder / "root" / "root.crt", pem_chain([root.certificate]))
    _write(folder / "root" / "root.crl", crl.public_bytes(Encoding.PEM))
    _write(folder / "issuer" / "issuer.crt", pem_chain([issuing.certificate]))
    _write(folder / "handfast.yaml", _config(wishes).encode("utf-8"))
    _sync(folder)
    return root.certificate, until


def _public_url(wishes: Wishes) -> str:
    return wishes.public_url or f"http://{wishes.http}"


def _config(wishes: Wishes) -> str:
    issuer = {"certificate": "issuer/issuer.crt", "key": "issuer/issuer.key"}
    if wishes.passphrase_file is not None:
        issuer["passphrase_file"] = str(wishes.passphrase_file.resolve())
    return yaml.safe_dump(
        {
            "trust_domain": str(wishes.trust_domain),
            "public_url": _public_url(wishes),
            "server_names": list(wishes.server_names),
            "listen": {"grpc": wishes.grpc, "enrol": wishes.enrol, "http": wishes.http},
            "issuer": issuer,
            "root": {"certificate": "root/root.crt", "crl": "root/root.crl"},
            "state": "state",
            "operators": [f"spiffe://{wishes.trust_domain}/handfast/operator/admin"],
        },
        sort_keys=False,
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
