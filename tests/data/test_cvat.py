"""CVAT's XML: shapes to masks, files that are refused, and bombs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntre_deploy.data.cvat import CvatDataset, read_cvat
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import write_png

pytest.importorskip("pycocotools", reason="annotations need pycocotools (extra [coco])")
# pycocotools has not followed NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Write = Callable[..., Path]

SQUARE = '<polygon label="fork" source="manual" occluded="0" points="10,5;70,5;70,65;10,65" z_order="0"></polygon>'
LABELS = "".join(
    f"<label><name>{name}</name><color>#fa3253</color><type>any</type><attributes><attribute><name>x</name>"
    "</attribute></attributes></label>"
    for name in ("spoon", "fork")
)
META = f"<meta><task><id>5</id><name>kitchen</name><labels>{LABELS}</labels></task><dumped>now</dumped></meta>"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file with one image of 100 x 80, or with `images` as they are, beside its photo."""
    write_png(tmp_path / "images" / "a.png", np.full((80, 100, 3), 7, np.uint8))

    def inner(shapes: str = SQUARE, *, images: str | None = None, meta: str = META, head: str = "") -> Path:
        whole = images if images is not None else f'<image id="0" name="a.png" width="100" height="80">{shapes}</image>'
        path = tmp_path / "annotations.xml"
        start = '<?xml version="1.0" encoding="utf-8"?>\n'
        path.write_text(f"{start}{head}<annotations><version>1.1</version>{meta}{whole}</annotations>")
        return path

    return inner


def test_a_file_is_a_dataset(write: Write) -> None:
    shapes = SQUARE + '<tag label="spoon"/><polygon label="fork" points="0,70.5;8,70.5;8,78"><attribute/></polygon>'
    dataset = CvatDataset(write(shapes))
    assert dataset.name == "cvat:annotations"
    assert dict(dataset.class_names) == {0: "spoon", 1: "fork"}
    assert [list(dataset.images(c)) for c in (0, 1)] == [[], ["a.png"]]
    assert dataset.image("a.png").shape == (80, 100, 3)
    mask = dataset.mask("a.png", 1)
    assert mask[5:65, 10:70].all()
    assert 3600 < mask.sum() < 3600 + 60


def test_masks_are_runs_along_the_rows_of_their_box(write: Write) -> None:
    drawn = np.zeros((80, 100), np.uint8)
    drawn[30:32, 41:44] = drawn[33, 40:45] = 1
    box = drawn[30:34, 40:45].ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], box])))
    runs = np.diff(np.concatenate([[0], edges, [box.size]])).tolist()
    text = ", ".join(map(str, runs))
    file = write(f'<mask label="fork" rle="{text}" left="40" top="30" width="5" height="4"/>')
    assert np.array_equal(CvatDataset(file).mask("a.png", 1), drawn)


def test_an_ellipse_is_turned(write: Write) -> None:
    upright = '<ellipse label="fork" cx="50" cy="40" rx="30" ry="10"/>'
    turned = '<ellipse label="fork" cx="50" cy="40" rx="10" ry="30" rotation="90.0"/>'
    first, second = (CvatDataset(write(shape)).mask("a.png", 1) for shape in (upright, turned))
    assert abs(int(first.sum()) - np.pi * 300) < 40
    assert np.count_nonzero(first != second) < 20
    assert first[40, 25] == 1
    assert first[20, 50] == 0


def test_boxes_lines_and_points_are_skipped_and_counted(write: Write) -> None:
    others = (
        '<box label="fork" xtl="1" ytl="1" xbr="9" ybr="9"/><polyline label="fork" points="1,1;2,2"/>'
        '<points label="fork" points="1,1"/><polygon label="fork" points="1,1;2,2"/><box label="fork"/>'
    )
    file = write(SQUARE + others)
    told = "5 of 6 annotations.*: 2 box only, 1 line only, 1 point only, 1 of fewer than three points"
    with pytest.warns(NtreWarning, match=f"skipped {told}; --strict stops$"):
        dataset = CvatDataset(file)
    assert dataset.mask("a.png", 1).sum() == 3600
    with pytest.raises(InputError, match=told):
        CvatDataset(file, strict=True)
    with pytest.raises(InputError, match="none of its 5 annotations has a mask"):
        CvatDataset(write(others))


def test_photos_of_a_project_lie_in_folders_of_subsets(write: Write, tmp_path: Path) -> None:
    image = '<image id="{0}" name="a.png" subset="{1}" task_id="{0}" width="100" height="80">' + SQUARE + "</image>"
    for subset in ("Train", "Val"):
        write_png(tmp_path / "images" / subset / "a.png", np.full((80, 100, 3), len(subset), np.uint8))
    dataset = CvatDataset(write(images=image.format(0, "Train") + image.format(1, "Val")))
    assert list(dataset.images(1)) == ["Val/a.png", "Train/a.png"]
    assert dataset.image("Val/a.png")[0, 0, 0] == 3


