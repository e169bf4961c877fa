"""Views: the features that a run keeps are those that the network would compute again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.data.transforms import Augmentation
from ntre_deploy.errors import InputError
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.network import Features
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.training.config import DataOptions, OptimiserOptions, RunOptions, TrainConfig
from ntre_deploy.training.episodes import TrainEpisodes
from ntre_deploy.training.trainer import LAST, Trainer
from ntre_deploy.training.views import ViewEpisodes, ViewStore

MODEL = NTRENetConfig(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=33)
DATA = DataOptions(dataset="procedural:3", workers=0, views=2, shots=2)


def view_episodes(store: ViewStore | None = None) -> ViewEpisodes:
    model, _ = import_weights("random:1", MODEL)
    episodes = TrainEpisodes(ProceduralDataset(3, 240), DATA, InputSpec(33), 0, Augmentation())
    return ViewEpisodes(episodes, model, 2, None, store or ViewStore())


def test_kept_features_give_the_prediction_of_the_pixels() -> None:
    views = view_episodes()
    item = views[4]
    class_id, query, supports, rng = views.episodes.draw(4)
    chosen = [int(rng.integers(2)) for _ in range(3)]
    seen = [views._view(image, class_id, v) for image, v in zip([query, *supports], chosen, strict=True)]
    assert torch.equal(item["query.f4"], seen[0].query.f4)
    batch = {name: value[None] for name, value in item.items()}
    kept = views.model(
        Features(*(batch[f"query.{n}"] for n in Features._fields)),
        Features(*(batch[f"supports.{n}"] for n in Features._fields)),
        batch["support_labels"],
    )
    # the same views, by way of their pixels
    import numpy as np

    def pixels(image: str, view: int) -> torch.Tensor:
        return views.episodes.load(image, class_id, np.random.default_rng([2, class_id, view, *image.encode()]))[0]

    shots = torch.stack([pixels(image, v) for image, v in zip(supports, chosen[1:], strict=True)])
    plain = views.model(pixels(query, chosen[0])[None], shots[None], batch["support_labels"])
    torch.testing.assert_close(kept.logits, plain.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.prior, plain.prior, rtol=1e-4, atol=1e-5)


def test_a_view_does_not_depend_on_what_was_seen_before() -> None:
    first, second = view_episodes(), view_episodes()
    for number in (9, 3, 7):
        first[number]
    for name, value in first[5].items():
        assert torch.equal(value, second[5][name]), name


def test_a_common_store_changes_nothing(tmp_path: Path) -> None:
    config = TrainConfig(
        model=MODEL,
        data=DATA,
        optimiser=OptimiserOptions(rate=0.01, batch=2, steps=3),
        run=RunOptions(save_every=3, log_every=1),
    )
    store, results = ViewStore(), []
    for name, shared in (("fill", store), ("reuse", store), ("alone", None)):
        (tmp_path / name).mkdir()
        model, _ = import_weights("random:1", MODEL)
        Trainer(config, ProceduralDataset(3, 240), model, tmp_path / name, store=shared).run()
        results.append((tmp_path / name / LAST).read_bytes())
    assert results[0] == results[1] == results[2]
    assert store.views


@pytest.mark.parametrize("change", [{"backbone": "finetune"}, {"backbone": "drift"}])
def test_views_need_a_frozen_backbone(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"data\.views needs a frozen backbone"):
        TrainConfig(model=MODEL, data=DATA, run=RunOptions(**change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no workers"):
        TrainConfig(model=MODEL, data=replace(DATA, workers=1))
