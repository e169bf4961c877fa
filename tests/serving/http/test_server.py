"""What is told of the server itself: probes, figures, the log, the OpenAPI page."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.http.conftest import Server  # type: ignore[import-not-found]

Files = list[SimpleNamespace]
PHOTO = {"Content-Type": "image/png"}


def test_what_is_served(server: Server) -> None:
    told = server.ask("GET", "/bundles").json
    assert told["state"] == "ready"
    assert [bundle["name"] for bundle in told["bundles"]] == ["tiny", "other"]
    assert (
        told["bundles"][0] | {"engine": "onnx-cpu", "precision": "fp32", "workers": 2, "input_size": 65}
        == (told["bundles"][0])
    )
    assert server.ask("GET", "/healthz").body == b"ok\n"
    for path in ("/healthz", "/readyz"):
        head = server.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")


def test_figures_for_prometheus(server: Server, files: Files) -> None:
    parser = pytest.importorskip("prometheus_client.parser")

    def samples() -> dict[tuple[str, ...], float]:
        answer = server.ask("GET", "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = parser.text_string_to_metric_families(answer.body.decode())
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}

    before = samples()
    server.ask("POST", "/segment?memory=disc", parts=[("photo", files[1].photo)] * 2)
    server.ask("POST", "/segment?memory=none", files[1].photo, PHOTO)
    server.ask("GET", "/nothing/like/this")
    after = samples()

    def more(*key: str) -> float:
        name, *labels = key
        return after.get((name, *sorted(labels)), 0) - before.get((name, *sorted(labels)), 0)

    assert more("ntre_requests_total", "POST", "/segment", "200") == 1
    assert more("ntre_requests_total", "POST", "/segment", "404") == 1
    assert more("ntre_requests_total", "other", "other", "404") == 1
    assert more("ntre_photos_total", "tiny") == 2
    assert more("ntre_photos_failed_total", "tiny") == 1
    for stage in ("queue", "decode", "support", "engine", "encode"):
        assert more("ntre_stage_seconds_count", "tiny", stage) == 2
    assert more("ntre_request_seconds_count", "/segment") == 2
    names = {key[0] for key in after}
    assert {"ntre_queue_length", "ntre_queue_limit", "ntre_in_flight", "ntre_ready", "ntre_bundle_info"} <= names
    assert {"process_resident_memory_bytes", "ntre_info", "ntre_workers"} <= names
    assert not any(name.endswith("_created") for name in names)
    # no path of a client becomes a label
    assert "nothing" not in str(sorted(after))


def test_the_log_is_one_object_a_line_without_what_was_sent(server: Server, files: Files) -> None:
    def last(path: str) -> dict[str, Any]:
        server.wait(lambda: any(event.get("path") == path for event in server.events), "it is not logged")
        return next(event for event in reversed(server.events) if event.get("path") == path)

    parts = [("photo", files[1].photo, "secret name.png")]
    answer = server.ask("POST", "/bundles/other/segment?memory=none", headers={"X-Request-Id": "a-b/1"}, parts=parts)
    assert answer.headers["x-request-id"] == "a-b/1"
    line = last("/bundles/other/segment")
    assert line | {"id": "a-b/1", "status": 404, "method": "POST", "bundle": "other", "level": "info"} == line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["bytes_in"] > len(files[1].photo)
    assert line["bytes_out"] == len(answer.body)
    assert line["ms"] > 0
    # an id that could break a line or a terminal is not taken on
    for bad in ("a b", "x" * 200, "a{}", "é"):
        made = server.ask("GET", "/bundles", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", made)
    server.ask("GET", "/a%0a%22path")
    assert last('/a\n"path')["status"] == 404
    # probes are not worth a line each
    server.ask("GET", "/readyz")
    server.ask("GET", "/bundles")
    assert not any(event.get("path") in ("/readyz", "/healthz") and event["status"] == 200 for event in server.events)
    assert "secret name" not in "".join(server.said)
    assert {"listening", "ready", "request"} <= {event["event"] for event in server.events}


def test_the_openapi_description_is_whole(server: Server) -> None:
    told = server.ask("GET", "/openapi.json").json
    assert told["openapi"].startswith("3.")

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    for reference in references(told):
        target: Any = told
        for key in reference.removeprefix("#/").split("/"):
            target = target[key]
    operations = {(path, method): one for path, methods in told["paths"].items() for method, one in methods.items()}
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for (path, _), operation in operations.items():
        assert operation["summary"]
        assert operation["responses"]
        named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
    bodies = {key for key, operation in operations.items() if "requestBody" in operation}
    assert {("/segment", "post"), ("/memories/{name}", "put"), ("/v2/models/{name}/infer", "post")} <= bodies
    parts = operations["/segment", "post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(parts) == {"photo", "support", "mask", "memory_file", "memory", "name"}
    assert {"400", "404", "413", "415", "422", "429", "503", "504"} <= set(operations["/segment", "post"]["responses"])


def test_answers_are_as_the_description_says(server: Server, files: Files) -> None:
    schemas = pytest.importorskip("jsonschema")
    told = server.ask("GET", "/openapi.json").json

    def check(name: str, content: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": told["components"]}
        schemas.Draft202012Validator(schema).validate(content)

    check("Segmented", server.ask("POST", "/segment?memory=disc", parts=[("photo", files[1].photo)]).json)
    check("Memories", server.ask("GET", "/memories").json)
    check("Bundles", server.ask("GET", "/bundles").json)
    check("Problem", server.ask("POST", "/segment").json)


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    first = server.ask("GET", "/")
    assert (first.status, first.headers["location"]) == (307, "docs")
    page = server.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.body.decode())
