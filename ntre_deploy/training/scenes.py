"""Episodes over scenes made of a few photos, whose features a frozen backbone computes once.

A head that trains in a few hundred steps needs many scenes and little time: every photo gives several scenes
(`data.scenes`), their features stay in memory in 16 bits, and an episode costs only the head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.scenes import compose, labelled_photos
from ntre_deploy.errors import InputError
from ntre_deploy.model.config import input_spec
from ntre_deploy.model.network import Features, FewShotNetwork
from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.training.episodes import Item

# keeps the streams of scenes and of a step's shots apart from those of the episodes
_SCENE, _SHOTS = 3, 4
# pixels of the target at the input's resolution below which a scene is no episode of it
_LEAST = 640
# share of the episodes whose supports are other scenes of the query's own photo
_SAME_PHOTO = 0.15
# photos of a class beyond which it is not drawn more often
_MANY = 12

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StoredScene:
    """Features [1, C, h, w] in float16 and masks uint8 [N, S, S] of `classes`: 0, 1 and 255, also outside the image.

    `own` are the classes of the photo itself, `pasted` those of what came from others.
    """

    image_id: str
    features: Features
    masks: Pixels
    classes: tuple[int, ...]
    own: frozenset[int]
    pasted: frozenset[int]

    def mask(self, class_id: int) -> Pixels:
        """uint8 [S, S]: 1 on a class, which may have been pasted in beside one of its own, 255 to be ignored."""
        own = self.masks[[n for n, c in enumerate(self.classes) if c == class_id]]
        mask: Pixels = np.where((own == 1).any(axis=0), 1, own.max(axis=0, initial=0)).astype(np.uint8)
        return mask

    def area(self, class_id: int) -> int:
        """Pixels of a class."""
        return int(np.count_nonzero(self.mask(class_id) == 1))


class SceneStore:
    """Scenes of a dataset; runs with other folds and seeds may share it, as long as the backbone is the same."""

    def __init__(self) -> None:
        self.scenes: list[StoredScene] = []

    @torch.no_grad()
    def fill(
        self,
        dataset: Dataset,
        classes: Sequence[int],
        model: FewShotNetwork,
        per_photo: int,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Make `per_photo` scenes of every photo of the classes, the first one plain; a filled store stays as it is.

        Raises:
            InputError: a photo or a mask cannot be read.
        """
        if self.scenes:
            return
        photos = labelled_photos(dataset, classes)
        spec, device = input_spec(model.config), next(model.parameters()).device
        training, made = model.training, []
        model.eval()
        for turn in range(per_photo):
            for index in range(len(photos)):
                # a generator of its own for each scene: how many there are of each photo does not matter
                rng = np.random.default_rng([_SCENE, turn, index])
                scene = compose(photos, index, rng, plain=turn == 0)
                pixels, _ = prepare_image(scene.image, spec)
                features = model.query_features(torch.from_numpy(pixels)[None].to(device))
                masks = np.stack([_letterboxed(mask, spec) for mask in scene.masks])
                kept = Features(*(f.half().cpu() for f in features))
                own = frozenset(photos[index].classes)
                made.append(StoredScene(scene.image_id, kept, masks, scene.classes, own, scene.pasted))
                progress(turn * len(photos) + index + 1, per_photo * len(photos))
        # whole or not at all: a store that was filled half-way would be taken for a filled one
        self.scenes = made
        model.train(training)


class SceneEpisodes(TorchDataset[Item]):
    """Episodes by number: what one is depends on seed and number alone.

    Args:
        store: filled; left out are scenes of photos that show none of `classes`, and scenes with pasted objects of
            others.
        classes: to learn from.
        shots: fewest and most supports; each step of `batch` episodes draws one number.
    """

    def __init__(
        self,
        store: SceneStore,
        classes: Sequence[int],
        shots: tuple[int, int],
        seed: int,
        batch: int,
    ) -> None:
        self.shots, self.seed, self.batch = shots, seed, batch
        wanted = set(classes)
        self.scenes = [s for s in store.scenes if s.pasted <= wanted and wanted & s.own]
        self.members: dict[int, list[int]] = {}
        for number, scene in enumerate(self.scenes):
            for c in set(scene.classes) & wanted:
                if scene.area(c) >= _LEAST:
                    self.members.setdefault(c, []).append(number)
        self.members = {c: found for c, found in sorted(self.members.items()) if len(found) > 1}
        if not self.members:
            raise InputError("No class has two scenes with enough of the target; add photos or raise data.scenes.")
        photos = [len({self.scenes[k].image_id for k in found}) for found in self.members.values()]
        weights = np.sqrt(np.minimum(photos, _MANY))
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def photos_of(self, number: int) -> tuple[str, list[str]]:
        """Photos of the query and of the supports of episode `number`."""
        _, query, supports = self.draw(number)
        return self.scenes[query].image_id, [self.scenes[k].image_id for k in supports]

    def draw(self, number: int) -> tuple[int, int, list[int]]:
        """Class, and places of query and supports in `scenes`, of episode `number`."""
        step = number // self.batch
        low, high = self.shots
        shots = low
        if high > low:
            # one shot and the most are what people use
            ends = np.array([0.4] + [0.35 / max(high - low - 1, 1)] * (high - low - 1) + [0.25])
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, step, _SHOTS]))
            shots = int(rng.choice(np.arange(low, high + 1), p=ends / ends.sum()))
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, number, _SCENE]))
        class_id = int(rng.choice(list(self.members), p=self.weights))
        pool = self.members[class_id]
        query = int(rng.choice(pool))
        same = rng.random() < _SAME_PHOTO
        photo = self.scenes[query].image_id
        others = [k for k in pool if k != query]
        fitting = [k for k in others if (self.scenes[k].image_id == photo) == same]
        # different photos first, as people choose their supports
        drawn = [int(k) for k in rng.permutation(fitting or others)]
        first = {self.scenes[k].image_id: k for k in reversed(drawn)}
        supports = [k for k in drawn if first[self.scenes[k].image_id] == k]
        supports += [k for k in drawn if k not in supports]
        return class_id, query, [supports[k % len(supports)] for k in range(shots)]

    def __getitem__(self, number: int) -> Item:
        class_id, query, supports = self.draw(number)
        seen, shots = self.scenes[query], [self.scenes[k] for k in supports]
        item: Item = {f"query.{n}": f[0].float() for n, f in seen.features._asdict().items()}
        for name in Features._fields:
            item[f"supports.{name}"] = torch.stack([getattr(s.features, name)[0].float() for s in shots])
        return item | {
            "query_label": torch.from_numpy(seen.mask(class_id)).long(),
            "support_labels": torch.stack([torch.from_numpy(s.mask(class_id)).long() for s in shots]),
            "class_id": torch.tensor(class_id),
            "number": torch.tensor(number),
        }


def _letterboxed(mask: Pixels, spec: InputSpec) -> Pixels:
    """A mask [H, W] as the network sees it, 255 outside the image: uint8 [S, S]."""
    box = Letterbox.fit(mask.shape[0], mask.shape[1], spec.size)
    small = cv2.resize(mask, (box.inner_width, box.inner_height), interpolation=cv2.INTER_NEAREST_EXACT)
    out = np.full((spec.size, spec.size), IGNORE, np.uint8)
    out[: box.inner_height, : box.inner_width] = small
    return out
