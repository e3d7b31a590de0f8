"""The guard judges every call and ends streams, over real connections."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from handfast.access import AccessPolicy, UnsafeAnyIdentity, allow, in_trust_domain
from handfast.errors import Forbidden, HandfastError, Invalid, Unauthenticated
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.rpc.caller import caller
from handfast.rpc.guard import AioGuard, Guard
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.codec import from_rpc_error
from tests.library.mesh import BOTH, COLLECT, STREAM, UNARY, aio_server, plain_aio, plain_sync, sync_server

EVERYBODY = in_trust_domain("test.example")
pytestmark = pytest.mark.timeout(60)


async def refusal(call: object) -> HandfastError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


async def test_a_handler_sees_the_identity_that_the_handshake_proved(authority: TestAuthority) -> None:
    """B9: not what the caller claims in metadata."""
    guard = AioGuard(authority.source("/server"), EVERYBODY)
    async with (
        aio_server(guard._judge.source, guard) as (target, _),
        plain_aio(target, authority.issue("/web")) as channel,
    ):
        forged = (
            ("x-forwarded-client-cert", "By=spiffe://test.example/admin"),
            ("x-spiffe-id", "spiffe://test.example/admin"),
        )
        assert await channel.unary_unary(UNARY)(b"hello", metadata=forged) == b"spiffe://test.example/web hello"
        stream = channel.unary_stream(STREAM)(b"")
        assert await stream.read() == b"spiffe://test.example/web"
        both = channel.stream_stream(BOTH)(iter([b"1", b"2"]))
        assert [answer async for answer in both] == [b"spiffe://test.example/web 1", b"spiffe://test.example/web 2"]
        assert await channel.stream_unary(COLLECT)(iter([b"a", b"b"])) == b"ab"


class Hearing:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.judgements: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []
        self.seconds = 0.0

    def judged(self, method: str, reason: str, seconds: float) -> None:
        self.judgements.append((method, reason))
        self.seconds += seconds

    def stream_ended(self, method: str, reason: str) -> None:
        self.ended.append((method, reason))


async def test_an_observer_hears_of_every_judgement_and_of_every_stream_that_was_ended(
    authority: TestAuthority,
) -> None:
    """What metrics are made from: the method, and ``OK`` or why not."""
    source, hearing = authority.source("/server"), Hearing()
    web, other = authority.issue("/web"), authority.issue("/other")
    guard = AioGuard(source, allow("spiffe://test.example/web"), observer=hearing)
    async with aio_server(source, guard) as (target, _):
        async with plain_aio(target, other) as channel:
            assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == "NOT_ALLOWED"
        async with plain_aio(target, web) as channel:
            await channel.unary_unary(UNARY)(b"")
            stream = channel.unary_stream(STREAM)(b"")
            assert await stream.read()
            authority.revoke(web)
            assert (await refusal(stream.read())).reason == "REVOKED"
    assert hearing.judgements == [(UNARY, "NOT_ALLOWED"), (UNARY, "OK"), (STREAM, "OK")]
    assert hearing.ended == [(STREAM, "REVOKED")]
    assert hearing.seconds > 0


async def test_a_revoked_caller_is_refused_on_a_connection_that_is_already_open(authority: TestAuthority) -> None:
    """C6: the next call, and the stream that runs, with the reason."""
    source = authority.source("/server")
    web, other = authority.issue("/web"), authority.issue("/other")
    guard = AioGuard(source, EVERYBODY)
    async with (
        aio_server(source, guard) as (target, echo),
        plain_aio(target, web) as channel,
        plain_aio(target, other) as untouched,
    ):
        call = channel.unary_unary(UNARY)
        await call(b"")
        stream = channel.unary_stream(STREAM)(b"")
        await stream.read()
        authority.revoke(web)
        error = await refusal(stream.read())
        assert (type(error), error.reason) == (Unauthenticated, "REVOKED")
        await asyncio.wait_for(echo.cleaned_up.wait(), 5)
        assert (await refusal(call(b""))).reason == "REVOKED"
        assert await untouched.unary_unary(UNARY)(b"x")


@pytest.mark.parametrize("method", [BOTH, COLLECT])
async def test_a_client_stream_ends_when_its_caller_is_revoked(authority: TestAuthority, method: str) -> None:
    """C6"""
    source, web = authority.source("/server"), authority.issue("/web")
    guard = AioGuard(source, EVERYBODY)
    async with aio_server(source, guard) as (target, _), plain_aio(target, web) as channel:
        stream: Any = channel.stream_stream(method)() if method == BOTH else channel.stream_unary(method)()
        await stream.write(b"1")
        if method == BOTH:
            await stream.read()
        else:
            await until(lambda: bool(guard._watch._streams))
        authority.revoke(web)
        error = await refusal(stream.read() if method == BOTH else stream)
        assert error.reason == "REVOKED"


async def test_a_stream_ends_when_the_certificate_of_its_caller_expires(authority: TestAuthority) -> None:
    """C6: at notAfter, by the guard's own timer."""
    source = authority.source("/server")
    guard = AioGuard(source, EVERYBODY)
    async with aio_server(source, guard) as (target, _):
        short = authority.issue("/web", lifetime=timedelta(seconds=2))
        async with plain_aio(target, short) as channel:
            stream = channel.unary_stream(STREAM)(b"")
            await stream.read()
            assert (await refusal(stream.read())).reason == "EXPIRED"
            assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == "EXPIRED"


