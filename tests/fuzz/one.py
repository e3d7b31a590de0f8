"""``python -m tests.fuzz.one NAME CORPUS [libFuzzer options]``: one harness in this process, until its time is over."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path


def main(name: str, corpus: Path, options: list[str]) -> None:
    import atheris  # here, because what is imported below it is instrumented, which no other process wants

    with atheris.instrument_imports(include=["handfast", "handfast_ca", "handfast_agent"]):
        from tests.fuzz.harnesses import HARNESSES

    warnings.simplefilter("ignore")  # the library's word on odd certificates, thousands of times
    harness = next(harness for harness in HARNESSES if harness.name == name)
    for number, seed in enumerate(harness.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], harness.oracle)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
