"""The C++ runtime's pixels, masks, way back and label maps, against what Python makes of the same arrays."""

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.runtime.calibration import Calibration, calibrated
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import back_map, class_scores, label_map, margin_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SOURCES = Path(__file__).parents[2] / "runtimes" / "cpp"
_PARTS = ("resize", "letterbox", "wayback", "labels", "errors")

# height, width, side of the input: larger and smaller, whole and broken factors, single lines, half of it to the pixel
_SIZES = [
    *[(160, 160, 161), (100, 150, 161), (321, 240, 161), (37, 12, 161), (1, 5, 161), (5, 1, 161), (1, 1, 65)],
    *[(161, 161, 161), (322, 322, 161), (322, 161, 161), (483, 300, 161), (480, 640, 225), (450, 900, 225)],
    *[(1000, 3, 65), (3, 900, 65), (130, 65, 65), (131, 65, 65), (650, 520, 65), (427, 640, 385), (1201, 1600, 385)],
    *[(64, 65, 65), (770, 770, 385), (1, 32_767, 65), (32_767, 2, 33), (57, 113, 1), (3000, 4000, 473)],
]
# a side is drawn by its logarithm, so that single lines are as frequent as large photos
_SIDES = st.floats(0, 1).map(lambda share: round(4000**share))

_POINTER = ctypes.c_void_p


def _sizes(box: Letterbox) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * 3)(box.height, box.width, box.size)


class PixelFunctions:
    """What `pixels.cpp` exports, with the signatures of `ntre_deploy.runtime`'s own functions."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def prepare_image(self, image: Pixels, spec: InputSpec) -> tuple[Float, tuple[int, int]]:
        """float32 [3, S, S] and (height, width) of the image in it; the image's rows may lie apart."""
        assert image.strides[1:] == (3, 1)
        # nothing that was there may be left
        out = np.full((3, spec.size, spec.size), np.nan, np.float32)
        inner = (ctypes.c_int32 * 2)()
        self._library.pixels_prepare(
            _POINTER(image.ctypes.data),
            *image.shape[:2],
            ctypes.c_ssize_t(image.strides[0]),
            spec.size,
            (ctypes.c_double * 3)(*spec.mean),
            (ctypes.c_double * 3)(*spec.std),
            _POINTER(out.ctypes.data),
            inner,
        )
        return out, (inner[0], inner[1])

    def prepare_mask(self, mask: Pixels, size: int) -> Float:
        mask = np.ascontiguousarray(mask)
        out = np.full((size, size), np.nan, np.float32)
        sizes = (ctypes.c_int32 * 3)(*mask.shape, size)
        self._library.pixels_mask(_POINTER(mask.ctypes.data), sizes, _POINTER(out.ctypes.data))
        return out

    def resize_area(self, plane: Float, width: int, height: int) -> Float:
        out = np.full((height, width), np.nan, np.float32)
        plane = np.ascontiguousarray(plane)
        rows, columns = plane.shape
        self._library.pixels_area(_POINTER(plane.ctypes.data), columns, rows, width, height, _POINTER(out.ctypes.data))
        return out

    def back_map(self, length: int, inner: int, size: int, features: int) -> Float:
        out = np.zeros((length, features), np.float32)
        self._library.pixels_way_back(length, inner, size, features, _POINTER(out.ctypes.data))
        return out

    def label_map(self, logits: Float, box: Letterbox) -> Pixels:
        logits = np.ascontiguousarray(logits)
        out = np.full((box.height, box.width), 255, np.uint8)
        classes, _, h, w = logits.shape
        self._library.pixels_labels(_POINTER(logits.ctypes.data), classes, h, w, _sizes(box), _POINTER(out.ctypes.data))
        return out

    def class_scores(self, labels: Pixels, logits: Float, box: Letterbox) -> NDArray[np.float64]:
        logits = np.ascontiguousarray(logits)
        classes, _, h, w = logits.shape
        out = np.full(classes, np.nan)
        self._library.pixels_scores(
            _POINTER(labels.ctypes.data),
            _POINTER(logits.ctypes.data),
            classes,
            h,
            w,
            _sizes(box),
            _POINTER(out.ctypes.data),
        )
        return out

    def margin_map(self, logits: Float, box: Letterbox) -> Float:
        logits = np.ascontiguousarray(logits)
        out = np.full((box.height, box.width), np.nan, np.float32)
        h, w = logits.shape[1:]
        self._library.pixels_margins(_POINTER(logits.ctypes.data), h, w, _sizes(box), _POINTER(out.ctypes.data))
        return out


