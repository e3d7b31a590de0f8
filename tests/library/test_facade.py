"""``import handfast``: every name is there, and the doors say what is wrong."""

from __future__ import annotations

from doctest import DocTestFinder
from pathlib import Path
from types import ModuleType

import pytest

import handfast.testing
import handfast.tls
from handfast.errors import HandfastError, Unavailable


def test_every_name_of_the_facade_is_there() -> None:
    assert [name for name in handfast.__all__ if not hasattr(handfast, name)] == []
    assert set(handfast.__all__) <= set(dir(handfast))
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = handfast.conect  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [handfast, handfast.tls, handfast.testing], ids=lambda module: module.__name__)
def test_every_public_name_has_an_example_that_the_tests_run(module: ModuleType) -> None:
    """``--doctest-modules`` runs what stands in the module of each; a name that is only passed on counts there."""
    without = [name for name in module.__all__ if not has_example(getattr(module, name))]
    assert without == []


def has_example(thing: object) -> bool:
    return any(found.examples for found in DocTestFinder(recurse=False).find(thing))


def test_connect_without_an_agent_says_what_to_set() -> None:
    with pytest.raises(Unavailable) as caught:
        handfast.connect(environment={})
    assert caught.value.reason == "NO_SOURCE"
    assert "HANDFAST_AGENT_SOCKET" in caught.value.message


def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        handfast.connect(environment={"HANDFAST_AGENT_SOCKET": str(tmp_path / "agent.sock")}, wait=0.2)
    assert caught.value.reason == "NO_AGENT"


def test_a_directory_without_credentials_is_named(tmp_path: Path) -> None:
    with pytest.raises(HandfastError) as caught:
        handfast.connect(environment={"HANDFAST_CREDENTIALS_DIR": str(tmp_path)})
    assert str(tmp_path) in caught.value.message
