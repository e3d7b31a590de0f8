"""One file goes out, and comes back without losing a revocation (threat J9; quarantine comes with a later issue)."""

from __future__ import annotations

import base64
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.errors import Conflict, Invalid, Refused
from handfast.identity import TrustDomain
from handfast.revocation import Reason
from handfast_ca.backup import back_up, restore
from handfast_ca.custody.file import load_key
from handfast_ca.setup import Wishes, initialise
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, issue


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


async def backed_up(state: Path, target: Path) -> None:
    """A ledger with one certificate, in a backup."""
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await issue(ledger, 1)
    await back_up(ledger, target, {}, now=NOW)
    await ledger.close()


async def test_a_backup_comes_back_into_an_empty_directory(state: Path, tmp_path: Path) -> None:
    """J9: the same certificates, mode 0600."""
    await backed_up(state, tmp_path / "one.tar")
    assert (tmp_path / "one.tar").stat().st_mode & 0o777 == 0o600
    fresh = tmp_path / "fresh"
    fresh.mkdir(mode=0o700)
    assert await restore(tmp_path / "one.tar", fresh, merge=False, now=NOW) == 0
    ledger = await SqliteLedger.open(fresh / "ledger.db", reserve=4096)
    assert (await ledger.find(1)).revoked_at is None
    await ledger.close()


async def test_restoring_over_a_ledger_is_refused_or_keeps_its_revocations(state: Path, tmp_path: Path) -> None:
    """J9: what was revoked after the backup stays revoked."""
    await backed_up(state, tmp_path / "one.tar")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await ledger.revoke_serial(1, Reason.SUPERSEDED, now=NOW)
    number = (await ledger.plan_crl(ISSUER, now=NOW)).number
    await ledger.raise_mark("seen", 7)
    with pytest.raises(Conflict) as running:
        await restore(tmp_path / "one.tar", state, merge=True, now=NOW)
    await ledger.close()
    with pytest.raises(Refused) as refused:
        await restore(tmp_path / "one.tar", state, merge=False, now=NOW)
    assert (running.value.reason, refused.value.reason) == ("LEDGER_IN_USE", "STATE_EXISTS")
    assert await restore(tmp_path / "one.tar", state, merge=True, now=NOW) == 1
    merged = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    assert (await merged.find(1)).reason is Reason.SUPERSEDED
    assert (await merged.plan_crl(ISSUER, now=NOW)).number == number + 1
    assert await merged.mark("seen") == 7
    await merged.close()


async def test_a_revocation_that_the_backup_never_saw_stops_the_restore(state: Path, tmp_path: Path) -> None:
    """J9: and the present ledger stays as it is."""
    await backed_up(state, tmp_path / "one.tar")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await issue(ledger, 2)
    await ledger.revoke_serial(2, Reason.UNSPECIFIED, now=NOW)
    await ledger.close()
    with pytest.raises(Refused) as refused:
        await restore(tmp_path / "one.tar", state, merge=True, now=NOW)
    assert refused.value.reason == "RESTORE_UNKNOWN"
    kept = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    assert (await kept.find(2)).revoked_at == NOW
    await kept.close()


async def test_a_changed_backup_is_refused(state: Path, tmp_path: Path) -> None:
    """J3: the manifest holds the digest of every member."""
    await backed_up(state, tmp_path / "one.tar")
    octets = bytearray((tmp_path / "one.tar").read_bytes())
    octets[len(octets) // 2] ^= 1
    (tmp_path / "bad.tar").write_bytes(octets)
    with pytest.raises(Invalid) as refused:
        await restore(tmp_path / "bad.tar", tmp_path / "nowhere", merge=False, now=NOW)
    assert refused.value.reason == "BACKUP_DAMAGED"


async def test_a_private_key_never_gets_into_a_backup(state: Path, tmp_path: Path) -> None:
    """E: keys have their own safe."""
    (tmp_path / "key.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    with pytest.raises(Invalid) as refused:
        await back_up(ledger, tmp_path / "one.tar", {"issuer.crt": tmp_path / "key.pem"}, now=NOW)
    await ledger.close()
    assert refused.value.reason == "BACKUP_MEMBER"
    assert not (tmp_path / "one.tar").exists()


@pytest.mark.parametrize("passphrase", [None, b"correct horse"], ids=["open", "sealed"])
async def test_a_backup_of_a_whole_ca_has_no_key_in_it(tmp_path: Path, passphrase: bytes | None) -> None:
    """E3: neither as a file nor as octets, in whatever form, of root or issuing CA."""
    made = initialise(tmp_path / "ca", Wishes(TrustDomain("test.example")), passphrase=passphrase, now=NOW)
    state = made.directory / "state"
    ledger = await SqliteLedger.open(state / "ledger.db", reserve=4096)
    await issue(ledger, 1)
    (state / "audit.jsonl").write_text("{}\n")
    public = {
        "audit.jsonl": state / "audit.jsonl",
        "root.crt": made.directory / "root/root.crt",
        "issuer.crt": made.directory / "issuer/issuer.crt",
    }
    await back_up(ledger, tmp_path / "one.tar", public, now=NOW)
    for name in ("root/root.key", "issuer/issuer.key"):
        with pytest.raises(Invalid) as refused:
            await back_up(ledger, tmp_path / "two.tar", {"issuer.crt": made.directory / name}, now=NOW)
        assert refused.value.reason == "BACKUP_MEMBER"
    await ledger.close()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert set(archive.getnames()) == {"manifest.json", "ledger.db", *public}
    octets = (tmp_path / "one.tar").read_bytes()
    assert b"PRIVATE KEY" not in octets
    for name in ("root/root.key", "issuer/issuer.key"):
        key = load_key(made.directory / name, passphrase)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        value = key.private_numbers().private_value
        scalar = value.to_bytes((key.key_size + 7) // 8, "big")
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for secret in (scalar, scalar.hex().encode(), base64.b64encode(scalar), str(value).encode(), der):
            assert secret not in octets
        assert (made.directory / name).read_bytes()[40:80] not in octets
