"""Exit codes, and the one place where an error becomes lines on stderr.

The voice: ``error:`` in lower case with the value and the bound, every violation on its own line, then ``hint:``. What
Click finds wrong with the words of a command is said in the same voice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import click

from handfast.cli.terminal import printable
from handfast.errors import Forbidden, HandfastError, Unauthenticated, Unavailable

__all__ = ["Exit", "exit_code", "explain", "explain_misuse", "forget_stdout", "leave_on_error"]


class Exit(IntEnum):
    """What scripts may rely on (contract)."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    CONFIGURATION = 78
    """EX_CONFIG of sysexits.h: a daemon refuses to start with what it was given."""
    INTERRUPTED = 130
    """128 + SIGINT, as shells say it."""


_CONFIGURATION = frozenset({"KEY_FILE_MODE", "ROOT_KEY_ONLINE"})


def exit_code(error: HandfastError) -> Exit:
    """
    >>> exit_code(Unavailable("the CA cannot be reached"))
    <Exit.UNREACHABLE: 3>
    """
    if error.reason in _CONFIGURATION:
        return Exit.CONFIGURATION
    if isinstance(error, Unavailable):
        return Exit.UNREACHABLE
    if isinstance(error, Unauthenticated | Forbidden):
        return Exit.NOT_ALLOWED
    return Exit.REFUSED


def explain(error: HandfastError) -> str:
    """The error as a person reads it, with all its reasons and the hint."""
    lines = [f"error: {error.message}"]
    if len(error.violations) > 1:
        lines += [f"  - {violation}" for violation in error.violations]
    if error.retry_after:
        lines.append(f"hint: try again in {max(1, round(error.retry_after))} s")
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(map(_shown, lines))


def _shown(line: str) -> str:
    """A message may have lines of its own, such as those of a YAML parser; other control characters are escaped."""
    return "\n".join(map(printable, line.splitlines()))


def explain_misuse(error: click.ClickException) -> str:
    """What was wrong with the words of a command, and where its help is. A group without a command shows its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    text, _, _choices = error.format_message().partition(". Choose from:")  # they stand in the argument's name already
    message = _shown(text.rstrip("."))
    lines = [f"error: {message[:1].lower()}{message[1:]}"]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"hint: `{error.ctx.command_path} --help` tells how it is used")
    return "\n".join(lines)


@contextmanager
def leave_on_error() -> Iterator[None]:
    """Turns what Handfast raises on purpose, and what the system refuses (a directory that may not be written to, a full
    disk), into a message and an exit code. Everything else is a bug and shows as one.
    """
    try:
        yield
    except HandfastError as error:
        print(explain(error), file=sys.stderr)
        raise SystemExit(exit_code(error)) from error
    except click.ClickException as error:
        print(explain_misuse(error), file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except click.Abort:
        print("interrupted", file=sys.stderr)
        raise SystemExit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        forget_stdout()
        raise SystemExit(Exit.DONE) from None
    except OSError as error:
        if error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror[:1].lower()}{error.strerror[1:]}", file=sys.stderr)
        raise SystemExit(Exit.REFUSED) from error


def forget_stdout() -> None:
    """The reader of our stdout has gone (`handfast … | head`): nothing is wrong, and the last flush must not say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
