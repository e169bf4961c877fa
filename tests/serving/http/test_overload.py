"""More than it can do is refused before anything is read; nothing grows, and nobody waits in vain."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.http.application import create_app
from ntre_deploy.serving.http.settings import Settings
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.service import Service
from tests.serving.http.conftest import PATIENCE, Server, living  # type: ignore[import-not-found]

Files = list[SimpleNamespace]
PHOTO = {"Content-Type": "image/png"}


@pytest.fixture
def narrow(exported: Path, files: Files) -> Callable[..., Service]:
    """A service of one worker and two places in the queue, with the memory `disc`."""

    def opened(**limits: Any) -> Service:
        made = Service.open(exported, engine="onnx-cpu", workers=1, limits=Limits(**{"waiting": 2} | limits))
        made.remember("disc", [(files[0].photo, files[0].mask)]).result(PATIENCE)
        return made

    return opened


class Blocked:
    """In its block, the one worker of a service does nothing else."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._go, self._here = threading.Event(), threading.Event()

    async def __aenter__(self) -> "Blocked":
        def wait(_: Segmenter) -> None:
            self._here.set()
            self._go.wait(PATIENCE)

        self._service.run(wait, time.monotonic() + PATIENCE)
        await asyncio.to_thread(self._here.wait, PATIENCE)
        return self

    def let_go(self) -> None:
        self._go.set()

    async def __aexit__(self, *_: object) -> None:
        self.let_go()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(PATIENCE * 100):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never comes to that")


def test_a_full_queue_refuses_without_reading(narrow: Callable[..., Service], files: Files) -> None:
    service = narrow()
    app = create_app({"tiny": service}, Settings(service.limits))

    async def check() -> None:
        async with living(app) as ask:
            async with Blocked(service) as blocked:
                path = "/segment?memory=disc"
                waiting = [asyncio.create_task(ask("POST", path, files[1].photo, PHOTO)) for _ in range(2)]
                await until(lambda: service.pool.under_way == 3)
                assert 'ntre_queue_length{bundle="tiny"} 2.0' in (await ask("GET", "/metrics")).body.decode()
                for way in (path, "/v2/models/tiny/infer"):
                    # half of the body is there, and what is not is not waited for before the answer
                    more = asyncio.Event()
                    asked = asyncio.create_task(ask("POST", way, [b"x", b"y"], PHOTO, more=more))
                    await asyncio.sleep(0.1)
                    assert app.state.serving.accepted == 2
                    more.set()
                    refused = await asked
                    assert (refused.status, "2 requests wait already" in refused.error) == (429, True)
                    assert int(refused.headers["retry-after"]) >= 1
                    assert refused.headers["connection"] == "close"
                assert (await ask("PUT", "/memories/x", b"", PHOTO)).status == 429
                # what needs no worker is answered
                for other in ("/healthz", "/readyz", "/memories", "/bundles", "/v2/health/ready"):
                    assert (await ask("GET", other)).status == 200
                blocked.let_go()
                assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
            assert (await ask("POST", path, files[1].photo, PHOTO)).status == 200

    asyncio.run(check())
    service.close()


def test_bodies_that_are_being_sent_take_places_too(narrow: Callable[..., Service], files: Files) -> None:
    service = narrow()

    async def check() -> None:
        async with living(create_app({"tiny": service}, Settings(service.limits))) as ask:
            more, half = asyncio.Event(), len(files[1].photo) // 2
            parts = [files[1].photo[:half], files[1].photo[half:]]
            slow = [asyncio.create_task(ask("POST", "/segment?memory=disc", parts, PHOTO, more=more)) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert (await ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)).status == 429
            more.set()
            assert [answer.status for answer in await asyncio.gather(*slow)] == [200] * 3

    asyncio.run(check())
    service.close()


def test_large_bodies_together_are_bounded(narrow: Callable[..., Service]) -> None:
    service = narrow(waiting=40, body_bytes=1000)

    async def check() -> None:
        app = create_app({"tiny": service}, Settings(service.limits))
        async with living(app) as ask:
            more = asyncio.Event()
            body = [b"x" * 900, b"x" * 90]
            slow = [asyncio.create_task(ask("POST", "/segment?memory=disc", body, PHOTO, more=more)) for _ in range(12)]
            await asyncio.sleep(0.1)
            more.set()
            statuses = [answer.status for answer in await asyncio.gather(*slow)]
            assert set(statuses) == {422, 429}
            assert statuses.count(422) >= 8
            assert app.state.serving._held == 0
            assert (await ask("POST", "/segment?memory=disc", body, PHOTO)).status == 422

    asyncio.run(check())
    service.close()


