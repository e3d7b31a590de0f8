"""How a call ends: with an answer, with one of our errors, or, for a bug, with a number that the log explains."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc

from handfast.errors import Broken, HandfastError
from handfast.wire import codec

__all__ = ["answer", "peer_address"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


async def answer(context: grpc.aio.ServicerContext[Any, Any], work: Awaitable[T]) -> T:
    """Awaits the work; what it raises leaves as a status with its reason. A bug leaves no trace but its number."""
    try:
        return await work
    except HandfastError as error:
        problem: HandfastError = error
    except Exception:  # noqa: BLE001 - the edge: nothing crosses it unmapped
        number = secrets.token_hex(4)
        _log.exception("call %s failed", number)
        problem = Broken(f"the CA failed; its log explains it under {number}", reason="INTERNAL")
    await codec.abort(context, problem)
    raise AssertionError("abort() returned") from problem


def peer_address(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller's IP address, without port; empty when it is none (a Unix socket)."""
    kind, _, rest = context.peer().partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
