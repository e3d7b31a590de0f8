"""One file goes out, and comes back without losing a revocation (threat J9). What follows is in ``test_quarantine.py``."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.clock import SystemClock
from handfast.csr import build_csr
from handfast.errors import Broken, Conflict, HandfastError, Invalid, Refused
from handfast.identity import SpiffeId, TrustDomain
from handfast.keys import generate
from handfast.revocation import Reason
from handfast.testing import ManualClock
from handfast_ca.audit import verify_audit
from handfast_ca.authority import Authority
from handfast_ca.backup import BackedUp, Keys, back_up
from handfast_ca.config import load
from handfast_ca.custody.file import load_key
from handfast_ca.incident import Reissue
from handfast_ca.ledger import CertificateRecord
from handfast_ca.restore import Restored, restore
from handfast_ca.serve import open_authority
from handfast_ca.setup import Wishes, initialise
from handfast_ca.stores.database import hold
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.untar import untar

WEB = SpiffeId.parse("spiffe://test.example/web")
PASSPHRASE = b"correct horse"
CLOCK = SystemClock()
ROLLOUT = datetime(2020, 1, 1, tzinfo=UTC)
"""Before any of these tests ran."""
Made = tuple[Path, int]
T = TypeVar("T")


def made_ca(directory: Path, passphrase: bytes | None = None, trust_domain: str = "test.example") -> Path:
    """Its configuration."""
    return initialise(directory, Wishes(TrustDomain(trust_domain)), passphrase=passphrase, now=CLOCK.now()).config


def in_authority(config: Path, step: Callable[[Authority], Awaitable[T]]) -> T:
    """One step in a CA that is started for it and stopped."""

    async def run() -> T:
        async with open_authority(load(config), None) as authority:
            return await step(authority)

    return asyncio.run(run())


def issued(config: Path) -> int:
    async def issue(authority: Authority) -> int:
        return (await authority.sign(WEB, build_csr(generate()), by="admin")).record.serial

    return in_authority(config, issue)


def revoked(config: Path, serial: int, reason: Reason = Reason.SUPERSEDED) -> None:
    in_authority(config, lambda authority: authority.revoke_serial(serial, reason, by="admin"))


def backed_up(config: Path, target: Path, keys: Keys = Keys.NONE) -> BackedUp:
    return back_up(config, load(config), target, keys=keys, now=CLOCK.now())


def restored(source: Path, config: Path, *, merge: bool = False) -> Restored:
    return restore(source, config, merge=merge, clock=CLOCK)


def found(config: Path, serial: int) -> CertificateRecord:
    async def find() -> CertificateRecord:
        ledger = await SqliteLedger.open(load(config).state / "ledger.db", reserve=4096)
        try:
            return await ledger.find(serial)
        finally:
            await ledger.close()

    return asyncio.run(find())


def everything(directory: Path) -> dict[str, bytes]:
    """But locks and what SQLite keeps beside its file."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.suffix in (".db", ".jsonl", ".crt", ".yaml", ".key")}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A CA that has one entry."""
    made = made_ca(tmp_path / "ca")
    in_authority(made, lambda authority: authority.add_entry(str(WEB), by="admin"))
    return made


@pytest.fixture
def one(config: Path, tmp_path: Path) -> Made:
    """A backup with one certificate, and its serial."""
    serial = issued(config)
    backed_up(config, tmp_path / "one.tar")
    return tmp_path / "one.tar", serial


def refused(kind: type[HandfastError], reason: str, source: Path, config: Path, *, merge: bool = False) -> None:
    """And nothing that was there has changed."""
    before = everything(config.parent)
    with pytest.raises(kind) as raised:
        restored(source, config, merge=merge)
    assert raised.value.reason == reason
    assert everything(config.parent) == before


def test_a_backup_says_what_is_in_it_and_is_for_its_owner(config: Path, tmp_path: Path) -> None:
    """E3, J9."""
    serial = issued(config)
    revoked(config, serial)
    made = backed_up(config, tmp_path / "one.tar")
    assert (tmp_path / "one.tar").stat().st_mode & 0o777 == 0o600
    assert (made.counts["entries"], made.counts["certificates"], made.counts["revoked"]) == (1, 1, 1)
    assert made.audit is not None
    assert made.audit.intact
    assert made.audit.lines == verify_audit(load(config).state / "audit.jsonl").lines


