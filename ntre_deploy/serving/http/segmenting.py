"""`POST /segment`: photos in a form, or one as the body; what was found in them out."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ntre_deploy.errors import InputError
from ntre_deploy.serving.http import formats
from ntre_deploy.serving.http.answers import MediaTypeError
from ntre_deploy.serving.http.documented import ERRORS, SEGMENTED, form_body
from ntre_deploy.serving.http.forms import FORM, MOST_PHOTOS, media_type, read_form, shown_classes
from ntre_deploy.serving.http.metrics import Metrics
from ntre_deploy.serving.http.serving import Serving
from ntre_deploy.serving.http.work import Photo, exchange_of, segmented
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.supports import Named, Stored, Support

_FILES, _TEXTS = ("photo", "support", "mask", "memory_file"), ("memory", "name")
_FORM = form_body(
    files={
        "photo": "Photos to segment: JPEG, PNG, WebP, BMP, TIFF, HEIC or AVIF.",
        "support": "Annotated photos; the n-th goes with the n-th `mask` and `name`.",
        "mask": "Their masks: 0 and 1 (255 is ignored), or 0 and 255.",
        "memory_file": "Files of support memories.",
    },
    texts={
        "memory": "Names of memories of this server.",
        "name": "Classes of the supports; equal ones are shots of one.",
    },
    more={"image/*": {"schema": {"type": "string", "format": "binary", "description": "One photo."}}},
)

Names = Annotated[list[str] | None, Query(description="Names of memories of this server.")]
FormatName = Annotated[str | None, Query(description=f"One of {', '.join(formats.FORMATS)}; else as `Accept` says.")]
BundleName = Annotated[str | None, Query(description="A bundle's name; else the first one.")]


def router(serving: Serving, limits: Limits, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["segment"])

    async def segment(request: Request, bundle: str | None, memory: Sequence[str], wanted: str | None) -> Response:
        service = serving.find(bundle)
        exchange_of(request).told["bundle"] = service.name
        with serving.place(service):
            photos, supports = await _read(request, limits, memory)
            name = formats.chosen(wanted, request.headers.get("accept", ""), len(photos))
            made = await segmented(request, service, metrics, photos, supports, formats.FORMATS[name].each)
        return formats.answer(name, service, made)

    @routes.post("/segment", summary="Segment photos", responses=SEGMENTED | ERRORS, openapi_extra=_FORM)
    async def segment_default(
        request: Request, bundle: BundleName = None, memory: Names = None, format: FormatName = None
    ) -> Response:
        return await segment(request, bundle, memory or (), format)

    @routes.post(
        "/bundles/{bundle}/segment",
        summary="Segment photos with a bundle",
        responses=SEGMENTED | ERRORS,
        openapi_extra=_FORM,
    )
    async def segment_with(request: Request, bundle: str, memory: Names = None, format: FormatName = None) -> Response:
        return await segment(request, bundle, memory or (), format)

    return routes


async def _read(request: Request, limits: Limits, memory: Sequence[str]) -> tuple[list[Photo], list[Support]]:
    """The photos of a request and its supports: memories by name, then those that came as files, then what is shown."""
    kind = media_type(request)
    if kind != FORM:
        if not kind.startswith("image/"):
            raise MediaTypeError(
                f"A form ({FORM}) with photos or one photo (image/jpeg, image/png, ...) is expected, not "
                f"{kind or 'a body of no type'}."
            )
        photos = [Photo(await request.body())]
        supports: list[Support] = [Named(name) for name in memory]
    else:
        form = await read_form(request, limits, _FILES, _TEXTS)
        photos = [Photo(file.data, file.name) for file in form.files.get("photo", [])]
        supports = [Named(name) for name in (*memory, *form.texts.get("memory", []))]
        supports += [Stored(file.data) for file in form.files.get("memory_file", [])]
        supports += shown_classes(form.shots("support", "mask"), form.texts.get("name", []))
    if not photos:
        raise InputError("No photo was given: curl -F photo=@FILE.")
    if len(photos) > MOST_PHOTOS:
        raise InputError(f"{len(photos)} photos were given; this server takes up to {MOST_PHOTOS} at once.")
    return photos, supports