async def test_what_the_clock_says_decides_and_not_what_the_handshake_said() -> None:
    """C2, D2: expiry and stale lists on an open connection."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock, list_validity=timedelta(minutes=10))
    source, web = authority.source("/server"), authority.issue("/web")
    guard = AioGuard(source, EVERYBODY, clock=clock)
    async with aio_server(source, guard) as (target, _), plain_aio(target, web) as channel:
        call = channel.unary_unary(UNARY)
        await call(b"")
        stream = channel.unary_stream(STREAM)(b"")
        await stream.read()
        clock.advance(timedelta(minutes=11))
        assert (await refusal(call(b""))).reason == "STALE_REVOCATIONS"
        guard.sweep()
        assert not stream.done()
        authority.refresh_list()
        assert await call(b"")
        clock.advance(timedelta(minutes=50))
        guard.sweep()
        assert (await refusal(stream.read())).reason == "EXPIRED"
        assert (await refusal(call(b""))).reason == "EXPIRED"


async def test_a_clock_that_is_set_back_before_a_leaf_began_refuses_who_was_good_before() -> None:
    """J8: what was found good stands for no other time."""
    clock = ManualClock()
    authority = TestAuthority(clock=clock)
    source, web = authority.source("/server"), authority.issue("/web")
    async with (
        aio_server(source, AioGuard(source, EVERYBODY, clock=clock)) as (target, _),
        plain_aio(target, web) as to,
    ):
        call = to.unary_unary(UNARY)
        await call(b"")
        clock.step(timedelta(hours=-1))
        assert (await refusal(call(b""))).reason == "NOT_YET_VALID"
        clock.step(timedelta(hours=1))
        assert await call(b"")


async def test_the_policy_is_asked_on_every_call_also_of_who_is_known(authority: TestAuthority) -> None:
    """F: permission is never remembered for a policy."""

    class UntilClosed:
        closed = False

        def permits(self, _caller: SpiffeId, _method: str) -> bool:
            return not self.closed

    policy = UntilClosed()
    source, web = authority.source("/server"), authority.issue("/web")
    async with aio_server(source, AioGuard(source, policy)) as (target, _), plain_aio(target, web) as channel:
        call = channel.unary_unary(UNARY)
        await call(b"")
        policy.closed = True
        error = await refusal(call(b""))
        assert (type(error), error.reason) == (Forbidden, "NOT_ALLOWED")


async def test_an_empty_bundle_ends_everything(authority: TestAuthority) -> None:
    """D12: no root means that nothing is trusted, not that nothing changed."""
    source, web = authority.source("/server"), authority.issue("/web")
    guard = AioGuard(source, EVERYBODY)
    async with aio_server(source, guard) as (target, _), plain_aio(target, web) as channel:
        await channel.unary_unary(UNARY)(b"")
        stream = channel.unary_stream(STREAM)(b"")
        await stream.read()
        authority.set_roots(())
        assert (await refusal(stream.read())).reason == "UNTRUSTED"
        assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == "UNTRUSTED"
        async with plain_aio(target, web) as late:
            with pytest.raises(grpc.aio.AioRpcError):
                await late.unary_unary(UNARY)(b"", timeout=3)


async def test_a_withdrawn_source_lets_nobody_in(authority: TestAuthority) -> None:
    source, web = authority.source("/server"), authority.issue("/web")
    guard = AioGuard(source, EVERYBODY)
    async with aio_server(source, guard) as (target, _), plain_aio(target, web) as channel:
        await channel.unary_unary(UNARY)(b"")
        source.publish(None)
        assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == "NO_CREDENTIALS"
        async with plain_aio(target, web) as late:
            with pytest.raises(grpc.aio.AioRpcError):
                await late.unary_unary(UNARY)(b"", timeout=3)


@pytest.mark.parametrize(
    ("policy", "method", "reason"),
    [
        (allow("spiffe://test.example/web", methods=[UNARY]), STREAM, "NOT_ALLOWED"),
        (allow("spiffe://test.example/db"), UNARY, "NOT_ALLOWED"),
        (in_trust_domain("other.example"), UNARY, "NOT_ALLOWED"),
    ],
)
async def test_the_policy_decides_for_each_method(
    authority: TestAuthority, policy: AccessPolicy, method: str, reason: str
) -> None:
    source = authority.source("/server")
    guard = AioGuard(source, policy)
    async with aio_server(source, guard) as (target, _), plain_aio(target, authority.issue("/web")) as channel:
        call = channel.unary_unary(UNARY)(b"") if method == UNARY else channel.unary_stream(STREAM)(b"").read()
        assert (await refusal(call)).reason == reason


async def test_a_leaf_with_two_identities_is_refused(authority: TestAuthority) -> None:
    """A5"""
    key = generate()
    names = [x509.UniformResourceIdentifier(f"spiffe://test.example/{name}") for name in ("web", "admin")]
    await assert_refused(authority, key, authority.sign_leaf(key.public_key(), names), "NOT_AN_SVID")


async def test_a_leaf_that_says_nobody_revokes_it_is_refused_though_the_handshake_takes_it(
    authority: TestAuthority,
) -> None:
    """D15: signed by our own CA; no claim in a certificate takes the revocation list's word away."""
    key = generate()
    name = x509.UniformResourceIdentifier("spiffe://test.example/web")
    certificate = authority.sign_leaf(key.public_key(), [name])
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        key.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        list(certificate.extensions),
    )
    never = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\5\0")
    signed = builder.add_extension(never, critical=False).sign(authority.issuer_key, hashes.SHA256())
    await assert_refused(authority, key, signed, "NOT_AN_SVID")


