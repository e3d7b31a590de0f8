"""The drill: a CA is destroyed and restored from a backup, with real agents and a real service, and nothing revoked comes back.

It prints how much was lost and how long it took (``pytest -s``); the CA, the agents and the service are those of a user.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from handfast.access import allow
from handfast.certificates import fingerprint, load_certificates
from handfast.rpc.guard import Guard
from handfast.sources.socket import SocketSource
from handfast.wire import codec
from tests.agent.running import RunningAgent
from tests.ca_serve.process import RunningServe, handfast
from tests.library.mesh import UNARY, sync_server

SHOP, PAY, THIEF = (f"spiffe://test.example/{name}" for name in ("shop", "pay", "thief"))
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def ca(tmp_path: Path) -> RunningServe:
    return RunningServe.initialised(tmp_path / "ca")


def agent_of(ca: RunningServe, home: Path, identity: str) -> RunningAgent:
    """An agent for a new identity, not started."""
    home.mkdir(mode=0o700)
    ca.handfast("entry", "add", identity, "--dns", "localhost").check()
    (home / "token").write_text(ca.handfast("token", "create", identity).check().out)
    root = load_certificates((ca.directory / "root" / "root.crt").read_bytes())[0]
    told = {
        "ca": {"address": ca.grpc, "enrol": ca.enrol, "http": f"http://{ca.http}"},
        "trust_domain": "test.example",
        "trust": {"fingerprint": fingerprint(root)},
        "identity": identity,
        "dns_names": ["localhost"],
        "join_token": {"file": "token"},
        "directory": "out",
        "socket": "agent.sock",
    }
    (home / "agent.yaml").write_text(yaml.safe_dump(told))
    return RunningAgent(home / "agent.yaml")


def status(ca: RunningServe) -> dict[str, Any]:
    """The lines of `handfast status` by name; exit 1 with a failed one is no error here."""
    done = ca.handfast("status", "-o", "json")
    assert done.out, done.err
    return {f"{line['group']}/{line['name']}": line for line in json.loads(done.out)["checks"]}


def until(what: str, true: Any, within: float = 60.0, said: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not in {within:g} s: {what}\n{said()}"
        time.sleep(0.05)


def metric(ca: RunningServe, name: str) -> float:
    text = ca.get("/metrics")[1].decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


class Caller:
    """Calls a service with one certificate, again and again, and counts the answers. Each call is a connection of its own."""

    def __init__(self, target: str, files: Path, roots: bytes) -> None:
        self._target = target
        self._credentials = grpc.ssl_channel_credentials(
            roots, (files / "tls.key").read_bytes(), (files / "tls.crt").read_bytes()
        )
        self.answers: Counter[str] = Counter()

    def call(self) -> str:
        with grpc.secure_channel(self._target, self._credentials) as channel:
            try:
                channel.unary_unary(UNARY)(b"", timeout=10)
            except grpc.RpcError as error:
                answer = codec.from_rpc_error(error).reason
            else:
                answer = "OK"
        self.answers[answer] += 1
        return answer

    def calling(self, stack: ExitStack) -> None:
        """Beside everything else, until the stack ends."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.2):
                self.call()

        thread = threading.Thread(target=go_on)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(ended.set)


def restored_elsewhere(ca: RunningServe, backup: Path, directory: Path) -> RunningServe:
    """Another directory on the same ports, with the key that was kept somewhere else."""
    new = RunningServe(directory, ca.grpc, ca.enrol, ca.http)
    handfast("ca", "restore", backup, "--config", new.config, "--reissue-all", "--window", "10s").check()
    shutil.copy2(directory.parent / "issuer.key", directory / "issuer" / "issuer.key")
    handfast("ca", "operator", "--config", new.config).check()
    return new


