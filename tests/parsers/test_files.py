"""Files that people write or that lie about: configurations, contexts, audit trails, backups (threat A20)."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from handfast.cli import context
from handfast.clock import SystemClock
from handfast.errors import HandfastError, Invalid
from handfast_agent import config as agent_config
from handfast_ca import config as ca_config
from handfast_ca.archive import MEMBERS, REQUIRED, unpack
from handfast_ca.audit_check import read_head, read_record, verify_audit
from handfast_ca.audit_trail import Chain
from tests.parsers.damage import documents, octets

CA = """
trust_domain: test.example
public_url: http://ca.test.example:7080
server_names: [localhost, ca.test.example]
listen: {grpc: "127.0.0.1:7443", enrol: "127.0.0.1:7444", http: "[::1]:7080"}
issuer: {certificate: issuer.crt, key: issuer.key, passphrase_file: secret}
root: {certificate: root.crt, crl: root.crl}
state: state
operators: [spiffe://test.example/handfast/operator/admin]
"""
AGENT = """
ca: {address: "127.0.0.1:7443", enrol: "127.0.0.1:7444", http: "http://127.0.0.1:7080"}
trust_domain: test.example
trust: {file: root.crt}
identity: spiffe://test.example/web
join_token: {file: token}
directory: out
state: state
socket: agent.sock
health: "127.0.0.1:7090"
dns_names: [web.test]
ip_addresses: [10.0.0.7]
usages: [client]
files: {uid: 0, gid: 0, private_mode: "0600", public_mode: "0644"}
hooks: [{command: [/bin/true, "a; b"], timeout: 5}, {pid_file: a.pid, signal: SIGHUP}]
"""
CONTEXT = """
authority: localhost:7443
http: http://127.0.0.1:7080
trust_domain: test.example
server: spiffe://test.example/handfast/ca
credentials: files
"""
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@same_folder
@given(text=documents(CA))
@example(text=CA)
@example(text=CA.replace("127.0.0.1:7443", "127.0.0.1:²"))
@example(text=CA.replace("state: state", 'state: "a\\0b"'))
@example(text=CA.replace("state: state", "state: 2026-99-99"))
@example(text="[" * 5000)
def test_a_ca_s_configuration_is_values_or_all_its_mistakes(tmp_path: Path, text: str) -> None:
    """A20."""
    file = tmp_path / "handfast.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        ca_config.load(file)
    except Invalid as error:
        assert error.reason
        assert error.message


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a: \x80", CA.encode("utf-16"), b"\x00"])
def test_a_configuration_that_is_no_text_is_our_error(tmp_path: Path, data: bytes) -> None:
    """A20: for all three programs."""
    file = tmp_path / "file.yaml"
    file.write_bytes(data)
    for load in (ca_config.load, agent_config.load, lambda path: context.load(str(path))):
        with pytest.raises(Invalid):
            load(file)


@given(documents(AGENT))
@example(AGENT)
@example(AGENT.replace("127.0.0.1:7090", "127.0.0.1:²"))
@example(AGENT.replace("directory: out", "directory: 2026-99-99"))
@example(AGENT.replace("directory: out", 'directory: "."'))
@example(AGENT.replace("directory: out", 'directory: "/"'))
@example("[" * 5000)
def test_an_agent_s_configuration_is_values_or_all_its_mistakes(text: str) -> None:
    """A20."""
    try:
        agent_config.parse(text, {})
    except Invalid as error:
        assert error.reason
        assert error.message


@same_folder
@given(text=documents(CONTEXT))
@example(text=CONTEXT)
@example(text=CONTEXT.replace("spiffe://test.example/handfast/ca", "[a]"))
@example(text=CONTEXT.replace("spiffe://test.example/handfast/ca", "7"))
@example(text=CONTEXT.replace("credentials: files", "credentials: ~nobody-at-all/x"))
@example(text=CONTEXT.replace("credentials: files", 'credentials: "a\\0b"'))
@example(text="[" * 5000)
def test_an_operator_s_context_is_values_or_our_error(tmp_path: Path, text: str) -> None:
    """A20."""
    file = tmp_path / "context.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        context.load(str(file))
    except HandfastError as error:
        assert error.message


TRAIL = b"".join(Chain(SystemClock(), boot="boot").lines([{"event": "enrol", "decision": "granted"}] * 3)[0])


@same_folder
@given(data=octets(TRAIL) | st.binary(max_size=200), head=octets(b'{"seq": 3, "hash": "%s"}' % (b"0" * 64)))
@example(data=TRAIL, head=b'{"seq": 1e999, "hash": 1}')
@example(data=TRAIL, head=b'{"seq": NaN, "hash": 1}')
@example(data=TRAIL, head=b"[" * 5_000)
@example(data=b'{"seq":' + b"[" * 5_000 + b',"hash":"' + b"0" * 64 + b'"}\n', head=b"")
@example(
    data=b'{"seq":' + b"9" * 5000 + b',"prev":"","hash":"' + b"0" * 64 + b'"}\n', head=b'{"seq": %s}' % (b"9" * 5000)
)
def test_a_trail_that_was_altered_is_reported_and_read_to_its_end(tmp_path: Path, data: bytes, head: bytes) -> None:
    """A20, G3: no octet stops the reader."""
    trail = tmp_path / "audit.jsonl"
    trail.write_bytes(data)
    (tmp_path / "audit.jsonl.head").write_bytes(head)
    report = verify_audit(trail)
    if data != TRAIL:
        assert report.position.seq <= max(report.lines, 3) or not report.intact or report.unfinished
    for line in data.splitlines(keepends=True):
        read_record(line)
    read_head(head)


def archive(members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.type, about.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(about, io.BytesIO(data))
    return made.getvalue()


MANIFEST = json.dumps(
    {
        "format": 1,
        "made_at": "2026-11-25T00:00:00+00:00",
        "trust_domain": "test.example",
        "root": "sha256:" + "0" * 64,
        "sha256": {"ledger.db": "0" * 64},
    }
).encode()
BACKUP = archive({"manifest.json": MANIFEST, "ledger.db": b"ledger"})


@same_folder
@given(data=octets(BACKUP) | st.binary(max_size=600))
@example(data=BACKUP)
@example(data=b"")
@example(data=archive({"manifest.json": b"[]", "ledger.db": b""}))
@example(data=archive({"manifest.json": b"[" * 5_000, "ledger.db": b""}))
@example(data=archive({"manifest.json": b'{"format": 1}', "ledger.db": b""}))
@example(data=archive({"manifest.json": b"\xff", "ledger.db": b""}))
@example(data=archive({"ledger.db": b""}))
@example(data=archive({"manifest.json": MANIFEST}))
@example(data=archive({"../ledger.db": b"", "manifest.json": MANIFEST}))
@example(data=archive({"ledger.db": b""}, kind=tarfile.SYMTYPE))
def test_a_backup_that_is_none_is_our_error_and_no_name_in_it_leads_out(tmp_path: Path, data: bytes) -> None:
    """A20, E5, J3."""
    private = tmp_path / "private"
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir()
    source = tmp_path / "backup.tar"
    source.write_bytes(data)
    with pytest.raises(Invalid) as caught:
        unpack(source, private)
    assert caught.value.reason == "BACKUP_DAMAGED"
    assert {path.name for path in private.iterdir()} <= MEMBERS
    assert {path.name for path in tmp_path.iterdir()} == {"backup.tar", "private"}


def test_a_link_to_another_member_is_no_member(tmp_path: Path) -> None:
    """E6: though it would have the octets that the manifest says."""
    names = sorted(REQUIRED)
    manifest = json.loads(MANIFEST) | {"sha256": {name: sha256(b"octets").hexdigest() for name in names}}
    for kind, refused in ((tarfile.REGTYPE, False), (tarfile.SYMTYPE, True), (tarfile.LNKTYPE, True)):
        made = io.BytesIO(
            archive({"manifest.json": json.dumps(manifest).encode(), **dict.fromkeys(names[:-1], b"octets")})
        )
        with tarfile.open(fileobj=made, mode="a") as tar:
            last = tarfile.TarInfo(names[-1])
            last.type, last.linkname, last.size = kind, names[0] if refused else "", 0 if refused else len(b"octets")
            tar.addfile(last, io.BytesIO(b"octets"))
        (tmp_path / "backup.tar").write_bytes(made.getvalue())
        into = Path(tempfile.mkdtemp(dir=tmp_path))
        if not refused:
            assert unpack(tmp_path / "backup.tar", into).sha256 == manifest["sha256"]
            continue
        with pytest.raises(Invalid) as caught:
            unpack(tmp_path / "backup.tar", into)
        assert caught.value.reason == "BACKUP_DAMAGED"
