"""Strategies: good octets and good documents with something wrong in them."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from hypothesis import strategies as st

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "\0", "²:²", "host:²", "[::1]:1", "~", "~nobody/x", "99999", "0o7", "-", "a" * 5000])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
)
raw_yaml = st.text(max_size=60) | st.sampled_from(
    [
        "2026-99-99", "a: 2026-13-45 25:61:61", "!!binary ä", "!!timestamp x", "? [a]\n: b", "&a [*a]", "<<: 1", "<<: [1]",
        "= : 1", "=", "!!set {a, a}", "!!omap [a]", "[" * 2000, "{" * 2000, "- " * 2000, "0x_", "!!int x", "!!float x", "1:99:99",
        "!!python/object/apply:os.system [true]", "\ufeffa: 1", "a: 1\n---\nb: 2", "*nobody", "\0", "%YAML 9.9\n---\na: 1",
    ]
)  # fmt: skip


@st.composite
def octets(draw: st.DrawFn, *good: bytes) -> bytes:
    """One of the good ones with up to eight octets changed, cut, or with something put in."""
    data = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 8))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 3)) == 0 else data)


@st.composite
def documents(draw: st.DrawFn, good: str) -> str:
    """The good document with one value replaced, taken away or added somewhere, or a text that has nothing to do with it."""
    if draw(st.integers(0, 3)) == 0:
        return draw(raw_yaml) if draw(st.booleans()) else good + draw(raw_yaml)
    document: Any = copy.deepcopy(yaml.safe_load(good))
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(place[key], dict | list) or draw(st.booleans()):
            break
        place = place[key]
    if key is None or (isinstance(place, dict) and draw(st.integers(0, 4)) == 0):
        if isinstance(place, dict):
            place[draw(scalars.filter(lambda one: isinstance(one, str | int)))] = draw(values)
    elif draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = draw(values)
    return yaml.safe_dump(document, allow_unicode=draw(st.booleans()))
