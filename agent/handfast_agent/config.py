"""``agent.yaml``, parsed once into frozen types. All mistakes are reported at once, each with its path in the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from handfast.certificates import Usage, parse_fingerprint
from handfast.errors import HandfastError, Invalid, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId, TrustDomain, parse_dns_name, parse_ip_address
from handfast.lifetime import parse_duration
from handfast.rpc.folder import LONGEST_ADDRESS
from handfast_agent.acceptance import Wanted
from handfast_agent.storage import Ownership

__all__ = ["CaAddress", "Config", "HookConfig", "TrustPin", "load", "parse"]

T = TypeVar("T")
STDIN = "-"
_EXPOSED_IN = "HANDFAST_JOIN_TOKEN"
_HINT = "put the token into a file (join_token: {file: …}), or pipe it to stdin (join_token: {stdin: true})"


@dataclass(frozen=True, slots=True)
class CaAddress:
    """Where the CA is: mTLS port, enrolment port, plain HTTP for public facts."""

    address: str
    enrol: str
    http: str


@dataclass(frozen=True, slots=True)
class TrustPin:
    """What is known of the CA's root before the first contact: one of the two."""

    fingerprint: bytes | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class HookConfig:
    """What to do when the files changed. ``command`` is an argument list; there is no shell."""

    command: tuple[str, ...] = ()
    pid_file: Path | None = None
    signal: str = "SIGHUP"
    timeout: float = 10.0

    @property
    def subject(self) -> str:
        """What it is called in a log."""
        return self.command[0] if self.command else str(self.pid_file)


@dataclass(frozen=True, slots=True)
class Config:
    """What a person wrote, past the point where it can be wrong."""

    ca: CaAddress
    trust_domain: TrustDomain
    pin: TrustPin
    wanted: Wanted
    directory: Path
    state: Path
    token_file: Path | None = None
    token_stdin: bool = False
    socket: Path | None = None
    health: tuple[str, int] | None = None
    ownership: Ownership = field(default_factory=Ownership)
    hooks: tuple[HookConfig, ...] = ()
    stapling: bool = True


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Reads the file. Raises ``Invalid`` with every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"the configuration {path} cannot be read: {error.strerror}", reason="NO_CONFIG") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"the configuration {path} is not UTF-8", reason="INVALID_CONFIG") from error
    return parse(text, environment, base=path.parent.absolute(), name=f"the configuration {path}")


def parse(
    text: str,
    environment: Mapping[str, str] = os.environ,
    *,
    base: Path = Path("/"),
    name: str = "the configuration",
) -> Config:
    """As :func:`load`, from a text. Relative paths are relative to ``base``; errors call it ``name``."""
    found = ViolationsCollector()
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  # a SafeLoader that also refuses duplicates
    except Exception as error:
        # Dates that do not exist and brackets in thousands come as whatever Python calls them.
        raise Invalid(f"{name} is not readable YAML: {_first_line(error)}", reason="INVALID_CONFIG") from error
    if environment.get(_EXPOSED_IN):
        found.add("environment", "TOKEN_EXPOSED", f"a join token in {_EXPOSED_IN} can be read by others")
    config = _Reader(found, base).config(document)
    hint = _HINT if any(v.reason == "TOKEN_EXPOSED" for v in found.violations) else ""
    found.raise_if_any(f"{name} is refused", kind=Invalid, hint=hint)
    return config


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _first_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1})" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or 'syntax error'}{where}"


