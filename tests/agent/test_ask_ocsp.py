"""A responder that is none: whatever stands at the address, the agent hears one error, and lives."""

from __future__ import annotations

import asyncio

import pytest

from handfast.errors import Unavailable
from handfast_agent.ocsp_http import MAX_ANSWER_BYTES, ask_ocsp
from tests.ca_serve.process import free_ports

NOISE = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a refusal": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    "a redirect to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "less than it promised": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
}


async def answered(answer: bytes, *, then_silence: bool = False, within: float = 10.0) -> bytes:
    """What comes of it when somebody answers so."""
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if then_silence:
            await reader.read()  # until the asker hangs up
        writer.close()
        ended.set()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await ask_ocsp(f"http://127.0.0.1:{port}/ocsp", b"request", within=within)
        finally:
            await ended.wait()


@pytest.mark.parametrize("answer", NOISE.values(), ids=NOISE.keys())
async def test_noise_is_no_answer(answer: bytes) -> None:
    with pytest.raises(Unavailable) as caught:
        await answered(answer)
    assert caught.value.reason == "OCSP_NO_ANSWER"


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
async def test_who_never_ends_is_hung_up_on(begun: bytes) -> None:
    """H1, as a client: in the head and in the body; the connection is closed, and with it the thread's wait."""
    with pytest.raises(Unavailable) as caught:
        await answered(begun, then_silence=True, within=0.2)
    assert caught.value.reason == "OCSP_NO_ANSWER"


async def test_more_than_an_answer_can_have_is_cut() -> None:
    """H3: the verifier refuses what is left of it."""
    body = b"\x30" * (2 * MAX_ANSWER_BYTES)
    got = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert len(got) == MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    "url", ["nonsense", "file:///etc/passwd", "ldap://ca/ocsp", "http://[::1", "http://127.0.0.1:{}/"]
)
async def test_an_address_that_is_none_or_where_nobody_is_is_one_error(url: str) -> None:
    with pytest.raises(Unavailable):
        await ask_ocsp(url.format(*free_ports(1)), b"request")
