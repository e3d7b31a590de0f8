"""Tells the CA what the agent knows of it. A CA that was restored from a backup learns from that what it lost (threat J9)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from handfast.wire import codec
from handfast.wire.v1 import authority_pb2
from handfast_agent.trust import Trust

__all__ = ["checkpoint", "offer", "parts"]

_log = logging.getLogger(__name__)
MAX_LISTS = 8
PART_BYTES = 32 * 1024
OFFER_SECONDS = 60.0
_NUMBER_BYTES = 20


async def offer(stub: Any, trust: Trust) -> None:
    """Sends the checkpoint, then each list that the CA asks for. Never raises what the CA answers: following trust goes first,
    and a CA of before does not know the question.
    """
    try:
        answer = await stub.OfferCheckpoint(checkpoint(trust), timeout=OFFER_SECONDS)
        for der in trust.list_ders():
            if hashlib.sha256(der).digest() in answer.wanted:
                done = await stub.OfferCrl(parts(der), timeout=OFFER_SECONDS)
                _log.warning("the CA asked for the CRL that this agent holds, and learnt %d revocations", done.learnt)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            _log.warning("the CA did not take the checkpoint: %s", codec.from_rpc_error(error).message)


def checkpoint(trust: Trust) -> authority_pb2.Checkpoint:
    """The highest of what was ever accepted, also when the list itself is gone."""
    held = {hashlib.sha256(der).digest() for der in trust.list_ders()}
    marks = [(key_id, mark, bytes.fromhex(mark.digest)) for key_id, mark in trust.marks.lists.items()]
    return authority_pb2.Checkpoint(
        lists=[
            authority_pb2.CheckpointList(
                issuer_key_id=key_id,
                number=mark.number.to_bytes(_NUMBER_BYTES, "big"),
                this_update=codec.time_to_wire(mark.this_update),
                sha256=digest,
                held=digest in held,
            )
            for key_id, mark, digest in marks[:MAX_LISTS]
        ],
        bundle_sequence=trust.marks.bundle.sequence,
    )


def parts(der: bytes) -> Iterator[authority_pb2.CrlPart]:
    """In order, each small enough for one message."""
    for start in range(0, len(der), PART_BYTES):
        yield authority_pb2.CrlPart(der=der[start : start + PART_BYTES])
