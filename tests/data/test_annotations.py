"""The same shapes as COCO, LabelMe, YOLO and CVAT write them give the same masks; specs and --strict go for all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.data._segmentation import RowRuns, encode, mask_api, row_runs
from ntre_deploy.data.annotations import Annotations, inside
from ntre_deploy.data.coco import read_coco
from ntre_deploy.data.cvat import read_cvat
from ntre_deploy.data.labelme import labelme_annotations
from ntre_deploy.data.registry import guess_kind, open_dataset
from ntre_deploy.data.yolo import read_yolo_labels
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import write_png

pytest.importorskip("pycocotools", reason="annotations need pycocotools (extra [coco])")
# pycocotools has not followed NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 80, 100
NAMES = ("fork", "spoon")

coordinate = st.tuples(
    st.floats(-5, WIDTH + 5, allow_nan=False).map(lambda v: round(v, 2)),
    st.floats(-5, HEIGHT + 5, allow_nan=False).map(lambda v: round(v, 2)),
)
shapes = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(coordinate, min_size=3, max_size=7)), min_size=1, max_size=4
)
Shapes = list[tuple[str, list[tuple[float, float]]]]


def write_all(root: Path, drawn: Shapes) -> dict[str, Path]:
    """The shapes of one photo, a.png, as files of every kind; folders as their tools export them."""
    files = {
        "coco": root / "coco" / "all.json",
        "labelme": root / "labelme" / "a.json",
        "cvat": root / "cvat" / "annotations.xml",
        "yolo": root / "yolo" / "labels" / "a.txt",
    }
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    annotations = [
        {"id": n, "image_id": 1, "category_id": NAMES.index(name), "segmentation": [[v for p in points for v in p]]}
        for n, (name, points) in enumerate(drawn)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    files["coco"].write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    labelled = [{"label": n, "points": [list(p) for p in points], "shape_type": "polygon"} for n, points in drawn]
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    files["labelme"].write_text(json.dumps({"shapes": labelled, "imagePath": "a.png"} | size))
    polygons = "".join(
        f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in points)}"/>' for name, points in drawn
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    files["cvat"].write_text(
        f"<annotations><meta><task><labels>{labels}</labels></task></meta>"
        f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{polygons}</image></annotations>'
    )
    lines = (
        f"{NAMES.index(name)} " + " ".join(f"{x / WIDTH:.9f} {y / HEIGHT:.9f}" for x, y in points)
        for name, points in drawn
    )
    files["yolo"].write_text("\n".join(lines))
    (root / "yolo" / "data.yaml").write_text("names: [fork, spoon]\nval: images\n")
    for folder in ("coco", "labelme", "cvat", "yolo/images"):
        write_png(root / folder / "a.png", np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    return files


def read_all(files: dict[str, Path]) -> dict[str, Annotations]:
    return {
        "coco": read_coco(files["coco"])[0],
        "labelme": labelme_annotations(
            files["labelme"], {files["labelme"]: json.loads(files["labelme"].read_text())}, single=True
        ),
        "cvat": read_cvat(files["cvat"], files["cvat"].parent)[0],
        "yolo": read_yolo_labels(files["yolo"]),
    }


def masks_of(found: Annotations) -> dict[str, Any]:
    (image_id,) = found.entries
    return {name: found.mask(image_id, c, (HEIGHT, WIDTH)) for name, c in found.classes_in(image_id).items()}


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_the_same_shapes_are_the_same_masks(tmp_path_factory: Any, drawn: Shapes) -> None:
    pytest.importorskip("yaml", reason="YOLO's data.yaml needs PyYAML (extra [yolo])")
    found = read_all(write_all(tmp_path_factory.getbasetemp() / "same", drawn))
    wanted = masks_of(found["coco"])
    assert set(wanted) == {name for name, _ in drawn}
    for kind, annotations in found.items():
        masks = masks_of(annotations)
        assert set(masks) == set(wanted)
        for name, mask in masks.items():
            different = np.count_nonzero(mask != wanted[name])
            # a coordinate that is rounded to nine digits may cross the middle of a pixel
            assert different == 0 or (kind == "yolo" and different <= 0.01 * HEIGHT * WIDTH), (kind, name)


@given(st.integers(0, 2**32 - 1), st.integers(-6, 12), st.integers(-6, 12))
def test_runs_of_rows_are_the_mask_that_they_came_from(seed: int, left: int, top: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (7, 5)).astype(bool)
    whole = np.zeros((40, 40), np.uint8)
    whole[14 + top : 21 + top, 14 + left : 19 + left] = mask
    code = encode(row_runs(left, top, mask), 13, 11)
    assert np.array_equal(mask_api().decode(code), whole[14:27, 14:25])


def test_runs_that_do_not_fit_are_refused() -> None:
    for runs in (
        RowRuns(0, 0, 2, 2, [3]),
        RowRuns(0, 0, 2, 2, [5, -1]),
        RowRuns(0, 0, 99, 1, [99]),
        RowRuns(0, 0, 0, 0, []),
    ):
        with pytest.raises(ValueError, match=r"runs of|a mask of"):
            encode(runs, 10, 10)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    pytest.importorskip("yaml", reason="YOLO's data.yaml needs PyYAML (extra [yolo])")
    square = [(5.0, 5.0), (65.0, 5.0), (65.0, 75.0), (5.0, 75.0)]
    return write_all(tmp_path, [("fork", square), ("spoon", square[:3])])


def specs(files: dict[str, Path]) -> dict[str, str]:
    root = files["coco"].parents[1]
    return {
        f"coco:{files['coco']}": "coco:all",
        f"labelme:{root / 'labelme'}": "labelme:labelme",
        f"cvat:{files['cvat']}": "cvat:annotations",
        f"cvat:{files['cvat']}:{root / 'coco'}": "cvat:annotations",
        f"yolo:{root / 'yolo'}": "yolo:yolo@val",
        f"yolo:{root / 'yolo' / 'data.yaml'}@val": "yolo:yolo@val",
    }


def test_specs_open_every_kind_and_give_the_same(files: dict[str, Path]) -> None:
    wanted = masks_of(read_coco(files["coco"])[0])
    for spec, name in specs(files).items():
        dataset = open_dataset(spec)
        assert dataset.name == name
        assert dict(dataset.class_names) == {0: "fork", 1: "spoon"}
        for class_id, class_name in dataset.class_names.items():
            (image_id,) = dataset.images(class_id)
            assert dataset.image(image_id).shape == (HEIGHT, WIDTH, 3)
            assert np.array_equal(dataset.mask(image_id, class_id), wanted[class_name])


def test_a_path_alone_gets_the_spec_to_type(files: dict[str, Path]) -> None:
    for spec in specs(files):
        kind, _, path = spec.partition(":")
        if ":" in path or "@" in path:
            continue
        assert guess_kind(Path(path)) == kind
        with pytest.raises(InputError, match=f"did you mean '{kind}:"):
            open_dataset(path)


def test_strict_refuses_what_is_skipped_in_every_kind(files: dict[str, Path]) -> None:
    content = json.loads(files["coco"].read_text())
    content["annotations"] += [{"image_id": 1, "category_id": 0, "segmentation": [], "bbox": [1, 1, 5, 5]}]
    files["coco"].write_text(json.dumps(content))
    labelled = json.loads(files["labelme"].read_text())
    labelled["shapes"] += [{"label": "fork", "points": [[1, 1]], "shape_type": "point"}]
    files["labelme"].write_text(json.dumps(labelled))
    text = files["cvat"].read_text()
    files["cvat"].write_text(text.replace("</image>", '<box label="fork"/></image>'))
    files["yolo"].write_text(files["yolo"].read_text() + "\n0 0.5 0.5 0.2 0.2\n")
    for spec in specs(files):
        with pytest.warns(NtreWarning, match=r"skipped 1 of 3 annotations: 1 (box|point) only; --strict stops$"):
            open_dataset(spec)
        with pytest.raises(InputError, match="1 of 3 annotations have no mask"):
            open_dataset(spec, strict=True)


def test_large_numbers_are_counted_as_people_write_them(tmp_path: Path) -> None:
    found = Annotations(tmp_path, ["fork"])
    for _ in range(4117):
        found.add(0, "1", [])
    for reason in ("empty", "empty", "box only"):
        found.skip(reason)
    with pytest.warns(NtreWarning, match=r"skipped 3 of 4,120 annotations: 2 empty, 1 box only; --strict stops$"):
        found.close(strict=False)


def test_images_are_found_by_as_much_of_their_path_as_is_there(tmp_path: Path) -> None:
    found = Annotations(tmp_path, ["fork"])
    for image_id, name in (("1", "train/a.png"), ("2", "val\\a.png"), ("3", "b.png")):
        found.add_image("here", image_id, name, (9, 9))
    assert found.ids_of("a.png") == ["1", "2"]
    assert found.ids_of("/data/val/a.png") == ["2"]
    assert found.ids_of("train\\a.png") == ["1"]
    assert found.ids_of("3") == ["3"]
    assert found.ids_of("c.png") == []


@pytest.mark.parametrize("name", ["a.png", "x/a.png", "x\\a.png", "ü ñ.png", "..a.png"])
def test_names_that_stay_inside(name: str) -> None:
    assert inside(name)
