"""The threshold that is found is the best one."""

import torch

from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.episodes import sample_episodes
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.model.config import MatcherConfig, input_spec
from ntre_deploy.model.weights import import_weights
from ntre_deploy.training.evaluator import evaluate
from ntre_deploy.training.runs import NetworkRun, StoredFeatures
from ntre_deploy.training.threshold import calibrate_threshold

CONFIG = MatcherConfig(backbone="squeezenet1_1", input_size=65)


def test_it_beats_its_neighbours_and_is_told() -> None:
    dataset = CachedDataset(ProceduralDataset(4, 96))
    episodes = sample_episodes(dataset, [0, 1, 2], 2, 12, 0)
    model, _ = import_weights("random:3", CONFIG)
    with torch.no_grad():
        model.final_bias[1] += 3  # everything is the target
    counted: list[int] = []
    found = calibrate_threshold(model, dataset, episodes, lambda: counted.append(1))
    assert len(counted) == 12

    def miou(shift: float) -> float:
        with torch.no_grad():
            model.final_bias[1] += shift
            result = evaluate(NetworkRun(FullNetwork(model, input_spec(model.config))), dataset, episodes)
            model.final_bias[1] -= shift
        return result.miou

    best = miou(0)
    # it looks at one pixel of a few, so what it tells is nearly the figure
    assert abs(best - found) < 0.02
    assert all(miou(shift) <= best + 0.01 for shift in (-0.5, -0.1, 0.1, 0.5, 3.0))


def test_stored_features_give_the_masks_of_the_network() -> None:
    dataset = CachedDataset(ProceduralDataset(4, 96))
    episodes = sample_episodes(dataset, [0, 1], 2, 4, 0)
    model, _ = import_weights("random:3", CONFIG)
    plain = evaluate(NetworkRun(FullNetwork(model, input_spec(model.config))), dataset, episodes)
    stored = evaluate(StoredFeatures(model).run(model), dataset, episodes)
    assert abs(plain.counts - stored.counts).max() <= 2
