"""Where the agent stands, as a table. An illegal move raises and changes nothing.

The rules, which the table below spells out:

1. Only SERVING hands a key and a certificate to a workload.
2. There is one way into SERVING for a new identity (ENROLLED), and one for an old one that is still good (RESTORED:
   read from disk after a restart, or valid again after a wrong clock was put right).
3. Expiry ends SERVING, whatever else happens. A certificate that expired is never renewed: the workload enrols again.
4. REVOKED is left by enrolment with a new proof, and by nothing else: neither a restart nor a clock brings it back.
5. An empty bundle withdraws all trust (SPIFFE bundle, 4.1.3). The identity is kept, so that a new bundle can bring it
   back.
6. STOPPED is final.
"""

from __future__ import annotations

from enum import StrEnum

from handfast.errors import Broken

__all__ = ["TABLE", "Event", "State", "diagram", "move"]


class State(StrEnum):
    """Names as `handfast agent status` shows them."""

    UNENROLLED = "unenrolled"
    SERVING = "serving"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNTRUSTING = "untrusting"
    STOPPED = "stopped"


class Event(StrEnum):
    """What can happen to an agent."""

    ENROLLED = "enrolled"
    RESTORED = "restored"
    RENEWED = "renewed"
    EXPIRED = "expired"
    REVOKED = "revoked"
    TRUST_WITHDRAWN = "trust-withdrawn"
    STOPPED = "stopped"


TABLE: dict[State, dict[Event, State]] = {
    State.UNENROLLED: {
        Event.ENROLLED: State.SERVING,
        Event.RESTORED: State.SERVING,
        Event.STOPPED: State.STOPPED,
    },
    State.SERVING: {
        Event.RENEWED: State.SERVING,
        Event.EXPIRED: State.EXPIRED,
        Event.REVOKED: State.REVOKED,
        Event.TRUST_WITHDRAWN: State.UNTRUSTING,
        Event.STOPPED: State.STOPPED,
    },
    State.EXPIRED: {
        Event.ENROLLED: State.SERVING,
        Event.RESTORED: State.SERVING,
        Event.REVOKED: State.REVOKED,
        Event.STOPPED: State.STOPPED,
    },
    State.REVOKED: {
        Event.ENROLLED: State.SERVING,
        Event.STOPPED: State.STOPPED,
    },
    State.UNTRUSTING: {
        Event.RESTORED: State.SERVING,
        Event.EXPIRED: State.EXPIRED,
        Event.REVOKED: State.REVOKED,
        Event.STOPPED: State.STOPPED,
    },
    State.STOPPED: {},
}


def move(state: State, event: Event) -> State:
    """The state after ``event``. Raises ``Broken`` (``ILLEGAL_MOVE``)."""
    try:
        return TABLE[state][event]
    except KeyError:
        raise Broken(f"an agent that is {state} cannot become {event}", reason="ILLEGAL_MOVE") from None


def diagram() -> str:
    """The table as a Mermaid state diagram: what docs/agent.md shows.

    >>> print(diagram().splitlines()[1].strip())
    [*] --> unenrolled
    """
    lines = ["stateDiagram-v2", f"    [*] --> {State.UNENROLLED}"]
    for state, moves in TABLE.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in moves.items()]
    return "\n".join([*lines, f"    {State.STOPPED} --> [*]"])
