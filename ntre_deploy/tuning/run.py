"""A tune from start to end: hold photos out, train, compare, and keep the result if it is better."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.subset import Subset
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.files import sha256
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import input_spec
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.training.evaluator import Evaluation
from ntre_deploy.training.runs import NetworkRun
from ntre_deploy.training.start import provenance
from ntre_deploy.training.trainer import LAST, Trainer
from ntre_deploy.tuning.judge import Gain, episodes_of, gain, judge
from ntre_deploy.tuning.split import PhotoSplit, split_photos

# inside the target folder until the tune is over: what a killed one goes on from
WORK = ".tune"
_BEFORE = "before.json"


@dataclass(frozen=True)
class TuneOptions:
    """How a tune runs.

    Attributes:
        steps: of training.
        batch: episodes of a step.
        rate: learning rate.
        seed: of the split, the episodes and the training.
    """

    steps: int = 300
    batch: int = 4
    rate: float = 1e-3
    seed: int = 0


class Progress(Protocol):
    """Where a tune says what it does."""

    def evaluating(self, what: str, episodes: int) -> AbstractContextManager[Callable[[], None]]:
        """A bar for `episodes` episodes of `what`."""
        ...

    def training(self, start: int, steps: int) -> AbstractContextManager[Callable[[int, dict[str, float]], None]]:
        """A bar for the steps of training."""
        ...


@dataclass(frozen=True)
class Tuned:
    """What a tune found; evaluations are of the held-out photos, with supports from the others.

    Attributes:
        before, after, matcher: of the base model, the tuned one and the training-free matcher on the same backbone
            (None where the base model is one).
        gain: `after` against `before`.
        checkpoint, bundle: what was written; None where the tuned model is not better.
    """

    split: PhotoSplit
    names: dict[int, str]
    before: Evaluation
    after: Evaluation
    matcher: Evaluation | None
    gain: Gain
    checkpoint: Path | None
    bundle: Path | None


def tune(base: Path, dataset: Dataset, out: Path, options: TuneOptions, say: Progress) -> Tuned:
    """Tune a checkpoint on photos of the user's own classes.

    Killed and called again with the same arguments, it goes on from its last save.  The base model stays as it is.

    Args:
        base: checkpoint to start from.
        out: folder of the result, named after it: `NAME/NAME.safetensors`, `NAME/NAME.ntre`.

    Raises:
        InputError: the photos are too few or cannot be read, or `out` holds another tune.
        GateError: the training ends in NaN, or the bundle does not verify.
    """
    photos = CachedDataset(dataset)
    split = split_photos(photos, options.seed)
    loaded = load_checkpoint(base)
    config = train_config(loaded.model, options)
    work = out / WORK
    _claim(work, {"base": sha256(base), "photos": _fingerprint(photos, split), "options": vars(options)})
    episodes = episodes_of(photos, split, options.seed)
    spec = input_spec(config.model)

    def measure(what: str, model: FewShotNetwork) -> Evaluation:
        with say.evaluating(what, len(episodes.episodes)) as advance:
            return judge(NetworkRun(FullNetwork(model, spec)), photos, episodes, advance)

    before = measure("before", loaded.model)
    matcher = None if config.model.training_free else measure("the matcher", _matcher(loaded.model, photos, split))
    model = load_checkpoint(base).model
    origin = provenance("ntre tune", None, base) | {"tuned": True}
    learn = Subset(photos, split.learned)
    trainer = Trainer(config, learn, model, work, origin=origin)
    with say.training(trainer.saved_step, trainer.steps) as report:
        trainer.report = report
        trainer.run()
    tuned = load_checkpoint(work / LAST)
    after = measure("after", tuned.model)
    found = gain(before, after)
    checkpoint = bundle = None
    if found.certain:
        checkpoint, bundle = out / f"{out.name}.safetensors", out / f"{out.name}.ntre"
        save_checkpoint(checkpoint, tuned.model, tuned.origin)
        export_bundle(checkpoint, bundle, ExportOptions(verify_on=learn, replace=True))
    return Tuned(split, dict(dataset.class_names), before, after, matcher, found, checkpoint, bundle)
