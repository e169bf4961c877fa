"""LabelMe's files: shapes to masks, and what cannot be one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.data.labelme import is_labelme, labelme_mask
from ntre_deploy.errors import InputError

FILE = Path("p.json")


def content(*shapes: dict[str, Any], height: Any = 40, width: Any = 60) -> dict[str, Any]:
    return {"version": "5.4.1", "shapes": [*shapes], "imagePath": "p.jpg", "imageHeight": height, "imageWidth": width}


def shape(label: str = "fork", points: Any = ((10, 5), (30, 5), (30, 25), (10, 25)), kind: Any = "polygon") -> Any:
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind}


@pytest.mark.parametrize(
    "square", [shape(), shape(points=((30, 25), (10, 5)), kind="rectangle"), shape(kind=None) | {"flags": {}}]
)
def test_a_square_covers_the_pixels_within_its_corners(square: dict[str, Any]) -> None:
    mask = labelme_mask(FILE, content(square), None)
    wanted = np.zeros((40, 60), np.uint8)
    wanted[5:25, 10:30] = 1
    assert mask.dtype == np.uint8
    # the border belongs to both sides
    assert (mask[5:25, 10:30] == 1).all()
    assert mask.sum() <= 22 * 22
    assert (mask[:4].sum(), mask[27:].sum(), mask[:, :9].sum(), mask[:, 32:].sum()) == (0, 0, 0, 0)


def test_a_circle_has_its_area() -> None:
    mask = labelme_mask(FILE, content(shape(points=((30, 20), (30, 35)), kind="circle")), "fork")
    assert abs(int(mask.sum()) - np.pi * 15**2) < 2 * np.pi * 15


def test_shapes_of_one_label_are_one_mask_and_others_are_not_in_it() -> None:
    other = shape("spoon", ((40, 5), (55, 5), (55, 35)))
    far = shape("fork", ((2, 30), (8, 30), (8, 38)))
    both = labelme_mask(FILE, content(shape(), other, far), "fork")
    alone = labelme_mask(FILE, content(shape(), far), None)
    assert np.array_equal(both, alone)
    assert labelme_mask(FILE, content(shape(), other, far), "spoon")[6, 50] == 1


@pytest.mark.parametrize(
    ("given", "label", "message"),
    [
        (content(shape(), shape("spoon")), None, "has the labels fork, spoon; add @LABEL"),
        (content(shape()), "knife", "has no label 'knife'; it has fork"),
        (content(), None, "has the labels of none"),
        (content(shape(), height=None), None, "says no size"),
        (content(shape(), width=10**9), None, "says no size"),
        (content(shape(points=((1, 1), (2, 2)))), None, "shape 0 needs 3 points"),
        (content(shape(points=((1, 1), (2, float("nan")), (3, 3)))), None, "shape 0 needs 3 points"),
        (content(shape(points=((1, 1), (2, 1e9), (3, 3)))), None, "in or near the image"),
        (content(shape(points=((1, 1), (2,), (3, 3)))), None, "shape 0 needs 3 points"),
        (content(shape(kind="mask")), None, "shape 0 is a mask; polygon, rectangle, circle can be read"),
        (content({"label": "fork"}), None, "shape 0 needs 3 points"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: dict[str, Any], label: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        labelme_mask(FILE, given, label)
    assert "\n" not in str(caught.value)


def test_other_json_is_not_taken_for_it() -> None:
    assert is_labelme(content(shape()))
    for other in ([], {"annotations": []}, {"shapes": 3}, None):
        assert not is_labelme(other)
