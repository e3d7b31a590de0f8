"""Two CA processes over one ledger, whose clocks differ. How they hear of each other's news at once is not in here."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

import pytest

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf
from handfast.csr import build_csr
from handfast.errors import HandfastError
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.revocation import Reason, RevocationList
from handfast_ca.audit_trail import MemoryAudit
from handfast_ca.authority import Authority
from handfast_ca.enrolment import Renewal
from handfast_ca.issuer import LocalIssuer
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import TRUST_DOMAIN, Ceremony
from tests.sim.disk import Slow
from tests.sim.loop import VirtualLoop
from tests.sim.world import START, MachineClock

SKEW = 5.0
STEPS = 60


class _Replicas:
    """Two authorities, one ledger, and all that was acknowledged."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.chance = Random(seed)
        self.ledger = MemoryLedger()
        self.ceremony = Ceremony(START)
        self.revoked: set[int] = set()
        self.leaves: list[Leaf] = []
        self.newest: RevocationList | None = None
        self.both = [self._replica(loop, skew) for skew in (-SKEW, SKEW)]

    def _replica(self, loop: VirtualLoop, skew: float) -> Authority:
        clock = MachineClock(loop, skew)
        made = self.ceremony
        return Authority(
            trust_domain=TRUST_DOMAIN,
            issuer=LocalIssuer(made.issuing.certificate, made.issuing.key),
            bundle=TrustBundle(TRUST_DOMAIN, (made.root.certificate,), (made.issuing.certificate,), sequence=1),
            ledger=Slow(self.ledger, self.chance),
            audit=MemoryAudit(clock),
            clock=clock,
        )

    async def run(self) -> None:
        for replica in self.both:
            await replica.start()
        for number in range(4):
            await self.both[0].add_entry(str(self._id(number)), by="test")
        for _ in range(STEPS):
            steps = [self._step() for _ in range(self.chance.randint(1, 3))]
            await asyncio.gather(*steps)
            await self._check()
            await asyncio.sleep(self.chance.uniform(0, 4))

    def _id(self, number: int) -> SpiffeId:
        return SpiffeId(TRUST_DOMAIN, f"/web-{number}")

    async def _step(self) -> None:
        replica = self.chance.choice(self.both)
        kind = self.chance.choice(["sign", "renew", "renew", "revoke", "publish"])
        try:
            if kind == "sign" or not self.leaves:
                issued = await replica.sign(self._id(self.chance.randrange(4)), build_csr(generate()), by="test")
                self.leaves.append(Leaf.of(issued.chain[0]))
            elif kind == "renew":
                leaf = self.chance.choice(self.leaves)
                issued = await replica.renew(Renewal(leaf, build_csr(generate(), credential=leaf.der)))
                assert leaf.serial not in self.revoked, "a revoked certificate was renewed"
                self.leaves.append(Leaf.of(issued.chain[0]))
            elif kind == "revoke":
                serial = self.chance.choice(self.leaves).serial
                done = await replica.revoke_serial(serial, Reason.UNSPECIFIED, by="test")
                self.revoked.update(done.serials)
            else:
                await replica.publish_crl()
        except HandfastError as error:
            # CRL_OUT_OF_TURN: the other one published in between; the revocation is durable, and not acknowledged.
            assert error.reason in ("REVOKED", "CRL_TOO_SOON", "CRL_OUT_OF_TURN"), error

    async def _check(self) -> None:
        """Invariant D4: the newest list carries every acknowledged revocation, and is newer than the one before."""
        der = await self.ledger.latest_crl(self.both[0].issuer.key_id)
        assert der is not None
        now = START + timedelta(days=1)
        newest = RevocationList.verify(der, self.both[0].trust().bundle, now=now)
        assert self.revoked <= newest.serials
        if self.newest is not None and newest.der != self.newest.der:
            assert newest.number > self.newest.number
            assert newest.this_update > self.newest.this_update
        self.newest = newest


@pytest.mark.parametrize("seed", range(6))
def test_replicas_whose_clocks_differ_never_make_a_revoked_certificate_good(seed: int) -> None:
    """Threats J6, D4: order comes from the ledger, never from a clock."""
    loop = VirtualLoop()
    try:
        replicas = _Replicas(loop, seed)
        loop.run_until_complete(replicas.run())
        assert len(replicas.revoked) > 5
        assert len({leaf.serial for leaf in replicas.leaves}) > 20
    finally:
        loop.close()