def test_it_comes_back_where_nothing_is_left(one: Made, tmp_path: Path) -> None:
    """J9: whole but for the key, with CRL numbers above all that were ever published."""
    source, serial = one
    config = tmp_path / "new" / "handfast.yaml"
    done = restored(source, config)
    assert done.counts["crl_number"] >= 1 << 64
    assert found(config, serial).spiffe_id == WEB
    assert verify_audit(load(config).state / "audit.jsonl").intact
    assert not load(config).issuer_key.exists()
    shutil.copy2(tmp_path / "ca" / "issuer" / "issuer.key", load(config).issuer_key)
    revoked(config, serial)
    assert in_authority(config, _last_event) == "revoke"  # in quarantine no list is signed, and nobody waits for one


async def _last_event(authority: Authority) -> str:
    page = await authority.read_audit(newest_first=True, limit=1)
    return str(json.loads(page.items[0])["event"])


def test_each_restore_of_one_backup_numbers_its_lists_past_all_others(one: Made, tmp_path: Path) -> None:
    """J9, D1: also when the state was lost, so that nobody knows what the restore before had published."""
    highest = 0
    for days in range(3):
        clock = ManualClock(CLOCK.now() + timedelta(days=days))
        done = restore(one[0], tmp_path / f"new {days}" / "handfast.yaml", merge=False, clock=clock)
        assert done.counts["crl_number"] >> 64 == int(clock.now().timestamp())
        assert done.counts["crl_number"] > highest
        highest = done.counts["crl_number"] + 1000


def test_a_restore_over_a_ledger_begins_an_epoch_too(config: Path, one: Made) -> None:
    """J9, D1: that ledger may have been put back before."""
    assert restored(one[0], config, merge=True).counts["crl_number"] >= int(ROLLOUT.timestamp()) << 64


def test_with_a_clock_that_is_behind_an_epoch_is_one_more_than_the_one_before(one: Made, tmp_path: Path) -> None:
    """J8, J9, D1."""
    config = tmp_path / "new" / "handfast.yaml"
    before = restored(one[0], config).counts["crl_number"]
    clock = ManualClock(ROLLOUT)
    done = restore(one[0], config, merge=True, clock=clock)
    assert done.counts["crl_number"] >> 64 == (before >> 64) + 1


def test_over_a_ledger_it_takes_a_word_and_keeps_every_revocation(config: Path, one: Made) -> None:
    """J9: also of what was issued after the backup; the old file stays."""
    source, early = one
    late, lasting = issued(config), issued(config)
    revoked(config, early, Reason.KEY_COMPROMISE)
    revoked(config, late)
    refused(Refused, "STATE_EXISTS", source, config)
    done = restored(source, config, merge=True)
    assert done.carried is not None
    assert (done.carried.revocations, done.carried.certificates) == (2, 2)
    assert (found(config, early).reason, found(config, late).reason) == (Reason.KEY_COMPROMISE, Reason.SUPERSEDED)
    assert found(config, lasting).revoked_at is None
    assert done.replaced is not None
    assert done.replaced.stat().st_mode & 0o777 == 0o600
    assert in_authority(config, _last_event) == "crl"
    with pytest.raises(Conflict):  # and its number went on: an older one would be refused by everybody
        backed_up(config, source)


def test_entries_are_those_of_the_backup_and_the_difference_is_said(config: Path, one: Made) -> None:
    """J9."""
    pay = SpiffeId.parse("spiffe://test.example/pay")
    in_authority(config, lambda authority: authority.remove_entry(WEB, by="admin"))
    in_authority(config, lambda authority: authority.add_entry(str(pay), by="admin"))
    done = restored(one[0], config, merge=True)
    assert done.carried is not None
    assert (done.carried.returned, done.carried.gone) == ((str(WEB),), (str(pay),))


def test_a_join_token_never_comes_back(config: Path, tmp_path: Path) -> None:
    """B1: it may have been spent since."""
    in_authority(config, lambda authority: authority.create_token(WEB, by="admin"))
    backed_up(config, tmp_path / "one.tar")
    for target, merge in ((config, True), (tmp_path / "new" / "handfast.yaml", False)):
        restored(tmp_path / "one.tar", target, merge=merge)
        shutil.copy2(tmp_path / "ca" / "issuer" / "issuer.key", load(target).issuer_key) if not merge else None
        assert in_authority(target, lambda authority: authority.counts())["tokens"] == 0


