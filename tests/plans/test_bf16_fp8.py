"""bf16 and fp8 plans from the real builder of TensorRT for RTX, and the GPUs that they are refused for."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.fp8 import quantisable, quantise_fp8
from ntre_deploy.plans.builder import Built, build, check_precision
from ntre_deploy.plans.options import TensorRtOptions, profiles, targets
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.engines.tensorrt import api

needs_rtx = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")
no_gpu = pytest.mark.skipif(cuda.unavailable() is None, reason="there is a GPU here")

OPTIONS = TensorRtOptions(max_batch=2, max_classes=2, max_shots=2)
Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def bf16(exported_bf16: Path) -> Contents:
    return {role: (exported_bf16 / f"{role}.bf16.onnx").read_bytes() for role in ("support", "query")}


@pytest.fixture(scope="module")
def fp8(for_fp8: Contents) -> Contents:
    """Quantised with ranges that were not measured: the builder does not look at them."""
    contents = {}
    for role, content in for_fp8.items():
        read = {node.input[0] for node in quantisable(onnx.load_model_from_string(content))}
        contents[role] = quantise_fp8(content, dict.fromkeys(read, 10.0))
    return contents


def made(content: bytes, role: str, capabilities: tuple[str, ...]) -> Built:
    shapes = profiles("trt-rtx", role, 65, OPTIONS, (16, 512), 81)
    return build(api.load("trt-rtx"), content, shapes, capabilities, OPTIONS, what=role)


@needs_rtx
@pytest.mark.parametrize("role", ["support", "query"])
def test_bf16_builds_for_ampere_and_later_with_fp32_islands(bf16: Contents, role: str) -> None:
    built = made(bf16[role], role, ("8.0", "8.6", "12.0"))
    assert built.precision == "bf16", built.kernels
    check_precision(built, "bf16", role)
    convolutions = built.kernels["correlation"]
    assert convolutions["bf16"] >= 20
    if role == "query":
        assert 0 < convolutions["fp32"] < convolutions["bf16"]
        assert built.kernels["gemm"]["fp16"] >= 1, "the product with the fp16 keys"


@needs_rtx
@pytest.mark.parametrize("role", ["support", "query"])
def test_fp8_builds_for_ada_and_blackwell_with_what_is_not_quantised_in_fp16(fp8: Contents, role: str) -> None:
    built = made(fp8[role], role, ("8.9", "12.0"))
    assert built.precision == "fp8", built.kernels
    check_precision(built, "fp8", role)
    convolutions = built.kernels["correlation"]
    nodes = onnx.load_model_from_string(fp8[role]).graph.node
    chosen = [n for n in nodes if n.op_type == "Conv" and n.input[1].endswith("_dequantised")]
    assert convolutions["fp8"] == len(chosen) >= 20
    assert convolutions["fp16"] > 0


@needs_rtx
@pytest.mark.parametrize(("precision", "capability"), [("bf16", "7.5"), ("fp8", "8.0"), ("fp8", "8.6")])
def test_the_builder_itself_refuses_older_gpus(bf16: Contents, fp8: Contents, precision: str, capability: str) -> None:
    content = {"bf16": bf16, "fp8": fp8}[precision]["support"]
    with pytest.raises(EngineError, match=r"because the model contains HW-specific datatypes: (b16|fp8_e4m3)"):
        made(content, "support", (capability,))


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "capabilities", "words"),
    [
        ("fp8", ("8.6",), "fp8 needs compute capability 8.9 or later, and 8.6 is older; take --precision fp16 or bf16"),
        ("fp8", ("8.9", "7.5", "8.0"), "and 7.5 and 8.0 are older; take --precision fp16 there"),
        (
            "bf16",
            ("7.5", "8.6"),
            "bf16 needs compute capability 8.0 or later, and 7.5 is older; take --precision fp16 ",
        ),
    ],
)
def test_gpus_that_lack_a_precision_are_refused_before_any_work(
    precision: str, capabilities: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        targets("trt-rtx", precision, TensorRtOptions(capabilities))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@needs_rtx
@no_gpu
def test_without_a_gpu_all_that_have_a_precision_are_built_for() -> None:
    assert targets("trt-rtx", "fp8", TensorRtOptions()) == ("8.9", "12.0", "12.1")
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert targets("trt-rtx", precision, TensorRtOptions())[:3] == ("8.0", "8.6", "8.9")


class _Card:
    def __init__(self, capability: str) -> None:
        self.compute_capability = capability

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a TensorRT 10.3 with a GPU of that compute capability into this machine."""

    def put(capability: str) -> None:
        library = api.Library("trt", None, "10.3.0")
        monkeypatch.setattr(api, "load", lambda engine: library)
        monkeypatch.setattr(cuda, "open_device", lambda: _Card(capability))

    return put


def test_tensorrt_asks_the_gpu_that_is_here(card: Callable[[str], None]) -> None:
    card("8.6")
    assert targets("trt", "bf16", TensorRtOptions()) == ("8.6",)
    with pytest.raises(InputError, match=r"fp8 needs compute capability 8\.9 or later, and 8\.6 is older"):
        targets("trt", "fp8", TensorRtOptions())
    for capability in ("8.9", "9.0", "10.0", "12.0"):
        card(capability)
        assert targets("trt", "fp8", TensorRtOptions()) == (capability,)
    with pytest.raises(InputError, match=r"--hardware ampere-plus is for GPUs from 8\.0 on"):
        targets("trt", "fp8", TensorRtOptions(hardware="ampere-plus"))


def test_capabilities_compare_as_numbers(card: Callable[[str], None]) -> None:
    card("10.0")
    assert targets("trt", "bf16", TensorRtOptions()) == ("10.0",), "as text, 10 comes before 8"
