"""COCO segmentations (polygons, run-length codes) into codes of pycocotools, checked before it sees them."""

import math
from typing import Any

from ntre_deploy.errors import InputError

# One segmentation as found in the file; checked when it is used, so that opening a large file stays quick
Segmentation = Any


def mask_api() -> Any:
    """The module `pycocotools.mask`.

    Raises:
        InputError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("COCO annotations need pycocotools: pip install 'ntre_deploy[coco]'.") from error
    return mask


def encode(segmentation: Segmentation, height: int, width: int) -> Any:
    """One annotation's `segmentation` as a compressed code.

    pycocotools trusts its input (it allocates by coordinates), so all is checked before.

    Raises:
        ValueError: what is wrong with it.
    """
    api = mask_api()
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"size {segmentation.get('size')} where [{height}, {width}] is expected")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = _parse_counts(counts)
        if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("'counts' must be a string or a list of run lengths")
        if sum(counts) != height * width:
            raise ValueError(f"runs of {sum(counts)} pixels in an image of {height * width}")
        return api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it must be a list of polygons or a run-length code")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon must be a list [x1, y1, x2, y2, ...] of three points or more")
        if not all(type(x) in (int, float) and math.isfinite(x) for x in polygon):
            raise ValueError("a polygon must hold finite numbers")
        reach = 2 * max(height, width)
        if not all(-reach <= x <= reach for x in polygon):
            raise ValueError("a polygon lies far outside the image")
    return api.merge(api.frPyObjects([[float(x) for x in p] for p in segmentation], height, width))


def _parse_counts(text: str) -> list[int]:
    """Run lengths of COCO's code: 5 bits per character, from the fourth on as differences to two before."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise ValueError("'counts' is no COCO run-length string")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("'counts' is cut off")
    return counts
