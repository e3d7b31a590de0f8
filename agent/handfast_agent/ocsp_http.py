"""Asks an OCSP responder over HTTP (RFC 6960, A.1): directly, without redirects, and not for longer than ten seconds.

The address is plain HTTP, so that anybody on the way may answer, slowly or for ever. Whatever comes is one error.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from urllib.parse import SplitResult, urlsplit

from handfast.errors import Unavailable

__all__ = ["MAX_ANSWER_BYTES", "TOTAL_SECONDS", "ask_ocsp"]

MAX_ANSWER_BYTES = 64 * 1024
SILENCE_SECONDS = 5.0
TOTAL_SECONDS = 10.0
_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


async def ask_ocsp(url: str, request: bytes, *, within: float = TOTAL_SECONDS) -> bytes:
    """What stands in the answer to a DER request, not yet believed. Raises ``Unavailable`` (``OCSP_NO_ANSWER``)."""
    held: list[socket.socket] = []
    try:
        address = urlsplit(url)
        connection = _CONNECTIONS[address.scheme](address.netloc, timeout=min(SILENCE_SECONDS, within))
        async with asyncio.timeout(within):
            return await asyncio.to_thread(_talk, connection, address, request, held)
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"the OCSP responder at {url} cannot be asked: {why}", reason="OCSP_NO_ANSWER") from error
    finally:
        # The thread may still wait for a byte: it must not be missing where files are written.
        for one in held:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _talk(
    connection: http.client.HTTPConnection, address: SplitResult, request: bytes, held: list[socket.socket]
) -> bytes:
    try:
        connection.connect()
        held.append(connection.sock)
        connection.request("POST", address.path or "/", request, {"Content-Type": "application/ocsp-request"})
        with connection.getresponse() as answer:
            if answer.status != http.client.OK:
                raise http.client.HTTPException(f"status {answer.status}")
            return answer.read(MAX_ANSWER_BYTES)
    finally:
        connection.close()
