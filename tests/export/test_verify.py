"""What an exported graph may differ: noise is judged more loosely than photos in fewer bits, and NaN never passes."""

from types import SimpleNamespace
from typing import Any

import pytest

from ntre_deploy.errors import GateError
from ntre_deploy.export import verify as verification
from ntre_deploy.export.verify import NOISE, Difference, verify


def judged(monkeypatch: pytest.MonkeyPatch, precision: str, kind: str, pixels: float, logits: float) -> dict[str, Any]:
    found = Difference(kind, 1, pixels, 1.0, logits)
    monkeypatch.setattr(verification, "compare", lambda *_: found)
    segmenter: Any = SimpleNamespace(engine=SimpleNamespace(name="engine", precision=precision))
    reference: Any = None
    case: Any = None
    return verify(segmenter, reference, [case])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_may_decide_noise_but_not_photos(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    assert judged(monkeypatch, precision, NOISE, 0.92, 0.08)["cases"][0]["pixels"] == 0.92
    with pytest.raises(GateError, match=r"photos input \(1 shots\): 92.00% of the pixels equal \(9[78].0% demanded"):
        judged(monkeypatch, precision, "photos", 0.92, 0.08)
    with pytest.raises(GateError, match=r"logits off by 0.5"):
        judged(monkeypatch, precision, NOISE, 0.92, 0.5)


def test_in_fp32_noise_counts_as_photos_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GateError, match=r"99.9% demanded"):
        judged(monkeypatch, "fp32", NOISE, 0.998, 0.001)


def test_nan_does_not_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GateError):
        judged(monkeypatch, "fp32", "photos", 1.0, float("nan"))
