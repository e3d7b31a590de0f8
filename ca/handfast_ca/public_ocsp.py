"""OCSP over plain HTTP: a request in a POST or in a GET's path, and what caches may do with the answer (RFC 5019)."""

from __future__ import annotations

import asyncio
import base64
import binascii
from datetime import datetime
from email.utils import format_datetime
from hashlib import sha256

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from handfast_ca.authority import Authority
from handfast_ca.metrics import CaMetrics
from handfast_ca.ocsp.question import MAX_REQUEST_BYTES
from handfast_ca.ocsp.responder import Reply, Said

__all__ = ["BODY_SECONDS", "PublicOcsp"]

BODY_SECONDS = 5.0
"""Within which a posted request must be there (threat H1)."""

LONGEST_STORED_GOOD = 60
"""Seconds for which a cache between us and a client may tell "good" on: it cannot hear of a revocation."""

_ASKED, _ANSWERED = "application/ocsp-request", "application/ocsp-response"
_NOT_STORED = {"Cache-Control": "no-store"}


class PublicOcsp:
    """Errors of OCSP are answers of HTTP: 200, with what RFC 6960, 2.3 has for them. What is no OCSP at all is not."""

    def __init__(self, authority: Authority, metrics: CaMetrics) -> None:
        self._responder = authority.responder
        self._time = authority.time
        self._metrics = metrics

    async def post(self, request: Request) -> Response:
        """RFC 6960, A.1. Answers of a POST are nobody's to store."""
        if not self._responder.signers.wanted:
            return _switched_off()
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _ASKED:
            return JSONResponse({"error": f"the content type is not {_ASKED}"}, status_code=415)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return JSONResponse({"error": f"no whole request within {BODY_SECONDS:.0f}s"}, status_code=408)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if body is None:
            return JSONResponse({"error": f"a request exceeds {MAX_REQUEST_BYTES} bytes"}, status_code=413)
        return Response((await self._answer(body)).der, media_type=_ANSWERED, headers=_NOT_STORED)

    async def get(self, request: Request) -> Response:
        """RFC 6960, A.1: base64 in the path, percent-encoded or not. Base64 has slashes, and may have two in a row."""
        if not self._responder.signers.wanted:
            return _switched_off()
        reply = await self._answer(_decoded(request.path_params["request"]))
        if reply.this_update is None or reply.next_update is None or reply.nonce or reply.said is Said.UNKNOWN:
            return Response(reply.der, media_type=_ANSWERED, headers=_NOT_STORED)
        headers = _caching(reply, reply.this_update, reply.next_update, self._time.wall())
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(reply.der, media_type=_ANSWERED, headers=headers)

    async def _answer(self, der: bytes) -> Reply:
        reply = await self._responder.answer(der)
        self._metrics.ocsp(reply.said, kept=reply.kept)
        return reply


async def _body(request: Request) -> bytes | None:
    """None when it is too large, as soon as that shows."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)


def _decoded(text: str) -> bytes:
    """What cannot be decoded is an empty request, which is malformed. A slash before it comes of a URL that ends in one;
    no request begins so.
    """
    try:
        return base64.b64decode(text.lstrip("/").encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""


def _caching(reply: Reply, this_update: datetime, next_update: datetime, now: datetime) -> dict[str, str]:
    """RFC 5019, 6.2. What is revoked stays so; what is good may change before the answer ends."""
    left = max(int((next_update - now).total_seconds()), 0)
    age = left if reply.said is Said.REVOKED else min(left, LONGEST_STORED_GOOD)
    return {
        "Last-Modified": format_datetime(this_update, usegmt=True),
        "Expires": format_datetime(next_update, usegmt=True),
        "ETag": f'"{sha256(reply.der).hexdigest()[:32]}"',
        "Cache-Control": f"max-age={age}, public, no-transform, must-revalidate",
    }


def _switched_off() -> Response:
    return JSONResponse({"error": "ocsp is switched off here"}, status_code=404)
