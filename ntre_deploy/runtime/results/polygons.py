"""Outlines of connected regions as polygons with holes, exact to the pixel.

Two conventions are in use, and each format gets the one under which its own tools give the same mask back:

* `Polygon`: rings run along the edges of pixels, the corner of the first pixel is (0, 0), and the area is the number of
  pixels.  A pixel belongs to the region where its centre lies inside.  COCO, GeoJSON and canvases think so.
* `Polygon.keyhole`: one ring, a tenth of a pixel inside those edges.  Readers that colour every pixel which a line
  touches, as LabelMe (Pillow) and YOLO (`cv2.fillPoly` after cutting off fractions) do, would add a row and a column to
  the other one; this one is right for both kinds.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int32]

# parts of a pixel in which a keyhole's points are counted, one of them its distance to the edge of the pixel
_PARTS = 10


@dataclass(frozen=True, eq=False)
class Polygon:
    """A region and its holes.

    Attributes:
        outer: int32 [n, 2], corners (x, y) along the edges of pixels; not closed, with a positive shoelace area
            (counter-clockwise where y points up, as RFC 7946 wants it; clockwise on a screen).
        holes: the same for each hole, the other way around.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The outer ring and those of the holes, each int32 [n, 2]."""
        return (self.outer, *self.holes)

    @property
    def area(self) -> float:
        """In pixels, without the holes."""
        return sum(map(shoelace, self.rings))

    def simplified(self, tolerance: float) -> "Polygon":
        """The same with fewer corners, none of the removed ones farther away than `tolerance` pixels."""
        return Polygon(simplify(self.outer, tolerance), tuple(simplify(ring, tolerance) for ring in self.holes))

    def keyhole(self, tolerance: float = 0) -> NDArray[np.float64]:
        """One ring for formats without holes: each is joined to what lies above it by a cut of no width.

        Args:
            tolerance: leave out corners up to that many pixels away.

        Returns:
            float64 [n, 2], (x, y), a tenth of a pixel inside the region's edges.
        """
        ring = _inset(self.outer)
        # what lies above a hole is joined before it
        for hole in sorted(map(_inset, self.holes), key=lambda points: int(points[:, 1].min())):
            ring = _join(ring, hole)
        return simplify(ring, tolerance * _PARTS) / _PARTS


def trace(inside: NDArray[np.bool_], left: int = 0, top: int = 0) -> Polygon:
    """The outline of one region whose pixels are connected by their edges.

    Args:
        inside: bool [h, w], with that region alone.
        left, top: where its first pixel lies in the image.
    """
    height, width = inside.shape
    if inside.all():
        right, bottom = left + width, top + height
        return Polygon(np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.int32))
    # OpenCV gives centres of pixels on the rim; with each pixel doubled, those of a rim lie in a half of their own
    doubled = inside.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy.reshape(-1, 4)[:, 3]
    corners = [_corners(contour.reshape(-1, 2).astype(np.int32), left, top) for contour in contours]
    outer = next(ring for ring, parent in zip(corners, parents, strict=True) if parent < 0)
    return Polygon(
        _turned(outer, 1), tuple(_turned(ring, -1) for ring, p in zip(corners, parents, strict=True) if p >= 0)
    )


def shoelace(ring: NDArray[np.generic]) -> float:
    """Signed area of a ring [n, 2]."""
    points = ring.astype(np.float64) - ring[0]
    after = np.roll(points, -1, axis=0)
    return float((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum() / 2)


def simplify(ring: Ring, tolerance: float) -> Ring:
    """A ring [n, 2] with fewer corners (Douglas and Peucker); as it is where fewer than three would be left."""
    if tolerance <= 0:
        return ring
    points = np.asarray(cv2.approxPolyDP(ring.reshape(-1, 1, 2), tolerance, True), np.int32).reshape(-1, 2)
    return points if len(points) >= 3 else ring


def _corners(points: Ring, left: int, top: int) -> Ring:
    ring: Ring = (points + 1) // 2 + np.array([left, top], np.int32)
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    came, goes = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: NDArray[np.bool_] = came[:, 0] * goes[:, 1] != came[:, 1] * goes[:, 0]
    return np.asarray(ring[turns], np.int32)


def _turned(ring: Ring, sign: int) -> Ring:
    return ring if shoelace(ring) * sign > 0 else np.ascontiguousarray(ring[::-1])


def _inset(ring: Ring) -> Ring:
    """A ring within the pixels of the region that it bounds, in parts of a pixel; corners of the others are cut."""
    goes = np.sign(np.roll(ring, -1, axis=0) - ring)
    came = np.roll(goes, 1, axis=0)
    # of a ring with a positive area, and of a hole turned the other way, the region lies there
    inward = np.stack([-goes[:, 1], goes[:, 0]], axis=1)
    before = ring * _PARTS + np.roll(inward, 1, axis=0) - came
    points = np.stack([before, ring * _PARTS + inward + goes], axis=1).reshape(-1, 2)
    return np.asarray(points[(points != np.roll(points, 1, axis=0)).any(axis=1)], np.int32)


def _join(ring: Ring, hole: Ring) -> Ring:
    start = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
    x, y = hole[start]
    after = np.roll(ring, -1, axis=0)
    above = (ring[:, 1] == after[:, 1]) & (ring[:, 1] < y)
    above &= (np.minimum(ring[:, 0], after[:, 0]) <= x) & (x <= np.maximum(ring[:, 0], after[:, 0]))
    # straight up, all pixels belong to the region until its next rim
    at = int(np.where(above, ring[:, 1], -1).argmax())
    foot = np.array([[x, ring[at, 1]]], np.int32)
    around = np.roll(hole, -start, axis=0)
    return np.concatenate([ring[: at + 1], foot, around, around[:1], foot, ring[at + 1 :]])
