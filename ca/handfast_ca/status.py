"""What is well with a CA and what is not, in lines for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from handfast.errors import HandfastError
from handfast.lifetime import format_duration
from handfast.revocation import RevocationList, format_crl_number

__all__ = ["THRESHOLDS", "Level", "StatusLine", "crl_line", "expiry_threshold", "issuer_line", "status_lines"]

THRESHOLDS = (0.1, 0.25, 0.5)
"""Shares of the issuing CA's life that are left when an alarm is due (threat J10)."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One thing that was looked at. ``hint`` says what to do when it is not ok."""

    group: str
    name: str
    level: Level
    detail: str
    hint: str = ""


def status_lines(
    *,
    issuer: x509.Certificate,
    crl: RevocationList | None,
    clock_problem: HandfastError | None,
    crl_problem: HandfastError | None,
    ledger_problem: HandfastError | None,
    now: datetime,
    ocsp: StatusLine | None = None,
) -> tuple[StatusLine, ...]:
    return (
        issuer_line(issuer, now),
        crl_line(crl, now),
        _problem_line("revocation", "publishing", crl_problem, "the last CRL was published"),
        *([] if ocsp is None else [ocsp]),
        _problem_line("ledger", "file", ledger_problem, "nothing is wrong with it"),
        _problem_line("clock", "time", clock_problem, f"{now:%Y-%m-%dT%H:%M:%SZ}"),
    )


def issuer_line(issuer: x509.Certificate, now: datetime) -> StatusLine:
    """Alarms when 50, 25 and 10 % of the issuing CA's life are left (threat J10)."""
    begin, end = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    left = end - now
    share = left / (end - begin)
    if left <= timedelta():
        return StatusLine(
            "issuer", "expiry", Level.FAILED, f"expired at {end:%Y-%m-%dT%H:%M:%SZ}", "`handfast ca rotate activate`"
        )
    detail = f"{format_duration(left)} left, {share:.0%} of its life"
    if share > 0.5:
        return StatusLine("issuer", "expiry", Level.OK, detail)
    if share > 0.25:
        return StatusLine(
            "issuer", "expiry", Level.WARNING, f"{detail}: at or below 50 %", "`handfast ca rotate prepare`"
        )
    if share > 0.1:
        return StatusLine(
            "issuer", "expiry", Level.WARNING, f"{detail}: at or below 25 %", "`handfast ca rotate activate`"
        )
    return StatusLine(
        "issuer", "expiry", Level.FAILED, f"{detail}: at or below 10 %", "`handfast ca rotate activate`, today"
    )


def expiry_threshold(issuer: x509.Certificate, now: datetime) -> float:
    """The lowest of :data:`THRESHOLDS` that is reached; 1 before the first, 0 when the certificate has expired."""
    begin, end = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    share = (end - now) / (end - begin)
    if share <= 0:
        return 0.0
    return next((threshold for threshold in THRESHOLDS if share <= threshold), 1.0)


def crl_line(crl: RevocationList | None, now: datetime) -> StatusLine:
    """Fails when verifiers refuse the list, warns when half of its validity is gone: it is renewed long before."""
    if crl is None:
        return StatusLine("revocation", "crl", Level.FAILED, "no CRL was signed yet", "the log says why")
    held = f"{len(crl.serials)} {'entry' if len(crl.serials) == 1 else 'entries'}"
    detail = f"number {format_crl_number(crl.number)} with {held}, next by {crl.next_update:%Y-%m-%dT%H:%M:%SZ}"
    if now >= crl.next_update:
        return StatusLine(
            "revocation", "crl", Level.FAILED, f"expired: {detail}", "the log says why it was not renewed"
        )
    half = crl.this_update + (crl.next_update - crl.this_update) / 2
    return StatusLine("revocation", "crl", Level.WARNING if now > half else Level.OK, detail)


def _problem_line(group: str, name: str, problem: HandfastError | None, well: str) -> StatusLine:
    if problem is None:
        return StatusLine(group, name, Level.OK, well)
    return StatusLine(group, name, Level.FAILED, problem.message, problem.hint)
