"""The command line as a reader sees it: both channels and exit codes of every command that the contract names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ca_serve.process import RunningServe
from tests.transcripts.transcript import Session, replay

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("name", ["operator", "refused", "doctor"])
def test_with_a_ca_every_command_reads_as_the_transcript_shows(name: str, tmp_path: Path) -> None:
    with RunningServe.initialised(tmp_path / "ca") as ca:
        work = tmp_path / "work"
        work.mkdir()
        replay(HERE / f"{name}.txt", Session(ca, work))


@pytest.mark.parametrize("name", ["help", "misuse"])
def test_without_a_ca_every_command_reads_as_the_transcript_shows(name: str, tmp_path: Path) -> None:
    replay(HERE / f"{name}.txt", Session(None, tmp_path))
