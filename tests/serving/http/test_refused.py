"""What cannot be used is refused with the right status and one line, and the server goes on."""

import http.client
import io
import socket
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.serving.http.conftest import Answer, Part, Server  # type: ignore[import-not-found]

Files = list[SimpleNamespace]
MB = 1_000_000


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG that declares that many pixels and is small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def floating() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ones((20, 20), np.float32)).save(file, "TIFF")
    return file.getvalue()


@pytest.fixture(scope="module")
def good(server: Server, files: Files) -> SimpleNamespace:
    memory = server.ask("GET", "/memories/disc").body
    return SimpleNamespace(photo=files[1].photo, support=files[0].photo, mask=files[0].mask, memory=memory)


BAD: dict[str, tuple[int, str, str]] = {
    # what it is: status, words of the line, where
    "no photo": (400, "No photo", "/segment?memory=disc"),
    "no support": (400, "No support", "/segment"),
    "an empty photo": (422, "not an image", "/segment?memory=disc"),
    "text for a photo": (422, "not an image", "/segment?memory=disc"),
    "a photo that is cut off": (422, "cut off", "/segment?memory=disc"),
    "a bomb": (413, "900000000 pixels", "/segment?memory=disc"),
    "a photo beyond the limit": (413, "2000 x 2000", "/segment?memory=disc"),
    "floating-point pixels": (422, "floating-point", "/segment?memory=disc"),
    "a photo in a text field": (400, "curl -F photo=@FILE", "/segment?memory=disc"),
    "an unknown part": (400, "Did you mean 'photo'", "/segment?memory=disc"),
    "an unknown memory": (404, "Did you mean 'disc'", "/segment?memory=dics"),
    "an unknown bundle": (404, "Did you mean 'tiny'", "/segment?memory=disc&bundle=tinny"),
    "a memory with a path for its name": (404, "no memory", "/segment?memory=../../etc/passwd"),
    "an unknown format": (400, "one of json", "/segment?memory=disc&format=jsn"),
    "two photos as one picture": (400, "holds one photo", "/segment?memory=disc&format=png"),
    "a support without its mask": (400, "each one needs the other", "/segment"),
    "a mask of another size": (422, "must be equal", "/segment"),
    "an empty mask": (422, "empty", "/segment"),
    "a mask in colours": (422, "colour", "/segment"),
    "a memory's file that is none": (422, "support memory", "/segment"),
    "a memory's file with a bit changed": (422, "changed", "/segment"),
    "more names than supports": (400, "one name for each", "/segment"),
    "a name that cannot be printed": (400, "can be printed", "/segment"),
    "33 classes": (400, "up to 32", "/segment" + "?" + "&".join(["memory=disc"] * 33)),
    "one photo of several that is damaged": (422, "b.png", "/segment?memory=disc"),
}


