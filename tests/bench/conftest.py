"""Fixtures of the bench tests: photos in memory, systems whose answers are known, and a bundle's manifest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy.bench.report import Run, build_report
from ntre_deploy.bench.runner import Result, environment
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.manifest import FileEntry, Manifest, ModelEntry

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SIZE = 33


class Photos:
    """Images of 33 x 33 pixels, each of one value; the truth of class c covers the top rows, 255 the last columns."""

    name = "photos"
    class_names: Mapping[int, str] = {0: "fork", 5: "table knife"}
    # image -> rows of target, columns that are ignored
    truth: Mapping[str, tuple[int, int]] = {"a": (11, 0), "b": (33, 11), "s": (20, 0), "t": (5, 0)}

    def images(self, class_id: int) -> Sequence[str]:
        return sorted(self.truth)

    def image(self, image_id: str) -> Pixels:
        return np.full((SIZE, SIZE, 3), ord(image_id), np.uint8)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        rows, ignored = self.truth[image_id]
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[:rows] = 1
        mask[:, SIZE - ignored :] = 255
        return mask


class Constant:
    """A system that answers each query with one pair of logits everywhere; it notes every call in `log`."""

    def __init__(
        self, name: str, answers: Mapping[str, tuple[float, float]], log: list[tuple[str, str]], precision: str = "fp32"
    ) -> None:
        self.name = name
        self.precision = precision
        self.device = "cpu"
        self.answers = answers
        self.log = log

    def prepare(self, shots: Sequence[tuple[Pixels, Pixels]]) -> tuple[str, list[str]]:
        self.log.append((self.name, "prepare"))
        return self.name, [chr(image[0, 0, 0]) for image, _ in shots]

    def compute(self, pixels: Float, state: Any) -> Float:
        assert state[0] == self.name, "the state of another system"
        # the images are grey, so that the normalised red channel tells which one this is
        mean, std = InputSpec(SIZE).mean[0], InputSpec(SIZE).std[0]
        image = chr(round(float(pixels[0, 0, 0]) * std + mean))
        self.log.append((self.name, image))
        logits = np.empty((1, 2, 5, 5), np.float32)
        logits[0, 0], logits[0, 1] = self.answers[image]
        return logits


@pytest.fixture
def log() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def constant(log: list[tuple[str, str]]) -> Callable[..., Constant]:
    """Make a `Constant` that notes its calls in `log`."""

    def make(name: str, answers: Mapping[str, tuple[float, float]], precision: str = "fp32") -> Constant:
        return Constant(name, answers, log, precision)

    return make


@pytest.fixture
def photos() -> Photos:
    return Photos()


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(SIZE)


@pytest.fixture
def two_episodes() -> EpisodeSet:
    """Class 0 on photo a with support s, class 5 on photo b with support t."""
    episodes = (Episode(0, "fork", "a", ("s",)), Episode(5, "table knife", "b", ("t",)))
    return EpisodeSet("photos", "interleaved", 0, 1, 3, episodes)


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle whose manifest names a checkpoint by its SHA-256; it holds no graphs, which nothing here runs."""

    def make(checkpoint_sha256: str = "0" * 64, head: str = "trained") -> Bundle:
        folder = tmp_path / "beside" / "tiny.ntre"
        folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(
            name="tiny",
            model=ModelEntry(
                id="0" * 16,
                config={"backbone": "squeezenet1_1"},
                checkpoint_sha256=checkpoint_sha256,
                origin={"head": head},
                prototype_channels=16,
                key_channels=512,
                feature_size=(5, 5),
            ),
            input=InputSpec(SIZE),
            files=(FileEntry("query.onnx", "query", "onnx", "fp32", "fp32", 1234, "0" * 64),),
            verification=[],
            versions={},
        )
        return Bundle(folder, manifest)

    return make


@pytest.fixture
def result() -> Callable[..., Result]:
    """A system with these times (pre 1 ms, post 2 ms) and a perfect score on two pixels of each of `episodes`."""

    def make(name: str, milliseconds: Sequence[float], precision: str = "fp32", episodes: int = 1) -> Result:
        made = Result(name, precision, baseline=0)
        for value in milliseconds:
            made.queries.add(1.0, value - 3.0, 2.0)
        made.supports += [30.0, 50.0]
        for _ in range(episodes):
            made.score.add(0, np.ones((1, 2), np.uint8), np.ones((1, 2), np.uint8))
            made.counts.append((0, 2, 0, 0, 0))
            made.differing.append(0.0)
            made.mask_ious.append(1.0)
            made.logits_errors.append(1.5e-6)
            made.pixels.append(2)
        return made

    return make


@pytest.fixture
def build(bundle_of: Callable[..., Any], two_episodes: EpisodeSet) -> Callable[..., dict[str, Any]]:
    """A report of results."""

    def make(*results: Result, run: Run | None = None, head: str = "trained") -> dict[str, Any]:
        bundles = {"tiny": bundle_of(head=head)}
        return build_report(bundles, two_episodes, results, environment(2), "ntre bench tiny.ntre", run)

    return make


@pytest.fixture
def report(build: Callable[..., dict[str, Any]], result: Callable[..., Result]) -> dict[str, Any]:
    """The reference, an engine twice as fast, and one that could not run."""
    return build(
        result("pytorch full", [40.0, 40.4, 39.6]),
        result("onnx-cpu", [20.0, 19.0, 30.0], "fp16"),
        run=Run(skipped={"onnx-cuda": "no CUDA"}),
    )
