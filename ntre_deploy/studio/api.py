"""What the page may ask for, as an ASGI application; the page's own files beside it."""

import asyncio
import json
import math
import mimetypes
import shutil
import tempfile
import time
import zipfile
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ntre_deploy.errors import EngineError, InputError, NtreError, one_of
from ntre_deploy.segment.grabcut import Box, Coordinate, Points, cut
from ntre_deploy.studio.exports import KINDS, export, pair_names
from ntre_deploy.studio.photos import THUMB, WORKING
from ntre_deploy.studio.session import Plan
from ntre_deploy.studio.studio import Studio
from ntre_deploy.studio.texts import script
from ntre_deploy.studio.webfiles import runtime_folder
from ntre_deploy.studio.worker import OutdatedError

# what Windows has on record for .js may be no script, which a browser refuses then
mimetypes.add_type("text/javascript", ".js")

Pixels = NDArray[np.uint8]
Done = TypeVar("Done")

PAGE = Path(__file__).parent / "page"
# bytes of a request: JSON, a photo's file, a label map or a camera's frame
_JSON, _PHOTO, _LABELS = 256_000, 100_000_000, WORKING * WORKING
# of what the web runtime loads
_WEB_TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_FRAME_SIDE, _POINTS = 1920, 200
# what goes first in the engine's queue: what a person waits for, then the strip, then figures
_NOW, _SOON, _LATER = 0, 1, 2