async def test_a_weak_key_that_grpc_takes_is_refused(authority: TestAuthority) -> None:
    """A10: RSA of 1024 bits passes the handshake."""
    key = rsa.generate_private_key(65537, 1024)
    names = [x509.UniformResourceIdentifier("spiffe://test.example/web")]
    await assert_refused(authority, key, authority.sign_leaf(key.public_key(), names), "WEAK_KEY")


async def test_a_leaf_of_another_trust_domain_is_refused(authority: TestAuthority) -> None:
    """D13: even when our own CA signed it."""
    key = generate()
    names = [x509.UniformResourceIdentifier("spiffe://other.example/web")]
    await assert_refused(
        authority, key, authority.sign_leaf(key.public_key(), names), "FOREIGN_TRUST_DOMAIN", UnsafeAnyIdentity()
    )


async def assert_refused(
    authority: TestAuthority, key: object, certificate: x509.Certificate, reason: str, policy: AccessPolicy = EVERYBODY
) -> None:
    from handfast.certificates import pem_chain
    from handfast.keys import dump_private_key_pem

    source = authority.source("/server")
    guard = AioGuard(source, policy)
    credentials = grpc.ssl_channel_credentials(
        authority.bundle.roots_pem,
        dump_private_key_pem(key),
        pem_chain([certificate, authority.issuer]),  # type: ignore[arg-type]
    )
    async with aio_server(source, guard) as (target, _), grpc.aio.secure_channel(target, credentials) as channel:
        assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == reason


