"""The training graph and an engine give the same masks; the maps on the way are the network's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ntre_deploy.data.procedural import ProceduralDataset, render_scene
from ntre_deploy.errors import InputError
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.training.runs import NetworkRun, segmenter_run

Pixels = NDArray[np.uint8]


def scene(index: int) -> tuple[Pixels, Pixels]:
    found = render_scene(index, seed=9)
    return found.image, (found.labels == found.target + 1).astype(np.uint8)


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> NetworkRun:
    return NetworkRun(FullNetwork(load_checkpoint(tiny_checkpoint).model, InputSpec(65)))


@pytest.fixture(scope="module")
def segmenter(exported: Path) -> Segmenter:
    return Segmenter.load(exported, "onnx-cpu", precision="fp32", threads=1)


@pytest.mark.parametrize("shots", [1, 3])
def test_checkpoint_and_bundle_give_the_same_masks(network: NetworkRun, segmenter: Segmenter, shots: int) -> None:
    run = segmenter_run(segmenter)
    differing = pixels = foreground = 0
    for index in range(6):
        supports = [scene(index + 24 * k) for k in range(1, shots + 1)]
        query = scene(index)[0]
        ours, theirs = network(query, supports), run(query, supports)
        assert ours.shape == theirs.shape == query.shape[:2]
        differing += int((ours != theirs).sum())
        pixels += ours.size
        foreground += int(ours.sum())
    # fp32 sums in another order decide a pixel on the border now and then
    assert differing <= 1e-5 * pixels
    assert 0 < foreground < pixels


def test_a_target_that_the_network_cannot_see_is_run_and_not_refused(network: NetworkRun, segmenter: Segmenter) -> None:
    image, mask = scene(3)
    mask[:] = 0
    mask[20:22, 20:22] = 1  # between the positions that are sampled
    with pytest.raises(InputError, match="too small to be seen"):
        segmenter.encode_support([(image, mask)])
    assert segmenter.encode_support([(image, mask)], allow_unseen=True).keys[0].shape[1] == 0
    for index in range(4):
        query = scene(index)[0]
        ours = network(query, [(image, mask)])
        theirs = segmenter_run(segmenter)(query, [(image, mask)])
        assert (ours != theirs).mean() <= 1e-4


def test_the_stages_are_the_networks_at_the_largest_bin(network: NetworkRun) -> None:
    query, shots = scene(0)[0], [scene(24)]
    prediction, box = network.network.predict(query, network.network.prepare(shots))
    assert [m.shape[-1] for m in prediction.do_masks] == [9, 4, 2]
    stages = network.stages(query, shots)
    for found in (stages.background, stages.distracting, stages.initial):
        assert found is not None
        assert found.shape == query.shape[:2]
        assert found.dtype == np.uint8
        assert set(np.unique(found)) <= {0, 1}
    assert prediction.bg_logits is not None
    # the photo's pixels on which the 9 x 9 positions lie: nothing is interpolated there
    lattice = np.arange(9) * 8
    rows, columns = (
        np.round((lattice[lattice < inner] + 0.5) * (side / inner) - 0.5).astype(int).clip(0, side - 1)
        for side, inner in ((box.height, box.inner_height), (box.width, box.inner_width))
    )
    wanted = {
        "background": prediction.bg_logits.argmax(1)[0],
        "distracting": prediction.do_masks[0][0, 0],
        "initial": prediction.initial_logits[0].argmax(1)[0],
    }
    for name, tensor in wanted.items():
        agreement = getattr(stages, name)[np.ix_(rows, columns)] == tensor.numpy()[: len(rows), : len(columns)]
        assert agreement.mean() > 0.9, name
    assert 0 < np.mean(stages.distracting) < 1


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"bgem": False, "doem": False}, (False, False, False)),
        ({"bgem": True, "doem": False}, (True, False, False)),
        ({"bgem": False, "doem": True}, (True, True, True)),
        ({"elimination": "once"}, (True, True, True)),
    ],
)
def test_a_model_without_a_module_has_no_map_of_it(changes: dict[str, object], known: tuple[bool, ...]) -> None:
    options = {"backbone": "squeezenet1_1", "width": 8, "bg_channels": 4, "bins": (4, 2), "input_size": 65}
    run = NetworkRun(FullNetwork(NTRENet(NTRENetConfig(**(options | changes))), InputSpec(65)))
    stages = run.stages(scene(0)[0], [scene(24)])
    assert tuple(m is not None for m in (stages.background, stages.distracting, stages.initial)) == known


def test_nan_is_told_and_not_taken_for_background(tiny_checkpoint: Path) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    with torch.no_grad():
        model.head.classifier[-1].bias.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        NetworkRun(FullNetwork(model, InputSpec(65)))(scene(0)[0], [scene(24)])


def test_a_run_is_what_evaluate_takes(network: NetworkRun) -> None:
    from ntre_deploy.data.episodes import sample_episodes
    from ntre_deploy.training.evaluator import evaluate

    data = ProceduralDataset(1)
    found = evaluate(network, data, sample_episodes(data, [0, 1], 2, 2, 0), pictures=1, explain=network.stages)
    assert found.counts.shape == (2, 4)
    assert found.pictures[0].stages is not None
