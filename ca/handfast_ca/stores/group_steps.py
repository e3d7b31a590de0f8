"""Steps for many certificates at once, on one transaction: each has its own outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from handfast.errors import HandfastError
from handfast_ca.ledger import CertificateRecord, Completion, Intention
from handfast_ca.stores.certificate_steps import complete, intend
from handfast_ca.stores.prepared import Transaction

__all__ = ["complete_all", "intend_all"]

A = TypeVar("A")
T = TypeVar("T")


def intend_all(
    transaction: Transaction, intentions: Sequence[Intention]
) -> list[CertificateRecord | HandfastError | None]:
    return [_outcome(partial(intend, transaction, one)) for one in intentions]


def complete_all(
    transaction: Transaction, completions: Sequence[Completion]
) -> list[CertificateRecord | HandfastError]:
    return [_outcome(partial(complete, transaction, one.serial, one.issuer_key_id, one.der)) for one in completions]


def _outcome(step: Callable[[], T]) -> T | HandfastError:
    try:
        return step()
    except HandfastError as error:
        return error
