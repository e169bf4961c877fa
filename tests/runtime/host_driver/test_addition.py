"""Plans added to a bundle on the device itself: their masks are compared with what the export has stored."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy import Segmenter
from ntre_deploy.errors import GateError, InputError, NtreWarning
from ntre_deploy.plans.addition import add_plans
from ntre_deploy.runtime import segmenter as module
from ntre_deploy.runtime.bundle import Bundle


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "own.ntre"))


def test_parity_is_measured_and_recorded(own: Path, double: Callable[..., Any], limits: Any, host: Any) -> None:
    double()
    assert "a faster engine can be built here: ntre build " in Segmenter.load(own).reason
    assert f"{own} --engine trt --precision fp16" in Segmenter.load(own).reason
    added = add_plans(own, "trt", "fp16", limits)
    assert added.parity is not None
    assert added.parity.passed
    entry = Bundle.open(own).entry("query", "trt", "fp16")
    assert entry is not None
    assert entry.details["run_here"] == "yes"
    assert entry.details["self_test"] == {"equal_pixels": added.parity.pixels, "logits_error": added.parity.logits}
    segmenter = Segmenter.load(own)
    assert segmenter.reason == "trt fp16"
    segmenter.engine.close()  # type: ignore[attr-defined]
    del segmenter
    assert host.alive() == {}


def test_plans_with_other_masks_are_not_added(
    own: Path, double: Callable[..., Any], limits: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    double()
    before = sorted((path.name, path.read_bytes()) for path in own.iterdir())
    monkeypatch.setattr(module, "_SELF_TEST_16", (1.0, 0.0))
    with pytest.raises(GateError, match=r"not added to .*own\.ntre: trt fp16 fails the bundle's self-test"):
        add_plans(own, "trt", "fp16", limits)
    assert sorted((path.name, path.read_bytes()) for path in own.iterdir()) == before
    assert [path.name for path in own.parent.iterdir()] == ["own.ntre"]
    assert host.alive() == {}


def test_a_signature_goes_with_the_manifest_that_it_was_of(
    own: Path, double: Callable[..., Any], limits: Any, host: Any
) -> None:
    pytest.importorskip("cryptography", reason="signatures need it (extra [sign])")
    from ntre_deploy.signing import make_key, read_private_key, sign_bundle

    double()
    mine, other = make_key(own.parent / "mine.pem"), make_key(own.parent / "other.pem")
    sign_bundle(own, read_private_key(mine.private))
    with pytest.raises(InputError, match="is not trusted"):
        add_plans(own, "trt", "fp16", limits, trusted=other.public)
    Bundle.open(own, trusted=mine.public)
    with pytest.warns(NtreWarning, match=r"is gone, as its manifest lists the new plans.*ntre sign .*own\.ntre --key"):
        add_plans(own, "trt", "fp16", limits, trusted=mine.public)
    assert not (own / "manifest.sig").exists()
    assert Bundle.open(own).precisions("trt") == ["fp16"]
    with pytest.raises(InputError, match="is not signed"):
        Bundle.open(own, trusted=mine.public)
