"""The application: all routes behind one gate, without any state outside of it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ntre_deploy import __version__
from ntre_deploy.errors import NtreError
from ntre_deploy.serving.http import probes, remembering, segmenting
from ntre_deploy.serving.http.answers import refused
from ntre_deploy.serving.http.gate import Gate
from ntre_deploy.serving.http.metrics import Metrics
from ntre_deploy.serving.http.serving import Opening, Services, Serving
from ntre_deploy.serving.http.settings import Settings
from ntre_deploy.serving.http.v2 import routes as v2

_ABOUT = (
    "Few-shot segmentation: show a class by annotated photos, and get the masks of every further one. Photos in forms "
    "or the open inference protocol (v2), which Triton's and KServe's clients speak. Errors are "
    '{"error": "one line"}.'
)


def create_app(services: Services | Opening, settings: Settings | None = None) -> FastAPI:
    """An application that serves bundles.

    Its `state.serving` is the `Serving` that requests share, and `state.metrics` its figures.

    Args:
        services: the bundles by name, the first one the default, which the caller closes; or what opens them, which is
            called on a thread when the application starts, and whose services are closed when it ends.  Until they are
            there, requests are refused and `/readyz` says so.
        settings: None takes the usual ones: any host, no keys.
    """
    settings = settings or Settings()
    serving = Serving(services, settings.limits)
    metrics = Metrics(serving)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if serving.owns:
            # of its own, as asyncio waits for its threads at the end
            threading.Thread(target=serving.load, name="loading", daemon=True).start()
        try:
            yield
        finally:
            serving.draining = True
            if serving.owns:
                await asyncio.to_thread(serving.close)

    app = FastAPI(
        title="ntre serve",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        exception_handlers=_handlers(),
    )
    app.state.serving, app.state.metrics = serving, metrics
    app.include_router(segmenting.router(serving, settings.limits, metrics))
    app.include_router(v2.router(serving, settings.limits, metrics))
    app.include_router(remembering.router(serving, settings.limits))
    app.include_router(probes.router(serving, metrics))
    app.add_middleware(Gate, serving=serving, settings=settings, metrics=metrics)
    return app


def _handlers() -> dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            # of the router, which says no more than the status
            told = f"There is no {request.method[:20]} {request.url.path[:100]}; /docs tells what there is."
            error = HTTPException(error.status_code, told, error.headers)
        request.scope["ntre"].note(error)
        return refused(error)

    return dict.fromkeys((NtreError, HTTPException, RequestValidationError), answer)
