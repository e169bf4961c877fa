"""Polygons of each class as plain JSON: rings along the edges of pixels, so that areas are numbers of pixels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result


def polygons(result: "Result", min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
    """`width`, `height`, and in `classes` for each its `label`, `name`, `score` and `polygons`; see `Polygon`.

    A polygon has an `outer` ring [[x, y], ...], not closed, `holes`, each such a ring, the `area` and, where there are
    logits, a `score`.

    Args:
        min_area: leave smaller instances out, in pixels.
        tolerance: leave out corners up to that many pixels away; 0 is exact.
    """
    height, width = result.size
    classes: list[dict[str, Any]] = [{"label": n, "name": name} for n, name in enumerate(result.names, 1)]
    for entry in classes:
        if result.has_scores:
            entry["score"] = round(result.scores[entry["label"] - 1], 6)
        entry["polygons"] = []
    for instance in result.instances(min_area):
        shape = instance.polygon.simplified(tolerance)
        outline: dict[str, Any] = {"outer": shape.outer.tolist(), "holes": [hole.tolist() for hole in shape.holes]}
        outline["area"] = instance.area
        if instance.score is not None:
            outline["score"] = round(instance.score, 6)
        classes[instance.label - 1]["polygons"].append(outline)
    return {"width": width, "height": height, "classes": classes}
