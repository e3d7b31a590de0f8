"""Keeps a good OCSP answer about our own certificate beside it, for TLS servers that staple (RFC 6066, 8).

Nothing depends on it: whoever has the certificate and the lists can do without. So what goes wrong here is counted and
logged, and the agent stays ready. An answer that ended is taken away, since clients refuse a server that staples it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime

from handfast.clock import Clock
from handfast.credentials import Credentials
from handfast.errors import Broken, HandfastError, Unavailable
from handfast.ocsp import LONGEST_LIFE, NONCE_OCTETS, OcspAnswer, build_request, ocsp_url
from handfast_agent import backoff
from handfast_agent.driver import Driver
from handfast_agent.lifecycle import State

__all__ = ["Stapler"]

_log = logging.getLogger(__name__)
LONGEST_WAIT = 2.0
"""Seconds between two looks, which cost nothing: a new certificate gets its answer so soon."""


class Stapler:
    """Fetches, checks and hands over. ``ask`` takes the URL that the certificate names and a DER request, and returns an
    answer that nobody has checked.
    """

    def __init__(
        self,
        driver: Driver,
        ask: Callable[[str, bytes], Awaitable[bytes]],
        *,
        clock: Clock,
        draw: Callable[[], float],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._driver = driver
        self._ask = ask
        self._clock = clock
        self._draw = draw
        self._random_bytes = random_bytes
        self._refresh_at: datetime | None = None
        self._failures = 0
        self._retry_at = 0.0

    async def look(self) -> float:
        """Does what is due, and returns how many seconds there is nothing to do."""
        (present, url), held = self._present(), self._driver.stapled
        if held is not None and (present is None or held.serial != present.leaf.serial):
            self._again(0.0)
            await self._driver.staple(None)
        elif held is not None and self._clock.now() >= held.until:
            _log.warning("the OCSP answer ended at %s, and there is no newer one: taken away", held.until.isoformat())
            await self._driver.staple(None)
        if present is not None and url is not None and self._due():
            await self._fetch(present, url)
        return LONGEST_WAIT

    def _present(self) -> tuple[Credentials | None, str | None]:
        """What is served, and where its CA answers OCSP requests about it, if at all."""
        present = self._driver.present if self._driver.plan.state is State.SERVING else None
        return present, ocsp_url(present.leaf.certificate) if present is not None else None

    def _due(self) -> bool:
        """Before half of the answer's life is over; the moment is drawn once for each answer, so that agents spread."""
        if self._clock.monotonic() < self._retry_at:
            return False
        held = self._driver.stapled
        return held is None or self._refresh_at is None or self._clock.now() >= self._refresh_at

    async def _fetch(self, present: Credentials, url: str) -> None:
        try:
            answer = await self._good(present, url)
        except HandfastError as error:
            self._failed(error)
            if error.reason in ("REVOKED", "OCSP_UNKNOWN"):
                await self._driver.staple(None)
            return
        self._failures = 0
        self._again(0.0)
        life = answer.half_life - answer.this_update
        self._refresh_at = answer.this_update + life * (0.8 + 0.2 * self._draw())
        await self._driver.staple(answer)

    def _failed(self, error: HandfastError) -> None:
        """A responder that is away is no alarm, and in the log once; one that says what cannot be is, each time."""
        self._failures += 1
        self._again(backoff.delay(self._failures, LONGEST_LIFE, self._draw(), error.retry_after))
        if not isinstance(error, Unavailable):
            self._driver.alarm(error)
            return
        self._driver.count(error.reason)
        if self._failures == 1:
            _log.warning("no OCSP answer, and none to staple when the present one ends: %s", error.message)

    async def _good(self, present: Credentials, url: str) -> OcspAnswer:
        """An answer to a question with a nonce of its own (threat D8), checked as any service would."""
        leaf, bundle = present.leaf, self._driver.trust.bundle
        issuer = bundle.issuer(leaf.issuer_key_id) if bundle is not None else None
        if issuer is None:
            raise Broken(f"the issuer of {leaf} is not in the bundle", reason="OCSP_FOREIGN_SIGNER")
        nonce = self._random_bytes(NONCE_OCTETS)
        der = await self._ask(url, build_request(leaf.serial, issuer, nonce=nonce))
        answer = OcspAnswer.verify(der, serial=leaf.serial, issuer=issuer, now=self._clock.now(), nonce=nonce)
        answer.require_good()
        return answer

    def _again(self, seconds: float) -> None:
        self._retry_at = self._clock.monotonic() + seconds
        self._refresh_at = None
