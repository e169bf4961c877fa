"""The scripts of a benchmark import one another by plain names; those must not stay behind."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder that the test module names as `FOLDER`, importable as long as the test runs."""
    if not hasattr(request.module, "FOLDER"):
        yield
        return
    folder = str(BENCHMARKS / request.module.FOLDER)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(folder)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(folder):
            del sys.modules[name]
