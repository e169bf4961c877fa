"""SIGTERM: what was accepted is answered, what comes then is refused, and the process ends with 0."""

import http.client
import json
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from tests.serving.http.conftest import PATIENCE, Answer, Server  # type: ignore[import-not-found]

Files = list[SimpleNamespace]
PHOTO = {"Content-Type": "image/png"}


def ready(serve, files: Files, *arguments: str) -> Server:
    server: Server = serve(*arguments).ready()
    assert server.ask("PUT", "/memories/disc", parts=[("photo", files[0].photo), ("mask", files[0].mask)]).status == 201
    return server


def half_sent(server: Server, photo: bytes) -> http.client.HTTPConnection:
    """A request that is accepted and whose body is not all there yet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/segment?memory=disc")
    for name, value in (PHOTO | {"Content-Length": str(len(photo))}).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(photo[:100])
    return connection


def rest(connection: http.client.HTTPConnection, photo: bytes) -> Answer:
    connection.send(photo[100:])
    answer = connection.getresponse()
    return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_and_the_rest_refused(number: int, serve, files: Files) -> None:
    server = ready(serve, files, "--queue", "8")
    idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    accepted = [half_sent(server, files[1].photo) for _ in range(3)]
    server.wait(lambda: server.metric("ntre_in_flight") == 4, "the requests are not accepted")
    server.process.send_signal(number)
    server.wait(lambda: server.ask("GET", "/readyz").status == 503, "it does not end")
    # the socket still answers, on new connections and on old ones
    for _ in range(2):
        refused = server.ask("POST", "/segment?memory=disc", files[1].photo, PHOTO)
        assert (refused.status, "ending" in refused.error) == (503, True)
        assert (refused.headers["connection"], int(refused.headers["retry-after"]) >= 1) == ("close", True)
    idle.request("GET", "/memories")
    assert idle.getresponse().status == 503
    assert server.ask("GET", "/healthz").status == 200
    assert server.metric("ntre_ready") == 0
    assert [rest(connection, files[1].photo).status for connection in accepted] == [200] * 3
    assert server.process.wait(PATIENCE) == 0
    assert server.events[-1] | {"event": "ended", "undone": 0} == server.events[-1]
    assert not any("traceback" in event for event in server.events)


def test_in_the_middle_of_a_load_every_request_is_answered_or_refused(serve, files: Files) -> None:
    server = ready(serve, files, "--queue", "100", "--workers", "2")
    answers: list[int] = []

    def load() -> None:
        while server.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            try:
                connection.request("POST", "/segment?memory=disc", files[1].photo, PHOTO)
                answer = connection.getresponse()
                content = json.loads(answer.read())
            # nobody listens any more, or this request was not read when the socket was closed
            except (ConnectionError, http.client.HTTPException):
                continue
            answers.append(answer.status)
            if answer.status == 200:
                assert content["photos"]

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    server.wait(lambda: answers.count(200) > 20, "nothing is answered")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    for thread in threads:
        thread.join(PATIENCE)
    assert set(answers) <= {200, 503}
    # what it says to have answered has arrived whole
    told = [event for event in server.events if event["event"] == "request" and event["path"] == "/segment"]
    assert {event["status"] for event in told} <= {200, 503}
    assert sum(event["status"] == 200 for event in told) == answers.count(200)


def test_a_second_signal_ends_it_at_once(serve, files: Files) -> None:
    server = ready(serve, files)
    open_still = half_sent(server, files[1].photo)
    server.wait(lambda: server.metric("ntre_in_flight") == 2, "the request is not accepted")
    server.process.send_signal(signal.SIGTERM)
    server.wait(lambda: server.ask("GET", "/readyz").status == 503, "it does not end")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 128 + signal.SIGTERM
    open_still.close()


def test_who_never_comes_to_an_end_is_not_waited_for(serve, files: Files) -> None:
    server = ready(serve, files, "--drain-seconds", "0.5")
    open_still = half_sent(server, files[1].photo)
    server.wait(lambda: server.metric("ntre_in_flight") == 2, "the request is not accepted")
    began = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - began < PATIENCE / 2
    open_still.close()


def test_before_the_bundles_are_loaded_it_ends_too(serve) -> None:
    server = serve()
    assert server.end() == 0
    assert not any("traceback" in event for event in server.events)
