"""int8: what is quantised, that the search finds what costs, and which calibration sets are refused."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.export import quantise as module
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.onnx import found_precision
from ntre_deploy.export.quantise import Contents, Cost, draw_calibration, groups, quantise, search
from ntre_deploy.plans.builder import check_signed
from ntre_deploy.plans.options import TensorRtOptions
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.tensorrt import api
from ntre_deploy.runtime.segmenter import Segmenter

needs_nncf = pytest.mark.skipif(module.unavailable() is not None, reason=module.unavailable() or "")


@pytest.fixture(scope="module")
def fp32(exported: Path) -> Contents:
    return {role: (exported / f"{role}.onnx").read_bytes() for role in ("support", "query")}


@pytest.fixture(scope="module")
def inputs(exported: Path) -> dict[str, module.Inputs]:
    scenes = ProceduralDataset(5)
    episodes = draw_calibration(scenes, 8, 8).calibrate.episodes
    return module.calibration_inputs(scenes, episodes, Segmenter.load(exported, "onnx-cpu", precision="fp32"))


def quantised(content: bytes) -> set[str]:
    """Names of the convolutions and matrix products that read a dequantised value."""
    model = onnx.load_model_from_string(content)
    given = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {n.name for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm") and given & set(n.input)}


# --- the calibration set


def test_the_two_parts_have_no_image_in_common_and_are_drawn_alike_every_time() -> None:
    drawn = draw_calibration(ProceduralDataset(5))
    first, second = (
        {image for e in part.episodes for image in (e.query, *e.supports)} for part in (drawn.calibrate, drawn.held_out)
    )
    assert len(first) > 40
    assert len(second) > 30
    assert not first & second
    assert drawn == draw_calibration(ProceduralDataset(5))
    assert drawn != draw_calibration(ProceduralDataset(6))


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        (24, "has 0 classes with two images"),
        (25, "has 1 class with two images"),
        (26, "4 images to calibrate on and 0 other episodes to judge by, where 16 and 8 are needed"),
    ],
)
def test_a_set_of_one_class_or_of_few_images_is_refused(scenes: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        draw_calibration(ProceduralDataset(5, scenes))
    assert "--calibrate-on" in str(caught.value)


@pytest.mark.openvino
@needs_nncf
def test_a_set_that_cannot_be_used_is_refused_before_anything_is_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("int8",), calibrate_on=ProceduralDataset(5, 25))
    with pytest.raises(InputError, match="1 class"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    assert not list(tmp_path.iterdir())


# --- what is quantised


def test_every_convolution_is_in_one_group_of_its_part(fp32: Contents) -> None:
    for content in fp32.values():
        model = onnx.load_model_from_string(content)
        convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
        found = [name for members in groups(model).values() for name in members]
        assert sorted(found) == sorted(convolutions)
    parts = groups(onnx.load_model_from_string(fp32["query"]))
    assert {"backbone.features.3", "features", "bg", "bg_margin", "stages.0", "initial", "pyramid", "head"} <= set(
        parts
    )
    assert len(parts["initial"]) == 6, "two in each of the three stages"


@pytest.mark.openvino
@needs_nncf
def test_convolutions_are_quantised_per_channel_and_nothing_else(
    fp32: Contents, inputs: dict[str, module.Inputs], tmp_path: Path
) -> None:
    content = quantise(fp32["query"], inputs["query"])
    model = onnx.load_model_from_string(content)
    expected = {n for members in groups(onnx.load_model_from_string(fp32["query"])).values() for n in members}
    assert quantised(content) == expected
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    assert len(weights) == len(expected)
    for node in weights:
        assert tensors[node.input[0]].dtype == np.int8
        assert tensors[node.input[1]].size == tensors[node.input[0]].shape[0]  # one scale per output channel
    onnx.checker.check_model(model, full_check=True)
    (tmp_path / "q.onnx").write_bytes(content)
    assert found_precision(tmp_path / "q.onnx") == "int8"


@pytest.mark.openvino
@needs_nncf
def test_onnx_runtime_runs_all_but_a_few_convolutions_in_int8(
    fp32: Contents, inputs: dict[str, module.Inputs], tmp_path: Path
) -> None:
    """It has no int8 convolution with an output in floating point, and no int8 concatenation of one."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    content = quantise(fp32["query"], inputs["query"])
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    # the stem of a backbone with a max-pooling behind it, and a convolution that feeds a product in fp32
    assert sum(node.op_type == "FusedConv" for node in nodes) <= 3
    assert sum(node.op_type == "QLinearConv" for node in nodes) >= 50
    head = [node for node in nodes if node.op_type == "QLinearAdd"]
    assert head, "the sums of the head's residual blocks"


