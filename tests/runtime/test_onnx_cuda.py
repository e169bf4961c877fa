"""ONNX Runtime with bound buffers: on host memory here, where all but the GPU's graphs can be proven."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import onnx_cuda, open_engine
from ntre_deploy.runtime.engines.onnx import make_session
from ntre_deploy.runtime.engines.onnx_cuda import _MOST_GRAPHS, _NO_GRAPH, KeptArray, OnnxCudaEngine, _Session
from ntre_deploy.runtime.stacked import StackedSupports, stack


@pytest.fixture(scope="module")
def bound(exported: Path) -> OnnxCudaEngine:
    support, query = ((exported / name).read_bytes() for name in ("support.onnx", "query.onnx"))
    return OnnxCudaEngine("fp32", support, query, 1, provider="CPUExecutionProvider", place="cpu")


@pytest.fixture(scope="module")
def plain(exported: Path) -> Any:
    return open_engine(Bundle.open(exported), "onnx-cpu", "fp32", 1).engine


def arrays(batch: int = 1, classes: int = 1, shots: int = 1, keys: int = 7, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((batch, 3, 65, 65), dtype=np.float32)
    prototypes = rng.standard_normal((classes, 16), dtype=np.float32)
    stored = np.abs(rng.standard_normal((classes, shots, 512, keys), dtype=np.float32))
    return image, stack(prototypes, stored / np.linalg.norm(stored, axis=2, keepdims=True))


def test_queries_of_all_shapes_are_those_of_the_plain_engine(bound: OnnxCudaEngine, plain: Any) -> None:
    shapes = [(1, 1, 1, 7), (2, 3, 2, 64), (1, 1, 1, 7), (3, 1, 1, 1), *((1, 1, 1, k) for k in range(1, 12))]
    for seed, shape in enumerate(shapes):
        given = arrays(*shape, seed=seed)
        np.testing.assert_allclose(bound.query(*given), plain.query(*given), atol=1e-5)


def test_supports_are_those_of_the_plain_engine(bound: OnnxCudaEngine, plain: Any) -> None:
    image, _ = arrays(2)
    mask = (np.random.default_rng(1).random((2, 1, 65, 65)) < 0.4).astype(np.float32)
    for got, wanted in zip(bound.support(image, mask), plain.support(image, mask), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_kept_supports_are_bound_as_they_are(bound: OnnxCudaEngine, plain: Any) -> None:
    _, supports = arrays(classes=2)
    kept = bound.keep(supports)
    assert all(isinstance(array, KeptArray) for array in kept)
    other = bound.keep(StackedSupports(supports.prototypes[::-1], supports.keys, supports.chunks[::-1]))
    for seed in range(3):
        image = arrays(seed=seed)[0]
        wanted = plain.query(image, supports)
        np.testing.assert_allclose(bound.query(image, kept), wanted, atol=1e-5)
        np.testing.assert_allclose(bound.query(image, other), wanted[:, ::-1], atol=1e-5)


def test_the_ways_to_the_device_and_back_are_timed_where_somebody_asks(bound: OnnxCudaEngine) -> None:
    engine, given = bound.clone(), arrays()
    engine.query(*given)
    assert engine.transfer_ms is None
    engine.watch_transfers()
    engine.query(*given)
    assert engine.transfer_ms is not None
    assert all(0 < spent < 1e3 for spent in engine.transfer_ms)
    assert engine.clone().transfer_ms is None


def test_results_are_not_overwritten_by_the_next_call(bound: OnnxCudaEngine) -> None:
    first = bound.query(*arrays(seed=1))
    before = first.copy()
    bound.query(*arrays(seed=2))
    np.testing.assert_array_equal(first, before)


def test_clones_have_buffers_of_their_own(bound: OnnxCudaEngine, plain: Any) -> None:
    twin = bound.clone()
    given = arrays(seed=3)
    np.testing.assert_allclose(twin.query(*given), plain.query(*given), atol=1e-5)
    assert twin._ready is not bound._ready


def test_clones_take_turns_in_a_session(bound: OnnxCudaEngine, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bound._sessions["query"]
    inside, run = list[int](), session.run

    def watched(binding: Any, graph: int) -> None:
        inside.append(1)
        assert len(inside) == 1, "two threads are in one session, and one of them may capture a graph"
        run(binding, graph)
        inside.pop()

    monkeypatch.setattr(session, "run", watched)
    given = [arrays(seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(
            pool.map(lambda pair: pair[0].query(*pair[1]), [(bound.clone(), g) for g in given for _ in range(5)])
        )
    for index, logits in enumerate(got):
        np.testing.assert_allclose(logits, plain.query(*given[index // 5]), atol=1e-5)


def test_a_session_captures_no_end_of_graphs(exported: Path) -> None:
    content = (exported / "query.onnx").read_bytes()
    session = _Session(content, "CPUExecutionProvider", 1, 0, graphs=False)
    assert session.next_graph() == _NO_GRAPH
    session.graphs = True
    numbers = [session.next_graph() for _ in range(_MOST_GRAPHS + 2)]
    assert numbers == [*range(1, _MOST_GRAPHS + 1), _NO_GRAPH, _NO_GRAPH]


def test_fp32_is_never_rounded_to_tf32(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = (exported / "query.onnx").read_bytes(), list[dict[str, str]]()

    def make(content: bytes, provider: str, threads: int | None, settings: dict[str, str]) -> Any:
        asked.append(settings)
        if "enable_cuda_graph" in settings:
            raise EngineError("a node stays on the CPU")
        return make_session(content, "CPUExecutionProvider", threads)

    monkeypatch.setattr(onnx_cuda, "make_session", make)
    assert not _Session(content, "CUDAExecutionProvider", 1, 1, graphs=True).graphs
    assert [(settings["use_tf32"], settings["device_id"]) for settings in asked] == [("0", "1")] * 2


def test_inputs_that_do_not_fit_are_an_engine_error(bound: OnnxCudaEngine) -> None:
    image, supports = arrays(classes=2)
    with pytest.raises(EngineError, match="ONNX Runtime failed while it ran") as caught:
        bound.query(image, supports._replace(keys=supports.keys[:, :, :100]))
    assert "\n" not in str(caught.value)
    assert bound.query(image, supports).shape == (1, 2, 2, 9, 9)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_falls_to_the_cpu_is_refused(exported: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    content = (exported / "support.onnx").read_bytes()
    with pytest.raises(EngineError, match="CUDAExecutionProvider was asked for and ONNX Runtime took CPU"):
        make_session(content, "CUDAExecutionProvider", 1, {"enable_cuda_graph": "1"})
