"""The training loop (paper, section 4.1; released code): a run that is killed and resumed ends as an unbroken one."""

import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.errors import GateError, InputError, NtreError
from ntre_deploy.files import atomic_file
from ntre_deploy.model.checkpoint import save_checkpoint
from ntre_deploy.model.config import input_spec
from ntre_deploy.model.contrastive import ContrastiveInput, PrototypeBank, contrastive_loss
from ntre_deploy.model.losses import LossWeights, dense_loss, total_loss
from ntre_deploy.model.network import Features, FewShotNetwork, Prediction
from ntre_deploy.training.config import ALL, TrainConfig
from ntre_deploy.training.distributed import Processes
from ntre_deploy.training.episodes import Item, TrainEpisodes
from ntre_deploy.training.scenes import SceneEpisodes, SceneStore
from ntre_deploy.training.schedule import learning_rate
from ntre_deploy.training.state import Progress, load_state, save_state
from ntre_deploy.training.views import ViewEpisodes, ViewStore

STATE, LAST, BEST, LOG = "state.safetensors", "last.safetensors", "best.safetensors", "log.csv"
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Report = Callable[[int, dict[str, float]], None]


class Trainer:
    """One run: model, optimiser, schedule, bank and files.

    Args:
        model: with its start weights; it is trained in place.
        out: folder for checkpoints, state and log.
        validate: gives the novel classes' mIoU of a model; None does not validate.
        origin: what the checkpoints say of themselves besides the config, such as the command.
        report: called with the step and its figures at every log entry.
        store: views of earlier runs that may be used, where the config asks for views.
        scenes: scenes of earlier runs, where the config asks for scenes.
        preparing: called with (scenes, scenes in all) while they are made.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        model: FewShotNetwork,
        out: Path,
        validate: Callable[[FewShotNetwork], float] | None = None,
        origin: Mapping[str, Any] | None = None,
        report: Report = lambda step, figures: None,
        processes: Processes | None = None,
        store: ViewStore | None = None,
        scenes: SceneStore | None = None,
        preparing: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.config, self.out, self.validate, self.report = config, out, validate, report
        self.origin = dict(origin or {})
        self.processes = processes or Processes()
        self.device = self.processes.device
        data, options = config.data, config.optimiser
        if options.batch % self.processes.count:
            raise InputError(f"A batch of {options.batch} cannot be split over {self.processes.count} processes.")
        self.local = options.batch // self.processes.count
        dense = config.loss.dense > 0
        self.episodes = TrainEpisodes(
            dataset, data, input_spec(model.config), config.run.seed, config.augmentation, dense
        )
        self.steps = options.steps or options.epochs * math.ceil(len(self.episodes) / options.batch)
        self.model = model.to(self.device)
        if self.processes.count == 1:
            # faster convolutions, on CPUs and in 16 bits on GPUs; DistributedDataParallel copies such gradients
            for parameter in self.model.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        _prepare(self.model, config)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        trained = list(named.values())
        self.proxies: nn.Parameter | None = None
        if dense:
            generator = torch.Generator().manual_seed(config.run.seed)
            shape = (len(dataset.class_names) + 1, model.backbone.channels[2])
            self.proxies = nn.Parameter(torch.randn(shape, generator=generator).to(self.device))
            trained.append(self.proxies)
        # weights first and in their order; what learns at a rate of its own is pulled to no zero
        rates = model.rates
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if not any(p is named[n] for n in rates if n in named)], "factor": 1.0}
        ]
        groups += [{"params": [named[n]], "factor": f, "weight_decay": 0.0} for n, f in rates.items() if n in named]
        if options.kind == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                groups, options.rate, options.momentum, weight_decay=options.weight_decay
            )
        else:
            self.optimiser = torch.optim.AdamW(groups, options.rate, weight_decay=options.weight_decay)
        self.average: AveragedModel | None = None
        if options.average:
            average = get_ema_multi_avg_fn(options.average)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.trained = trained
        negatives = config.contrastive if config.model.uses_bg else None
        self.bank = None if negatives is None else PrototypeBank(negatives)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.run.precision == "fp16")
        self.progress = Progress()
        self.source: TorchDataset[Item] = self.episodes
        if data.views:
            kept = _DTYPES[config.run.precision]
            self.source = ViewEpisodes(self.episodes, self.model, data.views, kept, store or ViewStore())
        if data.scenes:
            scenes = scenes or SceneStore()
            scenes.fill(self.episodes.dataset, list(dataset.class_names), self.model, data.scenes, preparing)
            shots = (data.shots, data.most_shots or data.shots)
            learned = list(self.episodes.images)
            self.source = SceneEpisodes(scenes, learned, shots, config.run.seed, options.batch)

    def run(self, resume: bool = True) -> Progress:
        """Train to the last step, from the state in `out` where there is one.

        Raises:
            InputError: the state belongs to another config, or data cannot be read.
            GateError: the loss became NaN or infinite; the last good checkpoint is kept.
        """
        state = self.out / STATE
        if resume and state.is_file():
            self.progress = load_state(
                state, self.config.to_dict(), self.model, self.optimiser, self.bank, self.proxies, self.average
            )
            if self.progress.scaler:
                self.scaler.load_state_dict(self.progress.scaler)
        network = self._distribute()
        options = self.config.run
        rows = _Log(self.out / LOG, self.progress.step) if self.processes.first else None
        for item in self._batches():
            step = self.progress.step
            figures = self._step(network, item, step)
            self.progress.step = step = step + 1
            if step % options.log_every == 0 or step == self.steps:
                if rows is not None:
                    rows.add(step, figures)
                self.report(step, figures)
            if options.validate_every and step % options.validate_every == 0 and step != self.steps:
                self._check_weights()
                self._validate()
            if step % options.save_every == 0 and step != self.steps:
                self._check_weights()
                self._save()
        if self.progress.step == self.steps:
            self._check_weights()
            self._validate()
            self._save()
        return self.progress

    def _distribute(self) -> nn.Module:
        if self.processes.count == 1:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices)

    def _batches(self) -> Iterator[Item]:
        batch, rank = self.config.optimiser.batch, self.processes.rank
        numbers = [
            [step * batch + rank * self.local + i for i in range(self.local)]
            for step in range(self.progress.step, self.steps)
        ]
        # the seed of a worker does not matter: an episode depends on its number alone
        workers, pinned = self.config.data.workers, self.device.type == "cuda"
        loader = DataLoader(
            _Told(self.source),
            batch_sampler=numbers,
            num_workers=workers,
            pin_memory=pinned,
            collate_fn=_collate,
            worker_init_fn=_quiet_end,
        )
        for item in loader:
            if isinstance(item, NtreError):
                raise item
            yield item

    def _step(self, network: nn.Module, item: Item, step: int) -> dict[str, float]:
        # dropout draws from the global generator; seeding it by the step makes a resumed run the same
        seed = np.random.SeedSequence([self.config.run.seed, step, self.processes.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        rate = self._rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        batch = {name: value.to(self.device, non_blocking=True) for name, value in item.items()}
        dtype = _DTYPES[self.config.run.precision]
        with torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext():
            prediction = network(_images(batch, "query"), self._supports(batch), batch["support_labels"])
        with torch.autocast(self.device.type, enabled=False):
            parts = self._losses(_as_float32(prediction), batch)
        figures = {name: self.processes.mean(part.item()) for name, part in parts.items()} | {"rate": rate}
        if not math.isfinite(figures["total"]):
            numbers = self.processes.gather(batch["number"]).tolist()
            query, supports = self._photos(numbers[0])
            raise GateError(
                f"The loss became {figures['total']} at step {step + 1} (episodes {numbers[0]} to {numbers[-1]}, the "
                f"first with query {query} and supports {', '.join(supports)}); {self._kept()}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(parts["total"]).backward()  # type: ignore[no-untyped-call]
        if self.config.optimiser.clip is not None:
            self.scaler.unscale_(self.optimiser)
            norm = nn.utils.clip_grad_norm_(self.trained, self.config.optimiser.clip)
            figures["gradient"] = float(norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return figures

    def _supports(self, batch: Item) -> Tensor | Features:
        """Pixels or features of the supports; scenes are stored as queries, and some heads see a support otherwise."""
        found = _images(batch, "supports")
        if not isinstance(self.source, SceneEpisodes) or not isinstance(found, Features):
            return found
        labels = batch["support_labels"]
        flat = self.model.as_support(Features(*(f.flatten(0, 1) for f in found)), labels.flatten(0, 1))
        return Features(*(f.view(*labels.shape[:2], *f.shape[1:]) for f in flat))

    def _photos(self, number: int) -> tuple[str, list[str]]:
        """Query and supports of an episode, for messages."""
        if isinstance(self.source, SceneEpisodes):
            return self.source.photos_of(number)
        _, query, supports, _ = self.episodes.draw(number)
        return query, supports

    @property
    def result(self) -> FewShotNetwork:
        """What checkpoints hold: the model, or the running average of its weights."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, FewShotNetwork)
        return averaged

    def _losses(self, prediction: Prediction, batch: Item) -> dict[str, Tensor]:
        labels = batch["support_labels"]
        weights = self._weights(labels.shape[1])
        parts = total_loss(prediction, batch["query_label"], labels, weights, self.processes.share)
        if self.proxies is not None:
            parts["dense"] = dense_loss(prediction, self.proxies, batch["query_dense"], labels, batch["class_id"])
            parts["total"] = parts["total"] + self.config.loss.dense * parts["dense"]
        if self.bank is None or self.config.contrastive is None or prediction.bg_logits is None:
            return parts
        terms = []
        # the released code defines the term for one shot; for more it is the mean over the shots
        for k, (support, bg_logits) in enumerate(zip(prediction.supports, prediction.support_bg_logits, strict=True)):
            x = ContrastiveInput(
                query_feature=prediction.query.feature,
                support_feature=support.feature,
                logits=prediction.logits,
                query_bg_logits=prediction.bg_logits,
                support_bg_logits=bg_logits,
                query_label=batch["query_label"],
                support_label=labels[:, k],
                classes=batch["class_id"],
            )
            seeds = [int(number) * self.config.data.shots + k for number in batch["number"].tolist()]
            terms.append(contrastive_loss(x, self.bank, seeds, self.processes.gather))
        parts["contrastive"] = torch.stack(terms).mean()
        parts["total"] = parts["total"] + self.config.contrastive.weight * parts["contrastive"]
        return parts

    def _weights(self, shots: int) -> LossWeights:
        """The loss weights of a step with that many supports."""
        loss, data = self.config.loss, self.config.data
        most = data.most_shots or data.shots
        if loss.target_most is None or most == data.shots:
            return loss
        share = (shots - data.shots) / (most - data.shots)
        return replace(loss, target=loss.target + share * (loss.target_most - loss.target))

    def _rate(self, step: int) -> float:
        options = self.config.optimiser
        return learning_rate(options.rate, step, self.steps, warmup=options.warmup, power=options.power)

    def _validate(self) -> None:
        if self.validate is not None and self.processes.first:
            self.result.eval()
            miou = self.validate(self.result)
            _set_modes(self.model, self.config)
            self.report(self.progress.step, {"novel_miou": miou})
            if self.progress.best is None or miou > self.progress.best:
                self.progress.best = miou
                self._checkpoint(BEST, {"novel_miou": miou})
        self.processes.wait()

    def _check_weights(self) -> None:
        # the last step may have broken them behind a loss that was finite; they must not replace good ones
        if not all(bool(p.isfinite().all()) for p in self.trained):
            last = self.progress.step * self.config.optimiser.batch - 1
            raise GateError(
                f"The weights became NaN or infinite by step {self.progress.step} (episode {last}); {self._kept()}"
            )

    def _kept(self) -> str:
        kept = "the checkpoint of the last save is kept" if (self.out / STATE).is_file() else "nothing was saved yet"
        return f"{kept}. Lower optimiser.rate or set optimiser.clip, and start again with another --out."

    def _save(self) -> None:
        if self.processes.first:
            self.progress.scaler = self.scaler.state_dict() or None
            save_state(
                self.out / STATE,
                self.config.to_dict(),
                self.progress,
                self.model,
                self.optimiser,
                self.bank,
                self.proxies,
                self.average,
            )
            self._checkpoint(LAST, {})
        self.processes.wait()

    def _checkpoint(self, name: str, figures: dict[str, float]) -> None:
        save_checkpoint(self.out / name, self.result, self.describe() | figures)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint of this run says of its origin (JSON values)."""
        data = self.config.data
        config = self.config.to_dict()
        # a spec may hold paths of this machine, and checkpoints travel
        del config["data"]["dataset"], config["run"]["validate_on"]
        config["model"] = self.model.config.to_dict()  # with the mean and std of its weights
        origin: dict[str, Any] = {
            "head": "trained",
            "trained_by": "ntre train",
            "dataset": self.episodes.dataset.name,
            "fold": None if data.split == ALL else data.fold,
            "split": data.split,
            "config": config,
            "step": self.progress.step,
            "steps": self.steps,
        }
        return origin | self.origin


def _images(batch: Item, name: str) -> Tensor | Features:
    """Pixels, or their features where the batch has these."""
    return batch[name] if name in batch else Features(*(batch[f"{name}.{layer}"] for layer in Features._fields))


class _Log:
    """`log.csv`; a resumed run drops the rows behind its step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if step and path.is_file():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Add a row and write the file."""
        self.rows.append({"step": str(step)} | {name: f"{value:.6g}" for name, value in figures.items()})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


class _Told(TorchDataset[Item | NtreError]):
    """Episodes, or the error of one: raised in a worker, it would come out wrapped in that worker's traceback."""

    def __init__(self, episodes: TorchDataset[Item]) -> None:
        self.episodes = episodes

    def __getitem__(self, number: int) -> Item | NtreError:
        try:
            return self.episodes[number]
        except NtreError as error:
            return error


def _collate(items: list[Item | NtreError]) -> Item | NtreError:
    return next((item for item in items if isinstance(item, NtreError)), None) or default_collate(items)


def _quiet_end(worker: int) -> None:
    # a run that is stopped may leave a worker in the middle of a transfer, which is no news
    sys.excepthook = lambda kind, error, trace: (
        None if issubclass(kind, ConnectionError) else sys.__excepthook__(kind, error, trace)
    )


def _prepare(model: FewShotNetwork, config: TrainConfig) -> None:
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(config.run.backbone == "finetune")
    for module in model.modules():
        if isinstance(module, nn.Dropout2d) and not config.run.dropout:
            module.p = 0.0
    _set_modes(model, config)


def _set_modes(model: FewShotNetwork, config: TrainConfig) -> None:
    model.train()
    # BatchNorm statistics of a frozen backbone must not move, unless the released code's drift is wanted
    if config.run.backbone != "drift":
        model.backbone.eval()


def _as_float32(prediction: Prediction) -> Prediction:
    def cast32(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.float() if value.is_floating_point() else value
        if isinstance(value, list):
            return [cast32(v) for v in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(cast32(v) for v in value))
        return value

    return Prediction(**{name: cast32(value) for name, value in vars(prediction).items()})
