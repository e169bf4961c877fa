"""What `--support` says, and the masks of boxes and points that are written to be looked at."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import read_image, read_mask, write_png
from ntre_deploy.segment.grabcut import Box, Points
from ntre_deploy.segment.supports import check_drawn, drawn_files, parse_supports, read_supports


def test_masks_boxes_and_points_stand_behind_a_photo() -> None:
    found = parse_supports(
        [
            "fork=a.jpg,a.png@3",
            "fork=b.jpg,box=1,2,30,40",
            "dir/c.jpg,box=1%,2%,30%,40%",
            "x=y=C:\\d.jpg,points=1,2;3,4;-5,6",
            "a,b.jpg,m.png",
        ]
    )
    assert list(found) == ["fork", "target", "x=y"]
    first, second = found["fork"]
    assert (first.image, first.shown) == (Path("a.jpg"), Path("a.png@3"))
    assert isinstance(second.shown, Box)
    assert second.files == [Path("b.jpg")]
    third, fourth = found["target"]
    assert isinstance(third.shown, Box)
    assert (fourth.image, fourth.shown) == (Path("a,b.jpg"), Path("m.png"))
    (points,) = found["x=y"]
    assert points.image == Path("C:\\d.jpg")
    assert isinstance(points.shown, Points)
    assert (len(points.shown.target), len(points.shown.background)) == (2, 1)


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "a=b", "=a,b", "a,", ",b", "n=,box=1,2,3,4", "=a.jpg,box=1,2,3,4", "box=1,2,3,4", " ,b"]
)
def test_what_is_none_of_these_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not \[NAME=\]IMAGE,MASK.*box=x1,y1,x2,y2"):
        parse_supports([text])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 40, (60, 90, 3), np.uint8)
    cv2.circle(image, (45, 30), 15, (220, 60, 50), cv2.FILLED)
    write_png(tmp_path / "p.png", image)
    return tmp_path / "p.png"


def test_masks_that_were_made_are_written_with_a_picture(photo: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "m.png", np.full((60, 90), 255, np.uint8))
    out = tmp_path / "out"
    classes = parse_supports(
        [
            f"red disc={photo},{tmp_path / 'm.png'}",
            f"red disc={photo},box=25,10,65,50",
            f"{photo},points=38,30;52,30;45,38",
        ]
    )
    arrays, drawn = read_supports(classes, out)
    assert not out.exists()
    assert {name: len(shots) for name, shots in arrays.items()} == {"red disc": 2, "target": 1}
    assert [made.mask_file.name for made in drawn] == ["red_disc_2_mask.png", "target_1_mask.png"]
    for made, (image, mask) in zip(drawn, (arrays["red disc"][1], arrays["target"][0]), strict=True):
        made.write()
        # what was written can be given as a mask next time
        assert np.array_equal(read_mask(made.mask_file), mask)
        assert abs(int(mask.sum()) - np.pi * 15**2) < 80
        assert not np.array_equal(read_image(made.overlay_file), image)
    assert sorted(path.name for path in (out / "supports").iterdir()) == [
        "red_disc_2_mask.png",
        "red_disc_2_overlay.png",
        "target_1_mask.png",
        "target_1_overlay.png",
    ]


def test_a_box_that_shows_nothing_names_its_class_and_photo(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Support 'fork', .*p\.png: '10,10,99,20' lies outside its photo of 90 x 60"):
        read_supports(parse_supports([f"fork={photo},box=10,10,99,20"]), tmp_path)


def test_no_file_that_was_given_is_overwritten(photo: Path, tmp_path: Path) -> None:
    given = drawn_files(tmp_path, "fork", 1)[0]
    classes = parse_supports([f"fork={photo},box=25,10,65,50", f"fork={photo},{given}"])
    with pytest.raises(InputError, match=r"fork_1_mask\.png is given and would be overwritten"):
        check_drawn(tmp_path, classes, [path for example in classes["fork"] for path in example.files])
    check_drawn(tmp_path / "elsewhere", classes, [given])
