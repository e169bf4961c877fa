"""Boxes and points on photos: the masks that GrabCut makes of them, and what is none."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.masks import Pixels, mask_iou
from ntre_deploy.segment.grabcut import Box, Points, cut, draw_prompt, read_box, read_points

Scene = Callable[..., tuple[Pixels, Pixels]]


@pytest.fixture
def scene() -> Scene:
    """A rough green ground with a rough red disc at the middle of the left half, and its mask."""

    def inner(height: int = 120, width: int = 200) -> tuple[Pixels, Pixels]:
        noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
        mask = np.zeros((height, width), np.uint8)
        cv2.circle(mask, (width // 4, height // 2), height // 4, 1, cv2.FILLED)
        colours = np.where(mask[..., None] == 1, (180, 60, 50), (70, 140, 60))
        return np.clip(colours + noise, 0, 255).astype(np.uint8), mask

    return inner


@pytest.mark.parametrize("text", ["15,25,85,95", "85,95,15,25", "7.5%,20%,42.5%,80%", " 15 , 25.0,85 ,95."])
def test_a_box_gives_what_is_in_it(scene: Scene, text: str) -> None:
    image, wanted = scene()
    mask = cut(image, read_box(text))
    assert mask.dtype == np.uint8
    assert mask_iou(mask, wanted) > 0.95
    assert not mask[:, 86:].any()


@pytest.mark.parametrize("text", ["50,60", "40,60;60,60;50,70", "40,60 60,60 -150,60", "25%,50%;-75%,50%;"])
def test_points_give_what_they_lie_on(scene: Scene, text: str) -> None:
    image, wanted = scene()
    assert mask_iou(cut(image, read_points(text)), wanted) > 0.9


def test_it_is_the_same_each_time_whatever_was_drawn_before(scene: Scene) -> None:
    image, _ = scene()
    for prompt in (read_box("15,25,85,95"), read_points("40,60;60,60")):
        first = cut(image, prompt)
        cv2.setRNGSeed(1234)
        cv2.randu(np.zeros(99, np.uint8), 0, 9)
        assert np.array_equal(first, cut(image, prompt))


def test_a_large_photo_gets_a_mask_of_its_own_size(scene: Scene) -> None:
    image, wanted = scene(1200, 2000)
    for prompt in (read_box("150,250,850,950"), read_points("400,600;600,600")):
        mask = cut(image, prompt)
        assert mask.shape == (1200, 2000)
        assert mask_iou(mask, wanted) > 0.95


def test_what_looks_the_same_elsewhere_is_not_of_the_target(scene: Scene) -> None:
    image, wanted = scene()
    both = np.where(image[:, ::-1] * 0 + wanted[:, ::-1, None] == 1, image[:, ::-1], image)
    mask = cut(both, read_points("40,60;60,60;50,50"))
    assert mask_iou(mask, wanted) > 0.9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2,3",
        "1,2,3,4,5",
        "a,2,3,4",
        "nan,1,2,3",
        "inf,1,2,3",
        "-1,2,3,4",
        "1e3,2,3,4",
        "1,2,3,4%%",
        "\u0661,2,3,4",
    ],
)
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not x1,y1,x2,y2, such as"):
        read_box(text)


@pytest.mark.parametrize("text", ["", ";", "1", "1,2,3", "a,b", "--1,2", "1,-2", "nan,1", "1,2;x", "- 1,2"])
def test_points_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"are not x,y;x,y with a minus") as caught:
        read_points(text)
    assert "\n" not in str(caught.value)


def test_one_point_at_least_is_on_the_target() -> None:
    assert len(read_points("1,2;").target) == 1
    with pytest.raises(InputError, match="are all of the background"):
        read_points("-1,2;-3,4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10,10,300,50", "lies outside its photo of 200 x 120"),
        ("10%,10%,101%,50%", "lies outside"),
        ("10,10,999999999,50", "lies outside"),
        ("10,10,10,50", "has no area"),
        ("10.1,10,10.2,50", "has no area"),
        ("0,0,200,120", "leaves fewer than 5 pixels inside or outside"),
        ("0%,0%,100%,100%", "leaves fewer than 5 pixels inside or outside"),
        ("3,3,4,4", "leaves fewer than 5 pixels inside or outside"),
    ],
)
def test_a_box_that_shows_nothing_is_refused(scene: Scene, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(scene()[0], read_box(text))


def test_points_outside_are_refused(scene: Scene) -> None:
    for text in ("201,5", "5,5;5,121", "5,5;-101%,5"):
        with pytest.raises(InputError, match="lies outside its photo of 200 x 120"):
            cut(scene()[0], read_points(text))


def check(image: Pixels, prompt: Box | Points) -> None:
    """A mask of something, or one line."""
    try:
        mask = cut(image, prompt)
    except InputError as error:
        told = str(error)
    else:
        told = ""
        assert mask.shape == image.shape[:2]
        assert mask.max() == 1
        assert draw_prompt(image, prompt).shape == image.shape
    assert "\n" not in told


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2, 2), (3, 3)])
def test_the_smallest_photos_end_in_one_line(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    for prompt in (read_box("0,0,1,1"), read_points("0,0"), read_points("0,0;-0,0")):
        check(image, prompt)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.lists(st.integers(0, 100), min_size=4, max_size=4))
def test_any_photo_gives_a_mask_or_one_line(height: int, width: int, levels: int, at: list[int]) -> None:
    image = np.random.default_rng(height).integers(0, levels * 60 + 1, (height, width, 3), np.uint8)
    percent = [f"{value}%" for value in at]
    for prompt in (read_box(",".join(percent)), read_points(",".join(percent[:2]) + ";-" + ",".join(percent[2:]))):
        check(image, prompt)
