"""Results in the formats that a request can ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from starlette.responses import Response

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.runtime.imagefile import png_bytes
from ntre_deploy.runtime.overlay import palette
from ntre_deploy.runtime.results.formats import coco_annotations, coco_dataset, coco_image
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.rle import encode_rle
from ntre_deploy.serving.http.answers import json_bytes, json_response
from ntre_deploy.serving.service import Answer, Service

_QUALITY = 90


@dataclass(frozen=True)
class Format:
    """One of them.

    Attributes:
        media_type: of the answer.
        each: makes of a photo's result and the name of its file what `together` takes; on a worker's thread.
        many: whether one answer holds several photos.
    """

    media_type: str
    each: Callable[[Result, str], Any]
    many: bool = True


def png_labels(result: Result) -> bytes:
    """The label map as a PNG of indices into a palette, so that a person sees it too."""
    return png_bytes(result.labels, palette(len(result.names)), level=1)


def overlay_jpeg(result: Result) -> bytes:
    """The photo with the classes drawn in."""
    picture = cv2.cvtColor(result.plot(), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def summary(result: Result, name: str) -> dict[str, Any]:
    """What a plain answer tells of a photo: its size, and for each class score, area, box and run-length code."""
    height, width = result.size
    classes = []
    for label, (title, score, box) in enumerate(zip(result.names, result.scores, result.boxes, strict=True), 1):
        x, y, w, h = box
        # inside of its box alone: pixels are looked at once, and each answer waits for it
        mask = result.labels[y : y + h, x : x + w] == label
        area, rle = int(np.count_nonzero(mask)), encode_rle(mask, result.size, x, y)
        told = {"label": label, "name": title, "score": round(score, 6), "area": area, "box": list(box), "rle": rle}
        classes.append(told)
    return {"photo": name, "width": width, "height": height, "classes": classes}


def _coco(result: Result, name: str) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...]]:
    image = coco_image(result, name or None)
    return image, coco_annotations(result, instances=True), result.names


FORMATS: dict[str, Format] = {
    "json": Format("application/json", summary),
    "png": Format("image/png", lambda result, name: png_labels(result), many=False),
    "overlay": Format("image/jpeg", lambda result, name: overlay_jpeg(result), many=False),
    "coco": Format("application/json", _coco),
    "labelme": Format("application/json", lambda result, name: json_bytes(result.to_labelme(name or None))),
    "label-studio": Format("application/json", lambda result, name: json_bytes(result.to_label_studio(name or None))),
    "polygons": Format("application/json", lambda result, name: json_bytes(result.to_polygons())),
    "geojson": Format("application/geo+json", lambda result, name: json_bytes(result.to_geojson())),
    "yolo": Format("text/plain", lambda result, name: result.to_yolo().encode(), many=False),
}
_ACCEPTED = {"image/png": "png", "image/jpeg": "overlay", "application/geo+json": "geojson", "text/plain": "yolo"}


def chosen(asked: str | None, accept: str, photos: int) -> str:
    """The format of an answer.

    Args:
        asked: `?format=`.
        accept: the header, whose first known type counts where nothing was asked.

    Raises:
        InputError: it is unknown, or holds one photo and there are more.
    """
    if asked is None:
        types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
        known = [kind for kind in types if kind in _ACCEPTED or kind in ("application/json", "*/*")]
        name = _ACCEPTED.get(known[0], "json") if known else "json"
    else:
        name = one_of(asked, FORMATS, "Format")
    if photos > 1 and not FORMATS[name].many:
        raise InputError(f"The format {name} holds one photo, and {photos} were given; ask for each, or for json.")
    return name


def answer(name: str, service: Service, made: Sequence[Answer]) -> Response:
    """The response of a format.

    Args:
        made: of each photo, with what `Format.each` has made.
    """
    kind, parts = FORMATS[name], [one.made for one in made]
    if name == "json":
        engine = service.segmenter.engine
        photos = [part | {"ms": _milliseconds(one)} for part, one in zip(parts, made, strict=True)]
        told = {"bundle": service.name, "engine": f"{engine.name} {engine.precision}", "photos": photos}
        return json_response(told)
    if name == "coco":
        return json_response(_together(parts))
    content = parts[0] if len(parts) == 1 else b"[" + b",".join(parts) + b"]"
    return Response(content, media_type=kind.media_type)


def _together(parts: Sequence[tuple[dict[str, Any], list[dict[str, Any]], tuple[str, ...]]]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, own, _) in enumerate(parts, 1):
        images.append(image | {"id": number})
        first = len(annotations) + 1
        annotations += [one | {"id": n, "image_id": number} for n, one in enumerate(own, first)]
    return coco_dataset(images, annotations, parts[0][2])


def _milliseconds(made: Answer) -> dict[str, float]:
    return {stage: round(seconds * 1000, 3) for stage, seconds in made.seconds.items()}
