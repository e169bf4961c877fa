"""`export_bundle`: what a bundle holds, and that a failed export leaves nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.export import verify as verification
from ntre_deploy.export.bundle import ExportOptions, _file_precisions, export_bundle
from ntre_deploy.export.torch_engines import FullNetwork, TorchEngine
from ntre_deploy.files import sha256
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.bundle import REFERENCE, Bundle
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.segmenter import Segmenter


def test_the_manifest_tells_what_is_there(exported: Path, tiny_checkpoint: Path) -> None:
    bundle = Bundle.open(exported)
    manifest = bundle.manifest
    assert {e.name for e in manifest.files} == {p.name for p in exported.iterdir()} - {"manifest.json"}
    assert all(sha256(exported / e.name) == e.sha256 for e in manifest.files)
    assert manifest.model.checkpoint_sha256 == sha256(tiny_checkpoint)
    assert manifest.model.config == load_checkpoint(tiny_checkpoint).model.config.to_dict()
    assert manifest.model.feature_size == (9, 9)
    assert bundle.precisions("onnx") == ["fp32", "fp16"]
    assert {e.precision_found for e in manifest.files if e.role == "query"} == {"fp32", "fp16"}
    assert {"torch", "onnx", "onnxruntime", "ntre_deploy"} <= manifest.versions.keys()


@pytest.mark.parametrize(
    ("engines", "precisions", "files"),
    [
        (("onnx",), ("bf16", "fp32"), ["fp32", "bf16"]),
        (("onnx", "openvino"), ("fp32", "bf16"), ["fp32"]),  # OpenVINO makes bf16 of the fp32 files
        (("openvino",), ("bf16",), ["fp32"]),
        (("openvino", "trt-rtx"), ("bf16",), ["fp32", "bf16"]),
        (("trt",), ("fp8",), ["fp8"]),
    ],
)
def test_the_files_are_those_that_the_engines_read(
    engines: tuple[str, ...], precisions: tuple[str, ...], files: list[str]
) -> None:
    assert _file_precisions(ExportOptions(precisions, engines=engines)) == files


def test_verification_ran_on_random_and_on_real_inputs_with_both_shot_counts(exported: Path) -> None:
    for entry in Bundle.open(exported).manifest.verification:
        kinds = {(case["kind"], case["shots"]) for case in entry["cases"]}
        assert kinds == {("random", 1), ("random", 2), ("procedural:2022", 1), ("procedural:2022", 2)}
        assert all(0 < case["logits"] <= entry["tolerance"]["logits"] for case in entry["cases"])


def test_the_self_test_is_the_pytorch_networks_answer(exported: Path, tiny_checkpoint: Path) -> None:
    test = Bundle.open(exported).self_test()
    network = FullNetwork(load_checkpoint(tiny_checkpoint).model, InputSpec(65))
    logits, _ = network.logits(test.image, network.prepare([(test.support_image, test.support_mask)]))
    np.testing.assert_allclose(test.logits, logits[0], rtol=1e-5, atol=1e-5)
    assert 0 < test.labels.mean() < 1, "a mask of one class proves little"


def test_a_failed_verification_leaves_no_bundle(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.TOLERANCES, "fp32", verification.Tolerance(1.0, 1e-12, 1.0))
    with pytest.raises(GateError, match="differs from PyTorch"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", ExportOptions())
    assert not list(tmp_path.iterdir())


def test_wrong_weights_in_the_exported_graph_are_found(exported: Path, tiny_checkpoint: Path) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    spec, entry = InputSpec(65), Bundle.open(exported).manifest.model
    reference = FullNetwork(model, spec)
    cases = verification.random_cases(0)
    verification.verify(Segmenter(TorchEngine(model, 65), spec, entry), reference, cases)
    other = load_checkpoint(tiny_checkpoint).model
    with torch.no_grad():
        other.head.classifier[3].bias += 0.5
    with pytest.raises(GateError):
        verification.verify(Segmenter(TorchEngine(other, 65), spec, entry), reference, cases)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions(precisions=()), "Precisions"),
        (ExportOptions(precisions=("fp61",)), "fp32, fp16"),
        (ExportOptions(opset=17), "18 to 23"),
        (ExportOptions(input_size=64), "57 or 65"),
    ],
)
def test_options_are_checked_first(tiny_checkpoint: Path, tmp_path: Path, options: ExportOptions, words: str) -> None:
    with pytest.raises(InputError, match=words):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    assert not list(tmp_path.iterdir())


def test_another_input_size_is_another_model_to_support_memories(
    tiny_checkpoint: Path, tmp_path: Path, exported: Path
) -> None:
    out = tmp_path / "large.ntre"
    export_bundle(tiny_checkpoint, out, ExportOptions(input_size=97, opset=20))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["input"]["size"] == 97
    assert manifest["model"]["feature_size"] == [13, 13]
    assert manifest["model"]["id"] != Bundle.open(exported).manifest.model.id
    assert Segmenter.load(out).spec.size == 97  # and its self-test passes


def test_a_target_that_shrinks_to_nothing_does_not_become_the_self_test(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    from ntre_deploy.data.folder import FolderDataset

    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        for kind in ("images", "masks"):
            (tmp_path / "wires" / "wire" / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (700, 1600, 3), dtype=np.uint8)
        mask = np.zeros((700, 1600), np.uint8)
        mask[350:354] = 255
        Image.fromarray(pixels).save(tmp_path / "wires" / "wire" / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "wires" / "wire" / "masks" / f"{name}.png")
    options = ExportOptions(verify_on=FolderDataset(tmp_path / "wires"), reference_episodes=0)
    export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    assert Bundle.open(tmp_path / "x.ntre").reference() is None
    assert Bundle.open(tmp_path / "x.ntre").self_test().support_mask.mean() > 0.01
    Segmenter.load(tmp_path / "x.ntre")


def test_the_reference_set_is_the_pytorch_networks_answer_to_its_own_pictures(
    exported: Path, tiny_checkpoint: Path
) -> None:
    bundle = Bundle.open(exported)
    (entry,) = [entry for entry in bundle.manifest.files if entry.role == "reference"]
    assert (entry.name, entry.details) == (REFERENCE, {"dataset": "procedural:2022"})
    assert entry.size < 700_000
    found = bundle.reference()
    assert found is not None
    assert (found.dataset, found.shots, len(found.episodes)) == ("procedural:2022", 1, 8)
    assert len({episode.class_id for episode in found.episodes}) == 8
    network = FullNetwork(load_checkpoint(tiny_checkpoint).model, bundle.manifest.input)
    segmenter = Segmenter.load(exported, "onnx-cpu", precision="fp32")
    for episode in found.episodes:
        assert max(episode.query.shape) == 160
        logits, box = network.logits(episode.query, network.prepare(episode.supports))
        np.testing.assert_array_equal(label_map(logits, box), episode.labels)
        np.testing.assert_allclose(episode.logits, logits[0], rtol=0, atol=1e-5 * np.abs(logits).max())
        ours, _ = segmenter.logits(episode.query, segmenter.encode_episode(episode.supports))
        np.testing.assert_allclose(ours[0], episode.logits, rtol=0, atol=1e-3 * np.abs(logits).max())
        assert (episode.truth == 1).any()


def test_a_bundle_that_fails_its_own_self_test_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntre_deploy.export import bundle as module

    make = module.make_self_test

    def wrong(*arguments: object) -> object:
        test = make(*arguments)  # type: ignore[arg-type]
        return type(test)(test.image, test.support_image, test.support_mask, 1 - test.labels, test.logits)

    monkeypatch.setattr(module, "make_self_test", wrong)
    with pytest.raises(GateError, match="its own self-test"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", ExportOptions())
    assert not list(tmp_path.iterdir())


def test_a_backbone_of_other_colours_and_a_coarser_layer_4_is_exported_whole(tmp_path: Path) -> None:
    # layer 4 is padded on one side at this size
    config = NTRENetConfig(backbone="efficientnet_lite0", width=8, bg_channels=8, bins=(3,), input_size=89)
    model, origin = import_weights("random:3", config)
    save_checkpoint(tmp_path / "c.safetensors", model, origin)
    options = ExportOptions(reference=ProceduralDataset(5), reference_episodes=2)
    manifest = export_bundle(tmp_path / "c.safetensors", tmp_path / "x.ntre", options)
    found = Bundle.open(tmp_path / "x.ntre").reference()
    assert found is not None
    assert (found.dataset, len(found.episodes)) == ("procedural:5", 2)
    assert manifest.input == InputSpec(89, (127, 127, 127), (128, 128, 128))
    assert Bundle.open(tmp_path / "x.ntre").manifest.input == manifest.input
    assert (manifest.model.feature_size, manifest.model.key_channels) == ((6, 6), 1152)
    segmenter = Segmenter.load(tmp_path / "x.ntre")
    test = Bundle.open(tmp_path / "x.ntre").self_test()
    memory = segmenter.encode_support([(test.support_image, test.support_mask)])
    assert memory.keys[0].shape[1] <= 3 * 3
