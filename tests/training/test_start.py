"""What a run starts from, what it is validated on, and what its checkpoints say of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import InputError
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import MatcherConfig, NTRENetConfig
from ntre_deploy.model.weights import import_weights
from ntre_deploy.training.config import DataOptions, RunOptions, TrainConfig
from ntre_deploy.training.start import provenance, start_model, validation
from ntre_deploy.training.trainer import Trainer

MODEL = NTRENetConfig(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=33)
CONFIG = TrainConfig(model=MODEL, data=DataOptions(dataset="procedural:3"), run=RunOptions(validate_episodes=2))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model, origin = import_weights("random:5", MODEL)
    save_checkpoint(tmp_path / "c.safetensors", model, origin | {"trained_by": "ntre train a.toml"})
    return tmp_path / "c.safetensors"


def test_init_takes_the_backbone_and_start_takes_all(checkpoint: Path) -> None:
    wanted = import_weights("random:5", MODEL)[0].state_dict()
    backbone, whole = start_model(CONFIG, init=checkpoint).state_dict(), start_model(CONFIG, start=checkpoint)
    assert all(torch.equal(whole.state_dict()[name], wanted[name]) for name in wanted)
    same = {name for name in wanted if torch.equal(backbone[name], wanted[name])}
    assert {name for name in wanted if name.startswith("backbone.")} <= same
    assert "down_query.0.weight" not in same


def test_mean_and_std_come_from_the_checkpoint_and_prepare_the_episodes(tmp_path: Path) -> None:
    options = replace(MODEL, backbone="efficientnet_lite0")
    model, origin = import_weights("random:5", options)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, origin)
    config = replace(CONFIG, model=options)  # says nothing of mean and std, so ImageNet's
    for found in (start_model(config, init=path), start_model(config, start=path)):
        assert (found.config.mean, found.config.std) == ((127, 127, 127), (128, 128, 128))
    data = ProceduralDataset(3)
    episodes = Trainer(config, data, found, tmp_path / "run").episodes
    pixels, _ = episodes.load(data.images(0)[0], 0, np.random.default_rng(1))
    # (level - 127) / 128 of whole levels, and the mean colour in the padding
    levels = pixels * 128 + 127
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    episodes.options = replace(episodes.options, scale=(0.1, 0.1), rotation_probability=0, blur_probability=0)
    pixels, label = episodes.load(data.images(0)[0], 0, np.random.default_rng(1))
    assert (label == 255).any()
    assert (pixels[:, label == 255] == 0).all()


def test_start_needs_the_same_model(checkpoint: Path) -> None:
    other = replace(CONFIG, model=replace(MODEL, width=16))
    with pytest.raises(InputError, match=r"another width \(8\) than the config \(16\)"):
        start_model(other, start=checkpoint)


def test_start_needs_the_same_head(checkpoint: Path) -> None:
    other = replace(CONFIG, model=MatcherConfig(backbone="squeezenet1_1", input_size=33))
    with pytest.raises(InputError, match="has the head ntrenet, the config asks for matcher"):
        start_model(other, start=checkpoint)


def test_start_takes_another_input_size_and_leaves_modules_out(checkpoint: Path) -> None:
    wanted = import_weights("random:5", MODEL)[0].state_dict()
    smaller = replace(CONFIG, model=replace(MODEL, input_size=65, bins=(9, 4), bgem=False, doem=False))
    model = start_model(smaller, start=checkpoint)
    assert model.config == smaller.model
    found = model.state_dict()
    assert set(found) < set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_start_needs_every_module_of_the_config(tmp_path: Path) -> None:
    model, origin = import_weights("random:5", replace(MODEL, doem=False))
    save_checkpoint(tmp_path / "less.safetensors", model, origin)
    with pytest.raises(InputError, match=r"missing .*doem"):
        start_model(CONFIG, start=tmp_path / "less.safetensors")


def test_weights_from_scratch_keep_the_scale_of_the_features() -> None:
    model = start_model(CONFIG).eval()
    with torch.no_grad():
        f2, f3 = model.backbone.lower(torch.randn(2, 3, 65, 65))
        f4 = model.backbone.upper(f3)
    for feature in (f2, f3, f4):
        assert 0.05 < feature.square().mean().sqrt() < 20


def test_checkpoints_tell_the_command_and_what_the_run_began_with(checkpoint: Path) -> None:
    assert provenance("ntre train b.toml") == {"trained_by": "ntre train b.toml"}
    origin = provenance("ntre train b.toml", start=checkpoint)
    assert origin["started_from"]["trained_by"] == "ntre train a.toml"
    assert len(origin["started_from"]["sha256"]) == 64
    assert provenance("x", init=checkpoint)["backbone_from"]["source"] == "random:5"
    # a chain of three commands stays whole
    first = load_checkpoint(checkpoint)
    second = checkpoint.with_name("second.safetensors")
    save_checkpoint(second, first.model, first.origin | provenance("ntre train c.toml", init=checkpoint))
    told = provenance("ntre train d.toml", start=second)["started_from"]
    assert told["trained_by"] == "ntre train c.toml"
    assert told["backbone_from"]["source"] == "random:5"


def test_all_classes_of_another_dataset_validate_a_run_that_holds_none_back() -> None:
    data = ProceduralDataset(3, 240)
    everything = replace(CONFIG, data=replace(CONFIG.data, split="all"))
    assert validation(everything, data) is None
    validate = validation(replace(everything, run=replace(CONFIG.run, validate_on="procedural:9")), data)
    assert validate is not None
    assert 0 <= validate(start_model(CONFIG).eval()) <= 1
