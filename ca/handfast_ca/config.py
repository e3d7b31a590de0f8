"""``handfast.yaml``, parsed once into what cannot be wrong. Every mistake is reported at once, with its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from handfast.errors import HandfastError, Invalid, ViolationsCollector
from handfast.identity import SpiffeId, TrustDomain, parse_dns_name
from handfast.lifetime import parse_duration
from handfast_ca.profile import DEFAULT_PROFILE, Profile
from handfast_ca.quorum import EVERYBODY, Quorum
from handfast_ca.quotas import DEFAULT_QUOTAS, MOST, Quota, Quotas
from handfast_ca.urls import PublicUrls

__all__ = ["Address", "Config", "load"]

_TOP = (
    "trust_domain",
    "public_url",
    "server_names",
    "listen",
    "issuer",
    "root",
    "state",
    "operators",
    "limits",
    "profile",
    "restore",
    "ocsp",
)
_PROFILE = {
    "longest_lifetime": "longest",
    "backdate": "backdate",
    "crl_validity": "crl_validity",
    "publish_every": "publish_every",
}
"""Keys of `profile`, and what they are called in :class:`Profile`."""
_LISTEN = {"grpc": "127.0.0.1:7443", "enrol": "127.0.0.1:7444", "http": "127.0.0.1:7080"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port is bound. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Config:
    """Paths are absolute; those in the file are relative to the file."""

    trust_domain: TrustDomain
    urls: PublicUrls
    server_names: tuple[str, ...]
    grpc: Address
    enrol: Address
    http: Address
    issuer_certificate: Path
    issuer_key: Path
    passphrase_file: Path | None
    root_certificate: Path
    root_crl: Path
    state: Path
    operators: tuple[SpiffeId, ...]
    limits: Quotas = DEFAULT_QUOTAS
    profile: Profile = DEFAULT_PROFILE
    quorum: Quorum = EVERYBODY


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would silently take the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        line = node.start_mark.line + 1
        raise Invalid(f"key {twice[0]!r} stands twice in the mapping at line {line}", reason="DUPLICATE_KEY")
    return dict(loader.construct_mapping(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: Path) -> Config:
    """Raises ``Invalid`` with every mistake, each with its path in the file."""
    try:
        values = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise Invalid(f"the configuration {path} cannot be read: {error.strerror}", reason="NO_CONFIG") from error
    except HandfastError:
        raise
    except Exception as error:
        # The loader's own errors are not all that it raises: dates that do not exist, octets that are no UTF-8, and
        # brackets in thousands come as whatever Python calls them.
        raise Invalid(f"the configuration {path} is not YAML: {error}", reason="INVALID_CONFIG") from error
    if not isinstance(values, dict):
        raise Invalid(f"the configuration {path} does not hold a mapping", reason="INVALID_CONFIG")
    return _Reader(values, path.resolve().parent).read(path)


class _Reader:
    """Reads a mapping field by field and keeps going after a mistake."""

    def __init__(self, values: Mapping[str, Any], folder: Path) -> None:
        self._values = values
        self._folder = folder
        self._found = ViolationsCollector()

    def read(self, path: Path) -> Config:
        self._known("", self._values, _TOP)
        listen, issuer, root = (self._section(name) for name in ("listen", "issuer", "root"))
        self._known("listen.", listen, tuple(_LISTEN))
        self._known("issuer.", issuer, ("certificate", "key", "passphrase_file"))
        self._known("root.", root, ("certificate", "crl"))
        trust_domain = self._parsed("trust_domain", self._values.get("trust_domain"), TrustDomain)
        operators = self._each("operators", SpiffeId.parse)
        for index, operator in enumerate(operators):
            if trust_domain is not None and operator.trust_domain != trust_domain:
                self._found.add(f"operators[{index}]", "FOREIGN_TRUST_DOMAIN", f"{operator} is not of {trust_domain}")
        ocsp = self._switch("ocsp", default=True)
        urls = self._parsed("public_url", self._values.get("public_url"), partial(PublicUrls, ocsp=ocsp))
        addresses = self._addresses(listen)
        passphrase = issuer.get("passphrase_file")
        paths = {
            "issuer_certificate": self._path("issuer.certificate", issuer.get("certificate")),
            "issuer_key": self._path("issuer.key", issuer.get("key")),
            "root_certificate": self._path("root.certificate", root.get("certificate")),
            "root_crl": self._path("root.crl", root.get("crl")),
            "state": self._path("state", self._values.get("state")),
        }
        limits = self._limits(self._section("limits"))
        profile = self._profile(self._section("profile"))
        quorum = self._quorum(self._section("restore"))
        names = self._each("server_names", parse_dns_name)
        self._found.raise_if_any(f"the configuration {path} is not valid", kind=Invalid)
        assert trust_domain is not None
        assert urls is not None
        return Config(
            trust_domain=trust_domain,
            urls=urls,
            server_names=names,
            grpc=addresses[0],
            enrol=addresses[1],
            http=addresses[2],
            passphrase_file=None if passphrase is None else self._path("issuer.passphrase_file", passphrase),
            operators=operators,
            limits=limits,
            profile=profile,
            quorum=quorum,
            **paths,
        )

    def _known(self, prefix: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in values:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                self._found.add(f"{prefix}{key}", "UNKNOWN_KEY", f"unknown key {key!r}{hint}")

    def _section(self, name: str) -> Mapping[str, Any]:
        value = self._values.get(name, {})
        if isinstance(value, dict):
            return value
        self._found.add(name, "INVALID", "it is not a mapping")
        return {}

    def _parsed(self, field: str, value: Any, parse: Any) -> Any:
        if not isinstance(value, str):
            self._found.add(field, "MISSING", "it is missing or no text")
            return None
        try:
            return parse(value)
        except HandfastError as error:
            self._found.add(field, error.reason, error.message)
            return None

    def _each(self, field: str, parse: Any) -> tuple[Any, ...]:
        values = self._values.get(field, [])
        if not isinstance(values, list):
            self._found.add(field, "INVALID", "it is not a list")
            return ()
        read = [self._parsed(f"{field}[{index}]", value, parse) for index, value in enumerate(values)]
        return tuple(value for value in read if value is not None)

    def _limits(self, values: Mapping[str, Any]) -> Quotas:
        """What is not given keeps its default."""
        defaults = {field.name: getattr(DEFAULT_QUOTAS, field.name) for field in fields(Quotas)}
        self._known("limits.", values, tuple(defaults))
        given = {name: self._limit(name, values[name], defaults[name]) for name in defaults if name in values}
        return Quotas(**{**defaults, **given})

    def _profile(self, values: Mapping[str, Any]) -> Profile:
        """What is not given follows from the longest lifetime. Both fuses are checked here (threat D4: no CRL that covers less
        than it must)."""
        self._known("profile.", values, tuple(_PROFILE))
        given = {
            _PROFILE[key]: self._parsed(f"profile.{key}", value, parse_duration)
            for key, value in values.items()
            if key in _PROFILE
        }
        if None in given.values():
            return DEFAULT_PROFILE
        try:
            longest = given.get("longest")
            fitting = DEFAULT_PROFILE if longest is None else Profile.for_lifetime(longest)
            return replace(fitting, **given)
        except Invalid as error:
            names = {field: key for key, field in _PROFILE.items()}
            for one in error.violations:
                self._found.add(f"profile.{names[one.field]}", one.reason, one.description)
            return DEFAULT_PROFILE

    def _limit(self, name: str, value: Any, default: Quota | int) -> Quota | int:
        if not isinstance(default, Quota):
            return self._count(f"limits.{name}", value, default)
        if not isinstance(value, dict):
            self._found.add(f"limits.{name}", "INVALID_LIMIT", "it is not a mapping of burst and per_minute")
            return default
        self._known(f"limits.{name}.", value, ("burst", "per_minute"))
        numbers = {
            part: self._count(f"limits.{name}.{part}", value.get(part, getattr(default, part)), getattr(default, part))
            for part in ("burst", "per_minute")
        }
        return Quota(**numbers)

    def _quorum(self, values: Mapping[str, Any]) -> Quorum:
        """``quorum`` is ``all`` or a number of identities; ``wait`` is a duration."""
        self._known("restore.", values, ("quorum", "wait"))
        wanted = values.get("quorum", "all")
        identities = None if wanted == "all" else wanted
        if identities is not None and not (type(identities) is int and 1 <= identities <= MOST):
            self._found.add(
                "restore.quorum", "INVALID", f"{wanted!r} is neither all nor a whole number from 1 to {MOST}"
            )
            identities = None
        wait = self._parsed("restore.wait", values["wait"], parse_duration) if "wait" in values else None
        return Quorum(identities, wait)

    def _switch(self, name: str, *, default: bool) -> bool:
        """YAML reads ``on`` and ``off`` as true and false."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            self._found.add(name, "INVALID", f"{name} is {value!r}, neither on nor off")
        return value is True

    def _count(self, field: str, value: Any, default: int) -> int:
        if type(value) is int and 1 <= value <= MOST:
            return value
        self._found.add(field, "INVALID_LIMIT", f"{value!r} is not a whole number between 1 and {MOST}")
        return default

    def _addresses(self, listen: Mapping[str, Any]) -> list[Address]:
        read = {name: self._address(name, listen.get(name, default)) for name, default in _LISTEN.items()}
        taken: dict[Address, str] = {}
        for name, address in read.items():
            if address in taken and address.port:
                self._found.add(f"listen.{name}", "SAME_ADDRESS", f"{address} is that of listen.{taken[address]} too")
            taken.setdefault(address, name)
        return list(read.values())

    def _address(self, name: str, value: Any) -> Address:
        host, _, port = str(value).rpartition(":")
        if host and port.isdecimal() and len(port) <= 5 and int(port) < 65536:
            return Address(host.strip("[]"), int(port))
        self._found.add(f"listen.{name}", "INVALID_ADDRESS", f"{value!r} is not HOST:PORT")
        return Address("", 0)

    def _path(self, field: str, value: Any) -> Path:
        if isinstance(value, str) and value and "\0" not in value:
            return (self._folder / value).resolve()
        self._found.add(field, "MISSING", "it is missing or no text")
        return self._folder
