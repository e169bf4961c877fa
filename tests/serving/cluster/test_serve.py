"""The application on a real Ray Serve, as the example's configuration file has it."""

import copy
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import render_scene

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

Ask = Callable[..., tuple[int, bytes]]
Form = Callable[..., tuple[bytes, str]]
Load = list[tuple[float, int, bytes]]


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def scene() -> SimpleNamespace:
    shown, asked = render_scene(0, seed=5), render_scene(1, seed=5)
    mask = (shown.labels == shown.target + 1).astype(np.uint8)
    pixels = {"support": shown.image, "mask": mask * 255, "photo": asked.image}
    return SimpleNamespace(shot=(shown.image, mask), image=asked.image, **{k: png(v) for k, v in pixels.items()})


@pytest.fixture(scope="module")
def expected(exported: Path, demo_bundle: Path, scene: SimpleNamespace) -> dict[str, Any]:
    """The label map of each bundle for the request of `shown`."""
    from ntre_deploy.runtime.segmenter import Segmenter

    found = {}
    for name, bundle in (("tiny", exported), ("demo", demo_bundle)):
        segmenter = Segmenter.load(bundle, "onnx-cpu", threads=1)
        found[name] = segmenter.segment(scene.image, segmenter.encode_support([scene.shot], "thing"))
    assert not np.array_equal(found["tiny"], found["demo"])
    return found


@pytest.fixture(scope="module")
def shown(form: Form, scene: SimpleNamespace) -> tuple[bytes, str]:
    """A form with everything that an answer needs."""
    return form(photo=scene.photo, support=scene.support, mask=scene.mask, name="thing")


def labels(body: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(body)))


@contextmanager
def load(ask: Ask, shown: tuple[bytes, str], clients: int) -> Iterator[Load]:
    """Requests without a pause while the block runs: when each was sent, its status and its body."""
    done: Load = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            sent = time.monotonic()
            try:
                done.append((sent, *ask("/segment?format=png", "POST", *shown)))
            except OSError as error:
                done.append((sent, 0, repr(error).encode()))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def processes(ask: Ask) -> set[str]:
    """Those that answer; each asked a few times."""
    answers = [ask("/metrics")[1].decode() for _ in range(12)]
    return {found[1] for text in answers if (found := re.search(r"^process_start_time_seconds (.+)$", text, re.M))}


def test_masks_are_those_of_the_runtime(ask: Ask, shown: tuple[bytes, str], expected: dict[str, Any]) -> None:
    status, body = ask("/segment?format=png", "POST", *shown)
    assert status == 200, body
    assert np.array_equal(labels(body), expected["tiny"])
    assert ask("/readyz") == (200, b"ready\n")
    assert json.loads(ask("/v2")[1])["name"]
    status, body = ask("/segment", "POST", b"no photo", "image/jpeg")
    assert 400 <= status < 500
    assert "\n" not in json.loads(body)["error"]


def test_load_brings_a_second_replica_and_both_know_a_new_memory(
    ask: Ask,
    shown: tuple[bytes, str],
    form: Form,
    scene: SimpleNamespace,
    expected: dict[str, Any],
    wait_for: Callable[[Callable[[], Any]], Any],
) -> None:
    with load(ask, shown, 6) as done:
        both = wait_for(lambda: len(found := processes(ask)) == 2 and found)
    assert {status for _, status, _ in done} == {200}
    status, body = ask("/memories/thing", "PUT", *form(photo=scene.support, mask=scene.mask))
    assert status in (200, 201), body
    asked = form(photo=scene.photo, memory="thing")
    for _ in range(12):
        status, body = ask("/segment?format=png", "POST", *asked)
        assert status == 200, body
        assert np.array_equal(labels(body), expected["tiny"])
    assert processes(ask) == both


