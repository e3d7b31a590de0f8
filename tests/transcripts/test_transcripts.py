"""The command line as a reader sees it: both channels and exit codes of every command that the contract names."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from handfast.cli.main import root
from tests.ca_serve.process import RunningServe
from tests.transcripts.transcript import Session, replay

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
REFERENCE = DOCS / "cli.md"
pytestmark = pytest.mark.timeout(120)


def name_of(file: Path) -> str:
    return file.stem


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, so that they name files as people do."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize(
    "file",
    [HERE / name for name in ("operator.txt", "refused.txt", "doctor.txt", "backup.txt", "agent.txt")]
    + [DOCS / name for name in ("operating.md", "incidents.md")],
    ids=name_of,
)
def test_with_a_ca_every_command_reads_as_it_is_shown(file: Path, directory: Path) -> None:
    with RunningServe.initialised(directory.parent / "ca") as ca:
        replay(file, Session(ca, directory))


@pytest.mark.parametrize("file", [REFERENCE, HERE / "misuse.txt"], ids=name_of)
def test_without_a_ca_every_command_reads_as_it_is_shown(file: Path, directory: Path) -> None:
    replay(file, Session(None, directory))


def test_the_reference_leaves_no_command_out() -> None:
    shown = REFERENCE.read_text("utf-8").splitlines()
    missing = [name for name in names(root, click.Context(root), "handfast") if f"$ {name} --help" not in shown]
    assert missing == []


def test_no_summary_is_cut_off_on_a_narrow_terminal() -> None:
    context = click.Context(root, terminal_width=80)
    groups = [
        found
        for name in root.list_commands(context)
        if isinstance(found := root.get_command(context, name), click.Group)
    ]
    for group in (root, *groups):
        shown = group.get_help(click.Context(group, info_name=group.name, terminal_width=80)).splitlines()[1:]
        assert [line for line in shown if line.endswith("...")] == []


def test_every_command_stands_in_a_transcript() -> None:
    """What the reference shows is `--help`; this is what happens. The demo itself has tests of its own."""
    pages = [*HERE.glob("*.txt"), DOCS / "operating.md", DOCS / "incidents.md"]
    shown = "\n".join(page.read_text("utf-8") for page in pages)
    known = names(root, click.Context(root), "handfast")
    commands = [name for name in known if not any(other.startswith(f"{name} ") for other in known)]
    assert [name for name in commands if f"\n$ {name} " not in shown and f"\n$ {name}\n" not in shown] == []


def names(command: click.Command, context: click.Context, path: str) -> list[str]:
    """The path of every command below this one, its own first."""
    found = [path]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found += names(below, click.Context(below, parent=context), f"{path} {name}")
    return found
