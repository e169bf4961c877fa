"""The TensorRT engine over a double of the library: the same results as ONNX Runtime, and every error while it runs."""

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy import Segmenter
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cuda import CudaError
from ntre_deploy.runtime.cuda.arrays import DeviceArray
from ntre_deploy.runtime.engines import open_engine
from ntre_deploy.runtime.stacked import StackedSupports, lots, stack

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")


@pytest.fixture
def engine(bundle_of: Callable[..., Path]) -> Any:
    opened = open_engine(Bundle.open(bundle_of()), "trt").engine
    yield opened
    opened.close()  # type: ignore[attr-defined]


def arrays(batch: int = 1, classes: int = 1, shots: int = 1, keys: int = 7, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((batch, 3, 65, 65), dtype=np.float32)
    prototypes = rng.standard_normal((classes, 16), dtype=np.float32)
    stored = np.abs(rng.standard_normal((classes, shots, 512, keys), dtype=np.float32))
    return image, stack(prototypes, stored / np.linalg.norm(stored, axis=2, keepdims=True))


def reference(bundle: Path) -> Any:
    return open_engine(Bundle.open(bundle), "onnx-cpu", "fp16").engine


def check_lots(engine: Any, other: Any, got: Any, image: Any, supports: StackedSupports) -> None:
    """Logits that came in lots are those of ONNX Runtime: of the same lots, and but for fp16's rounding of the whole.

    On some processors a value falls on the edge between two of fp16 and lands on the other side with another batch,
    which moves an image's logits in the third digit.
    """
    images, classes, keys = (engine._shared.plans["query"].largest(n, 0) for n in ("image", "prototypes", "keys"))
    rows = [
        np.concatenate([other.query(image[i : i + images], lot) for lot in lots(supports, classes, keys)], axis=1)
        for i in range(0, len(image), images)
    ]
    np.testing.assert_allclose(got, np.concatenate(rows), atol=1e-5)
    np.testing.assert_allclose(got, other.query(image, supports), atol=0.02)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_name_is_used_that_a_version_lacks_and_results_are_right(
    bundle_of: Callable[..., Path], host: Any, version: str
) -> None:
    path = bundle_of(version)
    opened = Bundle.open(path)
    entry = opened.entry("query", "trt", "fp16")
    assert entry is not None
    assert entry.name == "query.trt-fp16.sm_86.plan"
    assert entry.details["version"] == version
    assert (entry.details["found_by"], entry.details["run_here"]) == ("inspector", "yes")
    segmenter = Segmenter.load(path)  # with its self-test
    assert segmenter.reason == "trt fp16"
    image, support, mask = (opened.self_test().image, opened.self_test().support_image, opened.self_test().support_mask)
    memory = segmenter.encode_support([(support, mask)])
    other = Segmenter.load(path, "onnx-cpu")
    for _ in range(3):  # plain, captured, replayed
        got, _ = segmenter.logits(image, memory)
        wanted, _ = other.logits(image, memory)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    segmenter.engine.close()  # type: ignore[attr-defined]
    del segmenter, memory
    gc.collect()
    assert host.alive() == {}


def test_the_gpu_is_the_one_that_was_asked_for(bundle_of: Callable[..., Path], host: Any) -> None:
    segmenter = Segmenter.load(bundle_of(), device=1)
    kept = segmenter.engine.keep(arrays()[1])  # type: ignore[attr-defined]
    assert (kept.keys.device, kept.prototypes.__dlpack_device__()) == (1, (2, 1))
    image = arrays()[0]
    there = DeviceArray(image.ctypes.data, image.shape, image)
    with pytest.raises(InputError, match="image lies on GPU 0 and the engine runs on GPU 1"):
        segmenter.engine.query(there, kept)
    segmenter.engine.close()  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="no GPU of that number"):
        Segmenter.load(bundle_of(), "trt", device=2)


def test_a_graph_takes_over_after_the_first_run(engine: Any, bundle_of: Callable[..., Path], host: Any) -> None:
    module, other = __import__("tensorrt"), reference(bundle_of())
    before = host.get("launches")
    for seed in range(4):
        given = arrays(seed=seed)
        np.testing.assert_allclose(engine.query(*given), other.query(*given), atol=1e-5)
    assert module.calls.count("execute") == 2  # run, then captured
    assert host.get("launches") == before + 3
    assert engine.graph_note == ""


