"""What is written for other tools is read back, by them where they are installed, as the same label map."""

import io
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ntre_deploy.data.labelme import labelme_annotations
from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.labels import label_scores
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.results.formats import labelling_config, yolo_names
from ntre_deploy.runtime.results.formats.label_studio import brush_rle
from ntre_deploy.runtime.results.result import Result

NAMES = [f"class {n}" for n in range(1, 256)]

label_maps = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda s: arrays(np.uint8, s, elements=st.sampled_from([0, 1, 2, 3, 255]))
)
EVERY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def labelme_mask(content: dict[str, Any], name: str) -> Any:
    """uint8 [H, W]: what LabelMe's reader of this project makes of a file's shapes of one class."""
    file = Path("a.json")
    read = labelme_annotations(file, {file: content}, single=True)
    ((image_id, entry),) = read.entries.items()
    return read.mask(image_id, read.classes_in(image_id)[name], entry.size or (0, 0))


def scored(seed: int = 0, classes: int = 3, height: int = 90, width: int = 120) -> Result:
    """A result with logits, whose regions have holes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (classes, 2, 12, 12)).astype(np.float32)
    box = Letterbox.fit(height, width, 65)
    labels, _ = label_scores(logits, box)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Result(labels, NAMES[:classes], image, logits, box, Path("photos/street 1.jpg"))


def joined(masks: list[tuple[int, np.ndarray]], like: np.ndarray) -> np.ndarray:
    """Masks as a label map; they must not lie over each other."""
    back = np.zeros(like.shape, np.int64)
    for label, mask in masks:
        assert not (back[mask > 0] > 0).any()
        back[mask > 0] = label
    return back


@pytest.mark.parametrize("instances", [False, True])
@given(labels=label_maps)
@example(labels=EVERY)
def test_coco_is_read_back_by_pycocotools(labels: np.ndarray, instances: bool) -> None:
    tools = pytest.importorskip("pycocotools.mask")
    content = json.loads(json.dumps(Result(labels, NAMES).to_coco("a.png", instances=instances)))
    masks = [(a["category_id"], tools.decode(a["segmentation"])) for a in content["annotations"]]
    np.testing.assert_array_equal(joined(masks, labels), labels)
    for (_, mask), annotation in zip(masks, content["annotations"], strict=True):
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == list(cv2.boundingRect(mask))
        assert not instances or cv2.connectedComponents(mask, connectivity=4)[0] == 2
    assert [c["id"] for c in content["categories"]] == list(range(1, 256))
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(masks) + 1))


def test_coco_has_scores_where_there_are_logits() -> None:
    result = scored()
    whole = result.to_coco(instances=False)
    assert [a["score"] for a in whole["annotations"]] == [round(score, 6) for score in result.scores]
    assert whole["images"] == [{"id": 1, "file_name": "street 1.jpg", "width": 120, "height": 90}]
    parts = result.to_coco()["annotations"]
    assert len(parts) > 3
    for label, score in enumerate(result.scores, 1):
        own = [a for a in parts if a["category_id"] == label]
        mean = sum(a["score"] * a["area"] for a in own) / sum(a["area"] for a in own)
        assert mean == pytest.approx(score, abs=1e-5)
    large = result.to_coco(min_area=200)["annotations"]
    assert [a["area"] for a in large] == [a["area"] for a in parts if a["area"] >= 200]
    assert "score" not in Result(result.labels, result.names).to_coco()["annotations"][0]


@given(label_maps)
@example(EVERY)
def test_labelme_is_read_back(labels: np.ndarray) -> None:
    content = json.loads(json.dumps(Result(labels, NAMES).to_labelme("a.png")))
    there = [label for label in range(1, 256) if (labels == label).any()]
    masks = [(label, labelme_mask(content, NAMES[label - 1])) for label in there]
    np.testing.assert_array_equal(joined(masks, labels), labels)
    assert {shape["label"] for shape in content["shapes"]} == {NAMES[label - 1] for label in there}


def test_labelme_has_what_its_reader_asks_for() -> None:
    content = scored().to_labelme()
    assert content["imagePath"] == "street 1.jpg"
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (90, 120, None)
    for shape in content["shapes"]:
        assert set(shape) == {"label", "points", "group_id", "shape_type", "flags"}
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) >= 4
        assert all(0 < x < 120 and 0 < y < 90 for x, y in shape["points"])


def yolo_mask(line: str, height: int, width: int) -> tuple[int, np.ndarray]:
    """One line as trainers draw it: shares of the image in float32, fractions of pixels cut off."""
    index, *shares = line.split()
    points = np.array(shares, np.float32).reshape(-1, 2) * np.array([width, height], np.float32)
    drawn = np.zeros((height, width), np.uint8)
    cv2.fillPoly(drawn, [points.astype(np.int32)], (1,))
    return int(index) + 1, drawn


@given(label_maps)
@example(EVERY)
def test_yolo_is_read_back(labels: np.ndarray) -> None:
    lines = Result(labels, NAMES).to_yolo().splitlines()
    np.testing.assert_array_equal(joined([yolo_mask(line, *labels.shape) for line in lines], labels), labels)
    for line in lines:
        values = [float(text) for text in line.split()[1:]]
        assert len(values) >= 8
        assert len(values) % 2 == 0
        assert all(0 <= value <= 1 for value in values)


def test_yolo_is_exact_in_the_largest_images_too() -> None:
    labels = np.zeros((3, 32_767), np.uint8)
    labels[1, 5:32_000:7] = 1
    labels[0:2, 20_001] = 1
    lines = Result(labels, ["a"]).to_yolo().splitlines()
    np.testing.assert_array_equal(joined([yolo_mask(line, *labels.shape) for line in lines], labels), labels)


def test_names_of_classes_are_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    names = ["fork", "Löffel", "a: b", "yes", "#1", 'quo"te', "12"]
    assert yaml.safe_load(yolo_names(names)) == {"names": dict(enumerate(names))}


def rings_of(labels: np.ndarray, outlines: list[tuple[int, list[list[list[float]]]]]) -> np.ndarray:
    """A label map from rings by pycocotools, which knows polygons by the edges of pixels."""
    tools = pytest.importorskip("pycocotools.mask")
    height, width = labels.shape
    masks = []
    for label, rings in outlines:
        codes = tools.frPyObjects([[float(v) for point in ring for v in point] for ring in rings], height, width)
        outer, *holes = (tools.decode(code) for code in codes)
        masks.append((label, outer & ~np.any(holes, axis=0) if holes else outer))
    return joined(masks, labels)


@given(label_maps)
@example(EVERY)
def test_geojson_is_read_back(labels: np.ndarray) -> None:
    content = json.loads(json.dumps(Result(labels, NAMES).to_geojson()))
    assert content["type"] == "FeatureCollection"
    outlines = []
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        rings = feature["geometry"]["coordinates"]
        for number, ring in enumerate(rings):
            assert ring[0] == ring[-1]
            assert len(ring) >= 5
            x, y = np.array(ring).T
            turn = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
            assert turn < 0 if number else turn > 0  # RFC 7946, 3.1.6
        x, y = np.array(rings[0]).T
        assert feature["bbox"] == [x.min(), y.min(), x.max(), y.max()]
        assert NAMES[feature["properties"]["label"] - 1] == feature["properties"]["name"]
        outlines.append((feature["properties"]["label"], rings))
    np.testing.assert_array_equal(rings_of(labels, outlines), labels)


@given(label_maps)
@example(EVERY)
def test_polygons_are_read_back(labels: np.ndarray) -> None:
    content = json.loads(json.dumps(Result(labels, NAMES).to_polygons()))
    assert (content["height"], content["width"]) == labels.shape
    assert [entry["name"] for entry in content["classes"]] == NAMES
    shapes = [(entry["label"], shape) for entry in content["classes"] for shape in entry["polygons"]]
    outlines = [(label, [shape["outer"], *shape["holes"]]) for label, shape in shapes]
    np.testing.assert_array_equal(rings_of(labels, outlines), labels)
    assert sum(shape["area"] for _, shape in shapes) == (labels > 0).sum()


def brush_mask(code: list[int], height: int, width: int) -> np.ndarray:
    """A stroke as Label Studio decodes it: rle-pack's bits, and then the alpha of RGBA."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    assert len(values) == number == height * width * 4
    assert len(bits) - at < 8
    return np.array(values).reshape(height, width, 4)[..., 3] // 255


