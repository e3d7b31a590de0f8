"""Reads, runs and rewrites transcripts: texts that show commands and what they print, pages of ``docs/`` among them.

| line | means |
|---|---|
| ``$ handfast …`` | a command, run in a directory of the test's own; ``{NAME}`` in it is from an ``@let``, or ``{GRPC}``, ``{HTTP}``, … |
| ``! …`` | a line on stderr; every other line below a command is on stdout |
| ``[exit N]`` | the exit code, where it is not 0 |
| ``@let NAME $ handfast …`` | runs a command that must succeed, and keeps its stdout under a name |
| ``@stop``, ``@start`` | the CA |
| ``# …``, a fence of Markdown | for the reader; ends the output of the command above |

What differs from run to run (times, serials, ports, …) stands there as ``<TIME>``, ``<SERIAL>`` and so on; runs of spaces in
the middle of a line count as two. ``TRANSCRIPTS=write`` with pytest writes what is seen instead of comparing it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.ca_serve.process import Done, RunningServe, handfast

__all__ = ["Session", "replay"]

ADDRESSES = ("grpc", "enrol", "http")
_PEM = re.compile(r"(-----BEGIN [A-Z0-9 ]+-----\n).*?(-----END)", re.DOTALL)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), placeholder)
    for pattern, placeholder in (
        (r"hft_[\w-]{43}", "<TOKEN>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\+00:00)", "<TIME>"),
        (r"sha256:[0-9a-f]{64}", "<FINGERPRINT>"),
        (r"\b\d{8}T\d{6}Z", "<STAMP>"),
        (r'"bytes": \d+', '"bytes": <BYTES>'),
        (r'"monotonic": [\d.]+', '"monotonic": <SECONDS>'),
        (r'"boot": "[0-9a-f-]{36}"', '"boot": "<BOOT>"'),
        (r"\b[0-9a-f]{64}\b", "<SHA-256>"),
        (r"\b[0-9a-f]{40}\b", "<KEY-ID>"),
        (r"\b[0-9a-f]{26,32}\b", "<SERIAL>"),
        (r"\b[0-9a-f]{16}…", "<HASH>…"),
        (r"\b1\d{9}:(?=\d+\b)", "<EPOCH>:"),
        (r"(root|issuing CA) [0-9a-f]{8}\b", r"\1 <ID>"),
        (r"\b(?:\d+[dhms])+ left", "<DURATION> left"),
        (r'_after": "\w+"', '_after": "<DURATION>"'),
        (r"\d+% of its life", "<SHARE> of its life"),
        (r"(Python|cryptography|grpcio|Handfast|handfast(?:-\w+)?) \d+\.\d+\.\d+", r"\1 <VERSION>"),
        (r'"version": "\d+\.\d+\.\d+"', '"version": "<VERSION>"'),
        (r"(?<=\S) {2,}", "  "),
    )
)


@dataclass
class Session:
    """One CA, one directory, and the values that a transcript has named."""

    ca: RunningServe | None
    directory: Path
    values: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ca is not None:
            self.values |= {name.upper(): getattr(self.ca, name) for name in ADDRESSES}

    def run(self, command: str) -> Done:
        words = [self._filled(word) for word in shlex.split(command)]
        assert words[0] == "handfast", command
        context = Path("none.yaml") if self.ca is None else self.ca.context
        done = handfast(*words[1:], context=context, COLUMNS="100", TERM="dumb")
        wants_json = any(pair in (("-o", "json"), ("--output", "json")) for pair in pairwise(words))
        if wants_json and done.out:
            json.loads(done.out)  # exactly one document
        return done

    def let(self, name: str, command: str) -> None:
        self.values[name] = self.run(command).check().out.strip()

    def switch(self, word: str) -> None:
        assert self.ca is not None
        if word == "@stop":
            self.ca.stop()
        else:
            self.ca.start()

    def shown(self, done: Done) -> list[str]:
        """Both channels and the exit code, with placeholders for what differs from run to run."""
        lines = self._normal(done.out).splitlines()
        lines += [f"! {line}".rstrip() for line in self._normal(done.err).splitlines()]
        return [*lines, f"[exit {done.code}]"] if done.code else lines

    def _filled(self, word: str) -> str:
        return re.sub(r"\{([A-Z_]+)\}", lambda found: self.values[found[1]], word)

    def _normal(self, text: str) -> str:
        text = text.replace(str(self.directory), "<DIR>")
        if self.ca is not None:
            text = text.replace(str(self.ca.directory), "<CA>")
            for name in ADDRESSES:
                text = text.replace(getattr(self.ca, name), f"<{name.upper()}>")
                port = getattr(self.ca, name).rpartition(":")[2]
                text = re.sub(rf"\b{port}\b", f"<{name.upper()}-PORT>", text)
        text = _PEM.sub(r"\1…\n\2", text)
        for pattern, placeholder in _RULES:
            text = pattern.sub(placeholder, text)
        return text


def replay(file: Path, session: Session) -> None:
    """Runs every command of the file. Raises ``AssertionError`` with the first one that is not as it stands there."""
    before = file.read_text("utf-8")
    seen = "\n".join(_replayed(before.splitlines(), session)) + "\n"
    seen = seen.replace("\n\n```\n", "\n```\n")  # no empty line between the last output and a closing fence
    if os.environ.get("TRANSCRIPTS") == "write":
        file.write_text(seen, "utf-8")
    else:
        assert seen == before


def _replayed(lines: list[str], session: Session) -> Iterator[str]:
    below = False  # a command's expected output is dropped; what is seen takes its place
    for line in lines:
        if line.startswith("$ handfast "):
            below = True
            yield line
            yield from session.shown(session.run(line.removeprefix("$ ")))
            yield ""
            continue
        below = below and not line.startswith(("@", "#", "```"))
        if below:
            continue
        if line.startswith("@let "):
            _, name, _, command = line.split(maxsplit=3)
            session.let(name, command)
        elif line in ("@stop", "@start"):
            session.switch(line)
        yield line