class Api:
    """The handlers of one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def app(self) -> Starlette:
        """The application, which a `Guard` must stand before."""
        photo = "/api/photos/{photo}"
        routes = [
            Route("/api/state", self.state),
            Route("/api/engine", self.engine, methods=["POST"]),
            Route("/api/classes", self.classes, methods=["PUT"]),
            Route("/api/photos", self.add, methods=["POST"]),
            Route(photo, self.remove, methods=["DELETE"]),
            Route(f"{photo}/image", self.image),
            Route(f"{photo}/thumb", self.thumb),
            Route(f"{photo}/marks", self.marks, methods=["GET", "PUT"]),
            Route(f"{photo}/labels", self.labels),
            Route(f"{photo}/grabcut", self.grabcut, methods=["POST"]),
            Route("/api/scores", self.scores),
            Route("/api/frame", self.frame, methods=["POST"]),
            Route("/api/export", self.export, methods=["POST"]),
            Route("/api/script", self.script),
            Route("/bundle/{key}/{name}", self.bundle_file),
            Route("/ort/{name}", self.ort_file),
            Mount("/web", StaticFiles(directory=runtime_folder(), follow_symlink=False)),
            Mount("/", StaticFiles(directory=PAGE, html=True, follow_symlink=False)),
        ]
        # those of starlette are called with any exception
        refusals: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {NtreError: _refused}
        return Starlette(routes=routes, exception_handlers=refusals)

    async def state(self, request: Request) -> Response:
        """The session, and what runs it."""
        return JSONResponse(self._studio.content())

    async def engine(self, request: Request) -> Response:
        """Load the bundle (again)."""
        await self._queue("load", self._studio.load, _NOW)
        return JSONResponse(self._studio.content())

    async def classes(self, request: Request) -> Response:
        """Take the list of classes."""
        content = await _json(request)
        await run_in_threadpool(self._studio.session.set_classes, content)
        return self._revision()

    async def add(self, request: Request) -> Response:
        """Take a photo: its file as the body, its name as `?name=`."""
        name = request.query_params.get("name", "")[:200]
        content = await _body(request, _PHOTO, f"{name} is larger than {_PHOTO // 1_000_000} MB; scale it down.")
        photo = await run_in_threadpool(self._studio.session.add, name, content)
        entry = next(p for p in self._studio.session.content()["photos"] if p["id"] == photo.id)
        return JSONResponse({"photo": entry, "revision": self._studio.session.revision})

    async def remove(self, request: Request) -> Response:
        """Take a photo off the strip."""
        await run_in_threadpool(self._studio.session.remove, request.path_params["photo"])
        return self._revision()

    async def image(self, request: Request) -> Response:
        """A photo at its working size, JPEG."""
        return await self._jpeg(request, WORKING)

    async def thumb(self, request: Request) -> Response:
        """A photo for the strip, JPEG."""
        return await self._jpeg(request, THUMB)

    async def marks(self, request: Request) -> Response:
        """The label map of a photo, one byte a pixel, row after row; `PUT` takes one."""
        session, photo_id = self._studio.session, request.path_params["photo"]
        height, width = session.photo(photo_id).working
        if request.method == "GET":
            return _pixels(await run_in_threadpool(session.labels, photo_id))
        content = await _body(request, _LABELS, "A label map has one byte for each pixel of its photo.")
        if len(content) != height * width:
            raise InputError(f"A label map of {width} x {height} bytes is expected, not of {len(content)}.")
        labels = np.frombuffer(content, np.uint8).reshape(height, width)
        await run_in_threadpool(session.mark, photo_id, labels)
        return self._revision()

    async def labels(self, request: Request) -> Response:
        """What the network finds in a photo, as `marks` gives it, scaled down to `?side=`."""
        photo_id = request.path_params["photo"]
        self._studio.session.photo(photo_id)
        plan = self._plan(request)
        side = _number(request.query_params.get("side", str(WORKING)), WORKING)
        began = time.perf_counter()

        def work() -> Pixels:
            self._check(plan)
            return self._studio.network.labels(photo_id, plan)

        urgent = request.query_params.get("now") == "1"
        found = await self._queue(f"labels {photo_id}", work, _NOW if urgent else _SOON)
        return _pixels(_thinned(found, side), ms=(time.perf_counter() - began) * 1000)

    async def grabcut(self, request: Request) -> Response:
        """The mask of a box or of points, in pixels of the working image: one byte a pixel, 1 inside."""
        photo = self._studio.session.photo(request.path_params["photo"])
        prompt = _prompt(await _json(request))

        def work() -> Pixels:
            return cut(self._studio.pictures.working(photo), prompt)

        return _pixels(await _done(self._studio.hand.submit("grabcut", work)))

    async def scores(self, request: Request) -> Response:
        """Leave-one-out scores of each class, and what its newest shot has gained."""
        plan = self._plan(request)

        def work() -> list[dict[str, Any]]:
            self._check(plan)
            return [asdict(score) for score in self._studio.network.scores(plan)]

        return JSONResponse({"scores": await self._queue("scores", work, _LATER), "revision": plan.revision})

    async def frame(self, request: Request) -> Response:
        """What the network finds in a camera's frame: RGBA, four bytes a pixel, of `?width=` and `?height=`."""
        width, height = (_number(request.query_params.get(key, ""), _FRAME_SIDE) for key in ("width", "height"))
        content = await _body(request, _FRAME_SIDE * _FRAME_SIDE * 4, "The frame is too large.")
        if len(content) != width * height * 4:
            raise InputError(f"A frame of {width} x {height} x 4 bytes is expected, not of {len(content)}.")
        image = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(height, width, 4)[..., :3])
        plan = self._studio.session.plan()
        began = time.perf_counter()
        found = await self._queue("frame", lambda: self._studio.network.frame(image, plan), _NOW)
        return _pixels(found, ms=(time.perf_counter() - began) * 1000)

    async def export(self, request: Request) -> Response:
        """A kind of files as a ZIP; `{"kind": ..., "predicted": true}`."""
        content = await _json(request)
        if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
            raise InputError("An export needs a kind.")
        # it becomes the name of a folder
        kind, predicted = one_of(str(content["kind"]), KINDS, "Export"), content.get("predicted") is True
        folder = Path(tempfile.mkdtemp(prefix="ntre-studio-"))
        try:
            name = "ntre_session" if kind == "session" else f"ntre_{kind}"
            archive = await self._queue("export", lambda: self._export(kind, folder, name, predicted=predicted), _LATER)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(archive, media_type="application/zip", filename=f"{name}.zip", background=clean)

    async def script(self, request: Request) -> Response:
        """The Python of an exported session."""
        session = self._studio.session
        plan = self._plan(request)
        return PlainTextResponse(script(plan, self._studio.bundle, pair_names(session, plan)))

    async def bundle_file(self, request: Request) -> Response:
        """A file of the bundle, for the web runtime."""
        web = self._studio.web
        return _file(None if web is None else web.bundle_file(request.path_params["key"], request.path_params["name"]))

    async def ort_file(self, request: Request) -> Response:
        """A file of onnxruntime-web."""
        web = self._studio.web
        return _file(None if web is None else web.ort_file(request.path_params["name"]))

    def _export(self, kind: str, folder: Path, name: str, *, predicted: bool) -> Path:
        studio = self._studio
        out = folder / name
        out.mkdir()
        export(kind, out, studio.session, studio.bundle, lambda: studio.network.segmenter, predicted=predicted)
        archive = folder / f"{name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            for path in sorted(out.rglob("*")):
                if path.is_file():
                    file.write(path, path.relative_to(folder).as_posix())
        return archive

    async def _jpeg(self, request: Request, side: int) -> Response:
        photo = self._studio.session.photo(request.path_params["photo"])
        content = await run_in_threadpool(self._studio.pictures.jpeg, photo, side)
        return Response(content, media_type="image/jpeg")

    async def _queue(self, key: str, work: Callable[[], Done], priority: int) -> Done:
        return await _done(self._studio.worker.submit(key, work, priority))

    def _plan(self, request: Request) -> Plan:
        """The plan of the revision that the page asks for."""
        plan = self._studio.session.plan()
        if request.query_params.get("revision", str(plan.revision)) != str(plan.revision):
            raise OutdatedError("The marks have changed.")
        return plan

    def _check(self, plan: Plan) -> None:
        if plan.revision != self._studio.session.revision:
            raise OutdatedError("The marks have changed.")

    def _revision(self) -> Response:
        return JSONResponse({"revision": self._studio.session.revision})