@given(label_maps)
@example(EVERY)
def test_label_studio_is_read_back(labels: np.ndarray) -> None:
    task = json.loads(json.dumps(Result(labels, NAMES).to_label_studio("a.png")))
    (prediction,) = task["predictions"]
    masks = []
    for stroke in prediction["result"]:
        assert (stroke["original_height"], stroke["original_width"]) == labels.shape
        assert stroke["type"] == "brushlabels"
        (name,) = stroke["value"]["brushlabels"]
        masks.append((NAMES.index(name) + 1, brush_mask(stroke["value"]["rle"], *labels.shape)))
    np.testing.assert_array_equal(joined(masks, labels), labels)
    assert len({stroke["id"] for stroke in prediction["result"]}) == len(masks)


def test_long_runs_of_a_brush_are_split() -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[20:200] = 1
    np.testing.assert_array_equal(brush_mask(brush_rle(mask, mask.shape), *mask.shape), mask)


def test_label_studio_has_scores_and_an_interface_that_fits() -> None:
    result = scored()
    task = result.to_label_studio("/data/local-files/?d=a.jpg")
    assert task["data"] == {"image": "/data/local-files/?d=a.jpg"}
    strokes = task["predictions"][0]["result"]
    assert [stroke["score"] for stroke in strokes] == [round(one.score or 0, 6) for one in result.instances()]
    assert 0 < task["predictions"][0]["score"] <= 1
    view = ElementTree.fromstring(labelling_config(["fork", 'a "b" & <c>']))
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert brush is not None
    assert image is not None
    assert {s["from_name"] for s in strokes} == {brush.attrib["name"]}
    assert {s["to_name"] for s in strokes} == {image.attrib["name"]} == {brush.attrib["toName"]}
    assert image.attrib["value"] == "$image"
    assert [label.attrib["value"] for label in brush] == ["fork", 'a "b" & <c>']


