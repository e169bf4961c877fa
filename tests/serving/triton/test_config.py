"""The configurations, read by protobuf with Triton's own definition of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.serving.triton.config import model_config
from ntre_deploy.serving.triton.options import Options
from ntre_deploy.serving.triton.textformat import Enum, to_text
from ntre_deploy.serving.triton.warmup import Tensor

model_config_pb2 = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="Triton's definition of its configuration comes with its client"
)


@pytest.fixture(scope="module")
def read() -> Callable[[str], Any]:
    """The message that a text is, in which unknown fields and wrong types are errors."""
    from google.protobuf import text_format

    return lambda text: text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_option_is_where_triton_looks_for_it(read: Callable[[str], Any]) -> None:
    options = Options(
        engine="onnx-cuda",
        precision="fp16",
        threads=3,
        instances=2,
        gpus=(0, 3),
        max_batch=8,
        preferred=(4, 8),
        delay=250,
        queue=9,
        timeout=1500,
        resources=(("memory", 2), ("copy", 1)),
        priority=5,
        keep=2,
        server="http://10.0.0.1:8000",
    )
    warmup = [Tensor("image", "TYPE_UINT8", (4, 5, 3)), Tensor("memories", "TYPE_STRING", (1,))]
    config = read(to_text(model_config("fork", options, warmup)))
    assert (config.name, config.backend, config.max_batch_size) == ("fork", "python", 8)
    (group,) = config.instance_group
    assert (group.count, list(group.gpus)) == (2, [0, 3])
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert [(r.name, r.count) for r in group.rate_limiter.resources] == [("memory", 2), ("copy", 1)]
    assert group.rate_limiter.priority == 5
    batching = config.dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([4, 8], 250)
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 1_500_000)
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert config.version_policy.latest.num_versions == 2
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "engine": "onnx-cuda",
        "precision": "fp16",
        "threads": "3",
        "server": "http://10.0.0.1:8000",
    }
    assert [(w.batch_size, w.inputs["image"].dims, w.inputs["image"].input_data_file) for w in config.model_warmup] == [
        (1, [4, 5, 3], "image"),
        (8, [4, 5, 3], "image"),
    ]


def test_the_usual_options_depend_on_the_engine(read: Callable[[str], Any]) -> None:
    kinds = model_config_pb2.ModelInstanceGroup
    for engine, batch, delay, kind in (
        ("auto", 4, 500, kinds.KIND_AUTO),
        ("onnx", 4, 500, kinds.KIND_AUTO),
        ("trt", 4, 500, kinds.KIND_GPU),
        ("onnx-cpu", 1, 0, kinds.KIND_CPU),
        ("openvino", 1, 0, kinds.KIND_CPU),
    ):
        config = read(to_text(model_config("fork", Options(engine=engine), [])))
        assert config.max_batch_size == batch
        assert config.dynamic_batching.max_queue_delay_microseconds == delay
        assert config.instance_group[0].kind == kind
        assert not config.model_warmup


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "a/b"}, "cannot name a model"),
        ({"name": ""}, "cannot name a model"),
        ({"name": "-x"}, "cannot name a model"),
        ({"version": 0}, "--version is 0"),
        ({"keep": 0}, "--keep is 0"),
        ({"engine": "onx"}, "Did you mean 'onnx'?"),
        ({"threads": 0}, "--threads is 0"),
        ({"instances": 0}, "--instances is 0"),
        ({"max_batch": 65}, "1 to 64"),
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"preferred": (5,)}, "--preferred 5"),
        ({"delay": -1}, "--delay is -1"),
        ({"queue": 0}, "--queue is 0"),
        ({"timeout": 0}, "--timeout is 0"),
        ({"gpus": (0, 0)}, "different numbers"),
        ({"gpus": (-1,)}, "from 0 on"),
        ({"gpus": (0,), "engine": "onnx-cpu"}, "runs on the CPU"),
        ({"resources": (("a b", 1),)}, "--resource a b=1"),
        ({"resources": (("a", 0),)}, "--resource a=0"),
        ({"priority": 0}, "--priority is 0"),
        ({"server": "localhost:8000"}, "--server localhost:8000"),
        ({"server": "file:///etc"}, "--server file:///etc"),
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=r".") as caught:
        Options(**wrong)
    assert words in str(caught.value)


@given(st.text(), st.text(), st.integers(-(2**31), 2**31 - 1))
def test_any_text_and_number_comes_back(key: str, text: str, number: int) -> None:
    from google.protobuf import text_format

    def valid(value: str) -> str:
        # protobuf's strings are UTF-8
        return value.encode("utf-8", "ignore").decode()

    key, text = valid(key), valid(text)
    written = to_text(
        {"name": text, "max_batch_size": number, "parameters": {"key": key, "value": {"string_value": text}}}
    )
    config = text_format.Parse(written, model_config_pb2.ModelConfig())
    assert (config.name, config.max_batch_size) == (text, number)
    assert config.parameters[key].string_value == text


def test_what_cannot_be_written_is_refused() -> None:
    assert to_text({"a": [], "b": {}, "c": True, "d": Enum("X"), "e": 0.5}) == "b {}\nc: true\nd: X\ne: 0.5\n"
    with pytest.raises(ValueError, match="nan"):
        to_text({"a": float("nan")})
    with pytest.raises(TypeError, match="NoneType"):
        to_text({"a": None})  # type: ignore[dict-item]


def test_all_configurations_of_a_bundle_are_read(exported: Path, read: Callable[[str], Any], tmp_path: Path) -> None:
    from ntre_deploy.serving.triton.repository import write_repository

    written = write_repository(exported, tmp_path, graphs=True)
    assert [model.name for model in written] == [
        "tiny",
        "tiny_support",
        "tiny_query",
        "tiny_support_fp16",
        "tiny_query_fp16",
    ]
    for model in written:
        config = read((model.folder / "config.pbtxt").read_text())
        assert config.name == model.name == model.folder.name
        assert (config.platform or config.backend) == model.kind
