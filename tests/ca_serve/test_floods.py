"""Connections that say nothing, or too much, at a CA that runs: they go, and whoever is honest is served meanwhile."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from handfast_ca.public_port import MAX_HEAD_BYTES
from handfast_ca.serve import MAX_METADATA_BYTES, MAX_STREAMS
from tests.ca_serve.process import RunningServe

IDLE = 300
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    directory: Path = tmp_path_factory.mktemp("floods")
    with RunningServe.initialised(directory / "ca") as running:
        yield running


@contextmanager
def idle(address: str, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that never say more than ``first``."""
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(IDLE)]
        for one in opened:
            one.sendall(first)
        yield opened


def is_closed(connection: socket.socket) -> bool:
    """Waits for the other side's end; what it still says is read over. It fails by its timeout of a minute."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("port", ["grpc", "enrol"])
def test_three_hundred_idle_sockets_are_closed_and_an_honest_client_is_served(ca: RunningServe, port: str) -> None:
    """H1, H2: without a handshake nobody stays."""
    with idle(getattr(ca, port)) as sockets:
        ca.handfast("status").check()
        assert all(is_closed(one) for one in sockets)
        ca.handfast("status").check()


@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\nX: "], ids=["silent", "half a head"])
def test_three_hundred_sockets_without_a_request_are_closed_and_the_list_is_served(
    ca: RunningServe, first: bytes
) -> None:
    """H1: over HTTP."""
    with idle(ca.http, first) as sockets:
        assert ca.get("/bundle.pem")[0] == 200
        assert all(is_closed(one) for one in sockets)
        assert ca.get("/bundle.pem")[0] == 200


def test_a_second_request_may_not_dawdle_either(ca: RunningServe) -> None:
    """H1: the time for a head begins anew with each request of a connection."""
    host, _, port = ca.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /livez HTT")
        assert is_closed(connection)


def test_a_head_that_does_not_end_within_16_kib_is_no_request(ca: RunningServe) -> None:
    """H3: over HTTP, one byte beyond the limit, and no end of the head in sight."""
    host, _, port = ca.http.rpartition(":")
    start = b"GET /livez HTTP/1.1\r\nHost: ca\r\nX: "
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(start + b"x" * (MAX_HEAD_BYTES + 1 - len(start)))
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(start + b"x" * (MAX_HEAD_BYTES - len(start) - 4) + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_connection_is_told_how_many_calls_and_how_much_metadata_it_may_send(ca: RunningServe) -> None:
    """H3: the server's SETTINGS (RFC 9113, 6.5), as every client reads them before it calls."""
    operator = ca.directory / "operator"
    context = ssl.create_default_context(cafile=operator / "ca.crt")
    context.load_cert_chain(operator / "tls.crt", operator / "tls.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = ca.grpc.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        stream = tls.makefile("rb")
        header = stream.read(9)
        assert header[3] == 4, "the first frame is SETTINGS"
        payload = stream.read(int.from_bytes(header[:3], "big"))
    settings = dict(struct.iter_unpack(">HI", payload))
    assert (settings[3], settings[6]) == (MAX_STREAMS, MAX_METADATA_BYTES)
