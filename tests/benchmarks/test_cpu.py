"""The CPU benchmark: its profiles put every layer in the right part, and its commands run on a real bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.engines import openvino
from ntre_deploy.runtime.stacked import CHUNK, stack

FOLDER = "cpu"
SCRIPTS = Path(__file__).parents[2] / "benchmarks" / FOLDER

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or ""),
]


@pytest.fixture(scope="module")
def full(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's bundle for ONNX Runtime and OpenVINO, its checkpoint beside it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    folder = tmp_path_factory.mktemp("full")
    os.link(tiny_checkpoint, folder / "tiny.safetensors")
    export_bundle(tiny_checkpoint, folder / "tiny.ntre", ExportOptions(engines=("onnx", "openvino")))
    return folder / "tiny.ntre"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS), *words], capture_output=True, text=True, timeout=600, check=False
    )


def test_every_layer_belongs_to_its_part(exported: Path, tiny_checkpoint: Path) -> None:
    import onnx
    from parts import named_parts, upper_modules

    from ntre_deploy.model.checkpoint import load_checkpoint

    content = (exported / "query.onnx").read_bytes()
    upper = upper_modules(load_checkpoint(tiny_checkpoint).model, 65)
    assert {"backbone.features.11", "backbone.features.12"} <= upper
    assert "backbone.features.10" not in upper
    parts = named_parts(content, upper)
    nodes = onnx.load_model_from_string(content).graph.node
    convolutions = [parts[node.name] for node in nodes if node.op_type == "Conv"]
    # SqueezeNet 1.1: a stem and six Fires of three convolutions; the last two Fires are layer 4
    assert convolutions.count("backbone") == 1 + 6 * 3
    assert convolutions.count("layer 4") == 2 * 3
    assert "prior" not in convolutions
    assert parts[nodes[-1].name] == "head"
    products = [node for node in nodes if parts[node.name] == "prior" and node.op_type == "MatMul"]
    assert len(products) == 1, "the similarities of all keys are one product"


def test_what_an_engine_put_in_counts_for_the_layer_before_it() -> None:
    from parts import shares

    parts = {"a": "backbone", "b": "head"}
    spent = [(["a_renamed", "a"], 2.0), (["reorder"], 1.0), (["b"], 1.0)]
    assert shares(spent, parts) == {"backbone": 0.75, "layer 4": 0.0, "prior": 0.0, "head": 0.25}


def test_both_engines_profile_every_part(exported: Path, tiny_checkpoint: Path) -> None:
    from parts import PARTS, named_parts, onnxruntime_shares, openvino_shares, torch_shares, upper_modules

    from ntre_deploy.model.checkpoint import load_checkpoint

    content = (exported / "query.onnx").read_bytes()
    model = load_checkpoint(tiny_checkpoint).model
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.random((1, 3, 65, 65), np.float32),
        **stack(rng.random((1, 16), np.float32), rng.random((1, 1, 512, 9), np.float32))._asdict(),
    }
    parts = named_parts(content, upper_modules(model, 65))
    for found in (
        openvino_shares(content, "f32", inputs, 1, parts, 2),
        onnxruntime_shares(content, inputs, 1, parts, 2),
        torch_shares(model, 65, inputs, 2),
    ):
        assert sum(found.values()) == pytest.approx(1)
        assert all(found[name] > 0 for name in PARTS), found


def test_the_operations_are_those_of_the_layers(tiny_checkpoint: Path) -> None:
    from limits import query_operations

    from ntre_deploy.model.checkpoint import load_checkpoint

    model = load_checkpoint(tiny_checkpoint).model
    one, more = (query_operations(model, 65, (p, CHUNK, 512), (1, 1, p)) for p in (1, 3))
    # 9 x 9 positions, 512 channels, a multiply and an add for each key more
    assert more - one == 2 * 81 * 512 * 2 * CHUNK
    two = query_operations(model, 65, (2, CHUNK, 512), (2, 1, 1))
    assert one < two < 2 * one, "the backbone runs once for all classes"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["speed", "photo", "scale"])
def test_the_commands_write_what_they_show(full: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / f"{name}.json"
    done = command(name, str(full), "--count", "2", "--rounds", "1", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["model"]["head"] == "untrained"
    assert str(tmp_path) not in out.read_text()
    if name == "scale":
        assert out.with_suffix(".svg").stat().st_size > 1000
        assert {"1 classes 1 shots", "20 classes 5 shots", "batch of 4"} <= set(found["latency_ms"])
        return
    systems = {f"{row['name']} {row['precision']}": row for row in found["systems"]}
    assert {"onnx-cpu fp32", "openvino fp32"} <= set(systems)
    if name == "speed":
        assert systems["pytorch full fp32"]["ratio"] == 1
        assert systems["onnx-cpu fp32"]["equal_pixels"] > 0.99
        assert 0 < systems["openvino fp32"]["of_limit"] < 1.5
        assert found["matrix_product_gflop_s"]["fp32"] > 1
    for label in systems:
        assert label in done.stdout


def test_every_operator_of_an_int8_query_is_told(exported: Path) -> None:
    from int8 import by_operator

    from ntre_deploy.data.procedural import ProceduralDataset
    from ntre_deploy.export import quantise as module
    from ntre_deploy.runtime.segmenter import Segmenter

    if reason := module.unavailable():
        pytest.skip(reason)
    scenes = ProceduralDataset(5)
    episodes = module.draw_calibration(scenes, 8, 8).calibrate.episodes
    segmenter = Segmenter.load(exported, "onnx-cpu", precision="fp32")
    inputs = module.calibration_inputs(scenes, episodes[:2], segmenter)["query"]
    rows = by_operator(module.quantise((exported / "query.onnx").read_bytes(), inputs), inputs[0], 1, 2)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    convolutions = next(row for row in rows if (row["operator"], row["type"]) == ("QLinearConv", "uint8"))
    assert convolutions["nodes"] >= 50
    # of a SqueezeNet at 65 pixels: most of its operations are in them
    whole = sum(row["gop"] or 0 for row in rows)
    assert 0.7 * whole < convolutions["gop"] < whole
    assert convolutions["gop_s"] == pytest.approx(convolutions["gop"] / convolutions["ms"] * 1e3)


@pytest.mark.slow
def test_single_kernels_have_a_rate_in_both_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    import int8

    monkeypatch.setattr(int8, "_SIDE", 256)
    monkeypatch.setattr(int8, "CONVOLUTIONS", {"small": (32, 32, 3, 2)})
    rates = int8.kernels_alone(1, 1)
    assert set(rates) == {"product of 256", "small"}
    assert all(rate is None or rate > 0.1 for pair in rates.values() for rate in pair.values())
    assert rates["small"]["openvino"], "OpenVINO ran it in int8, or it would have said so"


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    done = command("speed", str(tmp_path), "--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.json").exists()
