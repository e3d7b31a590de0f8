"""Durations, validity periods and when to renew. Pure: ``now`` and randomness are arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.errors import Invalid

__all__ = [
    "RENEWAL_FRACTION",
    "RENEWAL_JITTER",
    "RenewalWindow",
    "Validity",
    "format_duration",
    "parse_duration",
    "renewal_window",
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+[smhd])+", re.ASCII)
_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_LONGEST = timedelta(days=36500)
RENEWAL_FRACTION, RENEWAL_JITTER = 0.5, 0.05
"""Shares of a certificate's life: when it is renewed, and how far around that the moment is drawn."""


def parse_duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``24h``, ``30d``, or a sum such as ``1h30m``. Zero is refused.

    >>> parse_duration("1h30m")
    datetime.timedelta(seconds=5400)
    """
    if len(text) <= 32 and _DURATION.fullmatch(text):
        parts = _PART.findall(text)
        if len({unit for _, unit in parts}) == len(parts):
            seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
            if 0 < seconds <= _LONGEST.total_seconds():
                return timedelta(seconds=seconds)
    raise Invalid(
        f"duration {text[:40]!a} is not one of 1s to 36500d",
        reason="INVALID_DURATION",
        hint="write it like 90s, 15m, 24h, 30d or 1h30m",
    )


def format_duration(duration: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back; fractions of a second are cut off.

    >>> format_duration(timedelta(hours=24)), format_duration(timedelta(seconds=5400)), format_duration(timedelta())
    ('24h', '1h30m', '0s')
    """
    left = int(duration.total_seconds())
    sign = "-" if left < 0 else ""
    left = abs(left)
    parts: list[str] = []
    days_from = 2 * 86400
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if unit == "d" and left < days_from:
            continue
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return sign + ("".join(parts) or "0s")


@dataclass(frozen=True, slots=True)
class Validity:
    """``not_before`` to ``not_after``, both inclusive (RFC 5280, 4.1.2.5), whole seconds, UTC."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_after <= self.not_before:
            raise ValueError(f"validity ends {self.not_after}, which is not after its start {self.not_before}")

    @property
    def duration(self) -> timedelta:
        """The length as RFC 5280 counts it: the last second belongs to it."""
        return self.not_after - self.not_before + timedelta(seconds=1)

    def contains(self, now: datetime) -> bool:
        return self.not_before <= now <= self.not_after


@dataclass(frozen=True, slots=True)
class RenewalWindow:
    """When a renewal is welcome (RFC 9773, 4.2): one moment is drawn in it, once per certificate."""

    opens: datetime
    closes: datetime

    def at(self, draw: float) -> datetime:
        """The moment for a ``draw`` between 0 and 1, made once for each certificate, not once for each look."""
        return self.opens + (self.closes - self.opens) * min(max(draw, 0.0), 1.0)


def renewal_window(
    validity: Validity, *, fraction: float = RENEWAL_FRACTION, jitter: float = RENEWAL_JITTER
) -> RenewalWindow:
    """Half life, plus and minus ``jitter`` of the whole life (so 10 % wide by default)."""
    life = validity.not_after - validity.not_before
    return RenewalWindow(
        opens=validity.not_before + life * (fraction - jitter),
        closes=validity.not_before + life * (fraction + jitter),
    )
