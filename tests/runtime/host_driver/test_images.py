"""Images in and label maps out on the device: the kernels, built for the CPU, behind the real bindings and engine."""

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy import Segmenter
from ntre_deploy.errors import EngineError
from ntre_deploy.kernels.sources import ptx_for
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cuda import CudaError, open_device
from ntre_deploy.runtime.engines.onnx_cuda import OnnxCudaEngine
from ntre_deploy.runtime.support import SupportMemory

Pixels = NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """A smooth image: noise would be another one after half a grey level."""
    across, down = np.meshgrid(np.linspace(0, 5 + seed, width), np.linspace(0, 4, height))
    waves = np.stack([np.sin(across + down), np.cos(across - down), np.sin(2 * down + seed)], axis=-1)
    return (127 * (1 + waves)).astype(np.uint8)


def encode(segmenter: Segmenter, name: str = "thing", seed: int = 1) -> SupportMemory:
    mask = np.zeros((50, 80), np.uint8)
    mask[10:40, 20:60] = 1
    return segmenter.encode_support([(photo(50, 80, seed), mask)], name)


@pytest.fixture
def on_device(bundle_of: Callable[..., Path], host: Any) -> Iterator[Segmenter]:
    segmenter = Segmenter.load(bundle_of(), device_images=True)
    yield segmenter
    segmenter.engine.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("height", "width"), [(65, 65), (50, 80), (131, 97), (1, 40), (300, 500), (3, 1)])
def test_labels_are_those_of_the_host_s_way(
    on_device: Segmenter, bundle_of: Callable[..., Path], host: Any, height: int, width: int
) -> None:
    other = Segmenter.load(bundle_of(), "onnx-cpu", precision="fp16")
    memory, image = encode(on_device), photo(height, width)
    for _ in range(3):  # plain, captured, replayed
        before = host.get("kernels")
        got = on_device.segment(image, memory)
        assert host.get("kernels") == before + 2
        wanted = other.segment(image, encode(other))
        assert got.shape == wanted.shape == (height, width)
        assert min(height, width) < 4 or 0 < wanted.mean() < 1
        # pixels are equal within a grey level, so a margin close to zero may change its sign
        assert (got != wanted).mean() <= max(0.02, 1 / wanted.size)


def test_an_image_that_is_no_contiguous_array(on_device: Segmenter) -> None:
    memory, image = encode(on_device), photo(90, 120)
    wanted = on_device.segment(np.ascontiguousarray(image[::-1, ::2]), memory)
    np.testing.assert_array_equal(on_device.segment(image[::-1, ::2], memory), wanted)


def test_sizes_change_from_image_to_image_and_results_stay(on_device: Segmenter, host: Any) -> None:
    memory = encode(on_device)
    sizes = [(60, 90), (200, 100), (20, 20), (200, 300)]
    first = [on_device.segment(photo(*size), memory) for size in sizes]
    alive = host.alive()
    again = [on_device.segment(photo(*size), memory) for size in sizes]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert host.alive() == alive


def test_many_classes_on_the_device_and_more_than_the_plan_takes_on_the_host(on_device: Segmenter, host: Any) -> None:
    memories = [encode(on_device, f"c{n}", n) for n in range(4)]
    image = photo(70, 90)
    before = host.get("kernels")
    three = on_device.segment(image, memories[:3])
    assert host.get("kernels") == before + 2
    four = on_device.segment(image, memories)  # the plan was built for three at most
    assert host.get("kernels") == before + 2
    assert three.max() <= 3
    assert four.max() <= 4


def test_nothing_is_left_and_clones_have_their_own(bundle_of: Callable[..., Path], host: Any) -> None:
    segmenter = Segmenter.load(bundle_of(), device_images=True)
    memory, image = encode(segmenter), photo(60, 90)
    wanted = segmenter.segment(image, memory)
    twin = segmenter.clone()
    segmenter.engine.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(twin.segment(image, memory), wanted)
    twin.engine.close()  # type: ignore[attr-defined]
    del segmenter, twin, memory
    gc.collect()
    assert host.alive() == {}


def test_without_being_asked_for_the_kernels_rest(bundle_of: Callable[..., Path], host: Any) -> None:
    segmenter = Segmenter.load(bundle_of())
    before = host.get("kernels")
    segmenter.segment(photo(60, 90), encode(segmenter))
    assert host.get("kernels") == before
    segmenter.engine.close()  # type: ignore[attr-defined]