def test_supervision_gets_one_detection_for_each_instance() -> None:
    sv = pytest.importorskip("supervision")
    result = scored()
    found: Any = result.to_supervision(min_area=20)
    instances = result.instances(20)
    assert len(found) == len(instances) > 3
    for box, mask, score, number, one in zip(
        found.xyxy, found.mask, found.confidence, found.class_id, instances, strict=True
    ):
        np.testing.assert_array_equal(mask, one.full_mask(90, 120))
        x, y, width, height = one.box
        assert box.tolist() == [x, y, x + width, y + height]
        assert score == pytest.approx(one.score)
        assert result.names[number] == one.name
    assert found["class_name"].tolist() == [one.name for one in instances]
    # the package's own picture and filter work on them
    assert sv.MaskAnnotator().annotate(result.pixels.copy(), found).shape == (90, 120, 3)
    assert len(found[found.area > 100]) == len(result.instances(101))
    assert len(Result(np.zeros((4, 4), np.uint8), ["a"]).to_supervision()) == 0
    assert Result(result.labels, result.names).to_supervision().confidence is None


def test_without_supervision_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EngineError, match="pip install supervision"):
        scored().to_supervision()


def test_nothing_found_is_written_as_nothing() -> None:
    result = Result(np.zeros((5, 7), np.uint8), ["a", "b"])
    assert result.to_yolo() == ""
    assert result.to_geojson()["features"] == []
    assert result.to_labelme("x.png")["shapes"] == []
    assert result.to_coco("x.png")["annotations"] == []
    assert [entry["polygons"] for entry in result.to_polygons()["classes"]] == [[], []]
    assert result.to_label_studio("x.png")["predictions"][0]["result"] == []
    assert result.instances() == []


def test_json_can_be_written_of_all(tmp_path: Path) -> None:
    result = scored()
    contents = [result.to_coco(), result.to_labelme(), result.to_geojson(), result.to_polygons()]
    for content in [*contents, result.to_label_studio()]:
        json.dump(content, io.StringIO(), allow_nan=False)
