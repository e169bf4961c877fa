"""Training episodes by number: what an episode is depends on seed and number alone, not on workers or processes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset, labelled
from ntre_deploy.data.folds import base_classes
from ntre_deploy.data.transforms import Augmentation, augment
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import prepare_image
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.training.config import ALL, DataOptions

# keeps the stream of an epoch's order apart from those of its episodes
_ORDER = 1
# of dense labels: a class that is held back, or no image
NO_LABEL = -100


# One episode, or a batch of them with a leading axis: `query` float32 [3, S, S]; `query_label` int64 [S, S] of 0, 1,
# 255; `supports` [K, 3, S, S]; `support_labels` int64 [K, S, S]; `class_id` and `number` int64.
Item = dict[str, Tensor]


class TrainEpisodes(TorchDataset[Item]):
    """Every image that holds a base class is the query once in an epoch, in a new order each time (after PFENet).

    Args:
        spec: what the network takes: side of the crops, normalisation, and the colour of the padding where `options`
            names none.
    """

    def __init__(
        self,
        dataset: Dataset,
        data: DataOptions,
        spec: InputSpec,
        seed: int,
        options: Augmentation,
        dense: bool = False,
    ) -> None:
        if dense:
            labelled(dataset)
        self.dataset = CachedDataset(dataset) if data.cache else dataset
        self.shots, self.spec, self.seed = data.shots, spec, seed
        self.options = options if options.fill is not None else replace(options, fill=spec.fill)
        names, shots = dataset.class_names, data.shots
        base = tuple(names) if data.split == ALL else base_classes(len(names), data.fold, data.split)
        self.images: dict[int, Sequence[str]] = {c: dataset.images(c) for c in base}
        self.images = {c: images for c, images in self.images.items() if len(images) > shots}
        if not self.images:
            raise InputError(
                f"No base class of fold {data.fold} of {dataset.name} has the {shots + 1} images that {shots} shots "
                "and a query need; ask for fewer shots."
            )
        self.scenes = labelled(self.dataset) if dense else None
        # what has a dense label: the classes that are learned, and 0 for what is no object
        self.dense_ids = np.array([0, *(c + 1 for c in self.images)])
        holders: dict[str, list[int]] = {}
        for c, images in self.images.items():
            for image in images:
                holders.setdefault(image, []).append(c)
        self.queries = sorted(holders.items())

    def __len__(self) -> int:
        """Queries of an epoch; numbers beyond it begin the next epoch."""
        return len(self.queries)

    def draw(self, number: int) -> tuple[int, str, list[str], np.random.Generator]:
        """Class, query, supports and the generator for the augmentation of episode `number`, from 0 on."""
        epoch, place = divmod(number, len(self.queries))
        order = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, _ORDER])).permutation(len(self.queries))
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
        query, classes = self.queries[order[place]]
        class_id = int(rng.choice(classes))
        others = [image for image in self.images[class_id] if image != query]
        supports = [others[k] for k in rng.choice(len(others), self.shots, replace=False)]
        return class_id, query, supports, rng

    def __getitem__(self, number: int) -> Item:
        class_id, query, supports, rng = self.draw(number)
        (pixels, label), dense = self.load_dense(query, class_id, rng)
        shots = [self.load(image, class_id, rng) for image in supports]
        item = {} if dense is None else {"query_dense": dense}
        return item | {
            "query": pixels,
            "query_label": label,
            "supports": torch.stack([image for image, _ in shots]),
            "support_labels": torch.stack([mask for _, mask in shots]),
            "class_id": torch.tensor(class_id),
            "number": torch.tensor(number),
        }

    def load(self, image_id: str, class_id: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augmented and normalised image float32 [3, S, S], and int64 labels [S, S] of 0, 1 and 255."""
        return self._augment(image_id, self.dataset.mask(image_id, class_id), rng)

    def load_dense(
        self, image_id: str, class_id: int, rng: np.random.Generator
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """As `load`, and the dense labels int64 [S, S]: class id + 1, 0 for no object, -100 for no label."""
        if self.scenes is None:
            return self.load(image_id, class_id, rng), None
        found = self.scenes.labels(image_id)
        others = np.setdiff1d(found, [0, class_id + 1])
        # masks are bytes: the objects of one scene are few, and get numbers of their own
        ids = np.array([0, class_id + 1, *others[: IGNORE - 2]])
        local = np.zeros(found.shape, np.uint8)
        for number, wanted in enumerate(ids[1:], 1):
            local[found == wanted] = number
        pixels, numbers = self._augment(image_id, local, rng)
        table = np.full(IGNORE + 1, NO_LABEL)
        table[: len(ids)] = np.where(np.isin(ids, self.dense_ids), ids, NO_LABEL)
        label = torch.where(numbers == IGNORE, IGNORE, (numbers == 1).long())
        return (pixels, label), torch.from_numpy(table)[numbers]

    def _augment(self, image_id: str, mask: Pixels, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        image: Pixels = self.dataset.image(image_id)
        if mask.shape != image.shape[:2]:
            raise InputError(f"Image {image_id} of {self.dataset.name} and its mask have different sizes.")
        image, mask = augment(image, mask, self.spec.size, rng, self.options)
        pixels, _ = prepare_image(image, self.spec)
        return torch.from_numpy(pixels), torch.from_numpy(mask.astype(np.int64))