def test_a_concatenation_of_quantised_values_keeps_their_values() -> None:
    helper = onnx.helper
    constants = {"small": np.float32(0.01), "large": np.float32(0.02), "zero": np.uint8(3), "signed": np.int8(0)}

    def close(zero: str) -> onnx.ModelProto:
        nodes = [
            helper.make_node("DequantizeLinear", ["a", "small", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["b", "large", zero], ["y"]),
            helper.make_node("Concat", ["x", "y"], ["z"], "join", axis=0),
        ]
        kind = onnx.TensorProto.INT8 if zero == "signed" else onnx.TensorProto.UINT8
        graph = helper.make_graph(
            nodes,
            "join",
            [
                helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [2]),
                helper.make_tensor_value_info("b", kind, [2]),
            ],
            [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        module._close_concatenations(model)
        onnx.checker.check_model(model, full_check=True)
        return model

    closed = close("zero")
    assert [node.op_type for node in closed.graph.node][-3:] == ["Concat", "QuantizeLinear", "DequantizeLinear"]
    session = onnxruntime.InferenceSession(closed.SerializeToString(), providers=["CPUExecutionProvider"])
    a, b = np.array([3, 13], np.uint8), np.array([3, 255], np.uint8)
    (found,) = session.run(None, {"a": a, "b": b})
    # the larger scale covers both, and is within half a step of the finer values
    np.testing.assert_allclose(found, [0, 0.1, 0, 5.04], atol=0.0101)
    assert "QuantizeLinear" not in {node.op_type for node in close("signed").graph.node}


@pytest.mark.openvino
@needs_nncf
def test_groups_that_are_kept_stay_as_they_are(fp32: Contents, inputs: dict[str, module.Inputs]) -> None:
    parts = groups(onnx.load_model_from_string(fp32["query"]))
    content = quantise(fp32["query"], inputs["query"], ("head", "initial"))
    assert quantised(content) == {n for g, m in parts.items() if g not in ("head", "initial") for n in m}
    assert quantise(fp32["query"], inputs["query"], list(parts)) == fp32["query"]


@pytest.mark.openvino
@needs_nncf
@pytest.mark.parametrize("role", ["support", "query"])
def test_signed_activations_are_all_int8_and_onnx_runtime_runs_them(
    fp32: Contents, inputs: dict[str, module.Inputs], role: str
) -> None:
    def kinds(content: bytes) -> set[int]:
        model = onnx.load_model_from_string(content)
        types = {t.name: t.data_type for t in model.graph.initializer}
        return {types[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}

    plain = quantise(fp32[role], inputs[role])
    assert onnx.TensorProto.UINT8 in kinds(plain), "or the option is not needed"
    with pytest.raises(InputError, match="unsigned"):
        check_signed(plain, role)
    signed = quantise(fp32[role], inputs[role], signed=True)
    assert kinds(signed) == {onnx.TensorProto.INT8}
    check_signed(signed, role)
    # the same convolutions; each of the two is a little off what it was made from
    assert quantised(signed) == quantised(plain)
    wanted, found = (
        onnxruntime.InferenceSession(content).run(None, inputs[role][0])[0] for content in (fp32[role], signed)
    )
    assert 0 < float(np.abs(found - wanted).mean()) < 0.3 * float(np.abs(wanted).mean())


# --- the search


def judge_of(fp32: Contents, bad: set[str]) -> Callable[[Contents], Cost]:
    """Finds that each quantised group of `bad` costs 3 % of the pixels, and any other a thousandth of that."""
    parts = groups(onnx.load_model_from_string(fp32["query"]))

    def judge(contents: Contents) -> Cost:
        found = quantised(contents["query"])
        hit = [group for group, members in parts.items() if found & set(members)]
        return Cost(1 - sum(0.03 if group in bad else 0.00003 for group in hit), 0.0)

    return judge


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four coarse groups: the search is the same, and quantises ten times instead of thirty."""
    fine = module._group

    def coarse(node: onnx.NodeProto) -> str:
        name = fine(node)
        return name if name in ("head", "pyramid", "initial") else "rest"

    monkeypatch.setattr(module, "_group", coarse)


@pytest.mark.openvino
@needs_nncf
def test_everything_is_quantised_where_that_costs_little(
    fp32: Contents, inputs: dict[str, module.Inputs], few: None
) -> None:
    result = search(fp32, inputs, judge_of(fp32, set()))
    assert (result.keep, result.alone) == ((), {})
    assert result.cost.agreement > 0.999


@pytest.mark.openvino
@needs_nncf
@pytest.mark.slow
def test_the_groups_that_cost_most_are_kept_and_no_others(
    fp32: Contents, inputs: dict[str, module.Inputs], few: None
) -> None:
    result = search(fp32, inputs, judge_of(fp32, {"pyramid", "head"}))
    assert set(result.keep) == {"pyramid", "head"}
    assert set(result.alone) == {"rest", "head", "pyramid", "initial"}
    assert result.alone["head"].agreement == pytest.approx(0.97)
    told = result.describe()
    assert set(told["kept_in_floating_point"]) == {"pyramid", "head"}
    assert json.loads(json.dumps(told)) == told
    parts = groups(onnx.load_model_from_string(fp32["query"]))
    assert not quantised(result.contents["query"]) & set(parts["head"])


@pytest.mark.openvino
@needs_nncf
@pytest.mark.slow
def test_where_every_group_costs_too_much_there_is_no_int8(
    fp32: Contents, inputs: dict[str, module.Inputs], few: None
) -> None:
    with pytest.raises(GateError, match="int8 costs too much in every group of layers: at best 97"):
        search(fp32, inputs, judge_of(fp32, {"rest", "head", "pyramid", "initial"}))


# --- the whole way


@pytest.mark.openvino
@needs_nncf
@pytest.mark.slow
def test_an_int8_bundle_says_what_it_was_calibrated_on_and_runs(tmp_path: Path) -> None:
    demo = Path(str(files("ntre_deploy") / "assets" / "demo.safetensors"))
    options = ExportOptions(precisions=("int8",), calibrate_on=ProceduralDataset(11))
    export_bundle(demo, tmp_path / "demo.ntre", options)
    bundle = Bundle.open(tmp_path / "demo.ntre")
    assert bundle.precisions("onnx") == ["int8"]
    entry = bundle.entry("query", "onnx", "int8")
    assert entry is not None
    drawn = draw_calibration(ProceduralDataset(11))
    assert entry.details["calibration"] == json.loads(json.dumps(drawn.describe()))
    assert entry.details["cost"]["agreement"] >= 0.985
    assert "nncf" in bundle.manifest.versions
    (checked,) = bundle.manifest.verification
    assert {case["kind"] for case in checked["cases"]} == {"procedural:2022"}
    Segmenter.load(tmp_path / "demo.ntre", "onnx-cpu", precision="int8")
    assert not list(tmp_path.glob(".*")), "no scratch is left"


needs_rtx = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")


@pytest.mark.openvino
@needs_nncf
@needs_rtx
@pytest.mark.slow
def test_plans_in_int8_come_from_signed_files_that_onnx_runtime_verified(tmp_path: Path) -> None:
    demo = Path(str(files("ntre_deploy") / "assets" / "demo.safetensors"))
    plans = TensorRtOptions(("8.6",), max_batch=1, max_classes=1, max_shots=1)
    options = ExportOptions(
        precisions=("int8",), engines=("trt-rtx",), input_size=65, calibrate_on=ProceduralDataset(11), tensorrt=plans
    )
    manifest = export_bundle(demo, tmp_path / "demo.ntre", options)
    assert {(v["engine"], v["precision"]) for v in manifest.verification} == {("onnx-cpu", "int8")}
    (graph,) = (f for f in manifest.files if (f.role, f.engine) == ("query", "onnx"))
    (plan,) = (f for f in manifest.files if (f.role, f.engine) == ("query", "trt-rtx"))
    assert graph.details["activations"] == "int8"
    assert graph.details["cost"]["agreement"] >= 0.985
    assert plan.name == "query.trt-rtx-int8.sm_86.plan"
    assert (plan.precision_asked, plan.precision_found) == ("int8", "int8")
    assert plan.details["kernels"]["correlation"]["int8"] > 5
    assert plan.details["tf32"] is True
