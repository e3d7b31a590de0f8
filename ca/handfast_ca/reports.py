"""What agents say about themselves and their services: in memory, for a quarter of an hour, for people to look at.

Nothing here decides anything. An agent that lies shows a wrong picture of itself, under the identity that its own
handshake proved, and of nobody else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from handfast.access import AccessPolicy, methods_for
from handfast.errors import Exhausted
from handfast.identity import SpiffeId

__all__ = ["AgentReport", "Held", "Reached", "Reports", "ServiceSays"]

LIFETIME = 900.0
"""Seconds. Agents report again every five minutes."""
MAX_REPORTS = 20_000
MAX_INSTANCES = 1000
"""Of one identity: it may fill its own room with rubbish, and nobody else's."""


@dataclass(frozen=True, slots=True)
class ServiceSays:
    """One process beside an agent. ``lists``: the numbers of the CRLs that it enforces, by issuer."""

    instance: str
    policies: tuple[AccessPolicy, ...]
    lists: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class AgentReport:
    spiffe_id: SpiffeId
    instance: str
    lists: Mapping[bytes, int]
    services: tuple[ServiceSays, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """How far one agent or service has come. ``number`` None: it has no list of this issuer."""

    spiffe_id: str
    instance: str
    kind: str
    number: int | None


@dataclass(frozen=True, slots=True)
class Reached:
    """``methods`` are patterns. ``unknown``: at least one of them stands for a policy that only its service knows."""

    spiffe_id: str
    methods: tuple[str, ...]
    unknown: bool


class Reports:
    """Used from one event loop. The oldest go first when there are too many."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[SpiffeId, str], tuple[float, AgentReport]] = OrderedDict()
        self._instances: dict[SpiffeId, int] = {}

    def take(self, report: AgentReport) -> None:
        """In place of the instance's last one. Raises ``Exhausted`` (``TOO_MANY_INSTANCES``)."""
        self._sweep()
        key = (report.spiffe_id, report.instance)
        if key not in self._kept and self._instances.get(report.spiffe_id, 0) >= MAX_INSTANCES:
            raise Exhausted(
                f"{report.spiffe_id} has {MAX_INSTANCES} agents that report already",
                reason="TOO_MANY_INSTANCES",
                retry_after=LIFETIME,
            )
        self._drop(key)
        while len(self._kept) >= MAX_REPORTS:
            self._drop(next(iter(self._kept)))
        self._kept[key] = (self._monotonic(), report)
        self._instances[report.spiffe_id] = self._instances.get(report.spiffe_id, 0) + 1

    def _drop(self, key: tuple[SpiffeId, str]) -> None:
        if self._kept.pop(key, None) is not None:
            self._instances[key[0]] -= 1
            if not self._instances[key[0]]:
                del self._instances[key[0]]

    def _sweep(self) -> None:
        """They stand in the order in which they came."""
        until = self._monotonic() - LIFETIME
        while self._kept:
            key, (at, _) = next(iter(self._kept.items()))
            if at > until:
                return
            self._drop(key)

    def present(self) -> tuple[AgentReport, ...]:
        self._sweep()
        return tuple(report for _, report in self._kept.values())

    def held(self, issuer_key_id: bytes) -> Iterator[Held]:
        """Every agent and every service, and the number of the issuer's list that it enforces."""
        for report in self.present():
            name = str(report.spiffe_id)
            yield Held(name, report.instance, "agent", report.lists.get(issuer_key_id))
            for service in report.services:
                yield Held(name, service.instance, "service", service.lists.get(issuer_key_id))

    def callees(self, caller: SpiffeId, is_opaque: Callable[[AccessPolicy], bool]) -> list[Reached]:
        """Whom ``caller`` may call, as far as guards have said."""
        found: dict[str, list[AccessPolicy]] = {}
        for report in self.present():
            for service in report.services:
                found.setdefault(str(report.spiffe_id), []).extend(service.policies)
        reached = (_reached(name, caller, set(policies), is_opaque) for name, policies in sorted(found.items()))
        return [one for one in reached if one is not None]

    def callers(
        self, callee: SpiffeId, known: Iterable[str], is_opaque: Callable[[AccessPolicy], bool]
    ) -> list[Reached]:
        """Who of ``known`` may call ``callee``, as far as its guards have said."""
        own = (report for report in self.present() if report.spiffe_id == callee)
        policies = {policy for report in own for service in report.services for policy in service.policies}
        reached = (_reached(name, SpiffeId.parse(name), policies, is_opaque) for name in sorted(set(known)))
        return [one for one in reached if one is not None]


def _reached(
    shown: str, caller: SpiffeId, policies: Iterable[AccessPolicy], is_opaque: Callable[[AccessPolicy], bool]
) -> Reached | None:
    chosen = [policy for policy in policies if methods_for(policy, caller)]
    if not chosen:
        return None
    methods = sorted({method for policy in chosen for method in methods_for(policy, caller)})
    return Reached(shown, ("*",) if "*" in methods else tuple(methods), any(map(is_opaque, chosen)))
