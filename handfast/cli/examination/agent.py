"""The agent beside a workload, when the environment names its socket or its directory."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from handfast.cli.agent_socket import ask_agent
from handfast.cli.checks import Check, Level, failed
from handfast.cli.examination.holdings import check_bundle, check_certificate, check_directory, check_lists
from handfast.cli.output import shown_time
from handfast.errors import HandfastError
from handfast.wire import codec

__all__ = ["check_agent"]

GROUP = "agent"
_RENEW = "`handfast agent status` shows why it was not renewed"


def check_agent(environment: Mapping[str, str], now: datetime) -> Iterator[Check]:
    socket, directory = environment.get("HANDFAST_AGENT_SOCKET"), environment.get("HANDFAST_CREDENTIALS_DIR")
    if socket:
        yield from _check_socket(Path(socket.removeprefix("unix:")))
    if directory:
        checks, found = check_directory(GROUP, Path(directory), "has the agent enrolled? its log says")
        yield from checks
        if found is not None:
            yield check_certificate(GROUP, found, now, _RENEW)
            yield check_bundle(GROUP, found.bundle, now)
            yield check_lists(GROUP, found, now)


def _check_socket(socket: Path) -> Iterator[Check]:
    try:
        status = ask_agent(socket)
        mode = stat.S_IMODE(socket.parent.stat().st_mode)
    except HandfastError as error:
        yield failed(GROUP, "socket", error, "is `handfast agent run` running?")
        return
    if mode & 0o077:
        detail = f"mode {mode:04o} of {socket.parent} lets others ask for the key"
        yield Check(GROUP, "socket", Level.FAILED, detail, f"`chmod 700 {socket.parent}`")
    reasons = "; ".join(f"{check.name}: {check.detail}" for check in status.checks if not check.ok)
    if status.ready:
        until = shown_time(codec.time_from_wire(status.not_after))
        yield Check(GROUP, "state", Level.OK, f"{status.spiffe_id} {status.state} until {until}")
    else:
        yield Check(GROUP, "state", Level.FAILED, reasons or status.state, "`handfast agent status` shows more")
