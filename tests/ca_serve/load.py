"""Load on a CA that is about to be killed: workloads that enrol and renew, and an operator who revokes.

Everybody here speaks gRPC over mutual TLS as real clients do. What a client was told is written down the moment it was
told; what it asked without hearing an answer, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from handfast.certificates import parse_serial, pem_chain
from handfast.csr import build_csr
from handfast.keys import PrivateKey, dump_private_key_pem, generate
from handfast.wire.codec import certificates_from_wire
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from tests.ca_serve.process import TRUST_DOMAIN, RunningServe

if TYPE_CHECKING:
    from handfast.wire.v1.registry_pb2_grpc import RegistryAsyncStub

WORKLOADS = 6
LOCAL_ONLY = (("grpc.use_local_subchannel_pool", 1),)
"""No channel of one start inherits another's connection, or its back-off."""


@dataclass
class Told:
    """What clients know, over all the lives of one CA."""

    answers: int = 0
    handed_out: dict[int, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    enrolments: dict[str, authority_pb2.EnrolRequest] = field(default_factory=dict)
    renewals: list[bytes] = field(default_factory=list)
    revoked: set[int] = field(default_factory=set)
    crl_number: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = 0

    def answered(self) -> None:
        self.answers += 1
        if self.answers >= self.wanted:
            self.enough.set()

    def keep(self, issued: authority_pb2.IssuedCredentials) -> None:
        self.handed_out[certificates_from_wire(issued.chain)[0].serial_number] = issued.chain[0]
        self.answered()


@dataclass(frozen=True)
class Clients:
    """Whoever asks this CA, from its operator's files."""

    ca: RunningServe
    told: Told
    names: Iterator[int] = field(default_factory=itertools.count)

    def _file(self, name: str) -> bytes:
        return Path(self.ca.directory / "operator" / name).read_bytes()

    @contextlib.asynccontextmanager
    async def channel(self, key: bytes | None = None, chain: bytes | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """Mutual TLS to the CA, or server TLS to its enrolment port."""
        address = self.ca.enrol if key is None else self.ca.grpc
        tls = grpc.ssl_channel_credentials(self._file("ca.crt"), key, chain)
        target = address.replace("127.0.0.1", "localhost")
        async with grpc.aio.secure_channel(target, tls, options=LOCAL_ONLY) as channel:
            yield channel

    def operator(self) -> contextlib.AbstractAsyncContextManager[grpc.aio.Channel]:
        return self.channel(self._file("tls.key"), self._file("tls.crt"))

    async def live(self, registry: RegistryAsyncStub, chance: random.Random) -> None:
        """One workload after another: entry, token, certificate, renewal, and for some the end."""
        async with self.channel() as open_door:
            while True:
                identity = f"spiffe://{TRUST_DOMAIN}/w{next(self.names)}"
                await registry.AddEntry(registry_pb2.AddEntryRequest(entry=registry_pb2.Entry(spiffe_id=identity)))
                made = await registry.CreateToken(registry_pb2.CreateTokenRequest(spiffe_id=identity))
                self.told.tokens.add(made.token)
                key = generate()
                request = authority_pb2.EnrolRequest(
                    join_token=made.token, csr=build_csr(key, credential=made.token.encode())
                )
                self.told.enrolments[made.token] = request
                issued = await AuthorityStub(open_door).Enrol(request)
                self.told.keep(issued)
                await self._renew(key, issued, times=chance.randint(0, 2))
                if chance.random() < 0.4:
                    await self._revoke(registry, identity, issued, by_name=chance.random() < 0.5)

    async def _renew(self, key: PrivateKey, issued: authority_pb2.IssuedCredentials, *, times: int) -> None:
        chain = pem_chain(certificates_from_wire(issued.chain))
        if not times:
            return
        async with self.channel(dump_private_key_pem(key), chain) as channel:
            for _ in range(times):
                csr = build_csr(generate(), credential=issued.chain[0])
                self.told.renewals.append(csr)
                self.told.keep(await AuthorityStub(channel).Renew(authority_pb2.RenewRequest(csr=csr)))

    async def _revoke(
        self, registry: RegistryAsyncStub, identity: str, issued: authority_pb2.IssuedCredentials, *, by_name: bool
    ) -> None:
        serial = f"{certificates_from_wire(issued.chain)[0].serial_number:x}"
        request = (
            registry_pb2.RevokeRequest(spiffe_id=identity) if by_name else registry_pb2.RevokeRequest(serial=serial)
        )
        done = await registry.Revoke(request)
        self.told.revoked |= {parse_serial(one) for one in done.serials}
        self.told.crl_number = max(self.told.crl_number, int(done.crl_number))
        self.told.answered()

    async def kill_under_load(self, chance: random.Random) -> None:
        """Kills after a random number of answers, and then a random moment later: no clock decides how much happened."""
        self.told.enough.clear()
        self.told.wanted = self.told.answers + chance.randint(1, 40)
        async with self.operator() as channel:
            registry = RegistryStub(channel)
            seeds = [random.Random(chance.random()) for _ in range(WORKLOADS)]
            lives = [asyncio.create_task(self.live(registry, seed)) for seed in seeds]
            enough = asyncio.create_task(self.told.enough.wait())
            ended, _ = await asyncio.wait({enough, *lives}, return_when=asyncio.FIRST_COMPLETED)
            assert ended == {enough}, [life.exception() for life in ended if life is not enough]
            await asyncio.sleep(chance.random() * 0.02)
            self.ca.kill()
            for error in await asyncio.gather(*lives, return_exceptions=True):
                assert isinstance(error, grpc.aio.AioRpcError), error
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
