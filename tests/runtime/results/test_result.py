"""`Result`: what it says agrees with the label map and the logits, and is made only when it is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.overlay import palette
from ntre_deploy.runtime.results import result as module
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.runtime.videowriter import write_video

SIZES = [(90, 120), (1, 1), (200, 3), (137, 211)]


def picture(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Soft blobs of colours."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def segmenter(exported: Path) -> Segmenter:
    return Segmenter.load(exported, "onnx-cpu")


@pytest.fixture(scope="module")
def memories(segmenter: Segmenter) -> list[SupportMemory]:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 30:80] = 1
    return segmenter.encode_supports({n: [(picture(k), mask)] for k, n in enumerate(("fork", "spoon", "cup"))})


@pytest.fixture(scope="module")
def found(segmenter: Segmenter, memories: list[SupportMemory]) -> Result:
    result = segmenter(picture(9), memories)
    assert len(np.unique(result.labels)) > 2
    return result


# --- what it says


@pytest.mark.parametrize("size", SIZES)
def test_it_says_what_segment_and_segment_scored_say(
    segmenter: Segmenter, memories: list[SupportMemory], size: tuple[int, int]
) -> None:
    image = picture(9, *size)
    for given in (memories, memories[1], tuple(memories[:2]), iter(memories)):
        result = segmenter.segment_result(image, given)  # type: ignore[arg-type]
        again = memories if not isinstance(given, SupportMemory | tuple) else given
        labels, scores = segmenter.segment_scored(image, again)
        np.testing.assert_array_equal(result.labels, segmenter.segment(image, again))
        np.testing.assert_array_equal(result.labels, labels)
        assert result.labels.dtype == np.uint8
        assert result.scores == scores
        assert result.size == size
        assert result.image is image
        assert result.path is None


def test_margins_have_the_image_s_size_and_decide_the_labels(found: Result) -> None:
    margins = np.stack([found.margin(name) for name in found.names])
    assert margins.shape == (3, 90, 120)
    assert margins.dtype == np.float32
    full = np.concatenate([np.zeros((1, 90, 120), np.float32), margins])
    top = np.sort(full, axis=0)
    decided = top[-1] - top[-2] > 1e-4
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(full.argmax(axis=0)[decided], found.labels[decided])
    np.testing.assert_array_equal(found.margin(2), found.margin("spoon"))


def test_probabilities_are_the_softmax_of_margins_and_of_nothing(found: Result) -> None:
    full = np.stack([np.zeros(found.size, np.float64), *(found.margin(n).astype(np.float64) for n in (1, 2, 3))])
    share = np.exp(full - full.max(axis=0)) / np.exp(full - full.max(axis=0)).sum(axis=0)
    np.testing.assert_allclose(found.probabilities, share.max(axis=0), atol=1e-5)
    for number, score in enumerate(found.scores, 1):
        own = found.labels == number
        assert score == pytest.approx(found.probabilities[own].mean() if own.any() else 0, abs=1e-5)


def test_areas_boxes_masks_and_codes_are_those_of_the_labels(found: Result) -> None:
    tools = pytest.importorskip("pycocotools.mask")
    for number, name in enumerate(found.names, 1):
        mask = found.labels == number
        np.testing.assert_array_equal(found.mask(name), mask)
        assert found.areas[number - 1] == mask.sum()
        assert found.boxes[number - 1] == cv2.boundingRect(mask.view(np.uint8))
        np.testing.assert_array_equal(tools.decode(found.rle(name)), mask)
    assert type(found.areas[0]) is int
    assert type(found.boxes[0][0]) is int


def test_instances_are_the_connected_regions_of_each_class() -> None:
    labels = np.zeros((8, 10), np.uint8)
    labels[1:3, 1:4] = 2
    labels[3, 4] = 2  # touches by a corner alone
    labels[1:7, 6:9] = 1
    labels[3:5, 7] = 3
    result = Result(labels, ["a", "b", "c"])
    told = [(one.name, one.box, one.area, one.score) for one in result.instances()]
    assert told == [
        ("a", (6, 1, 3, 6), 16, None),
        ("b", (1, 1, 3, 2), 6, None),
        ("b", (4, 3, 1, 1), 1, None),
        ("c", (7, 3, 1, 2), 2, None),
    ]
    assert [one.area for one in result.instances(min_area=6)] == [16, 6]
    back = sum(one.label * one.full_mask(8, 10).astype(int) for one in result.instances())
    np.testing.assert_array_equal(back, labels)
    assert [len(one.polygon.holes) for one in result.instances()] == [1, 0, 0, 0]


def test_what_is_not_there_is_refused_in_one_line(found: Result) -> None:
    for wrong in ("frok", 0, 4):
        for ask in (found.mask, found.margin, found.rle):
            with pytest.raises(InputError, match="There is no class"):
                ask(wrong)
    with pytest.raises(InputError, match="Did you mean 'fork'"):
        found.mask("frok")
    bare = Result(found.labels, found.names)
    for ask in (lambda: bare.scores, lambda: bare.margin(1), lambda: bare.probabilities, lambda: bare.pixels):
        with pytest.raises(InputError, match="came without"):
            ask()


def test_nothing_is_computed_before_it_is_asked_for(
    segmenter: Segmenter, memories: list[SupportMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            asked.append(name)
            return real(*given)

        return call

    for name in ("class_scores", "margin_map", "probability_map", "find_instances", "outline_boxes"):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    result = segmenter(picture(9), memories)
    assert asked == []
    assert result.logits is not None
    assert result.logits.shape[:2] == (3, 2)
    assert max(result.logits.shape[2:]) < 20, "at feature resolution"
    _ = result.scores, result.scores
    assert asked == ["class_scores"]
    _ = result.instances(), result.instances(5)
    assert asked == ["class_scores", "outline_boxes", "find_instances"]
    assert isinstance(result.instances()[0].score, float)
    assert asked[3:] == ["probability_map"]


# --- for people


def test_repr_is_one_short_line(found: Result, segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    shown = repr(found)
    assert shown.startswith("Result(90 x 120 pixels: fork ")
    many = repr(Result(found.labels, [f"class {n}" for n in range(255)]))
    memory = repr(memories[0])
    assert memory.startswith(f"SupportMemory('fork', 1 shot, model {memories[0].model[:12]}")
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 30:80] = 1
    two = repr(segmenter.encode_support([(picture(1), mask), (picture(2), mask)], "cup"))
    assert ", 2 shots, " in two
    assert "shot scores " in two
    for line in (shown, many, memory, two):
        assert "\n" not in line
        assert len(line) < 160


def test_plot_is_the_image_with_the_classes_drawn_in(found: Result) -> None:
    drawn = found.plot(names=False)
    assert drawn.shape == (90, 120, 3)
    assert drawn.dtype == np.uint8
    far = cv2.dilate((found.labels > 0).astype(np.uint8), np.ones((7, 7))) == 0
    np.testing.assert_array_equal(drawn[far], found.pixels[far])
    assert (drawn != found.pixels).any()
    bare = Result(found.labels, found.names).plot(opacity=1.0, names=False)
    inside = cv2.erode((found.labels == 2).astype(np.uint8), np.ones((9, 9)), borderValue=(0,)) == 1
    assert inside.any()
    assert (bare[inside] == palette(3)[2]).all()


@pytest.mark.parametrize("size", [(90, 120), (1, 1), (3000, 1500)])
def test_a_notebook_gets_a_png_no_larger_than_a_screen(size: tuple[int, int]) -> None:
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 2 + 1] = 1
    for image in (None, np.zeros((*size, 3), np.uint8)):
        data = Result(labels, ["a"], image)._repr_png_()
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[:2] == (size if max(size) <= 1024 else (1024, 512))
        assert picture[0, 0].any()


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "a.overlay.png", "a.jpg", "A.JPEG", "a.json", "a.coco.json", "a.labelme.json"),
        *("a.label-studio.json", "a.geojson", "a.txt"),
    ],
)
def test_the_ending_says_what_is_saved(found: Result, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    found.save(path)
    assert list(tmp_path.iterdir()) == [path]
    wanted = {
        "a.json": found.to_polygons,
        "a.coco.json": found.to_coco,
        "a.labelme.json": found.to_labelme,
        "a.geojson": found.to_geojson,
        "a.label-studio.json": lambda: [found.to_label_studio()],
    }
    if name in wanted:
        assert json.loads(path.read_text()) == wanted[name]()
    elif name == "a.txt":
        assert path.read_text() == found.to_yolo()
    elif name == "a.png":
        np.testing.assert_array_equal(np.asarray(Image.open(path)), found.labels)
    else:
        near = np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - found.plot())
        assert near.mean() <= (0 if name.endswith("png") else 6)


def test_another_ending_is_refused_and_a_failed_save_leaves_nothing(found: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.gif has an ending that no result is written with; take \.overlay"):
        found.save(tmp_path / "a.gif")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match="no plain file"):
        found.save(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# --- one image after the other


def test_a_stream_gives_frames_with_their_results(
    segmenter: Segmenter, memories: list[SupportMemory], tmp_path: Path
) -> None:
    images = [picture(seed) for seed in range(3)]
    wanted = [segmenter.segment(image, memories) for image in images]
    for number, (frame, result) in enumerate(segmenter.stream(iter(images), memories)):
        assert (frame.pixels is images[number], frame.index) == (True, number)
        np.testing.assert_array_equal(result.labels, wanted[number])
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.warns(NtreWarning, match="skipped"):
        listed = list(segmenter.stream(tmp_path, memories))
    assert [result.path.name for _, result in listed if result.path] == ["0.png", "1.png", "2.png"]
    for (frame, result), image, labels in zip(listed, images, wanted, strict=True):
        np.testing.assert_array_equal(frame.pixels, image)
        np.testing.assert_array_equal(result.labels, labels)
    ((frame, _),) = segmenter.stream(str(tmp_path / "1.png"), memories)
    np.testing.assert_array_equal(frame.pixels, images[1])
    for one in (images[2], Image.fromarray(images[2])):
        ((frame, result),) = segmenter.stream(one, memories)
        np.testing.assert_array_equal(result.labels, wanted[2])
    assert len(list(segmenter.stream(np.stack(images), memories))) == 3


def test_a_stream_of_a_video_is_read_as_it_is_asked_for(
    segmenter: Segmenter, memories: list[SupportMemory], tmp_path: Path
) -> None:
    with write_video(tmp_path / "clip.mp4", (90, 120), 10) as write:
        for seed in range(4):
            write(picture(seed), seed / 10)
    stream = segmenter.stream(tmp_path / "clip.mp4", memories[0])
    frame, result = next(stream)
    assert frame.pixels.shape == (90, 120, 3)
    assert result.path is None
    assert result.names == ("fork",)
    assert len(list(stream)) == 3

    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield picture(5)

    stream = segmenter.stream(endless(), memories)
    assert next(stream)[1].size == (90, 120)


@pytest.mark.parametrize("source", ["no/such/thing", 3.5, True, None])
def test_what_gives_no_images_is_refused(
    segmenter: Segmenter, memories: list[SupportMemory], source: object, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected|does not exist"):
        next(segmenter.stream(source, memories))
    with pytest.raises(InputError, match="holds no photos"):
        next(segmenter.stream(tmp_path, memories))


def test_labels_of_the_device_make_a_result_too(found: Result) -> None:
    # an engine that labels on its device gives the labels, and the logits that everything else is made of
    assert found.logits is not None
    np.testing.assert_array_equal(label_map(found.logits, found._box), found.labels)  # type: ignore[arg-type]
