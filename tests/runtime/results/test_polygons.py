"""Outlines: the same pixels come back, whichever way a reader fills them."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from ntre_deploy.runtime.results.instances import Instance
from ntre_deploy.runtime.results.polygons import Polygon, shoelace
from ntre_deploy.runtime.results.result import Result

masks = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(
    lambda s: arrays(np.uint8, s, elements=st.integers(0, 1), fill=st.integers(0, 1))
)
NESTED = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 1, 0, 1],
        [1, 0, 1, 0, 1, 1, 0, 1],
        [1, 0, 1, 1, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 0],
    ],
    np.uint8,
)


def instances(mask: np.ndarray) -> list[Instance]:
    return Result(mask, ["thing"]).instances()


def by_centres(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pixels whose centres lie inside rings by the even-odd rule, from the crossings of each row's line of centres."""
    crossed = np.zeros((height, width), np.int64)
    centres = np.arange(width) + 0.5
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            for row in range(height):
                y = row + 0.5
                if (y0 <= y) != (y1 <= y):
                    crossed[row] += centres > x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return (crossed % 2).astype(np.uint8)


def by_pillow(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """As LabelMe itself draws a polygon."""
    picture = Image.new("L", (width, height), 0)
    ImageDraw.Draw(picture).polygon(xy=[tuple(point) for point in ring.tolist()], outline=1, fill=1)
    return np.asarray(picture)


def by_opencv(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """As trainers of YOLO draw a polygon: fractions are cut off, and the line is part of the inside."""
    drawn = np.zeros((height, width), np.uint8)
    cv2.fillPoly(drawn, [ring.astype(np.int32)], (1,))
    return drawn


@given(masks)
@example(np.ones((1, 1), np.uint8))
@example(NESTED)
@example(np.eye(5, dtype=np.uint8))
def test_rings_along_the_edges_hold_the_centres_of_their_pixels(mask: np.ndarray) -> None:
    back = np.zeros_like(mask)
    for one in instances(mask):
        back += by_centres(list(one.polygon.rings), *mask.shape)
        assert one.polygon.area == one.area
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize("draw", [lambda r, h, w: by_centres([r], h, w), by_pillow, by_opencv])
@given(mask=masks)
@example(mask=np.ones((1, 1), np.uint8))
@example(mask=NESTED)
@example(mask=1 - NESTED)
def test_one_ring_with_cuts_is_the_same_for_every_kind_of_reader(
    draw: Callable[[np.ndarray, int, int], np.ndarray], mask: np.ndarray
) -> None:
    back = np.zeros_like(mask)
    for one in instances(mask):
        back += draw(one.polygon.keyhole(), *mask.shape)
    np.testing.assert_array_equal(back, mask)


@given(masks)
def test_rings_are_simple_and_turn_as_they_should(mask: np.ndarray) -> None:
    for one in instances(mask):
        assert shoelace(one.polygon.outer) > 0
        assert all(shoelace(hole) < 0 for hole in one.polygon.holes)
        for ring in one.polygon.rings:
            assert ring.dtype == np.int32
            assert len(np.unique(ring, axis=0)) == len(ring) >= 4
            # a corner is where it turns: every other edge is level
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all()


@given(masks)
def test_shapely_finds_them_valid(mask: np.ndarray) -> None:
    geometry = pytest.importorskip("shapely.geometry")
    for one in instances(mask):
        shape = geometry.Polygon(one.polygon.outer, one.polygon.holes)
        assert shape.is_valid
        assert shape.exterior.is_ccw
        assert shape.area == one.area


def test_what_lies_within_a_hole_is_another_region() -> None:
    found = instances(NESTED)
    assert [one.area for one in found] == [28, 14]
    # two holes that touch at a corner are two; the ring that is cut off at its lower right corner has one
    assert [len(one.polygon.holes) for one in found] == [1, 2]
    assert [one.box for one in found] == [(0, 0, 8, 8), (2, 2, 4, 4)]


def test_the_outline_of_one_pixel_is_a_square_of_its_size() -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[2, 3] = 1
    (one,) = instances(mask)
    assert one.polygon.outer.tolist() == [[3, 2], [4, 2], [4, 3], [3, 3]]
    np.testing.assert_allclose(one.polygon.keyhole(), [[3.1, 2.1], [3.9, 2.1], [3.9, 2.9], [3.1, 2.9]])


def test_a_tolerance_leaves_corners_out_and_keeps_the_shape() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.circle(mask, (150, 100), 80, (1,), -1)
    cv2.circle(mask, (150, 100), 30, (0,), -1)
    (one,) = instances(mask)
    fewer = one.polygon.simplified(2.0)
    assert sum(map(len, fewer.rings)) < 0.2 * sum(map(len, one.polygon.rings))
    back = by_centres(list(fewer.rings), *mask.shape)
    assert (back & mask).sum() / (back | mask).sum() > 0.95
    joined = by_opencv(one.polygon.keyhole(2.0), *mask.shape)
    assert (joined & mask).sum() / (joined | mask).sum() > 0.9
    tiny = Polygon(np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.int32))
    assert tiny.simplified(50).outer.tolist() == tiny.outer.tolist()
