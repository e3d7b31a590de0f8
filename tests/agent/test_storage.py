"""The agent's files: whole, private, and never through somebody else's link."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from handfast.errors import Conflict, Refused, Unavailable
from handfast_agent.storage import Directory, Ownership


def pair(number: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    return {"tls.key": b"key %d" % number, "credentials.pem": b"both %d" % number}, {"tls.crt": b"crt %d" % number}


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "out")
    made.prepare()
    return made


def test_what_was_written_is_read_back_and_shown(directory: Directory) -> None:
    directory.write(1, *pair(1))
    assert directory.read()["tls.key"] == b"key 1"
    assert (directory.path / "tls.crt").read_bytes() == b"crt 1"


def test_modes_are_as_promised_whatever_the_umask_says(directory: Directory) -> None:
    """E1: never wider than asked, and set again on each write."""
    old = os.umask(0)
    try:
        for number in (1, 2):
            directory.write(number, *pair(number))
            for name, mode in {"tls.key": 0o600, "credentials.pem": 0o600, "tls.crt": 0o644}.items():
                assert (directory.path / name).stat().st_mode & 0o777 == mode
            (directory.path / "tls.key").chmod(0o666)
    finally:
        os.umask(old)


def test_a_withdrawal_removes_every_trace_of_the_key(directory: Directory) -> None:
    for number in (1, 2):
        directory.write(number, *pair(number))
    directory.write(3, {}, {"ca.crt": b"root"})
    left = [path for path in directory.path.rglob("*") if path.is_file()]
    assert {path.name for path in left} == {"ca.crt"}
    assert not (directory.path / "tls.key").is_symlink()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../b", "nul\0", "", ".", ".."])
def test_a_name_that_leads_out_is_refused(directory: Directory, name: str) -> None:
    """E5."""
    directory.write(1, *pair(1))
    with pytest.raises(Refused) as refused:
        directory.write(2, {name: b"x"}, {})
    assert refused.value.reason == "UNSAFE_PATH"
    assert directory.read()["tls.key"] == b"key 1"


@pytest.mark.parametrize("planted", ["tls.key", "..tls.key.next", "..data.next", "..generation-000000000001"])
def test_a_planted_link_is_replaced_and_never_followed(directory: Directory, tmp_path: Path, planted: str) -> None:
    """E6."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (directory.path / planted).symlink_to(victim)
    directory.write(1, *pair(1))
    assert victim.read_bytes() == b"untouched"
    assert (directory.path / "tls.key").read_bytes() == b"key 1"


def test_a_directory_that_others_may_write_to_is_refused(directory: Directory) -> None:
    """E6."""
    directory.path.chmod(0o777)
    with pytest.raises(Refused) as refused:
        directory.write(1, *pair(1))
    assert refused.value.reason == "UNSAFE_DIRECTORY"
    assert list(directory.path.iterdir()) == []


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """E6."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Refused) as refused:
        Directory(tmp_path / "link").prepare()
    assert refused.value.reason == "UNSAFE_DIRECTORY"


def test_a_link_in_the_present_generation_is_not_read(directory: Directory, tmp_path: Path) -> None:
    """E6: at a start, what is found is read without following anything."""
    (tmp_path / "secret").write_bytes(b"of another")
    directory.write(1, *pair(1))
    (directory.path / "..data" / "planted").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        directory.read()


def test_a_link_to_what_is_no_generation_of_ours_is_not_read(directory: Directory, tmp_path: Path) -> None:
    """E6: ..data may lead nowhere else."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tls.key").write_bytes(b"of another")
    (directory.path / "..data").symlink_to(tmp_path / "elsewhere")
    assert directory.read() == {}


def test_a_reader_never_sees_halves_of_two_generations(directory: Directory) -> None:
    """E7: two hundred rotations under a reader that opens one generation at a time."""
    directory.write(1, *pair(1))
    torn: list[dict[str, bytes]] = []
    seen: set[bytes] = set()
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            inside = os.open(directory.path / "..data", os.O_RDONLY | os.O_DIRECTORY)
            try:
                got = {name: (Path(f"/proc/self/fd/{inside}") / name).read_bytes() for name in ("tls.key", "tls.crt")}
            finally:
                os.close(inside)
            seen.add(got["tls.key"])
            if got["tls.key"].split()[1] != got["tls.crt"].split()[1]:
                torn.append(got)

    thread = threading.Thread(target=reader)
    thread.start()
    for number in range(2, 202):
        directory.write(number, *pair(number))
    done.set()
    thread.join()
    assert torn == []
    assert len(seen) > 1


def test_a_disk_that_takes_no_more_keeps_the_old_generation_and_is_named(directory: Directory) -> None:
    """The file size limit stands in for a full disk: EFBIG comes from the same calls as ENOSPC."""
    directory.write(1, *pair(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(Unavailable) as failed:
            directory.write(2, {"tls.key": b"k" * 4096}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert failed.value.reason == "STORAGE_FAILED"
    assert directory.read()["tls.key"] == b"key 1"
    assert [p.name for p in directory.path.iterdir() if p.name.startswith("..gen")] == ["..generation-000000000001"]


WRITER = """
import sys
from pathlib import Path
from handfast_agent.storage import Directory
directory = Directory(Path(sys.argv[1]))
directory.prepare()
first = int(sys.argv[2])
print("ready", flush=True)
for number in range(first, first + 100000):
    text = str(number).encode()
    directory.write(number, {"tls.key": text * 200}, {"tls.crt": text * 200})
"""


@pytest.mark.parametrize("runs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_minus_nine_at_any_moment_leaves_a_consistent_pair(tmp_path: Path, runs: int) -> None:
    """E7, 2.2: the writer is killed in mid-write; the next start finds one whole generation."""
    target = Directory(tmp_path / "out")
    for run in range(runs):
        writer = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                f"import sys; sys.path[:0] = {sys.path!r}\n{WRITER}",
                str(target.path),
                str(run * 100_000 + 1),
            ],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 0.005 + (run % 20) * 0.001
        while time.monotonic() < deadline:
            pass
        writer.kill()
        writer.wait()
        writer.stdout.close()
        target.prepare()
        found = target.read()
        assert not found or found["tls.key"] == found["tls.crt"]
        assert len([p for p in target.path.iterdir() if p.name.startswith("..gen")]) <= 1
    assert target.read()


def test_owner_and_mode_are_as_configured(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "out", Ownership(os.getuid(), os.getgid(), 0o640, 0o444))
    directory.prepare()
    directory.write(1, *pair(1))
    assert (directory.path / "tls.key").stat().st_mode & 0o777 == 0o640
    assert (directory.path / "tls.crt").stat().st_mode & 0o777 == 0o444


def test_a_directory_is_one_agent_s_at_a_time(tmp_path: Path) -> None:
    """E7. The kernel lets go of it when the process dies, so that nothing is left to clear away."""
    path = tmp_path / "out"
    with Directory(path).held():
        with pytest.raises(Conflict) as refused, Directory(path).held():
            pass
        assert refused.value.reason == "AGENT_RUNNING"
    with Directory(path).held():
        assert list(path.iterdir()) == []
