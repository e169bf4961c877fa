"""`Segmenter`: masks of the right size, several classes at once, and every misuse refused."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.labels import back_map
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Shot = tuple[np.ndarray, np.ndarray]


def scene(seed: int, height: int = 90, width: int = 120) -> Shot:
    """Waves and noise with a disc of another colour, and the disc's mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase = [x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2) for _ in range(3)]
    image = 127 + 80 * np.sin(np.stack(phase, -1)) + rng.normal(0, 12, (height, width, 3))
    cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
    disc = (y - cy) ** 2 + (x - cx) ** 2 < (min(height, width) / 3.5) ** 2
    image[disc] = rng.integers(0, 256, 3)
    return image.clip(0, 255).astype(np.uint8), disc.astype(np.uint8)


@pytest.fixture(scope="module")
def segmenter(exported: Path) -> Segmenter:
    return Segmenter.load(exported, "onnx-cpu")


@pytest.fixture(scope="module")
def memories(segmenter: Segmenter) -> list[SupportMemory]:
    """Three classes with 1, 3 and 2 shots."""
    shots = [[0], [1, 11, 21], [2, 12]]
    return [segmenter.encode_support([scene(i) for i in seeds], f"class {seeds[0]}") for seeds in shots]


QUERY = scene(31)[0]


def margins(logits: np.ndarray, box: Letterbox) -> np.ndarray:
    """Class minus background at the image's own size, [N, H, W]."""
    rows = back_map(box.height, box.inner_height, box.size, logits.shape[2]).astype(np.float64)
    columns = back_map(box.width, box.inner_width, box.size, logits.shape[3]).astype(np.float64)
    return rows @ (logits[:, 1] - logits[:, 0]).astype(np.float64) @ columns.T


def same_where_decided(labels: np.ndarray, logits: np.ndarray, box: Letterbox, slack: float = 1e-3) -> None:
    """`labels` are those of the largest positive margin, except where the two best are closer than `slack`."""
    full = np.concatenate([np.zeros((1, *labels.shape)), margins(logits, box)])
    top = np.sort(full, axis=0)
    decided = top[-1] - top[-2] > slack
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(labels[decided], full.argmax(0)[decided])


