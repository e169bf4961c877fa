"""The open inference protocol, with Triton's own client."""

import base64
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter
from tests.serving.http.conftest import Server  # type: ignore[import-not-found]

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
Files = list[SimpleNamespace]
Shots = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    opened = triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=120, connection_timeout=120)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def wanted(segmenter: Segmenter, shots: Shots) -> Any:
    return segmenter.segment_result(shots[1][0], segmenter.encode_support([shots[0]], "disc"))


def tensor(name: str, values: Any, *, binary: bool = True) -> Any:
    array = np.asarray(values) if isinstance(values, np.ndarray) else np.array(values, object)
    made = triton.InferInput(name, list(array.shape), "UINT8" if array.dtype == np.uint8 else "BYTES")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_what_tritons_client_asks_first(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert [model["name"] for model in client.get_model_repository_index()] == ["tiny", "other"]
    metadata = client.get_model_metadata("tiny", "1")
    assert metadata["versions"] == ["1"]
    supports = ["memories", "support_memories", "support_images", "support_masks", "support_names"]
    assert [one["name"] for one in metadata["inputs"]] == ["image", "image_bytes", *supports]
    assert {one["name"]: one["datatype"] for one in metadata["outputs"]} == {
        "labels": "UINT8",
        "scores": "FP32",
        "names": "BYTES",
    }
    config = client.get_model_config("tiny")
    assert [one["optional"] for one in config["input"]] == [True] * 7
    with pytest.raises(triton.InferenceServerException, match="when it starts"):
        client.load_model("tiny")


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("image", ["file", "file as for Triton", "pixels", "pixels in a batch", "pixels in JSON"])
def test_inference_is_the_runtimes(
    image: str, packed: str | None, client: Any, shots: Shots, files: Files, wanted: Any
) -> None:
    given = {
        "file": [files[1].photo],
        "file as for Triton": [files[1].photo],
        "pixels": shots[1][0],
        "pixels in a batch": shots[1][0][None],
        "pixels in JSON": shots[1][0],
    }[image]
    name = "image_bytes" if "Triton" in image else "image"
    inputs = [tensor(name, given, binary=image != "pixels in JSON"), tensor("memories", ["disc"], binary=False)]
    for outputs in (
        None,
        [triton.InferRequestedOutput(name, binary_data=True) for name in ("names", "labels", "scores")],
        [triton.InferRequestedOutput(name, binary_data=False) for name in ("labels", "scores", "names")],
        [triton.InferRequestedOutput("labels", binary_data=False), triton.InferRequestedOutput("scores")],
    ):
        found = client.infer("tiny", inputs, outputs=outputs, request_id="mine", request_compression_algorithm=packed)
        np.testing.assert_array_equal(found.as_numpy("labels"), wanted.labels)
        assert found.as_numpy("labels").dtype == np.uint8
        np.testing.assert_allclose(found.as_numpy("scores"), wanted.scores, atol=1e-5)
        told = found.get_response()
        assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "tiny", "1")
        if outputs is None or len(outputs) == 3:
            assert [text.decode() if isinstance(text, bytes) else text for text in found.as_numpy("names")] == ["disc"]
        if outputs is not None:
            assert [one["name"] for one in told["outputs"]] == [one.name() for one in outputs]


def test_every_kind_of_support(client: Any, server: Server, files: Files, wanted: Any) -> None:
    memory = server.ask("GET", "/memories/disc").body
    shown = [tensor("support_images", [files[0].photo]), tensor("support_masks", [files[0].mask])]
    for supports, name in (
        ([tensor("support_memories", [memory])], b"disc"),
        (shown, b"object"),
        ([*shown, tensor("support_names", ["thing"])], b"thing"),
    ):
        found = client.infer("other", [tensor("image", [files[1].photo]), *supports])
        np.testing.assert_array_equal(found.as_numpy("labels"), wanted.labels)
        assert found.as_numpy("names").tolist() == [name]


def test_classes_are_numbered_memories_first(client: Any, server: Server, files: Files) -> None:
    memory = server.ask("GET", "/memories/disc").body
    inputs = [
        tensor("support_names", ["b", "c", "b"]),
        tensor("support_masks", [files[n].mask for n in (0, 1, 2)]),
        tensor("support_images", [files[n].photo for n in (0, 1, 2)]),
        tensor("support_memories", [memory]),
        tensor("memories", ["disc"]),
        tensor("image", [files[4].photo]),
    ]
    assert client.infer("tiny", inputs).as_numpy("names").tolist() == [b"disc", b"disc", b"b", b"c"]


