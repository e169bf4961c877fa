"""The trainer: it learns, resumes exactly, splits exactly, and stops on NaN."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.contrastive import ContrastiveConfig
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.training.config import DataOptions, OptimiserOptions, RunOptions, TrainConfig, with_options
from ntre_deploy.training.episodes import TrainEpisodes
from ntre_deploy.training.trainer import LAST, LOG, STATE, Trainer

MODEL = NTRENetConfig(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=33)
CONFIG = TrainConfig(
    model=MODEL,
    data=DataOptions(dataset="procedural:3", workers=0),
    optimiser=OptimiserOptions(rate=0.01, batch=2, steps=6),
    contrastive=ContrastiveConfig(weight=0.1, size=12, drawn=4),
    run=RunOptions(save_every=3, log_every=1),
)


def train(config: TrainConfig, out: Path, stop: int | None = None) -> Trainer:
    """Run to the end, or break off behind step `stop` as a kill would."""

    class KilledError(Exception):
        pass

    def report(step: int, figures: dict[str, float]) -> None:
        if step == stop:
            raise KilledError

    model, _ = import_weights("random:1", config.model)
    trainer = Trainer(config, ProceduralDataset(3), model, out, report=report)
    try:
        trainer.run()
    except KilledError:
        assert stop is not None
    return trainer


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).model.state_dict()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, kind: str) -> None:
    config = with_options(CONFIG, "optimiser", kind=kind)
    whole = train(config, tmp_path / "whole")
    broken = train(config, tmp_path / "broken", stop=5)  # saved at 3, killed at 5
    assert broken.progress.step == 5
    resumed = train(config, tmp_path / "broken")
    ours, theirs = weights(tmp_path / "whole" / LAST), weights(tmp_path / "broken" / LAST)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.bank is not None
    assert resumed.bank is not None
    assert whole.bank.prototypes.keys() == resumed.bank.prototypes.keys()
    assert all(torch.equal(p, resumed.bank.prototypes[key]) for key, p in whole.bank.prototypes.items())
    assert (tmp_path / "whole" / LOG).read_text() == (tmp_path / "broken" / LOG).read_text()


def test_another_seed_ends_with_other_weights(tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "a")
    train(with_options(CONFIG, "run", seed=1), tmp_path / "b")
    a, b = weights(tmp_path / "a" / LAST), weights(tmp_path / "b" / LAST)
    assert not torch.equal(a["down_query.0.weight"], b["down_query.0.weight"])


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path) -> None:
    options = OptimiserOptions(kind="adamw", rate=3e-3, batch=4, steps=60)
    config = replace(CONFIG, optimiser=options, run=replace(CONFIG.run, save_every=1000, backbone="finetune"))
    train(config, tmp_path)
    with (tmp_path / LOG).open() as file:
        main = [float(row["main"]) for row in csv.DictReader(file)]
    assert sum(main[-15:]) < 0.8 * sum(main[:15])


def test_a_frozen_backbone_keeps_weights_and_statistics_and_finetuning_moves_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, model=replace(MODEL, backbone="vgg16_bn"), optimiser=replace(CONFIG.optimiser, steps=1))
    start = import_weights("random:1", config.model)[0].state_dict()
    for mode, weight, statistics in (("frozen", False, False), ("drift", False, True), ("finetune", True, False)):
        train(with_options(config, "run", backbone=mode), tmp_path / mode)
        end = weights(tmp_path / mode / LAST)
        moved = {n: not torch.equal(start[n], end[n]) for n in end if "num_batches" not in n}
        assert moved["backbone.features.0.weight"] == weight, mode
        assert moved["backbone.features.1.running_mean"] == statistics, mode
        assert moved["down_query.0.weight"]


def test_the_rate_follows_the_polynomial_schedule(tmp_path: Path) -> None:
    train(with_options(CONFIG, "optimiser", warmup=2), tmp_path)
    with (tmp_path / LOG).open() as file:
        rates = [float(row["rate"]) for row in csv.DictReader(file)]
    wanted = [0.01 * (1 - s / 6) ** 0.9 * min(1, (s + 1) / 2) for s in range(6)]
    assert rates == pytest.approx(wanted, rel=1e-4)


def test_nan_stops_the_run_names_the_episode_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"at step \d+ \(episodes \d+ to \d+, the first with query"):
        train(with_options(CONFIG, "optimiser", rate=1e30), tmp_path)
    train(CONFIG, tmp_path / "good", stop=4)
    saved = (tmp_path / "good" / LAST).read_bytes()
    trainer = Trainer(CONFIG, ProceduralDataset(3), import_weights("random:1", MODEL)[0], tmp_path / "good")
    torch.nn.init.constant_(trainer.model.down_query[0].weight, float("nan"))
    with pytest.raises(GateError):
        trainer._step(trainer.model, next(trainer._batches()), 0)
    assert (tmp_path / "good" / LAST).read_bytes() == saved


def test_a_state_of_another_config_is_refused_by_name(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, stop=4)
    with pytest.raises(InputError, match=r"optimiser\.rate: 0\.01 there, 0\.5 here"):
        train(with_options(CONFIG, "optimiser", rate=0.5), tmp_path)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, stop=4)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-50])
    with pytest.raises(InputError, match="safetensors"):
        train(CONFIG, tmp_path)


def test_workers_do_not_change_the_episodes(tmp_path: Path) -> None:
    train(with_options(CONFIG, "optimiser", steps=3), tmp_path / "none")
    config = with_options(with_options(CONFIG, "optimiser", steps=3), "data", workers=2)
    train(config, tmp_path / "two")
    a, b = weights(tmp_path / "none" / LAST), weights(tmp_path / "two" / LAST)
    assert all(torch.equal(a[n], b[n]) for n in a)


SCRIPT = """
import sys
from pathlib import Path
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.model.weights import import_weights
from ntre_deploy.training.config import read_config
from ntre_deploy.training.distributed import Processes
from ntre_deploy.training.trainer import Trainer

