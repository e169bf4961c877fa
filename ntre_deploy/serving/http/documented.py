"""What the OpenAPI page tells of bodies and answers."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

_BINARY = {"type": "string", "format": "binary"}


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="One line: what was given, what is expected.")


class RunLength(BaseModel):
    """A mask as COCO's compressed run-length code, which `pycocotools.mask.decode` reads."""

    size: list[int] = Field(description="Height and width.")
    counts: str


class FoundClass(BaseModel):
    """What was found of a class in a photo."""

    label: int = Field(description="Its value in label maps, from 1 on.")
    name: str
    score: float = Field(description="Mean probability over its pixels, 0 to 1; 0 where it has none.")
    area: int = Field(description="In pixels.")
    box: list[int] = Field(description="x, y, width, height around all of its pixels; zeros where it has none.")
    rle: RunLength


class SegmentedPhoto(BaseModel):
    """What was found in a photo."""

    photo: str = Field(description="Name of its file, as it was given.")
    width: int
    height: int
    classes: list[FoundClass]
    ms: dict[str, float] = Field(description="Milliseconds of its stages: queue, decode, support, engine, encode.")


class Segmented(BaseModel):
    """Answer to photos."""

    bundle: str
    engine: str
    photos: list[SegmentedPhoto]


class Remembered(BaseModel):
    """A support memory of this server."""

    name: str
    shots: int = Field(description="Annotated images that it was made of.")
    shot_scores: list[float] | None = Field(description="IoU of each shot with what the others give; null with one.")
    model: str = Field(description="Id of the model that it is for.")
    created: str = Field(description="UTC, ISO 8601.")
    bytes: int = Field(description="Of its file.")
    error: str | None = Field(None, description="Why it cannot be used, where it cannot.")


class Memories(BaseModel):
    """The support memories of a bundle."""

    bundle: str
    memories: list[Remembered]


class ServedBundle(BaseModel):
    """A bundle of this server."""

    name: str
    engine: str
    precision: str
    model: str
    input_size: int = Field(description="Side of the square that the network sees, in pixels.")
    workers: int
    memories: int


class Bundles(BaseModel):
    """What is served; the first one is the default."""

    state: str
    bundles: list[ServedBundle]


def _problem(text: str) -> dict[str, Any]:
    return {"model": Problem, "description": text}


Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    400: _problem("The request is not made as it should be."),
    401: _problem("No API key, or one that is not known."),
    404: _problem("There is no such bundle or memory."),
    408: _problem("The body did not come in time."),
    413: _problem("The body or a photo is larger than this server takes."),
    415: _problem("A body of a type that is not known."),
    422: _problem("A photo, mask or memory cannot be used."),
    429: _problem("The queue is full; `Retry-After` says when to come again."),
    500: _problem("The engine or the server failed."),
    503: _problem("The server loads its bundles, or ends."),
    504: _problem("The time of the request was over before its answer was there."),
}

SEGMENTED: Responses = {
    200: {
        "model": Segmented,
        "description": "What was found; in other formats as `?format=` says.",
        "content": {
            "image/png": {"schema": _BINARY},
            "image/jpeg": {"schema": _BINARY},
            "application/geo+json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
}


def form_body(
    files: Mapping[str, str], texts: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`requestBody` of a multipart form, of repeatable parts with their descriptions.

    Args:
        more: other types of bodies.
    """
    parts = dict.fromkeys(files, _BINARY) | {name: {"type": "string"} for name in texts or {}}
    told = {**files, **(texts or {})}
    properties = {name: {"type": "array", "items": kind, "description": told[name]} for name, kind in parts.items()}
    form = {"schema": {"type": "object", "properties": properties}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form, **(more or {})}}}
