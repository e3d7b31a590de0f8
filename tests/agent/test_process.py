"""The agent as a process: signals, exit codes, readiness, and what it says in its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handfast.testing import TestAuthority
from tests.agent.running import COMMAND, configuration
from tests.peers.authority import TOKEN, PeerAuthority, running


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority())) as up:
        yield up


async def handfast(*words: str, given: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_once_enrols_writes_and_exits(tmp_path: Path, peer: PeerAuthority) -> None:
    status, out, err = await handfast("agent", "once", "--config", str(configuration(tmp_path, peer)))
    assert (status, out[:37]) == (0, "spiffe://test.example/web valid until"), err
    assert (tmp_path / "out" / "tls.crt").exists()


async def test_a_token_from_stdin_is_used_and_seen_nowhere(tmp_path: Path, peer: PeerAuthority) -> None:
    """B2."""
    file = configuration(tmp_path, peer, join_token={"stdin": True})
    (tmp_path / "token").unlink()
    status, out, err = await handfast("agent", "once", "--config", str(file), given=TOKEN.encode() + b"\n")
    assert status == 0, err
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in out + err
    assert TOKEN.encode() not in written


async def test_without_a_pin_it_exits_2_and_asks_nobody(tmp_path: Path, peer: PeerAuthority) -> None:
    """B8."""
    status, _, err = await handfast("agent", "once", "--config", str(configuration(tmp_path, peer, trust={})))
    assert status == 2
    assert "which root to trust" in err
    assert peer.enrolments == []


async def test_a_ca_that_is_down_is_exit_3(tmp_path: Path, peer: PeerAuthority) -> None:
    ca = {"address": "127.0.0.1:1", "enrol": "127.0.0.1:1", "http": f"http://127.0.0.1:{peer.http_port}"}
    status, _, err = await handfast("agent", "once", "--config", str(configuration(tmp_path, peer, ca=ca)))
    assert status == 3, err


async def test_run_serves_says_so_and_ends_cleanly_at_sigterm(
    tmp_path: Path, peer: PeerAuthority, unused_tcp_port: int
) -> None:
    """B2 and E2 besides: neither token nor key is in the log, the arguments or the environment."""
    file = configuration(tmp_path, peer, health=f"127.0.0.1:{unused_tcp_port}")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "agent", "run", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    try:
        ready = await eventually_ready(unused_tcp_port)
        assert ready["state"] == "serving"
        metrics = await asyncio.to_thread(fetch, unused_tcp_port, "/metrics")
        assert "handfast_agent_outage_budget_seconds" in metrics
        code, out, _ = await handfast("agent", "status", "--socket", str(tmp_path / "run" / "agent.sock"), "-o", "json")
        assert code == 0
        assert json.loads(out)["outage_budget_seconds"] > 3000
        for name in ("cmdline", "environ"):
            with contextlib.suppress(PermissionError):  # of an undumpable process only root may read the latter
                assert TOKEN.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        process.send_signal(signal.SIGHUP)
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.decode().splitlines() if line.startswith("{")]
    assert lines[-1]["message"] == "ended"
    assert TOKEN not in err.decode()
    assert "PRIVATE KEY" not in err.decode()
    assert not (tmp_path / "run" / "agent.sock").exists()
    assert (tmp_path / "out" / "tls.key").exists()


async def test_status_of_nobody_is_exit_3(tmp_path: Path) -> None:
    status, _, err = await handfast("agent", "status", "--socket", str(tmp_path / "none.sock"))
    assert status == 3, err
    assert f"no agent answers at {tmp_path}/none.sock: No such file or directory" in err


async def test_without_certificate_and_token_it_is_not_authenticated(tmp_path: Path, peer: PeerAuthority) -> None:
    file = configuration(tmp_path, peer)
    (tmp_path / "token").unlink()
    status, _, err = await handfast("agent", "once", "--config", str(file))
    assert (status, peer.enrolments) == (4, []), err
    assert "hint: `handfast token create`" in err


async def test_a_second_agent_on_the_same_files_is_refused_and_the_first_goes_on(
    tmp_path: Path, peer: PeerAuthority, unused_tcp_port: int
) -> None:
    """E7: it would undo the first one's generations, and take its socket."""
    file = configuration(tmp_path, peer, health=f"127.0.0.1:{unused_tcp_port}")
    socket = str(tmp_path / "run" / "agent.sock")
    process = await asyncio.create_subprocess_exec(*COMMAND, "agent", "run", "--config", str(file))
    try:
        await eventually_ready(unused_tcp_port)
        for word in ("run", "once"):
            status, _, err = await handfast("agent", word, "--config", str(file))
            assert (status, "another agent keeps" in err) == (1, True), err
        other = tmp_path / "other"
        other.mkdir()
        there = configuration(other, peer, socket=socket)
        status, _, err = await handfast("agent", "run", "--config", str(there))
        assert (status, "somebody serves at the socket" in err) == (1, True), err
        there = configuration(other, peer, health=f"127.0.0.1:{unused_tcp_port}")
        status, _, err = await handfast("agent", "run", "--config", str(there))
        assert (status, f"health: 127.0.0.1:{unused_tcp_port} cannot be had" in err) == (3, True), err
        status, out, err = await handfast("agent", "status", "--socket", socket, "-o", "name")
        assert (status, out) == (0, "spiffe://test.example/web\n"), err
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


async def eventually_ready(port: int) -> dict[str, object]:
    async with asyncio.timeout(20):
        while True:
            try:
                return dict(json.loads(await asyncio.to_thread(fetch, port, "/readyz")))
            except (urllib.error.URLError, ConnectionError):
                await asyncio.sleep(0.02)