def test_plain_json_without_a_client(server: Server, files: Files, wanted: Any) -> None:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    def bytes_of(name: str, *values: str) -> dict[str, Any]:
        return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values)}

    asked = {
        "id": "7",
        "inputs": [
            bytes_of("image", text(files[1].photo)),
            bytes_of("support_images", text(files[0].photo)),
            bytes_of("support_masks", text(files[0].mask)),
            bytes_of("support_names", "disc"),
        ],
    }
    answer = server.ask("POST", "/v2/models/tiny/versions/1/infer", json.dumps(asked))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    outputs = {one["name"]: one for one in answer.json["outputs"]}
    assert answer.json["id"] == "7"
    assert np.reshape(outputs["labels"]["data"], outputs["labels"]["shape"]).tolist() == wanted.labels.tolist()
    assert outputs["names"]["data"] == ["disc"]


def test_statistics_count_photos(client: Any, server: Server, files: Files) -> None:
    def count() -> Any:
        return client.get_inference_statistics("tiny")["model_stats"][0]["inference_stats"]

    before = count()
    client.infer("tiny", [tensor("image", [files[1].photo]), tensor("memories", ["disc"])])
    after = count()
    assert after["success"]["count"] == before["success"]["count"] + 1
    assert after["compute_infer"]["ns"] > before["compute_infer"]["ns"]
    assert len(client.get_inference_statistics()["model_stats"]) == 2


GOOD = {"name": "memories", "datatype": "BYTES", "shape": [1], "data": ["disc"]}