# --- results


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 200), (200, 1), (3, 2), (65, 65), (64, 66), (137, 211), (601, 37), (1100, 1)]
)
def test_a_mask_has_the_size_of_its_image(
    segmenter: Segmenter, memories: list[SupportMemory], height: int, width: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for memory, top in ((memories[0], 1), (memories, 3)):
        labels = segmenter.segment(image, memory)
        assert labels.shape == (height, width)
        assert labels.dtype == np.uint8
        assert labels.max() <= top


def test_one_class_is_labelled_where_its_margin_is_positive(
    segmenter: Segmenter, memories: list[SupportMemory]
) -> None:
    seen = set()
    for seed in range(40, 60):
        image = scene(seed)[0]
        logits, box = segmenter.logits(image, memories[2])
        labels = segmenter.segment(image, memories[2])
        seen |= set(np.unique(labels).tolist())
        same_where_decided(labels, logits, box)
    assert seen == {0, 1}


@pytest.mark.parametrize("chosen", [(0, 1), (1, 2), (2, 0), (0, 1, 2)])
def test_several_classes_at_once_are_the_single_runs_joined_by_the_larger_margin(
    segmenter: Segmenter, memories: list[SupportMemory], chosen: tuple[int, ...]
) -> None:
    # classes of 1, 3 and 2 shots in one call: the padding for the missing shots must not count
    single = [segmenter.logits(QUERY, memories[i]) for i in chosen]
    box = single[0][1]
    joined, together = segmenter.logits(QUERY, [memories[i] for i in chosen])
    assert together == box
    np.testing.assert_allclose(joined, np.concatenate([logits for logits, _ in single]), atol=5e-4)
    labels = segmenter.segment(QUERY, [memories[i] for i in chosen])
    same_where_decided(labels, np.concatenate([logits for logits, _ in single]), box)
    assert len(np.unique(labels)) > 1


def test_the_order_of_the_classes_only_renames_the_labels(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    forward = segmenter.segment(QUERY, memories)
    backward = segmenter.segment(QUERY, memories[::-1])
    renamed = np.array([0, 3, 2, 1], np.uint8)[backward]
    assert (forward == renamed).mean() > 0.999


def test_a_tuple_and_an_iterator_of_memories_are_as_good_as_a_list(
    segmenter: Segmenter, memories: list[SupportMemory]
) -> None:
    np.testing.assert_array_equal(segmenter.segment(QUERY, tuple(memories)), segmenter.segment(QUERY, memories))
    np.testing.assert_array_equal(segmenter.segment(QUERY, memories[:1]), segmenter.segment(QUERY, memories[0]))


def test_the_same_shot_twice_is_one_shot(segmenter: Segmenter) -> None:
    once, twice = segmenter.encode_support([scene(5)]), segmenter.encode_support([scene(5)] * 2)
    assert (once.shots, twice.shots) == (1, 2)
    np.testing.assert_allclose(once.prototype, twice.prototype, atol=1e-6)
    np.testing.assert_allclose(segmenter.logits(QUERY, once)[0], segmenter.logits(QUERY, twice)[0], atol=1e-4)


def test_another_support_gives_another_result(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    a, b = (segmenter.logits(QUERY, memory)[0] for memory in memories[:2])
    assert np.abs(a - b).max() > 0.01


def test_a_saved_memory_gives_identical_masks(
    segmenter: Segmenter, memories: list[SupportMemory], tmp_path: Path
) -> None:
    loaded = []
    for i, memory in enumerate(memories):
        memory.save(tmp_path / f"{i}.safetensors")
        loaded.append(SupportMemory.load(tmp_path / f"{i}.safetensors"))
    np.testing.assert_array_equal(segmenter.logits(QUERY, loaded)[0], segmenter.logits(QUERY, memories)[0])
    np.testing.assert_array_equal(segmenter.segment(QUERY, loaded), segmenter.segment(QUERY, memories))


def test_clones_in_threads_give_the_same_masks(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    images = [scene(seed)[0] for seed in range(60, 72)]
    wanted = [segmenter.segment(image, memories) for image in images]

    def work(clone: Segmenter) -> list[np.ndarray]:
        return [clone.segment(image, memories) for image in images]

    clones = [segmenter.clone() for _ in range(4)]
    assert len({id(clone) for clone in [segmenter, *clones]}) == 5
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(work, clones):
            np.testing.assert_array_equal(got, wanted)


def test_half_precision_is_finite_and_near(exported: Path, segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    half = Segmenter.load(exported, "onnx-cpu", precision="fp16")
    assert half.engine.precision == "fp16"
    image, mask = scene(0)
    memory = half.encode_support([(image, mask)])
    assert memory.prototype.dtype == np.float32
    wanted = segmenter.logits(QUERY, memories[0])[0]
    got = half.logits(QUERY, memory)[0]
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
    # white on black has the largest features that this network can see
    hard = np.zeros((90, 120, 3), np.uint8)
    hard[20:60, 30:90] = 255
    assert np.isfinite(half.logits(hard, half.encode_support([(hard, hard[..., 0] // 255)]))[0]).all()


def test_inputs_are_left_as_they_are_and_may_be_read_only(segmenter: Segmenter) -> None:
    image, mask = scene(7)
    copies = image.copy(), mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    segmenter.segment(image, segmenter.encode_support([(image, mask)]))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


def test_keys_are_unit_vectors_of_the_inside_only(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    for memory in memories:
        for keys in memory.keys:
            assert 0 < keys.shape[1] < 81
            np.testing.assert_allclose(np.linalg.norm(keys, axis=0), 1, atol=1e-4)


# --- masks


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m == 1,
        lambda m: m * np.uint8(255),
        lambda m: m.astype(np.int64),
        lambda m: m.astype(np.float32),
        lambda m: np.where(np.arange(m.shape[0])[:, None] < 3, 255, m).astype(np.uint8),  # ignored rows on top
    ],
    ids=["bool", "0_255", "int64", "float32", "0_1_255"],
)
def test_every_way_to_write_a_mask_gives_the_same_memory(
    segmenter: Segmenter, convert: Callable[[np.ndarray], np.ndarray]
) -> None:
    image, mask = scene(3)
    assert not mask[:3].any()
    wanted, got = segmenter.encode_support([(image, mask)]), segmenter.encode_support([(image, convert(mask))])
    np.testing.assert_array_equal(got.prototype, wanted.prototype)
    np.testing.assert_array_equal(got.keys[0], wanted.keys[0])


def _support_error(segmenter: Segmenter, shots: list[Shot]) -> str:
    with pytest.raises(InputError) as caught:
        segmenter.encode_support(shots, "fork")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_mask_is_refused_with_its_class_and_number(segmenter: Segmenter) -> None:
    image, mask = scene(3)
    message = _support_error(segmenter, [(image, mask), (image, np.zeros_like(mask))])
    assert message.startswith("Support 2 of 'fork': the mask is empty")
    assert "Support 1 of 'fork'" in _support_error(segmenter, [(image, mask == 7)])


def test_no_support_at_all_is_refused(segmenter: Segmenter) -> None:
    assert "No support was given for 'fork'" in _support_error(segmenter, [])


def test_a_mask_of_another_size_is_refused_with_both_sizes(segmenter: Segmenter) -> None:
    image, mask = scene(3)
    message = _support_error(segmenter, [(image, mask.T)])
    assert "Support 1 of 'fork': the mask has 90 x 120 pixels and its image 120 x 90" in message


def test_a_target_too_small_to_be_seen_is_refused(segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    mask = np.zeros((700, 700), np.uint8)
    mask[0, 0] = 1
    message = _support_error(segmenter, [(image, mask)])
    assert "too small to be seen at the network's 65 pixels" in message
    assert "crop the image" in message


@pytest.mark.parametrize(
    ("mask", "given"),
    [
        (np.full((90, 120), 2, np.uint8), r"holds the values [2]"),
        (np.full((90, 120), -1), r"holds the values [-1]"),
        (np.full((90, 120), 0.5), r"holds the values [0.5]"),
        (np.full((90, 120), np.nan), r"holds the values [nan]"),
        (np.ones((90, 120, 1), np.uint8), "has shape [90, 120, 1]"),
        (np.ones((0, 120), np.uint8), "has shape [0, 120]"),
    ],
)
def test_a_mask_with_other_values_or_another_shape_is_refused(
    segmenter: Segmenter, mask: np.ndarray, given: str
) -> None:
    message = _support_error(segmenter, [scene(1), (scene(3)[0], mask)])
    assert message.startswith(f"Support 2 of 'fork': the mask {given}")


@pytest.mark.parametrize(
    "image", [np.zeros((90, 120), np.uint8), np.zeros((90, 120, 4), np.uint8), np.zeros((90, 120, 3), np.int64), None]
)
def test_what_is_no_image_is_refused(segmenter: Segmenter, memories: list[SupportMemory], image: object) -> None:
    shot: Shot = (image, scene(3)[1])  # type: ignore[assignment]
    assert _support_error(segmenter, [scene(1), shot]).startswith("Support 2 of 'fork': the image is")
    with pytest.raises(InputError, match=r"^The image is"):
        segmenter.segment(image, memories[0])


def test_a_file_of_a_shot_that_is_not_there_is_refused_with_its_class_and_number(segmenter: Segmenter) -> None:
    image, mask = scene(3)
    assert _support_error(segmenter, [("a.png", mask)]).startswith("Support 1 of 'fork': Image a.png does not exist")  # type: ignore[list-item]
    assert _support_error(segmenter, [(image, "a.png")]).startswith("Support 1 of 'fork': Mask a.png does not exist")  # type: ignore[list-item]


# --- memories


def test_no_memory_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="No support memory was given"):
        segmenter.segment(QUERY, [])


def test_a_memory_of_another_model_is_refused_by_name(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    foreign = dataclasses.replace(memories[1], model="0123456789abcdef", name="spoon")
    for given in (foreign, [memories[0], foreign]):
        with pytest.raises(InputError, match="'spoon' was made by another model or input size"):
            segmenter.segment(QUERY, given)


@pytest.mark.parametrize("with_others", [False, True])
@pytest.mark.parametrize("part", ["prototype", "keys"])
def test_a_memory_whose_arrays_do_not_fit_the_model_is_refused(
    segmenter: Segmenter, memories: list[SupportMemory], part: str, with_others: bool
) -> None:
    item = memories[0]
    short = {"prototype": item.prototype[:-1]} if part == "prototype" else {"keys": (item.keys[0][:-1],)}
    wrong = dataclasses.replace(item, **short)
    with pytest.raises(InputError):
        segmenter.segment(QUERY, [memories[1], wrong] if with_others else wrong)


def test_more_classes_than_labels_are_refused(segmenter: Segmenter, memories: list[SupportMemory]) -> None:
    with pytest.raises(InputError, match="256 classes"):
        segmenter.segment(QUERY, memories[:1] * 256)


def test_the_same_classes_are_stacked_once_and_others_anew(exported: Path) -> None:
    segmenter = Segmenter.load(exported, "onnx-cpu", self_test=False)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    mask = np.zeros((80, 90), np.uint8)
    mask[20:60, 20:70] = 1
    a, b = segmenter.encode_support([(image, mask)], "a"), segmenter.encode_support([(image, 1 - mask)], "b")
    first = segmenter.stack([a, b])
    assert segmenter.stack([a, b]) is first
    for other in ([b, a], [a], [a, b, a]):
        np.testing.assert_array_equal(segmenter.stack(other).prototypes, np.stack([m.prototype for m in other]))


# --- several classes encoded together


SHOTS = {"one": [scene(0)], "three": [scene(i) for i in (1, 11, 21)], "two": [scene(i) for i in (2, 12)]}


@pytest.fixture(scope="module")
def together(segmenter: Segmenter) -> list[SupportMemory]:
    return segmenter.encode_supports(SHOTS)


def test_classes_encoded_together_are_those_encoded_alone_and_a_calibration(
    segmenter: Segmenter, memories: list[SupportMemory], together: list[SupportMemory]
) -> None:
    assert [m.name for m in together] == list(SHOTS)
    assert any(m.calibration != (0.0, 1.0) for m in together)
    for one, other in zip(memories, together, strict=True):
        np.testing.assert_array_equal(one.prototype, other.prototype)
        assert one.shot_scores == pytest.approx(other.shot_scores, abs=0.01)
        assert one.calibration is None
        # a class alone is not calibrated, bit for bit
        np.testing.assert_array_equal(segmenter.logits(QUERY, one)[0], segmenter.logits(QUERY, other)[0])
        np.testing.assert_array_equal(segmenter.segment(QUERY, one), segmenter.segment(QUERY, other))


def test_several_classes_are_compared_by_their_calibrated_margins(
    segmenter: Segmenter, together: list[SupportMemory]
) -> None:
    raw, box = segmenter.logits(QUERY, together, calibrate=False)
    offsets = np.array([m.calibration.offset for m in together if m.calibration], np.float32)
    wanted = raw.copy()
    wanted[:, 1] -= offsets[:, None, None]
    np.testing.assert_allclose(segmenter.logits(QUERY, together)[0], wanted, atol=1e-5)
    same_where_decided(segmenter.segment(QUERY, together), wanted, box)


def test_calibration_is_left_out_unless_all_classes_have_one(
    segmenter: Segmenter, memories: list[SupportMemory], together: list[SupportMemory]
) -> None:
    mixed = [together[0], memories[1], together[2]]
    np.testing.assert_array_equal(segmenter.segment(QUERY, mixed), segmenter.segment(QUERY, memories))
    plain = segmenter.encode_supports(SHOTS, calibrate=False)
    np.testing.assert_array_equal(segmenter.segment(QUERY, plain), segmenter.segment(QUERY, memories))
    bare = [m.uncalibrated() for m in together]
    np.testing.assert_array_equal(segmenter.segment(QUERY, bare), segmenter.segment(QUERY, memories))


def test_a_shot_is_scored_by_the_mask_that_the_others_give(segmenter: Segmenter, together: list[SupportMemory]) -> None:
    assert together[0].shot_scores is None
    image, mask = SHOTS["two"][1]
    alone = segmenter.segment(image, segmenter.encode_support(SHOTS["two"][:1]))
    union = ((alone == 1) | (mask == 1)).sum()
    assert together[2].shot_scores is not None
    assert together[2].shot_scores[1] == pytest.approx(((alone == 1) & (mask == 1)).sum() / union, abs=0.01)
    assert segmenter.encode_support(SHOTS["two"], leave_one_out=False).shot_scores is None


def test_scores_come_with_the_labels_of_segment(segmenter: Segmenter, together: list[SupportMemory]) -> None:
    for memory in (together[1], together):
        labels, scores = segmenter.segment_scored(QUERY, memory)
        np.testing.assert_array_equal(labels, segmenter.segment(QUERY, memory))
        assert len(scores) == (1 if isinstance(memory, SupportMemory) else 3)
        for n, score in enumerate(scores, 1):
            assert (score > 0) == bool((labels == n).any())
            assert 0 <= score <= 1


def test_labels_of_the_device_are_taken_only_where_nothing_is_calibrated(
    segmenter: Segmenter, together: list[SupportMemory]
) -> None:
    clone = segmenter.clone()
    asked = []

    class OnDevice:
        """The engine, which makes label maps too as one with device images does."""

        name, precision = clone.engine.name, clone.engine.precision
        query = staticmethod(clone.engine.query)

        def label(self, image: np.ndarray, *rest: object) -> tuple[np.ndarray, np.ndarray]:
            asked.append(image.shape)
            return np.zeros(image.shape[:2], np.uint8), np.zeros((1, 2, 9, 9), np.float32)

    clone.engine = OnDevice()  # type: ignore[assignment]
    np.testing.assert_array_equal(clone.segment(QUERY, together), segmenter.segment(QUERY, together))
    assert not asked
    assert not clone.segment(QUERY, together[0]).any()
    assert not clone.segment(QUERY, [m.uncalibrated() for m in together]).any()
    assert len(asked) == 2
