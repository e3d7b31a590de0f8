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
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.certificates import fingerprint, pem_chain
from handfast.errors import Conflict, Invalid
from handfast.identity import TrustDomain
from handfast_ca.ceremony import ROOT_CRL_MARGIN, make_issuer, make_root, make_root_crl
from handfast_ca.config import load
from handfast_ca.custody.file import store_key
from handfast_ca.durable import sync_directory
from handfast_ca.urls import PublicUrls

__all__ = ["Initialised", "Wishes", "check_free", "initialise"]

_CURVES = {"p256": ec.SECP256R1, "p384": ec.SECP384R1}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person may choose. Addresses are HOST:PORT, ``issuer_key`` is p256 or p384. ``passphrase_file`` is only
    named in the configuration, for ``serve`` to find it.
    """

    trust_domain: TrustDomain
    issuer_key: str = "p256"
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


def check_free(directory: Path) -> None:
    """Raises ``Conflict`` (``CA_EXISTS``) unless the directory is missing or empty."""
    hint = "name a directory that is not there yet"
    if (directory / "handfast.yaml").exists():
        raise Conflict(f"there is a CA in {directory} already", reason="CA_EXISTS", hint=hint)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise Conflict(f"{directory} is not an empty directory", reason="CA_EXISTS", hint=hint)


def initialise(directory: Path, wishes: Wishes, *, passphrase: bytes | None, now: datetime) -> Initialised:
    """Builds beside the place, then renames: there is a whole CA, or none.

    Raises what :func:`check_free` raises, and ``Invalid`` for wishes that no configuration may hold.
    """
    check_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        root, not_after = _fill(building, wishes, passphrase, now)
        if directory.exists():
            directory.rmdir()
        building.rename(directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Initialised(directory, directory / "handfast.yaml", fingerprint(root), not_after)


def _fill(folder: Path, wishes: Wishes, passphrase: bytes | None, now: datetime) -> tuple[x509.Certificate, datetime]:
    for name in ("root", "issuer", "state"):
        (folder / name).mkdir(mode=0o700)
    urls = PublicUrls(_public_url(wishes))
    root = make_root(wishes.trust_domain, now=now)
    curve = _CURVES[wishes.issuer_key]()
    issuing = make_issuer(root, wishes.trust_domain, now=now, curve=curve, urls=urls)
    until = issuing.certificate.not_valid_after_utc
    crl = make_root_crl(root, now=now, next_update=until + ROOT_CRL_MARGIN)
    store_key(folder / "root" / "root.key", root.key, passphrase)
    store_key(folder / "issuer" / "issuer.key", issuing.key, passphrase)
    _write(folder / "root" / "root.crt", pem_chain([root.certificate]))
    _write(folder / "root" / "root.crl", crl.public_bytes(Encoding.PEM))
    _write(folder / "issuer" / "issuer.crt", pem_chain([issuing.certificate]))
    _write(folder / "handfast.yaml", _config(wishes).encode("utf-8"))
    _check_config(folder / "handfast.yaml")
    sync_directory(folder)
    return root.certificate, until


def _check_config(file: Path) -> None:
    """Read as ``serve`` will read it, while there is still nothing to undo."""
    try:
        load(file)
    except Invalid as error:
        more = f" (and {len(error.violations) - 1} more)" if len(error.violations) > 1 else ""
        said = f"{error.violations[0]}{more}" if error.violations else error.message
        raise Invalid(f"no CA can be made so: {said}", reason=error.reason, violations=error.violations) from error


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
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
