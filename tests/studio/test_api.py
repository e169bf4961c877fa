"""What the page asks for: the server's answers are those of the project's own functions."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.segment.grabcut import cut, read_box, read_points


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def marked(studio, scenes):
    """A server whose first two photos are shots, with their ids and the revision."""
    server = studio().ready()
    ids = {p["name"]: p["id"] for p in server.state()["photos"]}
    for name in scenes.names[:2]:
        revision = server.marked(ids[name], scenes.masks[name])
    return server, ids, revision


def test_the_strip_shows_the_photos_of_the_folder(quiet, scenes) -> None:
    state = quiet.state()
    assert [p["name"] for p in state["photos"]] == scenes.names
    for photo in state["photos"]:
        size = Image.open(scenes.photos / photo["name"]).size
        assert (photo["width"], photo["height"]) == tuple(photo["full"]) == size
        assert photo["mark"] is None
    assert str(scenes.photos) not in json.dumps(state)
    assert state["engine"]["state"] == "ready"


def test_pictures_are_those_of_the_files(quiet, scenes) -> None:
    photo = quiet.state()["photos"][0]
    picture = np.asarray(Image.open(io.BytesIO(quiet.ask("GET", f"/api/photos/{photo['id']}/image").body)))
    wanted = read_image(scenes.photos / photo["name"])
    assert picture.shape == wanted.shape
    assert np.abs(picture.astype(int) - wanted).mean() < 5
    thumb = Image.open(io.BytesIO(quiet.ask("GET", f"/api/photos/{photo['id']}/thumb").body))
    assert max(thumb.size) <= 320


def test_label_maps_are_those_of_the_segmenter(marked, scenes, exported: Path) -> None:
    server, ids, revision = marked
    segmenter = Segmenter.load(exported, threads=1)
    shots = [(read_image(scenes.photos / name), scenes.masks[name]) for name in scenes.names[:2]]
    memory = segmenter.encode_support(shots, "thing 1")
    for name in scenes.names[2:]:
        answer = server.ask("GET", f"/api/photos/{ids[name]}/labels?revision={revision}")
        wanted = segmenter.segment(read_image(scenes.photos / name), memory)
        assert wanted.any()
        np.testing.assert_array_equal(answer.labels, wanted)
        small = server.ask("GET", f"/api/photos/{ids[name]}/labels?side=100").labels
        assert max(small.shape) <= 100
        assert abs(small.mean() - wanted.mean()) < 0.05
    scores = server.ask("GET", "/api/scores").json["scores"]
    assert [s["number"] for s in scores] == [1]
    assert scores[0]["scores"] == pytest.approx(memory.shot_scores)
    assert scores[0]["shots"] == [ids[name] for name in scenes.names[:2]]
    assert scores[0]["gained"] is None


def test_several_classes_keep_their_numbers_and_are_calibrated(marked, scenes, exported: Path) -> None:
    server, ids, _ = marked
    a, b, c = scenes.names[:3]
    other = np.zeros_like(scenes.masks[c])
    other[10:60, 20:90] = 1
    revision = server.marked(ids[c], other, number=7)
    segmenter = Segmenter.load(exported, threads=1)
    shots = {"thing 1": [a, b], "thing 7": [c]}
    masks = scenes.masks | {c: other}
    classes = {n: [(read_image(scenes.photos / s), masks[s]) for s in names] for n, names in shots.items()}
    memories = segmenter.encode_supports(classes)
    photo = scenes.names[3]
    wanted = segmenter.segment(read_image(scenes.photos / photo), memories)
    found = server.ask("GET", f"/api/photos/{ids[photo]}/labels?revision={revision}").labels
    np.testing.assert_array_equal(found, np.array([0, 1, 7], np.uint8)[wanted])


def test_what_the_newest_shot_has_gained_is_measured_on_the_others(marked, scenes, exported: Path) -> None:
    server, ids, _ = marked
    name = scenes.names[2]
    server.marked(ids[name], scenes.masks[name])
    segmenter = Segmenter.load(exported, threads=1)
    shots = [(read_image(scenes.photos / name), scenes.masks[name]) for name in scenes.names[:3]]
    now = segmenter.encode_support(shots).shot_scores
    then = segmenter.encode_support(shots[:2]).shot_scores
    assert now is not None
    assert then is not None
    gained = server.ask("GET", "/api/scores").json["scores"][0]["gained"]
    assert gained == pytest.approx(np.mean(np.subtract(now[:2], then)))


def test_an_ignored_region_is_one_for_the_network(marked, scenes, exported: Path) -> None:
    server, ids, _ = marked
    a, photo = scenes.names[0], scenes.names[3]
    labels = scenes.masks[a].copy()
    labels[:40] = 255
    assert server.ask("PUT", f"/api/photos/{ids[a]}/marks", labels.tobytes()).status == 200
    assert (
        server.ask(
            "PUT",
            f"/api/photos/{ids[scenes.names[1]]}/marks",
            bytes(labels.size * 0 + scenes.masks[scenes.names[1]].size),
        ).status
        == 200
    )
    segmenter = Segmenter.load(exported, threads=1)
    memory = segmenter.encode_support([(read_image(scenes.photos / a), labels)])
    wanted = segmenter.segment(read_image(scenes.photos / photo), memory)
    np.testing.assert_array_equal(server.ask("GET", f"/api/photos/{ids[photo]}/labels").labels, wanted)


def test_boxes_and_clicks_are_those_of_grabcut(quiet, scenes) -> None:
    photo = quiet.state()["photos"][0]
    image = read_image(scenes.photos / photo["name"])
    ys, xs = np.nonzero(scenes.masks[photo["name"]])
    box = [int(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]
    found = quiet.ask("POST", f"/api/photos/{photo['id']}/grabcut", json={"box": box})
    np.testing.assert_array_equal(found.labels, cut(image, read_box(",".join(map(str, box)))))
    middle = [int(xs[len(xs) // 2]), int(ys[len(ys) // 2])]
    found = quiet.ask("POST", f"/api/photos/{photo['id']}/grabcut", json={"points": [middle], "background": [[3, 4]]})
    wanted = cut(image, read_points(f"{middle[0]},{middle[1]};-3,4"))
    np.testing.assert_array_equal(found.labels, wanted)


def test_a_frame_is_segmented_as_a_photo(marked, scenes, exported: Path) -> None:
    server, ids, _ = marked
    image = read_image(scenes.photos / scenes.names[3])
    frame = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    height, width = image.shape[:2]
    answer = server.ask("POST", f"/api/frame?width={width}&height={height}", frame.tobytes())
    wanted = server.ask("GET", f"/api/photos/{ids[scenes.names[3]]}/labels").labels
    np.testing.assert_array_equal(answer.labels, wanted)
    assert float(answer.headers["x-ms"]) > 0


def test_an_old_revision_is_outdated(marked, scenes) -> None:
    server, ids, revision = marked
    for path in (f"/api/photos/{ids[scenes.names[3]]}/labels?revision={revision - 1}", "/api/scores?revision=0"):
        assert server.ask("GET", path).status == 409


def test_of_many_requests_for_one_photo_all_are_answered(marked, scenes) -> None:
    server, ids, _ = marked
    with ThreadPoolExecutor(8) as pool:
        path = f"/api/photos/{ids[scenes.names[3]]}/labels"
        found = list(pool.map(lambda _: server.ask("GET", path).status, range(16)))
    assert set(found) <= {200, 409}
    assert 200 in found


def test_before_anything_is_marked_nothing_is_found_and_that_is_said(quiet) -> None:
    photo = quiet.state()["photos"][0]["id"]
    for answer in (
        quiet.ask("GET", f"/api/photos/{photo}/labels"),
        quiet.ask("POST", "/api/frame?width=2&height=2", bytes(16)),
        quiet.ask("POST", "/api/export", json={"kind": "session"}),
    ):
        assert answer.status == 400
        assert "Nothing is marked yet" in answer.error
    assert quiet.ask("GET", "/api/scores").json["scores"] == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"hello", "is no photo"),
        ("photo.jpg", b"hello", "is not an image that can be read"),
        ("photo.jpg", b"", "is not an image that can be read"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "photo.png"),
        ("../../evil.sh", b"#!/bin/sh", "is no photo"),
        ("a" * 900 + ".png", b"x", "is no photo"),
        ("", b"x", "is no photo"),
    ],
)
def test_a_file_that_is_no_photo_is_named(name: str, content: bytes, words: str, quiet) -> None:
    from urllib.parse import quote

    answer = quiet.ask("POST", f"/api/photos?name={quote(name)}", content)
    assert answer.status == 400
    assert words in answer.error
    assert len(quiet.state()["photos"]) == 4


def test_a_photo_of_100_megapixels_is_refused_with_its_size(quiet) -> None:
    answer = quiet.ask("POST", "/api/photos?name=large.png", _png(10_000, 10_000))
    assert answer.status == 400
    assert "large.png has 10000 x 10000 pixels (100 megapixels)" in answer.error
    assert "up to 60" in answer.error
    bomb = quiet.ask("POST", "/api/photos?name=bomb.png", _png(30_000, 30_000))
    assert bomb.status == 400
    assert "bomb.png" in bomb.error
    assert len(quiet.state()["photos"]) == 4


def test_a_photo_that_is_cut_off_is_refused(quiet, scenes) -> None:
    content = (scenes.photos / scenes.names[0]).read_bytes()
    answer = quiet.ask("POST", "/api/photos?name=half.png", content[: len(content) // 2])
    assert answer.status == 400
    assert "half.png is damaged or cut off" in answer.error


def test_photos_come_in_once_and_go(studio, scenes, session_folder: Path) -> None:
    server = studio(photos=None)
    assert server.state()["photos"] == []
    content = (scenes.photos / scenes.names[0]).read_bytes()
    first = server.ask("POST", "/api/photos?name=my%20key%20%2F..png", content).json["photo"]
    again = server.ask("POST", "/api/photos?name=other.png", content).json["photo"]
    assert again["id"] == first["id"]
    assert first["name"] == "..png" or "/" not in first["name"]
    assert len(server.state()["photos"]) == 1
    assert len(list((session_folder / "photos").iterdir())) == 1
    assert server.ask("DELETE", f"/api/photos/{first['id']}").status == 200
    assert server.state()["photos"] == []
    assert list((session_folder / "photos").iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"NaN", b"null", b"3", b'"x"', b"{}", b"[1]", b'[{"number": 1}]',
     b'[{"number": true, "name": "a", "colour": "#000000"}]', b'[{"number": 0, "name": "a", "colour": "#000000"}]',
     b'[{"number": 255, "name": "a", "colour": "#000000"}]', b'[{"number": 1, "name": "../a", "colour": "#000000"}]',
     b'[{"number": 1, "name": "", "colour": "#000000"}]', b'[{"number": 1, "name": ".a", "colour": "#000000"}]',
     b'[{"number": 1, "name": "_a", "colour": "#000000"}]', b'[{"number": 1, "name": "a<b>", "colour": "#000000"}]',
     b'[{"number": 1, "name": "a", "colour": "red;}"}]', b'[{"number": 1e400, "name": "a", "colour": "#000000"}]',
     b'[{"number": 1, "name": "a", "colour": "#000000"}, {"number": 2, "name": "A", "colour": "#000000"}]',
     b'[{"number": 1, "name": "a", "colour": "#000000"}, {"number": 1, "name": "b", "colour": "#000000"}]'],
)  # fmt: skip
def test_hostile_classes_are_refused_and_change_nothing(body: bytes, quiet) -> None:
    answer = quiet.ask("PUT", "/api/classes", body)
    assert answer.status == 400, answer.body
    assert answer.error.endswith(".")
    assert quiet.state()["classes"] == []


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"box": 1}', b'{"box": [1, 2, 3]}', b'{"box": [1, 2, 3, "4"]}', b'{"box": [NaN, 0, 1, 1]}',
     b'{"box": [1e999, 0, 1, 1]}', b'{"box": [-1, 0, 9, 9]}', b'{"box": [0, 0, 2000, 2000]}', b'{"box": [5, 5, 5, 5]}',
     b'{"points": []}', b'{"points": [[1]]}', b'{"points": [[1, 1]], "background": 3}', b'{"points": [[true, 1]]}',
     b'{"points": "' + b"9" * 300_000 + b'"}'],
)  # fmt: skip
def test_hostile_prompts_are_refused(body: bytes, quiet) -> None:
    photo = quiet.state()["photos"][0]["id"]
    answer = quiet.ask("POST", f"/api/photos/{photo}/grabcut", body)
    assert answer.status == 400, answer.body
    assert answer.error


def test_marks_of_another_size_or_of_no_class_are_refused(quiet) -> None:
    photo = quiet.state()["photos"][0]
    size, path = photo["width"] * photo["height"], f"/api/photos/{photo['id']}/marks"
    for body in (b"", bytes(size - 1), bytes(size + 1), b"\x05" * size, bytes(5_000_000)):
        answer = quiet.ask("PUT", path, body)
        assert answer.status == 400
        assert answer.error
    assert quiet.state()["photos"][0]["mark"] is None


@pytest.mark.parametrize("query", ["", "?width=2", "?width=2&height=0", "?width=-2&height=2", "?width=9e9&height=2"])
def test_hostile_frames_are_refused(query: str, quiet) -> None:
    assert quiet.ask("POST", f"/api/frame{query}", bytes(16)).status == 400


def test_hostile_exports_are_refused(quiet) -> None:
    for body in (b"[]", b"{}", b'{"kind": 3}', b'{"kind": "../x"}', b'{"kind": "all"}'):
        answer = quiet.ask("POST", "/api/export", body)
        assert answer.status == 400, body


def test_a_body_that_is_too_long_is_not_read_to_its_end(quiet) -> None:
    answer = quiet.ask("PUT", "/api/classes", b"[" + b" " * 1_000_000)
    assert answer.status == 400
    assert "too long" in answer.error
