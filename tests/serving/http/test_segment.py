"""`POST /segment`: what comes out is what the runtime finds, in each format, however photos and supports come in."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.segmenter import Segmenter
from tests.serving.http.conftest import Server  # type: ignore[import-not-found]

mask_tools = pytest.importorskip("pycocotools.mask")
Files = list[SimpleNamespace]
Shots = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def wanted(segmenter: Segmenter, shots: Shots) -> list[Result]:
    """The runtime's result of each photo, with the first one as support."""
    memory = segmenter.encode_support([shots[0]], "disc")
    return [segmenter.segment_result(image, memory) for image, _ in shots]


def labels_of(photo: dict[str, Any]) -> np.ndarray:
    """The label map of a photo's answer, from its run-length codes."""
    labels = np.zeros((photo["height"], photo["width"]), np.uint8)
    for found in photo["classes"]:
        code = found["rle"] | {"counts": found["rle"]["counts"].encode()}
        labels[mask_tools.decode(code) == 1] = found["label"]
    return labels


def test_a_photo_in_a_form_as_the_body_and_by_every_kind_of_support(
    server: Server, files: Files, wanted: list[Result]
) -> None:
    memory = server.ask("GET", "/memories/disc").body
    photo = ("photo", files[1].photo, "folder/one.png")
    shown = [("support", files[0].photo), ("mask", files[0].mask), ("name", "disc")]
    answers = [
        server.ask("POST", "/segment", parts=[photo, ("memory", "disc")]),
        server.ask("POST", "/segment?memory=disc", parts=[photo]),
        server.ask("POST", "/bundles/tiny/segment?memory=disc", parts=[photo]),
        server.ask("POST", "/segment?bundle=other", parts=[photo, *shown]),
        server.ask("POST", "/segment", parts=[photo, ("memory_file", memory)]),
        server.ask("POST", "/segment?memory=disc", files[1].photo, {"Content-Type": "image/png"}),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        (found,) = answer.json["photos"]
        np.testing.assert_array_equal(labels_of(found), wanted[1].labels)
        (one,) = found["classes"]
        assert one["score"] == pytest.approx(wanted[1].scores[0], abs=1e-5)
        assert (one["area"], tuple(one["box"]), one["name"]) == (wanted[1].areas[0], wanted[1].boxes[0], "disc")
        assert {"queue", "decode", "engine", "encode"} <= set(found["ms"])
    assert [answer.json["photos"][0]["photo"] for answer in answers] == ["one.png"] * 5 + [""]
    assert answers[3].json["bundle"] == "other"


def test_many_photos_come_back_in_their_order(server: Server, files: Files, wanted: list[Result]) -> None:
    parts = [("photo", file.photo, f"{number}.png") for number, file in enumerate(files)] * 3
    answer = server.ask("POST", "/segment?memory=disc", parts=parts)
    assert answer.status == 200
    assert [photo["photo"] for photo in answer.json["photos"]] == [f"{n}.png" for n in range(len(files))] * 3
    for photo, one in zip(answer.json["photos"], wanted * 3, strict=True):
        np.testing.assert_array_equal(labels_of(photo), one.labels)


def test_several_classes_are_numbered_as_they_are_given(
    server: Server, files: Files, shots: Shots, segmenter: Segmenter
) -> None:
    shown = [
        part
        for number, name in ((0, "a b"), (1, "ü"), (2, "a b"))
        for part in (("support", files[number].photo), ("mask", files[number].mask), ("name", name))
    ]
    answer = server.ask("POST", "/segment?memory=disc", parts=[("photo", files[3].photo), *shown])
    assert answer.status == 200, answer.body
    (photo,) = answer.json["photos"]
    assert [one["name"] for one in photo["classes"]] == ["disc", "a b", "ü"]
    both = segmenter.encode_supports({"a b": [shots[0], shots[2]], "ü": [shots[1]]}, leave_one_out=False)
    memories = [segmenter.encode_support([shots[0]], "disc"), *both]
    np.testing.assert_array_equal(labels_of(photo), segmenter.segment(shots[3][0], memories))


def test_the_label_map_and_the_overlay_are_pictures(server: Server, files: Files, wanted: list[Result]) -> None:
    for path, headers in (("format=png", {}), ("", {"Accept": "image/png"}), ("", {"Accept": "image/png;q=1, */*"})):
        answer = server.ask("POST", f"/segment?memory=disc&{path}", headers=headers, parts=[("photo", files[2].photo)])
        assert answer.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), wanted[2].labels)
    overlay = server.ask("POST", "/segment?memory=disc&format=overlay", parts=[("photo", files[2].photo)])
    assert overlay.headers["content-type"] == "image/jpeg"
    drawn = np.asarray(Image.open(io.BytesIO(overlay.body)).convert("RGB"), np.int16)
    assert drawn.shape == wanted[2].pixels.shape
    # the noise of the photo is what JPEG loses; its colours are those of the overlay
    assert np.abs(drawn.mean((0, 1)) - wanted[2].plot().mean((0, 1))).max() < 4


def test_formats_are_those_of_results(server: Server, files: Files, wanted: list[Result]) -> None:
    def ask(name: str, *numbers: int) -> Any:
        parts = [("photo", files[number].photo, f"{number}.png") for number in numbers]
        answer = server.ask("POST", f"/segment?memory=disc&format={name}", parts=parts)
        assert answer.status == 200, answer.body
        return answer if name == "yolo" else answer.json

    assert ask("polygons", 1) == wanted[1].to_polygons()
    assert ask("geojson", 1) == wanted[1].to_geojson()
    assert ask("labelme", 1) == wanted[1].to_labelme("1.png")
    assert ask("label-studio", 1) == wanted[1].to_label_studio("1.png")
    assert ask("labelme", 1, 2) == [wanted[1].to_labelme("1.png"), wanted[2].to_labelme("2.png")]
    assert ask("yolo", 1).body.decode() == wanted[1].to_yolo()
    assert ask("coco", 1) == wanted[1].to_coco("1.png")
    both = ask("coco", 1, 2)
    assert [image["file_name"] for image in both["images"]] == ["1.png", "2.png"]
    assert [image["id"] for image in both["images"]] == [1, 2]
    ids = [one["id"] for one in both["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for number in (1, 2):
        own = sum(one["area"] for one in both["annotations"] if one["image_id"] == number)
        assert own == sum(wanted[number].areas)


def test_a_jpeg_that_lies_on_its_side_is_turned(server: Server, shots: Shots, segmenter: Segmenter) -> None:
    upright = shots[0][0]
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(file, "JPEG", exif=turned, quality=95)
    answer = server.ask("POST", "/segment?memory=disc", file.getvalue(), {"Content-Type": "image/jpeg"})
    (photo,) = answer.json["photos"]
    assert (photo["height"], photo["width"]) == upright.shape[:2]
