"""A bundle's reference set in the place of PyTorch: figures by hand, and bundles that share it or do not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench import pytorch
from ntre_deploy.bench.groups import Group, find_bundles, open_groups
from ntre_deploy.bench.reference import STORED, Reference, ReferenceDataset, demand_reference, open_reference
from ntre_deploy.bench.report import build_report
from ntre_deploy.bench.runner import environment, label, run_groups
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import REFERENCE, Bundle
from ntre_deploy.runtime.manifest import MANIFEST

YES, NO = (0.0, 2.0), (2.0, 0.0)
SIDE = 33


def stored(*answers: tuple[float, float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits [1, 2, 5, 5] of each episode, the same everywhere, and their label map."""
    found = []
    for no, yes in answers:
        logits = np.empty((1, 2, 5, 5), np.float32)
        logits[0, 0], logits[0, 1] = no, yes
        found.append((logits, np.full((SIDE, SIDE), yes > no, np.uint8)))
    return found


def test_systems_are_compared_with_what_is_stored_and_not_with_the_first(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, bundle_of: Callable[..., Any]
) -> None:
    systems = [constant("first", {"a": NO, "b": NO}), constant("second", {"a": YES, "b": (1.0, 2.0)}, "fp16")]
    group = Group(spec, systems, ["", ""], stored(YES, YES))
    results, pictures = run_groups([group], photos, two_episodes, pictures=1)
    assert [r.differing for r in results] == [[1.0, 1.0], [0.0, 0.0]]
    assert [r.logits_errors for r in results] == [[1.0, 1.0], [0.0, 0.5]]
    against = results[0].against
    assert against is results[1].against
    assert against is not None
    assert (label(against), len(against.counts)) == (f"{STORED} fp32", 2)
    # a third of photo a is the class, and all of photo b that counts
    assert against.score.miou == pytest.approx((11 / 33 + 1) / 2)
    assert list(pictures[0].masks) == ["pytorch stored fp32", "first fp32", "second fp16"]
    report = build_report({"tiny": bundle_of()}, two_episodes, results, environment(1), "ntre bench")
    assert report["stored"] == [
        {"label": "pytorch stored fp32", "bundle": "tiny", "miou": against.score.miou, "fb_iou": against.score.fb_iou}
    ]
    first, second = (system["parity"] for system in report["systems"])
    assert (first["against"], first["miou_drop"]) == ("pytorch stored fp32", pytest.approx(2 / 3))
    assert (second["miou_drop"], second["pixel_agreement"]) == (0.0, 1.0)
    assert json.loads(json.dumps(report)) == report


def test_without_a_stored_set_nothing_is_stored(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, bundle_of: Callable[..., Any]
) -> None:
    group = Group(spec, [constant("first", {"a": NO, "b": NO})], [""])
    results, _ = run_groups([group], photos, two_episodes)
    report = build_report({"tiny": bundle_of()}, two_episodes, results, environment(1), "ntre bench")
    assert report["stored"] == []
    assert report["systems"][0]["parity"]["against"] == "first fp32"


def test_the_sets_episodes_are_a_dataset(exported: Path) -> None:
    found = Bundle.open(exported).reference()
    assert found is not None
    dataset = ReferenceDataset(found)
    assert dataset.name == "reference:procedural:2022"
    for episode, kept in zip(dataset.episodes.episodes, found.episodes, strict=True):
        np.testing.assert_array_equal(dataset.image(episode.query), kept.query)
        np.testing.assert_array_equal(dataset.mask(episode.query, kept.class_id), kept.truth)
        (support,) = episode.supports
        np.testing.assert_array_equal(dataset.image(support), kept.supports[0][0])
        np.testing.assert_array_equal(dataset.mask(support, kept.class_id), kept.supports[0][1])
        assert {episode.query, support} <= set(dataset.images(kept.class_id))
        assert dataset.class_names[kept.class_id] == kept.class_name


def drop(bundle: Path) -> None:
    """Take the reference set out of a bundle."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["name"] != REFERENCE]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    (bundle / REFERENCE).unlink()


def test_bundles_share_a_set_or_there_is_none(exported: Path, exported_bf16: Path, bundle: Path) -> None:
    one, other = Bundle.open(exported), Bundle.open(exported_bf16)
    both = open_reference({"one": one, "other": other})
    assert isinstance(both, Reference)
    assert [*both.stored] == [one.manifest.model.id]
    drop(bundle)
    for bundles in ({"a": Bundle.open(bundle)}, {"one": one, "a": Bundle.open(bundle)}):
        told = open_reference(bundles)
        assert isinstance(told, str)
        assert "holds no reference set" in told
        with pytest.raises(InputError, match="--dataset reference cannot be used"):
            demand_reference(bundles)


def test_without_its_checkpoint_a_bundle_is_measured_as_without_pytorch(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    moved = Path(shutil.copytree(bundle, tmp_path / "alone" / "tiny.ntre"))
    opened = find_bundles([moved], [])
    assert pytorch.installed()
    assert "is not beside it (--checkpoint FILE names it)" in opened.lacking
    found = open_reference(opened.bundles)
    assert isinstance(found, Reference)
    open_groups(opened, 1, [("onnx-cpu", "fp32")], stored=found.stored)
    assert [system.name for system in opened.groups[0].systems] == ["onnx-cpu"]
    assert len(opened.groups[0].stored) == 8
    assert opened.notes[-1].endswith(
        "what differs is told against what the export stored of PyTorch, and there are no speed-ups"
    )
