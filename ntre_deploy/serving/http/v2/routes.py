"""The routes of the open inference protocol."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from ntre_deploy import __version__
from ntre_deploy.errors import InputError
from ntre_deploy.serving.http.answers import json_response
from ntre_deploy.serving.http.documented import ERRORS
from ntre_deploy.serving.http.forms import BYTES
from ntre_deploy.serving.http.metrics import Metrics
from ntre_deploy.serving.http.serving import Serving
from ntre_deploy.serving.http.v2 import inference
from ntre_deploy.serving.http.v2.tensors import Asked, read_request, unpacked
from ntre_deploy.serving.http.work import Photo, exchange_of, segmented
from ntre_deploy.serving.limits import Limits, MissingError
from ntre_deploy.serving.service import Service
from ntre_deploy.serving.supports import Picture, Support

LENGTH = "inference-header-content-length"
# JSON that is read in less time than a thread takes to begin
_SMALL = 16_384
_VERSIONS = (("", ""), ("/versions/{version}", " of a version"))
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_ASKED = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "description": "`binary_data_output`: true for all outputs as bytes."},
        "inputs": {
            "type": "array",
            "items": _TENSOR,
            "description": "; ".join(f"`{name}`: {told}" for name, _, _, told in inference.INPUTS)
            + ". In JSON, files are base64.",
        },
        "outputs": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ASKED},
            BYTES: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "The JSON, of the length that the header `Inference-Header-Content-Length` tells, "
                    "and behind it the bytes of each input that has a `binary_data_size`.",
                }
            },
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "; ".join(f"`{name}`: {told}" for name, _, _, told in inference.OUTPUTS),
        "content": {
            "application/json": {"schema": {"type": "object"}},
            BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"description": "As the protocol has it.", "content": {"application/json": {"schema": {"type": "object"}}}}
}


def router(serving: Serving, limits: Limits, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol (v2)"])
    model = "/models/{name}"

    def found(name: str, version: str) -> Service:
        service = serving.find(name)
        if version != inference.VERSION:
            raise MissingError(f"There is no version {version[:20]!r} of '{name}'; there is {inference.VERSION}.")
        return service

    async def infer(request: Request, name: str, version: str = inference.VERSION) -> Response:
        service = found(name, version)
        exchange_of(request).told["bundle"] = service.name
        with serving.place(service):
            asked, photo, supports = await _read(request, limits)
            finish = inference.answering(asked, service)
            made = await segmented(request, service, metrics, [Photo(photo)], supports, finish)
        body, length = made[0].made
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, headers={LENGTH: str(length)}, media_type=BYTES)

    # routes are tried one after the other, and this one is asked for most
    for middle, told in _VERSIONS:
        routes.add_api_route(
            f"{model}{middle}/infer",
            infer,
            methods=["POST"],
            summary=f"Segment a photo with a bundle{told}",
            responses=_ANSWER | ERRORS,
            openapi_extra=_BODY,
        )

    @routes.get("", summary="What this server is", responses=_PLAIN)
    async def server() -> Response:
        extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
        return json_response({"name": "ntre_deploy", "version": __version__, "extensions": extensions})

    @routes.get("/health/live", summary="Whether it lives", responses=_PLAIN)
    async def live() -> Response:
        return json_response({"live": True})

    @routes.get("/health/ready", summary="Whether it takes requests", responses=_PLAIN | {503: ERRORS[503]})
    async def ready() -> Response:
        return json_response({"ready": serving.ready}, 200 if serving.ready else 503)

    @routes.get("/models", summary="Names of the bundles", responses=_PLAIN)
    async def models() -> Response:
        return json_response({"models": list(serving.services)})

    @routes.post("/repository/index", summary="The bundles and their states", responses=_PLAIN)
    async def index() -> Response:
        state = {"version": inference.VERSION, "state": "READY", "reason": ""}
        return json_response([{"name": name} | state for name in serving.services])

    @routes.post("/repository/models/{name}/{action}", summary="Refused: bundles are chosen at the start")
    async def load(name: str, action: str) -> Response:
        raise InputError(f"This server takes its bundles when it starts; '{name[:100]}' cannot be {action[:20]}ed.")

    @routes.get("/models/stats", summary="Figures of all bundles", responses=_PLAIN)
    async def all_stats() -> Response:
        return json_response({"model_stats": [_stats(service, metrics) for service in serving.services.values()]})

    async def metadata(name: str, version: str = inference.VERSION) -> Response:
        return json_response(inference.metadata(found(name, version)))

    async def model_ready(name: str, version: str = inference.VERSION) -> Response:
        found(name, version)
        return json_response({"name": name, "ready": serving.ready}, 200 if serving.ready else 503)

    async def config(name: str, version: str = inference.VERSION) -> Response:
        return json_response(inference.config(found(name, version)))

    async def stats(name: str, version: str = inference.VERSION) -> Response:
        return json_response({"model_stats": [_stats(found(name, version), metrics)]})

    for middle, told in _VERSIONS:
        path = model + middle
        more = _PLAIN | {404: ERRORS[404]}
        routes.add_api_route(path, metadata, summary=f"Tensors of a bundle{told}", responses=more)
        routes.add_api_route(
            f"{path}/ready", model_ready, summary=f"Whether a bundle{told} takes requests", responses=more
        )
        routes.add_api_route(f"{path}/config", config, summary=f"Triton's configuration{told}", responses=more)
        routes.add_api_route(f"{path}/stats", stats, summary=f"Figures of a bundle{told}", responses=more)
    return routes


async def _read(request: Request, limits: Limits) -> tuple[Asked, Picture, list[Support]]:
    body = await request.body()
    length = request.headers.get(LENGTH)
    encoding = request.headers.get("content-encoding", "").lower()

    def read() -> tuple[Asked, Picture, list[Support]]:
        asked = read_request(unpacked(body, encoding, limits.body_bytes), length)
        return asked, *inference.understood(asked)

    small = length.isdecimal() and int(length) <= _SMALL if length is not None else len(body) <= _SMALL
    return read() if small and not encoding else await anyio.to_thread.run_sync(read)


def _stats(service: Service, metrics: Metrics) -> dict[str, Any]:
    """What perf_analyzer and others of Triton's tools read; nanoseconds since the start."""

    def spent(*stages: str) -> dict[str, int]:
        found = [
            (
                metrics.total("ntre_stage_seconds_count", bundle=service.name, stage=stage),
                metrics.total("ntre_stage_seconds_sum", bundle=service.name, stage=stage),
            )
            for stage in stages
        ]
        return {"count": int(found[0][0]), "ns": int(sum(seconds for _, seconds in found) * 1e9)}

    photos = int(metrics.total("ntre_photos_total", bundle=service.name))
    failed = int(metrics.total("ntre_photos_failed_total", bundle=service.name))
    return {
        "name": service.name,
        "version": inference.VERSION,
        "last_inference": 0,
        "inference_count": photos,
        "execution_count": photos,
        "inference_stats": {
            "success": spent("queue", "decode", "support", "engine", "encode"),
            "fail": {"count": failed, "ns": 0},
            "queue": spent("queue"),
            "compute_input": spent("decode", "support"),
            "compute_infer": spent("engine"),
            "compute_output": spent("encode"),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }
