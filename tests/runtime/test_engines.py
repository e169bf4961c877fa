"""Which engine is taken, which is refused, and that none falls back in silence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import ENGINE_NAMES, Engine, available_engines, open_engine
from ntre_deploy.runtime.engines.onnx import OnnxEngine, cuda_unavailable
from ntre_deploy.runtime.stacked import StackedSupports, stack

RNG = np.random.default_rng
without_cuda = pytest.mark.skipif(cuda_unavailable() is None, reason="ONNX Runtime has its CUDA provider here")


@pytest.fixture(scope="module")
def opened(exported: Path) -> Bundle:
    return Bundle.open(exported)


@pytest.fixture(scope="module")
def engine(opened: Bundle) -> Engine:
    return open_engine(opened, "onnx-cpu").engine


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return RNG(seed).standard_normal(shape).astype(np.float32)


def unit_keys(*shape: int, seed: int = 0) -> np.ndarray:
    """Keys [N, K, D, M] as features behind a ReLU give them: not negative, columns of norm 1."""
    keys = np.abs(noise(*shape, seed=seed))
    return keys / np.linalg.norm(keys, axis=2, keepdims=True)


def supports(n: int, k: int, m: int, *, channels: int = 16, depth: int = 512, seed: int = 1) -> StackedSupports:
    return stack(noise(n, channels, seed=seed), unit_keys(n, k, depth, m, seed=seed + 1))


def python(code: str, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, env=env, check=False
    )


# --- the choice


def test_bf16_files_are_for_plans_and_onnx_runtime_says_so(exported_bf16: Path) -> None:
    bundle = Bundle.open(exported_bf16)
    assert bundle.precisions("onnx") == ["bf16"]
    with pytest.raises(EngineError, match=r"onnx-cpu does not run bf16: the bf16 files are what TensorRT plans"):
        open_engine(bundle, "onnx-cpu", "bf16")
    with pytest.raises(EngineError, match=r"No engine can run .*onnx-cpu bf16: the bf16 files are what TensorRT plans"):
        open_engine(bundle)


def test_every_engine_has_a_verdict() -> None:
    verdicts = available_engines()
    assert tuple(verdicts) == ENGINE_NAMES
    assert verdicts["onnx-cpu"] is None
    assert all(reason is None or "pip install" in reason or "nvidia-smi" in reason for reason in verdicts.values())


@pytest.mark.parametrize("name", ["auto", "onnx"])
@without_cuda
def test_auto_takes_the_cpu_and_says_why(opened: Bundle, name: str) -> None:
    choice = open_engine(opened, name)
    assert (choice.engine.name, choice.engine.precision) == ("onnx-cpu", "fp32")
    assert choice.reason.startswith("onnx-cpu fp32; passed over onnx-cuda: the installed onnxruntime has no CUDA")


def test_an_engine_by_name_gives_no_reason_beyond_itself(opened: Bundle) -> None:
    assert open_engine(opened, "onnx-cpu").reason == "onnx-cpu fp32"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_precision_asked_for_is_the_one_that_runs(opened: Bundle, precision: str) -> None:
    assert open_engine(opened, "onnx-cpu", precision).engine.precision == precision


@pytest.mark.parametrize(
    ("given", "close"), [("onx", "onnx"), ("onnx-cdua", "onnx-cuda"), ("ONNX-CPU", None), ("", None)]
)
def test_an_unknown_engine_is_refused_with_the_closest_name(opened: Bundle, given: str, close: str | None) -> None:
    with pytest.raises(
        InputError, match=rf"Engine '{given}' is unknown; .*auto, onnx, trt, trt-rtx, onnx-cuda, openvino, onnx-cpu"
    ) as caught:
        open_engine(opened, given)
    assert caught.value.exit_code == 2
    assert ("Did you mean" in str(caught.value)) == (close is not None)
    assert close is None or str(caught.value).endswith(f"Did you mean '{close}'?")


@pytest.mark.parametrize("name", ["auto", "onnx", "onnx-cpu", "onnx-cuda"])
def test_a_precision_that_the_bundle_lacks_is_refused_with_those_it_has(opened: Bundle, name: str) -> None:
    with pytest.raises(InputError, match=r"holds fp32, fp16 .*not int8"):
        open_engine(opened, name, "int8")


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(opened: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match=f"{threads} threads"):
        open_engine(opened, "onnx-cpu", threads=threads)


def test_the_number_of_threads_does_not_change_the_result(opened: Bundle, engine: Engine) -> None:
    image, mask = noise(1, 3, 65, 65), np.ones((1, 1, 65, 65), np.float32)
    wanted = engine.support(image, mask)
    got = open_engine(opened, "onnx-cpu", threads=1).engine.support(image, mask)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# --- engines that cannot run


@without_cuda
def test_cuda_by_name_without_cuda_is_an_engine_error(opened: Bundle) -> None:
    with pytest.raises(
        EngineError, match=r"onnx-cuda cannot run here: the installed onnxruntime has no CUDA provider.*ntre doctor"
    ) as caught:
        open_engine(opened, "onnx-cuda")
    assert caught.value.exit_code == 3


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_falls_back_to_the_cpu_is_an_engine_error(exported: Path) -> None:
    # what happens where the provider is compiled in and its libraries do not load: ONNX Runtime takes the CPU
    graphs = [(exported / name).read_bytes() for name in ("support.onnx", "query.onnx")]
    with pytest.raises(EngineError, match="CUDAExecutionProvider was asked for and ONNX Runtime took CPU"):
        OnnxEngine("onnx-cuda", "fp32", graphs[0], graphs[1], "CUDAExecutionProvider")


_LOAD = """
import sys
{before}
from ntre_deploy import EngineError, Segmenter
try:
    Segmenter.load(sys.argv[1], sys.argv[2])
