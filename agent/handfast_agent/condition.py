"""How the agent is, as plain values: what status, readiness and metrics show. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from handfast.revocation import Freshness
from handfast_agent.driver import Driver
from handfast_agent.lifecycle import State

__all__ = ["Check", "Condition", "condition"]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Condition:
    """``outage_budget_seconds``: how long the workload would survive if the CA died now."""

    spiffe_id: str
    state: State
    generation: int
    serial: str
    not_before: datetime | None
    not_after: datetime | None
    next_renewal: datetime | None
    last_success: datetime | None
    last_failure: str
    failures: int
    crl_age_seconds: float
    crl_next_update: datetime | None
    freshness: Freshness
    outage_budget_seconds: float
    connected: bool
    staple_until: datetime | None
    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """A stale list is served with an alarm (threats, 2.3); an expired or missing one is not."""
        return all(check.ok for check in self.checks)


def condition(driver: Driver, now: datetime) -> Condition:
    present, plan = driver.present, driver.plan
    validity = plan.validity
    freshness, age, next_update = _freshness(driver, now)
    serving = plan.state is State.SERVING and validity is not None and validity.contains(now)
    ends = [moment for moment in (validity.not_after if validity else None, next_update) if moment is not None]
    return Condition(
        spiffe_id=str(driver.wanted.spiffe_id),
        state=plan.state,
        generation=driver.generation,
        serial=present.leaf.serial_text if present else "",
        not_before=validity.not_before if validity else None,
        not_after=validity.not_after if validity else None,
        next_renewal=plan.renew_at,
        last_success=driver.record.last_success,
        last_failure=driver.record.last_failure,
        failures=plan.failures,
        crl_age_seconds=age,
        crl_next_update=next_update,
        freshness=freshness,
        outage_budget_seconds=max((min(ends) - now).total_seconds(), 0.0) if serving and ends else 0.0,
        connected=driver.record.connected,
        staple_until=driver.stapled.until if driver.stapled else None,
        checks=(
            Check("certificate", serving, str(plan.state)),
            Check(
                "trust", driver.trust.bundle is not None and not driver.trust.distrusts_everything(), _bundle(driver)
            ),
            Check("revocations", freshness in (Freshness.FRESH, Freshness.STALE), str(freshness)),
            Check("files", not driver.record.unwritten, driver.record.unwritten or "written"),
        ),
    )


def _bundle(driver: Driver) -> str:
    bundle = driver.trust.bundle
    if bundle is None:
        return "no bundle yet"
    return f"sequence {bundle.sequence}, {len(bundle.roots)} root{'s' * (len(bundle.roots) != 1)}"


def _freshness(driver: Driver, now: datetime) -> tuple[Freshness, float, datetime | None]:
    if driver.present is None:
        return Freshness.UNKNOWN, 0.0, None
    issuer = driver.present.leaf.issuer_key_id
    known = driver.trust.revocations.lists.get(issuer)
    if known is None:
        return Freshness.UNKNOWN, 0.0, None
    return (
        driver.trust.revocations.freshness(issuer, now),
        (now - known.this_update).total_seconds(),
        known.next_update,
    )
