"""One tree of errors for the whole house.

Every error carries a machine ``reason`` (stable, upper case, part of the contract), a sentence that holds the
value and the bound, and a separate ``hint`` that names a command or a setting. A refused request lists all its
reasons at once, as :class:`Violation` objects. What class an error has decides which gRPC status
(:mod:`handfast.wire.codec`) and which exit code (:mod:`handfast.cli`) it becomes; nothing crosses an edge unmapped.

Lost at an edge: ``__cause__`` and tracebacks. They stay in the log of the process that raised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "Broken",
    "Conflict",
    "Exhausted",
    "Forbidden",
    "HandfastError",
    "Invalid",
    "NotFound",
    "Refused",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "ViolationsCollector",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason of a refusal: which field, which rule, and a sentence with the value and the bound."""

    field: str
    reason: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class HandfastError(Exception):
    """Base of all errors that Handfast raises on purpose.

    ``reason`` is stable and upper case. ``retry_after`` is in seconds and says when the same request may succeed;
    None means that repeating it unchanged is pointless.

    >>> try:
    ...     raise Refused("lifetime 2d is not 1m to 24h", reason="LIFETIME", hint="`handfast entry show`")
    ... except HandfastError as error:
    ...     print(f"{error} ({error.reason}): {error.hint}")
    lifetime 2d is not 1m to 24h (LIFETIME): `handfast entry show`
    """

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        hint: str = "",
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.hint = hint
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason}: {self.message})"


class Invalid(HandfastError):
    """What was given cannot be read: malformed, oversized, ambiguous. Nothing was done."""

    default_reason = "INVALID"


class Refused(HandfastError):
    """What was given can be read, and a rule forbids it. Nothing was signed or stored."""

    default_reason = "REFUSED"


class Unauthenticated(HandfastError):
    """The caller did not prove who it is: no, expired, revoked or foreign credentials."""

    default_reason = "UNAUTHENTICATED"


class Forbidden(HandfastError):
    """The caller proved who it is, and may not do this."""

    default_reason = "FORBIDDEN"


class NotFound(HandfastError):
    """There is no such thing."""

    default_reason = "NOT_FOUND"


class Conflict(HandfastError):
    """It exists already, or somebody else changed it meanwhile."""

    default_reason = "CONFLICT"


class Exhausted(HandfastError):
    """A limit was reached; ``retry_after`` says when it is worth trying again."""

    default_reason = "RATE_LIMITED"


class Unavailable(HandfastError):
    """Cannot be reached or cannot work now; the same request may succeed later."""

    default_reason = "UNAVAILABLE"


class Broken(HandfastError):
    """Something of ours is damaged or contradicts itself; a person must look."""

    default_reason = "BROKEN"


class ViolationsCollector:
    """Collects every reason of a refusal, so that a person mends them all in one go.

    >>> found = ViolationsCollector()
    >>> found.add("dns_names[0]", "NOT_ENTITLED", 'name "db" is not in the entry')
    >>> [str(v) for v in found.violations]
    ['dns_names[0]: name "db" is not in the entry']
    """

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, reason: str, description: str) -> None:
        self._found.append(Violation(field, reason, description))

    def extend(self, violations: Iterable[Violation]) -> None:
        self._found.extend(violations)

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(self._found)

    def raise_if_any(self, subject: str, *, kind: type[HandfastError] = Refused, hint: str = "") -> None:
        """Raises ``kind`` with all reasons. The first reason becomes the error's reason."""
        if not self._found:
            return
        first = self._found[0]
        more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
        raise kind(
            f"{subject}: {first.description}{more}",
            reason=first.reason,
            hint=hint,
            violations=self._found,
        )
