"""Training a backbone from scratch: dense labels, their loss in the trainer, and exact resumption with proxies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.data.transforms import Augmentation
from ntre_deploy.errors import InputError
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.losses import LossWeights
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.training.config import DataOptions, OptimiserOptions, RunOptions, TrainConfig
from ntre_deploy.training.episodes import NO_LABEL, TrainEpisodes
from ntre_deploy.training.trainer import LAST, Trainer

MODEL = NTRENetConfig(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=33)
CONFIG = TrainConfig(
    model=MODEL,
    data=DataOptions(dataset="procedural:3", workers=0),
    optimiser=OptimiserOptions(rate=0.01, batch=2, steps=6),
    loss=LossWeights(prior=0.5, dense=0.5),
    contrastive=None,
    run=RunOptions(save_every=3, log_every=1, backbone="finetune"),
)


class KilledError(Exception):
    pass


def train(out: Path, stop: int | None = None) -> dict[str, float]:
    last: dict[str, float] = {}

    def report(step: int, figures: dict[str, float]) -> None:
        last.update(figures)
        if step == stop:
            raise KilledError

    out.mkdir(exist_ok=True)
    model, _ = import_weights("random:1", MODEL)
    Trainer(CONFIG, ProceduralDataset(3, 240), model, out, report=report).run()
    return last


def test_dense_labels_are_in_step_with_the_target_and_leave_out_what_is_held_back() -> None:
    data = DataOptions(fold=1, split="interleaved")
    episodes = TrainEpisodes(ProceduralDataset(3), data, InputSpec(65), 0, Augmentation(scale=(0.2, 0.3)), dense=True)
    held_back = others = 0
    for number in range(12):
        item = episodes[number]
        dense, label, target = item["query_dense"], item["query_label"], int(item["class_id"])
        assert dense.shape == label.shape
        assert torch.equal(dense == target + 1, label == 1)
        assert (dense[label == 255] == NO_LABEL).all()
        rows = set(dense.unique().tolist()) - {NO_LABEL, 0}
        assert not any((row - 1) % 4 == 1 for row in rows), "a class of the fold that is held back"
        others += len(rows) > 1
        held_back += bool(((dense == NO_LABEL) & (label != 255)).any())
    assert others
    assert held_back


def test_without_the_loss_nothing_changes() -> None:
    plain = TrainEpisodes(ProceduralDataset(3), DataOptions(), InputSpec(65), 0, Augmentation())
    dense = TrainEpisodes(ProceduralDataset(3), DataOptions(), InputSpec(65), 0, Augmentation(), dense=True)
    assert "query_dense" not in plain[3]
    for name, value in plain[3].items():
        assert torch.equal(value, dense[3][name]), name


def test_a_killed_run_resumes_exactly_with_its_proxies(tmp_path: Path) -> None:
    figures = train(tmp_path / "whole")
    assert {"dense", "prior"} <= figures.keys()
    with pytest.raises(KilledError):
        train(tmp_path / "broken", stop=5)
    train(tmp_path / "broken")
    assert (tmp_path / "whole" / LAST).read_bytes() == (tmp_path / "broken" / LAST).read_bytes()


def test_the_dense_loss_reaches_layer_4(tmp_path: Path) -> None:
    before = import_weights("random:1", MODEL)[0].backbone.state_dict()
    train(tmp_path / "run")
    after = load_checkpoint(tmp_path / "run" / LAST).model.backbone.state_dict()
    name = "features.12.expand3x3.weight"
    assert not np.allclose(before[name], after[name])


def test_it_needs_a_backbone_that_is_trained_and_labels() -> None:
    with pytest.raises(InputError, match=r"loss\.dense trains a backbone"):
        replace(CONFIG, run=RunOptions())

    class Masks:
        name = "folder:x"

    with pytest.raises(InputError, match="needs rendered scenes"):
        TrainEpisodes(Masks(), CONFIG.data, InputSpec(33), 0, Augmentation(), dense=True)  # type: ignore[arg-type]
