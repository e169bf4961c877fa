"""What is read of plans and machines without either: layers, environments, and engines that cannot run."""

import json
from typing import Any

import pytest

from ntre_deploy.runtime.engines.tensorrt import api, unavailable
from ntre_deploy.runtime.engines.tensorrt.environment import differences, rebuild_command, system
from ntre_deploy.runtime.engines.tensorrt.layers import found_precision, kernels

_LINE = (
    "Name: {name}, LayerType: {kind}, Inputs: [ {{ Name: x, Dimensions: [-1,3], Strides: [3,1], StrideOrder: [1,0], "
    "Datatype: {type}, Format: (NHWC) Channel major format }}], Constants: [ {{ Name: w, Dimensions: [1], "
    "Datatype: Float, Format: (Linear) }}], Outputs: [ {{ Name: y, Datatype: Float }}], TacticName: "
)


def text(*layers: tuple[str, str]) -> str:
    """Layers as the builder of TensorRT for RTX lists them."""
    lines = [_LINE.format(name=f"node_{i}", kind=kind, type=kind_type) for i, (kind, kind_type) in enumerate(layers)]
    return "\n".join(
        ["Name: shape, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: ", *lines]
    )


def test_the_builder_s_list_is_read() -> None:
    counts = kernels(
        text(("correlation", "Half"), ("correlation", "Half"), ("correlation", "Float"), ("gemm", "Float"))
    )
    assert counts == {"correlation": {"fp16": 2, "fp32": 1}, "gemm": {"fp32": 1}, "shape_call": {"unknown": 1}}
    assert found_precision(counts) == "fp16"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Format/Datatype", "Channel major FP16 format where channel % 8 == 0"),
        ("Datatype", "Half"),
        ("Format", "Two wide channel vectorized row major FP16 format"),
    ],
)
def test_the_inspector_s_json_is_read_in_every_spelling(key: str, value: str) -> None:
    layer = {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", key: value}]}
    assert found_precision(kernels(json.dumps({"Layers": [layer, "a name alone"]}))) == "fp16"


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([("correlation", "Float")], "fp32"),
        ([("correlation", "Half"), ("correlation", "Int8")], "int8"),
        ([("correlation", "Half"), ("correlation", "Half"), ("correlation", "FP8")], "fp8"),
        ([("correlation", "Float"), ("correlation", "BFloat16"), ("correlation", "BFloat16")], "bf16"),
        ([("gemm", "Half"), ("kgen", "Float")], "fp16"),
        ([("kgen", "Half")], "unknown"),
        ([], "unknown"),
    ],
)
def test_most_convolutions_decide_and_products_where_there_are_none(layers: list[Any], found: str) -> None:
    assert found_precision(kernels(text(*layers))) == found


DETAILS = {"version": "10.16.1.11", "compute_capabilities": ["8.6"], **system()}


@pytest.mark.parametrize(
    ("changes", "here", "words"),
    [
        ({}, "8.6", []),
        ({}, "8.9", ["compute capability 8.6 and this GPU has 8.9"]),
        ({"compute_capabilities": ["8.6", "8.9"]}, "8.9", []),
        ({"hardware_compatibility": "ampere-plus"}, "12.0", []),
        ({"hardware_compatibility": "ampere-plus"}, "7.5", ["this GPU has 7.5"]),
        ({"hardware_compatibility": "same-compute-capability"}, "8.9", ["this GPU has 8.9"]),
        ({"version": "10.13.3.9"}, "8.6", ["TensorRT 10.13.3.9 and 10.16.1.11 is here"]),
        ({"version": "10.13.3.9", "version_compatible": True}, "8.6", []),
        ({"version": "11.4.0.106", "version_compatible": True}, "8.6", ["11.4.0.106 and 10.16.1.11"]),
        ({"os": "qnx", "machine": "aarch64"}, "8.9", ["for qnx", "for aarch64", "this GPU has 8.9"]),
        ({"compute_capabilities": None, "version": 3}, "x", ["TensorRT 3", "compute capability ?"]),
    ],
)
def test_what_differs_is_told(changes: dict[str, Any], here: str, words: list[str]) -> None:
    library = api.Library("trt", None, "10.16.1.11")
    found = differences(DETAILS | changes, "trt", library, here)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True)), found


def test_the_rebuild_command_names_the_gpu_where_it_can() -> None:
    assert rebuild_command("cutlery.ntre", "trt", "fp16", "8.6") == (
        "ntre build cutlery.ntre --engine trt --precision fp16"
    )
    assert " --sm 8.6" in rebuild_command("cutlery.ntre", "trt-rtx", "fp16", "8.6")


@pytest.mark.parametrize("engine", api.ENGINES)
def test_an_engine_that_cannot_run_says_why(engine: str) -> None:
    reason = unavailable(engine)
    if reason is None:
        pytest.skip("a GPU is here")
    assert "pip install" in reason or "nvidia-smi" in reason
