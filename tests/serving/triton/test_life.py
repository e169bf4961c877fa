"""While requests run, a process of the backend is killed, a bundle is replaced, a model cannot be loaded."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter

InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

Strings = Callable[..., np.ndarray]
CLIENTS = 6


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any], write: Callable[..., Path], ports: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    folder, own = tmp_path_factory.mktemp("repository"), ports()
    limits = {"resources": (("slot", 2),), "priority": 1}
    write(folder, instances=2, server=f"http://127.0.0.1:{own[0]}", **limits)
    modes = ("--model-control-mode=explicit", "--load-model=tiny", "--rate-limit=execution_count")
    return start(folder, *modes, "--rate-limit-resource=slot:4", ports=own)


@pytest.fixture(scope="module")
def polling(start: Callable[..., Any], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("polled")
    write(folder, instances=1, server="", warmup=False)
    return start(folder, "--model-control-mode=poll", "--repository-poll-secs=1")


@pytest.fixture(scope="module")
def asked(strings: Strings, shots: Any, files: list[SimpleNamespace]) -> dict[str, np.ndarray]:
    """A request that any bundle can answer."""
    shown = {"support_images": strings(files[0].photo), "support_masks": strings(files[0].mask)}
    return {"image": shots[1][0][None]} | shown


@pytest.fixture(scope="module")
def old(segmenter: Segmenter, shots: Any) -> np.ndarray:
    return segmenter.segment(shots[1][0], segmenter.encode_support(shots[:1]))


@pytest.fixture(scope="module")
def new(demo_bundle: Path, shots: Any) -> np.ndarray:
    segmenter = Segmenter.load(demo_bundle, "onnx-cpu", precision="fp32", threads=1)
    return segmenter.segment(shots[1][0], segmenter.encode_support(shots[:1]))


class Load:
    """Clients that ask on and on, and what they got."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, np.ndarray]] = []
        self.errors: list[str] = []
        self.longest = 0.0

    def count(self, since: float) -> int:
        return sum(time_ >= since for time_, _ in self.answers)


@contextmanager
def load(make: Callable[[], Any], asked: dict[str, np.ndarray]) -> Iterator[Load]:
    """Requests by several clients while the block runs; that all of them have ended afterwards is checked."""
    done, seen = threading.Event(), Load()

    def ask() -> None:
        triton = make()
        while not done.is_set():
            begun = time.monotonic()
            try:
                answer = triton.infer(**asked)
                seen.answers.append((begun, answer["labels"][0]))
            except InferenceServerException as error:
                seen.errors.append(str(error))
                time.sleep(0.02)
            seen.longest = max(seen.longest, time.monotonic() - begun)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(180)
    assert not any(thread.is_alive() for thread in threads), "a request hangs"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_killed_process_comes_back_under_load(
    protocol: str, server: Any, client: Callable[..., Any], waiting: Any, asked: Any, old: np.ndarray
) -> None:
    before = server.backends()
    assert len(before) == 2
    told = server.said().count("was killed, and the model was loaded anew")
    with load(lambda: client(protocol, server), asked) as seen:
        waiting(lambda: len(seen.answers) > 20, "the load")
        os.kill(before[0], signal.SIGKILL)
        waiting(lambda: len(set(server.backends()) - set(before)) == 2, "the new processes")
        waiting(lambda: set(server.backends()).isdisjoint(before), "the end of the old ones")
        back = time.monotonic()
        errors = len(seen.errors)
        waiting(lambda: seen.count(back) > 20, "answers of the new ones")
        assert seen.errors[errors + CLIENTS :] == []
    assert all("is not healthy" in error for error in seen.errors), set(seen.errors)
    for _, labels in seen.answers:
        np.testing.assert_array_equal(labels, old)
    waiting(lambda: server.said().count("was killed, and the model was loaded anew") > told, "the guard's line")