@pytest.mark.parametrize("part", ["args", "user_config"])
def test_another_bundle_comes_while_requests_do(
    part: str,
    ray_serve: SimpleNamespace,
    ask: Ask,
    shown: tuple[bytes, str],
    demo_bundle: Path,
    exported: Path,
    expected: dict[str, Any],
    wait_for: Callable[[Callable[[], Any]], Any],
) -> None:
    before, after = ("tiny", "demo") if part == "args" else ("demo", "tiny")
    config = ray_serve.config
    application = config["applications"][0]
    bundle = str(demo_bundle if after == "demo" else exported)
    ray_serve.deployment["user_config"]["bundles"] = {"photos": bundle}
    if part == "args":
        application["args"]["bundle"] = bundle
    was = processes(ask)

    def is_new(entry: tuple[float, int, bytes]) -> bool:
        return entry[1] == 200 and np.array_equal(labels(entry[2]), expected[after])

    with load(ask, shown, 3) as done:
        wait_for(lambda: len(done) >= 6)
        assert not any(map(is_new, done))
        ray_serve.deploy(copy.deepcopy(config))
        wait_for(lambda: len(done) > 20 and all(map(is_new, done[-20:])))
        wait_for(ray_serve.running)
    assert {status for _, status, _ in done} == {200}, {body for _, status, body in done if status != 200}
    news = [is_new(entry) for entry in done]
    olds = [np.array_equal(labels(body), expected[before]) for _, _, body in done]
    # each is wholly of one bundle
    assert all(new != old for new, old in zip(news, olds, strict=True))
    assert any(olds)
    # another configuration goes to the processes that run, another argument to new ones
    assert bool(processes(ask) & was) is (part == "user_config")


def test_requests_wait_for_others_where_batches_are_asked_for(
    ray_serve: SimpleNamespace,
    ask: Ask,
    shown: tuple[bytes, str],
    expected: dict[str, Any],
    wait_for: Callable[[Callable[[], Any]], Any],
) -> None:
    wanted, seconds = ray_serve.deployment["user_config"], 1.0
    wanted |= {"batch": 4, "batch_seconds": seconds, "bundles": {"gathered": next(iter(wanted["bundles"].values()))}}
    ray_serve.deploy(ray_serve.config)
    wait_for(lambda: all(b"gathered" in ask("/bundles")[1] for _ in range(8)))
    sent = time.monotonic()
    status, body = ask("/segment?format=png", "POST", *shown)
    assert (status, time.monotonic() - sent >= seconds) == (200, True)
    assert np.array_equal(labels(body), expected["tiny"])
    with load(ask, shown, 8) as done:
        wait_for(lambda: len(done) >= 24)
    assert {status for _, status, _ in done} == {200}
    # a query of several rounds other than one of one
    assert all((labels(body) != expected["tiny"]).mean() < 0.001 for _, _, body in done)
    wanted |= {"batch": 1, "bundles": {"photos": wanted["bundles"]["gathered"]}}
    ray_serve.deploy(ray_serve.config)
    wait_for(lambda: all(b"photos" in ask("/bundles")[1] for _ in range(8)))


def test_a_bundle_that_is_not_there_replaces_nothing(
    ray_serve: SimpleNamespace,
    ask: Ask,
    shown: tuple[bytes, str],
    tmp_path: Path,
    wait_for: Callable[[Callable[[], Any]], Any],
) -> None:
    config = copy.deepcopy(ray_serve.config)
    deployment = config["applications"][0]["deployments"][0]
    deployment["user_config"]["bundles"] = {"photos": str(tmp_path / "none.ntre")}
    before = ask("/segment?format=png", "POST", *shown)
    was = ray_serve.deployed()
    with load(ask, shown, 1) as done:
        ray_serve.deploy(config)
        wait_for(lambda: ray_serve.deployed() > was and ray_serve.running())
        # as long again as it takes to refuse it
        seen = len(done)
        wait_for(lambda: len(done) > seen + 50)
    assert {(status, body) for _, status, body in done} == {before}