def test_labels_may_be_left_out(write: Write) -> None:
    assert dict(CvatDataset(write(meta="")).class_names) == {0: "fork"}


def image(**changed: str) -> str:
    attributes = {"name": "a.png", "width": "100", "height": "80"} | changed
    return "<image " + " ".join(f'{k}="{v}"' for k, v in attributes.items() if v) + f">{SQUARE}</image>"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("", "has no images"),
        (image() + image(), r"the image id a\.png occurs twice"),
        (image(name="../a.png"), "leaves the images folder"),
        (image(name="C:\\a.png"), "leaves the images folder"),
        (image(name=""), "has no 'name'"),
        (image(width=""), "has no 'width'"),
        (image(width="0"), "is 0 x 80"),
        (image(width="1e3"), "'1e3' in 'width'; expected a number"),
        (image(height="9" * 400), "in 'height'; expected a number"),
        (image(height="9" * 5000), "in 'height'; expected a number"),
        (image().replace('"fork"', '"knife"'), "a polygon of the label 'knife', which is not listed"),
        (image().replace('label="fork"', ""), "has no 'label'"),
        (image().replace("10,5;", "nan,5;"), "'nan' in 'points'"),
        (image().replace("10,5;", "inf,5;"), "'inf' in 'points'"),
        (image().replace("10,5;", "x,5;"), "'x' in 'points'"),
        (image().replace("10,5;", "10;"), "points are not x,y"),
        ("<track id='0' label='fork'/>", "is 'CVAT for video'; export it as 'CVAT for images 1.1'"),
        ("<a>" * 60 + "</a>" * 60, "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_refused(write: Write, images: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        CvatDataset(write(images=images))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (SQUARE.replace("10,5;", "9999,5;"), "far outside"),
        ('<mask label="fork" rle="1,2" left="0" top="0" width="2" height="2"/>', "runs of 3 pixels in a mask of 2 x 2"),
        ('<mask label="fork" rle="-1,5" left="0" top="0" width="2" height="2"/>', "runs of 4 pixels"),
        ('<mask label="fork" rle="1" left="0" top="0" width="999999" height="999999"/>', "in an image of 100 x 80"),
        ('<ellipse label="fork" cx="5" cy="5" rx="900000000" ry="1"/>', "far outside"),
    ],
)
def test_bad_shapes_are_told_when_they_are_used(write: Write, shape: str, message: str) -> None:
    dataset = CvatDataset(write(shape))
    with pytest.raises(InputError, match=f"image a.png has a bad segmentation: .*{message}"):
        dataset.images(1)


BOMB = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {chr(98 + i)} '{('&' + chr(97 + i) + ';') * 10}'>" for i in range(20)
)
EXTERNAL = "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>"


@pytest.mark.parametrize("head", [BOMB + "]>", EXTERNAL + "]>", "<!DOCTYPE x SYSTEM 'http://localhost/x.dtd'>"])
def test_entities_are_refused_before_they_unfold(write: Write, head: str) -> None:
    for name in ("u", "a"):
        file = write(head=head, images=image(), meta=META.replace("kitchen", f"&{name};"))
        with pytest.raises(InputError, match="has a document type; CVAT writes none"):
            CvatDataset(file)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<annotations>",
        b"<annotations>&a;</annotations>",
        b"<annotations>\xff</annotations>",
        b"<?xml version='1.0' encoding='utf-77'?><annotations/>",
        b"\x00" * 50,
        b"{}",
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.xml").write_bytes(text)
    with pytest.raises(InputError, match=r"x\.xml is not XML that can be read") as caught:
        CvatDataset(tmp_path / "x.xml")
    assert "\n" not in str(caught.value)


def test_other_xml_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<annotation><filename>voc</filename></annotation>")
    with pytest.raises(InputError, match="<annotation> where CVAT has <annotations>"):
        CvatDataset(tmp_path / "x.xml")
    with pytest.raises(InputError, match="does not exist"):
        CvatDataset(tmp_path / "none.xml")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_whatever_stands_inside_a_file_is_read_or_one_line(tmp_path: Path, inside: bytes) -> None:
    file = tmp_path / "any.xml"
    file.write_bytes(b"<annotations>" + inside + b"</annotations>")
    with pytest.raises(InputError) as caught:  # nothing so short is a whole image
        read_cvat(file, tmp_path)
    assert "\n" not in str(caught.value)
