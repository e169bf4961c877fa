"""Annotated images as people have them: a photo, and its mask as an image, a LabelMe file or a COCO file."""

import json
from pathlib import Path

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels, read_image, read_mask
from ntre_deploy.runtime.masks import ANY, check_target


def mask_file(mask: Path) -> tuple[Path, str | None]:
    """`FILE` or `FILE@CHOICE` as its two parts; a file whose own name holds an `@` is taken as it is."""
    name, at, choice = mask.name.rpartition("@")
    if not at or not name or mask.is_file():
        return mask, None
    return mask.with_name(name), choice


def read_shot(name: str, image: Path, mask: Path) -> tuple[Pixels, Pixels]:
    """One annotated image of the class `name`.

    Args:
        name: chooses among the labels of a LabelMe or COCO file, where nothing else does.
        image: photo.
        mask: file, with `@VALUE`, `@any` or `@LABEL` behind its name where it holds several objects.

    Returns:
        uint8 RGB [H, W, 3], and uint8 [H, W] with 1 on the target and 255 where pixels are to be ignored.

    Raises:
        InputError: a file cannot be read, sizes differ, the mask is empty or can mean several things.
    """
    pixels = read_image(image)
    file, choice = mask_file(mask)
    if file.suffix.lower() == ".json":
        target = _from_json(name, image, file, choice)
    else:
        target = read_mask(file, _value(file, choice))
    check_target(target, pixels, f"Support '{name}'", mask_file=str(mask), image_file=str(image))
    return pixels, target


def _value(file: Path, choice: str | None) -> int | None:
    if choice is None or choice == "any":
        return None if choice is None else ANY
    if not (choice.isascii() and choice.isdecimal() and len(choice) <= 5):
        raise InputError(f"Mask {file}@{choice}: behind @ stands a value of its pixels, such as @1, or @any.")
    return int(choice)


def _from_json(name: str, image: Path, file: Path, choice: str | None) -> Pixels:
    from ntre_deploy.data.labelme import is_labelme, labelme_mask

    if not file.is_file():
        raise InputError(f"Mask {file} does not exist or is not a file.")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"Mask {file} is not JSON that can be read: {error}.") from error
    if is_labelme(content):
        labels = {str(shape.get("label")) for shape in content["shapes"] if isinstance(shape, dict)}
        return labelme_mask(file, content, choice or (name if name in labels else None))
    if not isinstance(content, dict) or "annotations" not in content:
        raise InputError(f"Mask {file} is JSON of neither LabelMe (shapes) nor COCO (annotations).")
    return _from_coco(name, image, file, choice)


def _from_coco(name: str, image: Path, file: Path, choice: str | None) -> Pixels:
    from ntre_deploy.data.coco import CocoDataset

    dataset = CocoDataset(file, image.parent)
    ids = dataset.ids_of(image.name)
    if len(ids) != 1:
        raise InputError(f"{file} has {len(ids)} images of the name {image.name}; one is needed.")
    shown = {text: c for c, text in dataset.class_names.items() if (dataset.mask(ids[0], c) == 1).any()}
    wanted = choice or (name if name in shown else next(iter(shown)) if len(shown) == 1 else None)
    if wanted not in shown:
        given = "" if wanted is None else f"no '{wanted}' in {image.name}; there is "
        raise InputError(f"{file} has {given}{', '.join(shown) or 'nothing'}; add @CLASS to its name.")
    return dataset.mask(ids[0], shown[wanted])
