"""What agents offer after a restore, as messages: checkpoints and lists, bounded before anything is done with them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from handfast.errors import Invalid
from handfast.wire.v1 import authority_pb2
from handfast_ca.testimony import MAX_LIST_BYTES, Checkpoint, Claim

__all__ = ["MAX_CLAIMS", "read_checkpoint", "read_list"]

MAX_CLAIMS = 8
_NUMBER_BYTES = 20


def read_checkpoint(message: authority_pb2.Checkpoint) -> Checkpoint:
    """Raises ``Invalid`` (``CHECKPOINT``)."""
    if len(message.lists) > MAX_CLAIMS:
        raise Invalid(f"{len(message.lists)} lists in a checkpoint, at most {MAX_CLAIMS}", reason="CHECKPOINT")
    return Checkpoint(tuple(_claim(one) for one in message.lists), message.bundle_sequence)


def _claim(one: authority_pb2.CheckpointList) -> Claim:
    if len(one.number) > _NUMBER_BYTES:
        raise Invalid(f"a CRL number of {len(one.number)} octets, at most {_NUMBER_BYTES}", reason="CHECKPOINT")
    if len(one.sha256) != 32:
        raise Invalid(f"a SHA-256 digest of {len(one.sha256)} octets", reason="CHECKPOINT")
    return Claim(one.issuer_key_id, int.from_bytes(one.number, "big"), one.sha256, one.held)


async def read_list(parts: AsyncIterator[authority_pb2.CrlPart]) -> bytes:
    """Raises ``Invalid`` (``LIST_TOO_LONG``) at the first part that is too much."""
    der = bytearray()
    async for part in parts:
        der += part.der
        if len(der) > MAX_LIST_BYTES:
            raise Invalid(f"the list is longer than {MAX_LIST_BYTES} octets", reason="LIST_TOO_LONG")
    return bytes(der)