config = read_config(Path(sys.argv[1]))
processes = Processes.join()
model = import_weights("random:1", config.model)[0]
Trainer(config, ProceduralDataset(3), model, Path(sys.argv[2]), processes=processes).run()
processes.leave()
"""
TOML = """
[model]
backbone = "squeezenet1_1"
width = 8
bg_channels = 4
bins = [5, 2]
input_size = 33
[data]
dataset = "procedural:3"
workers = 0
[optimiser]
rate = 0.01
batch = 4
steps = 4
[contrastive]
weight = 0.1
[run]
dropout = false
"""


@pytest.mark.slow
def test_two_processes_give_the_single_process_result(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "config.toml").write_text(TOML)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
        arguments = [str(tmp_path / "run.py"), str(tmp_path / "config.toml"), str(tmp_path / str(count))]
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = weights(tmp_path / "1" / LAST), weights(tmp_path / "2" / LAST)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)
    moved = import_weights("random:1", load_checkpoint(tmp_path / "1" / LAST).model.config)[0].state_dict()
    assert not torch.allclose(moved["down_query.0.weight"], one["down_query.0.weight"], atol=1e-4)


def test_an_epoch_shows_every_image_once_and_supports_never_repeat_the_query() -> None:
    data = DataOptions(fold=1, split="interleaved", shots=3)
    episodes = TrainEpisodes(ProceduralDataset(3), data, InputSpec(33), 0, CONFIG.augmentation)
    drawn = [episodes.draw(n) for n in range(2 * len(episodes))]
    for epoch in (drawn[: len(episodes)], drawn[len(episodes) :]):
        assert len({query for _, query, _, _ in epoch}) == len(episodes)
    assert [q for _, q, _, _ in drawn[:20]] != [q for _, q, _, _ in drawn[len(episodes) : len(episodes) + 20]]
    for class_id, query, supports, _ in drawn:
        assert class_id % 4 != 1, "a class of the fold that is held back"
        assert len({query, *supports}) == 4


def test_the_options_come_from_a_file(tmp_path: Path) -> None:
    from ntre_deploy.training.config import read_config

    (tmp_path / "c.toml").write_text(TOML)
    config = read_config(tmp_path / "c.toml")
    assert config.model.bins == (5, 2)
    assert config.run.dropout is False
    assert config.optimiser.batch == 4
    (tmp_path / "c.toml").write_text("contrastive = false\n[model]\nform = 'paper'\n")
    config = read_config(tmp_path / "c.toml")
    assert config.contrastive is None
    assert config.model == NTRENetConfig.paper()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "TOML"),
        ("[optimizer]\nrate = 1", "Did you mean 'optimiser'"),
        ("[optimiser]\nrat = 1", "Did you mean 'rate'"),
        ("[optimiser]\nrate = '1'", "wrong type"),
        ("[optimiser]\nrate = 0", "above 0"),
        ("[optimiser]\nkind = 'sdg'", "Did you mean 'sgd'"),
        ("[data]\nshots = 0", "1 or more"),
        ("[model]\nform = 'papr'", "Did you mean 'paper'"),
        ("run = 3", "table"),
    ],
)
def test_a_config_that_cannot_be_is_named(tmp_path: Path, text: str, words: str) -> None:
    from ntre_deploy.training.config import read_config

    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_config(tmp_path / "c.toml")


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
PAPER = [path for path in CONFIGS if path.stem.endswith(("_paper", "_released"))]


def test_there_is_a_config_for_every_dataset_backbone_and_form() -> None:
    names = {
        f"{d}_{b}_{f}"
        for d in ("pascal", "coco")
        for b in ("vgg16", "resnet50", "resnet101")
        for f in ("released", "paper")
    }
    assert {path.stem for path in PAPER} == names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_reads(path: Path) -> None:
    from ntre_deploy.training.config import read_config

    read_config(path)


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_every_config_of_the_paper_has_its_name(path: Path) -> None:
    from ntre_deploy.training.config import read_config

    config = read_config(path)
    dataset, backbone, form = path.stem.split("_")
    assert config.data.dataset.startswith(dataset)
    assert config.model.backbone.startswith(backbone)
    assert (config.model.elimination == "once") == (form == "paper")
    assert config.optimiser.rate == (0.03 if form == "paper" else 0.0025)