def image(**changed: Any) -> dict[str, Any]:
    made = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "data": [[[1, 2, 3], [4, 5, 6]]]} | changed
    return {key: value for key, value in made.items() if value is not None}


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "no JSON"),
    "a list": ([], "no JSON object"),
    "NaN": (b'{"inputs": NaN}', "NaN"),
    "too deep": (b"[" * 100_000, "no JSON"),
    "no inputs": ({}, "inputs"),
    "inputs that are none": ({"inputs": {}}, "inputs"),
    "an input that is none": ({"inputs": [3]}, "`inputs`"),
    "no image": ({"inputs": [GOOD]}, "'image' is missing"),
    "both kinds of image": ({"inputs": [image(), image(name="image_bytes"), GOOD]}, "Both 'image' and 'image_bytes'"),
    "no support": ({"inputs": [image()]}, "No support"),
    "an unknown input": ({"inputs": [image(name="imag"), GOOD]}, "Did you mean 'image'"),
    "an input twice": ({"inputs": [image(), image(), GOOD]}, "twice"),
    "an unknown datatype": ({"inputs": [image(datatype="UINT9"), GOOD]}, "Did you mean 'UINT8'"),
    "a datatype that is no image's": ({"inputs": [image(datatype="FP32"), GOOD]}, "UINT8 pixels"),
    "no datatype": ({"inputs": [image(datatype=None), GOOD]}, "datatype"),
    "no shape": ({"inputs": [image(shape=None), GOOD]}, "shape"),
    "a shape with a minus": ({"inputs": [image(shape=[-1, 2, 3]), GOOD]}, "shape"),
    "a shape that is text": ({"inputs": [image(shape=["1", 2, 3]), GOOD]}, "shape"),
    "a shape of too many": ({"inputs": [image(shape=[1] * 99), GOOD]}, "at most 8"),
    "a shape of another size": ({"inputs": [image(shape=[2, 2, 3]), GOOD]}, "needs 12 numbers"),
    "a shape beyond memory": ({"inputs": [image(shape=[2**30, 2**30, 3]), GOOD]}, "needs"),
    "an image of one channel": ({"inputs": [image(shape=[2, 3, 1]), GOOD]}, "[H, W, 3]"),
    "an image without pixels": ({"inputs": [image(shape=[0, 2, 3], data=[]), GOOD]}, "[H, W, 3]"),
    "two images": ({"inputs": [image(shape=[2, 1, 1, 3]), GOOD]}, "[H, W, 3]"),
    "no data": ({"inputs": [image(data=None), GOOD]}, "no `data`"),
    "rows of different lengths": ({"inputs": [image(data=[[1, 2], [3]]), GOOD]}, "different lengths"),
    "values beyond a byte": ({"inputs": [image(data=[1, 2, 3, 4, 5, 256]), GOOD]}, "0 to 255"),
    "values with fractions": ({"inputs": [image(data=[1, 2, 3, 4, 5, 0.5]), GOOD]}, "0 to 255"),
    "values that are text": ({"inputs": [image(data=["a"] * 6), GOOD]}, "numbers"),
    "values that are true": ({"inputs": [image(data=[True] * 6), GOOD]}, "numbers"),
    "a number for a name": ({"inputs": [image(), GOOD | {"data": [3]}]}, "strings"),
    "no base64": ({"inputs": [image(datatype="BYTES", shape=[1], data=["*"]), GOOD]}, "base64"),
    "two files": (
        {"inputs": [image(datatype="BYTES", shape=[2], data=["", ""]), GOOD]},
        "one is expected",
    ),
    "names that are pixels": ({"inputs": [image(), GOOD | {"datatype": "UINT8", "data": [3]}]}, "BYTES is expected"),
    "no bytes": (
        {"inputs": [image(data=None, parameters={"binary_data_size": 6}), GOOD]},
        "the body has 0",
    ),
    "bytes and data": ({"inputs": [image(parameters={"binary_data_size": 6}), GOOD]}, "both"),
    "bytes below 0": (
        {"inputs": [image(parameters={"binary_data_size": -1}), GOOD]},
        "number of bytes",
    ),
    "shared memory": ({"inputs": [image(parameters={"shared_memory_region": "x"}), GOOD]}, "shared memory"),
    "parameters that are none": ({"inputs": [image(), GOOD], "parameters": 3}, "`parameters`"),
    "an unknown output": ({"inputs": [image(), GOOD], "outputs": [{"name": "label"}]}, "Did you mean 'labels'"),
    "classification": (
        {"inputs": [image(), GOOD], "outputs": [{"name": "labels", "parameters": {"classification": 3}}]},
        "classification",
    ),
    "outputs that are none": ({"inputs": [image(), GOOD], "outputs": "labels"}, "`outputs`"),
    "an id that is a number": ({"inputs": [image(), GOOD], "id": 3}, "`id`"),
    "supports without masks": (
        {"inputs": [image(), {"name": "support_images", "datatype": "BYTES", "shape": [1], "data": [""]}]},
        "pairs",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request(kind: str, server: Server) -> None:
    content, words = BAD[kind]
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = server.ask("POST", "/v2/models/tiny/infer", body)
    assert (answer.status, words in answer.error) == (400, True), answer.body


def test_what_names_something_that_is_not_there(server: Server) -> None:
    unknown = {"inputs": [image(), GOOD | {"data": ["dics"]}]}
    for path, body, words in (
        ("/v2/models/tinny/infer", {"inputs": [image(), GOOD]}, "Did you mean 'tiny'"),
        ("/v2/models/tiny/versions/9/infer", {"inputs": [image(), GOOD]}, "no version '9'"),
        ("/v2/models/tiny/infer", unknown, "Did you mean 'disc'"),
    ):
        answer = server.ask("POST", path, json.dumps(body))
        assert (answer.status, words in answer.error) == (404, True), answer.body


@pytest.mark.parametrize("length", ["-1", "abc", "99999", "1e3", ""])
def test_a_length_of_the_json_that_cannot_be(length: str, server: Server) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = server.ask("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [image(), GOOD]}), headers)
    assert (answer.status, "Inference-Header-Content-Length" in answer.error) == (400, True)


def with_bytes(entry: dict[str, Any], raw: bytes) -> Callable[[Server], Any]:
    head = json.dumps({"inputs": [entry, GOOD]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return lambda server: server.ask("POST", "/v2/models/tiny/infer", head + raw, headers)


@pytest.mark.parametrize(
    ("entry", "raw", "words"),
    [
        (image(data=None, parameters={"binary_data_size": 5}), b"12345", "6 are expected"),
        (image(data=None, parameters={"binary_data_size": 6}), b"1234567", "belong to no input"),
        (image(data=None, datatype="BYTES", shape=[1], parameters={"binary_data_size": 3}), b"123", "ends early"),
        (image(data=None, datatype="BYTES", shape=[1], parameters={"binary_data_size": 8}), b"\xff" * 8, "ends early"),
        (
            image(data=None, datatype="BYTES", shape=[2], parameters={"binary_data_size": 4}),
            b"\0" * 4,
            "shape says 2",
        ),
    ],
)
def test_bytes_that_cannot_be(entry: dict[str, Any], raw: bytes, words: str, server: Server) -> None:
    answer = with_bytes(entry, raw)(server)
    assert (answer.status, words in answer.error) == (400, True), answer.body


def test_a_body_that_unpacks_to_too_much(server: Server) -> None:
    import gzip

    headers = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 100_000_000, 9)
    answer = server.ask("POST", "/v2/models/tiny/infer", bomb, headers)
    assert (answer.status, "unpacks" in answer.error) == (413, True)
    for body, encoding in ((b"hello", "gzip"), (gzip.compress(b"{}" * 99)[:-9], "gzip"), (b"{}", "br")):
        answer = server.ask("POST", "/v2/models/tiny/infer", body, {"Content-Encoding": encoding})
        assert answer.status == 400, answer.body
