"""What balancers, Prometheus and people ask of the server itself."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ntre_deploy.serving.http import page
from ntre_deploy.serving.http.answers import json_response
from ntre_deploy.serving.http.documented import ERRORS, Bundles
from ntre_deploy.serving.http.metrics import CONTENT_TYPE, Metrics
from ntre_deploy.serving.http.serving import Serving
from ntre_deploy.serving.service import Service


def router(serving: Serving, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["server"])

    # balancers that ask for the head alone
    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="Whether the process lives", response_class=PlainTextResponse)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get(
        "/readyz",
        summary="Whether requests are taken: not while bundles are loaded, nor while the server ends",
        response_class=PlainTextResponse,
        responses={503: ERRORS[503]},
    )
    async def readyz() -> Response:
        if serving.ready:
            return PlainTextResponse("ready\n")
        return json_response({"error": f"The server is {serving.state}."}, 503, {"retry-after": "1"})

    @routes.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def figures() -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @routes.get("/bundles", summary="What is served", responses={200: {"model": Bundles}})
    async def bundles() -> Response:
        found = [_told(service) for service in serving.services.values()]
        return json_response({"state": serving.state, "bundles": found})

    @routes.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs")

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page.CONTENT, headers={"content-security-policy": page.POLICY}, media_type="text/html")

    return routes


def _told(service: Service) -> dict[str, object]:
    segmenter = service.segmenter
    return {
        "name": service.name,
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        "model": segmenter.model.id,
        "input_size": segmenter.spec.size,
        "workers": service.pool.workers,
        "memories": len(service.memories.names()),
    }
