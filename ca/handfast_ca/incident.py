"""Values for what concerns many certificates at once: which ones an event touches, and an order to renew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.clock import to_epoch
from handfast.errors import Invalid
from handfast.lifetime import format_duration

__all__ = [
    "REISSUE_GIVEN",
    "REISSUE_WANTED",
    "LiveCertificate",
    "MassFilter",
    "Missing",
    "Reissue",
    "Standing",
    "Timeline",
    "check_window",
    "timeline",
    "wish",
    "wished_window",
]

SHORTEST_WINDOW = timedelta(seconds=10)
LONGEST_WINDOW = timedelta(hours=24)
REISSUE_WANTED, REISSUE_GIVEN = "reissue-wanted", "reissue-given"
"""Marks of a ledger. A restore wants a reissue, which is given when the CA signs again: then both are the same."""
_ROOM = 1 << 17
"""Above the seconds of the longest window."""


def check_window(window: timedelta) -> None:
    """Raises ``Invalid`` (``INVALID_WINDOW``)."""
    if not SHORTEST_WINDOW <= window <= LONGEST_WINDOW:
        raise Invalid(
            f"window {format_duration(window)} is not {format_duration(SHORTEST_WINDOW)} to "
            f"{format_duration(LONGEST_WINDOW)}",
            reason="INVALID_WINDOW",
        )


def wish(at: datetime, window: timedelta) -> int:
    """Both in one number, since marks only rise: a later wish is the greater one, whatever its window.

    >>> from datetime import UTC
    >>> early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    >>> wish(early, timedelta(hours=24)) < wish(late, timedelta(minutes=1))
    True
    >>> wished_window(wish(late, timedelta(minutes=1)))
    datetime.timedelta(seconds=60)
    """
    check_window(window)
    return to_epoch(at) * _ROOM + int(window.total_seconds())


def wished_window(wished: int) -> timedelta:
    return timedelta(seconds=wished % _ROOM)


@dataclass(frozen=True, slots=True)
class MassFilter:
    """Certificates that one event touches; what is given must all be true of them, and an empty filter is nobody's.

    ``issued_from`` and ``issued_until`` bound notBefore. ``renewals``: also what was renewed from them, whenever that
    was and with whatever key, as long as it is of the same issuer. ``up_to`` is the place in the book of the last one that is meant.
    """

    identity_glob: str = ""
    issuer_key_id: bytes = b""
    issued_from: datetime | None = None
    issued_until: datetime | None = None
    spki_sha256: bytes = b""
    up_to: int | None = None
    renewals: bool = True

    @property
    def picks_single_ones(self) -> bool:
        """Not only a pattern of names or an issuer, of which renewals are anyway."""
        return self != MassFilter(self.identity_glob, self.issuer_key_id, renewals=self.renewals)

    @property
    def whole_identities(self) -> bool:
        """Nothing but a pattern of names: entries and tokens are meant, too."""
        return bool(self.identity_glob) and self == MassFilter(self.identity_glob, renewals=self.renewals)


@dataclass(frozen=True, slots=True)
class LiveCertificate:
    """A certificate that has not expired, without its bytes. ``revoked``: it counts no more."""

    serial: int
    issuer_key_id: bytes
    spiffe_id: str
    not_after: datetime
    revoked: bool


@dataclass(frozen=True, slots=True)
class Reissue:
    """An order to renew: all up to ``up_to`` in the book of certificates, the last one at ``tainted_at``, are old.

    ``backdate`` is the profile's at that time: it tells when a certificate was issued, from its notBefore.
    """

    up_to: int
    tainted_at: datetime
    renew_before: datetime
    backdate: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Standing:
    """An identity that had a live certificate when it was tainted. ``renewed``: when its first newer one was issued.

    ``old_until``: the end of the last old one that is not revoked; None when all of them are.
    """

    spiffe_id: str
    obtained_by: str
    old_until: datetime | None
    renewed: datetime | None


@dataclass(frozen=True, slots=True)
class Missing:
    """An identity without a newer certificate. ``state``: ``old`` (it may still renew), ``expired``, ``revoked``."""

    spiffe_id: str
    state: str
    obtained_by: str
    old_until: datetime | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """How a reissue went until now. Each moment is None until it has come."""

    order: Reissue
    total: int
    renewed: int
    half_at: datetime | None
    nine_tenths_at: datetime | None
    last_at: datetime | None
    missing: tuple[Missing, ...]

    @property
    def ended(self) -> bool:
        """Nobody is left who could still renew."""
        return not any(one.state == "old" for one in self.missing)


def timeline(order: Reissue, standings: Sequence[Standing], now: datetime) -> Timeline:
    """``last_at`` is the last of those that renewed, once nobody can follow."""
    moments = sorted(one.renewed for one in standings if one.renewed is not None)
    missing = tuple(_missing(one, now) for one in standings if one.renewed is None)
    total = len(standings)
    ended = not any(one.state == "old" for one in missing)
    return Timeline(
        order,
        total,
        len(moments),
        _moment_of(moments, total, 50),
        _moment_of(moments, total, 90),
        moments[-1] if moments and ended else None,
        missing,
    )


def _missing(one: Standing, now: datetime) -> Missing:
    state = "revoked" if one.old_until is None else "old" if now <= one.old_until else "expired"
    return Missing(one.spiffe_id, state, one.obtained_by, one.old_until)


def _moment_of(moments: Sequence[datetime], total: int, percent: int) -> datetime | None:
    needed = -(-total * percent // 100)
    return moments[needed - 1] if 0 < needed <= len(moments) else None
