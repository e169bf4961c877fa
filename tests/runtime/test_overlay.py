"""Pictures for people."""

import numpy as np
import pytest

from ntre_deploy.runtime.overlay import contact_sheet, overlay, palette, tag_names

RNG = np.random.default_rng


@pytest.mark.parametrize("classes", [1, 5, 255])
def test_a_palette_has_black_first_and_no_colour_twice(classes: int) -> None:
    colours = palette(classes)
    assert colours.shape == (classes + 1, 3)
    assert colours.dtype == np.uint8
    assert not colours[0].any()
    assert (colours[1:].max(axis=1) == 255).all()
    assert len(np.unique(colours, axis=0)) == classes + 1


def test_neighbouring_classes_are_far_apart_in_colour() -> None:
    colours = palette(8)[1:].astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(2)
    assert distance[~np.eye(8, dtype=bool)].min() > 60


def test_a_class_keeps_its_colour_whatever_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(3), palette(9)[:4])


def picture() -> tuple[np.ndarray, np.ndarray]:
    image = RNG(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    labels = np.zeros((100, 140), np.uint8)
    labels[20:60, 20:60] = 1
    labels[20:60, 80:130] = 3
    return image, labels


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_the_inside_of_a_region_is_tinted_and_what_is_far_from_it_is_not(opacity: float) -> None:
    image, labels = picture()
    before = image.copy()
    out = overlay(image, labels, opacity)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(out[70:], image[70:])
    np.testing.assert_array_equal(out[:, 66:74], image[:, 66:74])
    for label, where in ((1, np.s_[25:55, 25:55]), (3, np.s_[25:55, 85:125])):
        wanted = image[where] * (1 - opacity) + palette(3)[label] * opacity
        assert np.abs(out[where] - wanted).max() <= 1


def is_nearly(pixels: np.ndarray, colour: np.ndarray) -> bool:
    """Outlines are smoothed, which mixes a little of the white around them into their colour."""
    return bool(np.abs(pixels.astype(int) - colour).max() <= 64)


def test_a_region_has_an_outline_in_its_colour() -> None:
    image, labels = picture()
    out = overlay(image, labels, 0.0)
    assert is_nearly(out[20, 30:50], palette(3)[1])
    assert is_nearly(out[59, 90:120], palette(3)[3])
    assert not is_nearly(image[20, 30:50], palette(3)[1])


def test_a_picture_without_labels_is_left_as_it_is() -> None:
    image, labels = picture()
    np.testing.assert_array_equal(overlay(image, labels * 0), image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (90, 1), (3, 2)])
def test_small_pictures_full_of_the_last_label_are_drawn(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    out = overlay(image, np.full((height, width), 255, np.uint8), 1.0)
    assert out.shape == image.shape
    assert is_nearly(out, palette(255)[255])


def test_a_region_of_one_pixel_shows_its_colour() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[20, 20] = 1
    assert is_nearly(overlay(np.zeros((40, 40, 3), np.uint8), labels)[20, 20], palette(1)[1])


def test_views_can_be_drawn_on() -> None:
    image, labels = picture()
    wanted = overlay(image[::-1, ::-1, ::-1].copy(), labels[::-1, ::-1].copy())
    np.testing.assert_array_equal(overlay(image[::-1, ::-1, ::-1], labels[::-1, ::-1]), wanted)


def test_a_sheet_holds_every_picture_in_the_middle_of_its_cell() -> None:
    # green does not occur in the sheet's own colours
    green = [np.full((h, w, 3), (0, 200, 0), np.uint8) for h, w in ((50, 100), (100, 50), (10, 10), (400, 1))]
    sheet = contact_sheet([green[:2], green[2:]], ["support", "query"], (80, 60))
    assert sheet.dtype == np.uint8
    assert sheet.shape == (28 + 2 * 68 + 8, 2 * 88 + 8, 3)
    found = (sheet == (0, 200, 0)).all(2)
    for row in range(2):
        for column in range(2):
            top, left = 28 + row * 68, 8 + column * 88
            ys, xs = np.nonzero(found[top : top + 60, left : left + 80])
            fitted = green[2 * row + column].shape
            scale = min(80 / fitted[1], 60 / fitted[0])
            assert np.ptp(ys) + 1 == max(1, round(fitted[0] * scale))
            assert np.ptp(xs) + 1 == max(1, round(fitted[1] * scale))
            assert abs(ys.mean() - 29.5) <= 0.5
            assert abs(xs.mean() - 39.5) <= 0.5
            found[top : top + 60, left : left + 80] = False
    assert not found.any()  # and nothing outside the cells


def test_a_title_is_written_above_its_column() -> None:
    blank = np.full((10, 10, 3), 250, np.uint8)
    sheet = contact_sheet([[blank, blank]], ["", "query"], (80, 60))
    assert (sheet[:28, :96] == 250).all()
    assert (sheet[:28, 96:] < 100).any()


def test_a_tag_stands_above_the_largest_region_of_each_class() -> None:
    picture = np.full((200, 300, 3), 120, np.uint8)
    labels = np.zeros((200, 300), np.uint8)
    labels[100:180, 40:120] = 1
    labels[60:64, 200:204] = 1
    labels[80:150, 180:260] = 2
    before = picture.copy()
    out = tag_names(picture, labels, ["fork", "Löffel", "absent"])
    np.testing.assert_array_equal(picture, before)
    colours = palette(3)
    for label, (top, left) in ((1, (100, 40)), (2, (80, 180))):
        rows, columns = np.nonzero((out == colours[label]).all(2))
        assert rows.max() < top
        assert abs(int(columns.min()) - left) <= 1
    assert not (out == colours[3]).all(2).any()
    np.testing.assert_array_equal(out[150:], before[150:])


def test_tags_do_not_hide_each_other() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[50:150, 50:150] = 1
    labels[60:140, 60:70] = 2
    labels[50:52, 50:150] = 3
    out = tag_names(np.zeros((200, 300, 3), np.uint8), labels, ["one", "two", "three"])
    areas = [int((out == colour).all(2).sum()) for colour in palette(3)[1:]]
    assert min(areas) > 0.5 * max(areas)


def test_small_pictures_and_specks_get_no_tag() -> None:
    picture = np.zeros((60, 300, 3), np.uint8)
    assert tag_names(picture, np.ones((60, 300), np.uint8), ["x"]) is picture
    labels = np.zeros((300, 300), np.uint8)
    labels[5, 5] = 1
    large = np.zeros((300, 300, 3), np.uint8)
    np.testing.assert_array_equal(tag_names(large, labels, ["x"]), large)
    np.testing.assert_array_equal(tag_names(large, labels * 0, ["x"]), large)
