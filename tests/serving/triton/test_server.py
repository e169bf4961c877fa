"""A real server answers as the runtime does, over HTTP and gRPC, one by one and in batches."""

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Strings = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("repository")
    write(folder, max_batch=4, preferred=(4,), delay=20_000, instances=1, server="")
    return start(folder, "--model-control-mode=explicit", "--load-model=*")


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, server: Any, client: Callable[..., Any]) -> Any:
    return client(request.param, server)


@pytest.fixture(scope="module")
def known(memories: Path) -> dict[str, SupportMemory]:
    return {name: SupportMemory.load(memories / f"{name}.safetensors") for name in ("disc", "other")}


def check(answer: dict[str, np.ndarray], image: np.ndarray, wanted: list[SupportMemory], segmenter: Segmenter) -> None:
    """Labels and scores are the runtime's, to the bit."""
    expected = segmenter.segment_result(image, wanted)
    np.testing.assert_array_equal(answer["labels"], expected.labels[None])
    np.testing.assert_array_equal(answer["scores"], np.array([expected.scores], np.float32))
    assert answer["names"].tolist() == [[memory.name.encode() for memory in wanted]]


def test_pixels_and_memories_by_name(triton: Any, strings: Strings, shots: Any, known: Any, segmenter: Any) -> None:
    for (image, _), names in zip(shots, (["disc"], ["other", "disc"], ["disc", "other"]), strict=False):
        answer = triton.infer(image=image[None], memories=strings(*names))
        check(answer, image, [known[name] for name in names], segmenter)


def test_files_and_the_bytes_of_memories(
    triton: Any, strings: Strings, shots: Any, files: list[SimpleNamespace], known: Any, segmenter: Any
) -> None:
    stored = strings(known["other"].to_bytes(), known["disc"].to_bytes())
    answer = triton.infer(image_bytes=strings(files[2].photo), support_memories=stored)
    check(answer, shots[2][0], [known["other"], known["disc"]], segmenter)


def test_supports_that_are_shown(
    triton: Any, strings: Strings, shots: Any, files: list[SimpleNamespace], segmenter: Any
) -> None:
    shown = {
        "support_images": strings(*(file.photo for file in files[:3])),
        "support_masks": strings(*(file.mask for file in files[:3])),
    }
    alone = segmenter.encode_support(shots[:3], "support", leave_one_out=False)
    check(triton.infer(image=shots[3][0][None], **shown), shots[3][0], [alone], segmenter)
    classes = {"fork": [shots[0], shots[2]], "löffel": [shots[1]]}
    both = segmenter.encode_supports(classes, leave_one_out=False)
    answer = triton.infer(image=shots[3][0][None], **shown, support_names=strings("fork", "löffel", "fork"))
    check(answer, shots[3][0], both, segmenter)


def test_images_of_one_request_have_their_own_supports(
    triton: Any, strings: Strings, shots: Any, known: Any, segmenter: Any
) -> None:
    images = np.stack([shots[5][0], shots[5][0][::-1]])
    answer = triton.infer(image=images, memories=np.concatenate([strings("disc"), strings("other")]))
    for number, name in enumerate(("disc", "other")):
        one = {key: value[number : number + 1] for key, value in answer.items()}
        check(one, images[number], [known[name]], segmenter)


def test_only_what_was_asked_for_is_sent(triton: Any, strings: Strings, shots: Any) -> None:
    answer = triton.infer(wanted=("scores",), image=shots[0][0][None], memories=strings("disc"))
    assert answer["scores"].shape == (1, 1)


def test_batches_of_images_of_all_sizes_are_run_under_load(
    triton: Any, strings: Strings, shots: Any, known: Any, segmenter: Any
) -> None:
    before = batches(triton)

    def ask(number: int) -> tuple[int, str, dict[str, np.ndarray]]:
        name = ("disc", "other")[number % 2]
        image = shots[number % len(shots)][0]
        return number, name, triton.infer(image=image[None], memories=strings(name))

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(48)))
    for number, name, answer in answers:
        check(answer, shots[number % len(shots)][0], [known[name]], segmenter)
    after = batches(triton)
    grown = {size: count - before.get(size, 0) for size, count in after.items()}
    assert sum(size * count for size, count in grown.items()) == 48
    assert sum(count for size, count in grown.items() if size > 1) >= 4, grown


def batches(triton: Any) -> dict[int, int]:
    """How many batches of which size the server says to have executed."""
    told = triton.raw.get_inference_statistics("tiny", **({"as_json": True} if triton.protocol == "grpc" else {}))
    stats = told["model_stats"][0].get("batch_stats", [])
    return {int(one["batch_size"]): int(one["compute_infer"]["count"]) for one in stats}


def test_a_fault_in_a_batch_is_its_requests_alone(
    triton: Any, strings: Strings, shots: Any, known: Any, segmenter: Any
) -> None:
    def ask(number: int) -> Any:
        try:
            return triton.infer(image=shots[0][0][None], memories=strings("nobody" if number % 3 == 0 else "disc"))
        except Exception as error:
            return str(error)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(24)))
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert "There is no memory 'nobody'; there is disc, other." in answer
        else:
            check(answer, shots[0][0], [known["disc"]], segmenter)


def test_a_memory_that_is_put_into_the_folder_can_be_named_at_once(
    server: Any, client: Callable[..., Any], strings: Strings, shots: Any, segmenter: Segmenter
) -> None:
    memory = segmenter.encode_support(shots[4:5], "new")
    memory.save(server.repository / "tiny" / "1" / "memories" / "new.safetensors")
    check(
        client("http", server).infer(image=shots[0][0][None], memories=strings("new")), shots[0][0], [memory], segmenter
    )


def test_the_server_reads_the_configuration_as_it_was_meant(server: Any) -> None:
    with urllib.request.urlopen(f"{server.url}/v2/models/tiny/config", timeout=60) as response:
        config = json.load(response)
    assert config["backend"] == "python"
    assert config["max_batch_size"] == 4
    assert {i["name"]: (i["data_type"], i["dims"], i["optional"]) for i in config["input"]} == {
        "image": ("TYPE_UINT8", [-1, -1, 3], True),
        "image_bytes": ("TYPE_STRING", [1], True),
        "memories": ("TYPE_STRING", [-1], True),
        "support_memories": ("TYPE_STRING", [-1], True),
        "support_images": ("TYPE_STRING", [-1], True),
        "support_masks": ("TYPE_STRING", [-1], True),
        "support_names": ("TYPE_STRING", [-1], True),
    }
    assert [(o["name"], o["data_type"], o["dims"]) for o in config["output"]] == [
        ("labels", "TYPE_UINT8", [-1, -1]),
        ("scores", "TYPE_FP32", [-1]),
        ("names", "TYPE_STRING", [-1]),
    ]
    assert [(g["count"], g["kind"]) for g in config["instance_group"]] == [(1, "KIND_CPU")]
    batching = config["dynamic_batching"]
    assert batching["preferred_batch_size"] == [4]
    assert batching["max_queue_delay_microseconds"] == 20_000
    assert batching["default_queue_policy"] == {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": 30_000_000,
        "allow_timeout_override": True,
        "max_queue_size": 64,
    }
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert [(w["name"], w["batch_size"]) for w in config["model_warmup"]] == [("batch of 1", 1), ("batch of 4", 4)]


def test_the_backend_has_no_torch(server: Any) -> None:
    (process,) = server.backends()
    assert "torch" not in Path(f"/proc/{process}/maps").read_text()
