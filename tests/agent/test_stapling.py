"""The OCSP answer beside the certificate: fetched, verified, refreshed, taken away; by the CA's own core, without sockets."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handfast.credentials import Credentials
from handfast.errors import Unavailable
from handfast.ocsp import OcspAnswer, build_request
from handfast.revocation import Reason
from handfast.sources.static import StaticSource
from handfast.testing import TestAuthority
from handfast_agent.acceptance import Answer, Wanted
from handfast_agent.condition import condition
from handfast_agent.driver import Driver
from handfast_agent.memory import Memory, Outputs
from handfast_agent.plan import LONGEST_WAIT
from handfast_agent.proofs.join_token import JoinToken
from handfast_agent.stapling import Stapler
from handfast_agent.storage import Directory
from handfast_agent.trust import News, Trust
from handfast_ca.authority import Issued
from handfast_ca.enrolment import Enrolment, Renewal
from handfast_ca.urls import PublicUrls
from tests.ca.core import TRUST_DOMAIN, URLS, WEB
from tests.ca.ocsp_bench import ISSUER, MINUTE, OcspBench


class CoreUpstream:
    """The CA's core in the place of its sockets."""

    def __init__(self, bench: OcspBench) -> None:
        self._authority = bench.authority

    async def enrol(self, token: str, csr: bytes, spiffe_id: Any, trust: Trust) -> Answer:
        return self._answer(await self._authority.enrol(Enrolment(token, csr)))

    async def renew(self, present: Credentials, csr: bytes) -> Answer:
        return self._answer(await self._authority.renew(Renewal(present.leaf, csr)))

    async def get_trust(self, present: Credentials) -> News:
        state = self._authority.trust()
        return News(state.bundle, tuple(crl.der for crl in state.crls.values()), ())

    async def watch_trust(self, present: Credentials) -> AsyncIterator[News]:
        yield await self.get_trust(present)

    def _answer(self, issued: Issued) -> Answer:
        state = issued.trust
        return Answer(issued.chain, News(state.bundle, tuple(crl.der for crl in state.crls.values()), ()))


class Workload:
    """One agent's driver and stapler over the core. Levers: ``gone`` (nobody answers), ``lie`` (what is answered)."""

    def __init__(self, bench: OcspBench, folder: Path, token: str, draw: float = 0.5) -> None:
        self.bench, self.out = bench, folder / "out"
        (folder / "token").write_text(token)
        self.asked: list[bytes] = []
        self.gone = False
        self.lie: Callable[[bytes], bytes] | None = None
        self.hooks = self.snapshots = 0
        source = StaticSource()
        source.subscribe(self._count_snapshot)
        self.driver = Driver(
            Wanted(WEB),
            upstream=CoreUpstream(bench),
            outputs=Outputs(Directory(self.out), TRUST_DOMAIN),
            memory=Memory(folder / "state"),
            proof=JoinToken(folder / "token", None),
            source=source,
            clock=bench.clock,
            draw=lambda: draw,
            on_files=self._hook,
        )
        self.stapler = Stapler(self.driver, self._ask, clock=bench.clock, draw=lambda: draw)

    def _count_snapshot(self, _snapshot: Credentials | None) -> None:
        self.snapshots += 1

    async def _hook(self) -> None:
        self.hooks += 1

    async def _ask(self, url: str, request: bytes) -> bytes:
        assert url == f"{URLS.base}/ocsp"
        self.asked.append(request)
        if self.gone:
            raise Unavailable("nobody listens", reason="OCSP_NO_ANSWER")
        if self.lie is not None:
            return self.lie(request)
        return (await self.bench.responder.answer(request)).der

    async def after(self, by: timedelta) -> None:
        self.bench.clock.advance(by)
        await self.stapler.look()

    @property
    def file(self) -> bytes | None:
        path = self.out / "ocsp.der"
        return path.read_bytes() if path.exists() else None

    @property
    def serial(self) -> int:
        assert self.driver.present is not None
        return self.driver.present.leaf.serial

    @property
    def alarms(self) -> dict[str, int]:
        return self.driver.record.alarms or {}


@pytest.fixture
async def bench() -> OcspBench:
    return await OcspBench().start()


async def enrolled(bench: OcspBench, folder: Path, draw: float = 0.5) -> Workload:
    token = (await bench.authority.create_token(WEB, by="admin")).token.text
    made = Workload(bench, folder, token, draw)
    await made.driver.start()
    await made.driver.tick()
    return made


@pytest.fixture
async def web(bench: OcspBench, tmp_path: Path) -> Workload:
    made = await enrolled(bench, tmp_path)
    assert await made.stapler.look() <= LONGEST_WAIT
    return made