async def _done(future: "Future[Done]") -> Done:
    return await asyncio.wrap_future(future)


async def _refused(request: Request, error: NtreError) -> Response:
    status = {OutdatedError: 409, EngineError: 503}.get(type(error), 400)
    return JSONResponse({"error": str(error)}, status)


async def _body(request: Request, most: int, why: str) -> bytes:
    """The body of a request, of which no more than `most` bytes are taken.

    Raises:
        InputError: it is longer, or ends early.
    """
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise InputError(why)
            parts.append(part)
    except ClientDisconnect as error:
        raise InputError("The request ended early.") from error
    return b"".join(parts)


async def _json(request: Request) -> Any:
    def no_number(text: str) -> NoReturn:
        raise ValueError(text)

    content = await _body(request, _JSON, "The request is too long.")
    try:
        return json.loads(content, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise InputError("The request is no JSON.") from error


def _file(path: Path | None) -> Response:
    if path is None or not path.is_file():
        return JSONResponse({"error": "There is no such file."}, 404)
    return FileResponse(path, media_type=_WEB_TYPES.get(path.suffix, "application/octet-stream"))


def _number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= most):
        raise InputError(f"A number from 1 to {most} is expected, not {text[:20]!r}.")
    return int(text)


def _prompt(content: object) -> Box | Points:
    """`{"box": [x1, y1, x2, y2]}` or `{"points": [[x, y], ...], "background": [[x, y], ...]}`."""
    if isinstance(content, dict) and "box" in content:
        x1, y1, x2, y2 = _numbers(content["box"], 4)
        return Box((x1, y1, x2, y2), "The box")
    if isinstance(content, dict) and "points" in content:
        both = content["points"], content.get("background", [])
        if all(isinstance(points, list) and len(points) <= _POINTS for points in both) and both[0]:
            target, background = (tuple((x, y) for x, y in (_numbers(p, 2) for p in points)) for points in both)
            return Points(target, background, "The clicks")
    raise InputError("A box of four numbers, or points with one on the object at least, are expected.")


def _numbers(values: object, count: int) -> list[Coordinate]:
    if not isinstance(values, list) or len(values) != count:
        raise InputError(f"{count} numbers are expected.")
    found: list[Coordinate] = []
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= WORKING:
            raise InputError(f"Coordinates are numbers from 0 to {WORKING}.")
        found.append((float(value), False))
    return found


def _thinned(labels: Pixels, side: int) -> Pixels:
    """Every n-th pixel, so that no side is above `side`; labels have no means."""
    step = -(-max(labels.shape) // side)
    return np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step]) if step > 1 else labels


def _pixels(labels: Pixels, ms: float | None = None) -> Response:
    """One byte a pixel; on this machine's own network, packing would take longer than sending."""
    headers = {"x-height": str(labels.shape[0]), "x-width": str(labels.shape[1])}
    if ms is not None:
        headers["x-ms"] = f"{ms:.1f}"
    return Response(labels.tobytes(), media_type="application/octet-stream", headers=headers)
