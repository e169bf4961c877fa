"""The released protocol: sizes and padding by hand, the way back where it is known, and a plain second writing."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.data.episodes import EpisodeSet, sample_episodes
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.torch_engines import FullNetwork, TorchEngine
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.network import Prediction
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.runtime import letterbox as exact
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.training import released, released_network
from ntre_deploy.training.evaluator import evaluate
from ntre_deploy.training.released import fit, prepare_image, prepare_mask
from ntre_deploy.training.released_network import ReleasedNetwork, released_run
from ntre_deploy.training.runs import NetworkRun

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]

# as the released code writes them
MEAN = [item * 255 for item in (0.485, 0.456, 0.406)]
STD = [item * 255 for item in (0.229, 0.224, 0.225)]


class Bordered(ProceduralDataset):
    """Scenes whose masks ignore every seventh row, as a dataset does along its objects' borders."""

    def mask(self, image_id: str, class_id: int) -> Pixels:
        mask = super().mask(image_id, class_id).copy()
        mask[::7] = 255
        return mask


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> NTRENet:
    return load_checkpoint(tiny_checkpoint).model.eval()


def drawn(shots: int, count: int = 4) -> tuple[Bordered, EpisodeSet]:
    data = Bordered(3)
    return data, sample_episodes(data, [0, 1, 2], shots, count, 0)


# --- the way in


