"""The state table: what is legal, what is not, and that the picture in the docs is the table."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from handfast.errors import Broken
from handfast_agent.lifecycle import TABLE, Event, State, diagram, move


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_a_move_is_in_the_table_or_raises(state: State, event: Event) -> None:
    if event in TABLE[state]:
        assert move(state, event) is TABLE[state][event]
    else:
        with pytest.raises(Broken) as refused:
            move(state, event)
        assert refused.value.reason == "ILLEGAL_MOVE"


def test_a_revoked_agent_comes_back_only_by_enrolling() -> None:
    """C1: neither a restart nor a clock un-revokes."""
    back = {event for event, after in TABLE[State.REVOKED].items() if after is State.SERVING}
    assert back == {Event.ENROLLED}


def test_stopped_is_final() -> None:
    assert TABLE[State.STOPPED] == {}


def test_the_diagram_in_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "agent.md"
    assert diagram() in page.read_text()
