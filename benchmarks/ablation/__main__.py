"""Train and test one row of the ablation on a small set of COCO photos.

    python benchmarks/ablation pcl --data FOLDER --backbone squeezenet1_1.safetensors

FOLDER has instances_train.json, instances_val.json and images/; the backbone comes from `ntre import-weights`.  Every
fold and seed is trained once with one shot and tested with 1 and 5 shots.  A run that was done before, in --work, is
not done again; when all of them are there, benchmarks/results/coco_mini_ROW.json is written.
`python benchmarks/ablation/table.py` makes the table of all rows.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matcher import prototype_matcher
from photos import held_out
from rows import PARTS, row_config
from summary import summarise

from ntre_deploy.bench.runner import environment
from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet, sample_episodes, usable_classes
from ntre_deploy.data.folds import novel_classes
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.files import atomic_file, sha256
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import input_spec
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.training.config import TrainConfig, read_config, with_options
from ntre_deploy.training.evaluator import Run, evaluate
from ntre_deploy.training.runs import NetworkRun
from ntre_deploy.training.start import start_model
from ntre_deploy.training.trainer import Trainer
from ntre_deploy.training.views import ViewStore

RESULTS = Path(__file__).parents[1] / "results"
SHOTS = (1, 5)
FOLDS = (0, 1, 2, 3)
# of the test episodes; all rows and seeds share them
EPISODE_SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/ablation", description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=[*PARTS, "matcher"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotations and photos")
    parser.add_argument("--backbone", type=Path, required=True, help="checkpoint with the ImageNet backbone")
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[2] / "configs" / "coco_mini.toml")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=200, help="test episodes of each fold and number of shots")
    parser.add_argument("--work", type=Path, default=Path("ablation_runs"), help="folder of checkpoints and counts")
    parser.add_argument("--steps", type=int, help="in place of the config's")
    args = parser.parse_args()
    config = with_options(read_config(args.config), "optimiser", steps=args.steps)
    specs = {part: f"coco:{args.data / f'instances_{part}.json'}" for part in ("train", "val")}
    photos = {part: CachedDataset(open_dataset(spec)) for part, spec in specs.items()}
    store = ViewStore()
    seeds = [0] if args.row == "matcher" else args.seeds
    for fold in args.folds:
        for seed in seeds:
            path = args.work / args.row / f"fold{fold}_seed{seed}.json"
            if not path.is_file():
                found = _one(args.row, config, photos, store, fold, seed, args)
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, found)
            print(path, *(f"{k}-shot {_miou(json.loads(path.read_text()), k):.3f}" for k in SHOTS), flush=True)
    paths = [args.work / args.row / f"fold{fold}_seed{seed}.json" for fold in FOLDS for seed in seeds]
    if all(path.is_file() for path in paths):
        report = {
            "command": shlex.join(["python", "benchmarks/ablation", args.row, *_portable(sys.argv[2:])]),
            "row": args.row,
            "config": config.to_dict() if args.row == "matcher" else row_config(config, args.row).to_dict(),
            "backbone_sha256": sha256(args.backbone),
            "environment": environment(torch.get_num_threads()),
            **summarise([json.loads(path.read_text()) for path in paths]),
        }
        del report["config"]["data"]["dataset"]
        _write(RESULTS / f"coco_mini_{args.row}.json", report)
        print(f"wrote {RESULTS / f'coco_mini_{args.row}.json'}")


def _one(
    row: str,
    config: TrainConfig,
    photos: dict[str, CachedDataset],
    store: ViewStore,
    fold: int,
    seed: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Train one fold with one seed, and test it; the frozen backbone's features are shared between the runs."""
    start = time.monotonic()
    if row == "matcher":
        run = _matcher(load_checkpoint(args.backbone).model, config)
    else:
        config = with_options(with_options(row_config(config, row), "data", fold=fold), "run", seed=seed)
        model = start_model(config, args.backbone)
        out = args.work / row / f"fold{fold}_seed{seed}"
        out.mkdir(parents=True, exist_ok=True)
        Trainer(config, photos["train"], model, out, store=store).run()
        run = NetworkRun(FullNetwork(model, input_spec(model.config)))
    trained = time.monotonic() - start
    test = held_out(photos["val"], photos["train"], fold, config.data.split)
    results = {}
    for shots in SHOTS:
        episodes = _episodes(test, fold, config.data.split, shots, args.count)
        results[str(shots)] = _test(run, test, episodes)
    return {"row": row, "fold": fold, "seed": seed, "train_seconds": trained, "shots": results}


def _matcher(model: NTRENet, config: TrainConfig) -> Run:
    """The matcher on the backbone of a checkpoint, at the config's input size."""
    same_size = NTRENet(replace(config.model, mean=model.config.mean, std=model.config.std))
    same_size.backbone.load_state_dict(model.backbone.state_dict())
    return prototype_matcher(same_size)


def _episodes(test: Dataset, fold: int, split: str, shots: int, count: int) -> EpisodeSet:
    novel = usable_classes(test, novel_classes(len(test.class_names), fold, split), shots)
    return sample_episodes(test, novel, shots, count, EPISODE_SEED, split=split, fold=fold)


def _test(run: Run, test: Dataset, episodes: EpisodeSet) -> dict[str, Any]:
    found = evaluate(run, test, episodes)
    return {
        "episodes": episodes.describe(),
        "classes": found.classes.tolist(),
        "names": found.names,
        "counts": found.counts.tolist(),
        "miou": found.miou,
        "fb_iou": found.fb_iou,
        "precision": found.precision,
        "all_foreground_miou": found.all_foreground,
    }


def _miou(found: dict[str, Any], shots: int) -> float:
    return float(found["shots"][str(shots)]["miou"])


def _portable(words: list[str]) -> list[str]:
    """A command's words without the folders of the machine it ran on."""
    return [Path(word).name if "/" in word else word for word in words]


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
