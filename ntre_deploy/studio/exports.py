"""What leaves the studio: memories, masks, annotations, and a folder that the other commands take as it is."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.files import plain_name
from ntre_deploy.runtime.imagefile import read_image, write_png
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.overlay import palette
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.results.saving import write_json, write_text
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.segment.coco import CocoResults
from ntre_deploy.segment.outputs import COCO
from ntre_deploy.segment.shots import read_shot
from ntre_deploy.studio.network import class_mask
from ntre_deploy.studio.photos import Photo
from ntre_deploy.studio.session import Plan, Session
from ntre_deploy.studio.texts import SCRIPT, readme, script

Pixels = NDArray[np.uint8]

KINDS = ("memories", "masks", "coco", "labelme", "session")
# a folder of classes has no others without an underscore in front
MEMORIES = "_memories"


def export(
    kind: str, out: Path, session: Session, bundle: Path, segmenter: Callable[[], Segmenter], *, predicted: bool
) -> None:
    """Write one kind of files into an empty folder.

    Args:
        kind: one of `KINDS`.
        out: the folder.
        bundle: of the segmenter, for the texts.
        segmenter: asked only where something is to be encoded or segmented.
        predicted: for masks and annotations, segment the photos that are not marked too.

    Raises:
        InputError: an unknown kind, nothing is marked, or a photo cannot be read.
        EngineError: the engine failed.
    """
    one_of(kind, KINDS, "Export")
    plan = session.plan()
    if not plan.classes:
        raise InputError("Nothing is marked yet; mark the object in one photo first.")
    names = pair_names(session, plan)
    pairs = out.parent / "pairs"
    if kind == "session":
        memories = encode_pairs(segmenter(), _write_pairs(out, session, plan, names))
        for memory in memories:
            memory.save(out / MEMORIES / f"{memory.name}.safetensors")
        write_text(out / SCRIPT, script(plan, bundle, names))
        write_text(out / "README.md", readme(plan, bundle, out.name, names))
    elif kind == "memories":
        for memory in encode_pairs(segmenter(), _write_pairs(pairs, session, plan, names)):
            memory.save(out / f"{memory.name}.safetensors")
    else:
        memories = encode_pairs(segmenter(), _write_pairs(pairs, session, plan, names)) if predicted else []
        _write_annotations(kind, out, session, plan, segmenter, memories)


def encode_pairs(segmenter: Segmenter, pairs: Mapping[str, list[tuple[Path, Path]]]) -> list[SupportMemory]:
    """The memories of classes from files, as `ntre segment` makes them of the same.

    Args:
        pairs: class -> photos and masks.

    Raises:
        InputError, EngineError: as `Segmenter.encode_supports`.
    """
    return segmenter.encode_supports({n: [read_shot(n, i, m) for i, m in found] for n, found in pairs.items()})


def full_labels(session: Session, photo: Photo) -> Pixels:
    """The label map of a marked photo at the photo's own size, uint8 [H, W].

    Raises:
        InputError: it is not marked.
    """
    labels = session.labels(photo.id)
    if labels.shape == photo.size:
        return labels
    return np.asarray(cv2.resize(labels, photo.size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def pair_names(session: Session, plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Class -> names of the files of its photos and masks, in the order of the plan's shots."""
    names: dict[str, list[tuple[str, str]]] = {}
    for item, shots in zip(plan.classes, plan.shots, strict=True):
        taken: set[str] = set()
        names[item.name] = []
        for photo_id, _ in shots:
            photo = session.photo(photo_id)
            stem = free_name(plain_name(Path(photo.name).stem), taken)
            names[item.name].append((f"{stem}{photo.path.suffix.lower()}", f"{stem}.png"))
    return names


def _write_pairs(
    out: Path, session: Session, plan: Plan, names: Mapping[str, list[tuple[str, str]]]
) -> dict[str, list[tuple[Path, Path]]]:
    """`<class>/images` and `<class>/masks` of all shots; returns the files of each class."""
    pairs: dict[str, list[tuple[Path, Path]]] = {}
    for item, shots in zip(plan.classes, plan.shots, strict=True):
        for (photo_id, _), (image_name, mask_name) in zip(shots, names[item.name], strict=True):
            photo = session.photo(photo_id)
            image, mask = out / item.name / "images" / image_name, out / item.name / "masks" / mask_name
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo.file(), image)
            values = class_mask(full_labels(session, photo), item.number)
            # white is easier to see than 1, but then nothing can be ignored
            write_png(mask, values if (values == IGNORE).any() else values * 255)
            pairs.setdefault(item.name, []).append((image, mask))
    return pairs


def _write_annotations(
    kind: str,
    out: Path,
    session: Session,
    plan: Plan,
    segmenter: Callable[[], Segmenter],
    memories: list[SupportMemory],
) -> None:
    names = [item.name for item in plan.classes]
    numbers = np.zeros(256, np.uint8)
    numbers[[item.number for item in plan.classes]] = range(1, len(names) + 1)
    numbers[IGNORE] = IGNORE
    coco, taken = CocoResults(names), set[str]()
    for photo in list(session.photos.values()):
        if photo.id in session.marks:
            labels = numbers[full_labels(session, photo)]
            # where a pixel is to be ignored is nothing that COCO or LabelMe can say
            result = Result(
                labels if kind == "masks" else np.where(labels == IGNORE, 0, labels).astype(np.uint8), names
            )
        elif memories:
            result = segmenter().segment_result(read_image(photo.file()), memories)
        else:
            continue
        stem = free_name(plain_name(Path(photo.name).stem), taken)
        name = f"{stem}{photo.path.suffix.lower()}"
        if kind == "masks":
            colours = np.zeros((256, 3), np.uint8)
            colours[: len(names) + 1] = palette(len(names))
            colours[IGNORE] = 128
            write_png(out / f"{stem}.png", result.labels, colours)
            continue
        target = out / name if kind == "labelme" else out / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo.file(), target)
        if kind == "labelme":
            write_json(out / f"{stem}.json", result.to_labelme(name))
        else:
            coco.add(name, result)
    if kind == "coco":
        coco.write(out / COCO)
    if kind == "masks":
        write_text(out / "classes.txt", "".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))


def free_name(stem: str, taken: set[str]) -> str:
    """`stem`, or with a number behind it where it is taken; it is taken then."""
    found, number = stem, 1
    while found.casefold() in taken:
        number += 1
        found = f"{stem}-{number}"
    taken.add(found.casefold())
    return found
