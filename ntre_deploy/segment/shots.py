"""Annotated images as people have them: a photo, and its mask as an image or a file of LabelMe, COCO, YOLO, CVAT."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels, read_image, read_mask
from ntre_deploy.runtime.masks import check_target, mask_choice

if TYPE_CHECKING:
    from ntre_deploy.data.annotations import Annotations

_SHOWN = 8


def mask_file(mask: Path) -> tuple[Path, list[str]]:
    """`FILE`, `FILE@CHOICE` or `FILE@IMAGE@CLASS` as the file and what stands behind it.

    The longest part that is a file is taken for it, so names may hold an `@`; where there is none, the last `@` counts.
    """
    text = str(mask)
    for end in [len(text), *(i for i in range(len(text) - 1, 0, -1) if text[i] == "@")]:
        if Path(text[:end]).is_file():
            return Path(text[:end]), text[end + 1 :].split("@") if end < len(text) else []
    name, at, choice = mask.name.rpartition("@")
    return (mask.with_name(name), [choice]) if at and name else (mask, [])


def read_shot(
    name: str, image: Path, mask: Path, *, strict: bool = False, files: "Files | None" = None
) -> tuple[Pixels, Pixels]:
    """One annotated image of the class `name`.

    Args:
        name: chooses among the classes of an annotation file, where nothing else does.
        image: photo.
        mask: file; behind its name `@VALUE` or `@any` where a mask holds several objects, `@CLASS` where an annotation
            file does, and `@IMAGE` or `@IMAGE@CLASS` where the photo has another name in it.
        strict: refuse annotation files in which some annotations have no mask.
        files: annotation files that were read already, to which others are added: many photos share one.

    Returns:
        uint8 RGB [H, W, 3], and uint8 [H, W] with 1 on the target and 255 where pixels are to be ignored.

    Raises:
        InputError: a file cannot be read, sizes differ, the mask is empty or can mean several things.
    """
    pixels = read_image(image)
    file, choices = mask_file(mask)
    if reader := _READERS.get(file.suffix.lower()):
        found = _read(reader, file, image.parent, {} if files is None else files, strict)
        target = _target(name, image, found, choices, (pixels.shape[0], pixels.shape[1]))
    else:
        if len(choices) > 1:
            raise InputError(f"Mask {mask}: behind @ stands one value of its pixels, such as @1, or @any.")
        target = read_mask(file, mask_choice(str(file), choices[0]) if choices else None)
    check_target(target, pixels, f"Support '{name}'", mask_file=str(mask), image_file=str(image))
    return pixels, target


def _read(reader: "Reader", file: Path, folder: Path, files: "Files", strict: bool) -> "Annotations":
    if file not in files:
        if not file.is_file():
            raise InputError(f"Mask {file} does not exist or is not a file.")
        found = reader(file, folder)
        found.close(strict=strict)
        files[file] = found
    return files[file]


def _json(file: Path, folder: Path) -> "Annotations":
    from ntre_deploy.data.annotations import load_json
    from ntre_deploy.data.coco import read_coco
    from ntre_deploy.data.labelme import is_labelme, labelme_annotations

    content, text = load_json(file, "Mask")
    if is_labelme(content):
        return labelme_annotations(file, {file: content}, single=True)
    if not isinstance(content, dict) or "annotations" not in content:
        raise InputError(f"Mask {file} is JSON of neither LabelMe (shapes) nor COCO (annotations).")
    return read_coco(file, (content, text))[0]


def _yolo(file: Path, folder: Path) -> "Annotations":
    from ntre_deploy.data.yolo import read_yolo_labels

    return read_yolo_labels(file)


def _cvat(file: Path, folder: Path) -> "Annotations":
    from ntre_deploy.data.cvat import read_cvat

    return read_cvat(file, folder)[0]


Reader = Callable[[Path, Path], "Annotations"]
Files = dict[Path, "Annotations"]
_READERS: dict[str, Reader] = {".json": _json, ".txt": _yolo, ".xml": _cvat}


def _target(name: str, image: Path, found: "Annotations", choices: list[str], size: tuple[int, int]) -> Pixels:
    image_id, choices = _image(image, found, choices)
    entry = found.entries[image_id]
    shown = found.classes_in(image_id)
    own = entry.file_name
    wanted = choices[0] if choices else name if name in shown else next(iter(shown)) if len(shown) == 1 else None
    if wanted not in shown:
        given = "" if wanted is None else f"no '{wanted}' in {own}; there is "
        more = ", ..." if len(shown) > _SHOWN else ""
        classes = ", ".join(list(shown)[:_SHOWN]) + more
        raise InputError(f"{found.source} has {given}{classes or 'nothing'}; add @CLASS to its name.")
    return found.mask(image_id, shown[wanted], entry.size or size)


def _image(image: Path, found: "Annotations", choices: list[str]) -> tuple[str, list[str]]:
    """Id of the photo in the file, and the choices that are left for the class."""
    if len(choices) > 2:
        raise InputError(f"{found.source}: behind its name stand @CLASS, @IMAGE or @IMAGE@CLASS.")
    named = None
    # a class goes before an image of the same name
    if len(choices) == 2 or (choices and choices[0] not in found.class_names.values() and found.ids_of(choices[0])):
        named, *choices = choices
    if found.single:
        return next(iter(found.entries)), choices
    ids = found.ids_of(named or str(image))
    if len(ids) == 1:
        return ids[0], choices
    shown = ids or list(found.entries)
    more = " ..." if len(shown) > _SHOWN else "."
    raise InputError(
        f"{found.source} has {len(ids)} images of the name {named or image.name}; one is needed: "
        f"add @IMAGE to its name, such as one of {', '.join(shown[:_SHOWN])}{more}"
    )
