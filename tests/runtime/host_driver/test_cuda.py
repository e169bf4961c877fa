"""The CUDA interface: NVIDIA's bindings, called as on a GPU."""

import ctypes
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.cuda import CudaError, open_device
from ntre_deploy.runtime.cuda.arrays import DeviceArray, is_device_array, view


def test_a_device_tells_what_it_is_and_leaves_nothing(host: Any) -> None:
    device = open_device("cuda-python")
    assert (device.name, device.compute_capability, device.graphs) == ("host memory", "8.6", True)
    with device.active():
        free, total = device.memory()
        assert 0 < free <= total
    device.close()
    assert host.alive() == {}
    assert cuda.unavailable() is None


def test_work_needs_the_context(host: Any) -> None:
    device = open_device()
    with pytest.raises(CudaError, match="CUDA's cuMemAlloc failed"):
        device.allocate(10)
    device.close()
    with pytest.raises(CudaError, match="context"), device.active():
        pass


def test_copies_events_and_waiting_for_another_stream(host: Any) -> None:
    device = open_device()
    with device.active():
        address, other, pinned, stream = device.allocate(64), device.allocate(64), device.allocate_pinned(64), 0
        stream = device.make_stream()
        pinned[:] = np.arange(64)
        first, second = device.make_event(), device.make_event()
        device.record(first, stream)
        device.copy_in(address, pinned, stream)
        device.copy_within(other, address, 64, stream)
        pinned[:] = 0
        device.copy_out(pinned, other, stream)
        device.record(second, stream)
        device.follow(stream, 1)
        device.wait(stream)
        assert pinned.tolist() == list(range(64))
        assert device.elapsed(first, second) >= 0
        for event in (first, second):
            device.free_event(event)
        for memory in (address, other):
            device.free(memory)
        device.free_pinned(pinned)
        device.free_stream(stream)
    device.close()
    assert host.alive() == {}


def test_threads_that_allocate_at_once_are_counted_right(host: Any) -> None:
    # the driver of these tests itself: a lost count says that memory is full, or leaks, in every test after it
    library = ctypes.CDLL(os.environ["NTRE_HOST_DRIVER"])
    before = host.get("memory_alive"), host.get("used")

    def work() -> None:
        library.cuCtxPushCurrent(None)
        address = ctypes.c_ulonglong()
        for _ in range(30_000):
            assert library.cuMemAlloc(ctypes.byref(address), ctypes.c_size_t(100)) == 0
            library.cuMemFree(address)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert (host.get("memory_alive"), host.get("used")) == before


def test_a_graph_replays_what_was_captured_and_capturing_runs_nothing(host: Any) -> None:
    device = open_device()
    with device.active():
        address, pinned, result = device.allocate(4), device.allocate_pinned(4), device.allocate_pinned(4)
        stream = device.make_stream()
        result[:] = 9

        def work() -> None:
            device.copy_in(address, pinned, stream)
            device.copy_out(result, address, stream)

        graph = device.capture(stream, work)
        assert result.tolist() == [9] * 4
        for value in (1, 2):
            pinned[:] = value
            device.launch(graph, stream)
            device.wait(stream)
            assert result.tolist() == [value] * 4
        device.free_graph(graph)
        device.free(address)
        device.free_pinned(pinned)
        device.free_pinned(result)
        device.free_stream(stream)
    device.close()
    assert host.alive() == {}


def test_work_that_fails_while_it_is_captured_leaves_the_stream_usable(host: Any) -> None:
    device = open_device()
    with device.active():
        address, pinned, stream = device.allocate(4), device.allocate_pinned(4), device.make_stream()

        def work() -> None:
            device.copy_in(address, pinned, stream)
            raise EngineError("no")

        with pytest.raises(EngineError, match="no"):
            device.capture(stream, work)
        before = host.get("copies")
        device.copy_in(address, pinned, stream)
        assert host.get("copies") == before + 1
        device.free(address)
        device.free_pinned(pinned)
        device.free_stream(stream)
    device.close()
    assert host.alive() == {}


def test_too_much_memory_is_a_typed_error_with_the_next_step(host: Any) -> None:
    host.set("limit", 1000)
    device = open_device()
    with device.active(), pytest.raises(CudaError, match=r"memory is full; free some .*CUDA_ERROR_OUT_OF_MEMORY") as e:
        device.allocate(2000)
    device.close()
    assert e.value.out_of_memory
    assert e.value.exit_code == 3


def test_a_gpu_that_is_not_there(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match="no GPU of that number"):
        open_device(index=2)
    monkeypatch.setenv("HOST_NO_DEVICE", "1")
    # the environment of C is another one
    ctypes.CDLL(None).setenv(b"HOST_NO_DEVICE", b"1", 1)
    with pytest.raises(CudaError, match=r"no NVIDIA GPU.*CUDA_VISIBLE_DEVICES"):
        open_device()
    ctypes.CDLL(None).unsetenv(b"HOST_NO_DEVICE")
    assert host.alive() == {}


