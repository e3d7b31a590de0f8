"""Callers of these tests: plain ``ssl`` and HTTP/1.1, so that nothing but the program under test judges."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handfast.credentials import Credentials
from tests.consumers.programs import eventually

PATIENCE = 30.0


def context_of(credentials: Credentials | None, roots: bytes | None = None) -> ssl.SSLContext:
    """A client's context that checks name and path, and no revocation."""
    trusted = roots if roots is not None else credentials and credentials.bundle.roots_pem
    assert trusted
    context = ssl.create_default_context(cadata=trusted.decode())
    if credentials is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(credentials.key_pem + credentials.chain_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def files_context(directory: Path) -> ssl.SSLContext:
    """The same, of the files that ``handfast cert issue`` or an agent wrote."""
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(str(directory / "credentials.pem"))
    return context


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` is 0 when there was none; ``serial`` is of the server's leaf; ``last`` when the server says that it closes."""

    status: int
    body: bytes = b""
    serial: int = 0
    error: str = ""
    last: bool = False

    @property
    def good(self) -> bool:
        return self.status == 200


class Asker:
    """One connection that is kept open for one request after another."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._http = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
        self.serial = 0

    def ask(self, path: str = "/") -> Answer:
        """Connects when it is not yet. Never connects again: a connection that was closed is an answer without status."""
        try:
            if not self.serial:
                self._http.connect()
                self._http.auto_open = 0
                assert isinstance(self._http.sock, ssl.SSLSocket)
                certificate = self._http.sock.getpeercert()
                assert certificate is not None
                self.serial = int(str(certificate["serialNumber"]), 16)
            self._http.request("GET", path)
            response = self._http.getresponse()
            closes = response.getheader("Connection") == "close"
            return Answer(response.status, response.read(), self.serial, last=closes)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, serial=self.serial, error=repr(error))

    def wait_for_the_end(self) -> bool:
        """True when the other side closes the connection, False when it does not in half a minute."""
        try:
            return self._http.sock.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(port: int, context: ssl.SSLContext, path: str = "/") -> Answer:
    """One request over a connection of its own."""
    with Asker(port, context) as asker:
        return asker.ask(path)


def leaf_of(port: int, context: ssl.SSLContext) -> int:
    """The serial of the certificate that a new connection gets, from a server of whatever speaks over TLS."""
    with (
        socket.create_connection(("localhost", port), PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)


def refusal(port: int, context: ssl.SSLContext) -> str:
    """The alert that ends a handshake. Nothing is sent before it comes: a request on its way could cost the alert."""
    try:
        with (
            socket.create_connection(("localhost", port), PATIENCE) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            connection.recv(1)
    except OSError as error:
        return str(error)
    return ""


@dataclass
class Seen:
    """What a load saw: each server certificate with its answers, and each request that failed."""

    serials: set[int] = field(default_factory=set)
    asked: int = 0
    failed: list[Answer] = field(default_factory=list)

    async def answer_with(self, serial: int, said: Callable[[], str]) -> None:
        """Waits until the server's certificate with this serial was seen."""
        await eventually(lambda: serial in self.serials, said)


@contextlib.asynccontextmanager
async def load(port: int, context: ssl.SSLContext, kept: Asker | None = None) -> AsyncIterator[Seen]:
    """Asks without a pause until the block ends: over ``kept``, or each time over a new connection."""
    seen, over = Seen(), threading.Event()

    def go_on() -> None:
        while not over.is_set():
            answer = kept.ask() if kept is not None else ask(port, context)
            seen.asked += 1
            if answer.good:
                seen.serials.add(answer.serial)
            else:
                seen.failed.append(answer)

    working = asyncio.create_task(asyncio.to_thread(go_on))
    try:
        yield seen
    finally:
        over.set()
        await working


def resumes(port: int, context: ssl.SSLContext) -> bool:
    """Whether a second handshake is let off with the session of the first."""
    with _spoken(port, context, None) as first:
        session = first.session
    if session is None or not session.has_ticket:
        return False
    with _spoken(port, context, session) as second:
        return bool(second.session_reused)


@contextlib.contextmanager
def _spoken(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("localhost", port), PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(4096)
        yield connection
