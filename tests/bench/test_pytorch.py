"""PyTorch's own ways: which there are, whether they agree, and a bench where there is no PyTorch."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench import pytorch
from ntre_deploy.bench.groups import Group, find_bundles, open_groups
from ntre_deploy.bench.pytorch import CACHED, FULL, ON_CPU, ON_GPU, Network, Variant, is_baseline, variant_of
from ntre_deploy.bench.runner import run_groups
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import ENGINE_NAMES

torch = pytest.importorskip("torch", reason="PyTorch is what is tested (extra [export])")

RIGHT = {"a": (0.0, 2.0), "b": (0.0, 2.0)}


def test_every_variant_has_a_name_and_precision_of_its_own() -> None:
    variants = [*ON_CPU, *ON_GPU]
    assert len({(v.name, v.precision) for v in variants}) == len(variants)
    assert [v.name for v in ON_CPU] == [FULL, CACHED]
    for variant in variants:
        assert pytorch.is_pytorch(variant.name)
        assert variant_of(variant.name, variant.precision) == variant
        assert pytorch.repeats_reference(f"tiny: {variant.name} {variant.precision}") == (variant.name != FULL)
    assert not any(map(pytorch.is_pytorch, ENGINE_NAMES))
    assert [(v.name, v.precision) for v in variants if is_baseline(v.name, v.precision)] == [
        (FULL, "fp32"),
        (f"{FULL} cuda", "fp32"),
    ]


def shots(size: int = 65) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    mask = np.zeros((size, size), np.uint8)
    mask[10:50, 10:50] = 1
    return [(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), mask)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("cached", [False, True])
def test_every_way_of_the_gpu_gives_the_reference_s_logits(
    precision: str, cached: bool, exported: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, where PyTorch has the same modes; what is left to a GPU is its arithmetic."""
    network = Network(Bundle.open(exported), tiny_checkpoint, 1)
    monkeypatch.setattr(pytorch, "PLACE", "cpu")
    pixels = np.random.default_rng(1).standard_normal((3, 65, 65), dtype=np.float32)
    reference = network.system(Variant(cached=False))
    wanted = reference.compute(pixels, reference.prepare(shots()))
    before = torch.backends.cudnn.allow_tf32
    system = network.system(Variant(cached, precision, gpu=True))
    got = system.compute(pixels, system.prepare(shots()))
    assert (system.device, system.precision, torch.backends.cudnn.allow_tf32) == ("gpu", precision, before)
    tolerance = {"bf16": 0.1}.get(precision, 1e-5) * np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, atol=tolerance)
    assert (np.abs(got - wanted).max() > 0) == (precision == "bf16" or cached)
    told = system.facts.evidence  # type: ignore[attr-defined]
    assert {"fp32": "TF32 is off", "tf32": "TF32 is on", "bf16": "torch.bfloat16, channels_last"}[precision] in told


def test_a_speed_up_is_against_pytorch_on_the_same_device(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet
) -> None:
    systems = [constant(FULL, RIGHT), constant("trt", RIGHT, "fp16"), constant(f"{FULL} cuda", RIGHT, "tf32")]
    systems += [constant(f"{FULL} cuda", RIGHT), constant(f"{CACHED} cuda", RIGHT), constant("onnx-cpu", RIGHT)]
    for system in systems[1:5]:
        system.device = "gpu"
    alone = [constant(FULL, RIGHT), constant("trt", RIGHT, "fp16")]
    alone[1].device = "gpu"
    groups = [Group(spec, several, [""] * len(several)) for several in (systems, alone)]
    results, _ = run_groups(groups, photos, EpisodeSet("p", "all", None, 1, 0, (Episode(0, "f", "a", ("s",)),)))
    assert [result.baseline for result in results] == [0, 3, 3, 3, 3, 0, 6, None]
    assert [result.reference for result in results] == [0] * 6 + [6] * 2


def test_where_an_engine_runs_on_a_gpu_pytorch_runs_there_too(
    exported: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntre_deploy.bench import groups

    def opened(*engines: str) -> list[tuple[str, str]]:
        found = [SimpleNamespace(name=e, precision="fp16", device="gpu" if e == "trt" else "cpu") for e in engines]
        monkeypatch.setattr(groups, "open_engines", lambda *given, **options: (found, {}))
        (group,) = open_groups(find_bundles([exported], [tiny_checkpoint]), 1).groups
        assert group.bundles == [""] * len(group.systems)
        return [(system.name, system.precision) for system in group.systems]

    monkeypatch.setattr(pytorch, "PLACE", "cpu")
    assert opened("trt") == [(FULL, "fp32"), (CACHED, "fp32"), ("trt", "fp16")]  # it sees no GPU here
    some = [Variant(cached=False, gpu=True), Variant(cached=True, precision="bf16", gpu=True)]
    monkeypatch.setattr(pytorch, "gpu_variants", lambda: some)
    assert opened("trt")[3:] == [(f"{FULL} cuda", "fp32"), (f"{CACHED} cuda", "bf16")]
    assert opened("onnx-cpu") == [(FULL, "fp32"), (CACHED, "fp32"), ("onnx-cpu", "fp16")]


def test_without_pytorch_and_engine_there_is_nothing_to_measure(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytorch, "installed", lambda: False)
    monkeypatch.setattr("ntre_deploy.bench.systems.available_engines", lambda: {"onnx-cpu": "it is gone"})
    with pytest.raises(EngineError, match=r"Neither PyTorch nor an engine .* \(onnx-cpu: it is gone\)"):
        open_groups(find_bundles([exported], []), 1)
    with pytest.raises(InputError, match="leave it out"):
        find_bundles([exported], [Path("demo")])
