"""More requests than a queue holds, and instances that would need more than the server has."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter

InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

CLIENTS, ROUNDS = 8, 50


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("repository")
    write(folder, instances=1, queue=1, server="", warmup=False)
    write(folder, name="greedy", server="", warmup=False, resources=(("slot", 3),))
    modes = ("--model-control-mode=explicit", "--load-model=tiny", "--rate-limit=execution_count")
    return start(folder, *modes, "--rate-limit-resource=slot:2")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_a_full_queue_does_not_take_is_refused_at_once(
    protocol: str,
    server: Any,
    client: Callable[..., Any],
    segmenter: Segmenter,
    shots: Any,
    strings: Any,
    files: list[SimpleNamespace],
) -> None:
    wanted = segmenter.segment(shots[1][0], segmenter.encode_support(shots[:1]))
    shown = {"support_images": strings(files[0].photo), "support_masks": strings(files[0].mask)}
    asked = {"image": shots[1][0][None]} | shown
    answers: list[np.ndarray] = []
    refusals: list[str] = []
    over, rounds = threading.Event(), iter(range(ROUNDS))

    def begin() -> None:
        # on a busy machine eight at once may come one after the other; one refusal is enough
        if next(rounds, None) is None or len(refusals) > 0:
            over.set()

    together = threading.Barrier(CLIENTS, begin)

    def ask() -> None:
        triton = client(protocol, server)
        while together.wait(180) >= 0 and not over.is_set():
            try:
                answers.append(triton.infer(**asked)["labels"][0])
            except InferenceServerException as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert not any(thread.is_alive() for thread in threads), "a request hangs"
    assert refusals, "one runs and one waits, and nobody of eight at once was refused"
    assert all("maximum queue size" in refusal for refusal in refusals), refusals
    assert answers
    assert all(np.array_equal(answer, wanted) for answer in answers)
    assert np.array_equal(client(protocol, server).infer(**asked)["labels"][0], wanted)


def test_an_instance_that_needs_more_than_there_is_is_not_loaded(server: Any, client: Callable[..., Any]) -> None:
    raw = client("http", server).raw
    with pytest.raises(InferenceServerException, match="slot"):
        raw.load_model("greedy")
    assert not raw.is_model_ready("greedy")
    assert raw.is_model_ready("tiny")
