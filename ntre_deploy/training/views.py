"""Episodes over fixed augmented views, whose features a frozen backbone computes once.

A frozen backbone gives the same features for the same pixels, so a small dataset need not pass through it in every
step: each image keeps a few augmented views for each class, and their features stay in memory.
"""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ntre_deploy.model.network import Features, FewShotNetwork
from ntre_deploy.training.episodes import Item, TrainEpisodes

# keeps the stream of the views apart from those of the episodes
_STREAM = 2


class View(NamedTuple):
    """`query` and `support` share f2 and f3; `label` is uint8 [S, S] of 0, 1 and 255."""

    query: Features
    support: Features
    label: Tensor


class ViewStore:
    """Views that were needed so far: (image, class, number of the view) -> `View`, without a batch axis.

    Runs may share one, as long as backbone, input size, augmentation and dataset are the same.
    """

    def __init__(self) -> None:
        self.views: dict[tuple[str, int, int], View] = {}


class ViewEpisodes(TorchDataset[Item]):
    """The episodes of `episodes`, by number, with features in place of pixels.

    Args:
        model: where its backbone lies, features are computed; they are kept in host memory.
        views: of each image and class.
        dtype: of the features; None computes and keeps them in float32.
    """

    def __init__(
        self, episodes: TrainEpisodes, model: FewShotNetwork, views: int, dtype: torch.dtype | None, store: ViewStore
    ) -> None:
        self.episodes, self.model, self.views, self.dtype, self.store = episodes, model, views, dtype, store

    def __len__(self) -> int:
        """As of `episodes`."""
        return len(self.episodes)

    def __getitem__(self, number: int) -> Item:
        class_id, query, supports, rng = self.episodes.draw(number)
        seen = self._view(query, class_id, int(rng.integers(self.views)))
        shots = [self._view(image, class_id, int(rng.integers(self.views))) for image in supports]
        item = {f"query.{name}": value for name, value in seen.query._asdict().items()}
        for name in Features._fields:
            item[f"supports.{name}"] = torch.stack([getattr(shot.support, name) for shot in shots])
        return item | {
            "query_label": seen.label.long(),
            "support_labels": torch.stack([shot.label.long() for shot in shots]),
            "class_id": torch.tensor(class_id),
            "number": torch.tensor(number),
        }

    def _view(self, image_id: str, class_id: int, view: int) -> View:
        key = (image_id, class_id, view)
        if key not in self.store.views:
            # the text of an id seeds it: what a view is must not depend on what was seen before
            rng = np.random.default_rng([_STREAM, class_id, view, *image_id.encode()])
            self.store.views[key] = self._compute(*self.episodes.load(image_id, class_id, rng))
        return self.store.views[key]

    @torch.no_grad()
    def _compute(self, pixels: Tensor, label: Tensor) -> View:
        device = next(self.model.parameters()).device
        image, mask = pixels[None].to(device), label[None].to(device)
        with torch.autocast(device.type, self.dtype) if self.dtype is not None else nullcontext():
            query = self.model.query_features(image)
            support = self.model.support_features(image, mask)
        plain = [Features(*(f[0].to("cpu", self.dtype or torch.float32) for f in group)) for group in (query, support)]
        # f2 and f3 are the same in both; one copy of them is enough
        return View(plain[0], plain[0]._replace(f4=plain[1].f4), label.to(torch.uint8))
