"""What annotation files of every kind come to: images, classes, and segmentations of each class in each image."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np

from ntre_deploy.data._segmentation import Segmentation, encode, mask_api
from ntre_deploy.errors import InputError, NtreWarning, did_you_mean
from ntre_deploy.runtime.imagefile import MAX_PIXELS
from ntre_deploy.runtime.masks import IGNORE, Pixels

# why an annotation shows no pixel, in the words of every kind of file
EMPTY, BOX, FEW, LINE, POINT = "empty", "box only", "of fewer than three points", "line only", "point only"


@dataclass(frozen=True)
class Entry:
    """An image: its file's name below the images folder, and (height, width), None where only the file knows."""

    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Regions:
    """Segmentations of one class in one image."""

    instances: list[Segmentation] = field(default_factory=list)
    crowds: list[Segmentation] = field(default_factory=list)


class Annotations:
    """Images and segmentations of one source; class ids are 0, 1, 2, ... in the order of `names`.

    Args:
        source: the file or folder, for messages.
        names: of the classes.
        single: they belong to one photo, whatever that is called.

    Attributes:
        source, single: as given.
        class_names: class id -> name.
        entries: image id -> its file and size.
        regions: class id -> image id -> segmentations.
        skipped: reason -> number of annotations that show no pixel.

    Raises:
        InputError: there are no classes.
    """

    def __init__(self, source: Path, names: Sequence[str], *, single: bool = False) -> None:
        if not names:
            raise InputError(f"{source} has no classes.")
        self.source = source
        self.single = single
        self.class_names: Mapping[int, str] = MappingProxyType(dict(enumerate(names)))
        self.entries: dict[str, Entry] = {}
        self.regions: dict[int, dict[str, Regions]] = {class_id: {} for class_id in self.class_names}
        self.skipped: Counter[str] = Counter()
        self._taken = 0

    def add_image(self, where: str, image_id: str, file_name: str, size: tuple[int, int] | None) -> None:
        """List an image.

        Args:
            where: names its record in messages.
            size: (height, width), or None.

        Raises:
            InputError: the size is none, the name leaves the images folder, or the id is there already.
        """
        if size is not None:
            height, width = size
            if not 0 < height * width <= MAX_PIXELS or height < 0:
                raise InputError(f"{where} is {width} x {height}; 1 to {MAX_PIXELS:,} pixels are allowed.")
        if not inside(file_name):
            raise InputError(f"{where}: the file name {file_name!r} leaves the images folder or is no name.")
        if image_id in self.entries:
            raise InputError(f"{where}: the image id {image_id} occurs twice.")
        self.entries[image_id] = Entry(file_name, size)

    def add(self, class_id: int, image_id: str, segmentation: Segmentation, *, crowd: bool = False) -> None:
        """Take a segmentation of a class and an image that are listed; it is checked when it is used."""
        own = self.regions[class_id].setdefault(image_id, Regions())
        (own.crowds if crowd else own.instances).append(segmentation)
        self._taken += 1

    def skip(self, reason: str) -> None:
        """Count an annotation that shows no pixel."""
        self.skipped[reason] += 1

    def close(self, *, strict: bool) -> None:
        """Say once how many annotations were skipped, as an `NtreWarning`.

        Raises:
            InputError: some were and `strict` is set, or no annotation was left.
        """
        count = sum(self.skipped.values())
        if not count:
            return
        total = count + self._taken
        if not self._taken:
            raise InputError(f"{self.source}: none of its {total:,} annotations has a mask; export it with polygons.")
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.skipped.items())
        if strict:
            raise InputError(
                f"{self.source}: {count:,} of {total:,} annotations have no mask: {reasons}; mend or remove them, or "
                "leave out --strict to skip them."
            )
        warnings.warn(
            f"{self.source}: skipped {count:,} of {total:,} annotations: {reasons}; --strict stops",
            NtreWarning,
            stacklevel=3,
        )

    def entry(self, image_id: str) -> Entry:
        """The image of this id.

        Raises:
            InputError: there is none.
        """
        if image_id not in self.entries:
            raise InputError(f"{self.source} has no image '{image_id}'.{did_you_mean(image_id, self.entries)}")
        return self.entries[image_id]

    def ids_of(self, name: str) -> list[str]:
        """Ids of the images that a text means: an id, or the last parts of a file's name; of several, those that agree
        with most parts of it."""
        if name in self.entries:
            return [name]
        parts = PureWindowsPath(name).parts[::-1]
        shared = {}
        for image_id, entry in self.entries.items():
            own = PureWindowsPath(entry.file_name).parts[::-1]
            equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, own, strict=False)))
            if equal:
                shared[image_id] = equal
        return [image_id for image_id, equal in shared.items() if equal == max(shared.values())]

    def classes_in(self, image_id: str) -> dict[str, int]:
        """Names and ids of the classes of which the image has an instance."""
        found = {class_id: images[image_id] for class_id, images in self.regions.items() if image_id in images}
        return {self.class_names[class_id]: class_id for class_id, regions in found.items() if regions.instances}

    def area(self, image_id: str, class_id: int, size: tuple[int, int]) -> int:
        """Pixels of the instances of a class in an image of this (height, width), without decoding them.

        Raises:
            InputError: a segmentation is bad.
        """
        regions = self.regions[class_id].get(image_id, Regions())
        return int(mask_api().area(self._merged(image_id, regions.instances, size))) if regions.instances else 0

    def mask(self, image_id: str, class_id: int, size: tuple[int, int]) -> Pixels:
        """uint8 [H, W] of this (height, width): 1 on instances of the class, 255 on its crowd regions, 0 elsewhere.

        Raises:
            InputError: a segmentation is bad.
        """
        mask = np.zeros(size, np.uint8)
        regions = self.regions[class_id].get(image_id, Regions())
        for segmentations, value in ((regions.crowds, IGNORE), (regions.instances, 1)):
            if segmentations:
                mask[mask_api().decode(self._merged(image_id, segmentations, size)) != 0] = value
        return mask

    def _merged(self, image_id: str, segmentations: list[Segmentation], size: tuple[int, int]) -> Any:
        """Union of several segmentations as one compressed code of pycocotools."""
        try:
            return mask_api().merge([encode(s, *size) for s in segmentations])
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{self.source}: image {image_id} has a bad segmentation: {error}.") from error


def inside(name: str) -> bool:
    """Whether a file's name stays in the folder that it is joined to, by the rules of every system."""
    # Windows rules too: on every system a backslash or a drive must not be a way out
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    absolute = name.startswith(("/", "\\")) or bool(PureWindowsPath(name).drive)
    return bool(name) and not absolute and ".." not in parts and name.isprintable()


def load_json(path: Path, what: str) -> tuple[Any, bytes]:
    """Parsed JSON of a file, and its bytes.

    Raises:
        InputError: `what` is absent, or no JSON.
    """
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist or is not a file.")
    try:
        text = path.read_bytes()
        return json.loads(text), text
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{what} {path} is not JSON that can be read: {error}.") from error