except EngineError as error:
    print("EngineError:", error)
"""


@pytest.mark.parametrize("name", ["auto", "onnx-cpu", "onnx-cuda"])
def test_a_machine_without_onnxruntime_is_told_what_to_install(exported: Path, name: str) -> None:
    done = python(_LOAD.format(before="sys.modules['onnxruntime'] = None"), str(exported), name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("EngineError: Engine ", "EngineError: No engine can run"))
    assert "onnxruntime is not installed (pip install 'ntre_deploy[" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        'raise ImportError("libcudart.so.13: cannot open shared object file")',
        "",  # what is left where onnxruntime and onnxruntime-gpu have overwritten each other
    ],
)
@pytest.mark.parametrize("name", ["auto", "onnx-cpu"])
def test_a_broken_onnxruntime_is_an_engine_error(exported: Path, tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(module)
    done = python(_LOAD.format(before=""), str(exported), name, path=str(tmp_path))
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert done.stdout.startswith("EngineError:")


def test_a_graph_that_the_engine_cannot_load_is_one_line_and_nothing_else(
    exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = onnx.load_model(exported / "support.onnx")
    graph.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match="cannot load the graph") as caught:
        OnnxEngine("onnx-cpu", "fp32", graph.SerializeToString(), (exported / "query.onnx").read_bytes())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_run_that_fails_is_one_line_and_nothing_else(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="failed while it ran") as caught:
        engine.query(noise(1, 3, 65, 65), supports(3, 1, 4)._replace(prototypes=noise(2, 16)))  # not for 3 classes
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"not onnx at all"])
def test_garbage_in_place_of_a_graph_is_an_engine_error(content: bytes) -> None:
    with pytest.raises(EngineError, match="cannot load the graph"):
        OnnxEngine("onnx-cpu", "fp32", content, content)


def test_inputs_that_do_not_fit_are_an_engine_error(engine: Engine) -> None:
    with pytest.raises(EngineError, match="failed while it ran") as caught:
        engine.support(noise(1, 3, 64, 64), np.ones((1, 1, 64, 64), np.float32))
    assert "\n" not in str(caught.value)


def test_onnxruntime_leaves_nothing_in_the_users_cache(exported: Path, tmp_path: Path) -> None:
    code = "import sys; from ntre_deploy import Segmenter; Segmenter.load(sys.argv[1], 'onnx-cpu')"
    env = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-P", "-c", code, str(exported)], env=env, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- what the graphs compute


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_shapes_and_types_are_those_of_the_interface(opened: Bundle, precision: str) -> None:
    engine = open_engine(opened, "onnx-cpu", precision).engine
    model = opened.manifest.model
    prototype, keys = engine.support(noise(2, 3, 65, 65), np.ones((2, 1, 65, 65), np.float32))
    h, w = model.feature_size
    assert prototype.shape == (2, model.prototype_channels)
    assert keys.shape == (2, model.key_channels, h * w)
    stored = supports(3, 2, 5, channels=model.prototype_channels, depth=model.key_channels)
    logits = engine.query(noise(2, 3, 65, 65), stored)
    assert logits.shape == (2, 3, 2, h, w)
    assert {prototype.dtype, keys.dtype, logits.dtype} == {np.dtype(np.float32)}
    assert all(np.isfinite(a).all() for a in (prototype, keys, logits))


def test_keys_are_unit_vectors_inside_the_mask_and_zero_outside(engine: Engine) -> None:
    mask = np.zeros((1, 1, 65, 65), np.float32)
    mask[..., :30, :] = 1
    _, keys = engine.support(noise(1, 3, 65, 65), mask)
    norms = np.linalg.norm(keys[0], axis=0).reshape(9, 9)
    np.testing.assert_allclose(norms[:3], 1, atol=1e-4)
    assert not norms[5:].any()
    assert (keys >= 0).all()


def test_a_batch_gives_what_its_images_give_alone(engine: Engine) -> None:
    images, two = noise(3, 3, 65, 65), supports(2, 1, 9)
    together = engine.query(images, two)
    alone = np.concatenate([engine.query(images[i : i + 1], two) for i in range(3)])
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_zero_keys_and_shots_of_padding_change_nothing(engine: Engine) -> None:
    image, prototypes, keys = noise(1, 3, 65, 65), noise(1, 16, seed=1), unit_keys(1, 2, 512, 9, seed=2)
    given = stack(prototypes, keys)
    wanted = engine.query(image, given)
    chunks = np.full((1, 5, 3), -1, np.int32)
    chunks[0, :2] = given.chunks[0]
    padded = np.concatenate([given.keys, np.zeros((4, *given.keys.shape[1:]), np.float32)])
    np.testing.assert_allclose(engine.query(image, StackedSupports(prototypes, padded, chunks)), wanted, atol=1e-4)
    other = engine.query(image, stack(prototypes, keys[:, :1]))
    assert np.abs(other - wanted).max() > 1e-3  # so the second shot does count
