"""Pixels, masks and the way back in JavaScript, against what Python makes of the same arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.calibration import Calibration, calibrated, fit, response
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import back_map, class_scores, label_map, margin_map, probability_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.stacked import padded, stack

Node = Callable[..., Any]

# height, width, side of the input: larger and smaller, whole and broken factors, single lines, half of it to the pixel
_SIZES = [
    *[
        (160, 160, 161),
        (100, 150, 161),
        (321, 240, 161),
        (37, 12, 161),
        (1, 5, 161),
        (5, 1, 161),
        (1, 1, 65),
        (161, 161, 161),
    ],
    *[(322, 322, 161), (322, 161, 161), (483, 300, 161), (480, 640, 225), (450, 900, 225), (1000, 3, 65), (3, 900, 65)],
    *[(130, 65, 65), (131, 65, 65), (650, 520, 65), (427, 640, 385), (1201, 1600, 385), (64, 65, 65), (770, 770, 385)],
]


def _cases(seed: int, count: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    drawn = [(int(h), int(w), int(s)) for h, w, s in rng.integers((1, 1, 33), (500, 500, 260), (count, 3))]
    return _SIZES + drawn


def test_images_are_fitted_to_the_same_numbers(node: Node, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = _cases(2, 60)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w, _ in cases]
    # every other one as a canvas gives it
    alpha = [np.dstack([i, rng.integers(0, 256, i.shape[:2], np.uint8)]) if n % 2 else i for n, i in enumerate(images)]
    (tmp_path / "in").write_bytes(b"".join(i.tobytes() for i in alpha))
    given = [
        {"height": h, "width": w, "size": s, "channels": i.shape[2]} for (h, w, s), i in zip(cases, alpha, strict=True)
    ]
    spec = InputSpec(161)
    code = """
      const { prepareImage } = await load("letterbox");
      const file = read("in"); let at = 0; const found = []; const boxes = [];
      for (const { height, width, size, channels } of given.cases) {
        const data = file.subarray(at, (at += height * width * channels));
        const { pixels, box } = prepareImage({ data, width, height, channels }, { ...given.spec, size });
        found.push(pixels); boxes.push([box.innerHeight, box.innerWidth]);
      }
      found.forEach((pixels, n) => write(`${n}.out`, pixels));
      return boxes;
    """
    boxes = node(code, {"cases": given, "spec": {"mean": spec.mean, "std": spec.std}})
    for n, ((_, _, size), image) in enumerate(zip(cases, images, strict=True)):
        wanted, box = prepare_image(image, InputSpec(size))
        found = np.fromfile(tmp_path / f"{n}.out", np.float32).reshape(3, size, size)
        assert boxes[n] == [box.inner_height, box.inner_width]
        np.testing.assert_array_equal(found, wanted, err_msg=str(image.shape))


def test_masks_are_fitted_to_the_same_pixels(node: Node, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = _cases(4, 60)
    masks = [rng.choice(np.array([0, 1, 255], np.uint8), (h, w)) for h, w, _ in cases]
    (tmp_path / "in").write_bytes(b"".join(mask.tobytes() for mask in masks))
    code = """
      const { prepareMask, fitLetterbox } = await load("letterbox");
      const file = read("in"); let at = 0;
      given.forEach(([height, width, size], n) => {
        write(`${n}.out`, prepareMask(file.subarray(at, (at += height * width)), fitLetterbox(height, width, size)));
      });
    """
    node(code, cases)
    for n, ((_, _, size), mask) in enumerate(zip(cases, masks, strict=True)):
        found = np.fromfile(tmp_path / f"{n}.out", np.float32).reshape(size, size)
        np.testing.assert_array_equal(found, prepare_mask(mask, InputSpec(size)), err_msg=str(mask.shape))


def test_the_way_back_is_the_same_matrix(node: Node) -> None:
    cases = [
        (240, 161, 161, 21),
        (37, 52, 65, 9),
        (640, 225, 225, 29),
        (1, 1, 65, 9),
        (9, 65, 65, 9),
        (500, 48, 161, 21),
    ]
    code = """
      const { backAxis } = await load("labels");
      return given.map((sizes) => backAxis(...sizes)).map(({ taps, first, shares }) => [taps, [...first], [...shares]]);
    """
    for sizes, (taps, first, shares) in zip(cases, node(code, cases), strict=True):
        found = np.zeros((sizes[0], sizes[3]))
        for pixel, (start, row) in enumerate(zip(first, np.reshape(shares, (-1, taps)), strict=True)):
            found[pixel, start : start + taps] += row
        np.testing.assert_allclose(found, back_map(*sizes), atol=2e-7)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_labels_scores_and_probabilities_are_those_of_python(node: Node, tmp_path: Path, classes: int) -> None:
    rng = np.random.default_rng(classes)
    boxes = [(240, 320, 161), (65, 65, 65), (500, 333, 161), (3, 700, 161), (90, 40, 225)]
    logits = [rng.normal(size=(classes, 2, 21, 21)).astype(np.float32) for _ in boxes]
    (tmp_path / "in").write_bytes(b"".join(array.tobytes() for array in logits))
    code = """
      const { labelMap, classScores, probabilityMap } = await load("labels");
      const { fitLetterbox } = await load("letterbox");
      const all = new Float32Array(read("in").buffer);
      const length = given.classes * 2 * 21 * 21;
      return given.boxes.map((sizes, n) => {
        const box = fitLetterbox(...sizes);
        const logits = { data: all.slice(n * length, (n + 1) * length), classes: given.classes, height: 21, width: 21 };
        const labels = labelMap(logits, box);
        write(`${n}.labels`, labels); write(`${n}.clear`, probabilityMap(logits, box));
        return classScores(labels, logits, box);
      });
    """
    scores = node(code, {"classes": classes, "boxes": boxes})
    for n, sizes in enumerate(boxes):
        box = Letterbox.fit(*sizes)
        labels = label_map(logits[n], box)
        found = np.fromfile(tmp_path / f"{n}.labels", np.uint8).reshape(labels.shape)
        margins = np.stack([margin_map(one, box) for one in logits[n]])
        ordered = np.sort(np.concatenate([margins, np.zeros_like(margins[:1])]), axis=0)
        # the order of sums in a product is BLAS's own, so that what is tied to the last bits may go either way
        clear = ordered[-1] - ordered[-2] > 1e-5
        assert clear.mean() > 0.999
        np.testing.assert_array_equal(found[clear], labels[clear])
        np.testing.assert_allclose(scores[n], class_scores(labels, logits[n], box), atol=1e-5)
        probabilities = np.fromfile(tmp_path / f"{n}.clear", np.float32).reshape(labels.shape)
        np.testing.assert_allclose(probabilities, probability_map(logits[n], box), atol=1e-6)


def test_ties_and_zero_are_decided_as_in_python(node: Node) -> None:
    margins = np.array([[0, 1, 2, -1], [0, 1, 1, -1], [0, 1, 2, 0]], np.float32).reshape(3, 2, 2)
    logits = np.stack([np.zeros_like(margins), margins], axis=1)
    code = """
      const { labelMap } = await load("labels");
      const { fitLetterbox } = await load("letterbox");
      return [...labelMap({ data: Float32Array.from(given), classes: 3, height: 2, width: 2 }, fitLetterbox(2, 2, 2))];
    """
    wanted = label_map(logits, Letterbox.fit(2, 2, 2)).ravel().tolist()
    assert node(code, logits.ravel().tolist()) == wanted == [0, 1, 1, 0]


def test_keys_are_stacked_as_in_python(node: Node) -> None:
    rng = np.random.default_rng(5)
    counts = [[3, 70], [0], [33, 32, 31]]
    keys = [[rng.normal(size=(4, m)).astype(np.float32) for m in own] for own in counts]
    prototypes = [rng.normal(size=6).astype(np.float32) for _ in counts]
    wanted = stack(prototypes, keys)
    code = """
      const { stackMemories, padded } = await load("stacked");
      const memories = given.keys.map((own, n) => ({
        prototype: Float32Array.from(given.prototypes[n]),
        keys: own.map((key) => ({ data: Float32Array.from(key.flat()), depth: 4, count: key[0].length })),
      }));
      const found = stackMemories(memories);
      for (const [name, value] of Object.entries(found)) if (!Array.isArray(value)) found[name] = [...value];
      return { ...found, sizes: Array.from({ length: 200 }, (_, n) => padded(n)) };
    """
    found = node(
        code, {"keys": [[k.tolist() for k in own] for own in keys], "prototypes": [p.tolist() for p in prototypes]}
    )
    for name in ("prototypes", "keys", "chunks"):
        array = np.reshape(found[name], found[f"{name}Shape"])
        np.testing.assert_array_equal(array, getattr(wanted, name))
    assert found["sizes"] == [padded(n) for n in range(200)]


def test_calibration_is_that_of_python(node: Node) -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(3, 2, 9, 9)).astype(np.float32)
    target = (rng.random((65, 65)) < 0.3).astype(np.float32)
    table = np.array([[2.0, 1.0, np.nan], [-1.0, 3.0, -2.0], [0.5, 0.25, np.nan]])
    calibrations = [Calibration(0.5, 1.0), Calibration(-0.25, 2.0), Calibration()]
    code = """
      const { calibrated, fitCalibrations, responses } = await load("calibration");
      const logits = { data: Float32Array.from(given.logits), classes: 3, height: 9, width: 9 };
      const targets = [[Float32Array.from(given.target)], [new Float32Array(65 * 65)], []];
      return {
        responses: await responses(targets, 65, async () => logits),
        fit: fitCalibrations(given.table.map((row) => row.map((mean) => mean ?? NaN))),
        logits: [...calibrated(logits, given.calibrations).data],
        untouched: calibrated(logits, [...given.calibrations.slice(1), null]) === logits,
      };
    """
    given = {
        "logits": logits.ravel().tolist(),
        "target": target.ravel().tolist(),
        "table": [[None if np.isnan(v) else v for v in row] for row in table.tolist()],
        "calibrations": [c._asdict() for c in calibrations],
    }
    found = node(code, given)
    np.testing.assert_allclose([row[0] for row in found["responses"]], response(logits, target), rtol=1e-6)
    assert [row[1:] for row in found["responses"]] == [[None, None]] * 3
    np.testing.assert_allclose([Calibration(**c) for c in found["fit"]], fit(table))
    np.testing.assert_allclose(
        np.reshape(found["logits"], logits.shape), calibrated(logits, calibrations), rtol=1e-6, atol=1e-6
    )
    assert found["untouched"]
