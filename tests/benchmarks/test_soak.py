"""The soak benchmark: its commands run on a real bundle, a wrong mask is found, and growth is told from warming up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.segmenter import Segmenter

FOLDER = "soak"
SCRIPTS = Path(__file__).parents[2] / "benchmarks" / FOLDER
SMALL = ("--photos", "4", "--sides", "20", "60")
QUERIES = ("--clones", "2", "--memories", "3", "--pairs", "6")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS), *words], capture_output=True, text=True, timeout=600, check=False
    )


class Echo:
    """A segmenter whose mask is the photo's first channel; every `lie`-th answer of a clone is upside down."""

    def __init__(self, lie: int = 0) -> None:
        self.lie, self.asked = lie, 0

    def clone(self) -> "Echo":
        return Echo(self.lie)

    def segment(self, image: NDArray[np.uint8], memory: list[Any]) -> NDArray[np.uint8]:
        self.asked += 1
        labels = image[..., 0]
        return np.flipud(labels) if self.lie and self.asked % self.lie == 0 else labels


def material() -> Any:
    from material import Material, Pair

    from ntre_deploy.runtime.support import SupportMemory

    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (4, 3 + i, 3), dtype=np.uint8) for i in range(3)]
    memories = [SupportMemory("m", np.zeros(2, np.float32), (np.ones((2, n), np.float32),), "x") for n in (1, 9)]
    return Material(photos, memories, [Pair(0, (0,)), Pair(1, (0, 1)), Pair(2, (1,))])


