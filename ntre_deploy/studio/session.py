"""What was marked: classes, photos and label maps, in a folder that a kill or a reload cannot harm."""

import hashlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, plain_name
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES, read_image, write_png
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.results.saving import write_text
from ntre_deploy.studio.photos import Photo, open_photo

Pixels = NDArray[np.uint8]

FILE, PHOTOS, MARKS, KEY = "session.json", "photos", "marks", "token"
FORMAT, VERSION = "ntre-studio", 1
# label 0 is what nobody has marked, and 255 what is to be ignored
MOST_CLASSES = 254
MOST_PHOTOS = 2000
_LONGEST = 60
# what `add` and `mark` call the files of photos
_KEPT = re.compile(r"[0-9a-f]{16}\.[a-z]{3,5}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class StudioClass:
    """A class: its value in the label maps, 1 to 254, which it keeps; its name; its colour, `#rrggbb`."""

    number: int
    name: str
    colour: str


@dataclass(frozen=True)
class Mark:
    """What is known of a photo's label map without reading it.

    Attributes:
        order: counts the photos as they were marked first.
        digest: SHA-256 of its pixels.
        numbers: of the classes that occur.
    """

    order: int
    digest: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The classes that have shots and, for each, its shots as (photo, digest of its label map), the newest last."""

    classes: tuple[StudioClass, ...]
    shots: tuple[tuple[tuple[str, str], ...], ...]
    revision: int

    @property
    def key(self) -> tuple[object, ...]:
        """What the memories follow from."""
        return tuple((c.number, shots) for c, shots in zip(self.classes, self.shots, strict=True))


class Session:
    """The state of a studio, in memory and in its folder; several threads may use it.

    Args:
        folder: made where it is missing.
        opened: photos of the opened folders, which stay where they are until they are marked.

    Raises:
        InputError: the folder cannot be used, or holds something else.
    """

    def __init__(self, folder: Path, opened: Sequence[Photo] = ()) -> None:
        self.folder = folder.resolve()
        self._lock = threading.RLock()
        self.classes: list[StudioClass] = []
        self.photos: dict[str, Photo] = {photo.id: photo for photo in opened}
        self.marks: dict[str, Mark] = {}
        self._kept: dict[str, tuple[str, str]] = {}
        # differs from that of an earlier server, so that a page which was left open asks anew
        self.revision = time.time_ns() // 1_000_000
        for inner in (PHOTOS, MARKS):
            if (self.folder / inner).is_symlink():
                raise InputError(f"{self.folder / inner} is a link; choose another folder with --session.")
        if (self.folder / FILE).exists():
            self._load()
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is there and no session of the studio; choose another with --session.")
        try:
            for inner in (PHOTOS, MARKS):
                (self.folder / inner).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write {self.folder}: {error.strerror}; choose another with --session.") from error
        self._save()

    def token(self) -> str:
        """The secret of the page's address; it stays, so that a page which is open finds a server that came back.

        Raises:
            InputError: it cannot be written.
        """
        file = self.folder / KEY
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o077 == 0:
            text = file.read_text("ascii", "replace").strip()
            if re.fullmatch(r"[\w-]{32,64}", text):
                return text
        text = secrets.token_urlsafe(32)
        with atomic_file(file, mode=0o600) as temporary:
            temporary.write_text(text)
        return text

    def photo(self, photo_id: str) -> Photo:
        """The photo of an id.

        Raises:
            InputError: there is none.
        """
        if photo_id not in self.photos:
            raise InputError("There is no such photo; reload the page.")
        return self.photos[photo_id]

    def add(self, name: str, content: bytes) -> Photo:
        """Keep a photo that the page has sent; the same bytes are the same photo.

        Raises:
            InputError: it is no photo that can be read, is too large, or there are too many.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            raise InputError(f"{name[:80]} is no photo; {', '.join(IMAGE_SUFFIXES)} are.")
        if len(self.photos) >= MOST_PHOTOS:
            raise InputError(f"There are {MOST_PHOTOS} photos already; a session takes no more.")
        key = hashlib.sha256(content).hexdigest()
        file = self.folder / PHOTOS / f"{key[:16]}{suffix}"
        shown = f"{plain_name(Path(name).stem)}{suffix}"
        with atomic_file(file) as temporary:
            temporary.write_bytes(content)
            photo = open_photo(temporary, self.folder, shown, key)
            try:
                read_image(temporary)  # damage behind the header
            except InputError as error:
                raise InputError(f"{shown} is damaged or cut off; it cannot be read.") from error
        photo = Photo(photo.id, shown, file, self.folder, photo.size)
        with self._lock:
            self._kept[photo.id] = (shown, file.name)
            self.photos.setdefault(photo.id, photo)
            self._save()
        return self.photos[photo.id]

    def remove(self, photo_id: str) -> None:
        """Take a photo off the strip, with its marks; a file outside the session's folder stays."""
        with self._lock:
            self.photo(photo_id)
            self.unmark(photo_id)
            del self.photos[photo_id]
            kept = self._kept.pop(photo_id, None)
            self._save()
        if kept is not None:
            (self.folder / PHOTOS / kept[1]).unlink(missing_ok=True)

    def set_classes(self, content: object) -> None:
        """Take the page's list of classes; what was marked of those that are gone becomes unmarked.

        Raises:
            InputError: it is no such list.
        """
        classes = read_classes(content)
        with self._lock:
            gone = {c.number for c in self.classes} - {c.number for c in classes}
            for photo_id, mark in list(self.marks.items()):
                if gone & set(mark.numbers):
                    labels = self.labels(photo_id).copy()
                    labels[np.isin(labels, sorted(gone))] = 0
                    self._put(photo_id, labels)
            self.classes, before = classes, [c.number for c in self.plan().classes]
            # names and colours change nothing that is found
            if gone or before != [c.number for c in self.plan().classes]:
                self._changed()
            else:
                self._save()

    def labels(self, photo_id: str) -> Pixels:
        """uint8 [h, w] at the photo's working size: 0 unmarked, the number of a class, or 255 to be ignored.

        Raises:
            InputError: it is not marked, or its file is damaged.
        """
        photo = self.photo(photo_id)
        if photo_id not in self.marks:
            raise InputError(f"{photo.name} is not marked.")
        return _read_labels(self._mark_file(photo_id), photo)

    def mark(self, photo_id: str, labels: Pixels) -> None:
        """Keep the label map of a photo; an empty one unmarks it.

        Args:
            labels: as `labels` gives it.

        Raises:
            InputError: another size than the photo's, values that are no class, or the file cannot be written.
        """
        with self._lock:
            photo = self.photo(photo_id)
            if labels.shape != photo.working:
                raise InputError(f"The marks of {photo.name} must be {photo.working[1]} x {photo.working[0]} pixels.")
            known = {c.number for c in self.classes} | {0, IGNORE}
            if odd := set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()) - known:
                raise InputError(f"The marks of {photo.name} hold {sorted(odd)[:4]}, which are no classes.")
            if photo_id not in self._kept and labels.any():
                self._keep(photo)
            self._put(photo_id, labels)
            self._changed()

    def unmark(self, photo_id: str) -> None:
        """Forget what was marked in a photo."""
        with self._lock:
            if self.marks.pop(photo_id, None) is not None:
                self._mark_file(photo_id).unlink(missing_ok=True)
                self._changed()

    def plan(self) -> Plan:
        """What is to be encoded now."""
        with self._lock:
            order = sorted(self.marks, key=lambda photo_id: self.marks[photo_id].order)
            found = [
                (c, tuple((p, self.marks[p].digest) for p in order if c.number in self.marks[p].numbers))
                for c in self.classes
            ]
            there = [(c, shots) for c, shots in found if shots]
            return Plan(tuple(c for c, _ in there), tuple(shots for _, shots in there), self.revision)

    def content(self) -> dict[str, Any]:
        """What the page shows of it, for JSON."""
        with self._lock:
            return {
                "id": hashlib.sha256(str(self.folder).encode("utf-8", "surrogateescape")).hexdigest()[:16],
                "revision": self.revision,
                "folder": self.folder.name,
                "classes": [asdict(c) for c in self.classes],
                "photos": [self._entry(photo) for photo in self.photos.values()],
            }

    def _entry(self, photo: Photo) -> dict[str, Any]:
        height, width = photo.working
        mark = self.marks.get(photo.id)
        entry = {"id": photo.id, "name": photo.name, "width": width, "height": height}
        return entry | {"full": [photo.size[1], photo.size[0]], "mark": None if mark is None else asdict(mark)}

    def _put(self, photo_id: str, labels: Pixels) -> None:
        if not labels.any():
            self.marks.pop(photo_id, None)
            self._mark_file(photo_id).unlink(missing_ok=True)
            return
        write_png(self._mark_file(photo_id), labels)
        before = self.marks.get(photo_id)
        following = 1 + max((m.order for m in self.marks.values()), default=0)
        self.marks[photo_id] = _mark_of(labels, following if before is None else before.order)

    def _keep(self, photo: Photo) -> None:
        """A copy of a photo that was marked: the session is whole without the folder that it came from."""
        name = f"{photo.id}{photo.path.suffix.lower()}"
        with atomic_file(self.folder / PHOTOS / name) as temporary:
            shutil.copyfile(photo.file(), temporary)
        self._kept[photo.id] = (photo.name, name)

    def _mark_file(self, photo_id: str) -> Path:
        return self.folder / MARKS / f"{photo_id}.png"

    def _changed(self) -> None:
        self.revision += 1
        self._save()

    def _save(self) -> None:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "classes": [asdict(c) for c in self.classes],
            "photos": [{"id": i, "name": name, "file": file} for i, (name, file) in self._kept.items()],
            "marks": [{"photo": i, "order": m.order} for i, m in self.marks.items()],
        }
        write_text(self.folder / FILE, json.dumps(content, ensure_ascii=False, indent=1))

    def _load(self) -> None:
        content = read_json(self.folder / FILE)
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise InputError(f"{self.folder / FILE} is no session of version {VERSION}; choose another with --session.")
        self.classes = read_classes(content.get("classes"))
        for item in _dicts(content.get("photos")):
            photo_id, name, file = (str(item.get(key, "")) for key in ("id", "name", "file"))
            path = self.folder / PHOTOS / file
            if not re.fullmatch(r"[0-9a-f]{16}", photo_id) or not _KEPT.fullmatch(file) or path.is_symlink():
                raise InputError(f"{self.folder / FILE} names a photo that is not of the session: {file!r}.")
            if path.is_file():
                self._kept[photo_id] = (name, file)
                size = open_photo(path, self.folder, name).size
                # in place of the one that was opened, which may have changed since it was marked
                self.photos[photo_id] = Photo(photo_id, name, path, self.folder, size)
        for item in _dicts(content.get("marks")):
            photo_id, order = str(item.get("photo")), item.get("order")
            if photo_id in self.photos and isinstance(order, int) and self._mark_file(photo_id).is_file():
                labels = _read_labels(self._mark_file(photo_id), self.photos[photo_id])
                self.marks[photo_id] = _mark_of(labels, order)