def test_while_a_ca_runs_nothing_is_restored(config: Path, one: Made) -> None:
    lock = hold(load(config).state / "ledger.db")
    refused(Conflict, "LEDGER_IN_USE", one[0], config, merge=True)
    os.close(lock)


def test_a_lost_ledger_takes_its_revocations_from_the_audit_trail(config: Path, one: Made) -> None:
    """J3, J9: a damaged one is not taken for a ledger, and the trail beside it knows what was revoked."""
    source, early = one
    late, lasting = issued(config), issued(config)
    revoked(config, early)
    revoked(config, late, Reason.KEY_COMPROMISE)
    ledger = load(config).state / "ledger.db"
    ledger.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    refused(Broken, "LEDGER_DAMAGED", source, config, merge=True)
    ledger.rename(ledger.with_name("damaged"))
    done = restored(source, config)
    assert done.recorded == 2
    assert (found(config, early).reason, found(config, late).reason) == (Reason.SUPERSEDED, Reason.KEY_COMPROMISE)
    with pytest.raises(HandfastError):
        found(config, lasting)  # what was issued since and not revoked is unknown: that is what quarantine is for
    assert in_authority(config, _last_event) == "restore"


def test_a_trail_that_does_not_go_on_from_the_backup_s_is_not_mixed_with_it(config: Path, one: Made) -> None:
    """G3: two trails would make one that proves nothing."""
    state = load(config).state
    for path in state.iterdir():
        path.rename(path.with_name(f"{path.name}.old"))
    in_authority(config, _last_event)
    (state / "ledger.db").unlink()
    refused(Refused, "AUDIT_DIVERGED", one[0], config)


def test_a_backup_of_another_ca_is_refused(one: Made, tmp_path: Path) -> None:
    """J9: another trust domain, or the same name over another root."""
    for name, trust_domain in (("other", "other.example"), ("same", "test.example")):
        config = made_ca(tmp_path / name, trust_domain=trust_domain)
        refused(Refused, "BACKUP_FOREIGN", one[0], config, merge=True)


MEMBERS = ["manifest.json", "handfast.yaml", "issuer.crt", "root.crt", "root.crl", "ledger.db", "audit.jsonl.head"]


