"""The main job as a stranger sees it: one command, real processes, a table at the end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

DEMO = [sys.executable, "-m", "handfast", "demo"]
pytestmark = pytest.mark.timeout(180)


def test_the_demo_rotates_without_a_failed_call_and_refuses_what_was_revoked(tmp_path: Path) -> None:
    """C6: exit code 0 says that each step was seen; the document says what was measured. A temporary directory with a long
    path is no trouble to any socket.
    """
    deep = tmp_path / ("a" * 90)
    deep.mkdir()
    done = subprocess.run(
        [*DEMO, "--seconds", "3", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "TMPDIR": str(deep)},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["failed_calls"] == 0
    assert seen["rotations"] >= 4
    assert seen["calls"] > 100
    assert seen["stream_messages"] > 100
    client = (seen["refused_with"], seen["new_connection_refused_with"])
    assert (*client, seen["server_refused_with"]) == ("REVOKED", "REVOKED", "REVOKED")
    moments = ("client_call_refused_ms", "client_stream_ended_ms", "server_call_refused_ms", "server_stream_cut_ms")
    assert all(seen[moment] > -seen["revoke_command_ms"] for moment in moments)
    assert "hft_" not in done.stderr


def test_at_a_terminal_the_demo_asks_nothing_and_leaves_nothing_in_the_home_directory(
    tmp_path: Path, temporary: Path
) -> None:
    """A person's first command: an operator's context that is there already is not touched, and none is written."""
    with at_a_terminal(tmp_path, temporary, "--seconds", "1") as (process, shown):
        assert process.wait(170) == 0, shown
    assert any(line.startswith("failed calls:") and line.split()[-1] == "0" for line in "".join(shown).splitlines())
    assert list((tmp_path / "home").iterdir()) == []


def test_control_c_ends_the_demo_and_every_process_that_it_started(tmp_path: Path, temporary: Path) -> None:
    """As a terminal sends it: to the whole group at once."""
    with at_a_terminal(tmp_path, temporary, "--seconds", "100") as (process, shown):
        until_shown("both agents renew", process, shown)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 5
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, shown
    assert [one for one in started if one.is_running()] == []
    assert "Traceback" not in "".join(shown)
    assert [*(tmp_path / "home").iterdir(), *temporary.iterdir()] == []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """With a path that is as short as most people's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def at_a_terminal(folder: Path, temporary: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """The demo as a person starts it, in a session of its own, and all that the terminal shows."""
    (folder / "home").mkdir()
    person, terminal = pty.openpty()
    surroundings = {**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(temporary)}
    shown: list[str] = []

    def read() -> None:
        try:
            while piece := os.read(person, 65536):
                shown.append(piece.decode("utf-8", "replace"))
        except OSError:  # Linux says EIO when the last process has closed the terminal
            return

    with subprocess.Popen(
        [*DEMO, *options], stdin=terminal, stdout=terminal, stderr=terminal, env=surroundings, start_new_session=True
    ) as process:
        os.close(terminal)
        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield process, shown
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)
            reading.join(10)
            os.close(person)


def until_shown(text: str, process: subprocess.Popen[bytes], shown: list[str]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if text in "".join(shown):
            return
        assert process.poll() is None, shown
        waiting.wait(0.02)
    raise AssertionError(f"{text!r} was never shown: {shown}")