def parts_of(kind: str, good: SimpleNamespace) -> list[Part]:
    photo = ("photo", good.photo)
    shown = [("support", good.support), ("mask", good.mask)]
    blank = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(blank, "PNG")
    changed = bytearray(good.memory)
    changed[-5] ^= 1
    dark, colours = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((90, 120), np.uint8)).save(dark, "PNG")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(colours, "PNG")
    made: dict[str, list[Part]] = {
        "no photo": [("memory", "disc")],
        "an empty photo": [("photo", b"")],
        "text for a photo": [("photo", b"hello there")],
        "a photo that is cut off": [("photo", good.photo[: len(good.photo) // 2])],
        "a bomb": [("photo", bomb())],
        "a photo beyond the limit": [("photo", blank.getvalue())],
        "floating-point pixels": [("photo", floating())],
        "a photo in a text field": [("photo", "a.png")],
        "an unknown part": [("foto", good.photo)],
        "two photos as one picture": [photo, photo],
        "a support without its mask": [photo, shown[0]],
        "a mask of another size": [photo, ("support", good.photo), shown[1]],
        "an empty mask": [photo, shown[0], ("mask", dark.getvalue())],
        "a mask in colours": [photo, shown[0], ("mask", colours.getvalue())],
        "a memory's file that is none": [photo, ("memory_file", b"x" * 100)],
        "a memory's file with a bit changed": [photo, ("memory_file", bytes(changed))],
        "more names than supports": [photo, *shown, ("name", "a"), ("name", "b")],
        "a name that cannot be printed": [photo, *shown, ("name", "a\x07")],
        "one photo of several that is damaged": [("photo", good.photo, "a.png"), ("photo", b"x", "b.png")],
    }
    return made.get(kind, [photo])


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_form(kind: str, server: Server, good: SimpleNamespace) -> None:
    status, words, path = BAD[kind]
    answer = server.ask("POST", path, parts=parts_of(kind, good))
    assert (answer.status, words in answer.error) == (status, True), answer.body
    # and it goes on
    assert server.ask("POST", "/segment?memory=disc", parts=[("photo", good.photo)]).status == 200


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        ({}, b"abc", 415, "body of no type"),
        ({"Content-Type": "text/plain"}, b"abc", 415, "text/plain"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"photo=1", 415, "urlencoded"),
        ({"Content-Type": "multipart/form-data"}, b"abc", 400, "boundary"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"no boundary at all", 400, "form"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b"--b\r\nA: x\r\n\r\n1\r\n--b--",
            400,
            "name",
        ),
        ({"Content-Type": "image/jpeg"}, b"", 422, "not an image"),
        ({"Content-Type": "image/svg+xml"}, b"<svg/>", 422, "not an image"),
    ],
)
def test_a_bad_body(headers: dict[str, str], body: bytes, status: int, words: str, server: Server) -> None:
    answer = server.ask("POST", "/segment?memory=disc", body, headers)
    assert (answer.status, words in answer.error) == (status, True), answer.body


def test_what_is_not_there_and_methods_that_are_not(server: Server) -> None:
    assert "/docs" in server.ask("GET", "/nothing").error
    assert server.ask("GET", "/segment").status == 405
    assert server.ask("GET", "/segment").headers["allow"] == "POST"
    assert server.ask("PATCH", "/memories/disc").status == 405
    assert server.ask("GET", "/%2e%2e/%2e%2e/etc/passwd").status == 404


def head(server: Server, *lines: str, path: str = "/segment?memory=disc") -> bytes:
    first = (f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}")
    return "\r\n".join([*first, *lines, "", ""]).encode()


def answer_of(server: Server, *sent: bytes) -> Answer:
    """The first answer to bytes as they are."""
    with server.raw() as connection:
        for part in sent:
            connection.sendall(part)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def test_a_body_that_is_announced_as_too_large_is_not_read(server: Server) -> None:
    answer = answer_of(server, head(server, "Content-Type: image/jpeg", "Content-Length: 1000000000000"), b"x" * 1000)
    assert (answer.status, "2,000,000 bytes" in answer.error) == (413, True)
    # one who asks first is told before anything is sent
    lines = ("Content-Type: image/jpeg", "Content-Length: 90000000", "Expect: 100-continue")
    assert answer_of(server, head(server, *lines)).status == 413


def test_a_client_that_sends_all_of_a_large_body_still_reads_the_refusal(server: Server) -> None:
    for _ in range(3):
        answer = server.ask("POST", "/segment?memory=disc", b"x" * 20 * MB, {"Content-Type": "image/jpeg"})
        assert (answer.status, "2,000,000" in answer.error) == (413, True)
        assert answer.headers["connection"] == "close"


def test_a_small_body_is_read_for_its_refusal_and_the_connection_kept(server: Server) -> None:
    with server.raw() as connection:
        for _ in range(3):
            # nothing of it is wanted before it is refused
            path = "/v2/models/nobody/infer"
            connection.sendall(head(server, "Content-Length: 5000", path=path) + b"x" * 5000)
            answer = read_answer(connection)
            assert (answer.status, answer.headers.get("connection")) == (404, None)
        # what has not come is not waited for, and the rest of it would be taken for a request
        connection.sendall(head(server, "Content-Length: 5000", path=path) + b"x" * 4999)
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (404, "close")


def test_a_chunked_body_ends_at_the_limit(server: Server) -> None:
    def endless():
        for _ in range(40):
            yield b"x" * 100_000

    answer = server.ask("POST", "/segment?memory=disc", endless(), {"Content-Type": "image/jpeg"}, encode_chunked=True)
    assert answer.status == 413
    assert server.metric("ntre_in_flight") == 1, "more than the request that asks"


def test_a_content_length_that_lies(server: Server, good: SimpleNamespace) -> None:
    photo = good.photo
    # more than is announced: the rest is no request
    lines = ("Content-Type: image/png", f"Content-Length: {len(photo)}", "Connection: close")
    with server.raw() as connection:
        connection.sendall(head(server, *lines) + photo + b"GET /memories HTTP/1.1\r\n\r\n")
        assert read_answer(connection).status == 200
        assert connection.recv(1000) == b""
    # less: the client goes before the end
    with server.raw() as connection:
        connection.sendall(head(server, "Content-Type: image/png", f"Content-Length: {len(photo) + 50}") + photo)
    server.wait(lambda: any(event.get("status") == 499 for event in server.events), "it is not seen that a client goes")
    for wrong in ("-5", "abc", "1, 2", "0x10"):
        assert answer_of(server, head(server, f"Content-Length: {wrong}")).status == 400


def test_heads_that_are_too_large_or_no_http(server: Server) -> None:
    with server.raw() as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000)
            received = connection.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            received = b"HTTP/1.1 431"
    assert received.startswith(b"HTTP/1.1 431")
    assert answer_of(server, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").status == 400
    assert server.ask("GET", "/healthz").status == 200


def test_a_slow_body_is_cut_off_and_keeps_nobody_else(serve, files: Files) -> None:
    server = serve("--timeout", "2", "--workers", "1", "--queue", "4").ready()
    slow = [server.raw() for _ in range(3)]
    for connection in slow:
        connection.sendall(head(server, "Content-Type: image/png", "Content-Length: 1000") + b"x")
    shown = [("photo", files[1].photo), ("support", files[0].photo), ("mask", files[0].mask)]
    for _ in range(3):
        assert server.ask("POST", "/segment", parts=shown).status == 200
    for connection in slow:
        answer = read_answer(connection)
        assert (answer.status, "did not come within 2 s" in answer.error) == (408, True)
        connection.close()
    server.wait(lambda: server.metric("ntre_queue_length") == 0, "places in the queue are not given back")
    assert server.end() == 0
