"""The released form gives what the authors' released network gives, tensor by tensor."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ntre_deploy.model.checkpoint import fill
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.matching import resize
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import released_name

GOLDEN = Path(__file__).parents[1] / "golden"
BINS = (60, 30, 15, 8)
FILES = {"resnet50_1shot_473": ("resnet50", "resnet50", 473), "vgg16_1shot_241": ("vgg16_bn", "vgg16", 241)}
# maximum of |a - b| / max |b|, as the golden files' README tells
TOLERANCES = {"prior_bin60": 2e-4, "bg_logits": 5e-5, "logits": 5e-5, "logits_feature_resolution": 5e-5}
TOLERANCES |= {f"initial_logits_bin{b}": 5e-5 for b in BINS}
TIE = 1e-4


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=list(FILES))
def run(request: pytest.FixtureRequest, recipe: ModuleType) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The golden tensors, and ours under the same names."""
    backbone, key, size = FILES[request.param]
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())[key]
    weights: dict[str, Any] = {name: recipe.weight(name, tuple(shape)) for name, shape in shapes.items()}
    weights |= {
        name.removeprefix("override/"): golden.pop(name) for name in list(golden) if name.startswith("override/")
    }
    model = NTRENet(NTRENetConfig.released(backbone=backbone, input_size=size)).eval()
    tensors = {released_name(name, vgg=key == "vgg16"): torch.from_numpy(value) for name, value in weights.items()}
    fill(model, tensors, request.param)
    with torch.inference_mode():
        mask = torch.from_numpy(recipe.mask(200, size))[None, None]
        p = model(recipe.image(1, size), recipe.image(100, size)[None], mask)
    ours = {
        "support_prototype": p.prototype[0],
        "prior_bin60": resize(p.prior, (60, 60))[0],
        "bg_logits": p.bg_logits,
        "query_feature_channel_mean": p.query.feature.mean((0, 2, 3)),
        "query_feature_channel_std": p.query.feature.flatten(2).std((0, 2)),
        "logits_feature_resolution": p.logits,
        "logits": resize(p.logits, (size, size)),
    }
    for i, b in enumerate(BINS):
        ours[f"initial_logits_bin{b}"] = p.initial_logits[i]
        ours[f"do_prototype_bin{b}"] = p.do_prototypes[i][0]
    return golden, {name: tensor.numpy() for name, tensor in ours.items()}


def decisions(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """argmax of two logits, and where it is no tie."""
    margin = logits[:, 1] - logits[:, 0]
    return margin > 0, np.abs(margin) > TIE


def test_every_stored_tensor_is_reproduced(run: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    golden, ours = run
    assert golden.keys() <= ours.keys()
    flipped = any(
        (decisions(golden[name])[0] != decisions(ours[name])[0]).any()
        for name in golden
        if name.startswith(("bg_logits", "initial_logits"))
    )
    for name, wanted in golden.items():
        tolerance = TOLERANCES.get(name, 1e-5)
        if flipped and name in ("do_prototype_bin60", "do_prototype_bin30"):
            tolerance = 5e-3  # one tied pixel of the mask
        assert ours[name].shape == wanted.shape
        error = np.abs(ours[name] - wanted).max() / np.abs(wanted).max()
        assert error <= tolerance, f"{name}: {error:.1e} > {tolerance:.0e}"


def test_every_decision_that_is_no_tie_is_the_same(run: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    golden, ours = run
    for name in [n for n in golden if "logits" in n]:
        wanted, decided = decisions(golden[name])
        got, _ = decisions(ours[name])
        assert (wanted == got)[decided].all(), name
        assert 0 < wanted.mean() < 1, f"{name}: a mask of one class proves nothing"
