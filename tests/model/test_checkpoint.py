"""Checkpoints round-trip, need no config file, and refuse what is not theirs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ntre_deploy.errors import InputError
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.weights import import_weights

SMALL = NTRENetConfig.paper(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=33)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "small.safetensors"
    model, origin = import_weights("random:5", SMALL)
    save_checkpoint(path, model, origin | {"note": "test"})
    return path


def metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_checkpoint_comes_back_whole(saved: Path) -> None:
    model, _ = import_weights("random:5", SMALL)
    loaded = load_checkpoint(saved)
    assert loaded.model.config == SMALL
    assert loaded.origin["note"] == "test"
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("down_query.0.weight"), "missing down_query.0.weight"),
        (lambda t: t.update({"ghost.weight": torch.zeros(1)}), "extra ghost.weight"),
        (lambda t: t.update({"bgmm.prototype": torch.zeros(1, 5, 1, 1)}), r"bgmm.prototype has shape \[1, 5, 1, 1\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(saved: Path, tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors", metadata(saved))
    with pytest.raises(InputError, match=words):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "no readable metadata"),
        ({"version": 2}, "version 2"),
        ({"config": [1]}, "no readable metadata"),
        ({"config": {"backbone": "resnet9"}}, "resnet9"),
        ({"origin": 3}, "no readable metadata"),
    ],
)
def test_metadata_that_is_not_a_checkpoints_is_refused(
    saved: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    content = json.loads(metadata(saved)["ntre"]) | changes
    save_file(load_file(saved), tmp_path / "x.safetensors", {"ntre": json.dumps(content)})
    with pytest.raises(InputError, match=words):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_metadata_that_is_not_json_of_a_checkpoint_is_refused(saved: Path, tmp_path: Path, text: str) -> None:
    save_file(load_file(saved), tmp_path / "x.safetensors", {"ntre": text})
    with pytest.raises(InputError, match="no readable metadata"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_weights_without_metadata_are_sent_to_import_weights(saved: Path, tmp_path: Path) -> None:
    save_file(load_file(saved), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="import-weights"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_nan_in_a_tensor_is_named(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    tensors["down_query.0.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors", metadata(saved))
    with pytest.raises(InputError, match=r"NaN or infinity in down_query\.0\.weight"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_equal_models_are_equal_files(saved: Path, tmp_path: Path) -> None:
    for number in range(4):
        loaded = load_checkpoint(saved)
        save_checkpoint(tmp_path / f"{number}.safetensors", loaded.model, loaded.origin)
        assert (tmp_path / f"{number}.safetensors").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(InputError, match="not a readable safetensors"):
        load_checkpoint(path)


def test_a_pth_file_is_sent_to_import_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="import-weights"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_target_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model, origin = import_weights("random:5", SMALL)
    with pytest.raises(InputError, match="Cannot write"):
        save_checkpoint(tmp_path / "file" / "x.safetensors", model, origin)
