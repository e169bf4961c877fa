"""LabelMe: a polygon for each instance.

LabelMe's polygons have no holes, so that a hole is joined to the ring around it, and LabelMe colours each pixel that a
line touches: `Polygon.keyhole` suits both, and is read back as the same mask.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result

# the last version whose files all later ones read
_VERSION = "5.0.0"


def labelme(result: "Result", image_path: str | None = None, min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
    """The content of a file of LabelMe; see `Result.to_labelme`."""
    height, width = result.size
    shapes = [
        {
            "label": instance.name,
            "points": instance.polygon.keyhole(tolerance).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for instance in result.instances(min_area)
    ]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path or (result.path.name if result.path is not None else ""),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
