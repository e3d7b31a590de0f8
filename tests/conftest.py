"""What holds for every test: no setting of the developer's reaches it, and no process outlives it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

# No example is judged by the clock; CI draws the same examples each time, so that a red run is red again.
settings.register_profile("handfast", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("handfast")

# Who is started in the background ignores SIGINT, and so would every program that the tests interrupt. One that is handled
# here is as ever in those.
signal.signal(signal.SIGINT, signal.default_int_handler)

for name in [name for name in os.environ if name.startswith("HANDFAST_")]:
    del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def no_context_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests() -> Iterator[None]:
    yield
    left = [
        process for process in psutil.Process().children(recursive=True) if process.status() != psutil.STATUS_ZOMBIE
    ]
    assert [" ".join(process.cmdline()) for process in left] == []