def test_a_backend_that_is_not_installed_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_installed", lambda module: module != "pycuda")
    with pytest.raises(EngineError, match=r"pycuda is not installed \(pip install"):
        open_device("pycuda")
    with pytest.raises(InputError, match="CUDA backend 'cupy' is unknown"):
        open_device("cupy")


class Foreign:
    """Another library's array, on the device by what it says."""

    def __init__(self, array: Any, **other: Any) -> None:
        self.array, self.shape = array, array.shape
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
        } | other


class Packed:
    """An array that only speaks DLPack."""

    def __init__(self, source: Any, kind: int = 2) -> None:
        self.source, self.kind, self.streams = source, kind, list[Any]()
        self.shape = tuple(source.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.source.__dlpack__()


def test_arrays_of_other_libraries_are_read_in_place() -> None:
    import torch

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not is_device_array(array)
    seen = view(Foreign(array, stream=7), "image", 5)
    assert (seen.address, seen.shape, seen.stream) == (array.ctypes.data, (2, 3), 7)
    tensor = torch.arange(6.0).view(2, 3)
    packed = Packed(tensor)
    assert is_device_array(packed)
    seen = view(packed, "image", 5)
    assert (seen.address, seen.shape, packed.streams) == (tensor.data_ptr(), (2, 3), [5])
    assert not is_device_array(Packed(tensor, kind=1))


class Tensor(Packed):
    """As PyTorch's: an interface of version 2, which names no stream, and none at all where a gradient is needed."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.source.requires_grad:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")
        return {"shape": self.shape, "typestr": "<f4", "data": (self.source.data_ptr(), False), "version": 2}


def test_tensors_of_pytorch_are_waited_for() -> None:
    import torch

    given = Tensor(torch.arange(6.0))
    assert is_device_array(given)
    assert view(given, "image", 5).address == given.source.data_ptr()
    assert given.streams == [5], "PyTorch was not told which stream has to wait for its work"
    given = Tensor(torch.arange(6.0).requires_grad_())
    assert is_device_array(given)
    with pytest.raises(InputError, match=r"image on the device cannot be read: .*detach"):
        view(given, "image", 5)


@pytest.mark.parametrize("kind", ["interface", "dlpack"])
def test_arrays_that_cannot_be_read_in_place_are_refused(kind: str) -> None:
    import torch

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for bad, words in ((array.T, "C-contiguous"), (array.astype(np.float64), "float32")):
        given = Foreign(bad) if kind == "interface" else Packed(torch.from_numpy(bad))
        with pytest.raises(InputError, match=f"prototypes on the device.*{words}"):
            view(given, "prototypes", 0)


def test_our_arrays_go_to_other_libraries_in_place() -> None:
    from ntre_deploy.runtime.cuda import arrays

    memory = np.arange(12, dtype=np.float32).reshape(4, 3)
    ours = DeviceArray(memory.ctypes.data, memory.shape, memory)
    assert ours.__cuda_array_interface__["data"] == (memory.ctypes.data, False)
    part = ours[1:3]
    assert (part.address, part.shape) == (memory[1:].ctypes.data, (2, 3))
    with pytest.raises(InputError, match="thinned"):
        ours[::2]
    back = view(Packed(ours), "logits", 0)
    assert (back.address, back.shape) == (ours.address, ours.shape)
    assert len(arrays._exported) == 1
    del back
    gc.collect()
    unused = ours.__dlpack__()
    assert len(arrays._exported) == 1
    del unused
    assert arrays._exported == {}


def test_an_array_of_another_gpu_is_not_read() -> None:
    memory = np.arange(6, dtype=np.float32)
    there = DeviceArray(memory.ctypes.data, memory.shape, memory, device=1)
    assert there.__dlpack_device__() == (2, 1)
    assert there[2:].device == 1
    told = "image lies on GPU 1 and the engine runs on GPU 0; move it, or load with device=1"
    for array in (there, Packed(there)):
        with pytest.raises(InputError, match=told):
            view(array, "image", 0)
    assert view(there, "image", 0, device=1).device == 1


@pytest.mark.parametrize("index", [0, 1])
def test_a_device_is_the_one_that_was_asked_for(index: int, host: Any) -> None:
    device = open_device("cuda-python", index)
    assert device.index == index
    device.close()
    with pytest.raises(CudaError, match="no GPU of that number"):
        open_device("cuda-python", 2)
    assert host.alive() == {}


def test_a_forked_process_is_refused_and_leaves_the_parent_s_device_alone(host: Any) -> None:
    device = open_device("cuda-python")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with device.active():
                os.write(write, b"it worked")
        except CudaError as error:
            os.write(write, str(error).encode())
        device.close()
        os.write(write, b"|" + str(host.get("contexts_alive")).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        told, _, alive = pipe.read().partition("|")
    assert "forked from one that had used CUDA" in told
    assert "'spawn'" in told
    assert alive == "1", "the child gave back what it does not own"
    with device.active():
        assert device.memory()[1] > 0
    device.close()
    assert host.alive() == {}
