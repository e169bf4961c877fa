"""pycuda behind the CUDA interface: the real package on the driver of host memory."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy import Segmenter
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.cuda import CudaError, Device
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image


@pytest.fixture(scope="module", autouse=True)
def lazy() -> None:
    """The driver of host memory lacks most of what pycuda links, so names are looked up when they are called."""
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    __import__("pycuda.driver")
    sys.setdlopenflags(before)


@pytest.fixture
def device(host: Any) -> Iterator[Device]:
    opened = cuda.open_device("pycuda")
    with opened.active():
        yield opened
    opened.close()
    gc.collect()
    assert set(host.alive()) <= {"contexts"}


def test_a_device_tells_what_it_is_and_opens_again(host: Any) -> None:
    for _ in range(3):
        device = cuda.open_device("pycuda")
        assert (device.name, device.compute_capability, device.multiprocessors) == ("host memory", "8.6", 4)
        assert not device.graphs
        with device.active():
            assert 0 < device.memory()[0] <= device.memory()[1]
        device.close()
        with pytest.raises(CudaError, match="context"), device.active():
            pass
    assert host.alive() == {"contexts": 1}


def test_a_kernel_between_two_copies(device: Device) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    spec, box, size = InputSpec(65), Letterbox.fit(50, 80, 65), 4 * 3 * 65 * 65
    stream, first, second = device.make_stream(), device.make_event(), device.make_event()
    source, target, other = device.allocate(image.nbytes), device.allocate(size), device.allocate(size)
    pixels, values = device.allocate_pinned(image.nbytes), device.allocate_pinned(size)
    pixels[:] = image.reshape(-1)
    device.record(first, stream)
    device.copy_in(source, pixels, stream)
    kernels = Kernels(device, device.compute_capability)
    for _ in range(2):  # loaded, and loaded before
        kernels.prepare(source, 3 * 80, box, spec, target, half=False, stream=stream)
    device.copy_within(other, target, size, stream)
    device.copy_out(values, other, stream)
    device.record(second, stream)
    device.follow(stream, 1)
    device.wait(stream)
    device.wait(1)  # a stream that pycuda did not make
    assert device.elapsed(first, second) >= 0
    expected = prepare_image(image, spec)[0]
    levels = (values.view(np.float32).reshape(expected.shape) - expected) * np.asarray(spec.std)[:, None, None]
    assert np.abs(levels).max() < 1.001
    for event in (first, second):
        device.free_event(event)
    for address in (source, target, other):
        device.free(address)
    for array in (pixels, values):
        device.free_pinned(array)
    device.free_stream(stream)


def test_too_much_memory_and_graphs_are_typed_errors(device: Device, host: Any) -> None:
    host.set("limit", 1000)
    with pytest.raises(CudaError, match="memory is full") as caught:
        device.allocate(2000)
    assert caught.value.out_of_memory
    with pytest.raises(CudaError, match="cuda-python has"):
        device.capture(0, lambda: None)


def test_the_engine_runs_on_it(bundle_of: Callable[..., Path], host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "BACKENDS", ("pycuda",))
    path = bundle_of()
    other = Segmenter.load(path, "onnx-cpu", precision="fp16")
    image = np.full((50, 80, 3), 90, np.uint8)
    image[10:40, 20:60] = (200, 40, 90)
    mask = np.zeros((50, 80), np.uint8)
    mask[10:40, 20:60] = 1
    wanted = other.segment(image, other.encode_support([(image, mask)]))
    before = host.get("kernels")
    for device_images in (False, True):
        segmenter = Segmenter.load(path, "trt", device_images=device_images)
        memory = segmenter.encode_support([(image, mask)])
        for _ in range(3):
            assert (segmenter.segment(image, memory) != wanted).mean() < 0.02
        segmenter.engine.close()  # type: ignore[attr-defined]
        del segmenter, memory
        gc.collect()
        assert host.alive() == {"contexts": 1}
    assert host.get("kernels") == before + 8  # two for each label map, the self-test's too