class _Reader:
    """Turns untyped YAML into values; what cannot be read is noted, and reading goes on."""

    def __init__(self, found: ViolationsCollector, base: Path) -> None:
        self._found = found
        self._base = base

    def config(self, document: object) -> Config:
        top = self._mapping("", document, required={"ca", "trust_domain", "trust", "identity", "directory"}, optional={
            "join_token", "socket", "state", "health", "hooks", "dns_names", "ip_addresses", "usages", "files",
            "max_lifetime", "stapling",
        })  # fmt: skip
        domain = self._value("trust_domain", top.get("trust_domain"), TrustDomain) or TrustDomain("invalid")
        identity = self._value("identity", top.get("identity"), SpiffeId.parse) or SpiffeId(domain, "/invalid")
        if not self._found.violations and identity.trust_domain != domain:
            self._found.add("identity", "FOREIGN_TRUST_DOMAIN", f"{identity} is not of the trust domain {domain}")
        directory = self._path("directory", top.get("directory")) or Path("/nowhere")
        token_file, token_stdin = self._token(top.get("join_token"))
        return Config(
            ca=self._ca(top.get("ca")),
            trust_domain=domain,
            pin=self._pin(top.get("trust")),
            wanted=Wanted(
                identity,
                *self._names(top),
                self._usages(top.get("usages")),
                self._value("max_lifetime", top.get("max_lifetime"), parse_duration),
            ),
            directory=directory,
            state=self._path("state", top.get("state")) or directory.parent / f"{directory.name}.state",
            token_file=token_file,
            token_stdin=token_stdin,
            socket=self._socket(top.get("socket")),
            health=self._listen(top.get("health")),
            ownership=self._ownership(top.get("files")),
            hooks=tuple(
                self._hook(f"hooks[{i}]", hook) for i, hook in enumerate(self._list("hooks", top.get("hooks")))
            ),
            stapling=self._switch("stapling", top.get("stapling", True)),
        )

    def _ca(self, value: object) -> CaAddress:
        ca = self._mapping("ca", value, required={"address", "enrol"}, optional={"http"})
        return CaAddress(
            self._address("ca.address", ca.get("address")),
            self._address("ca.enrol", ca.get("enrol")),
            self._url("ca.http", ca.get("http", "http://127.0.0.1:7080")),
        )

    def _pin(self, value: object) -> TrustPin:
        pin = self._mapping("trust", value, optional={"fingerprint", "file"})
        if ("fingerprint" in pin) == ("file" in pin):
            self._found.add("trust", "NO_PIN", "exactly one of fingerprint and file must say which root to trust")
        fingerprint = (
            self._value("trust.fingerprint", pin["fingerprint"], parse_fingerprint) if "fingerprint" in pin else None
        )
        return TrustPin(fingerprint, self._path("trust.file", pin.get("file")))

    def _token(self, value: object) -> tuple[Path | None, bool]:
        if value is None:
            return None, False
        if not isinstance(value, dict):
            self._found.add("join_token", "TOKEN_EXPOSED", "a join token must not stand in the configuration")
            return None, False
        token = self._mapping("join_token", value, optional={"file", "stdin"})
        if ("file" in token) == (token.get("stdin") is True):
            self._found.add("join_token", "INVALID_CONFIG", "exactly one of file and stdin: true must be given")
        return self._path("join_token.file", token.get("file")), token.get("stdin") is True

    def _names(self, top: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[IPAddress, ...]]:
        names = self._each("dns_names", top.get("dns_names"), parse_dns_name)
        return names, self._each("ip_addresses", top.get("ip_addresses"), parse_ip_address)

    def _usages(self, value: object) -> frozenset[Usage]:
        """Without a wish, whatever the entry gives that renewals can be made with."""
        usages = frozenset({Usage.CLIENT}) if value is None else frozenset(self._each("usages", value, Usage))
        if Usage.CLIENT not in usages:
            self._found.add("usages", "INVALID_CONFIG", "client must be among them: renewals are calls of a TLS client")
        return usages

    def _ownership(self, value: object) -> Ownership:
        files = self._mapping(
            "files", {} if value is None else value, optional={"uid", "gid", "private_mode", "public_mode"}
        )
        mode = {"private_mode": 0o600, "public_mode": 0o644}
        for name, widest in (("private_mode", 0o640), ("public_mode", 0o644)):
            text = files.get(name, oct(mode[name])[2:])
            mode[name] = self._value(f"files.{name}", text, lambda t: int(t, 8)) or mode[name]
            if mode[name] & ~widest:
                self._found.add(f"files.{name}", "MODE_TOO_WIDE", f"mode {mode[name]:04o} is wider than {widest:04o}")
        ids = {name: files.get(name, -1) for name in ("uid", "gid")}
        for name, number in ids.items():
            if not isinstance(number, int) or isinstance(number, bool):
                self._found.add(f"files.{name}", "INVALID_CONFIG", f"{number!r} is not a number")
        return Ownership(ids["uid"], ids["gid"], mode["private_mode"], mode["public_mode"])

    def _hook(self, where: str, value: object) -> HookConfig:
        hook = self._mapping(where, value, optional={"command", "pid_file", "signal", "timeout"})
        command = hook.get("command", [])
        if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
            self._found.add(
                f"{where}.command", "INVALID_CONFIG", "the command is not a list of texts; there is no shell"
            )
            command = []
        if bool(command) == ("pid_file" in hook):
            self._found.add(where, "INVALID_CONFIG", "exactly one of command and pid_file must be given")
        signal = hook.get("signal", "SIGHUP")
        if signal not in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM"):
            self._found.add(
                f"{where}.signal", "INVALID_CONFIG", f"{signal!r} is not SIGHUP, SIGUSR1, SIGUSR2 or SIGTERM"
            )
        timeout = hook.get("timeout", 10)
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout <= 300:
            self._found.add(f"{where}.timeout", "INVALID_CONFIG", f"{timeout!r} is not a number of seconds up to 300")
            timeout = 10
        return HookConfig(
            tuple(command), self._path(f"{where}.pid_file", hook.get("pid_file")), str(signal), float(timeout)
        )

    def _switch(self, where: str, value: object) -> bool:
        """YAML reads ``on`` and ``off`` as true and false."""
        if not isinstance(value, bool):
            self._found.add(where, "INVALID_CONFIG", f"{where} is {value!r}, neither on nor off")
        return value is True

    def _listen(self, value: object) -> tuple[str, int] | None:
        if value is None:
            return None
        host, _, port = self._address("health", str(value)).rpartition(":")
        return (host, int(port)) if host else None

    def _address(self, where: str, value: object) -> str:
        text = self._value(where, value, str) or ""
        host, _, port = text.rpartition(":")
        if text and (not host or not port.isdecimal() or not port.isascii() or len(port) > 5 or int(port) > 65535):
            self._found.add(where, "INVALID_CONFIG", f"{text[:80]!a} is not HOST:PORT")
            return ""
        return text

    def _url(self, where: str, value: object) -> str:
        text = self._value(where, value, str) or ""
        if text and not text.startswith(("http://", "https://")):
            self._found.add(where, "INVALID_CONFIG", f"{text[:80]!a} does not begin with http:// or https://")
        return text

    def _mapping(
        self,
        where: str,
        value: object,
        *,
        required: Collection[str] = (),
        optional: Collection[str] = (),
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._found.add(where or "(file)", "INVALID_CONFIG", "a mapping must stand here")
            return {}
        prefix = f"{where}." if where else ""
        for key in value:
            if key not in required and key not in optional:
                near = get_close_matches(str(key), [*required, *optional], n=1)
                suggestion = f"; did you mean {near[0]!r}?" if near else ""
                self._found.add(f"{prefix}{key}", "UNKNOWN_KEY", f"key {key!r} is not known{suggestion}")
        for key in sorted(set(required) - set(value)):
            self._found.add(f"{prefix}{key}", "MISSING_KEY", f"key {key!r} is missing")
        return value

    def _value(self, where: str, value: object, read: Callable[[str], T]) -> T | None:
        if value is None:
            return None
        if not isinstance(value, str):
            self._found.add(where, "INVALID_CONFIG", f"{value!r} is not a text; quote it")
            return None
        try:
            return read(value)
        except HandfastError as error:
            self._found.add(where, error.reason, error.message)
        except ValueError as error:
            self._found.add(where, "INVALID_CONFIG", str(error))
        return None

    def _path(self, where: str, value: object) -> Path | None:
        text = self._value(where, value, str) or ""
        if "\0" in text:
            self._found.add(where, "INVALID_CONFIG", f"{text!a} is no path")
            return None
        return self._base / text if text else None

    def _socket(self, value: object) -> Path | None:
        path = self._path("socket", value)
        if path is not None and (length := len(os.fsencode(path))) > LONGEST_ADDRESS:
            says = f"the path of a socket is at most {LONGEST_ADDRESS} bytes long, {path} is {length}"
            self._found.add("socket", "INVALID_CONFIG", says)
            return None
        return path

    def _list(self, where: str, value: object) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self._found.add(where, "INVALID_CONFIG", "a list must stand here")
            return []
        return value

    def _each(self, where: str, value: object, read: Callable[[str], T]) -> tuple[T, ...]:
        items = (self._value(f"{where}[{i}]", item, read) for i, item in enumerate(self._list(where, value)))
        return tuple(item for item in items if item is not None)
