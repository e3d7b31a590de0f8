"""A real agent beside a real CA, renewing without a pause, killed in the middle of it and started again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from handfast.certificates import fingerprint, load_certificates
from handfast.clock import SystemClock
from tests.agent.running import RunningAgent
from tests.ca_serve.process import RunningServe

WEB = "spiffe://test.example/web"
OTHER = "spiffe://test.example/other"


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningServe]:
    made = RunningServe.initialised(tmp_path / "ca")
    # One workload renews a hundred times a minute here.
    made.configure(limits={"renewals_per_identity": {"burst": 10_000, "per_minute": 10_000}})
    with made as up:
        up.handfast("entry", "add", WEB, "--dns", "web", "--ttl", "1m").check()
        up.handfast("entry", "add", OTHER, "--ttl", "1h").check()
        yield up


@pytest.fixture
def agent(ca: RunningServe, tmp_path: Path) -> Iterator[RunningAgent]:
    home = tmp_path / "web"
    home.mkdir()
    (home / "token").write_text(ca.handfast("token", "create", WEB).check().out)
    root = load_certificates((ca.directory / "root" / "root.crt").read_bytes())[0]
    value = {
        "ca": {"address": ca.grpc, "enrol": ca.enrol, "http": f"http://{ca.http}"},
        "trust_domain": "test.example",
        "trust": {"fingerprint": fingerprint(root)},
        "identity": WEB,
        "dns_names": ["web"],
        "join_token": {"file": "token"},
        "directory": "out",
    }
    (home / "agent.yaml").write_text(yaml.safe_dump(value))
    with RunningAgent(home / "agent.yaml") as made:
        made.wait_until(made.key.exists)
        (home / "token").unlink()
        yield made


@dataclass
class Seen:
    """What may only rise, and the certificates that were written."""

    marks: dict[str, int] = field(default_factory=dict)
    serials: set[int] = field(default_factory=set)

    def look(self, agent: RunningAgent) -> None:
        """After a kill: one whole pair of the same identity that is good, and nothing that went back."""
        leaf = agent.leaf()
        assert leaf is not None
        assert str(leaf.spiffe_id) == WEB
        assert leaf.validity.contains(SystemClock().now())
        self.serials.add(leaf.serial)
        for name, value in _marks(agent.remembered()).items():
            assert value >= self.marks.get(name, 0), name
            self.marks[name] = value


def _marks(remembered: dict[str, Any]) -> dict[str, int]:
    lists = {f"CRL {issuer}": int(mark["number"]) for issuer, mark in remembered["lists"].items()}
    return lists | {"bundle": remembered["bundle"]["sequence"], "generation": remembered["generation"]}


def revoke_another(ca: RunningServe, out: Path) -> None:
    """A new CRL, pushed to the agent while it is killed."""
    ca.handfast("cert", "issue", OTHER, "--out", out).check()
    leaf = load_certificates((out / "tls.crt").read_bytes())[0]
    ca.handfast("revoke", format(leaf.serial_number, "x")).check()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_an_agent_that_is_killed_while_it_renews_goes_on_with_what_it_had(
    ca: RunningServe, agent: RunningAgent, tmp_path: Path, runs: int
) -> None:
    """E7, 2.2: no second token, no other identity, no half of a pair, no mark that fell."""
    seen = Seen()
    moments = random.Random(runs)
    for run in range(runs):
        if run % 10 == 5:
            revoke_another(ca, tmp_path / f"other-{run}")
        end = time.monotonic() + moments.uniform(0.0, 0.6)
        while time.monotonic() < end:
            agent.tell(signal.SIGUSR1)
            time.sleep(0.002)
        agent.kill()
        seen.look(agent)
        agent.launch()
        agent.wait_until(lambda: restored(agent) > run)  # noqa: B023 - called before the loop goes on
        seen.look(agent)
    assert len(seen.serials) > runs / 2
    asked = [line for line in ca.audit if line["event"] == "enrol"]
    assert [line["spiffe_id"] for line in asked] == [WEB]


def restored(agent: RunningAgent) -> int:
    return sum(message.startswith("restored") for message in agent.messages)
