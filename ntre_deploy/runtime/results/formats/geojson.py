"""GeoJSON (RFC 7946), with pixels for coordinates: x to the right, y downwards, the image's corner at (0, 0)."""

from typing import TYPE_CHECKING, Any

from ntre_deploy.runtime.results.polygons import Ring

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result


def geojson(result: "Result", min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
    """A FeatureCollection; see `Result.to_geojson`.

    Rings are closed, outer ones counter-clockwise and holes clockwise, as the numbers are read with y upwards.
    """
    features = []
    for instance in result.instances(min_area):
        shape = instance.polygon.simplified(tolerance)
        properties = {"label": instance.label, "name": instance.name, "area": instance.area}
        if instance.score is not None:
            properties["score"] = round(instance.score, 6)
        geometry = {"type": "Polygon", "coordinates": [_closed(ring) for ring in shape.rings]}
        x, y, width, height = instance.box
        box = [x, y, x + width, y + height]
        features.append({"type": "Feature", "bbox": box, "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _closed(ring: Ring) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
