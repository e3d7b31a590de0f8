"""Reads an audit trail like a stranger, and says what was changed, removed, moved or cut off."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handfast_ca.audit_trail import START, Position

__all__ = ["AuditProblem", "AuditReport", "head_path", "read_head", "read_record", "verify_audit"]

MAX_PROBLEMS = 20
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""All that JSON of a stranger can make of itself: no line may stop the reader."""
_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}\n', re.DOTALL)


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """``line`` counts from 1. ``reason``: ``CHANGED``, ``REMOVED``, ``MOVED``, ``CUT_OFF`` or ``HEAD_MISSING``."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """``unfinished``: the last line is still being written, or a crash stopped it; it was never acknowledged."""

    lines: int
    position: Position
    problems: tuple[AuditProblem, ...]
    unfinished: bool = False

    @property
    def intact(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Record:
    """What the chain needs of one line."""

    position: Position
    prev: str
    genuine: bool


def read_record(line: bytes) -> Record | None:
    """None when the line is not one of ours at all."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        fields = json.loads(match[1] + b"}")
        seq, prev = fields["seq"], fields["prev"]
    except _UNREADABLE:
        return None
    stated = match[2].decode("ascii")
    genuine = hashlib.sha256(match[1]).hexdigest() == stated
    return Record(Position(seq, stated), prev, genuine) if isinstance(seq, int) and isinstance(prev, str) else None


def head_path(trail: Path) -> Path:
    return trail.with_name(trail.name + ".head")


def read_head(data: bytes) -> Position | None:
    """The position kept beside the trail; None when there is none, or none that can be read."""
    try:
        head = json.loads(data)
        return Position(int(head["seq"]), str(head["hash"]))
    except _UNREADABLE:
        return None


def verify_audit(path: Path, *, at_least: int = 0) -> AuditReport:
    """Reads the whole trail. ``at_least`` is a number of lines known from elsewhere: the ledger's mark, an older
    report.

    What it can't find: a forgery of the whole trail together with its head and every other place that remembers it.
    """
    problems: list[AuditProblem] = []
    after, count, unfinished = START, 0, False
    head = _stored_head(path)
    with path.open("rb") as trail:
        for count, line in enumerate(trail, start=1):
            if not line.endswith(b"\n"):
                unfinished, count = True, count - 1
                break
            record = read_record(line)
            problems += _problems(count, record, after, head)
            after = record.position if record is not None else Position(after.seq + 1, "")
    problems += _missing_end(count, after, head, at_least)
    return AuditReport(count, after, tuple(problems[:MAX_PROBLEMS]), unfinished)


def _stored_head(path: Path) -> Position | None:
    try:
        return read_head(head_path(path).read_bytes())
    except FileNotFoundError:
        return None


def _problems(line: int, record: Record | None, after: Position, head: Position | None) -> Iterator[AuditProblem]:
    if record is None or not record.genuine:
        yield AuditProblem(line, "CHANGED", f"line {line} is not what was written")
        return
    seq, expected = record.position.seq, after.seq + 1
    if seq > expected:
        yield AuditProblem(line, "REMOVED", f"{_span(expected, seq - 1)} missing before line {line}")
    elif seq < expected:
        yield AuditProblem(line, "MOVED", f"record {seq} stands where record {expected} belongs")
    elif after.hash and record.prev != after.hash:
        yield AuditProblem(line, "CHANGED", f"record {seq} does not follow from the record before it")
    if head is not None and head.seq == seq and head.hash != record.position.hash:
        yield AuditProblem(line, "CHANGED", f"record {seq} is not the one that the head file remembers")


def _missing_end(lines: int, last: Position, head: Position | None, at_least: int) -> Iterator[AuditProblem]:
    if head is None and lines:
        yield AuditProblem(lines, "HEAD_MISSING", "the head file beside the trail is missing or cannot be read")
    remembered = max(head.seq if head else 0, at_least)
    if last.seq < remembered:
        yield AuditProblem(lines + 1, "CUT_OFF", f"{_span(last.seq + 1, remembered)} missing at the end")


def _span(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
