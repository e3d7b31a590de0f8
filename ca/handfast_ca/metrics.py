"""What the CA counts and measures, for ``/metrics``. Labels have few values: no identity, address or serial."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from handfast.errors import HandfastError
from handfast_ca.authority import Authority, Issued
from handfast_ca.status import Level

__all__ = ["CONTENT_TYPE", "CaMetrics", "Obtained", "RpcMetrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_ISSUANCE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PUSH = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_JUDGE = (2e-6, 4e-6, 6e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2)
_LEVELS = {Level.OK: 0, Level.WARNING: 1, Level.FAILED: 2}


class Obtained(StrEnum):
    """How a certificate was asked for."""

    ENROLLED = "enrolled"
    RENEWED = "renewed"
    SIGNED = "signed"


class CaMetrics:
    """One registry for one process. May be used from any thread; costs some microseconds an issued certificate."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc = RpcMetrics(self.registry)
        self._issued = Counter(
            "handfast_ca_issued", "Certificates issued, renewals left out", ["by"], registry=self.registry
        )
        self._renewed = Counter("handfast_ca_renewed", "Certificates renewed", registry=self.registry)
        self._repeated = Counter(
            "handfast_ca_repeated", "Requests that were answered before, and were again", registry=self.registry
        )
        self._refused = Counter(
            "handfast_ca_refused", "Requests for a certificate or for trust refused", ["reason"], registry=self.registry
        )
        self._revoked = Counter("handfast_ca_revoked", "Certificates revoked", registry=self.registry)
        self._issuance = Histogram(
            "handfast_ca_issuance_seconds", "From request to durable answer", registry=self.registry, buckets=_ISSUANCE
        )
        self._push = Histogram(
            "handfast_ca_push_seconds",
            "From a change of trust to its hand-over to one watcher's connection",
            registry=self.registry,
            buckets=_PUSH,
        )
        self._ocsp = Counter(
            "handfast_ca_ocsp_answers", "OCSP requests answered", ["status", "kept"], registry=self.registry
        )
        info = Gauge("handfast_ca_build_info", "Always 1", ["version"], registry=self.registry)
        info.labels(version("handfast-ca")).set(1)
        ProcessCollector(registry=self.registry)

    async def issuing(self, how: Obtained, work: Awaitable[Issued]) -> Issued:
        """Awaits the work, and counts how it ended."""
        began = time.perf_counter()
        try:
            issued = await work
        except HandfastError as error:
            self.refused(error)
            raise
        except Exception:
            self._refused.labels("INTERNAL").inc()
            raise
        if issued.repeated:
            self._repeated.inc()
            return issued
        self._issuance.observe(time.perf_counter() - began)
        if how is Obtained.RENEWED:
            self._renewed.inc()
        else:
            self._issued.labels(how.value).inc()
        return issued

    def refused(self, error: HandfastError) -> None:
        self._refused.labels(error.reason).inc()

    def revoked(self, certificates: int) -> None:
        self._revoked.inc(certificates)

    def pushed(self, seconds: float) -> None:
        self._push.observe(seconds)

    def ocsp(self, status: str, *, kept: bool) -> None:
        """``kept``: the answer was signed before, for somebody else."""
        self._ocsp.labels(status, "yes" if kept else "no").inc()

    def watch(self, authority: Authority) -> None:
        """From now on its state is told, too: looked up when somebody asks, so that nothing is kept twice."""
        self.registry.register(_State(authority))

    def exposition(self) -> bytes:
        """OpenMetrics."""
        text: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text


class RpcMetrics:
    """A ``GuardObserver``. Its counters are looked up once for each reason: calls are judged in microseconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._judged = Counter(
            "handfast_rpc_judged", "Calls that the guard judged", ["verdict", "reason"], registry=registry
        )
        self._seconds = Histogram(
            "handfast_rpc_judge_seconds", "Time that judging one call took", registry=registry, buckets=_JUDGE
        )
        self._ended = Counter(
            "handfast_rpc_streams_ended", "Running streams that the guard ended", ["reason"], registry=registry
        )
        self._allowed = self._judged.labels("allowed", "OK").inc
        self._refused: dict[str, Callable[[], None]] = {}

    def judged(self, method: str, reason: str, seconds: float) -> None:
        if reason == "OK":
            self._allowed()
        else:
            self._count_refusal(reason)
        self._seconds.observe(seconds)

    def _count_refusal(self, reason: str) -> None:
        count = self._refused.get(reason)
        if count is None:
            count = self._refused[reason] = self._judged.labels("refused", reason).inc
        count()

    def stream_ended(self, method: str, reason: str) -> None:
        self._ended.labels(reason).inc()


class _State:
    """Asks nothing of the ledger: what is scraped every few seconds must not cost a query over all certificates."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def collect(self) -> Iterator[Metric]:
        authority, now = self._authority, self._authority.time.wall()
        yield _gauge(
            "issuer_expiry_timestamp_seconds",
            "End of the issuing CA's certificate",
            authority.issuer.certificate.not_valid_after_utc.timestamp(),
        )
        yield _gauge("watchers", "Open watches of the trust state", authority.feed.watchers)
        yield _gauge("quarantine", "1 while the CA signs nothing after a restore", float(authority.quarantine.is_open))
        yield _gauge("witnesses", "Identities that answered since the start", authority.witnesses.answered)
        yield _gauge("revocations_learnt", "Revocations that agents brought back", authority.quarantine.learnt)
        crl = authority.trust().crls.get(authority.issuer.key_id)
        if crl is not None:
            yield _gauge("crl_age_seconds", "Since the CRL was signed", (now - crl.this_update).total_seconds())
            epoch, sequence = divmod(crl.number, 1 << 64)
            yield _gauge("crl_epoch", "Epoch of the present CRL's number, which a restore raises", epoch)
            yield _gauge("crl_number", "Number of the present CRL in its epoch", sequence)
            yield _gauge("crl_entries", "Certificates on the present CRL", len(crl.serials))
            yield _gauge("crl_next_update_timestamp_seconds", "When it expires", crl.next_update.timestamp())
        signer = authority.responder.signers.present(now)
        if signer is not None:
            yield _gauge(
                "ocsp_signer_expiry_timestamp_seconds",
                "End of the certificate that OCSP answers are signed with",
                signer.validity.not_after.timestamp(),
            )
        yield _gauge("ocsp_known", "Certificates of which signed OCSP answers are kept", authority.responder.known)
        checks = GaugeMetricFamily("handfast_ca_check", "0 well, 1 a warning, 2 failed: as /readyz", labels=["check"])
        for line in authority.status():
            checks.add_metric([f"{line.group}/{line.name}"], _LEVELS[line.level])
        yield checks


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"handfast_ca_{name}", says, value=value)