def test_the_ways_to_the_device_and_back_are_timed_where_somebody_asks(engine: Any, host: Any) -> None:
    given = arrays()
    engine.query(*given)
    assert engine.transfer_ms is None
    assert "events" not in host.alive()
    engine.watch_transfers()
    for batch, classes in ((1, 1), (1, 1), (1, 1), (5, 1), (1, 7)):  # as one, as a graph, and in lots
        engine.query(*arrays(batch, classes))
        assert all(0 <= spent < 1e3 for spent in engine.transfer_ms)
        assert sum(engine.transfer_ms) > 0
    twin = engine.clone()
    assert twin.transfer_ms is None
    twin.close()
    engine.close()
    assert engine.transfer_ms is None
    assert "events" not in host.alive()


def test_what_cannot_be_captured_still_runs(engine: Any, bundle_of: Callable[..., Path], host: Any) -> None:
    module, other = __import__("tensorrt"), reference(bundle_of())
    given = arrays()
    engine.query(*given)
    module.fail["execute"] = "operation not permitted when stream is capturing"
    with pytest.raises(EngineError, match="could not run"):
        engine.query(*given)
    del module.fail["execute"]
    for _ in range(3):
        np.testing.assert_allclose(engine.query(*given), other.query(*given), atol=1e-5)
    assert host.get("streams_alive") == 1


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (2, 3), (5, 1), (1, 7), (3, 4)])
def test_more_than_a_plan_takes_at_once_goes_in_lots(
    engine: Any, bundle_of: Callable[..., Path], batch: int, classes: int
) -> None:
    given, other = arrays(batch, classes, 2, 30), reference(bundle_of())
    check_lots(engine, other, engine.query(*given), *given)
    kept = engine.keep(given[1])
    check_lots(engine, other, engine.query(given[0], kept), *given)


def test_more_keys_than_a_plan_takes_at_once_go_in_lots(engine: Any, bundle_of: Callable[..., Path]) -> None:
    image, _ = arrays()
    rng = np.random.default_rng(5)
    keys = [[np.abs(rng.standard_normal((512, m), np.float32)) / 20 for m in own] for own in ((81, 2), (40,), (1, 81))]
    supports = stack(list(rng.standard_normal((3, 16), np.float32)), keys)
    other = reference(bundle_of())
    for most in (4, 6, 7, 18):
        engine._shared.plans["query"].profiles[0]["keys"] = ((1,), (1,), (most,))
        engine._shared.plans["query"].profile = lambda shapes: 0
        check_lots(engine, other, engine.query(image, supports), image, supports)


def test_supports_in_lots(engine: Any, bundle_of: Callable[..., Path]) -> None:
    image, _ = arrays(5)
    mask = (np.random.default_rng(1).random((5, 1, 65, 65)) < 0.4).astype(np.float32)
    for got, wanted in zip(engine.support(image, mask), reference(bundle_of()).support(image, mask), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_shapes_outside_the_profiles_name_the_option(engine: Any) -> None:
    with pytest.raises(EngineError, match=r"chunks up to \[3, 2, 3\].*ntre export --max-batch"):
        engine.query(*arrays(shots=3))
    with pytest.raises(EngineError, match="query engine was built for"):
        engine.query(*arrays(keys=97))


def test_old_shapes_make_room(engine: Any, bundle_of: Callable[..., Path], host: Any) -> None:
    shapes = [(batch, classes, shots) for batch in (1, 2) for classes in (1, 2, 3) for shots in (1, 2)]
    for batch, classes, shots in shapes:
        engine.query(*arrays(batch, classes, shots, 81))
    alive = host.alive()
    for batch, classes, shots in shapes:
        engine.query(*arrays(batch, classes, shots))
    assert len(engine._lane._ready) == 8
    assert host.alive()["memory"] == alive["memory"]
    given = arrays()
    np.testing.assert_allclose(engine.query(*given), reference(bundle_of()).query(*given), atol=1e-5)


class OnDevice:
    """Another library's array on the device, `shift` bytes past an address that TensorRT can read."""

    def __init__(self, array: Any, shift: int = 0) -> None:
        self._memory = np.zeros(array.nbytes + 512, np.uint8)
        start = -self._memory.ctypes.data % 256 + shift
        self.array = self._memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.shape = array.shape
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.array.ctypes.data, False),
            "strides": None,
            "version": 3,
            "stream": 1,
        }


