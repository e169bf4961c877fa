"""`ntre segment` with a box or points in place of a mask, and `--strict` where annotations are opened."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ntre_deploy.runtime.imagefile import read_image, read_mask

Done = subprocess.CompletedProcess[str]


def test_a_box_and_points_become_masks_that_lie_beside_the_results(
    tiny: SimpleNamespace, pictures: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    image = pictures.supports[0][0]
    given = ["-s", f"fork={image},box=20%,20%,80%,80%", "-s", f"my spoon={image},points=50%,50%;40%,45%;-2%,2%"]
    done = call("segment", tiny.bundle, pictures.photo, *given, "--out", "o", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["drawn_supports"]
    masks = ["o/supports/fork_1_mask.png", "o/supports/my_spoon_1_mask.png"]
    assert told == [{"name": name, "mask": mask} for name, mask in zip(("fork", "my spoon"), masks, strict=True)]
    for mask in masks:
        assert re.search(f"GrabCut made a mask of .*, look at {mask.replace('mask', 'overlay')}", done.stderr)
        assert read_mask(here / mask).any()
        overlay = read_image(here / mask.replace("mask", "overlay"))
        assert overlay.shape == read_image(image).shape
    # the same masks as files give the same result
    again = call("segment", tiny.bundle, pictures.photo, "-s", f"fork={image},{masks[0]}", "-s",
                 f"my spoon={image},{masks[1]}", "--out", "p")  # fmt: skip
    assert again.returncode == 0, again.stderr
    name = f"{Path(pictures.photo).stem}.png"
    assert np.array_equal(read_image(here / "o" / name), read_image(here / "p" / name))


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("box=0,0,99999,10", "lies outside its photo of"),
        ("box=0%,0%,100%,100%", "leaves fewer than 5 pixels"),
        ("box=nan,0,1,1", "is not x1,y1,x2,y2"),
        ("points=-1,1", "are all of the background"),
        ("points=1", "in quotes, as shells take ; for themselves"),
        ("o/supports/fork_1_mask.png", "does not exist"),
    ],
)
def test_what_shows_nothing_leaves_nothing(
    shown: str,
    words: str,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    call: Callable[..., Done],
    here: Path,
) -> None:
    done = call("segment", tiny.bundle, pictures.photo, "-s", f"fork={pictures.supports[0][0]},{shown}", "--out", "o")
    assert done.returncode == 2
    assert words in done.stderr
    assert list(here.iterdir()) == []


def test_strict_stops_where_annotations_would_be_skipped(
    tiny: SimpleNamespace, pictures: SimpleNamespace, ntre: Callable[..., Done], here: Path
) -> None:
    pytest.importorskip("pycocotools", reason="annotations need pycocotools (extra [coco])")
    image = Path(pictures.supports[0][0])
    height, width = read_image(image).shape[:2]
    shapes = [
        {"label": "fork", "shape_type": "rectangle", "points": [[1, 1], [width / 2, height / 2]]},
        {"label": "fork", "shape_type": "line", "points": [[1, 1], [9, 9]]},
    ]
    content = {"shapes": shapes, "imagePath": image.name, "imageHeight": height, "imageWidth": width}
    folder = here / "labelled"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}{image.suffix}").write_bytes(image.read_bytes())
        (folder / f"{name}.json").write_text(json.dumps(content | {"imagePath": f"{name}{image.suffix}"}))
    spec, support = f"labelme:{folder}", f"fork={image},{folder / 'a.json'}"
    for arguments, total in (
        (("segment", tiny.bundle, "--dataset", spec, "--count", "1", "--out", "o"), "2 of 4"),
        (("eval", tiny.bundle, "--dataset", spec, "--count", "1"), "2 of 4"),
        (("segment", tiny.bundle, pictures.photo, "-s", support, "--out", "p"), "1 of 2"),
    ):
        count = total[0]
        done = ntre(*arguments, cwd=here)
        assert done.returncode == 0, done.stderr
        assert f"skipped {total} annotations: {count} line only; --strict stops\n" in done.stderr
        done = ntre(*arguments, "--strict", cwd=here)
        assert done.returncode == 2
        assert f"{total} annotations have no mask: {count} line only" in done.stderr
    for arguments in (
        ("tune", tiny.checkpoint, spec, "--out", "t"),
        ("export", tiny.checkpoint, "--verify-on", spec, "--out", "x.ntre"),
        ("bench", tiny.bundle, "--dataset", spec),
    ):
        done = ntre(*arguments, "--strict", cwd=here)
        assert done.returncode == 2, done.stderr
        assert "2 of 4 annotations have no mask: 2 line only" in done.stderr
