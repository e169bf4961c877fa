"""The page of results."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ntre_deploy.runtime.overlay import palette
from ntre_deploy.segment.page import Card, thumbnail, write_page


@pytest.mark.parametrize(
    ("height", "width", "fitted"), [(300, 840, (150, 420)), (10, 20, (10, 20)), (5000, 1, (420, 1))]
)
def test_a_thumbnail_is_a_small_jpeg_in_the_right_colours(height: int, width: int, fitted: tuple[int, int]) -> None:
    picture = np.full((height, width, 3), (200, 30, 10), np.uint8)
    kind, _, data = thumbnail(picture).partition(",")
    assert kind == "data:image/jpeg;base64"
    found = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert found.shape[:2] == fitted
    assert np.abs(found[0, 0, ::-1].astype(int) - (200, 30, 10)).max() < 12


def test_the_page_shows_every_result_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    picture = thumbnail(np.zeros((8, 8, 3), np.uint8))
    hostile = "<script>alert(1)</script>"
    cards = [
        Card("a b.jpg", [picture], ["a b.overlay.jpg", "a b.png"], {hostile: 0.125, "spoon": 0.0}),
        Card('"><img src=x>.mp4', [picture] * 3, ["x.overlay.mp4"], {hostile: 0.5, "spoon": 0.0}, 40),
    ]
    write_page(tmp_path / "overview.html", cards, [hostile, "spoon"], "onnx-cpu fp32")
    text = (tmp_path / "overview.html").read_text(encoding="utf-8")
    assert "1 photo, 1 video" in text
    assert "40 frames" in text
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;: in 2 of 2" in text
    assert "spoon: in 0 of 2" in text
    assert "12.5%" in text
    assert 'href="a%20b.overlay.jpg"' in text
    assert text.count("<figure") == 2
    assert text.count(picture) == 4
    assert not re.search(r"https?://|src=\"(?!data:)", text)
    assert "#{:02x}{:02x}{:02x}".format(*palette(2)[1]) in text


def test_a_large_job_makes_no_huge_page(tmp_path: Path) -> None:
    cards = [Card(f"{k}.jpg", ["data:,"], [], {"x": 0.5}) for k in range(520)]
    write_page(tmp_path / "overview.html", cards, ["x"], "onnx-cpu fp32")
    text = (tmp_path / "overview.html").read_text(encoding="utf-8")
    assert text.count("<figure") == 500
    assert "and 20 more" in text