def read_classes(content: object) -> list[StudioClass]:
    """A list of classes from JSON.

    Raises:
        InputError: it is none; names must be file names and, as numbers, occur once.
    """
    if not isinstance(content, list) or len(content) > MOST_CLASSES:
        raise InputError(f"A list of at most {MOST_CLASSES} classes is expected.")
    classes: list[StudioClass] = []
    for item in _dicts(content):
        number, name, colour = item.get("number"), item.get("name"), item.get("colour")
        if type(number) is not int or not 1 <= number <= MOST_CLASSES:
            raise InputError(f"A class needs a number from 1 to {MOST_CLASSES}.")
        if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
            raise InputError("A class needs a colour such as #d02090.")
        classes.append(StudioClass(number, _class_name(name), colour))
    names = [c.name.casefold() for c in classes]
    if twice := [c.name for c in classes if names.count(c.name.casefold()) > 1]:
        raise InputError(f"There are two classes '{twice[0]}'; give one another name.")
    if len({c.number for c in classes}) != len(classes):
        raise InputError("Two classes have one number.")
    return classes


def _class_name(name: object) -> str:
    """A name that can be one of a folder, as those of `ntre segment` and of a folder of classes are."""
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST:
        raise InputError(f"A class needs a name of 1 to {_LONGEST} letters.")
    bare = name.replace(" ", "_")
    if plain_name(bare) != bare or name != name.strip() or name[0] in "._-" or name in ("images", "masks"):
        raise InputError(f"'{name}' cannot be a class's name; use letters, digits, spaces and _.+- only.")
    return name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object.")
    return content


def _dicts(content: object) -> list[Mapping[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise InputError("A list of JSON objects is expected.")
    return content


def _mark_of(labels: Pixels, order: int) -> Mark:
    there = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
    numbers = tuple(int(n) for n in there if n not in (0, IGNORE))
    return Mark(order, hashlib.sha256(labels.tobytes()).hexdigest(), numbers)


def _read_labels(path: Path, photo: Photo) -> Pixels:
    try:
        with Image.open(path) as image:
            if image.mode != "L" or image.size != photo.working[::-1]:
                raise InputError(f"{path} is no label map of {photo.name}; remove it.")
            return np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} is damaged: {error}; remove it.") from error
