"""On a real GPU: CUDA, ONNX Runtime on CUDA, TensorRT and TensorRT for RTX, whichever are here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy import Segmenter
from ntre_deploy.errors import EngineError
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.plans.options import TensorRtOptions
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import available_engines, open_engine
from ntre_deploy.runtime.stacked import StackedSupports, stack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(cuda.unavailable() is not None, reason=cuda.unavailable() or "")]
GPU_ENGINES = ("trt", "trt-rtx", "onnx-cuda")


def arrays(batch: int = 1, classes: int = 1, keys: int = 7, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    stored = np.abs(rng.standard_normal((classes, 1, 512, keys), dtype=np.float32))
    image = rng.standard_normal((batch, 3, 65, 65), dtype=np.float32)
    prototypes = rng.standard_normal((classes, 16), dtype=np.float32)
    return image, stack(prototypes, stored / np.linalg.norm(stored, axis=2, keepdims=True))


@pytest.fixture(scope="module", params=GPU_ENGINES)
def loaded(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine of the tiny bundle in fp16, and the same graphs on the CPU."""
    name = str(request.param)
    if reason := available_engines()[name]:
        pytest.skip(reason)
    out = tmp_path_factory.mktemp("gpu") / "tiny.ntre"
    options = ExportOptions(
        ("fp16",),
        engines=("onnx",) if name == "onnx-cuda" else ("onnx", name),
        tensorrt=TensorRtOptions(max_batch=4, max_classes=3, max_shots=2),
    )
    try:
        export_bundle(tiny_checkpoint, out, options)
    except EngineError as error:
        if "does not know the GPU" in str(error):
            pytest.skip(str(error))
        raise
    bundle = Bundle.open(out)
    return out, open_engine(bundle, name).engine, open_engine(bundle, "onnx-cpu").engine


def test_memory_streams_and_graphs() -> None:
    device = cuda.open_device()
    with device.active():
        free, total = device.memory()
        assert 0 < free <= total
        address, stream = device.allocate(1024), device.make_stream()
        source, target = device.allocate_pinned(1024), device.allocate_pinned(1024)
        source[:] = np.arange(1024) % 251

        def work() -> None:
            device.copy_in(address, source, stream)
            device.copy_out(target, address, stream)

        work()
        device.wait(stream)
        np.testing.assert_array_equal(source, target)
        if device.graphs:
            graph = device.capture(stream, work)
            source[:] = 7
            device.launch(graph, stream)
            device.wait(stream)
            assert (target == 7).all()
            device.free_graph(graph)
        with pytest.raises(cuda.CudaError) as caught:
            device.allocate(1 << 60)
        assert caught.value.out_of_memory
        device.free(address)
        device.free_pinned(source)
        device.free_pinned(target)
        device.free_stream(stream)
    device.close()


def test_logits_are_those_of_the_cpu_run_after_run(loaded: Any) -> None:
    _, engine, other = loaded
    for batch, classes in ((1, 1), (2, 3), (5, 4)):
        for seed in range(4):  # plain, captured, replayed, replayed
            given = arrays(batch, classes, seed=seed)
            got, wanted = engine.query(*given), other.query(*given)
            assert np.isfinite(got).all()
            # 16 bits may decide a tied pixel of the DO mask otherwise, so it is not every element that must agree
            assert np.median(np.abs(got - wanted)) / np.abs(wanted).max() < 0.02


def test_the_self_test_passes_and_supports_stay_on_the_gpu(loaded: Any) -> None:
    path, engine, _ = loaded
    segmenter = Segmenter.load(path, engine.name)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 30:90] = 1
    memory = segmenter.encode_support([(image, mask)])
    first = segmenter.segment(image, memory)
    assert first.shape == (90, 120)
    np.testing.assert_array_equal(segmenter.clone().segment(image, memory), first)


def test_torch_s_tensors_are_read_where_they_lie(loaded: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    _, engine, _ = loaded
    image, supports = arrays()
    wanted = engine.query(image, supports)
    tensors = (
        torch.from_numpy(image).cuda(),
        StackedSupports(
            torch.from_numpy(supports.prototypes).cuda(),
            torch.from_numpy(supports.keys).half().cuda(),  # as the graph takes them
            supports.chunks,
        ),
    )
    np.testing.assert_allclose(engine.query(*tensors), wanted, atol=1e-3)
    if hasattr(engine, "query_on_device"):
        logits = engine.query_on_device(*tensors)
        for back in (torch.as_tensor(logits, device="cuda"), torch.from_dlpack(logits)):
            np.testing.assert_allclose(back.cpu().numpy(), wanted, atol=1e-3)
