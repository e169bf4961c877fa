"""COCO: run-length codes, which are exact and know holes; category n is label n."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntre_deploy.runtime.rle import encode_rle

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result


def coco(
    result: "Result", file_name: str | None = None, *, instances: bool = True, min_area: int = 1
) -> dict[str, Any]:
    """A dataset of one image; see `Result.to_coco`."""
    annotations = coco_annotations(result, instances=instances, min_area=min_area)
    return coco_dataset([coco_image(result, file_name)], annotations, result.names)


def coco_dataset(
    images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Images and annotations with the categories, as `pycocotools.coco.COCO` reads them."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": list(images), "annotations": list(annotations), "categories": categories}


def coco_image(result: "Result", file_name: str | None = None, image_id: int = 1) -> dict[str, Any]:
    """The entry of the image."""
    height, width = result.size
    name = file_name or (result.path.name if result.path is not None else "image")
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def coco_annotations(
    result: "Result", *, instances: bool, min_area: int = 1, image_id: int = 1, first_id: int = 1
) -> list[dict[str, Any]]:
    """One annotation for each connected instance, or for each class that has pixels; with scores where there are any.

    Args:
        min_area: leave smaller instances, or classes, out, in pixels.
        image_id, first_id: numbers of the image and of the first annotation.
    """
    found: list[tuple[int, dict[str, Any], int, tuple[int, int, int, int], float | None]] = []
    if instances:
        for one in result.instances(min_area):
            found.append((one.label, encode_rle(one.mask, result.size, *one.box[:2]), one.area, one.box, one.score))
    else:
        for label, (area, box) in enumerate(zip(result.areas, result.boxes, strict=True), 1):
            if area >= max(min_area, 1):
                score = result.scores[label - 1] if result.has_scores else None
                found.append((label, result.rle(label), area, box, score))
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label,
            "segmentation": code,
            "area": area,
            "bbox": list(box),
            "iscrowd": 0,
        }
        | ({} if score is None else {"score": round(score, 6)})
        for number, (label, code, area, box, score) in enumerate(found, first_id)
    ]