@pytest.mark.parametrize(
    ("height", "width", "size", "inner"),
    [
        (300, 300, 473, (472, 472)),
        (473, 473, 473, (472, 472)),
        (500, 375, 473, (472, 352)),  # 375 * 473 / 500 = 354.75
        (375, 500, 473, (352, 472)),
        (334, 500, 473, (312, 472)),  # 315.96: cut to 315, not rounded to 316
        (500, 500 * 8 // 473 + 1, 473, (472, 8)),
        (20, 37, 65, (32, 64)),  # small images are enlarged; 35.1
        (645, 600, 473, (472, 432)),  # 440 exactly, but 600 * (473 / 645) is 439.99... in floating point
    ],
)
def test_both_sides_are_floored_to_multiples_of_8(height: int, width: int, size: int, inner: tuple[int, int]) -> None:
    assert fit(height, width, size) == Letterbox(size, height, width, *inner)


@pytest.mark.parametrize(("height", "width"), [(500, 8), (8, 500), (1, 32_000)])
def test_an_image_that_is_floored_to_nothing_is_refused(height: int, width: int) -> None:
    with pytest.raises(InputError, match=re.escape(f"{width} x {height} pixels")) as raised:
        prepare_image(np.zeros((height, width, 3), np.uint8), InputSpec(473))
    assert "--protocol exact" in str(raised.value)


def test_the_padding_is_black_and_not_the_mean_colour() -> None:
    spec = InputSpec(65)
    image = np.full((30, 60, 3), (200, 100, 50), np.uint8)
    pixels, box = prepare_image(image, spec)
    assert (pixels.dtype, pixels.shape) == (np.float32, (3, 65, 65))
    assert box == Letterbox(65, 30, 60, 32, 64)
    for channel, level in enumerate((200, 100, 50)):
        inside, outside = (level - MEAN[channel]) / STD[channel], -MEAN[channel] / STD[channel]
        np.testing.assert_allclose(pixels[channel, :32, :64], inside, rtol=1e-6)
        np.testing.assert_allclose(pixels[channel, 32:], outside, rtol=1e-6)
        np.testing.assert_allclose(pixels[channel, :, 64:], outside, rtol=1e-6)
    other, box = exact.prepare_image(image, spec)
    assert (box.inner_height, box.inner_width) == (32, 65)
    assert not other[:, 32:].any()


def test_even_a_square_image_of_the_inputs_size_loses_its_last_row_and_column() -> None:
    pixels, _ = prepare_image(np.full((65, 65, 3), 255, np.uint8), InputSpec(65))
    assert (pixels[:, :64, :64] > 0).all()
    assert (pixels[:, 64] < 0).all()
    assert (pixels[:, :, 64] < 0).all()


def test_an_image_is_resized_without_rounding_to_levels() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 1::4] = 1  # halved, the columns pairwise are 0.5, 0, 0.5, 0 ...
    pixels, _ = prepare_image(image, InputSpec(65, mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_array_equal(pixels[0, :64, :64], np.tile(np.float32([0.5, 0]), (64, 32)))


def test_a_large_image_is_sampled_and_not_averaged() -> None:
    image = np.zeros((640, 640, 3), np.uint8)
    # a tenth: pixel 0 lies at 4.5, between the columns 4 and 5
    image[:, ::10] = 255
    spec = InputSpec(65, mean=(0, 0, 0), std=(1, 1, 1))
    assert not prepare_image(image, spec)[0].any()
    assert exact.prepare_image(image, spec)[0].any()


@pytest.mark.parametrize(("height", "width"), [(48, 90), (90, 48), (64, 64), (301, 300)])
def test_a_supports_mask_is_sampled_at_the_corners_and_only_1_is_the_target(height: int, width: int) -> None:
    mask = np.random.default_rng(height).choice(np.array([0, 1, 255], np.uint8), (height, width))
    found = prepare_mask(mask, InputSpec(65))
    box = fit(height, width, 65)
    rows = np.arange(box.inner_height) * height // box.inner_height
    columns = np.arange(box.inner_width) * width // box.inner_width
    wanted = np.zeros((65, 65), np.float32)
    wanted[: len(rows), : len(columns)] = mask[np.ix_(rows, columns)] == 1
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


# --- the way back


class Rows(nn.Module):
    """A network that finds the bright part: its margin is the query's red level above a threshold, every 8 pixels."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor((threshold - MEAN[0]) / STD[0]))

    def forward(self, image: Tensor, supports: Tensor, masks: Tensor) -> Prediction:
        level = image[:, 0, ::8, ::8]
        logits = torch.stack([self.threshold.expand_as(level), level], 1)
        return Prediction(logits, logits, None, logits, [])  # type: ignore[arg-type]


def test_the_released_mask_is_not_put_back_where_the_object_was() -> None:
    """A photo that brightens downwards: bright from row 60 on, in both protocols' eyes, but not in their masks."""
    height, width = 100, 129
    image = np.repeat(np.arange(height, dtype=np.uint8)[:, None, None] * 2, width, 1).repeat(3, 2)
    network, spec = Rows(119), InputSpec(65)  # half-way between rows 59 and 60
    shots = [(image, np.ones((height, width), np.uint8))]
    truth = (image[..., 0] > 119).astype(np.uint8)
    ours = NetworkRun(FullNetwork(network, spec))(image, shots)  # type: ignore[arg-type]
    theirs = released_run(network, spec)(image, shots)  # type: ignore[arg-type]
    assert ours.shape == theirs.shape == (height, width)
    assert (ours.argmax(0) == 60).all()
    # the 100 rows became 50.4, cut to 50, floored to 48: the edge at 59.5 lies at (59.5 + 0.5) * 48 / 100 - 0.5 = 28.3,
    # and is read back with the scale 64 / 128 of the whole squares: 56.6
    assert fit(height, width, 65).inner_height == 48
    assert (theirs[:, :112].argmax(0) == 57).all()
    # the black padding takes a part of the last features' cells: below, and in the input's last column
    assert ours[-1].all()
    assert not theirs[-1].any()
    assert not theirs[:, -1].any()
    union = np.count_nonzero(ours | truth), np.count_nonzero(theirs | truth)
    assert np.count_nonzero(theirs & truth) / union[1] < np.count_nonzero(ours & truth) / union[0] == 1


def test_positions_are_those_of_the_square_of_the_longer_side() -> None:
    """Margin 4.03 - column at 9 x 9: column x of the input has 4.03 - x / 8, column X of the 129 has 4.03 - X / 16."""
    logits = np.zeros((1, 2, 9, 9), np.float32)
    logits[0, 1] = 4.03 - np.arange(9)
    for height, width in ((129, 129), (77, 129)):
        labels = released_network.label_map(logits, fit(height, width, 65))
        assert (labels.dtype, labels.shape) == (np.uint8, (height, width))
        assert labels.sum(axis=1).tolist() == [65] * height
    # an upright photo shows the left part of its square, and no pixel is moved for that
    labels = released_network.label_map(logits, fit(129, 70, 65))
    assert labels.sum(axis=1).tolist() == [65] * 129
    assert not labels[:, 65:].any()


@pytest.mark.parametrize("features", [9, 5, 6])
@pytest.mark.parametrize(("height", "width"), [(50, 90), (90, 50), (40, 40), (200, 130)])
def test_both_ways_back_go_through_the_inputs_size(height: int, width: int, features: int) -> None:
    logits = np.random.default_rng(0).normal(size=(1, 2, features, features)).astype(np.float32)
    box, longer = fit(height, width, 65), max(height, width)

    def chain(*sides: int) -> Pixels:
        found = torch.from_numpy(logits)
        for side in sides:
            found = F.interpolate(found, (side, side), mode="bilinear", align_corners=True)
        return found.max(1)[1][0, :height, :width].byte().numpy()

    wanted = chain(65, longer)
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(released_network.label_map(logits, box), wanted)
    ours = released.label_map(logits, box)
    assert (ours.dtype, ours.shape) == (np.uint8, (height, width))
    # fp32 sums in another order decide a pixel on the border now and then
    assert np.count_nonzero(ours != wanted) <= 1
    # such features (VGG's at 473) have kinks between the input's pixels, and there one resize is not two
    if features == 6 and longer > 65:
        assert np.count_nonzero(chain(longer) != wanted) > 1


# --- all of it


def plain_transform(image: Pixels, label: Pixels, size: int) -> tuple[Tensor, Tensor]:
    """The released transform, written from its description."""
    height, width = label.shape
    scale = size / max(height, width)
    inner = [side - side % 8 for side in (size if s == max(height, width) else int(s * scale) for s in (height, width))]
    area = slice(inner[0]), slice(inner[1])
    canvas, labels = np.zeros((size, size, 3)), np.full((size, size), 255.0)
    canvas[area] = cv2.resize(np.float32(image), inner[::-1], interpolation=cv2.INTER_LINEAR)
    labels[area] = cv2.resize(np.float32(label), inner[::-1], interpolation=cv2.INTER_NEAREST)
    pixels = torch.from_numpy(canvas.transpose(2, 0, 1)).float()
    for channel, mean, std in zip(pixels, MEAN, STD, strict=True):
        channel.sub_(mean).div_(std)
    return pixels, torch.from_numpy(labels).long()


@torch.inference_mode()
def plain_counts(model: NTRENet, data: Bordered, episodes: EpisodeSet) -> list[list[int]]:
    """Pixel counts of each episode as the released validation takes them: over the whole label square."""
    size, rows = model.config.input_size, []
    for e in episodes.episodes:
        raw = data.mask(e.query, e.class_id)
        query, _ = plain_transform(data.image(e.query), raw, size)
        images, masks = zip(
            *(plain_transform(data.image(s), data.mask(s, e.class_id), size) for s in reversed(e.supports)), strict=True
        )
        logits = model(query[None], torch.stack(images)[None], torch.stack(masks)[None]).logits
        longer = max(raw.shape)
        square = torch.full((longer, longer), 255)
        square[: raw.shape[0], : raw.shape[1]] = torch.from_numpy(raw)
        for side in (size, longer):
            logits = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
        found = logits.max(1)[1][0]
        found[square == 255] = 255
        pairs = ((1, 1), (1, 0), (0, 1), (0, 0))
        rows.append([int(((found == p) & (square == t)).sum()) for p, t in pairs])
    return rows


@pytest.mark.parametrize("shots", [1, 3])
def test_the_counts_are_those_of_the_released_code_to_the_pixel(model: NTRENet, shots: int) -> None:
    data, episodes = drawn(shots)
    run = released_run(model, InputSpec(65))
    counts = evaluate(run, data, episodes).counts
    assert counts.tolist() == plain_counts(model, data, episodes)
    assert (counts.sum(axis=0) > 0).all()
    assert counts.tolist() != evaluate(NetworkRun(FullNetwork(model, InputSpec(65))), data, episodes).counts.tolist()


def test_the_networks_inputs_are_those_of_the_released_code_to_the_bit(model: NTRENet) -> None:
    data, episodes = drawn(2)
    episode = episodes.episodes[0]
    shots = [(data.image(s), data.mask(s, episode.class_id)) for s in episode.supports]
    support = ReleasedNetwork(model, InputSpec(65)).prepare(shots)
    for index, (image, mask) in enumerate(shots):
        pixels, labels = plain_transform(image, mask, 65)
        # the last shot comes first
        assert torch.equal(support.images[0, 1 - index], pixels)
        assert torch.equal(support.masks[0, 1 - index], (labels == 1).float())


def test_the_stages_are_resized_as_the_final_logits_are(model: NTRENet) -> None:
    data, episodes = drawn(1)
    episode = episodes.episodes[0]
    query, support = data.image(episode.query), episode.supports[0]
    shots = [(data.image(support), data.mask(support, episode.class_id))]
    run = released_run(model, InputSpec(65))
    prediction, box = run.network.predict(query, run.network.prepare(shots))
    stages = run.stages(query, shots)
    assert prediction.bg_logits is not None
    for found, logits in (
        (stages.background, prediction.bg_logits),
        (stages.initial, prediction.initial_logits[0]),
    ):
        assert found is not None
        np.testing.assert_array_equal(found, released_network.label_map(logits.numpy(), box))
    assert stages.distracting is not None
    assert stages.distracting.shape == query.shape[:2]


# --- bundles


@pytest.fixture(scope="module")
def segmenter(exported: Path) -> Segmenter:
    return Segmenter.load(exported, "onnx-cpu", precision="fp32", threads=1)


def shots_of(data: Bordered, class_id: int, ids: Sequence[str]) -> list[tuple[Pixels, Pixels]]:
    return [(data.image(i), data.mask(i, class_id)) for i in ids]


@pytest.mark.parametrize("shots", [1, 3])
def test_a_bundle_gives_the_masks_of_its_checkpoint(model: NTRENet, segmenter: Segmenter, shots: int) -> None:
    data, episodes = drawn(shots)
    ours, theirs = released_run(model, InputSpec(65)), released.segmenter_run(segmenter)
    differing = pixels = foreground = 0
    for e in episodes.episodes:
        query, supports = data.image(e.query), shots_of(data, e.class_id, e.supports)
        a, b = ours(query, supports), theirs(query, supports)
        differing += int((a != b).sum())
        pixels += a.size
        foreground += int(a.sum())
    # fp32 sums in another order decide a pixel on the border now and then
    assert differing <= 1e-4 * pixels
    assert 0 < foreground < pixels


def test_a_target_that_the_network_cannot_see_is_run_and_not_refused(model: NTRENet, segmenter: Segmenter) -> None:
    data, episodes = drawn(1)
    e = episodes.episodes[0]
    query, image = data.image(e.query), data.image(e.supports[0])
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[20, 21] = 1  # between the positions that are sampled
    assert not prepare_mask(mask, InputSpec(65))[::8, ::8].any()
    found = released.segmenter_run(segmenter)(query, [(image, mask)])
    assert (found != released_run(model, InputSpec(65))(query, [(image, mask)])).mean() <= 1e-4


@pytest.mark.parametrize("part", ["down_support", "head"])
def test_nan_is_told_and_not_taken_for_background(tiny_checkpoint: Path, segmenter: Segmenter, part: str) -> None:
    broken = load_checkpoint(tiny_checkpoint).model
    with torch.no_grad():
        next(getattr(broken, part).parameters()).fill_(float("nan"))
    data, episodes = drawn(1)
    e = episodes.episodes[0]
    query, supports = data.image(e.query), shots_of(data, e.class_id, e.supports)
    run = released.segmenter_run(Segmenter(TorchEngine(broken, 65), segmenter.spec, segmenter.model))
    with pytest.raises(EngineError, match="torch fp32 gave NaN"):
        run(query, supports)
    with pytest.raises(InputError, match="NaN"):
        released_run(broken, InputSpec(65))(query, supports)
