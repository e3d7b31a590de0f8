"""Channels outlive every certificate: rotations under load lose no call, and what runs ends where it began."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from handfast.access import in_trust_domain
from handfast.errors import Invalid
from handfast.rpc.aio_channel import AioChannel, aio_channel, aio_plain_channel
from handfast.rpc.channel import Channel, channel, plain_channel
from handfast.rpc.guard import AioGuard, Guard
from handfast.sources import StaticSource
from handfast.testing import TestAuthority
from handfast.wire.codec import from_rpc_error
from tests.library.mesh import BOTH, COLLECT, STREAM, UNARY, aio_server, sync_server

SERVER = "spiffe://test.example/server"
EVERYBODY = in_trust_domain("test.example")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def tunnelled_aio(source: StaticSource, target: str) -> AioChannel:
    return aio_channel(source, target, server=SERVER)


def tunnelled(source: StaticSource, target: str) -> Channel:
    return channel(source, target, server=SERVER)


both_aio = pytest.mark.parametrize("opening", [tunnelled_aio, aio_plain_channel], ids=["tunnel", "plain"])
both_sync = pytest.mark.parametrize("opening", [tunnelled, plain_channel], ids=["tunnel", "plain"])


async def swapped(opened: AioChannel | Channel, before: object) -> None:
    """Waits until another generation serves than ``before``."""
    async with asyncio.timeout(10):
        while opened._rotation.present is before:
            await asyncio.sleep(0.005)


async def test_where_no_new_connection_can_be_made_ready_the_present_one_goes_on_and_it_is_tried_again(
    authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """J4: the private directory is gone, as a full disk or too many open files would have it; then it is there again."""
    source, web = authority.source("/server"), authority.source("/web")
    async with aio_server(source, AioGuard(source, EVERYBODY)) as (target, _), tunnelled_aio(web, target) as opened:
        unary = opened.unary_unary(UNARY)
        await opened.channel_ready()
        before, folder = opened._rotation.present, Path(opened._rotation._folder.name)
        aside = folder.rename(folder.with_name(f"{folder.name}.aside"))
        authority.rotate(web)
        async with asyncio.timeout(10):
            while "no new connection can be made ready" not in caplog.text:
                await asyncio.sleep(0.005)
        assert await unary(b"x", timeout=10) == b"spiffe://test.example/web x"
        aside.rename(folder)
        await swapped(opened, before)
        assert await unary(b"x", timeout=10) == b"spiffe://test.example/web x"


@both_aio
async def test_rotations_under_load_lose_no_call_and_no_stream(
    authority: TestAuthority, opening: Callable[[StaticSource, str], AioChannel]
) -> None:
    """Client, server and list change twenty times while calls and streams run."""
    source, web = authority.source("/server"), authority.source("/web")
    stop = asyncio.Event()
    async with aio_server(source, AioGuard(source, EVERYBODY)) as (target, _), opening(web, target) as opened:
        unary, chat = opened.unary_unary(UNARY), opened.stream_stream(BOTH)
        await opened.channel_ready()
        serials: set[int] = set()

        async def call() -> int:
            done = 0
            while not stop.is_set():
                assert await unary(b"x", timeout=10) == b"spiffe://test.example/web x"
                done += 1
            return done

        async def talk() -> int:
            done = 0

            async def words() -> AsyncIterator[bytes]:
                while not stop.is_set():
                    yield b"word"
                    await asyncio.sleep(0.002)

            async for _answer in chat(words()):
                done += 1
            return done

        load = [asyncio.create_task(work()) for work in (call, call, talk)]
        for turn in range(20):
            before = opened._rotation.present
            authority.rotate(web)
            if turn % 3 == 0:
                authority.rotate(source)
                authority.refresh_list()
            await swapped(opened, before)
            connection = opened._rotation.present.line.connection
            assert connection is not None
            serials.add(connection.own.serial)
        stop.set()
        counts = await asyncio.gather(*load)
        assert min(counts) > 0
        assert len(serials) == 20
        # The chat began on the first generation and stays there; all between have ended.
        async with asyncio.timeout(5):
            while opened._rotation._draining:
                await asyncio.sleep(0.01)


@both_sync
def test_sync_rotations_under_load_lose_no_call_and_no_stream(
    authority: TestAuthority, opening: Callable[[StaticSource, str], Channel]
) -> None:
    source, web = authority.source("/server"), authority.source("/web")
    stop = threading.Event()
    with sync_server(source, Guard(source, EVERYBODY)) as (target, _), opening(web, target) as opened:
        unary, chat = opened.unary_unary(UNARY), opened.stream_stream(BOTH)
        grpc.channel_ready_future(opened).result(timeout=5)

        def call() -> int:
            done = 0
            while not stop.is_set():
                assert unary(b"x", timeout=10) == b"spiffe://test.example/web x"
                assert unary.future(b"y", timeout=10).result() == b"spiffe://test.example/web y"
                done += 1
            return done

        def talk() -> int:
            def words() -> Iterator[bytes]:
                while not stop.wait(0.002):
                    yield b"word"

            return sum(1 for _answer in chat(words()))

        with ThreadPoolExecutor(3) as pool:
            load = [pool.submit(work) for work in (call, call, talk)]
            try:
                for _ in range(15):
                    before = opened._rotation.present
                    authority.rotate()
                    wait_until(lambda before=before: opened._rotation.present is not before)  # type: ignore[misc]
            finally:
                stop.set()
            assert min(done.result() for done in load) > 0
        wait_until(lambda: not opened._rotation._draining)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


async def test_a_connection_is_made_anew_before_the_servers_leaf_expires(authority: TestAuthority) -> None:
    """A connection shows one leaf for ever; the tunnel would have to cut it at its notAfter, and lose calls."""
    source = authority.source("/server", lifetime=timedelta(seconds=4))
    web = authority.source("/web")
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        aio_channel(web, target, server=SERVER) as opened,
    ):
        unary = opened.unary_unary(UNARY)
        await unary(b"", timeout=5)
        first = opened._rotation.present
        authority.rotate(source)
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            await unary(b"", timeout=5)
            if opened._rotation.present is not first:
                break
            await asyncio.sleep(0.02)
        assert opened._rotation.present is not first


async def test_a_server_that_is_away_during_a_rotation_changes_nothing(authority: TestAuthority) -> None:
    source, web = authority.source("/server"), authority.source("/web")
    async with aio_server(source, AioGuard(source, EVERYBODY)) as (target, _):
        opened = aio_channel(web, target, server=SERVER)
        unary = opened.unary_unary(UNARY)
        await unary(b"", timeout=5)
    authority.rotate(web)
    with pytest.raises(grpc.aio.AioRpcError) as away:
        await unary(b"", timeout=5)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    assert opened.failure is not None
    assert target in opened.failure.message
    await opened.close()


async def test_a_revoked_server_is_refused_with_the_reason_and_welcome_again_with_a_new_certificate(
    authority: TestAuthority,
) -> None:
    """C6, the other direction."""
    source, web = authority.source("/server"), authority.source("/web")
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        aio_channel(web, target, server=SERVER) as opened,
    ):
        unary = opened.unary_unary(UNARY)
        await unary(b"", timeout=5)
        stream = opened.unary_stream(STREAM)(b"")
        assert await stream.read() == b"spiffe://test.example/web"
        authority.revoke(source.current())
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await stream.read()
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(b"", timeout=5, wait_for_ready=True)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert from_rpc_error(refused.value).reason == "REVOKED"
        authority.rotate(source)
        authority.refresh_list()  # news of any kind ends the refusal at once
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await unary(b"back", timeout=5) == b"spiffe://test.example/web back"
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)


async def test_credentials_that_are_withdrawn_end_calls_with_the_reason(authority: TestAuthority) -> None:
    source, web = authority.source("/server"), authority.source("/web")
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        aio_channel(web, target, server=SERVER) as opened,
    ):
        unary = opened.unary_unary(UNARY)
        await unary(b"", timeout=5)
        web.publish(None)
        async with asyncio.timeout(5):
            while opened._rotation.present.line.connection is not None:
                await asyncio.sleep(0.005)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(b"", timeout=5, wait_for_ready=True)
        assert from_rpc_error(refused.value).reason == "NO_CREDENTIALS"


@both_aio
async def test_every_kind_of_call_passes(
    authority: TestAuthority, opening: Callable[[StaticSource, str], AioChannel]
) -> None:
    source = authority.source("/server")
    async with (
        aio_server(source, AioGuard(source, EVERYBODY)) as (target, _),
        opening(authority.source("/web"), target) as opened,
    ):
        await opened.channel_ready()
        assert opened.get_state() is grpc.ChannelConnectivity.READY
        assert await opened.unary_unary(UNARY)(b"a") == b"spiffe://test.example/web a"
        assert await opened.stream_unary(COLLECT)(iter([b"a", b"b"])) == b"ab"
        stream = opened.unary_stream(STREAM)(b"")
        assert await stream.read() == b"spiffe://test.example/web"
        stream.cancel()
        both = opened.stream_stream(BOTH)(iter([b"a"]))
        assert [answer async for answer in both] == [b"spiffe://test.example/web a"]
        async with asyncio.timeout(5):
            while opened._rotation.present.calls:
                await asyncio.sleep(0.005)


@both_sync
def test_every_kind_of_sync_call_passes(
    authority: TestAuthority, opening: Callable[[StaticSource, str], Channel]
) -> None:
    source = authority.source("/server")
    with (
        sync_server(source, Guard(source, EVERYBODY)) as (target, _),
        opening(authority.source("/web"), target) as opened,
    ):
        grpc.channel_ready_future(opened).result(timeout=5)
        assert opened.unary_unary(UNARY)(b"a") == b"spiffe://test.example/web a"
        answer, call = opened.unary_unary(UNARY).with_call(b"b")
        assert (answer, call.code()) == (b"spiffe://test.example/web b", grpc.StatusCode.OK)
        assert opened.stream_unary(COLLECT)(iter([b"a", b"b"])) == b"ab"
        stream = opened.unary_stream(STREAM)(b"")
        assert next(stream) == b"spiffe://test.example/web"
        stream.cancel()
        assert list(opened.stream_stream(BOTH)(iter([b"a"]))) == [b"spiffe://test.example/web a"]
        wait_until(lambda: opened._rotation.present.calls == 0)


async def test_closing_with_grace_lets_calls_end(authority: TestAuthority) -> None:
    source = authority.source("/server")
    async with aio_server(source, AioGuard(source, EVERYBODY)) as (target, _):
        opened = aio_channel(authority.source("/web"), target, server=SERVER)
        call = opened.unary_unary(UNARY)(b"last")
        await opened.close(grace=5)
        assert await call == b"spiffe://test.example/web last"


@pytest.mark.parametrize("target", ["localhost", "localhost:", ":1", "localhost:70000", "dns:///localhost:http"])
def test_an_address_that_is_none_is_refused(authority: TestAuthority, target: str) -> None:
    with pytest.raises(Invalid) as caught:
        channel(authority.source("/web"), target, server=SERVER)
    assert caught.value.reason == "INVALID_ADDRESS"


def test_a_server_identity_that_is_none_is_refused(authority: TestAuthority) -> None:
    with pytest.raises(Invalid):
        channel(authority.source("/web"), "localhost:1", server="server")