@pytest.fixture(scope="module")
def small_run(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What 40 queries of two clones wrote; whether so short a run has settled is nothing to go by."""
    out = tmp_path_factory.mktemp("soak") / "new" / "queries.json"
    done = command("queries", str(exported), "--count", "40", *QUERIES, *SMALL, "--out", str(out))
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert ("error: " in done.stderr) == bool(found["failed"])
    assert str(out.parent) not in out.read_text()
    return found


def test_queries_of_several_clones_give_the_same_masks(small_run: dict[str, Any]) -> None:
    assert (small_run["kind"], small_run["clones"], small_run["completed"]) == ("queries", 2, 40)
    assert (small_run["wrong_masks"], small_run["wrong_examples"]) == (0, [])
    assert (small_run["photos"], small_run["memories"], small_run["pairs"]) == (4, 3, 6)
    assert (small_run["engine"], small_run["precision"]) == ("onnx-cpu", "fp32")
    assert small_run["command"].startswith("python benchmarks/soak queries tiny.ntre")


def test_the_process_is_looked_at_through_the_run(small_run: dict[str, Any]) -> None:
    usage = small_run["usage"]
    samples = usage["samples"]
    assert [s["done"] for s in samples] == [*range(41), 40]
    assert all(s["resident_bytes"] > 1 << 20 and s["files"] > 2 for s in samples)
    assert usage["resident_bytes_most"] == max(s["resident_bytes"] for s in samples)
    assert usage["files"][0] == usage["files"][1]
    assert usage["threads"][0] == usage["threads"][1] > 2, "the clones' threads count to the end"


def test_reloads_give_the_same_masks(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "reloads.json"
    done = command("reloads", str(exported), "--count", "3", *SMALL, "--out", str(out))
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(out.read_text())
    assert (found["kind"], found["completed"], found["wrong_masks"]) == ("reloads", 3, 0)
    assert found["usage"]["files"][0] == found["usage"]["files"][1]


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    done = command("queries", str(tmp_path), "--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.json").exists()


def test_ctrl_c_writes_what_was_found(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "queries.json"
    words = [sys.executable, str(SCRIPTS), "reloads", str(exported), *SMALL, "--out", str(out)]
    # Python reads this file when it starts; with it the third load, which is the work's second, is told
    (tmp_path / "sitecustomize.py").write_text(
        "from ntre_deploy.runtime.segmenter import Segmenter\n"
        "opened, kept = [], Segmenter.load.__func__\n"
        "def load(cls, *words, **named):\n"
        "    opened.append(1)\n"
        "    if len(opened) == 3:\n"
        "        print('working', flush=True)\n"
        "    return kept(cls, *words, **named)\n"
        "Segmenter.load = classmethod(load)\n"
    )
    env = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors == "interrupted\n"
    found = json.loads(out.read_text())
    assert 1 <= found["completed"] < found["count"]
    assert not found["passed"]
    assert [p.name for p in tmp_path.glob(".*partial*")] == []


def test_every_wrong_mask_is_counted() -> None:
    from queries import ask, first_masks

    given = material()
    expected = first_masks(Echo(), given)
    assert ask(Echo(), given, expected, 60, 2, 0).wrong == 0
    # each clone lies every tenth time, and how many queries each gets is up to the threads
    found = ask(Echo(lie=10), given, expected, 60, 1, 0)
    assert (found.completed, found.wrong) == (60, 6)
    assert [e["query"] for e in found.examples] == [9, 19, 29, 39, 49, 59]
    assert all(0 < e["differing_pixels"] <= 1 for e in found.examples)
    assert ask(Echo(lie=1), given, expected, 60, 2, 0).wrong == 60


def test_a_mask_of_another_size_is_wrong() -> None:
    from material import digest

    labels = np.zeros((2, 6), np.uint8)
    assert len({digest(labels), digest(labels.T), digest(labels.astype(bool))}) == 3


def test_a_reload_that_lies_is_found() -> None:
    from queries import first_masks
    from reloads import reload

    given = material()
    expected = first_masks(Echo(), given)
    lying = iter([0, 0, 1, 0])
    found = reload(lambda: Echo(next(lying)), given, expected, 4)
    assert (found.completed, found.wrong) == (4, 1)
    assert found.examples == [{"reload": 2, "pair": 2}]


def test_an_error_of_a_query_ends_the_run() -> None:
    from queries import ask, first_masks

    class Broken(Echo):
        def clone(self) -> "Broken":
            return Broken()

        def segment(self, image: NDArray[np.uint8], memory: list[Any]) -> NDArray[np.uint8]:
            raise EngineError("no memory")

    given = material()
    with pytest.raises(EngineError, match="no memory"):
        ask(Broken(), given, first_masks(Echo(), given), 10, 2, 0)


def test_a_run_can_be_interrupted() -> None:
    from queries import ask, first_masks

    given, told = material(), []

    def interrupted() -> bool:
        told.append(1)
        return len(told) > 5

    found = ask(Echo(), given, first_masks(Echo(), given), 10_000, 2, 0, interrupted=interrupted)
    assert 0 < found.completed <= 5
    assert found.samples[-1].done == found.completed


def test_the_heaviest_pairs_come_first_on_all_clones() -> None:
    from queries import _order

    given = material()
    # by keys: 10, 9, 1; by pixels: two classes, then the widest photo
    assert given.heaviest(6) == [1, 1, 2, 2, 0, 0]
    order = _order(given, 200, 2, 0)
    assert order[:10].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert len(order) == 200
    assert set(order.tolist()) == {0, 1, 2}


def test_pairs_are_different_and_of_one_to_four_classes() -> None:
    from material import draw_pairs

    pairs = draw_pairs(8, 6, 50, 0)
    assert len(set(pairs)) == len(pairs) == 50
    assert {len(p.memories) for p in pairs} == {1, 2, 3, 4}
    assert all(len(set(p.memories)) == len(p.memories) for p in pairs)
    assert {p.photo for p in pairs} == set(range(8))
    assert draw_pairs(8, 6, 50, 0) == pairs
    assert len(draw_pairs(1, 1, 50, 0)) == 1


def test_photos_and_memories_follow_the_seed(exported: Path) -> None:
    from material import SHOTS, draw_photos, encode_memories

    from ntre_deploy.data.registry import open_dataset

    scenes = open_dataset("procedural")
    photos, again, other = (draw_photos(scenes, 5, (20, 40), seed) for seed in (1, 1, 2))
    assert all(20 <= side <= 40 for p in photos for side in p.shape[:2])
    assert len({p.shape for p in photos}) > 1
    assert all(np.array_equal(a, b) for a, b in zip(photos, again, strict=True))
    assert [p.shape for p in photos] != [p.shape for p in other]
    segmenter = Segmenter.load(exported, "onnx-cpu", precision="fp32", threads=1)
    assert [m.shots for m in encode_memories(segmenter, scenes, 4, 1)] == [*SHOTS, SHOTS[0]]


def samples(resident: list[int], files: int = 7, threads: int = 4) -> list[Any]:
    from usage import Sample

    return [Sample(i, float(i), r << 20, files, threads) for i, r in enumerate(resident)]


def test_growth_in_the_warm_up_is_none() -> None:
    from usage import judge

    verdict = judge(samples([50] * 5 + [100] * 96), 100)
    assert verdict.failed == ()
    assert verdict.figures["resident_bytes_at_start"] == 50 << 20
    assert verdict.figures["resident_bytes_after_warm_up"] == 100 << 20
    assert verdict.figures["growth"] == 0


def test_growth_behind_it_is_told() -> None:
    from usage import judge

    verdict = judge(samples([100] * 50 + [105 + i for i in range(51)]), 100)
    (line,) = verdict.failed
    assert line == "Resident memory grew by 53.0% from 100.0 MiB to 153.0 MiB (5% is allowed)."
    # 95 pieces of work lie between the first settled sample and the last
    assert verdict.figures["bytes_each"] == (53 << 20) / 95


def test_a_moment_of_much_memory_is_no_growth() -> None:
    from usage import judge

    verdict = judge(samples([100] * 50 + [300] + [100] * 49 + [200]), 100)
    assert verdict.failed == ()
    assert verdict.figures["resident_bytes_most"] == 300 << 20


@pytest.mark.parametrize(("name", "what"), [("files", "Open files"), ("threads", "Threads")])
def test_files_and_threads_must_stay(name: str, what: str) -> None:
    from usage import judge

    given = samples([100] * 90) + samples([100] * 101, **{name: 9})[90:]
    (line,) = judge(given, 100).failed
    assert line.startswith(f"{what} did not stay constant: ")


def test_a_run_of_nothing_is_not_judged() -> None:
    from usage import judge

    assert judge(samples([100] * 4), 100).failed == ("The run was too short to be judged.",)