def test_a_destroyed_ca_comes_back_without_one_revocation_less(
    ca: RunningServe, tmp_path: Path, record_property: Any
) -> None:
    """J9, R1 to R6, C1, D1: agents bring revocations back, numbers rise, and no service accepts what was revoked meanwhile. The restore
    was asked to reissue: nobody tells the agents anything else, and both have new certificates in the end.
    """
    with ExitStack() as stack:
        stack.enter_context(ca)
        shutil.copy2(ca.directory / "issuer" / "issuer.key", tmp_path / "issuer.key")
        shop = stack.enter_context(agent_of(ca, tmp_path / "shop", SHOP))
        pay = stack.enter_context(agent_of(ca, tmp_path / "pay", PAY))
        shop.wait_until(lambda: shop.leaf() is not None)
        pay.wait_until(lambda: pay.leaf() is not None)
        ca.handfast("entry", "add", THIEF).check()
        ca.handfast("cert", "issue", THIEF, "--out", tmp_path / "early").check()
        source = stack.enter_context(closing(SocketSource(shop.config.parent / "agent.sock")))
        target, _ = stack.enter_context(sync_server(source, Guard(source, allow("spiffe://test.example/*"))))
        roots = (ca.directory / "root" / "root.crt").read_bytes()
        early = Caller(target, tmp_path / "early", roots)
        assert early.call() == "OK"

        # The backup, and what happens after it: renewals, certificates, revocations.
        ca.handfast("ca", "backup", tmp_path / "one.tar", "--config", ca.config).check()
        backed_up = time.monotonic()
        known = pay.leaf()
        pay.tell(signal.SIGUSR1)
        pay.wait_until(lambda: pay.leaf() not in (None, known))
        after_backup, shop_before = pay.leaf(), shop.leaf()
        for name in ("late", "lasting"):
            ca.handfast("cert", "issue", THIEF if name == "late" else PAY, "--out", tmp_path / name).check()
        late = Caller(target, tmp_path / "late", roots)
        assert late.call() == "OK"
        revoked = ca.handfast("revoke", THIEF, "--reason", "key-compromise", "-o", "json").json()
        assert len(revoked["serials"]) == 2
        until("the service refuses both", lambda: {early.call(), late.call()} == {"REVOKED"})
        for agent in (shop, pay):
            agent.wait_until(lambda agent=agent: revoked["crl_number"] in numbers(agent))  # type: ignore[misc]

        # The end of it. One agent does not answer yet, so that the quarantine lasts.
        early.answers.clear()
        late.answers.clear()
        early.calling(stack)
        late.calling(stack)
        shop.tell(signal.SIGSTOP)
        destroyed = time.monotonic()
        ca.kill()
        shutil.rmtree(ca.directory)
        new = stack.enter_context(restored_elsewhere(ca, tmp_path / "one.tar", tmp_path / "new"))
        serving = time.monotonic()

        until("the agent's list came back", lambda: metric(new, "handfast_ca_revocations_learnt") == 2)
        learnt = time.monotonic()
        line = status(new)["restore/quarantine"]
        assert (line["level"], metric(new, "handfast_ca_quarantine")) == ("warning", 1)
        assert f"1 of 2 identities answered, missing {SHOP}" in line["detail"]
        for serial in revoked["serials"]:
            assert new.handfast("cert", "show", serial, "-o", "json").json()["status"] == "revoked"
        for words in (
            ("cert", "issue", PAY, "--out", tmp_path / "none"),
            ("cert", "renew", "--cert", tmp_path / "lasting/tls.crt", "--key", tmp_path / "lasting/tls.key"),
        ):
            done = new.handfast(*words)
            assert (done.code, "the CA is in quarantine" in done.err) == (3, True), done.err
        assert new.handfast("ca", "release").code == 1
        assert pay.leaf() == after_backup

        # Everybody answered: it signs again, with what it learnt, above all numbers of before.
        shop.tell(signal.SIGCONT)
        until(
            "the quarantine ends",
            lambda: metric(new, "handfast_ca_quarantine") == 0,
            said=lambda: (status(new)["restore/quarantine"], *shop.messages),
        )
        whole = time.monotonic()
        assert status(new)["restore/quarantine"]["level"] == "ok"
        for agent in (shop, pay):
            agent.wait_until(lambda agent=agent: max(map(int, numbers(agent))) > 1 << 64)  # type: ignore[misc]
        assert not any("CRL_ROLLBACK" in message for message in (*shop.messages, *pay.messages))
        for agent, before in ((shop, shop_before), (pay, after_backup)):
            agent.wait_until(lambda agent=agent, before=before: agent.leaf() not in (None, before))  # type: ignore[misc]
        assert [one["by"] for one in new.audit if one["event"] == "reissue"] == ["ca restore"]
        new.handfast(
            "cert", "renew", "--cert", tmp_path / "lasting/tls.crt", "--key", tmp_path / "lasting/tls.key"
        ).check()
        assert [one["event"] for one in new.audit].count("readmit") == 2
    assert set(early.answers) == set(late.answers) == {"REVOKED"}
    assert min(early.answers.total(), late.answers.total()) > 10
    drill = {
        "revocations made after the backup": 2,
        "of them lost": 0,
        "RPO of entries and tokens, seconds": round(destroyed - backed_up, 1),
        "RTO until it serves, seconds": round(serving - destroyed, 1),
        "RTO until its revocations are whole, seconds": round(learnt - destroyed, 1),
        "RTO until it signs, once all agents answer, seconds": round(whole - destroyed, 1),
        "calls with a revoked certificate meanwhile": early.answers.total() + late.answers.total(),
        "of them accepted": 0,
    }
    for what, figure in drill.items():
        record_property(what, figure)
        print(f"{what}: {figure}")


