"""`/memories`: support memories by name, made of photos with masks or of a file."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.http.answers import MediaTypeError, json_response
from ntre_deploy.serving.http.documented import ERRORS, Memories, Remembered, form_body
from ntre_deploy.serving.http.forms import BYTES, FORM, media_type, read_form
from ntre_deploy.serving.http.serving import Serving
from ntre_deploy.serving.http.work import exchange_of, finished
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.memories import Kept, check_name
from ntre_deploy.serving.service import Service

BundleName = Annotated[str | None, Query(description="A bundle's name; else the first one.")]
_FORM = form_body(
    files={
        "photo": "Annotated photos, the shots of one class; the n-th goes with the n-th `mask`.",
        "mask": "Their masks: 0 and 1 (255 is ignored), or 0 and 255.",
    },
    more={BYTES: {"schema": {"type": "string", "format": "binary", "description": "The file of a memory."}}},
)
_FILE = {200: {"description": "Its file.", "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


def router(serving: Serving, limits: Limits) -> APIRouter:
    """The routes, both `/memories` of the first bundle (or of `?bundle=`) and `/bundles/{bundle}/memories`."""
    routes = APIRouter(tags=["memories"])

    def found(request: Request, bundle: str | None) -> Service:
        service = serving.find(bundle)
        exchange_of(request).told["bundle"] = service.name
        return service

    async def list_all(request: Request, bundle: BundleName = None) -> Response:
        service = found(request, bundle)
        kept = await anyio.to_thread.run_sync(service.memories.list)
        return json_response({"bundle": service.name, "memories": [_told(one) for one in kept]})

    async def put(request: Request, name: str, bundle: BundleName = None) -> Response:
        service = found(request, bundle)
        check_name(name)
        with serving.place(service):
            existed = name in await anyio.to_thread.run_sync(service.memories.names)
            kind = media_type(request)
            if kind == FORM:
                shots = (await read_form(request, limits, ("photo", "mask"))).shots("photo", "mask")
                if not shots:
                    raise InputError("No annotated photo was given: curl -F photo=@FILE -F mask=@FILE.")
                memory = await finished(service.remember(name, shots), request)
            elif kind == BYTES:
                data = await request.body()
                memory = await finished(service.run(lambda _: _stored(service, name, data)), request)
            else:
                raise MediaTypeError(
                    f"A form ({FORM}) with photos and masks or a memory's file ({BYTES}) is expected, not "
                    f"{kind or 'a body of no type'}."
                )
        # not what is in the store by now: another request may have deleted it
        size = await anyio.to_thread.run_sync(lambda: len(memory.to_bytes()))
        return json_response(_told(Kept(name, memory, datetime.now(timezone.utc), size)), 200 if existed else 201)

    async def get(request: Request, name: str, bundle: BundleName = None) -> Response:
        service = found(request, bundle)
        data = await anyio.to_thread.run_sync(lambda: service.memories.get(name).to_bytes())
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.safetensors"}
        return Response(data, headers=headers, media_type=BYTES)

    async def delete(request: Request, name: str, bundle: BundleName = None) -> Response:
        service = found(request, bundle)
        await anyio.to_thread.run_sync(service.memories.delete, name)
        return Response(status_code=204)

    async def list_of(request: Request, bundle: str) -> Response:
        return await list_all(request, bundle)

    async def put_of(request: Request, bundle: str, name: str) -> Response:
        return await put(request, name, bundle)

    async def get_of(request: Request, bundle: str, name: str) -> Response:
        return await get(request, name, bundle)

    async def delete_of(request: Request, bundle: str, name: str) -> Response:
        return await delete(request, name, bundle)

    def both(
        method: str, path: str, work: Callable[..., Any], of_bundle: Callable[..., Any], summary: str, **more: Any
    ) -> None:
        routes.add_api_route(path, work, methods=[method], summary=summary, **more)
        inner = f"/bundles/{{bundle}}{path}"
        routes.add_api_route(inner, of_bundle, methods=[method], summary=f"{summary} of a bundle", **more)

    made = {201: {"model": Remembered, "description": "It is new."}, 200: {"model": Remembered}}
    one = "/memories/{name}"
    both("GET", "/memories", list_all, list_of, "List the memories", responses={200: {"model": Memories}} | ERRORS)
    both("PUT", one, put, put_of, "Make or replace a memory", responses=made | ERRORS, openapi_extra=_FORM)
    both("GET", one, get, get_of, "The file of a memory", responses=_FILE | ERRORS)
    both("DELETE", one, delete, delete_of, "Forget a memory", status_code=204, responses=ERRORS)
    return routes


def _stored(service: Service, name: str, data: bytes) -> SupportMemory:
    return service.memories.put(name, SupportMemory.from_bytes(data))


def _told(kept: Kept) -> dict[str, Any]:
    memory = kept.memory
    told: dict[str, Any] = {"name": kept.name, "shots": 0, "shot_scores": None, "model": ""}
    if memory is not None:
        scores = None if memory.shot_scores is None else [round(score, 6) for score in memory.shot_scores]
        told |= {"shots": memory.shots, "shot_scores": scores, "model": memory.model}
    told |= {"created": kept.changed.isoformat(timespec="seconds"), "bytes": kept.size}
    return told | ({"error": kept.error} if kept.error else {})
