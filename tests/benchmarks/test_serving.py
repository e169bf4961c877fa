"""The benchmark of serving runs on a real server with a real load, and what does not hold is found."""

import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FOLDER = "serving"
SCRIPTS = Path(__file__).parents[2] / "benchmarks" / FOLDER

needs_hey = pytest.mark.skipif(shutil.which("hey") is None, reason="the load generator hey is not installed")


@pytest.fixture(autouse=True)
def _others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts take the judging of a process from the soak benchmark."""
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "soak"))
    monkeypatch.syspath_prepend(str(SCRIPTS))


def command(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )


def run(kind: str, bundle: Path, out: Path, *words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(name, reason="the extra `serve` is not installed")
    done = command(kind, bundle, *words, "--out", out)
    assert done.returncode in codes, done.stderr
    text = out.read_text()
    # nothing of the machine it ran on
    assert str(out.parent) not in text
    found: dict[str, Any] = json.loads(text)
    assert found["command"].startswith(f"python benchmarks/serving {kind} tiny.ntre")
    assert (found["kind"], found["engine"], found["precision"]) == (kind, "onnx-cpu", "fp32")
    assert found["photo"]["pixels"] == [480, 640]
    return found


@pytest.mark.slow
@needs_hey
def test_http_is_timed_beside_the_call(exported: Path, tmp_path: Path) -> None:
    found = run("overhead", exported, tmp_path / "new" / "x.json", "--count", "4")
    assert (found["workers"], found["engine_threads"], found["count"]) == (1, 1, 4)
    ways = found["ways"]
    assert set(ways) == {"in_process", "v2", "v2_pixels", "form_json", "form_png", "probe"}
    assert ways["v2"]["more_ms"] == pytest.approx(ways["v2"]["ms"] - ways["in_process"]["ms"])
    assert ways["v2"]["passed"] == (ways["v2"]["more_ms"] <= 2)


@pytest.mark.slow
@needs_hey
def test_rates_are_against_the_bench(exported: Path, tmp_path: Path) -> None:
    words = ("--rounds", "1", "--seconds", "1", "--clients", "3", "--workers", "2")
    found = run("throughput", exported, tmp_path / "x.json", *words)
    assert (found["workers"], found["clients"], len(found["rounds"])) == (2, 3, 1)
    sides = found["sides"]
    assert sides["bench"]["ratio"] == 1
    assert sides["http"]["ratio"] == pytest.approx(sides["http"]["a_second"] / sides["bench"]["a_second"])
    assert all(side["cpu_ms_a_photo"] > 0 for side in sides.values())
    assert found["client_cpu_ms"] > 0


@pytest.mark.slow
@needs_hey
def test_too_much_is_refused_with_a_time_to_come_again(exported: Path, tmp_path: Path) -> None:
    words = ("--rounds", "1", "--seconds", "2", "--queue", "3", "--factors", "4", "--workers", "1")
    found = run("overload", exported, tmp_path / "x.json", *words)
    load = found["loads"]["4"]
    assert set(load["statuses"]) == {"200", "429"}
    assert found["failed"] == []
    assert found["probe"]["statuses"]["429"] > 0
    # three wait for one worker, and each takes its time
    assert found["bound_ms"] == pytest.approx(4 * found["service_ms"])
    assert load["p50_ms"] <= load["p99_ms"] <= load["most_ms"]
    assert found["resident_bytes"]["most"] >= found["resident_bytes"]["after"] > 1 << 20


@pytest.mark.slow
@needs_hey
def test_a_long_run_compares_masks_and_looks_at_the_server(exported: Path, tmp_path: Path) -> None:
    # whether so short a run has settled is nothing to go by
    found = run("soak", exported, tmp_path / "x.json", "--requests", "203", codes=(0, 1))
    # the load generator gives each of its clients the same number
    assert found["completed"] == 203 // 8 * 8 + 8
    assert (found["broken"], found["statuses"]) == (0, {"200": found["completed"]})
    assert found["compared"]["masks"] > 0
    assert (found["compared"]["wrong"], found["compared"]["broken"]) == (0, [])
    assert len(found["usage"]["samples"]) == 1 + found["completed"] // 8


@pytest.mark.slow
@needs_hey
def test_triton_and_serve_give_the_same(exported: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("nvidia-pytriton, whose wheel has the server, is not installed")
    if not Path(os.environ.get("NTRE_TRITON_NUMPY", Path(sys.prefix) / "numpy1"), "numpy").is_dir():
        pytest.skip("the server's Python backend needs a NumPy 1")
    words = ("--rounds", "1", "--seconds", "1", "--count", "2", "--clients", "2", "--workers", "1")
    found = run("triton", exported, tmp_path / "x.json", *words)
    for both in found["bodies"].values():
        assert set(both) == {"serve", "triton"}
        assert (both["serve"]["rate_ratio"], both["serve"]["one_client_ratio"]) == (1, 1)
        assert all(one["a_second"] > 0 and one["cpu_ms"] > 0 for one in both.values())
    assert found["processes"]["triton"] > found["processes"]["serve"] == 1


def test_what_is_missing_is_told(exported: Path, tmp_path: Path) -> None:
    done = command("overhead", exported, "--out", tmp_path / "x.json", PATH=str(tmp_path))
    assert done.returncode == 3
    assert (
        done.stderr == "error: The load generator hey is not installed: apt-get install hey (or go install, or brew).\n"
    )
    assert list(tmp_path.iterdir()) == []


@needs_hey
@pytest.mark.parametrize("words", [("overload", "--factors", "1"), ("overload", "--factors", "two"), ("soak",)])
def test_what_cannot_be_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    done = command(words[0], tmp_path, *words[1:], "--out", tmp_path / "x.json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


class Canned(http.server.BaseHTTPRequestHandler):
    """Says what the class holds."""

    protocol_version = "HTTP/1.1"
    status = 200
    answer = b""
    told: tuple[tuple[str, str], ...] = ()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        for name, value in (*self.told, ("Content-Length", str(len(self.answer)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def canned() -> Iterator[tuple[type[Canned], str]]:
    """What is said, to be set, and where."""
    kind = type("Kind", (Canned,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def answer_of(labels: np.ndarray) -> tuple[bytes, str]:
    """An answer of the open inference protocol with another tensor before the labels, and the length of its head."""
    scores = np.ones(3, np.float32).tobytes()
    outputs = [("scores", "FP32", [3], scores), ("labels", "UINT8", [1, *labels.shape], labels.tobytes())]
    told = [
        {"name": n, "datatype": t, "shape": s, "parameters": {"binary_data_size": len(d)}} for n, t, s, d in outputs
    ]
    head = json.dumps({"outputs": told}).encode()
    return head + b"".join(one[3] for one in outputs), str(len(head))


@needs_hey
def test_requests_without_an_answer_are_counted(canned: tuple[type[Canned], str], tmp_path: Path) -> None:
    from bodies import Body
    from load import drive

    body = Body("/x", "text/plain", b"abc")
    found = drive("http://127.0.0.1:1", body, tmp_path, clients=2, count=5)
    assert (found.asked, found.broken, found.statuses, found.rate()) == (4, 4, {}, 0)
    kind, address = canned
    kind.status = 429
    found = drive(address, body, tmp_path, clients=2, count=4)
    assert (found.broken, found.statuses, found.rate()) == (0, {"429": 4}, 0)
    assert found.rate(None) > 0


def test_rates_and_quantiles_follow_the_rows() -> None:
    from load import Load, quantile, read

    text = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset\n"
    text += "".join(f"{t},0,0,0,0,0,{s},{o}\n" for t, s, o in [(0.5, 200, 0.5), (1.0, 200, 1.5), (0.1, 429, 1.0)])
    load = Load(read(text), None)
    assert (load.seconds, load.rate(), load.rate(None)) == (2.0, 1.0, 1.5)
    assert load.times() == [0.5, 1.0]
    values = list(range(1, 101))
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert np.isnan(quantile([], 0.5))


def test_labels_are_found_behind_other_tensors(canned: tuple[type[Canned], str]) -> None:
    from bodies import Body, labels_of_v2
    from setting import check_same

    from ntre_deploy.errors import GateError

    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data, size = answer_of(labels)
    np.testing.assert_array_equal(labels_of_v2(size, data), labels)
    kind, address = canned
    kind.answer, kind.told = data, (("Inference-Header-Content-Length", size),)
    body, server = Body("/v2", "x/y", b"1"), SimpleNamespace(address=address)
    check_same(server, body, labels)
    with pytest.raises(GateError, match="another label map"):
        check_same(server, body, labels + 1)
    kind.status = 500
    with pytest.raises(GateError, match="answered with 500"):
        check_same(server, body, labels)


@pytest.mark.parametrize(("status", "wrong", "broken"), [(200, False, False), (200, True, False), (503, False, True)])
def test_every_mask_of_the_checker_is_compared(
    canned: tuple[type[Canned], str], status: int, wrong: bool, broken: bool
) -> None:
    from bodies import Body
    from lasting import Checker
    from material import digest

    labels = np.eye(3, dtype=np.uint8)
    kind, address = canned
    kind.status, (kind.answer, size) = status, answer_of(labels)
    kind.told = (("Inference-Header-Content-Length", size),)
    known = [(Body("/v2", "x/y", b"1"), digest(labels[::-1] if wrong else labels))]
    checker, asked = Checker(), iter([False] * 5)
    over = SimpleNamespace(is_set=lambda: next(asked, True))
    checker.look(SimpleNamespace(server=SimpleNamespace(address=address)), known, 0, over)
    assert (checker.asked, checker.wrong, len(checker.broken)) == (5, 5 * wrong, 5 * broken)


def test_an_overload_that_is_none_fails() -> None:
    from load import Load, Row
    from overload import problems, summary

    rows = [Row(n / 10, 0.2, 200) for n in range(10)]
    probe = {"statuses": {"200": 1}, "refusals_without_retry_after": 0, "broken": []}
    found = summary({2.0: [Load(rows, None)]}, 10, 2, 4) | {"probe": probe}
    # two workers with 200 ms each, four wait
    assert (found["service_ms"], found["bound_ms"]) == (200, pytest.approx(600))
    assert found["loads"]["2"]["passed"]
    assert problems(found) == [
        "At 2 times the capacity nothing was refused: it was no overload.",
        "No refusal's head was seen.",
    ]
    rows += [Row(0.5, 0.7, 200), Row(0.5, 0.01, 429), Row(0.5, 0.01, 500)]
    probe = {"statuses": {"429": 2}, "refusals_without_retry_after": 1, "broken": []}
    found = summary({2.0: [Load(rows, None)]}, 10, 2, 4) | {"probe": probe}
    assert not found["loads"]["2"]["passed"]
    assert problems(found) == [
        "At 2 times the capacity requests were answered with {'500': 1}.",
        "1 refusals do not say when to come again.",
    ]


def test_what_http_adds_is_of_the_same_turn_too() -> None:
    from overhead import summary

    times = {"in_process": [10.0, 30.0, 20.0], "v2": [11.0, 31.0, 25.0], "probe": [1.0, 1.0, 1.0]}
    found = summary(times)
    assert found["v2"]["more_ms"] == 5
    assert found["v2"]["more_in_turn_ms"] == 1
    assert not found["v2"]["passed"]
    assert "more_ms" not in found["probe"]


def test_a_ratio_is_of_one_round() -> None:
    from throughput import summary

    rows = [
        {"bench": (10.0, 0.1), "in_process": (9.0, 0.1), "http": (9.5, 0.2)},
        {"bench": (2.0, 0.1), "in_process": (2.0, 0.1), "http": (1.0, 0.2)},
        {"bench": (10.0, 0.1), "in_process": (9.0, 0.1), "http": (9.1, 0.4)},
    ]
    http = summary(rows)["sides"]["http"]
    assert http["ratio"] == pytest.approx(0.91)
    assert http["ratios"] == [0.5, 0.95]
    assert http["passed"]
    assert http["cpu_ms_a_photo"] == 200


def test_what_photos_need_follows_from_their_processor_time(tmp_path: Path) -> None:
    from paper import Assumed, Measured, needs

    sides = {"http": {"cpu_ms_a_photo": 72.0}, "bench": {"cpu_ms_a_photo": 63.0}}
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"sides": sides, "photo": {"pixels": [480, 640], "bytes": 50_000}}))
    found = needs(Measured.read(file), 1000, 1e8, Assumed(core_hour=0.05, gpu_hour=2.0, busy=0.5, gpu_rate=100))
    expected = {
        # 72 core-seconds a second, half idle
        "cores": 144,
        "machines": 9,
        "gpus": 20,
        "gpu_cores": 18,
        "gbit_in": 0.4,
        "gbit_out": 2.4576,
        "core_hours": 2000,
        "hours_of_1000_cores": 4,
        "terabytes": 5,
        # 40 core-hours
        "million_on_cores": 2.0,
        # 20,000 GPU-seconds and 18,000 core-seconds
        "million_on_gpus": 20_000 / 3600 * 2 + 18_000 / 3600 * 0.05,
    }
    assert found == pytest.approx(expected)
    done = command("paper", file, "--busy", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "| 1,000 requests a second on CPUs | 144 cores: 9 machines |" in done.stdout
    file.write_text("{}")
    done = command("paper", file)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
