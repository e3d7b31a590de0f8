"""Who comes while others are served waits for the next group; who comes alone waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from handfast_ca.grouping import AT_ONCE, MOST, Groups


class Counter:
    """Serves a group when it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.running = self.most = 0
        self.open = asyncio.Event()

    async def serve(self, group: Sequence[int]) -> None:
        self.groups.append(list(group))
        self.running += 1
        self.most = max(self.most, self.running)
        await self.open.wait()
        self.running -= 1


async def test_a_lone_one_is_served_at_once_and_by_itself() -> None:
    counter = Counter()
    groups = Groups(counter.serve)
    groups.put(1)
    while not counter.groups:
        await asyncio.sleep(0)
    assert counter.groups == [[1]]
    counter.open.set()
    await groups.idle()
    assert not groups.busy


async def test_everybody_is_served_once_in_order_in_groups_of_a_bounded_size_of_which_few_are_under_way() -> None:
    """H4: what holds the event loop up is bounded, however many come at once."""
    counter = Counter()
    groups = Groups(counter.serve)
    for number in range(5 * MOST + 1):
        groups.put(number)
    while counter.running < AT_ONCE:
        await asyncio.sleep(0)
    assert counter.groups == [list(range(MOST)), list(range(MOST, 2 * MOST))]
    counter.open.set()
    await groups.idle()
    assert [number for group in counter.groups for number in group] == list(range(5 * MOST + 1))
    assert max(map(len, counter.groups)) == MOST
    assert counter.most == AT_ONCE


async def test_idle_waits_for_those_who_are_put_in_meanwhile() -> None:
    served: list[int] = []

    async def serve(group: Sequence[int]) -> None:
        served.extend(group)
        if served[-1] < 3:
            groups.put(served[-1] + 1)

    groups = Groups(serve)
    groups.put(0)
    await groups.idle()
    assert served == [0, 1, 2, 3]