def numbers(agent: RunningAgent) -> list[str]:
    """Of the lists that the agent has ever accepted."""
    return [one["number"] for one in agent.remembered().get("lists", {}).values()]


def test_an_older_file_that_was_put_in_place_is_given_away_by_the_first_agent(ca: RunningServe, tmp_path: Path) -> None:
    """J9, R7, D1: the agent refuses the older list; the CA signs nothing more, and says what to do; then an operator decides."""
    with ExitStack() as stack:
        stack.enter_context(ca)
        shop = stack.enter_context(agent_of(ca, tmp_path / "shop", SHOP))
        shop.wait_until(lambda: shop.leaf() is not None)
        ca.handfast("entry", "add", THIEF).check()
        ca.handfast("cert", "issue", THIEF, "--out", tmp_path / "early").check()
        ledger = ca.directory / "state" / "ledger.db"
        with closing(sqlite3.connect(ledger)) as reading, closing(sqlite3.connect(tmp_path / "older.db")) as older:
            reading.backup(older)
        revoked = ca.handfast("revoke", THIEF, "-o", "json").json()
        shop.wait_until(lambda: revoked["crl_number"] in numbers(shop))
        ca.kill()
        for leftover in ledger.parent.glob("ledger.db-*"):
            leftover.unlink()
        shutil.copyfile(tmp_path / "older.db", ledger)
        ca.launch()
        until("the agent gives it away", lambda: _readiness(ca) == 503)
        line = status(ca)["restore/quarantine"]
        assert line["level"] == "failed"
        assert f"{SHOP} holds CRL number" in line["detail"]
        assert "handfast ca restore" in line["hint"]
        assert ca.handfast("cert", "show", revoked["serials"][0], "-o", "json").json()["status"] == "revoked"
        assert ca.handfast("cert", "issue", SHOP, "--out", tmp_path / "none").code == 3
        ca.kill()
        handfast("ca", "release", "--config", ca.config, "--accept-loss").check()
        ca.start()
        assert status(ca)["restore/loss"]["level"] == "warning"
        ca.handfast("cert", "issue", SHOP, "--out", tmp_path / "new").check()


def _readiness(ca: RunningServe) -> int:
    try:
        return ca.get("/readyz")[0]
    except OSError:
        return 0