async def test_a_caller_without_certificate_reaches_open_methods_only(authority: TestAuthority) -> None:
    """A19"""
    from handfast.rpc.server import server_credentials

    source = authority.source("/server")
    guard = AioGuard(source, EVERYBODY, open_methods=frozenset({COLLECT}))
    anonymous = grpc.ssl_channel_credentials(authority.bundle.roots_pem)
    credentials = server_credentials(source, require_client=False)
    async with (
        aio_server(source, guard, credentials=credentials) as (target, _),
        grpc.aio.secure_channel(target, anonymous) as channel,
    ):
        assert await channel.stream_unary(COLLECT)(iter([b"a"])) == b"a"
        assert (await refusal(channel.unary_unary(UNARY)(b""))).reason == "NO_CERTIFICATE"
        assert (await refusal(channel.unary_stream(STREAM)(b"").read())).reason == "NO_CERTIFICATE"


async def test_without_a_guard_there_is_no_caller() -> None:
    with pytest.raises(Unauthenticated) as caught:
        caller()
    assert caught.value.reason == "NO_CALLER"


@pytest.mark.parametrize("make", [lambda: allow(), lambda: in_trust_domain("UPPER")])
def test_an_empty_or_wrong_policy_is_no_policy(make: object) -> None:
    with pytest.raises(Invalid):
        make()  # type: ignore[operator]


def sync_refusal(call: object) -> HandfastError:
    with pytest.raises(grpc.RpcError) as caught:
        call()  # type: ignore[operator]
    return from_rpc_error(caught.value)


def test_the_sync_guard_judges_and_ends_streams_with_the_reason(authority: TestAuthority) -> None:
    """C6"""
    source, web = authority.source("/server"), authority.issue("/web")
    guard = Guard(source, EVERYBODY)
    with sync_server(source, guard) as (target, echo), plain_sync(target, web) as channel:
        assert channel.unary_unary(UNARY)(b"hi") == b"spiffe://test.example/web hi"
        assert list(channel.stream_stream(BOTH)(iter([b"1"]))) == [b"spiffe://test.example/web 1"]
        assert channel.stream_unary(COLLECT)(iter([b"a", b"b"])) == b"ab"
        stream = channel.unary_stream(STREAM)(b"")
        assert next(stream) == b"spiffe://test.example/web"
        authority.revoke(web)
        assert sync_refusal(lambda: list(stream)).reason == "REVOKED"
        assert echo.cleaned_up.wait(5)
        assert sync_refusal(lambda: channel.unary_unary(UNARY)(b"")).reason == "REVOKED"


def test_a_blocked_sync_stream_is_cancelled_even_without_its_help(authority: TestAuthority) -> None:
    """C6: it waits for its caller, who says nothing."""
    source, web = authority.source("/server"), authority.issue("/web")
    guard = Guard(source, EVERYBODY)
    with sync_server(source, guard) as (target, _), plain_sync(target, web) as channel:
        silence = SilentRequests()
        stream = channel.stream_stream(BOTH)(silence)
        assert next(stream) == b"spiffe://test.example/web first"
        authority.revoke(web)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        silence.done = True
        assert caught.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED}


class SilentRequests:
    """One request, then silence until the test is over."""

    def __init__(self) -> None:
        self.done = False
        self._sent = False

    def __iter__(self) -> SilentRequests:
        return self

    def __next__(self) -> bytes:
        import time

        if not self._sent:
            self._sent = True
            return b"first"
        while not self.done:
            time.sleep(0.01)
        raise StopIteration


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
