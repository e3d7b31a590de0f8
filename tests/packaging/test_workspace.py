"""The workspace holds together: one version, one licence, locks that work behind any mirror, names that say something."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.wheels import DISTRIBUTIONS, ROOT, Distribution

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
SAYS_NOTHING = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}


def project(distribution: Distribution) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((distribution.project / "pyproject.toml").read_text())["project"]
    return table


def test_the_three_are_of_one_version_and_ask_for_each_other_in_it() -> None:
    versions = {project(distribution)["version"] for distribution in DISTRIBUTIONS}
    assert len(versions) == 1
    (version,) = versions
    asked = [
        requirement.partition("==")[2]
        for distribution in DISTRIBUTIONS
        for requirement in project(distribution)["dependencies"]
        if requirement.startswith("handfast")
    ]
    assert asked == [version, version]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda distribution: distribution.name)
def test_each_distribution_carries_the_licence_of_the_whole(distribution: Distribution) -> None:
    assert (distribution.project / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_registry(lock: Path) -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_each_package_by_hash(lock: Path) -> None:
    pins = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert pins
    assert [pin for pin in pins if not re.match(r"[\w.-]+==\S+[^\n]*\\\n\s+--hash=sha256:[0-9a-f]{64}", pin)] == []


def test_the_locks_agree() -> None:
    """A lock may pin two versions for two Pythons; the next lock must pin the same two."""
    pins = [versions_by_name(lock) for lock in LOCKS]
    for first in pins:
        for second in pins:
            assert {name: first[name] for name in first.keys() & second.keys() if first[name] != second[name]} == {}


def versions_by_name(lock: Path) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def test_no_module_has_a_name_that_says_nothing() -> None:
    tops = [*(distribution.source for distribution in DISTRIBUTIONS), ROOT / "tests", ROOT / "examples"]
    modules = [file for top in tops for file in top.rglob("*.py")]
    assert [str(file) for file in modules if SAYS_NOTHING & {file.stem, file.parent.name}] == []
