"""``handfast ca serve``: starts the parts in order, keeps what recurs going, and drains when it is told to stop.

1. keys and certificates are read; a root key in place of the issuing key is refused
2. ledger and audit log are opened, and the authority takes up where the last process stopped
3. the CA gets its own certificate, through the same nine steps as everybody, and one for its OCSP answers
4. gRPC on two ports, HTTP on a third; 5. what recurs: :mod:`handfast_ca.maintenance`
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from handfast.bundle import TrustBundle
from handfast.certificates import load_certificates
from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.errors import Invalid, NotFound, Refused
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.revocation import RevocationList, Revocations, split_pem
from handfast.rpc.guard import AioGuard
from handfast.rpc.server import server_credentials
from handfast.sources import StaticSource
from handfast.wire.v1.authority_pb2_grpc import add_AuthorityServicer_to_server
from handfast.wire.v1.registry_pb2_grpc import add_RegistryServicer_to_server
from handfast_ca.access import METHODS, OPEN_METHODS, policy
from handfast_ca.audit import FileAudit
from handfast_ca.authority import Authority
from handfast_ca.config import Config
from handfast_ca.custody.file import load_key
from handfast_ca.custody.process import collect_seldom, forbid_core_dumps, raise_file_limit
from handfast_ca.issuer import LocalIssuer
from handfast_ca.issuer_name import claim_name
from handfast_ca.limits import Limits
from handfast_ca.maintenance import Recurring, kept_up, recurring
from handfast_ca.metrics import CaMetrics
from handfast_ca.public import application
from handfast_ca.public_port import web_server
from handfast_ca.registration import Entry
from handfast_ca.service.authority import AuthorityService
from handfast_ca.service.gate import Gate
from handfast_ca.service.registry import RegistryService
from handfast_ca.stores.sqlite import SqliteLedger

__all__ = ["ca_identity", "open_authority", "renew_own", "reserved_credentials", "serve"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
DRAIN_SECONDS = 5.0
MAX_MESSAGE_BYTES = 64 * 1024
MAX_METADATA_BYTES = 8 * 1024
MAX_STREAMS = 256
"""Calls at one time on one connection; a client waits with those beyond it."""
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Between the two limits gRPC refuses at random: they are one.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", 2000),
    ("grpc.so_reuseport", 0),
    # Agents ping every 10 s on a watch that has no news; gRPC would close the connection below 300 s.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
]

REFLECTED = sorted({method.split("/")[1] for method in METHODS})


def ca_identity(config: Config) -> SpiffeId:
    return SpiffeId(config.trust_domain, "/handfast/ca")


@asynccontextmanager
async def open_authority(config: Config, passphrase: bytes | None) -> AsyncIterator[Authority]:
    """The authority over the configured files, started. Raises ``Refused``: ``ROOT_KEY_ONLINE`` for a root's
    key, ``ISSUER_NAME_REUSED`` for another key under a name that has signed here.
    """
    issuer_certificate = _given(config.issuer_certificate, load_certificates)[0]
    if issuer_certificate.subject == issuer_certificate.issuer:
        raise Refused(
            f"{config.issuer_certificate} is a root: it signs issuing CAs at a ceremony, and never leaves",
            reason="ROOT_KEY_ONLINE",
            hint="name the issuing CA under `issuer`, and keep the root's key away from here",
        )
    issuer = LocalIssuer(issuer_certificate, load_key(config.issuer_key, passphrase))
    root = _given(config.root_certificate, load_certificates)[0]
    bundle = TrustBundle(config.trust_domain, (root,), (issuer_certificate,), sequence=1)
    root_crls = _given(config.root_crl, split_pem)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        ledger = await SqliteLedger.open(config.state / "ledger.db")
        stack.push_async_callback(ledger.close)
        await claim_name(ledger, issuer_certificate, issuer.key_id)
        audit = FileAudit(config.state / "audit.jsonl", clock)
        stack.push_async_callback(audit.close)
        authority = Authority(
            trust_domain=config.trust_domain,
            issuer=issuer,
            bundle=bundle,
            ledger=ledger,
            audit=audit,
            clock=clock,
            profile=config.profile,
            urls=config.urls,
            reserved=_reserved(config),
            root_crls=root_crls,
            quorum=config.quorum,
        )
        await authority.start()
        stack.push_async_callback(authority.close)
        yield authority


def _given(path: Path, read: Callable[[bytes], tuple[T, ...]]) -> tuple[T, ...]:
    """What a file of the configuration holds: something, or an error that names the file."""
    try:
        found = read(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", reason="NO_FILE") from error
    except Invalid as error:
        raise Invalid(
            f"{path}: {error.message}", reason=error.reason, hint=f"`handfast inspect {path}` shows what it holds"
        ) from error
    if not found:
        raise Invalid(f"{path} is empty", reason="NO_FILE")
    return found


def _reserved(config: Config) -> dict[SpiffeId, Entry]:
    """Entries of version 0: the configuration gives them, and no ledger row stands behind them."""
    own = ca_identity(config)
    entries = {operator: Entry(operator, version=0) for operator in config.operators}
    return {**entries, own: Entry(own, dns_names=config.server_names, version=0)}


async def reserved_credentials(authority: Authority, identity: SpiffeId) -> Credentials:
    """A new key and certificate for one of the reserved identities."""
    key = generate()
    issued = await authority.issue_internal(identity, build_csr(key))
    state = issued.trust
    return Credentials.build(
        key=key,
        chain=issued.chain,
        bundle=state.bundle,
        crls=[crl.der for crl in state.crls.values()],
        announced=[(news.issuer_key_id, news.serial) for news in state.announced],
        now=authority.time.wall(),
    )


async def renew_own(authority: Authority, source: StaticSource) -> None:
    """The CA's own certificate, once half of its life is over. Called often, so that an attempt that fails leaves others:
    nobody speaks to a CA whose certificate expired.
    """
    validity = source.current().leaf.validity
    if authority.time.wall() < validity.not_before + validity.duration / 2:
        return
    fresh = await reserved_credentials(authority, source.current().spiffe_id)
    source.publish(replace(fresh, generation=source.current().generation + 1))


async def serve(config: Config, passphrase: bytes | None, *, accept_clock: bool = False) -> None:
    """Runs until SIGTERM or SIGINT. ``accept_clock``: an operator says that the clock is right (threat J8)."""
    forbid_core_dumps()
    raise_file_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes both while it serves, and raises them again when it has ended.
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        authority = await stack.enter_async_context(open_authority(config, passphrase))
        if accept_clock and authority.time.problem() is not None:
            await authority.accept_clock(by="ca serve --accept-clock")
            if not authority.quarantine.is_open:
                await authority.publish_crl()
                await authority.reissue_wanted()
        if config.urls.ocsp:
            await authority.responder.signers.renew_if_due()
        source = StaticSource(await reserved_credentials(authority, ca_identity(config)))
        following = asyncio.create_task(_follow_trust(authority, source))
        stack.callback(following.cancel)
        metrics = CaMetrics()
        metrics.watch(authority)
        gate = Gate(authority, limits=Limits(config.limits), metrics=metrics)
        stack.push_async_callback(gate.refusals.flush)
        await stack.enter_async_context(_grpc(config, authority, source, gate))
        stack.enter_context(kept_up(_maintenance(config, authority, source, gate), now=authority.time.wall()))
        web = web_server(application(authority, metrics), config.http)
        serving = asyncio.create_task(web.serve())
        collect_seldom()
        _log.info("CA of %s serves: gRPC %s, enrolment %s", config.trust_domain, config.grpc, config.enrol)
        await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        web.should_exit = True
        await serving


async def _follow_trust(authority: Authority, source: StaticSource) -> None:
    """The CA's own guard knows every revocation when every agent does."""
    async for _change in authority.feed.watch():
        state, present = authority.trust(), source.current()
        lists = {key_id: _judging_by(authority, known) for key_id, known in state.crls.items()}
        revocations = Revocations(MappingProxyType(lists))
        revocations = revocations.announce((news.issuer_key_id, news.serial) for news in state.announced)
        source.publish(replace(present, bundle=state.bundle, revocations=revocations))