def test_a_killed_process_comes_back_where_the_server_polls(
    polling: Any, client: Callable[..., Any], waiting: Any, asked: Any, old: np.ndarray
) -> None:
    # the compiled model.py is a change of the folder too, for which the model is loaded once more
    (before,) = waiting(lambda: (found := polling.backends()) and len(found) == 1 and found, "one process")
    os.kill(before, signal.SIGKILL)

    def answers() -> Any:
        try:
            return client("http", polling).infer(**asked)["labels"]
        except InferenceServerException:
            return None

    found = waiting(lambda: None if (labels := answers()) is None else [labels], "an answer of a new process")
    np.testing.assert_array_equal(found[0][0], old)
    assert before not in polling.backends()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_bundle_is_replaced_while_requests_run(
    protocol: str,
    server: Any,
    client: Callable[..., Any],
    write: Callable[..., Path],
    waiting: Any,
    asked: Any,
    old: np.ndarray,
    new: np.ndarray,
    demo_bundle: Path,
) -> None:
    assert (old != new).any()
    own = {"instances": 2, "server": server.url, "force": True}
    with load(lambda: client(protocol, server), asked) as seen:
        for bundle in ({"bundle": demo_bundle}, {}):
            waiting(lambda: len(seen.answers) > 20, "the load")
            with pytest.warns() if bundle else _nothing():
                write(server.repository, **own, **bundle)
            client(protocol, server).raw.load_model("tiny")
            swapped = time.monotonic()
            waiting(lambda: seen.count(swapped) > 20, "answers after the change")  # noqa: B023
    assert seen.errors == []
    kinds = [bool((labels == new).all()) for _, labels in seen.answers]
    for (_, labels), is_new in zip(seen.answers, kinds, strict=True):
        np.testing.assert_array_equal(labels, new if is_new else old)
    assert any(kinds)
    assert not all(kinds)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_a_server_that_polls_takes_the_new_bundle_by_itself(
    polling: Any,
    client: Callable[..., Any],
    write: Callable[..., Path],
    waiting: Any,
    asked: Any,
    new: Any,
    demo_bundle: Path,
) -> None:
    with load(lambda: client("grpc", polling), asked) as seen:
        waiting(lambda: len(seen.answers) > 5, "the load")
        with pytest.warns():
            write(polling.repository, bundle=demo_bundle, server="", warmup=False, force=True)
        waiting(lambda: (seen.answers[-1][1] == new).all(), "an answer of the new bundle")
    assert seen.errors == []


@pytest.fixture
def refused(server: Any, client: Callable[..., Any]) -> Callable[[str], str]:
    """What the server says of a model that it cannot load, and that it serves the other one still."""

    def message(name: str) -> str:
        triton = client("grpc", server)
        with pytest.raises(InferenceServerException) as caught:
            triton.raw.load_model(name)
        assert triton.raw.is_model_ready("tiny")
        shutil.rmtree(server.repository / name)
        return str(caught.value.message())

    return message


def test_a_bundle_that_was_changed_is_not_loaded(
    server: Any, write: Callable[..., Path], refused: Callable[[str], str]
) -> None:
    write(server.repository, name="changed", server="")
    with (server.repository / "changed" / "1" / "bundle.ntre" / "query.onnx").open("r+b") as file:
        file.write(b"\x00\x00")
    assert "query.onnx has been changed: its SHA-256 is not the manifest's" in refused("changed")


def test_a_signature_is_demanded_whenever_the_model_is_loaded(
    server: Any, write: Callable[..., Path], refused: Callable[[str], str], bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="signatures need it (extra [sign])")
    from ntre_deploy.signing import make_key, read_private_key, sign_bundle

    key = make_key(tmp_path / "release.pem")
    sign_bundle(bundle, read_private_key(key.private, None))
    write(server.repository, bundle=bundle, name="signed", trusted=(key.public,), server="")
    version = server.repository / "signed" / "1"
    assert [path.name for path in (version / "trusted").iterdir()] == ["1.pem"]
    (version / "bundle.ntre" / "manifest.sig").unlink()
    assert "is not signed, and a signature is demanded" in refused("signed")


def test_an_engine_for_a_gpu_is_not_loaded_without_one(
    server: Any, write: Callable[..., Path], refused: Callable[[str], str]
) -> None:
    write(server.repository, name="cuda", engine="onnx-cuda", server="")
    assert "GPU" in refused("cuda")
