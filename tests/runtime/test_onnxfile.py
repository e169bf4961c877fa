"""The look into ONNX files: real models, hidden references to other files, and garbage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.onnxfile import check_self_contained

OPSET = [helper.make_opsetid("", 18)]
WEIGHTS = np.arange(4, dtype=np.float32)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])


def tensor(external: bool, name: str = "w") -> TensorProto:
    out = numpy_helper.from_array(WEIGHTS, name)
    if external:
        out.ClearField("raw_data")
        out.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": "0", "length": "16"}.items():
            entry = out.external_data.add()
            entry.key, entry.value = key, value
    return out


def model(nodes: list[NodeProto], initializers: list[TensorProto] | None = None) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [X], [Y], initializers or [])
    return helper.make_model(graph, opset_imports=OPSET, ir_version=9)


def sparse(external: bool, *, indices: bool = False) -> onnx.SparseTensorProto:
    found = numpy_helper.from_array(np.arange(4), "i")
    out = helper.make_sparse_tensor(tensor(False), found, [8])
    (out.indices if indices else out.values).CopyFrom(tensor(external))
    return out


def constant(external: bool) -> NodeProto:
    return helper.make_node("Constant", [], ["w"], value=tensor(external))


def attributed(attribute: AttributeProto) -> ModelProto:
    node = helper.make_node("Custom", ["x"], ["y"], domain="d")
    node.attribute.append(attribute)
    return model([node])


def branch(external: bool) -> GraphProto:
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])
    return helper.make_graph([], "branch", [], [out], [tensor(external)])


# --- every place of a model that holds a tensor


def in_initializer(external: bool) -> ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor(external)])


def in_the_second_initializer(external: bool) -> ModelProto:
    return model([helper.make_node("Add", ["x", "v"], ["y"])], [tensor(False), tensor(external, "v")])


def in_constant_node(external: bool) -> ModelProto:
    return model([constant(external), helper.make_node("Add", ["x", "w"], ["y"])])


def in_a_list_of_tensors(external: bool) -> ModelProto:
    attribute = AttributeProto(name="many", type=AttributeProto.TENSORS)
    attribute.tensors.extend([tensor(False), tensor(external)])
    return attributed(attribute)


def in_subgraph(external: bool) -> ModelProto:
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["c"], ["w"], then_branch=branch(False), else_branch=branch(external))
    return model([condition, choice, helper.make_node("Add", ["x", "w"], ["y"])])


def in_a_subgraph_of_a_subgraph(external: bool) -> ModelProto:
    made = in_subgraph(external)
    outer = helper.make_graph(list(made.graph.node)[:2], "outer", [], [Y])
    made.graph.node[1].attribute[0].g.CopyFrom(outer)
    made.graph.node[1].attribute[1].g.CopyFrom(branch(False))
    return made


def in_a_list_of_subgraphs(external: bool) -> ModelProto:
    attribute = AttributeProto(name="many", type=AttributeProto.GRAPHS)
    attribute.graphs.extend([branch(False), branch(external)])
    return attributed(attribute)


def in_sparse_initializer(external: bool) -> ModelProto:
    made = in_initializer(False)
    made.graph.sparse_initializer.append(sparse(external))
    return made


def in_the_indices_of_a_sparse_initializer(external: bool) -> ModelProto:
    made = in_initializer(False)
    made.graph.sparse_initializer.append(sparse(external, indices=True))
    return made


def in_sparse_attribute(external: bool) -> ModelProto:
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse(external))
    return attributed(attribute)


def in_a_list_of_sparse_tensors(external: bool) -> ModelProto:
    attribute = AttributeProto(name="many", type=AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.extend([sparse(False), sparse(external)])
    return attributed(attribute)


def in_function_body(external: bool) -> ModelProto:
    made = model([helper.make_node("F", ["x"], ["y"], domain="d")])
    body = [constant(external), helper.make_node("Add", ["x", "w"], ["y"])]
    made.functions.append(helper.make_function("d", "F", ["x"], ["y"], body, OPSET))
    return made


def in_the_default_of_a_function_attribute(external: bool) -> ModelProto:
    made = in_function_body(False)
    default = AttributeProto(name="value", type=AttributeProto.TENSOR)
    default.t.CopyFrom(tensor(external))
    made.functions[0].attribute_proto.append(default)
    return made


def in_training_info(external: bool) -> ModelProto:
    made = in_initializer(False)
    made.training_info.add().algorithm.CopyFrom(branch(external))
    return made


PLACES = [
    in_initializer,
    in_the_second_initializer,
    in_constant_node,
    in_a_list_of_tensors,
    in_subgraph,
    in_a_subgraph_of_a_subgraph,
    in_a_list_of_subgraphs,
    in_sparse_initializer,
    in_the_indices_of_a_sparse_initializer,
    in_sparse_attribute,
    in_a_list_of_sparse_tensors,
    in_function_body,
    in_the_default_of_a_function_attribute,
    in_training_info,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_found_wherever_a_model_can_keep_a_tensor(place: Callable[[bool], ModelProto]) -> None:
    check_self_contained(place(False).SerializeToString(), "query.onnx")
    with pytest.raises(InputError, match=r"^query.onnx keeps weights in external data files.*single file\.$"):
        check_self_contained(place(True).SerializeToString(), "query.onnx")


def test_a_model_that_onnx_saved_with_external_data_is_refused_and_one_without_passes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(in_initializer(False), path)
    check_self_contained(path.read_bytes(), "m.onnx")
    onnx.save(in_initializer(False), path, save_as_external_data=True, size_threshold=0, location="m.data")
    assert (tmp_path / "m.data").is_file()
    with pytest.raises(InputError, match="external data"):
        check_self_contained(path.read_bytes(), "m.onnx")


def test_one_of_the_two_marks_of_external_data_is_enough() -> None:
    for clear in ("data_location", "external_data"):
        made = in_initializer(True)
        made.graph.initializer[0].ClearField(clear)
        with pytest.raises(InputError, match="external data"):
            check_self_contained(made.SerializeToString(), "m.onnx")


def test_the_graphs_of_an_exported_bundle_pass(exported: Path) -> None:
    graphs = sorted(exported.glob("*.onnx"))
    assert len(graphs) == 4
    for path in graphs:
        check_self_contained(path.read_bytes(), path.name)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def test_a_tag_with_bits_beyond_32_does_not_hide_external_data() -> None:
    plain = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4]).SerializeToString()
    entry = field(1, b"location") + field(2, b"weights.bin")
    overlong_13 = varint(1 << 32 | 13 << 3 | 2)
    overlong_14 = varint(1 << 32 | 14 << 3)
    hidden = plain + overlong_13 + varint(len(entry)) + entry + overlong_14 + b"\x01"
    graph = model([helper.make_node("Add", ["x", "w"], ["y"])]).graph.SerializeToString() + field(5, hidden)
    shell = ModelProto(ir_version=9, opset_import=OPSET).SerializeToString()
    with pytest.raises(InputError):
        check_self_contained(shell + field(7, graph), "m.onnx")


@pytest.mark.parametrize("depth", [100, 5000])
def test_a_model_that_is_nested_without_end_is_refused(depth: int) -> None:
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))  # graph { node { attribute { g ...
    with pytest.raises(InputError, match="nested too deep"):
        check_self_contained(field(7, content), "m.onnx")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x3a\x05abc", "past the end"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "past the end"),
        (b"\xff" * 11, "varint"),
        (b"\x3b", "wire type 3"),
        (b"\x3c", "wire type 4"),
        (b"\x09abc", "past the end"),
        (b"\x0dabc", "past the end"),
        (b"\x08", "not a readable ONNX file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a readable ONNX file"),
        (b"<html><body>404</body></html>", "not a readable ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not a readable ONNX file"),
    ],
)
def test_what_is_no_protobuf_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        check_self_contained(content, "m.onnx")
    assert "\n" not in str(caught.value)


def passes_or_is_refused(content: bytes) -> bool:
    """Any other exception fails the test."""
    message = ""
    try:
        check_self_contained(content, "m.onnx")
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return not message


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_pass_or_are_refused(content: bytes) -> None:
    passes_or_is_refused(content)
    passes_or_is_refused(field(7, content))
    passes_or_is_refused(field(7, field(1, field(5, content))))


SAMPLES = [place(False).SerializeToString() for place in PLACES]
EXTERNAL = [place(True).SerializeToString() for place in PLACES if "default" not in place.__name__]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=200, deadline=None)
def test_a_truncated_model_passes_or_is_refused(content: bytes, data: st.DataObject) -> None:
    passes_or_is_refused(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.sampled_from(EXTERNAL), st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_model_that_passes_has_no_external_data_by_the_onnx_package(
    content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if not passes_or_is_refused(bytes(damaged)):
        return
    try:
        parsed = onnx.load_model_from_string(bytes(damaged))
    except Exception:  # the onnx package does not accept it either
        return
    tensors = [*parsed.graph.initializer, *(s.values for s in parsed.graph.sparse_initializer)]
    tensors += [a.t for node in parsed.graph.node for a in node.attribute]
    tensors += [a.t for function in parsed.functions for node in function.node for a in node.attribute]
    assert not any(t.external_data or t.data_location == TensorProto.EXTERNAL for t in tensors)