def _judging_by(authority: Authority, known: RevocationList) -> RevocationList:
    """In quarantine the last list is all there is, however old: who holds a newer one must be let in to show it.

    Agents get the list as it is; nothing is signed for whom it lets in.
    """
    if not authority.quarantine.is_open:
        return known
    return replace(known, next_update=max(known.next_update, authority.issuer.certificate.not_valid_after_utc))


@asynccontextmanager
async def _grpc(config: Config, authority: Authority, source: StaticSource, gate: Gate) -> AsyncIterator[None]:
    permitted = policy(config.trust_domain, config.operators)
    guard = AioGuard(
        source,
        permitted,
        open_methods=OPEN_METHODS,
        observer=gate.metrics.rpc,
        on_refusal=gate.turned_away,
    )
    server = grpc.aio.server(interceptors=(guard,), options=OPTIONS)
    add_AuthorityServicer_to_server(AuthorityService(authority, gate), server)
    add_RegistryServicer_to_server(RegistryService(authority, gate.metrics), server)
    reflection.enable_server_reflection(REFLECTED, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_secure_port(str(config.grpc), server_credentials(source))
    server.add_secure_port(str(config.enrol), server_credentials(source, require_client=False))
    await server.start()
    try:
        yield
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(DRAIN_SECONDS)
        guard.close()
        await gate.turned_away.written()


def _maintenance(config: Config, authority: Authority, source: StaticSource, gate: Gate) -> tuple[Recurring, ...]:
    return recurring(
        authority,
        renew_own=partial(renew_own, authority, source),
        own_life=source.current().leaf.validity.duration,
        tell_refusals=gate.refusals.flush,
        ocsp=config.urls.ocsp,
    )
