"""The C++ runtime with its engine: Python's label maps, memories and errors, and clones in threads."""

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.data.procedural import CLASSES
from ntre_deploy.errors import EngineError, InputError, NtreError
from ntre_deploy.runtime import cpu
from ntre_deploy.runtime.engines import openvino
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or ""),
]
Pixels = np.ndarray
Scene = Callable[[int], tuple[Pixels, Pixels, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]

IMAGES = 200
# of all pixels, and of those of the worst image
EQUAL, WORST = 0.9999, 0.999


@pytest.fixture(scope="module")
def ours(abi: Any, cpp_bundle: Path) -> Any:
    return abi.load(cpp_bundle, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def theirs(cpp_bundle: Path) -> Segmenter:
    return Segmenter.load(cpp_bundle, "openvino", precision="fp32", threads=1)


def _classes(scene: Scene) -> dict[str, list[tuple[Pixels, Pixels]]]:
    """Three classes with one, two and three shots; a part of each mask is ignored."""
    classes: dict[str, list[tuple[Pixels, Pixels]]] = {}
    for number in range(3):
        for shot in range(number + 1):
            image, mask, name = scene(number + shot * len(CLASSES))
            mask = mask.copy()
            mask[:8] = 255
            classes.setdefault(name, []).append((image, mask))
    return classes


def _given(abi: Any, memories: list[SupportMemory], folder: Path) -> list[Any]:
    found = []
    for n, memory in enumerate(memories):
        memory.save(folder / f"{n}.safetensors")
        found.append(abi.memory(folder / f"{n}.safetensors"))
    return found


def test_the_engine_and_its_precision_are_told(abi: Any, ours: Any, cpp_bundle: Path) -> None:
    assert abi.text("segmenter_engine", ours.handle) == "openvino"
    assert abi.text("segmenter_precision", ours.handle) == "fp32"
    assert ours.reason == "openvino fp32"
    assert abi.library.ntre_segmenter_input_size(ours.handle) == Segmenter.load(cpp_bundle, self_test=False).spec.size


def test_memories_are_those_of_python_calibrated_and_scored(
    ours: Any, theirs: Segmenter, scene: Scene, tmp_path: Path
) -> None:
    classes = _classes(scene)
    first = next(iter(classes))
    found = [*ours.encode(classes), *ours.encode({first: classes[first]}), *ours.encode(classes, flags=2 | 4)]
    wanted = [*theirs.encode_supports(classes), theirs.encode_support(classes[first], first)]
    wanted += theirs.encode_supports(classes, leave_one_out=False, calibrate=False)
    assert [m.shots for m in found] == [1, 2, 3, 1, 1, 2, 3]
    for mine, memory in zip(found, wanted, strict=True):
        mine.save(tmp_path / "mine")
        read = SupportMemory.load(tmp_path / "mine")
        assert (read.name, read.model, read.shots) == (memory.name, memory.model, memory.shots)
        np.testing.assert_allclose(read.prototype, memory.prototype, atol=1e-4)
        for a, b in zip(read.keys, memory.keys, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=1e-4)
        assert (read.shot_scores is None) == (memory.shot_scores is None)
        if memory.shot_scores is not None:
            np.testing.assert_allclose(read.shot_scores, memory.shot_scores, atol=1e-3)
        assert (read.calibration is None) == (memory.calibration is None)
        if memory.calibration is not None:
            np.testing.assert_allclose(read.calibration, memory.calibration, atol=1e-4)


def _stretched(image: Pixels, number: int) -> Pixels:
    """A scene at another size and aspect ratio: nearest neighbours, so that pixels stay as sharp as they were."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in np.exp(rng.uniform(np.log(24), np.log(1200), 2)))
    rows = np.arange(height) * image.shape[0] // height
    return np.ascontiguousarray(image[rows][:, np.arange(width) * image.shape[1] // width])


@pytest.mark.slow
def test_two_hundred_photos_have_pythons_label_maps(
    abi: Any, ours: Any, theirs: Segmenter, scene: Scene, tmp_path: Path
) -> None:
    memories = theirs.encode_supports(_classes(scene))
    given = _given(abi, memories, tmp_path)
    equal, shares = [], []
    for number in range(IMAGES):
        image = _stretched(scene(number % 3 + (3 + number) * len(CLASSES))[0], number)
        # alone, and every third one with all the others
        chosen = list(range(3)) if number % 3 == 2 else [number % 2]
        labels, scores = ours.segment(image, [given[c] for c in chosen])
        wanted, clear = theirs.segment_scored(image, [memories[c] for c in chosen])
        np.testing.assert_allclose(scores, clear, atol=1e-3)
        equal.append(labels == wanted)
        shares.append(float((wanted > 0).mean()))
    pixels = sum(image.size for image in equal)
    assert sum(int(image.sum()) for image in equal) / pixels >= EQUAL
    assert min(float(image.mean()) for image in equal) >= WORST
    # there is something to get wrong
    assert sum(share > 0.01 for share in shares) > IMAGES / 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (900, 2), (37, 12)])
def test_small_and_narrow_images_are_labelled(
    abi: Any, ours: Any, theirs: Segmenter, scene: Scene, tmp_path: Path, height: int, width: int
) -> None:
    memories = theirs.encode_supports(_classes(scene))[:2]
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    labels, _ = ours.segment(image, _given(abi, memories, tmp_path))
    assert (labels == theirs.segment(image, memories)).mean() >= WORST


def test_rows_may_lie_apart_and_upside_down(
    abi: Any, ours: Any, theirs: Segmenter, scene: Scene, tmp_path: Path
) -> None:
    memories = theirs.encode_supports(_classes(scene))
    given = _given(abi, memories, tmp_path)
    image = scene(30)[0]
    for view in (image[20:-20, 10:-10], image[::-1], image[::2]):
        assert not view.flags["C_CONTIGUOUS"]
        labels, _ = ours.segment(view, given)
        np.testing.assert_array_equal(labels, ours.segment(np.ascontiguousarray(view), given)[0])


def test_logits_are_those_before_the_calibration(
    abi: Any, ours: Any, theirs: Segmenter, scene: Scene, tmp_path: Path
) -> None:
    memories = theirs.encode_supports(_classes(scene))
    found = ours.logits(scene(30)[0], _given(abi, memories, tmp_path))
    wanted, _ = theirs.logits(scene(30)[0], memories, calibrate=False)
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


def _message(call: Callable[[], object]) -> tuple[str, str]:
    try:
        call()
    except NtreError as error:
        return {InputError: "input", EngineError: "engine"}[type(error)], str(error)
    except Exception as error:
        return error.kind, str(error)  # type: ignore[attr-defined]
    return "", ""


def test_errors_are_those_of_python(
    abi: Any, ours: Any, theirs: Segmenter, scene: Scene, cpp_bundle: Path, tmp_path: Path
) -> None:
    image, mask, _ = scene(0)
    speck = np.zeros((3000, 3000), np.uint8)
    speck[5, 5] = 1
    supports = {
        "no shots": [],
        "no target": [(image, np.zeros_like(mask))],
        "another size": [(image, mask), (image, mask[1:])],
        "values": [(image, mask * 7)],
        "a speck": [(np.zeros((3000, 3000, 3), np.uint8), speck)],
    }
    for name, shots in supports.items():
        found = _message(lambda: ours.encode({name: shots}))  # noqa: B023
        assert found == _message(lambda: theirs.encode_support(shots, name)), name  # noqa: B023
        assert found[0] == "input"
    (memory,) = ours.encode({"speck": supports["a speck"]}, flags=1)
    assert memory.keys[0].shape[1] == 0
    labels, _ = ours.segment(image, [memory])
    assert labels.shape == mask.shape

    wanted = theirs.encode_support([(image, mask)], "fork")
    foreign = SupportMemory("fork", wanted.prototype, wanted.keys, "another")
    narrow = SupportMemory("fork", wanted.prototype[1:], wanted.keys, wanted.model)
    for other in ([foreign], [wanted, narrow], [], [wanted] * 256):
        given = _given(abi, other, tmp_path)
        assert _message(lambda: ours.segment(image, given)) == _message(lambda: theirs.segment(image, other))  # noqa: B023
    empty = image[:0]
    given = _given(abi, [wanted], tmp_path)
    assert _message(lambda: ours.segment(empty, given)) == _message(lambda: theirs.segment(empty, wanted))
    options = [
        {"engine": "openvinos"},
        {"precision": "fp64"},
        {"precision": "int8"},
        {"precision": "int8", "engine": "openvino"},
        {"threads": -1},
        {"hint": "speed"},
        {"cache": cpp_bundle / "manifest.json" / "x"},
    ]
    for chosen in options:
        kind, text = _message(lambda: abi.load(cpp_bundle, **chosen))  # noqa: B023
        assert kind == "input", chosen
        if "engine" not in chosen:
            given_python = {"engine": "openvino"} | chosen
            wanted_kind, wanted_text = _message(lambda: Segmenter.load(cpp_bundle, **given_python))  # noqa: B023
            assert kind == wanted_kind
            assert text.replace(" for auto,", " for openvino,") == wanted_text


def test_bf16_is_refused_where_the_processor_has_none(abi: Any, cpp_bundle: Path, tmp_path: Path) -> None:
    if cpu.native_bf16():
        pytest.skip("this processor has bf16 instructions")
    bundle = Path(shutil.copytree(cpp_bundle, tmp_path / "b.ntre"))
    content = json.loads((bundle / "manifest.json").read_text())
    content["engines"].append(content["engines"][0] | {"precision_asked": "bf16", "precision_found": "bf16"})
    (bundle / "manifest.json").write_text(json.dumps(content))
    found = _message(lambda: abi.load(bundle, engine="openvino", precision="bf16"))
    assert found == _message(lambda: Segmenter.load(bundle, "openvino", precision="bf16"))
    assert found[0] == "engine"
    # and passed over where nothing was asked for
    reason = abi.load(bundle).reason
    assert reason == "openvino fp32; passed over openvino bf16: this processor has no bf16 instructions"


def test_a_bundle_that_was_changed_fails_before_and_a_wrong_one_at_its_self_test(
    abi: Any, cpp_bundle: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    bundle = Path(shutil.copytree(cpp_bundle, tmp_path / "b.ntre"))
    test = load_file(bundle / "selftest.safetensors")
    test["logits"] = test["logits"] * 2
    save_file(test, bundle / "selftest.safetensors")
    assert (
        "has been changed" in _message(lambda: abi.load(bundle))[1] or "bytes" in _message(lambda: abi.load(bundle))[1]
    )
    import hashlib

    content = json.loads((bundle / "manifest.json").read_text())
    (entry,) = [file for file in content["files"] if file["role"] == "self-test"]
    file = (bundle / "selftest.safetensors").read_bytes()
    entry |= {"size": len(file), "sha256": hashlib.sha256(file).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(content))
    kind, text = _message(lambda: abi.load(bundle))
    assert kind == "engine"
    assert text == _message(lambda: Segmenter.load(bundle, "openvino"))[1]
    abi.load(bundle, skip_self_test=1)


def test_clones_in_threads_give_the_same_masks(
    abi: Any, theirs: Segmenter, scene: Scene, cpp_bundle: Path, tmp_path: Path
) -> None:
    first = abi.load(cpp_bundle, threads=1, hint="throughput")
    memories = _given(abi, theirs.encode_supports(_classes(scene)), tmp_path)
    images = [scene(number)[0] for number in range(30, 34)]
    chosen = [memories[:1], memories, memories[1:]]
    wanted = [first.segment(image, own)[0] for image in images for own in chosen]

    def work(clone: Any) -> list[Pixels]:
        return [clone.segment(image, own)[0] for image in images for own in chosen]

    clones = [first.clone() for _ in range(3)]
    del first  # clones do not need it
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(work, clones):
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(a, b)


def test_compiled_graphs_are_kept_in_the_cache(abi: Any, cpp_bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        abi.load(cpp_bundle, cache=tmp_path / "cache")
    (own,) = (tmp_path / "cache").iterdir()
    assert own.name.startswith("openvino-")
    assert any(own.iterdir())


def _ppm(path: Path, pixels: Pixels) -> str:
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    path.write_bytes(kind + f"\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode() + pixels.tobytes())
    return str(path)


def test_ntre_run_segments_and_keeps_memories(
    installed: Any, run: Run, theirs: Segmenter, scene: Scene, cpp_bundle: Path, tmp_path: Path
) -> None:
    classes = _classes(scene)
    command = [str(installed.prefix / "bin" / "ntre-run"), str(cpp_bundle), "--threads", "1"]
    supports = []
    for name, shots in classes.items():
        for k, (image, mask) in enumerate(shots):
            paths = _ppm(tmp_path / f"{name}{k}.ppm", image), _ppm(tmp_path / f"{name}{k}.pgm", mask)
            supports += ["--support", f"{name}={','.join(paths)}"]
    query = scene(30)[0]
    image = _ppm(tmp_path / "query.ppm", query)
    out = ["--out", str(tmp_path / "labels")]
    done = run([*command, *supports, "--save-memory", str(tmp_path / "memories"), *out, image])
    assert done.returncode == 0, done.stderr
    assert "engine: openvino fp32" in done.stdout
    written = (tmp_path / "labels" / "query.labels.pgm").read_bytes()
    header = f"P5\n{query.shape[1]} {query.shape[0]}\n255\n".encode()
    assert written.startswith(header)
    wanted = theirs.segment(query, theirs.encode_supports(classes))
    assert (np.frombuffer(written[len(header) :], np.uint8).reshape(wanted.shape) == wanted).mean() >= EQUAL
    kept = [word for name in classes for word in ("--memory", str(tmp_path / "memories" / f"{name}.safetensors"))]
    done = run([*command, *kept, "--quiet", *out, image])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "labels" / "query.labels.pgm").read_bytes() == written


def test_ntre_run_tells_what_is_wrong(installed: Any, run: Run, cpp_bundle: Path, scene: Scene, tmp_path: Path) -> None:
    program = str(installed.prefix / "bin" / "ntre-run")
    image, mask, _ = scene(0)
    photo, drawn = _ppm(tmp_path / "a.ppm", image), _ppm(tmp_path / "a.pgm", mask)
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "a.ppm").read_bytes()[:-1])
    (tmp_path / "text.jpg").write_text("hello")
    support = ["--support", f"a={photo},{drawn}"]
    cases: list[tuple[list[str], int, str]] = [
        ([], 2, "No bundle was given"),
        ([str(cpp_bundle)], 2, "No class was given"),
        ([str(cpp_bundle), *support], 2, "No image was given"),
        ([str(cpp_bundle), "--support", "a"], 2, "NAME=IMAGE,MASK is expected"),
        ([str(cpp_bundle), "--suport", "a"], 2, "Option --suport is unknown"),
        ([str(cpp_bundle), *support, "none.ppm"], 2, "none.ppm does not exist"),
        ([str(cpp_bundle), *support, str(tmp_path / "cut.ppm")], 2, "bytes where its header says"),
        ([str(cpp_bundle), *support, str(tmp_path / "text.jpg")], 2, "Picture"),
        ([str(cpp_bundle), "--support", f"a={drawn},{drawn}", photo], 2, "a photo (PPM, P6) is expected"),
        ([str(tmp_path / "none"), *support, photo], 2, "make one with `ntre export CHECKPOINT`"),
        ([str(cpp_bundle), *support, photo, "--threads", "x"], 2, "a whole number is expected"),
        ([str(cpp_bundle), *support, photo, "--scale", "300"], 2, "is too much for"),
    ]
    for words, code, text in cases:
        done = run([program, *words], cwd=tmp_path)
        assert done.returncode == code, (words, done.stderr)
        assert text in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "labels" / "a.labels.pgm").exists()
    help_text = run([program, "--help"]).stdout
    assert all(len(line) <= 120 for line in help_text.splitlines())
    assert run([program, "--version"]).stdout.startswith("ntre-run ")
