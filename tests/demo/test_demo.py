"""The main job as a stranger sees it: one command, real processes, a table at the end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(180)


def test_the_demo_rotates_without_a_failed_call_and_refuses_what_was_revoked() -> None:
    """C6: exit code 0 says that each step was seen; the document says what was measured."""
    done = subprocess.run(
        [sys.executable, "-m", "handfast", "demo", "--seconds", "3", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["failed_calls"] == 0
    assert seen["rotations"] >= 4
    assert seen["calls"] > 100
    assert seen["stream_messages"] > 100
    assert seen["refused_with"] == seen["new_connection_refused_with"] == "REVOKED"
    assert "hft_" not in done.stderr
