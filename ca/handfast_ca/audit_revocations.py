"""What an audit trail says was revoked: the memory of a CA whose ledger is lost or older than the trail.

Only as trustworthy as the trail. It is read for revocations alone, and a forged line can revoke, never restore.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from handfast.certificates import parse_serial
from handfast.errors import HandfastError
from handfast.revocation import Reason

__all__ = ["Recorded", "recorded_revocations"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One revoked certificate. ``granted`` is the line that issued it, and None when the trail does not have it."""

    serial: int
    revoked_at: datetime
    reason: Reason
    granted: Mapping[str, Any] | None = None


def recorded_revocations(trail: Path) -> list[Recorded]:
    """In the order in which they were made. Lines that are none of ours are passed over: `audit verify` finds them."""
    revoked: dict[int, Recorded] = {}
    for line in _lines(trail, b'"event":"revoke"'):
        for recorded in _revocations(line):
            revoked.setdefault(recorded.serial, recorded)
    if not revoked:
        return []
    for line in _lines(trail, b'"csr_sha256":'):
        serial = _serial(line.get("serial"))
        if serial in revoked and "public_key_sha256" in line:
            first = revoked[serial]
            revoked[serial] = Recorded(serial, first.revoked_at, first.reason, line)
    return list(revoked.values())


def _lines(trail: Path, having: bytes) -> Iterator[dict[str, Any]]:
    """Granted decisions only: a refused one changed nothing."""
    with trail.open("rb") as file:
        for line in file:
            if having not in line or b'"decision":"granted"' not in line:
                continue
            try:
                read = json.loads(line)
            except ValueError:
                continue
            if isinstance(read, dict):
                yield read


def _revocations(line: dict[str, Any]) -> Iterator[Recorded]:
    try:
        at = datetime.fromisoformat(line["time"])
        reason = Reason(line.get("reason", Reason.UNSPECIFIED.value))
        serials = [_serial(text) for text in line.get("serials", ())]
    except (KeyError, ValueError, TypeError):
        return
    for serial in serials:
        if serial is not None:
            yield Recorded(serial, at, reason)


def _serial(text: object) -> int | None:
    try:
        return parse_serial(str(text))
    except HandfastError:
        return None