def on_device(supports: StackedSupports, shift: int = 0) -> StackedSupports:
    keys = supports.keys.astype(np.float16)  # as the graph takes them
    return StackedSupports(OnDevice(supports.prototypes, shift), OnDevice(keys, shift), supports.chunks)


@pytest.mark.parametrize("shift", [0, 4, 192])
def test_arrays_on_the_device_are_read_there(
    engine: Any, bundle_of: Callable[..., Path], host: Any, shift: int
) -> None:
    image, supports = arrays(2, 2)
    other = reference(bundle_of())
    foreign, theirs = OnDevice(image, shift), on_device(supports, shift)
    for seed in range(4):  # plain, captured, replayed
        foreign.array[...] = arrays(2, 2, seed=seed)[0]
        theirs.prototypes.array[...] = arrays(2, 2, seed=seed)[1].prototypes
        before = host.get("copies")
        logits = engine.query_on_device(foreign, theirs)
        assert host.get("copies") == before + 4  # three within the device, and the table of chunks
        assert isinstance(logits, DeviceArray)
        wanted = other.query(foreign.array, supports._replace(prototypes=theirs.prototypes.array))
        seen = np.ctypeslib.as_array((ctypes.c_float * wanted.size).from_address(logits.address))
        np.testing.assert_allclose(seen.reshape(logits.shape), wanted, atol=1e-5)
    np.testing.assert_allclose(engine.query(foreign, supports), other.query(foreign.array, supports), atol=1e-5)


def test_keys_on_the_device_in_another_type_are_refused(engine: Any) -> None:
    image, supports = arrays()
    with pytest.raises(InputError, match="keys on the device is of type <f4; float16 is expected"):
        engine.query(image, supports._replace(keys=OnDevice(supports.keys)))


def test_a_large_batch_on_the_device_goes_in_lots_that_begin_anywhere(
    engine: Any, bundle_of: Callable[..., Path]
) -> None:
    image, supports = arrays(5, 4)
    got = engine.query(OnDevice(image), on_device(supports))
    check_lots(engine, reference(bundle_of()), got, image, supports)


def test_supports_stay_on_the_device(engine: Any, bundle_of: Callable[..., Path], host: Any) -> None:
    image, supports = arrays(classes=2, seed=1)
    kept = engine.keep(supports)
    assert isinstance(kept.keys, DeviceArray)
    assert kept.keys.dtype == np.float16
    wanted = reference(bundle_of()).query(image, supports)
    copies = []
    for _ in range(3):
        before = host.get("copies")
        np.testing.assert_allclose(engine.query(image, kept), wanted, atol=1e-5)
        copies.append(host.get("copies") - before)
    # prototypes and keys within the device once; image and chunks in, logits out
    assert copies == [5, 3, 3]
    memory = host.get("memory_alive")
    del kept
    gc.collect()
    assert host.get("memory_alive") == memory - 2


def test_another_support_of_the_same_shapes_costs_neither_a_context_nor_a_capture(
    engine: Any, bundle_of: Callable[..., Path]
) -> None:
    module, other = __import__("tensorrt"), reference(bundle_of())
    image, _ = arrays()
    before = module.calls.count("context")
    for seed in (0, 1, 2, 1, 0):
        supports = arrays(seed=seed)[1]
        kept = engine.keep(supports)  # may lie where the one before it lay
        np.testing.assert_allclose(engine.query(image, kept), other.query(image, supports), atol=1e-5)
        del kept
        gc.collect()
    assert module.calls.count("context") == before + 1
    assert len(engine._lane._ready) == 1


def test_scratch_memory_follows_the_shapes_and_is_shared(engine: Any, host: Any) -> None:
    lane, each = engine._lane, __import__("tensorrt").scratch_per_element
    image, supports = arrays()
    engine.query(image, supports)
    small = lane._buffers._memory["scratch"][1]
    assert small == each * sum(a.size for a in (image, *supports))
    engine.support(image, np.ones((1, 1, 65, 65), np.float32))
    assert lane._buffers._memory["scratch"][1] == max(small, each * (image.size + 65 * 65))
    engine.query(*arrays(2, 3, 2, 81))
    assert lane._buffers._memory["scratch"][1] > 2 * small
    assert len(lane._ready) == 1, "contexts that knew the smaller scratch memory are gone"