@pytest.fixture(scope="module", params=["", "-DNTRE_ONE_TARGET"], ids=["clones", "plain"])
def pixels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PixelFunctions:
    """The functions as a library: with the processor's wide vectors where the compiler makes them, and without."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler: the C++ runtime cannot be built")
    library = tmp_path_factory.mktemp("pixels") / "pixels.so"
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [compiler, *flags, *([request.param] if request.param else []), "-shared", "-fPIC"]
    command += [f"-I{SOURCES / folder}" for folder in ("include", "src")]
    command += [str(SOURCES / "src" / f"{part}.cpp") for part in _PARTS]
    command += [str(Path(__file__).parent / "pixels.cpp"), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return PixelFunctions(library)


def _photo(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)


def _check_image(pixels: PixelFunctions, image: Pixels, size: int) -> None:
    spec = InputSpec(size)
    wanted, box = prepare_image(image, spec)
    found, inner = pixels.prepare_image(image, spec)
    assert inner == (box.inner_height, box.inner_width)
    np.testing.assert_array_equal(found, wanted, err_msg=f"{image.shape} to {size}")


@pytest.mark.parametrize(("height", "width", "size"), _SIZES)
def test_images_are_fitted_to_the_same_numbers(pixels: PixelFunctions, height: int, width: int, size: int) -> None:
    _check_image(pixels, _photo(height, width), size)


@settings(max_examples=60)
@given(_SIDES, _SIDES, st.integers(1, 500))
def test_images_of_any_shape_are_fitted_to_the_same_numbers(
    pixels: PixelFunctions, height: int, width: int, size: int
) -> None:
    _check_image(pixels, _photo(height, width, size), size)


@pytest.mark.parametrize("size", [33, 161, 300])
def test_rows_may_lie_apart_and_upside_down(pixels: PixelFunctions, size: int) -> None:
    parent = _photo(120, 210)
    for view in (parent[10:100, 20:190], parent[::-1], parent[::3, :1]):
        wanted, _ = prepare_image(np.ascontiguousarray(view), InputSpec(size))
        np.testing.assert_array_equal(pixels.prepare_image(view, InputSpec(size))[0], wanted)


def test_other_means_and_deviations_are_rounded_as_in_python(pixels: PixelFunctions) -> None:
    image = _photo(90, 61)
    spec = InputSpec(65, (0.1, 127.7, 255.0), (1.1, 0.3, 77.7))
    np.testing.assert_array_equal(pixels.prepare_image(image, spec)[0], prepare_image(image, spec)[0])


@settings(max_examples=60)
@given(_SIDES, _SIDES, st.integers(1, 300))
@example(1, 1, 65)
@example(3000, 4000, 473)
def test_masks_are_fitted_to_the_same_pixels(pixels: PixelFunctions, height: int, width: int, size: int) -> None:
    mask = np.random.default_rng([height, width]).choice(np.array([0, 1, 255], np.uint8), (height, width))
    np.testing.assert_array_equal(pixels.prepare_mask(mask, size), prepare_mask(mask, InputSpec(size)))


@pytest.mark.parametrize(("side", "features"), [(65, 9), (64, 16), (161, 21), (473, 60), (33, 33)])
def test_targets_are_averaged_as_in_calibration(pixels: PixelFunctions, side: int, features: int) -> None:
    import cv2

    target = (np.random.default_rng(side).random((side, side)) < 0.3).astype(np.float32)
    wanted = cv2.resize(target, (features, features), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(pixels.resize_area(target, features, features), wanted, atol=1e-6)


@settings(max_examples=100)
@given(st.integers(1, 4000), st.floats(0, 1), st.integers(1, 473), st.integers(1, 60))
@example(240, 1.0, 161, 21)
@example(37, 0.3, 65, 9)
@example(1, 0.0, 65, 9)
@example(500, 0.3, 161, 161)
def test_the_way_back_is_the_same_matrix(
    pixels: PixelFunctions, length: int, share: float, size: int, features: int
) -> None:
    inner = max(1, round(share * size))
    found = pixels.back_map(length, inner, size, features)
    np.testing.assert_allclose(found, back_map(length, inner, size, features), atol=3e-7)


def _logits(rng: np.random.Generator, classes: int, h: int, w: int, coarse: int) -> Float:
    """Noise of `coarse` features' width, as real maps are smooth."""
    import cv2

    small = rng.normal(size=(classes, 2, -(-h // coarse), -(-w // coarse))).astype(np.float32)
    return np.stack([[cv2.resize(c, (w, h), interpolation=cv2.INTER_CUBIC) for c in pair] for pair in small])


def _clear(logits: Float, box: Letterbox) -> NDArray[np.bool_]:
    """Where the winner leads: the order of sums in a product is BLAS's own, so that last bits may go either way."""
    margins = np.stack([margin_map(one, box) for one in logits])
    ordered = np.sort(np.concatenate([margins, np.zeros_like(margins[:1])]), axis=0)
    clear: NDArray[np.bool_] = ordered[-1] - ordered[-2] > 1e-5
    return clear


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2, 3, 7, 40]),
    st.tuples(_SIDES.map(lambda side: side // 4 + 1), _SIDES.map(lambda side: side // 4 + 1)),
    st.integers(33, 473),
    st.integers(1, 6),
    st.integers(0, 99),
)
@example(1, (1080, 1920), 473, 6, 0)
@example(5, (3, 900), 161, 1, 1)
@example(255, (40, 30), 65, 3, 2)
def test_labels_and_scores_are_those_of_python(
    pixels: PixelFunctions, classes: int, shape: tuple[int, int], size: int, coarse: int, seed: int
) -> None:
    features = size // 8 + 1
    logits = _logits(np.random.default_rng(seed), classes, features, features, coarse)
    box = Letterbox.fit(*shape, size)
    wanted, found = label_map(logits, box), pixels.label_map(logits, box)
    clear = _clear(logits, box)
    np.testing.assert_array_equal(found[clear], wanted[clear])
    assert (found != wanted).sum() <= max(1, 1e-4 * wanted.size)
    np.testing.assert_allclose(pixels.class_scores(wanted, logits, box), class_scores(wanted, logits, box), atol=1e-5)
    np.testing.assert_allclose(pixels.margin_map(logits[0], box), margin_map(logits[0], box), atol=1e-5)


def test_ties_and_zero_are_decided_as_in_python(pixels: PixelFunctions) -> None:
    margins = np.array([[0, 1, 2, -1], [0, 1, 1, -1], [0, 1, 2, 0]], np.float32).reshape(3, 2, 2)
    logits = np.stack([np.zeros_like(margins), margins], axis=1)
    box = Letterbox.fit(2, 2, 2)
    assert pixels.label_map(logits, box).ravel().tolist() == label_map(logits, box).ravel().tolist() == [0, 1, 1, 0]


def test_whole_maps_of_one_margin_stay_whole(pixels: PixelFunctions) -> None:
    # ties everywhere: the first class keeps every pixel, whatever the last bits of a mean
    logits = np.zeros((3, 2, 9, 9), np.float32)
    logits[:, 1] = 0.3
    box = Letterbox.fit(333, 250, 65)
    assert np.unique(pixels.label_map(logits, box)).tolist() == [1]
    assert np.unique(pixels.label_map(np.zeros_like(logits), box)).tolist() == [0]


def test_a_margin_that_is_no_number_wins_nowhere(pixels: PixelFunctions) -> None:
    logits = np.zeros((2, 2, 9, 9), np.float32)
    logits[0, 1] = np.nan
    logits[1, 1] = 1
    box = Letterbox.fit(90, 90, 65)
    np.testing.assert_array_equal(pixels.label_map(logits, box), label_map(logits, box))
    np.testing.assert_array_equal(pixels.label_map(logits[:1], box), label_map(logits[:1], box))


def test_calibrated_margins_lead_to_the_same_labels(pixels: PixelFunctions) -> None:
    logits = calibrated(
        _logits(np.random.default_rng(8), 3, 21, 21, 4),
        [Calibration(0.5, 1.0), Calibration(-0.25, 2.0), Calibration()],
    )
    box = Letterbox.fit(300, 400, 161)
    clear = _clear(logits, box)
    np.testing.assert_array_equal(pixels.label_map(logits, box)[clear], label_map(logits, box)[clear])


@pytest.mark.slow
@pytest.mark.shared
def test_200_photos_are_fitted_and_labelled_alike(pixels: PixelFunctions, shared: Path) -> None:
    folder = shared / "data" / "coco_mini"
    names = [entry["file_name"] for entry in json.loads((folder / "instances_train.json").read_text())["images"][:200]]
    assert len(names) == 200
    rng = np.random.default_rng(9)
    differing = total = 0
    for name in names:
        image = read_image(folder / "images" / name)
        for size in (161, 385):
            _check_image(pixels, image, size)
        box = Letterbox.fit(*image.shape[:2], 385)
        for classes in (1, 4):
            logits = _logits(rng, classes, 49, 49, 5)
            differing += int((pixels.label_map(logits, box) != label_map(logits, box)).sum())
            total += box.height * box.width
    assert differing <= 1e-4 * total
