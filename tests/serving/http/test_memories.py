"""Memories as a resource: made, listed, taken away, kept over a restart; each bundle's apart; while photos come."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from tests.serving.http.conftest import Part, Server  # type: ignore[import-not-found]

Files = list[SimpleNamespace]
Shots = list[tuple[np.ndarray, np.ndarray]]
FILE = {"Content-Type": "application/octet-stream"}


def shots_of(files: Files, *numbers: int) -> list[Part]:
    return [part for n in numbers for part in (("photo", files[n].photo), ("mask", files[n].mask))]


def names(server: Server, bundle: str = "tiny") -> list[str]:
    return [memory["name"] for memory in server.ask("GET", f"/bundles/{bundle}/memories").json["memories"]]


def test_a_memory_is_made_listed_read_replaced_and_forgotten(
    server: Server, files: Files, shots: Shots, segmenter: Segmenter
) -> None:
    made = server.ask("PUT", "/memories/thing", parts=shots_of(files, 1, 2))
    assert made.status == 201, made.body
    assert made.json["shots"] == 2
    wanted = segmenter.encode_support(shots[1:3], "thing")
    assert made.json["shot_scores"] == pytest.approx(wanted.shot_scores, abs=1e-3)
    listed = server.ask("GET", "/memories").json
    assert listed["bundle"] == "tiny"
    (entry,) = [one for one in listed["memories"] if one["name"] == "thing"]
    assert entry == made.json | {"created": entry["created"]}
    assert entry["model"] == segmenter.model.id
    file = server.ask("GET", "/memories/thing")
    assert file.headers["content-type"] == "application/octet-stream"
    assert "thing.safetensors" in file.headers["content-disposition"]
    assert len(file.body) == entry["bytes"]
    np.testing.assert_allclose(SupportMemory.from_bytes(file.body).prototype, wanted.prototype, atol=1e-4)
    again = server.ask("PUT", "/memories/thing", parts=shots_of(files, 0))
    assert (again.status, again.json["shots"], again.json["shot_scores"]) == (200, 1, None)
    assert server.ask("DELETE", "/memories/thing").status == 204
    assert "thing" not in names(server)
    for method in ("GET", "DELETE"):
        gone = server.ask(method, "/memories/thing")
        assert (gone.status, "no memory 'thing'" in gone.error) == (404, True)


def test_a_memorys_file_takes_the_name_that_it_is_put_under(server: Server, files: Files) -> None:
    file = server.ask("GET", "/memories/disc").body
    assert server.ask("PUT", "/memories/copy?bundle=other", file, FILE).status == 201
    answer = server.ask("POST", "/segment?bundle=other&memory=copy", files[1].photo, {"Content-Type": "image/png"})
    assert [one["name"] for one in answer.json["photos"][0]["classes"]] == ["copy"]
    # bundles do not see each other's
    assert "copy" not in names(server)
    assert server.ask("GET", "/bundles/tiny/memories/copy").status == 404
    assert server.ask("DELETE", "/bundles/other/memories/copy").status == 204


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("a%20b", 400, "cannot name a memory"),
        ("%2e%2e", 400, "cannot name a memory"),
        ("..%2f..%2fx", 404, "/docs"),
        ("x" * 101, 400, "cannot name a memory"),
        ("a%00b", 400, "cannot name a memory"),
        (".hidden", 400, "cannot name a memory"),
    ],
)
def test_a_name_that_cannot_be_one(name: str, status: int, words: str, server: Server, files: Files) -> None:
    answer = server.ask("PUT", f"/memories/{name}", parts=shots_of(files, 0))
    assert (answer.status, words in answer.error) == (status, True), answer.body


def test_what_no_memory_can_be_made_of(server: Server, files: Files) -> None:
    file = server.ask("GET", "/memories/disc").body
    wrong = file.replace(b'\\"model\\": \\"', b'\\"model\\": \\"x', 1)
    for body, headers, parts, status, words in (
        (None, None, [], 400, "No annotated photo"),
        (None, None, [("photo", files[0].photo)], 400, "each one needs the other"),
        (None, None, [("photo", files[0].photo), ("mask", files[1].mask)], 422, "must be equal"),
        (None, None, [("photo", files[0].photo), ("mask", files[0].mask), ("name", "x")], 400, "unknown"),
        (b"hello", FILE, None, 422, "support memory"),
        (wrong, FILE, None, 422, "support memory"),
        (b"", FILE, None, 422, "support memory"),
        (b"{}", {"Content-Type": "application/json"}, None, 415, "application/json"),
        (b"{}", {}, None, 415, "no type"),
    ):
        answer = server.ask("PUT", "/memories/bad", body, headers, parts=parts)
        assert (answer.status, words in answer.error) == (status, True), answer.body
    assert "bad" not in names(server)


def test_memories_survive_a_restart(serve, files: Files, tmp_path: Path) -> None:
    first = serve("--memories", "kept").ready()
    assert first.ask("PUT", "/memories/disc", parts=shots_of(files, 0, 1)).status == 201
    photo, kind = files[2].photo, {"Content-Type": "image/png"}
    before = first.ask("POST", "/segment?memory=disc&format=png", photo, kind).body
    listed = first.ask("GET", "/memories").json
    # a kill leaves nothing half-written
    first.process.kill()
    first.process.wait()
    assert [path.name for path in (tmp_path / "kept" / "tiny").iterdir()] == ["disc.safetensors"]
    second = serve("--memories", "kept").ready()
    assert second.ask("GET", "/memories").json == listed
    assert second.ask("POST", "/segment?memory=disc&format=png", photo, kind).body == before


def test_a_memory_of_another_model_is_told_and_refused(serve, demo_bundle: Path, files: Files, server: Server) -> None:
    other = serve(bundles=[demo_bundle]).ready()
    file = server.ask("GET", "/memories/disc").body
    answer = other.ask("PUT", "/memories/disc", file, FILE)
    assert (answer.status, "another model" in answer.error) == (422, True)
    parts = [("photo", files[0].photo), ("memory_file", file)]
    answer = other.ask("POST", "/segment", parts=parts)
    assert (answer.status, "another model" in answer.error) == (422, True)
    # one that was put into the folder by hand, as after a new model of the same name
    folder = Path(f"/proc/{other.process.pid}/cwd").resolve() / "memories" / demo_bundle.name.removesuffix(".ntre")
    folder.mkdir(parents=True)
    (folder / "old.safetensors").write_bytes(file)
    (listed,) = other.ask("GET", "/memories").json["memories"]
    assert (listed["name"], listed["shots"], "another model" in listed["error"]) == ("old", 0, True)
    assert "another model" in other.ask("POST", "/segment?memory=old", parts=[("photo", files[0].photo)]).error


def test_memories_change_while_photos_are_segmented(server: Server, files: Files) -> None:
    wrong: list[str] = []
    ended = threading.Event()

    def change(number: int) -> None:
        name = f"busy{number % 2}"
        for turn in range(8):
            status = server.ask("PUT", f"/memories/{name}", parts=shots_of(files, turn % 4)).status
            if status not in (200, 201):
                wrong.append(f"PUT {status}")
            if server.ask("GET", "/memories").status != 200:
                wrong.append("GET")
            status = server.ask("DELETE", f"/memories/{name}").status
            if status not in (204, 404):
                wrong.append(f"DELETE {status}")

    def segment() -> None:
        while not ended.is_set():
            answer = server.ask("POST", "/segment?memory=disc&memory=busy0", parts=[("photo", files[1].photo)])
            if answer.status not in (200, 404):
                wrong.append(f"POST {answer.status} {answer.body!r}")
            answer = server.ask("POST", "/segment?memory=disc", parts=[("photo", files[1].photo)])
            if answer.status != 200:
                wrong.append(f"POST {answer.status} {answer.body!r}")

    changing = [threading.Thread(target=change, args=(number,)) for number in range(3)]
    segmenting = [threading.Thread(target=segment) for _ in range(2)]
    for thread in changing + segmenting:
        thread.start()
    for thread in changing:
        thread.join()
    ended.set()
    for thread in segmenting:
        thread.join()
    assert wrong == []
    for name in ("busy0", "busy1"):
        server.ask("DELETE", f"/memories/{name}")
    assert names(server) == ["disc"]
