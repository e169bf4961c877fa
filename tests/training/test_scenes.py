"""Training on stored scenes: the features are the network's own, and a killed run ends as an unbroken one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import InputError
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import ModelConfig, NTRENetConfig, RefinerConfig
from ntre_deploy.model.network import Features
from ntre_deploy.model.weights import import_weights
from ntre_deploy.training.config import DataOptions, OptimiserOptions, RunOptions, TrainConfig
from ntre_deploy.training.scenes import SceneEpisodes, SceneStore
from ntre_deploy.training.trainer import LAST, Trainer

REFINER = RefinerConfig(backbone="squeezenet1_1", input_size=65, width=8, guide=4)
NTRENET = NTRENetConfig(backbone="squeezenet1_1", width=8, bg_channels=4, bins=(5, 2), input_size=65)
DATA = DataOptions(dataset="procedural:3", workers=0, scenes=2, shots=1, most_shots=3)


@pytest.fixture(scope="module")
def store() -> SceneStore:
    model, _ = import_weights("random:1", REFINER)
    store = SceneStore()
    store.fill(ProceduralDataset(3, 96), range(24), model, 2)
    return store


def test_a_scene_keeps_the_features_of_its_pixels(store: SceneStore) -> None:
    from ntre_deploy.model.config import input_spec
    from ntre_deploy.runtime.letterbox import prepare_image

    dataset = ProceduralDataset(3, 96)
    model, _ = import_weights("random:1", REFINER)
    assert len(store.scenes) == 2 * 96
    for scene in store.scenes[:3]:  # the plain ones come first
        pixels, box = prepare_image(dataset.image(scene.image_id), input_spec(model.config))
        with torch.no_grad():
            wanted = model.query_features(torch.from_numpy(pixels)[None])
        for got, exact in zip(scene.features, wanted, strict=True):
            torch.testing.assert_close(got.float(), exact, rtol=2e-3, atol=2e-3)
        assert (scene.masks[:, box.inner_height :] == 255).all()
        assert (scene.masks[:, : box.inner_height, : box.inner_width] != 255).all()


def episodes(store: SceneStore, classes: tuple[int, ...] = (0, 1, 2, 4), seed: int = 0) -> SceneEpisodes:
    return SceneEpisodes(store, classes, (1, 3), seed, batch=4)


def test_no_scene_shows_an_object_that_was_cut_out_of_another_class(store: SceneStore) -> None:
    found = episodes(store)
    assert 0 < len(found) < len(store.scenes)
    for scene in found.scenes:
        assert scene.pasted <= {0, 1, 2, 4}
        # a photo of other classes alone may be one to be tested on, whatever was pasted into it
        assert set(scene.classes[: len(scene.own)]) == scene.own
        assert scene.own & {0, 1, 2, 4}
    assert set(found.members) <= {0, 1, 2, 4}
    assert all(found.scenes[k].area(c) >= 640 for c, members in found.members.items() for k in members)


def test_an_episode_follows_from_seed_and_number_and_a_step_has_one_number_of_shots(store: SceneStore) -> None:
    first, second, other = episodes(store), episodes(store), episodes(store, seed=1)
    drawn = [first.draw(n) for n in range(120)]
    assert drawn == [second.draw(n) for n in reversed(range(120))][::-1]
    assert drawn != [other.draw(n) for n in range(120)]
    shots = [len(supports) for _, _, supports in drawn]
    assert all(len({*shots[k : k + 4]}) == 1 for k in range(0, 120, 4))
    assert set(shots) == {1, 2, 3}
    assert all(query not in supports for _, query, supports in drawn)


def test_an_item_holds_query_and_supports_of_one_class(store: SceneStore) -> None:
    found = episodes(store)
    class_id, query, supports = found.draw(7)
    item = found[7]
    assert item["class_id"] == class_id
    assert (item["query_label"] == 1).sum() == found.scenes[query].area(class_id)
    assert item["support_labels"].shape == (len(supports), 65, 65)
    for name in Features._fields:
        assert item[f"query.{name}"].dtype == torch.float32
        assert item[f"supports.{name}"].shape == (len(supports), *item[f"query.{name}"].shape)
    assert found.photos_of(7) == (found.scenes[query].image_id, [found.scenes[k].image_id for k in supports])


def config(model: ModelConfig, steps: int = 4) -> TrainConfig:
    optimiser = OptimiserOptions(kind="adamw", rate=1e-3, steps=steps, batch=4, average=0.9)
    run = RunOptions(log_every=1, save_every=2)
    return TrainConfig(model=model, data=DATA, optimiser=optimiser, contrastive=None, run=run)


def train(model: ModelConfig, out: Path, stop: int | None = None) -> Trainer:
    network, _ = import_weights("random:1", model)

    def report(step: int, figures: dict[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    trainer = Trainer(config(network.config), ProceduralDataset(3, 96), network, out, report=report)
    trainer.run()
    return trainer


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Without the counters of BatchNorm, which nothing reads."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


@pytest.mark.parametrize("model", [REFINER, NTRENET])
def test_a_killed_run_ends_as_an_unbroken_one_with_its_average(model: ModelConfig, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(model, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path / "broken", stop=3)
    again = train(model, tmp_path / "broken")
    ours, theirs = (weights(trainer.result) for trainer in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    kept = weights(load_checkpoint(tmp_path / "broken" / LAST).model)
    assert all(torch.equal(kept[name], ours[name]) for name in kept)
    # the average is not the last step's, and the backbone is nobody's
    last = weights(whole.model)
    changed = [name for name in last if not torch.equal(last[name], ours[name])]
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_options_that_do_not_go_together_are_named() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        TrainConfig(model=REFINER, data=replace(DATA, views=2))
    with pytest.raises(InputError, match=r"set data\.scenes"):
        TrainConfig(model=REFINER, data=replace(DATA, scenes=0))
    with pytest.raises(InputError, match=r"data\.most_shots is 1"):
        TrainConfig(model=REFINER, data=replace(DATA, shots=2, most_shots=1))
    with pytest.raises(InputError, match="no workers"):
        TrainConfig(model=REFINER, data=replace(DATA, workers=2))


def test_a_store_without_two_scenes_of_a_class_is_refused(store: SceneStore) -> None:
    few = SceneStore()
    few.scenes = store.scenes[:1]
    with pytest.raises(InputError, match="two scenes"):
        episodes(few)
