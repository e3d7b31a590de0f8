"""What the command line costs before it does anything, and what shells get from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

PROGRAM = [sys.executable, "-c", "from handfast.cli.main import main; main()"]


def cpu_of(command: Sequence[str]) -> float:
    """The least of three runs, in seconds of CPU: what the machine does besides only adds."""
    return min(_cpu_of_one(command) for _ in range(3))


def _cpu_of_one(command: Sequence[str]) -> float:
    before = psutil.Process().cpu_times()
    subprocess.run(command, check=True, capture_output=True)
    after = psutil.Process().cpu_times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_help_costs_little_more_than_python_with_click() -> None:
    """A ratio of the same machine and moment, since seconds would judge the machine: 150 ms are the goal."""
    floor = cpu_of([sys.executable, "-c", "import click, importlib.metadata"])
    assert cpu_of([*PROGRAM, "--help"]) < 2.5 * floor


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_that_the_shell_can_read(shell: str, tmp_path: Path) -> None:
    script = subprocess.run([*PROGRAM, "completion", shell], check=True, capture_output=True, text=True).stdout
    assert "_HANDFAST_COMPLETE" in script
    file = tmp_path / f"handfast.{shell}"
    file.write_text(script)
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(file)], check=True)


def test_completion_knows_commands_and_options() -> None:
    asked = {"_HANDFAST_COMPLETE": "bash_complete", "COMP_WORDS": "handfast entry a", "COMP_CWORD": "2", "PATH": ""}
    done = subprocess.run(PROGRAM, env=asked, capture_output=True, text=True, check=False)
    assert "plain,add" in done.stdout


def test_a_reader_who_leaves_early_is_no_failure() -> None:
    """`handfast … | head -1` says nothing on stderr."""
    with subprocess.Popen([*PROGRAM, "completion", "zsh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