def test_nan_and_a_full_memory_are_errors(bundle_of: Callable[..., Path], host: Any) -> None:
    segmenter = Segmenter.load(bundle_of(), device_images=True)
    memory = encode(segmenter)
    prototype = np.full_like(memory.prototype, np.nan)
    spoiled = SupportMemory("spoiled", prototype, memory.keys, memory.model)
    with pytest.raises(EngineError, match="NaN or infinity"):
        segmenter.segment(photo(60, 90), spoiled)
    host.set("limit", 1)
    with pytest.raises(CudaError, match=r"memory is full.*The engine was unloaded") as caught:
        segmenter.segment(photo(900, 900), memory)
    del segmenter, caught
    gc.collect()
    assert host.alive() == {}


def test_a_launch_that_fails_is_told(on_device: Segmenter, host: Any) -> None:
    memory = encode(on_device)
    host.set("fail_launch", 1)
    with pytest.raises(CudaError, match="CUDA_ERROR_LAUNCH_FAILED"):
        on_device.segment(photo(60, 90), memory)


def test_kernels_are_loaded_once_and_a_name_that_is_not_there_is_an_error(host: Any) -> None:
    assert os.environ["NTRE_HOST_KERNELS"]
    device = open_device("cuda-python")
    code = ptx_for("prepare", 86)
    with device.active():
        for name in ("prepare_area_f32", "prepare_linear_f16"):
            device.load_kernel(code, name)
        assert host.get("modules_alive") == 1
        with pytest.raises(CudaError, match="cuModuleGetFunction"):
            device.load_kernel(code, "label_one_f32")
        stream = device.make_stream()
        with pytest.raises(CudaError):
            device.capture(stream, lambda: device.launch_kernel(
                device.load_kernel(code, "prepare_area_f32"), (1, 1, 1), (32, 8, 1), [ctypes.c_int(0)], stream
            ))  # fmt: skip
        device.free_stream(stream)
    device.close()
    assert host.alive() == {}


# --- the same kernels around ONNX Runtime, which works on the host's memory here as it does on a GPU's


@pytest.fixture
def onnx_on_device(exported: Path, host: Any) -> Iterator[Segmenter]:
    opened = Bundle.open(exported)
    support, query = ((exported / name).read_bytes() for name in ("support.fp16.onnx", "query.fp16.onnx"))
    options = {"provider": "CPUExecutionProvider", "place": "cpu", "device_images": True}
    engine = OnnxCudaEngine("fp16", support, query, 1, **options)
    yield Segmenter(engine, opened.manifest.input, opened.manifest.model)
    del engine
    gc.collect()


@pytest.mark.parametrize(("height", "width"), [(65, 65), (131, 97), (1, 40), (300, 500)])
def test_labels_around_onnx_runtime_are_those_of_the_host_s_way(
    onnx_on_device: Segmenter, exported: Path, host: Any, height: int, width: int
) -> None:
    other = Segmenter.load(exported, "onnx-cpu", precision="fp16")
    image = photo(height, width)
    for classes in (1, 3, 1):
        memories = [encode(onnx_on_device, f"c{n}", n) for n in range(classes)]
        before = host.get("kernels")
        got = onnx_on_device.segment(image, [m.uncalibrated() for m in memories])
        assert host.get("kernels") == before + 2
        wanted = other.segment(image, [encode(other, f"c{n}", n).uncalibrated() for n in range(classes)])
        assert got.shape == wanted.shape == (height, width)
        assert (got != wanted).mean() <= max(0.02, 1 / wanted.size)


def test_clones_of_onnx_runtime_have_images_of_their_own_and_nothing_is_left(
    exported: Path, onnx_on_device: Segmenter, host: Any
) -> None:
    memory, image = encode(onnx_on_device), photo(60, 90)
    wanted = onnx_on_device.segment(image, memory)
    alive = host.alive()
    twin = onnx_on_device.clone()
    np.testing.assert_array_equal(twin.segment(image, memory), wanted)
    del twin
    gc.collect()
    assert host.alive() == alive
    np.testing.assert_array_equal(onnx_on_device.segment(image, memory), wanted)
