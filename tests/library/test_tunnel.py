"""The client judges its server: through the tunnel, over real connections, with a directory as the source."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from handfast.access import in_trust_domain
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Unauthenticated, Unavailable
from handfast.identity import SpiffeId
from handfast.rpc.channel import channel
from handfast.rpc.guard import Guard
from handfast.sources import DirectorySource
from handfast.testing import TestAuthority
from handfast.wire.codec import from_rpc_error
from tests.library.mesh import STREAM, UNARY, plain_sync, sync_server

SERVER = SpiffeId.parse("spiffe://test.example/server")
EVERYBODY = in_trust_domain("test.example")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def test_a_call_passes_when_the_server_is_who_it_must_be(authority: TestAuthority) -> None:
    source = authority.source("/server")
    with (
        sync_server(source, Guard(source, EVERYBODY)) as (target, _),
        channel(authority.source("/web"), target, server=SERVER) as opened,
    ):
        assert opened.unary_unary(UNARY)(b"hi", timeout=5) == b"spiffe://test.example/web hi"
        big = b"x" * 3_000_000
        assert opened.unary_unary(UNARY)(big, timeout=10).endswith(big)


def test_a_server_of_another_identity_is_not_spoken_to(authority: TestAuthority) -> None:
    source = authority.source("/impostor")
    with sync_server(source, Guard(source, EVERYBODY)) as (target, _):
        assert refusal(authority, target).reason == "WRONG_IDENTITY"


def test_a_server_of_a_foreign_root_is_not_spoken_to(authority: TestAuthority) -> None:
    """D13"""
    foreign = TestAuthority()
    source = foreign.source("/server")
    with sync_server(source, Guard(source, EVERYBODY)) as (target, _):
        error = refusal(authority, target)
        assert (type(error), error.reason) == (Unauthenticated, "UNTRUSTED")


def test_a_revoked_server_is_refused_in_the_handshake(authority: TestAuthority) -> None:
    """C6, the other direction."""
    source = authority.source("/server")
    authority.revoke(source.current())
    with sync_server(source, Guard(source, EVERYBODY)) as (target, _):
        assert refusal(authority, target).reason == "REVOKED"


def test_a_server_that_is_revoked_is_cut_while_a_stream_runs(authority: TestAuthority) -> None:
    """C6, the other direction, on a connection that is open."""
    source, web = authority.source("/server"), authority.source("/web")
    with (
        sync_server(source, Guard(source, EVERYBODY)) as (target, _),
        channel(web, target, server=SERVER) as opened,
    ):
        stream = opened.unary_stream(STREAM)(b"")
        next(stream)
        authority.revoke(source.current())
        with pytest.raises(grpc.RpcError) as cut:
            for _tick in stream:
                pass
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        # A call that was put on the connection in the moment of its cut ends with it, as the stream did.
        reasons = [call_reason(opened) for _ in range(3)]
        assert reasons[-1] == "REVOKED"
        assert set(reasons) <= {"REVOKED", "UNAVAILABLE"}
        assert opened.failure is not None
        assert opened.failure.reason == "REVOKED"


def call_reason(opened: grpc.Channel) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        opened.unary_unary(UNARY)(b"", timeout=10)
    return from_rpc_error(refused.value).reason


def test_a_server_that_is_not_there_is_named(authority: TestAuthority) -> None:
    with channel(authority.source("/web"), "localhost:1", server=SERVER) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary(UNARY)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(opened.failure, Unavailable)
        assert "localhost:1" in opened.failure.message


def refusal(authority: TestAuthority, target: str) -> HandfastError:
    with channel(authority.source("/web"), target, server=SERVER) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary(UNARY)(b"", timeout=10)
    return from_rpc_error(caught.value)


def write(directory: Path, credentials: Credentials, name: str) -> None:
    """As the agent does: a new generation, then one swap of the link."""
    generation = directory / name
    generation.mkdir()
    (generation / "tls.crt").write_bytes(credentials.chain_pem)
    (generation / "tls.key").write_bytes(credentials.key_pem)
    (generation / "ca.crt").write_bytes(credentials.bundle.roots_pem)
    (generation / "crl.pem").write_bytes(credentials.revocations.pem)
    swap(directory, name)


def swap(directory: Path, name: str) -> None:
    (directory / "..next").symlink_to(name)
    os.replace(directory / "..next", directory / "..data")


def test_a_directory_is_followed_and_a_broken_generation_changes_nothing(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """E7"""
    first, second = authority.issue("/web"), authority.issue("/web")
    write(tmp_path, first, "one")
    source = DirectorySource(tmp_path)
    news: list[Credentials | None] = []
    changed = threading.Event()
    source.subscribe(lambda credentials: (news.append(credentials), changed.set())[0])
    try:
        assert source.current().leaf == first.leaf
        mismatched = tmp_path / "broken"
        mismatched.mkdir()
        for name, data in (
            ("tls.crt", second.chain_pem),
            ("tls.key", first.key_pem),
            ("ca.crt", first.bundle.roots_pem),
        ):
            (mismatched / name).write_bytes(data)
        (tmp_path / "..next").symlink_to("broken")
        os.replace(tmp_path / "..next", tmp_path / "..data")
        assert not changed.wait(0.6)
        assert source.current().leaf == first.leaf
        authority.revoke(first)
        write(tmp_path, authority.issue("/web", key=second.key), "two")
        assert changed.wait(5)
        assert source.current().revocations.revoked(first.leaf.issuer_key_id, first.leaf.serial)
    finally:
        source.close()


def withdraw(directory: Path, credentials: Credentials, name: str) -> None:
    """As the agent does: the lists stay, and no generation with a key is left (:mod:`handfast_agent.memory`)."""
    before = (directory / "..data").resolve()
    (directory / name).mkdir()
    (directory / name / "ca.crt").write_bytes(credentials.bundle.roots_pem)
    (directory / name / "crl.pem").write_bytes(credentials.revocations.pem)
    swap(directory, name)
    shutil.rmtree(before)


def test_files_that_the_agent_took_away_are_used_no_more_and_come_back_with_a_new_certificate(
    authority: TestAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """C1, C6, D6: a service whose files are gone would learn of no revocation; it serves nobody, also on what is open."""
    older = authority.revocations
    authority.revoke(4711)
    mine, web = authority.issue("/server"), authority.source("/web")
    write(tmp_path, mine, "one")
    source = DirectorySource(tmp_path)
    news: queue.SimpleQueue[Credentials | None] = queue.SimpleQueue()
    source.subscribe(news.put)
    with (
        closing(source),
        sync_server(source, Guard(source, EVERYBODY)) as (target, _),
        channel(web, target, server=SERVER) as opened,
    ):
        assert opened.unary_unary(UNARY)(b"", timeout=60)
        with plain_sync(target, web.current()) as kept:
            stream = kept.unary_stream(STREAM)(b"")
            next(stream)
            authority.revoke(mine)
            withdraw(tmp_path, authority.issue("/server"), "two")
            assert news.get(timeout=60) is None
            with pytest.raises(Unavailable) as caught:
                source.current()
            assert caught.value.reason == "NO_CREDENTIALS"
            with pytest.raises(grpc.RpcError):
                list(stream)
            assert call_reason(kept) == "NO_CREDENTIALS"

        write(tmp_path, replace(authority.issue("/server"), revocations=older), "older")
        assert soon(lambda: "are not used" in caplog.text), caplog.text
        write(tmp_path, authority.issue("/server"), "three")
        back = news.get(timeout=60)
        assert back is not None
        assert back.revocations.revoked(mine.leaf.issuer_key_id, 4711)
        with plain_sync(target, web.current()) as again:
            assert again.unary_unary(UNARY)(b"", timeout=60)


def soon(happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not happened() and time.monotonic() < until:
        time.sleep(0.02)
    return happened()


def test_files_that_somebody_replaces_one_by_one_are_withdrawn_while_one_is_missing(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """Plain files, without generations: half of a pair is no pair."""
    first = authority.issue("/web")
    write(tmp_path, first, "plain")
    source = DirectorySource(tmp_path / "plain")
    news: queue.SimpleQueue[Credentials | None] = queue.SimpleQueue()
    source.subscribe(news.put)
    try:
        (tmp_path / "plain" / "tls.key").unlink()
        assert news.get(timeout=60) is None
        (tmp_path / "plain" / "tls.key").write_bytes(first.key_pem)
        back = news.get(timeout=60)
        assert back is not None
        assert back.leaf == first.leaf
    finally:
        source.close()


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HandfastError) as caught:
        DirectorySource(tmp_path)
    assert "tls.crt" in caught.value.message
