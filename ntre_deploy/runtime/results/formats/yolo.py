"""YOLO segmentation: one line for each instance, holes joined to the ring around them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result


def yolo(result: "Result", min_area: int = 1, tolerance: float = 0) -> str:
    """The lines of one image's file; see `Result.to_yolo`."""
    height, width = result.size
    lines = []
    for instance in result.instances(min_area):
        shares = instance.polygon.keyhole(tolerance) / np.array([width, height])
        # seven digits: a hundredth of a pixel in the largest image
        numbers = " ".join(f"{value:.7f}".rstrip("0") for value in shares.ravel().tolist())
        lines.append(f"{instance.label - 1} {numbers}\n")
    return "".join(lines)


def yolo_names(names: Sequence[str]) -> str:
    """The classes as YAML, the part of a dataset's file that says them; JSON strings are YAML too."""
    listed = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(names))
    return f"names:\n{listed}"