async def test_a_verified_answer_stands_beside_the_certificate(bench: OcspBench, web: Workload) -> None:
    """In the same generation, for everybody to read; good, about this certificate, and asked for with 32 octets."""
    assert web.file is not None
    OcspAnswer.verify(web.file, serial=web.serial, issuer=ISSUER, now=bench.clock.now()).require_good()
    assert stat.S_IMODE((web.out / "ocsp.der").stat().st_mode) == 0o644
    assert (web.out / "ocsp.der").resolve().parent == (web.out / "tls.crt").resolve().parent
    assert web.hooks == 2  # the certificate, and the answer
    assert web.snapshots == 1  # which holds no answer
    assert b"\x04\x20" in web.asked[0]
    assert condition(web.driver, bench.clock.now()).staple_until == bench.clock.now() + 10 * MINUTE


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
async def test_it_is_refreshed_before_half_of_its_life(bench: OcspBench, tmp_path: Path, draw: float) -> None:
    """The moment is drawn once for each answer, between 4 and 5 minutes; not a moment earlier."""
    web = await enrolled(bench, tmp_path, draw)
    await web.stapler.look()
    await web.after(4 * MINUTE + draw * MINUTE - timedelta(seconds=1))
    assert len(web.asked) == 1
    first = web.file
    await web.after(timedelta(seconds=1))
    assert len(web.asked) == 2
    assert web.file not in (first, None)


async def test_without_a_responder_the_agent_is_as_ready_as_before(bench: OcspBench, web: Workload) -> None:
    """The answer stays to its end, then it is taken away: a server that staples an old one is refused by its clients."""
    web.gone = True
    await web.after(6 * MINUTE)
    assert web.file is not None
    assert web.alarms == {"OCSP_NO_ANSWER": 1}
    await web.after(4 * MINUTE)
    assert web.file is None
    assert condition(web.driver, bench.clock.now()).ready
    assert condition(web.driver, bench.clock.now()).staple_until is None
    web.gone = False
    await web.after(MINUTE)
    assert web.file is not None


async def test_it_asks_again_with_patience(bench: OcspBench, tmp_path: Path) -> None:
    """Half a minute apart at most, and no oftener than backoff says."""
    web = await enrolled(bench, tmp_path, draw=1.0)
    web.gone = True
    for _ in range(600):
        await web.after(timedelta(seconds=1))
    assert 20 <= len(web.asked) <= 30


async def test_a_revoked_answer_alarms_and_is_written_nowhere(bench: OcspBench, web: Workload) -> None:
    """Ahead of the news: the responder is the first to say it here."""
    await bench.authority.revoke_serial(web.serial, Reason.KEY_COMPROMISE, by="admin")
    await web.after(5 * MINUTE)
    assert web.alarms == {"REVOKED": 1}
    assert web.file is None


async def test_what_the_news_revoked_takes_the_answer_away_with_the_key(bench: OcspBench, web: Workload) -> None:
    await bench.authority.revoke_serial(web.serial, Reason.KEY_COMPROMISE, by="admin")
    assert web.driver.present is not None
    await web.driver.hear(await CoreUpstream(bench).get_trust(web.driver.present))
    assert (web.file, (web.out / "tls.key").exists()) == (None, False)
    asked = len(web.asked)
    await web.after(5 * MINUTE)
    assert len(web.asked) == asked
    assert condition(web.driver, bench.clock.now()).staple_until is None


async def test_an_answer_about_the_old_certificate_never_stands_beside_the_new_one(
    bench: OcspBench, web: Workload
) -> None:
    old = web.serial
    web.gone = True
    web.driver.demand_renewal()
    await web.driver.tick()
    assert web.serial != old
    assert web.file is None
    web.gone = False
    await web.stapler.look()
    assert web.file is not None
    OcspAnswer.verify(web.file, serial=web.serial, issuer=ISSUER, now=bench.clock.now()).require_good()


async def test_a_lie_is_refused_counted_and_never_written(bench: OcspBench, web: Workload) -> None:
    """D8, D9, D10: an old answer, one about another serial, one of another CA, an error, a page of some proxy, noise."""
    assert web.file is not None
    old, other = web.file, (await bench.issue()).record.serial
    stranger = TestAuthority()
    about_other = (await bench.ask(other)).der
    unauthorised = (await bench.responder.answer(build_request(web.serial, stranger.issuer))).der
    lies = {
        "OCSP_NONCE": old,
        "OCSP_OTHER_CERTIFICATE": about_other,
        "OCSP_NO_ANSWER": unauthorised,
        "OCSP_MALFORMED": b"<html>captive portal</html>",
    }
    bench.clock.advance(5 * MINUTE)
    for reason, lie in lies.items():
        web.lie = lambda request, lie=lie: lie  # type: ignore[misc]
        before = web.alarms.get(reason, 0)
        await web.after(timedelta(seconds=30))
        assert web.alarms[reason] == before + 1
        assert web.file == old
    web.lie = None
    await web.after(timedelta(seconds=30))
    assert web.file not in (old, None)


async def test_where_the_ca_answers_no_ocsp_nobody_asks(tmp_path: Path) -> None:
    bench = await OcspBench(urls=PublicUrls(URLS.base, ocsp=False)).start()
    web = await enrolled(bench, tmp_path)
    await web.after(MINUTE)
    assert web.asked == []
    assert web.file is None