@pytest.mark.parametrize("name", [*MEMBERS, "audit.jsonl"])
@pytest.mark.parametrize("part", ["header", "contents"])
def test_a_changed_byte_is_noticed(one: Made, tmp_path: Path, name: str, part: str) -> None:
    """J3: the manifest holds the digest of every member."""
    octets = bytearray(one[0].read_bytes())
    with tarfile.open(one[0]) as archive:
        about = archive.getmember(name)
    octets[about.offset if part == "header" else about.offset_data + about.size // 2] ^= 1
    (tmp_path / "bad.tar").write_bytes(octets)
    refused(Invalid, "BACKUP_DAMAGED", tmp_path / "bad.tar", tmp_path / "nowhere" / "handfast.yaml")


def test_a_backup_that_was_cut_off_is_noticed(one: Made, tmp_path: Path) -> None:
    """J3, J4: such as a copy onto a full disk."""
    octets = one[0].read_bytes()
    for share in (10, 50, 90):
        (tmp_path / "bad.tar").write_bytes(octets[: len(octets) * share // 100])
        refused(Invalid, "BACKUP_DAMAGED", tmp_path / "bad.tar", tmp_path / "nowhere" / "handfast.yaml")


@pytest.mark.parametrize("octets", [b"", b"hello", b"\0" * 10240])
def test_what_is_no_backup_is_called_so(tmp_path: Path, octets: bytes) -> None:
    """J1: such as the empty file that a killed backup leaves."""
    (tmp_path / "none.tar").write_bytes(octets)
    refused(Invalid, "BACKUP_DAMAGED", tmp_path / "none.tar", tmp_path / "nowhere" / "handfast.yaml")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes, bytes]]) -> None:
    """The same tar with other members: name, contents and type of each from ``change``."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for about in old:
            file = old.extractfile(about)
            assert file is not None
            name, octets, kind = change(about.name, file.read())
            made = tarfile.TarInfo(name)
            made.size, made.type, made.linkname = len(octets), kind, "/etc/passwd"
            new.addfile(made, io.BytesIO(octets))


@pytest.mark.parametrize("name", ["../root.crt", "/tmp/root.crt", "state/root.crt", "root.key"])
def test_a_name_that_no_backup_has_is_not_followed(one: Made, tmp_path: Path, name: str) -> None:
    """E5."""
    rewritten(
        one[0], tmp_path / "bad.tar", lambda old, octets: (name if old == "root.crt" else old, octets, tarfile.REGTYPE)
    )
    refused(Invalid, "BACKUP_DAMAGED", tmp_path / "bad.tar", tmp_path / "nowhere" / "handfast.yaml")


def test_a_link_in_a_backup_is_not_followed(one: Made, tmp_path: Path) -> None:
    """E6."""
    rewritten(
        one[0],
        tmp_path / "bad.tar",
        lambda name, octets: (name, b"", tarfile.SYMTYPE) if name == "root.crt" else (name, octets, tarfile.REGTYPE),
    )
    refused(Invalid, "BACKUP_DAMAGED", tmp_path / "bad.tar", tmp_path / "nowhere" / "handfast.yaml")


def test_a_backup_s_own_configuration_decides_nothing_outside_its_directory(config: Path, tmp_path: Path) -> None:
    """E5: a backup says where its files go, and a forged one must not say /etc."""
    issued(config)
    text = config.read_text("utf-8").replace("root/root.crl", str(tmp_path / "elsewhere.crl"))
    shutil.copy2(tmp_path / "ca" / "root" / "root.crl", tmp_path / "elsewhere.crl")
    config.write_text(text, "utf-8")
    backed_up(config, tmp_path / "one.tar")
    refused(Refused, "RESTORE_OUTSIDE", tmp_path / "one.tar", tmp_path / "new" / "handfast.yaml")


def private_bytes(path: Path, passphrase: bytes | None) -> list[bytes]:
    """Every way in which the scalar of a key could lie in a file."""
    key = load_key(path, passphrase)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scalar = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    inside = [base64.b64encode(scalar[skip:])[:-4] for skip in range(3)]
    return [scalar, scalar.hex().encode(), scalar.hex().upper().encode(), *inside, b"PRIVATE KEY"]


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_no_private_key_is_in_a_backup(tmp_path: Path, passphrase: bytes | None) -> None:
    """E3: each member of the tar is searched for the scalars of root and issuing CA and for PEM."""
    config = made_ca(tmp_path / "ca", passphrase)

    async def start() -> None:
        async with open_authority(load(config), passphrase) as authority:
            await authority.add_entry(str(WEB), by="admin")
            await authority.sign(WEB, build_csr(generate()), by="admin")

    asyncio.run(start())
    made = backed_up(config, tmp_path / "one.tar")
    assert made.keys is Keys.NONE
    directory = tmp_path / "ca"
    secrets = [
        *private_bytes(directory / "root" / "root.key", passphrase),
        *private_bytes(directory / "issuer" / "issuer.key", passphrase),
    ]
    untar(tmp_path / "one.tar", tmp_path / "untarred")
    for octets in [(tmp_path / "one.tar").read_bytes(), *everything(tmp_path / "untarred").values()]:
        assert [secret for secret in secrets if secret in octets] == []


def test_the_search_for_keys_finds_one_that_is_there(config: Path, tmp_path: Path) -> None:
    """E3: the test above bites."""
    issued(config)
    backed_up(config, tmp_path / "one.tar", Keys.UNSEALED)
    octets = (tmp_path / "one.tar").read_bytes()
    assert any(secret in octets for secret in private_bytes(load(config).issuer_key, None))


def test_a_sealed_key_goes_in_as_it_is_and_comes_back(tmp_path: Path) -> None:
    """E3: asked for, and still sealed."""
    config = made_ca(tmp_path / "ca", PASSPHRASE)

    async def start() -> None:
        async with open_authority(load(config), PASSPHRASE):
            pass

    asyncio.run(start())
    made = backed_up(config, tmp_path / "one.tar", Keys.SEALED)
    assert made.keys is Keys.SEALED
    octets = (tmp_path / "one.tar").read_bytes()
    assert [one for one in private_bytes(load(config).issuer_key, PASSPHRASE) if one in octets] == []
    new = tmp_path / "new" / "handfast.yaml"
    restored(tmp_path / "one.tar", new)
    assert load(new).issuer_key.read_bytes() == load(config).issuer_key.read_bytes()
    assert load(new).issuer_key.stat().st_mode & 0o777 == 0o600


def test_a_key_without_a_passphrase_goes_in_only_when_that_is_said(config: Path, tmp_path: Path) -> None:
    """E3."""
    issued(config)
    with pytest.raises(Refused) as raised:
        backed_up(config, tmp_path / "one.tar", Keys.SEALED)
    assert raised.value.reason == "KEY_NOT_SEALED"
    assert not (tmp_path / "one.tar").exists()
    assert backed_up(config, tmp_path / "one.tar", Keys.UNSEALED).keys is Keys.UNSEALED


@pytest.mark.parametrize("contents", ["-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "container", "both"])
def test_a_key_where_a_certificate_belongs_stops_the_backup(config: Path, tmp_path: Path, contents: str) -> None:
    """E3: a slip in the configuration, or a file that holds both."""
    issued(config)
    place = tmp_path / "ca" / "issuer" / "issuer.crt"
    key = (tmp_path / "ca" / "issuer" / "issuer.key").read_text("ascii")
    both = place.read_text("ascii") + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    place.write_text({"container": key, "both": both}.get(contents, contents))
    with pytest.raises(Invalid) as raised:
        backed_up(config, tmp_path / "one.tar")
    assert raised.value.reason == "BACKUP_MEMBER"
    assert not (tmp_path / "one.tar").exists()


def test_a_backup_overwrites_nothing(config: Path, tmp_path: Path) -> None:
    issued(config)
    (tmp_path / "one.tar").write_text("precious")
    with pytest.raises(Conflict) as raised:
        backed_up(config, tmp_path / "one.tar")
    assert raised.value.reason == "BACKUP_EXISTS"
    assert (tmp_path / "one.tar").read_text() == "precious"


def test_a_damaged_ledger_makes_no_backup(config: Path, tmp_path: Path) -> None:
    """J3: a backup that nobody could restore would only be trusted for too long."""
    issued(config)
    (load(config).state / "ledger.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(Broken) as raised:
        backed_up(config, tmp_path / "one.tar")
    assert raised.value.reason == "LEDGER_DAMAGED"
    assert not (tmp_path / "one.tar").exists()


# --- everybody renews -------------------------------------------------------------------------------------------------


def orders(config: Path) -> list[str]:
    """What the trail says of reissues."""
    lines = map(json.loads, (load(config).state / "audit.jsonl").read_text().splitlines())
    return [line["detail"] for line in lines if line["event"] == "reissue"]


async def ordered(authority: Authority) -> Reissue | None:
    return authority.trust().reissue


def test_a_restore_can_order_every_agent_to_renew_once_the_ca_signs(config: Path, one: Made) -> None:
    """J9: over the ledger that is there; told to all who watch, for an hour from the start on, and given once."""
    before = CLOCK.now() - timedelta(seconds=1)
    restore(one[0], config, merge=True, clock=CLOCK, reissue=timedelta(hours=1))
    assert orders(config) == []
    order = in_authority(config, ordered)
    assert order is not None
    assert order.tainted_at >= before
    assert order.renew_before - order.tainted_at == timedelta(hours=1)
    assert in_authority(config, ordered) == order
    assert orders(config) == ["window 1h, after a restore"]


def test_the_order_of_a_restore_waits_for_the_end_of_the_quarantine(config: Path, one: Made, tmp_path: Path) -> None:
    """J9, R1: in quarantine nobody could obey it, and its window must not be over when that ends."""
    elsewhere = tmp_path / "elsewhere" / "handfast.yaml"
    restore(one[0], elsewhere, merge=False, clock=CLOCK, reissue=timedelta(minutes=10))
    shutil.copyfile(load(config).issuer_key, load(elsewhere).issuer_key)
    load(elsewhere).issuer_key.chmod(0o600)
    assert in_authority(elsewhere, ordered) is None

    async def released(authority: Authority) -> Reissue | None:
        await authority.reissue_wanted()
        assert authority.trust().reissue is None
        await authority.witnesses.release(by="admin", accept_loss=True)
        return authority.trust().reissue

    order = in_authority(elsewhere, released)
    assert order is not None
    assert orders(elsewhere) == ["window 10m, after a restore"]
    assert in_authority(elsewhere, ordered) == order


@pytest.mark.parametrize("window", [timedelta(seconds=9), timedelta(hours=24, seconds=1)])
def test_a_window_that_nobody_could_keep_is_refused_before_anything_is_restored(
    config: Path, one: Made, window: timedelta
) -> None:
    """J9: nothing that was there has changed."""
    before = everything(config.parent)
    with pytest.raises(Invalid) as caught:
        restore(one[0], config, merge=True, clock=CLOCK, reissue=window)
    assert caught.value.reason == "INVALID_WINDOW"
    assert everything(config.parent) == before
