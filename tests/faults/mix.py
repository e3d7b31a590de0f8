"""A seeded mix of faults against a CA and two agents, all of them processes of their own, and what must hold whatever happens.

The same seed draws the same faults in the same order; how far a process has come when one strikes is the machine's. A run
that fails prints its seed and its trace, and ``FAULTS_SEED=n`` with pytest draws them again.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import yaml

from handfast.access import allow
from handfast.certificates import fingerprint, load_certificates, pem_chain, subject_key_id
from handfast.csr import build_csr
from handfast.keys import PrivateKey, dump_private_key_pem, generate
from handfast.revocation import RevocationList
from handfast.rpc.guard import Guard
from handfast.sources.socket import SocketSource
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from handfast_ca.audit_check import verify_audit
from tests.agent.running import RunningAgent
from tests.agent.test_clocks import under_a_false_clock
from tests.ca_serve.load import LOCAL_ONLY
from tests.ca_serve.process import TRUST_DOMAIN, RunningServe
from tests.faults.relay import Relay
from tests.library.mesh import UNARY, sync_server

NEAR, FAR = "near", "far"
"""Two agents. What the far one says to the CA goes over a relay."""
MOST_SKEW = 20
"""Seconds: as far as clocks of one mesh may differ, and revocation still bites (what is beyond has tests of its own, J8)."""
PATIENCE = 90.0


@dataclass
class Mesh:
    ca: RunningServe
    agents: dict[str, RunningAgent]
    relay: Relay
    offset: Path
    chance: random.Random
    trace: list[str] = field(default_factory=list)
    good: dict[int, tuple[PrivateKey, bytes, bytes]] = field(default_factory=dict)
    revoked: set[int] = field(default_factory=set)
    in_doubt: set[int] = field(default_factory=set)
    marks: dict[str, int] = field(default_factory=dict)
    newest: RevocationList | None = None
    names: int = 0

    # --- what an operator does --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        files = [self.ca.directory / "operator" / name for name in ("tls.key", "tls.crt")]
        roots = (self.ca.directory / "root" / "root.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots, *(file.read_bytes() for file in files))
        target = self.ca.grpc.replace("127.0.0.1", "localhost")
        with grpc.secure_channel(target, credentials, options=LOCAL_ONLY) as channel:
            yield channel

    def issue(self) -> bool:
        self.names += 1
        name, key = f"spiffe://{TRUST_DOMAIN}/victim/{self.names}", generate()
        with self.channel() as channel:
            registry = RegistryStub(channel)
            try:
                registry.AddEntry(registry_pb2.AddEntryRequest(entry=registry_pb2.Entry(spiffe_id=name)), timeout=20)
                signed = registry.Sign(registry_pb2.SignRequest(spiffe_id=name, csr=build_csr(key)), timeout=20)
            except grpc.RpcError as error:
                return self._excused(error)
        chain = codec.certificates_from_wire(signed.chain)
        self.good[chain[0].serial_number] = (key, pem_chain(chain), signed.chain[0])
        return True

    def revoke(self) -> bool:
        """What was told is revoked for ever; what was asked without an answer is in doubt, and says nothing later."""
        left = sorted(self.good.keys() - self.revoked - self.in_doubt)
        if not left:
            return self.issue()
        serial = self.chance.choice(left)
        with self.channel() as channel:
            try:
                RegistryStub(channel).Revoke(registry_pb2.RevokeRequest(serial=f"{serial:x}"), timeout=30)
            except grpc.RpcError as error:
                self.in_doubt.add(serial)
                return self._excused(error)
        self.revoked.add(serial)
        return True

    def _excused(self, error: grpc.RpcError) -> bool:
        """Only a CA that something was done to may fail an operator."""
        assert error.code() in (  # type: ignore[attr-defined]
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.DATA_LOSS,
        ), error
        return False

    def rotate(self) -> bool:
        for agent in self.agents.values():
            agent.tell(signal.SIGUSR1)
        return True

    # --- what happens to them ---------------------------------------------------------------------------------------

    def kill_ca(self) -> bool:
        self.ca.kill()
        self.ca.start()
        return True

    def restart_ca(self) -> bool:
        self.ca.stop()
        self.ca.start()
        return True

    def kill_agent(self) -> bool:
        agent = self.agents[self.chance.choice((NEAR, FAR))]
        agent.kill()
        self.look_at_files()
        before = _starts(agent)
        agent.launch()
        # Until it has told the kernel what SIGUSR1 means, the next one would end it: it listens before it restores.
        agent.wait_until(lambda: _starts(agent) > before)
        return True

    def pause_agent(self) -> bool:
        agent = self.agents[self.chance.choice((NEAR, FAR))]
        agent.tell(signal.SIGSTOP)
        done = self.revoke()
        agent.tell(signal.SIGCONT)
        return done

    def cut_network(self) -> bool:
        """Revokes while the far agent hears nothing, then mends."""
        self.relay.cut()
        done = self.revoke()
        self.agents[FAR].tell(signal.SIGUSR1)
        self.relay.mend()
        return done

    def fill_the_disk_of_an_agent(self) -> bool:
        agent = self.agents[self.chance.choice((NEAR, FAR))]
        with no_room(agent.pid):
            agent.tell(signal.SIGUSR1)
            return self.revoke()

    def fill_the_disk_of_the_ca(self) -> bool:
        """Nothing can be written at all: what it answers, it must have kept. Then it starts anew, on a disk with room."""
        with no_room(self.ca.pid):
            self.issue()
            self.revoke()
        return self.kill_ca()

    def step_the_clock(self) -> bool:
        """Of both agents. The CA's is stepped in the simulation: under what fakes a clock, its gRPC server stands still."""
        self.offset.write_text(f"{self.chance.randint(-MOST_SKEW, MOST_SKEW):+d}")
        return self.revoke()

    # --- what must hold ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        action: Callable[[], bool] = self.chance.choice(ACTIONS)(self)
        began = time.monotonic()
        done = action()
        self.trace.append(f"{action.__name__}{'' if done else ' (not answered)'} {time.monotonic() - began:.1f} s")
        self.look_at_files()
        self.look_at_the_ca()

    def look_at_files(self) -> None:
        """No half pair, and no mark that went back (threats E7, D1, D11)."""
        for name, agent in self.agents.items():
            agent.leaf()
            remembered = agent.remembered()
            marks = {f"list of {key}": int(one["number"]) for key, one in remembered.get("lists", {}).items()}
            marks["generation"] = remembered.get("generation", 0)
            for what, value in marks.items():
                key = f"{name}: {what}"
                assert value >= self.marks.get(key, 0), key
                self.marks[key] = value

    def look_at_the_ca(self) -> None:
        """Numbers rise, nothing leaves a list, and everything that was told revoked is told to everybody (C5, D1, D4)."""
        with self.channel() as channel:
            update = AuthorityStub(channel).GetTrust(authority_pb2.GetTrustRequest(), timeout=60, wait_for_ready=True)
        bundle = codec.bundle_from_wire(update.bundle)
        lists = [RevocationList.verify(one.der, bundle, now=datetime.now(UTC)) for one in update.crls]
        present = next(one for one in lists if one.issuer_key_id == subject_key_id(bundle.issuers[0]))
        known = set(present.serials) | {serial for _, serial in codec.announced_from_wire(update.announced)}
        assert self.revoked <= known, f"not revoked any more: {self.revoked - known}"
        assert known <= self.revoked | self.in_doubt | self.unheard(known)
        if self.newest is not None and present.der != self.newest.der:
            assert present.number > self.newest.number
            assert present.this_update >= self.newest.this_update
            assert present.serials >= self.newest.serials, "an entry left the list"
        self.newest = present

    def unheard(self, known: set[int]) -> set[int]:
        """Certificates whose answer nobody got: the CA revokes what it cannot know to be in good hands (threat J1)."""
        return {serial for serial in known if serial not in self.good}

    def settle(self) -> None:
        """Everything is well again: now each promise must come true, and within a minute and a half."""
        self.relay.mend()
        self.offset.write_text("+0")
        assert any(self.revoke() for _ in range(3)), "an operator is not served though nothing is wrong"
        self.look_at_the_ca()
        assert self.newest is not None
        for name, agent in self.agents.items():
            self._until(f"{name} has list {self.newest.number}", lambda agent=agent: self._holds(agent), agent)  # type: ignore[misc]
            before = agent.leaf()
            agent.tell(signal.SIGUSR1)
            self._until(
                f"{name} renews",
                lambda agent=agent, before=before: agent.leaf() not in (None, before),  # type: ignore[misc]
                agent,
            )
            assert not any("CRL_ROLLBACK" in one or "EQUIVOCATION" in one for one in agent.messages), agent.messages
        self.look_at_every_certificate()
        self.call_with_every_certificate()
        report = verify_audit(self.ca.directory / "state" / "audit.jsonl")
        assert report.intact, report.problems

    def _holds(self, agent: RunningAgent) -> bool:
        assert self.newest is not None
        return any(int(one["number"]) >= self.newest.number for one in agent.remembered().get("lists", {}).values())

    def _until(self, what: str, true: Callable[[], bool], agent: RunningAgent) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert agent.process is not None
            assert agent.process.poll() is None, f"it ended with {agent.process.poll()}: {agent.messages[-20:]}"
            assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}; {agent.messages[-20:]}"
            time.sleep(0.02)

    def look_at_every_certificate(self) -> None:
        """Each that was handed out is known byte for byte, and none that was told revoked is called valid (C5, C8, J1)."""
        with self.channel() as channel:
            registry = RegistryStub(channel)
            for serial, (_, _, der) in self.good.items():
                shown = registry.GetCertificate(registry_pb2.GetCertificateRequest(serial=f"{serial:x}"), timeout=20)
                assert shown.der == der
                if serial not in self.in_doubt:
                    assert (shown.status == "revoked") == (serial in self.revoked), shown.status

    def call_with_every_certificate(self) -> None:
        """A service beside each agent lets in who is good, and nobody else (threat C6)."""
        for agent in self.agents.values():
            with (
                closing(SocketSource(agent.config.parent / "agent.sock", wait=PATIENCE)) as source,
                sync_server(source, Guard(source, allow(f"spiffe://{TRUST_DOMAIN}/*"))) as (target, _),
            ):
                for serial, (key, chain, _) in self.good.items():
                    if serial not in self.in_doubt:
                        expected = "REVOKED" if serial in self.revoked else "OK"
                        assert self._answer(target, key, chain) == expected, f"{serial:x}"

    def _answer(self, target: str, key: PrivateKey, chain: bytes) -> str:
        roots = (self.ca.directory / "root" / "root.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots, dump_private_key_pem(key), chain)
        with grpc.secure_channel(target, credentials) as channel:
            try:
                channel.unary_unary(UNARY)(b"", timeout=60)
            except grpc.RpcError as error:
                return codec.from_rpc_error(error).reason
        return "OK"


ACTIONS: list[Callable[[Mesh], Callable[[], bool]]] = [
    lambda mesh: mesh.issue,
    lambda mesh: mesh.revoke,
    lambda mesh: mesh.revoke,
    lambda mesh: mesh.rotate,
    lambda mesh: mesh.kill_ca,
    lambda mesh: mesh.restart_ca,
    lambda mesh: mesh.kill_agent,
    lambda mesh: mesh.pause_agent,
    lambda mesh: mesh.cut_network,
    lambda mesh: mesh.fill_the_disk_of_an_agent,
    lambda mesh: mesh.fill_the_disk_of_the_ca,
    lambda mesh: mesh.step_the_clock,
]


def _starts(agent: RunningAgent) -> int:
    """How often it found its certificate on the disk again."""
    return sum(message.startswith("restored ") for message in agent.messages)


@contextlib.contextmanager
def no_room(pid: int) -> Iterator[None]:
    """No file of this process may grow, nor be written at all: what a full disk is to whoever writes (EFBIG)."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def mesh(directory: Path, seed: int) -> Iterator[Mesh]:
    """Up and enrolled."""
    offset = directory / "offset"
    offset.write_text("+0")
    with ExitStack() as stack:
        ca = RunningServe.initialised(directory / "ca")
        ca.configure(limits={"renewals_per_identity": {"burst": 10_000, "per_minute": 10_000}})
        stack.enter_context(ca)
        relay = Relay(ca.grpc)
        stack.callback(relay.close)
        agents = {
            name: stack.enter_context(_agent(ca, directory / name, address, under_a_false_clock(offset)))
            for name, address in ((NEAR, ca.grpc), (FAR, relay.address))
        }
        for agent in agents.values():
            agent.wait_until(lambda agent=agent: agent.leaf() is not None)  # type: ignore[misc]
        yield Mesh(ca, agents, relay, offset, random.Random(seed))


def _agent(ca: RunningServe, home: Path, address: str, environment: Mapping[str, str]) -> RunningAgent:
    home.mkdir(mode=0o700)
    identity = f"spiffe://{TRUST_DOMAIN}/{home.name}"
    ca.handfast("entry", "add", identity, "--dns", "localhost").check()
    (home / "token").write_text(ca.handfast("token", "create", identity).check().out)
    root = load_certificates((ca.directory / "root" / "root.crt").read_bytes())[0]
    told: dict[str, Any] = {
        "ca": {"address": address, "enrol": ca.enrol, "http": f"http://{ca.http}"},
        "trust_domain": TRUST_DOMAIN,
        "trust": {"fingerprint": fingerprint(root)},
        "identity": identity,
        "dns_names": ["localhost"],
        "join_token": {"file": "token"},
        "directory": "out",
        "socket": "agent.sock",
    }
    (home / "agent.yaml").write_text(yaml.safe_dump(told))
    return RunningAgent(home / "agent.yaml", environment)


def run(directory: Path, seed: int, steps: int) -> None:
    """Raises whatever does not hold, with the seed and what was done."""
    with mesh(directory, seed) as world:
        try:
            for _ in range(2):
                assert world.issue()
            for _ in range(steps):
                world.step()
            world.settle()
        except BaseException:
            print(f"seed {seed}; FAULTS_SEED={seed} draws it again:", *world.trace, sep="\n  ")
            raise
        print(f"seed {seed}: {steps} steps, {len(world.revoked)} revoked, {len(world.in_doubt)} in doubt")
        print(json.dumps(world.trace))