def test_a_request_whose_time_is_over_and_one_whose_client_has_gone(
    narrow: Callable[..., Service], files: Files
) -> None:
    service = narrow(seconds=0.3)
    app = create_app({"tiny": service}, Settings(service.limits))

    async def check() -> None:
        async with living(app) as ask:
            async with Blocked(service) as blocked:
                late = await ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)
                assert (late.status, "time of this request was over" in late.error) == (504, True)
                gone = asyncio.Event()
                left = asyncio.create_task(ask("POST", "/segment?memory=disc", files[1].photo, PHOTO, gone=gone))
                await until(lambda: service.pool.under_way == 2)
                gone.set()
                assert (await left).status == 0
                # neither is worked on any more
                await until(lambda: service.pool.under_way == 1)
                blocked.let_go()
            await until(lambda: service.pool.under_way == 0)
            counted = app.state.metrics.total
            assert counted("ntre_requests_total", route="/segment", method="POST", status="499") == 1
            assert counted("ntre_photos_total", bundle="tiny") == 0
            assert counted("ntre_photos_failed_total", bundle="tiny") == 2

    asyncio.run(check())
    service.close()


def test_a_defect_and_an_engines_failure_are_one_line(
    narrow: Callable[..., Service], files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = narrow()

    async def check() -> None:
        async with living(create_app({"tiny": service}, Settings(service.limits))) as ask:
            for error, words in (
                (EngineError("onnx-cpu fp32 gave NaN."), "gave NaN"),
                (ZeroDivisionError("secret"), "log has more"),
                (MemoryError(), "log has more"),
            ):

                def fail(*_: object, error: Exception = error) -> None:
                    raise error

                monkeypatch.setattr(Segmenter, "segment_result", fail)
                headers = PHOTO | {"X-Request-Id": "mine"}
                answer = await ask("POST", "/segment?memory=disc", files[1].photo, headers)
                assert (answer.status, words in answer.error) == (500, True)
                assert answer.headers["x-request-id"] == "mine"
                assert "secret" not in answer.error
            monkeypatch.undo()
            assert (await ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)).status == 200

    asyncio.run(check())
    service.close()
    assert "ZeroDivisionError: secret" in caplog.text


def test_while_bundles_are_loaded_and_where_they_cannot_be(narrow: Callable[..., Service], files: Files) -> None:
    go = threading.Event()

    def load() -> dict[str, Service]:
        go.wait(PATIENCE)
        return {"tiny": narrow()}

    async def check() -> None:
        app = create_app(load)
        async with living(app) as ask:
            assert (await ask("GET", "/healthz")).status == 200
            ready = await ask("GET", "/readyz")
            assert (ready.status, "loading" in ready.error, "retry-after" in ready.headers) == (503, True, True)
            assert (await ask("GET", "/v2/health/ready")).json == {"ready": False}
            refused = await ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)
            assert (refused.status, "being loaded" in refused.error) == (503, True)
            go.set()
            await until(lambda: app.state.serving.ready)
            assert (await ask("GET", "/readyz")).status == 200
            assert (await ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)).status == 200
        # what it has opened is closed with it
        (service,) = app.state.serving.services.values()
        assert service.pool.full

        def fail() -> dict[str, Service]:
            raise InputError("no such bundle")

        broken = create_app(fail)
        async with living(broken) as ask:
            await until(lambda: broken.state.serving.failed is not None)
            assert (await ask("GET", "/healthz")).status == 200
            assert "failed" in (await ask("GET", "/readyz")).error
            assert "could not be loaded" in (await ask("GET", "/memories")).error

    asyncio.run(check())


def test_under_a_load_of_many_times_what_it_can_do_its_memory_stays(serve, files: Files) -> None:
    server: Server = serve("--workers", "1", "--queue", "2", "--max-body", "8").ready()
    assert server.ask("PUT", "/memories/disc", parts=[("photo", files[0].photo), ("mask", files[0].mask)]).status == 201
    # a photo, and 6 MB of something behind it, as PNG allows
    heavy = files[1].photo + bytes(6_000_000)
    seen: list[tuple[int, str]] = []

    def load(times: int) -> None:
        for _ in range(times):
            answer = server.ask("POST", "/segment?memory=disc", heavy, PHOTO)
            seen.append((answer.status, answer.headers.get("retry-after", "")))

    def burst(times: int) -> None:
        threads = [threading.Thread(target=load, args=(times,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    burst(2)
    before = server.metric("process_resident_memory_bytes")
    burst(10)
    assert server.metric("process_resident_memory_bytes") < before + 40e6
    assert {status for status, _ in seen} == {200, 429}
    assert all(after.isdecimal() and int(after) >= 1 for status, after in seen if status == 429)
    assert server.ask("POST", "/segment?memory=disc", heavy, PHOTO).status == 200
    assert server.end() == 0
