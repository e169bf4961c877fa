"""Several bundles in one run."""

import shutil
from pathlib import Path

import pytest

from ntre_deploy.bench.groups import find_bundles, open_groups
from ntre_deploy.bench.pytorch import CACHED, FULL
from ntre_deploy.bench.systems import Wanted, open_engines
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle


@pytest.fixture
def twins(exported: Path, tmp_path: Path) -> list[Path]:
    """Two bundles of one model and one name."""
    return [Path(shutil.copytree(exported, tmp_path / name)) for name in ("a.ntre", "b.ntre")]


def test_bundles_of_one_model_share_their_reference(twins: list[Path], tiny_checkpoint: Path) -> None:
    opened = find_bundles(twins, [tiny_checkpoint])
    assert list(opened.bundles) == ["tiny", "tiny (2)"]
    assert set(opened.checkpoints.values()) == {tiny_checkpoint}
    (group,) = open_groups(opened, 1, [("onnx-cpu", "fp32")]).groups
    assert [(system.name, bundle) for system, bundle in zip(group.systems, group.bundles, strict=True)] == [
        (FULL, "tiny"),
        (CACHED, "tiny"),
        ("onnx-cpu", "tiny"),
        ("onnx-cpu", "tiny (2)"),
    ]


def test_all_precisions_of_an_engine_run_unless_one_is_named(exported: Path, tiny_checkpoint: Path) -> None:
    opened = open_groups(find_bundles([exported], [tiny_checkpoint]), 1, [("onnx-cpu", None)])
    (group,) = opened.groups
    assert [(s.name, s.precision) for s in group.systems[2:]] == [("onnx-cpu", "fp32"), ("onnx-cpu", "fp16")]
    assert group.bundles == [""] * 4
    facts = group.systems[3].facts  # type: ignore[attr-defined]
    assert (facts.asked, facts.files.keys()) == ("fp16", {"support.fp16.onnx", "query.fp16.onnx"})
    assert all((exported / name).stat().st_size == size for name, size in facts.files.items())


def test_a_bundle_given_twice_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        find_bundles([exported, exported / "."], [])


def test_a_checkpoint_of_no_bundle_is_refused(twins: list[Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_checkpoint.read_bytes() + b".")
    with pytest.raises(InputError, match=r"other\.safetensors"):
        find_bundles(twins, [tiny_checkpoint, other])
    with pytest.raises(InputError, match=r"nope\.safetensors does not exist"):
        find_bundles(twins, [tmp_path / "nope.safetensors"])


def test_an_engine_that_is_asked_for_by_name_is_there_or_an_error(exported: Path, tiny_checkpoint: Path) -> None:
    opened = find_bundles([exported], [tiny_checkpoint])
    with pytest.raises(InputError, match="int8"):
        open_groups(opened, 1, [("onnx-cpu", "int8")])
    with pytest.raises(InputError, match=r"not int8.*--precision"):
        open_groups(opened, 1, [("all", "int8")])
    with pytest.raises(InputError, match="Did you mean 'fp16'"):
        open_groups(opened, 1, [("all", "fp15")])


@pytest.mark.parametrize(
    ("wanted", "precisions"),
    [
        ([], ["fp32", "fp16"]),
        ([("all", None)], ["fp32", "fp16"]),
        ([("all", "fp16")], ["fp16"]),
        ([("onnx", None)], ["fp32", "fp16"]),
        ([("onnx", "fp16")], ["fp16"]),
        ([("auto", None)], ["fp32"]),
        ([("onnx-cpu", "fp16"), ("all", "fp32")], ["fp32", "fp16"]),
    ],
)
def test_engines_are_named_as_for_a_segmenter_or_all_are_taken(
    wanted: list[Wanted], precisions: list[str], exported: Path
) -> None:
    systems, _ = open_engines(Bundle.open(exported), 1, wanted)
    assert [(s.name, s.precision) for s in systems if s.device == "cpu"] == [("onnx-cpu", p) for p in precisions]


def test_an_engine_that_this_machine_lacks_is_an_error_when_it_is_asked_for(
    exported: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = find_bundles([exported], [tiny_checkpoint])
    monkeypatch.setattr("ntre_deploy.bench.systems.available_engines", lambda: {"onnx-cuda": "no CUDA here"})
    with pytest.raises(EngineError, match=r"no CUDA here; `ntre doctor`"):
        open_groups(opened, 1, [("onnx-cuda", None)])