def test_clones_run_in_threads_and_free_what_is_theirs(bundle_of: Callable[..., Path], host: Any) -> None:
    path = bundle_of()
    first = open_engine(Bundle.open(path), "trt").engine
    wanted = reference(path)
    twins = [first.clone() for _ in range(3)]
    assert __import__("tensorrt").calls.count("deserialise") == 2
    failures: list[object] = []

    def work(engine: Any, seed: int) -> None:
        for turn in range(4):
            given = arrays(seed=10 * seed + turn)
            if not np.allclose(engine.query(*given), wanted.query(*given), atol=1e-5):
                failures.append((seed, turn))

    threads = [threading.Thread(target=work, args=(twin, number)) for number, twin in enumerate(twins)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    first.close()  # type: ignore[attr-defined]
    given = arrays()
    np.testing.assert_allclose(twins[0].query(*given), wanted.query(*given), atol=1e-5)
    with pytest.raises(EngineError, match="was unloaded; load the bundle again"):
        first.query(*given)
    with pytest.raises(EngineError, match="was unloaded"):
        first.clone()
    del twins
    gc.collect()
    assert host.alive() == {}


def test_out_of_memory_makes_the_lots_smaller(engine: Any, bundle_of: Callable[..., Path], host: Any) -> None:
    module, other = __import__("tensorrt"), reference(bundle_of())
    given = arrays(2, 3, 2, 81)
    engine.query(*arrays())
    # room for the buffers, but not for the scratch memory of two images or three classes
    module.scratch_per_element = 40
    host.set("limit", host.get("used") + 10_000_000)
    np.testing.assert_allclose(engine.query(*given), other.query(*given), atol=1e-5)
    assert engine._at_once["query"].images == 1
    assert engine._at_once["query"].classes == 1
    np.testing.assert_allclose(engine.query(*given), other.query(*given), atol=1e-5)


def test_out_of_memory_for_one_image_unloads_the_engine_and_leaves_the_process_alive(
    bundle_of: Callable[..., Path], host: Any
) -> None:
    engine = open_engine(Bundle.open(bundle_of()), "trt").engine
    engine.query(*arrays())
    host.set("limit", 1)
    with pytest.raises(CudaError, match=r"memory is full.*The engine was unloaded; load it again") as caught:
        engine.query(*arrays(2, 3, 2, 81))
    assert caught.value.exit_code == 3
    with pytest.raises(EngineError, match="was unloaded"):
        engine.query(*arrays())
    del caught
    gc.collect()
    assert host.alive() == {}
    host.set("limit", 1 << 32)
    again = open_engine(Bundle.open(bundle_of()), "trt").engine
    assert again.query(*arrays()).shape == (1, 1, 2, 9, 9)
    again.close()  # type: ignore[attr-defined]


def test_out_of_memory_that_the_library_reports_is_told_as_such(engine: Any) -> None:
    module = __import__("tensorrt")
    module.fail["context"] = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
    with pytest.raises(CudaError, match="memory is full"):
        engine.query(*arrays())


def test_a_crash_on_the_device_is_told_and_never_gives_zeros(engine: Any, host: Any) -> None:
    given = arrays()
    for _ in range(2):
        engine.query(*given)
    host.set("fail_launch", 1)
    with pytest.raises(CudaError, match=r"kernel crashed.*CUDA_ERROR_LAUNCH_FAILED"):
        engine.query(*given)


def test_tensorrt_for_rtx_keeps_what_it_compiled(
    double: Callable[..., Any], tiny_checkpoint: Path, tmp_path: Path, quick: None, host: Any, limits: Any
) -> None:
    module = double("1.7.1.116", "tensorrt_rtx")
    out, cache = tmp_path / "x.ntre", tmp_path / "cache"
    manifest = export_bundle(tiny_checkpoint, out, ExportOptions(("fp16",), engines=("trt-rtx",), tensorrt=limits))
    assert {v["engine"] for v in manifest.verification} == {"onnx-cpu", "trt-rtx"}
    entry = Bundle.open(out).entry("query", "trt-rtx", "fp16")
    assert entry is not None
    assert entry.name == "query.trt-rtx-fp16.sm_86.plan"
    for turn in range(2):
        module.calls.clear()
        engine = open_engine(Bundle.open(out), "trt-rtx", cache=cache).engine
        for _ in range(3):
            engine.query(*arrays())
        assert engine.graph_note == ""  # type: ignore[attr-defined]
        engine.close()  # type: ignore[attr-defined]
        assert module.calls.count("use a cache") == (2 if turn else 0)
    assert {p.name for p in cache.rglob("*.cache")} == {"support.cache", "query.cache"}
    assert host.alive() == {}
