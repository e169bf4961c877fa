"""Load time and peak memory, each in a process of its own."""

from pathlib import Path

import pytest

from ntre_deploy.bench.footprint import Footprint, Order, footprint
from ntre_deploy.bench.pytorch import FULL


def order(bundle: Path, engine: str, checkpoint: Path | str = "") -> Order:
    return Order(str(bundle), engine, "fp32", threads=1, shots=2, checkpoint=str(checkpoint))


def test_an_engine_is_loaded_and_run_in_a_new_process(exported: Path) -> None:
    found = footprint(order(exported, "onnx-cpu"))
    assert isinstance(found, Footprint), found
    assert min(found.load_ms, found.support_ms, found.first_query_ms) > 0
    if Path("/proc/self/status").exists():
        assert found.peak_bytes is not None
        assert found.base_bytes is not None
        # it does not count what this process, which holds torch, once needed
        assert 1e7 < found.base_bytes < found.peak_bytes < 5e8


@pytest.mark.slow
def test_pytorch_needs_more_than_the_engine(exported: Path, tiny_checkpoint: Path) -> None:
    engine, full = footprint(order(exported, "onnx-cpu")), footprint(order(exported, FULL, tiny_checkpoint))
    assert isinstance(engine, Footprint), engine
    assert isinstance(full, Footprint), full
    if full.peak_bytes is not None and engine.peak_bytes is not None:
        assert full.peak_bytes > engine.peak_bytes


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    found = footprint(order(tmp_path / "none.ntre", "onnx-cpu"))
    assert isinstance(found, str)
    assert "none.ntre does not exist" in found
