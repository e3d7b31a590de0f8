"""The operator's context: which CA to talk to, and with which certificate. One small YAML file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from handfast.errors import Invalid, NotFound, ViolationsCollector
from handfast.identity import SpiffeId, TrustDomain

__all__ = ["Context", "default_path", "load", "render"]

_KEYS = ("authority", "http", "trust_domain", "server", "credentials")


@dataclass(frozen=True, slots=True)
class Context:
    """``credentials`` is a directory in the layout that the agent writes; ``server`` the SPIFFE ID of the CA."""

    authority: str
    http: str
    trust_domain: TrustDomain
    server: SpiffeId
    credentials: Path


def default_path() -> Path:
    """``$XDG_CONFIG_HOME/handfast/context.yaml``, usually ``~/.config/handfast/context.yaml``."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "handfast" / "context.yaml"


def load(path: str | None) -> Context:
    """Reads the context. Raises ``NotFound`` when there is none, ``Invalid`` with every mistake at once."""
    file = Path(path) if path else default_path()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotFound(
            f"there is no operator's context at {file}: {error.strerror}",
            reason="NO_CONTEXT",
            hint="name one with --context or HANDFAST_CONTEXT; `handfast ca init` writes one",
        ) from error
    return _parse(data, file)


def _parse(data: bytes, file: Path) -> Context:
    import yaml

    try:
        values = yaml.safe_load(data.decode("utf-8"))
    except Exception as error:  # more than the loader's own: dates that do not exist, brackets in thousands
        raise Invalid(f"the context {file} is not YAML: {error}", reason="INVALID_CONTEXT") from error
    found = ViolationsCollector()
    if not isinstance(values, dict):
        raise Invalid(f"the context {file} does not hold a mapping", reason="INVALID_CONTEXT")
    for key in values:
        if key not in _KEYS:
            found.add(str(key), "UNKNOWN_KEY", f"unknown key {key!r}; known are {', '.join(_KEYS)}")
    texts = {"server": f"spiffe://{values.get('trust_domain')}/handfast/ca", **values}
    for key in ("authority", "trust_domain", "server", "credentials"):
        if not isinstance(texts.get(key), str) or "\0" in texts[key]:
            found.add(key, "MISSING", "it is missing or no text")
    found.raise_if_any(f"the context {file} is not valid", kind=Invalid)
    return Context(
        authority=values["authority"],
        http=str(values.get("http", "")),
        trust_domain=TrustDomain(values["trust_domain"]),
        server=SpiffeId.parse(texts["server"]),
        credentials=(file.parent / os.path.expanduser(values["credentials"])).resolve(),  # noqa: PTH111 - it never raises
    )


def render(context: Context) -> str:
    """The file's text, as ``handfast ca init`` writes it."""
    import yaml

    return yaml.safe_dump(
        {
            "authority": context.authority,
            "http": context.http,
            "trust_domain": str(context.trust_domain),
            "server": str(context.server),
            "credentials": str(context.credentials),
        },
        sort_keys=False,
    )
