"""How much a CA takes from one identity and from one address, as values (threat H4)."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.errors import Invalid

__all__ = ["DEFAULT_QUOTAS", "MOST", "Quota", "Quotas"]

MOST = 1_000_000
"""The largest number that a quota takes; as ``burst`` and ``per_minute`` it is as good as no limit."""


@dataclass(frozen=True, slots=True)
class Quota:
    """``burst`` at once, then ``per_minute`` evenly spread: what was not used fills up to ``burst`` again.

    >>> Quota(burst=0, per_minute=1)
    Traceback (most recent call last):
    handfast.errors.Invalid: burst 0 is not between 1 and 1000000
    """

    burst: int
    per_minute: int

    def __post_init__(self) -> None:
        for name, value in (("burst", self.burst), ("per_minute", self.per_minute)):
            if not 1 <= value <= MOST:
                raise Invalid(f"{name} {value} is not between 1 and {MOST}", reason="INVALID_LIMIT")


@dataclass(frozen=True, slots=True)
class Quotas:
    """What ``limits:`` in the configuration says.

    Issuing and following trust have pools of their own, so that neither takes from the other. Revocations, and
    whatever else an operator asks for, have no limit: an incident must not wait.
    """

    renewals_per_identity: Quota = Quota(burst=5, per_minute=1)
    requests_per_address: Quota = Quota(burst=1000, per_minute=6000)
    failed_enrolments_per_address: Quota = Quota(burst=100, per_minute=60)
    trust_per_identity: Quota = Quota(burst=2000, per_minute=2000)
    watchers_per_identity: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.watchers_per_identity <= MOST:
            raise Invalid(
                f"watchers_per_identity {self.watchers_per_identity} is not between 1 and {MOST}",
                reason="INVALID_LIMIT",
            )


DEFAULT_QUOTAS = Quotas()
