"""The session outlives a kill, and nothing outside its folder is read or written."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.studio.photos import find_photos
from ntre_deploy.studio.session import Session

CLASSES = [{"number": 1, "name": "key", "colour": "#d02090"}, {"number": 2, "name": "cup", "colour": "#20d090"}]


@pytest.fixture
def session(scenes, tmp_path: Path) -> Session:
    made = Session(tmp_path / "session", find_photos([scenes.photos])[0])
    made.set_classes(CLASSES)
    return made


def _first(session: Session) -> tuple[str, np.ndarray]:
    photo = next(iter(session.photos.values()))
    labels = np.zeros(photo.working, np.uint8)
    labels[10:40, 10:60] = 1
    return photo.id, labels


def test_what_was_marked_is_there_after_a_kill(session: Session, scenes) -> None:
    photo_id, labels = _first(session)
    labels[:5], labels[50:70, :30] = 255, 2
    session.mark(photo_id, labels)
    # no end of any kind: this is what a kill leaves
    again = Session(session.folder, find_photos([scenes.photos])[0])
    assert again.content()["classes"] == CLASSES
    np.testing.assert_array_equal(again.labels(photo_id), labels)
    assert again.marks[photo_id].numbers == (1, 2)
    assert again.plan().key == session.plan().key


def test_the_session_is_whole_without_the_folder_of_the_photos(session: Session) -> None:
    photo_id, labels = _first(session)
    session.mark(photo_id, labels)
    again = Session(session.folder)
    assert list(again.photos) == [photo_id]
    np.testing.assert_array_equal(again.labels(photo_id), labels)
    assert again.photos[photo_id].file().is_relative_to(session.folder)


def test_the_order_of_the_shots_is_that_of_the_marking(session: Session, scenes) -> None:
    ids = list(session.photos)
    for photo_id in (ids[2], ids[0], ids[1], ids[2]):
        labels = np.zeros(session.photos[photo_id].working, np.uint8)
        labels[: 20 + len(session.marks)] = 1
        session.mark(photo_id, labels)
    wanted = [ids[2], ids[0], ids[1]]
    assert [p for p, _ in session.plan().shots[0]] == wanted
    again = Session(session.folder, find_photos([scenes.photos])[0])
    assert [p for p, _ in again.plan().shots[0]] == wanted


def test_a_deleted_class_takes_its_marks_along(session: Session) -> None:
    photo_id, labels = _first(session)
    labels[60:80] = 2
    session.mark(photo_id, labels)
    session.set_classes(CLASSES[1:])
    np.testing.assert_array_equal(session.labels(photo_id), np.where(labels == 1, 0, labels))
    session.set_classes([])
    assert session.marks == {}
    assert list((session.folder / "marks").iterdir()) == []


def test_another_name_or_colour_changes_nothing_that_is_found(session: Session) -> None:
    session.mark(*_first(session))
    revision = session.revision
    session.set_classes([CLASSES[0] | {"name": "spoon", "colour": "#000000"}, CLASSES[1]])
    assert session.revision == revision
    assert session.plan().classes[0].name == "spoon"


def test_the_token_stays_and_is_the_owners_alone(session: Session) -> None:
    token = session.token()
    assert len(token) >= 32
    assert session.token() == Session(session.folder).token() == token
    file = session.folder / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)  # others may have read it
    assert session.token() != token


def test_a_link_out_of_the_opened_folder_is_not_followed(scenes, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes((scenes.photos / scenes.names[0]).read_bytes())
    (folder / "own.png").write_bytes(secret.read_bytes())
    (folder / "link.png").symlink_to(secret)
    (folder / "inside.png").symlink_to(folder / "own.png")
    photos, skipped = find_photos([folder])
    assert "link.png" not in [photo.name for photo in photos]
    assert [path.name for path, _ in skipped] == ["link.png"]
    assert "out of the opened folder" in skipped[0].reason


def test_a_photo_that_becomes_a_link_later_is_not_read(scenes, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((scenes.photos / scenes.names[0]).read_bytes())
    photos, _ = find_photos([folder])
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(scenes.photos / scenes.names[1])
    with pytest.raises(InputError, match="leads out of the opened folder"):
        photos[0].file()
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match="not there any more"):
        photos[1].file()


def test_a_session_whose_folders_are_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Session(tmp_path / "session")
    (tmp_path / "session" / "marks").rmdir()
    (tmp_path / "session" / "marks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        Session(tmp_path / "session")


@pytest.mark.parametrize("file", ["../../secret.png", "/etc/passwd", "..", "a/b.png"])
def test_a_session_that_names_files_elsewhere_is_refused(file: str, tmp_path: Path) -> None:
    Session(tmp_path / "session")
    path = tmp_path / "session" / "session.json"
    content = json.loads(path.read_text())
    content["photos"] = [{"id": "0" * 16, "name": "x.png", "file": file}]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not of the session"):
        Session(tmp_path / "session")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="no session"):
        Session(tmp_path / "work")
    assert os.listdir(tmp_path / "work") == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "other"}', "[" * 100_000])
def test_a_damaged_session_is_named_and_stays(text: str, tmp_path: Path) -> None:
    Session(tmp_path / "session")
    path = tmp_path / "session" / "session.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"session\.json"):
        Session(tmp_path / "session")
    assert path.read_text() == text


def test_a_large_photo_is_marked_smaller_and_exported_at_its_own_size(tmp_path: Path) -> None:
    from ntre_deploy.studio.exports import full_labels
    from ntre_deploy.studio.photos import Pictures

    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (4000, 3000), (200, 30, 30)).save(folder / "large.jpg")
    photos, _ = find_photos([folder])
    session = Session(tmp_path / "session", photos)
    session.set_classes(CLASSES)
    assert photos[0].working == (1536, 2048)
    assert Pictures().working(photos[0]).shape == (1536, 2048, 3)
    labels = np.zeros((1536, 2048), np.uint8)
    labels[:768] = 1
    session.mark(photos[0].id, labels)
    full = full_labels(session, session.photos[photos[0].id])
    assert full.shape == (3000, 4000)
    assert (full[:1500] == 1).all()
    assert not full[1500:].any()
