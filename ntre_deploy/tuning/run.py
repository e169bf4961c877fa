"""A tune from start to end: hold photos out, train, compare, and keep the result if it is better."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.subset import Subset
from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, check_folder, sha256
from ntre_deploy.model.checkpoint import fill, load_checkpoint, save_checkpoint
from ntre_deploy.model.config import MatcherConfig, ModelConfig
from ntre_deploy.model.heads import build_network
from ntre_deploy.model.losses import LossWeights
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.training.config import ALL, DataOptions, OptimiserOptions, RunOptions, TrainConfig
from ntre_deploy.training.evaluator import Evaluation
from ntre_deploy.training.runs import StoredFeatures
from ntre_deploy.training.start import provenance
from ntre_deploy.training.state import saved_step
from ntre_deploy.training.trainer import STATE, Trainer
from ntre_deploy.tuning.judge import Gain, episodes_of, gain, judge
from ntre_deploy.tuning.split import PhotoSplit, split_photos

# inside the target folder until the tune is over: what a killed one goes on from
WORK = ".tune"
_CLAIM = "tune.json"
# scenes of all photos together, and of one at most
_SCENES, _MOST = 600, 12


@dataclass(frozen=True)
class TuneOptions:
    """How a tune runs: steps of training, episodes of each, learning rate, and the seed of everything random."""

    steps: int = 200
    batch: int = 8
    rate: float = 1e-3
    seed: int = 0


class Say(Protocol):
    """Where a tune tells what it does; each gives a function that counts."""

    def evaluating(self, what: str, episodes: int) -> AbstractContextManager[Callable[[], None]]:
        """Called once for each of the episodes."""
        ...

    def preparing(self) -> AbstractContextManager[Callable[[int, int], None]]:
        """Called with (scenes made, scenes in all)."""
        ...

    def training(self, start: int, steps: int) -> AbstractContextManager[Callable[[int, dict[str, float]], None]]:
        """Called with the step and its figures."""
        ...


@dataclass(frozen=True)
class Tuned:
    """What a tune found; evaluations are of the held-out photos, with supports from the others.

    Attributes:
        names: class id -> name.
        before, after, matcher: of the base model, the tuned one, and the training-free matcher on the same backbone
            (None where the base is a matcher itself, or of a size that a matcher does not take).
        gain: of `after` against `before`.
        checkpoint: the tuned model; None where it is not better.
    """

    split: PhotoSplit
    names: dict[int, str]
    before: Evaluation
    after: Evaluation
    matcher: Evaluation | None
    gain: Gain
    checkpoint: Path | None


def tune(base: Path, dataset: Dataset, out: Path, options: TuneOptions, say: Say) -> Tuned:
    """Tune a checkpoint on photos of the user's own classes; the base stays as it is.

    Killed and called again with the same arguments, it goes on from its last save.

    Args:
        base: checkpoint to start from.
        out: folder of the result, which bears its name: `NAME/NAME.safetensors`.

    Raises:
        InputError: the photos are too few or cannot be read, or `out` holds something else.
        EngineError: the base borrows its backbone from a package that is not installed.
        GateError: the training ends in NaN.
    """
    check_folder(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} exists and is no folder; choose another --out.")
    photos = CachedDataset(dataset)
    split = split_photos(photos, options.seed)
    loaded = load_checkpoint(base)
    work = out / WORK
    _claim(out, {"base": sha256(base), "photos": _fingerprint(photos, split), "options": asdict(options)})
    episodes = episodes_of(photos, split, options.seed)
    stored = StoredFeatures(loaded.model)

    def measure(what: str, model: FewShotNetwork) -> Evaluation:
        with say.evaluating(what, len(episodes.episodes)) as advance:
            return judge(stored.run(model), photos, episodes, advance)

    before = measure("before", loaded.model)
    config = loaded.model.config
    plain = None if config.training_free else _matcher(loaded.model)
    matcher = None if plain is None else measure("matcher", plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = build_network(config.for_tuning())
    fill(model, model.state_dict() | loaded.model.state_dict(), f"Checkpoint {base}")
    learned = split.learned
    settings = _settings(model.config, len(learned), options)
    origin = provenance("ntre tune", None, base) | {"tuned": True}
    with say.preparing() as preparing:
        trainer = Trainer(settings, Subset(photos, learned), model, work, origin=origin, preparing=preparing)
    with say.training(saved_step(work / STATE), trainer.steps) as report:
        trainer.report = report
        trainer.run()
    after = measure("after", trainer.result)
    found = gain(before, after)
    checkpoint = None
    if found.certain:
        checkpoint = out / f"{out.resolve().name}.safetensors"
        held_out = {"held_out_miou": after.miou, "held_out_miou_before": before.miou}
        save_checkpoint(checkpoint, trainer.result.eval(), trainer.describe() | held_out)
    return Tuned(split, dict(dataset.class_names), before, after, matcher, found, checkpoint)


def finish(out: Path) -> None:
    """Remove what a tune keeps to go on from."""
    shutil.rmtree(out / WORK, ignore_errors=True)


def _settings(model: ModelConfig, photos: int, options: TuneOptions) -> TrainConfig:
    data = DataOptions(
        split=ALL,
        shots=1,
        most_shots=5,
        scenes=max(2, min(_MOST, _SCENES // photos)),
        cache=False,
        workers=0,
    )
    optimiser = OptimiserOptions(
        kind="adamw",
        rate=options.rate,
        weight_decay=1e-3,
        steps=options.steps,
        batch=options.batch,
        clip=1.0,
        warmup=min(20, options.steps),
        average=0.98,
    )
    run = RunOptions(seed=options.seed, log_every=10, save_every=50)
    loss = LossWeights(inner=0.3, target=2.6, target_most=1.8, iou=0.75)
    return TrainConfig(model=model, data=data, optimiser=optimiser, loss=loss, contrastive=None, run=run)


def _matcher(model: FewShotNetwork) -> FewShotNetwork | None:
    """The matcher on the same backbone; None where it does not take that input size."""
    config = model.config
    shared: dict[str, Any] = {
        name: getattr(config, name) for name in ("backbone", "stem", "stride", "mean", "std", "input_size")
    }
    try:
        options = MatcherConfig(**shared)
    except InputError:
        return None
    with torch.random.fork_rng(devices=[]):
        matcher = build_network(options)
    matcher.backbone.load_state_dict(model.backbone.state_dict())
    return matcher.eval()


def _fingerprint(photos: Dataset, split: PhotoSplit) -> str:
    digest = hashlib.sha256()
    for group in (split.learn, split.held_out):
        for c, images in sorted(group.items()):
            for image in images:
                digest.update(f"{c} {image} ".encode("utf-8", "surrogateescape"))
                digest.update(photos.image(image).tobytes())
                digest.update(photos.mask(image, c).tobytes())
    return digest.hexdigest()


def _claim(out: Path, what: dict[str, Any]) -> None:
    """Take `out` for a tune, or find the same one there.

    Raises:
        InputError: it holds the start of another tune, or the result of one, or cannot be written.
    """
    claim = out / WORK / _CLAIM
    if claim.is_file():
        try:
            found = json.loads(claim.read_text())
        except ValueError:
            found = None
        if found != what:
            raise InputError(
                f"{out} holds the start of another tune (other photos, base or options); choose another --out, or "
                f"remove {out / WORK}."
            )
        return
    if out.exists() and any(path.name != WORK for path in out.iterdir()):
        raise InputError(f"{out} exists already and holds files; choose another --out.")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with atomic_file(claim) as temporary:
        temporary.write_text(json.dumps(what))
