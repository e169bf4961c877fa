"""The browser's label maps are Python's: over photos and rendered scenes, with one class and with several."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.data.procedural import CLASSES, render_scene
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Run = Callable[..., Any]
Pixels = np.ndarray

IMAGES = 50
SEED = 31
# of all pixels, and of those of the worst image
EQUAL, WORST = 0.9999, 0.999

_SEGMENT = """
  const segmenter = await WorkerSegmenter.load("/model/", { ort, engine: "wasm" });
  const open = async (name) => SupportMemory.fromBytes(await read(name));
  const memories = await Promise.all(given.memories.map(open));
  const scores = [];
  for (const { name, width, height, classes } of given.images) {
    const image = new ImageData(new Uint8ClampedArray((await read(name)).buffer), width, height);
    const found = await segmenter.segment(image, classes.map((n) => memories[n]), { scores: true });
    await put(`${name}.labels`, found.labels);
    scores.push(found.scores);
  }
  await segmenter.close();
  return scores;
"""


def _scene(number: int) -> tuple[Pixels, Pixels, str]:
    scene = render_scene(number, SEED)
    return scene.image, (scene.labels == scene.target + 1).astype(np.uint8), CLASSES[scene.target]


def _photos(shared: Path) -> list[Path]:
    content = json.loads((shared / "data" / "coco_mini" / "instances_val.json").read_text())
    folder = shared / "data" / "coco_mini" / "images"
    return [folder / entry["file_name"] for entry in content["images"][:IMAGES]]


def _compare(
    run: Run, tmp_path: Path, bundle: Path, images: Sequence[Pixels], memories: Sequence[SupportMemory]
) -> tuple[float, float, list[float]]:
    """Share of equal pixels over all images and in the worst one, and the share of the targets in each."""
    asked = []
    for n, memory in enumerate(memories):
        memory.save(tmp_path / f"{n}.safetensors")
    for n, image in enumerate(images):
        # alone, and every third one with all the others
        classes = list(range(len(memories))) if n % 3 == 2 else [n % len(memories)]
        rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
        (tmp_path / f"{n}.rgba").write_bytes(rgba.tobytes())
        asked.append({"name": f"{n}.rgba", "height": image.shape[0], "width": image.shape[1], "classes": classes})
    given = {"images": asked, "memories": [f"{n}.safetensors" for n in range(len(memories))]}
    scores = run(_SEGMENT, given, model=bundle)
    segmenter = Segmenter.load(bundle, "onnx-cpu", precision="fp32", threads=1)
    equal, shares = [], []
    for n, (image, entry) in enumerate(zip(images, asked, strict=True)):
        wanted, clear = segmenter.segment_scored(image, [memories[c] for c in entry["classes"]])
        found = np.frombuffer(run.site.received[f"/{n}.rgba.labels"], np.uint8).reshape(wanted.shape)  # type: ignore[attr-defined]
        equal.append(found == wanted)
        shares.append(float((wanted > 0).mean()))
        np.testing.assert_allclose(scores[n], clear, atol=1e-3)
    pixels = sum(image.size for image in equal)
    return sum(int(image.sum()) for image in equal) / pixels, min(float(image.mean()) for image in equal), shares


def _shown(segmenter: Segmenter, classes: int) -> list[SupportMemory]:
    """Memories of rendered classes, of two shots each and calibrated."""
    shots: dict[str, list[tuple[Pixels, Pixels]]] = {}
    for number in range(classes):
        for shot in (0, 1):
            image, mask, name = _scene(number + shot * len(CLASSES))
            shots.setdefault(name, []).append((image, mask))
    return segmenter.encode_supports(shots)


@pytest.mark.slow
def test_rendered_scenes_have_the_same_label_maps(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    memories = _shown(Segmenter.load(demo_bundle, "onnx-cpu", threads=1), 3)
    assert all(memory.calibration is not None for memory in memories)
    images = [_scene(number % 3 + number * len(CLASSES))[0] for number in range(2, IMAGES + 2)]
    all_equal, worst, shares = _compare(run, tmp_path, demo_bundle, images, memories)
    assert all_equal >= EQUAL
    assert worst >= WORST
    # there is something to get wrong
    assert sum(share > 0.01 for share in shares) > IMAGES / 2


@pytest.mark.slow
@pytest.mark.shared
def test_photos_have_the_same_label_maps(run: Run, demo_bundle: Path, shared: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(demo_bundle, "onnx-cpu", threads=1)
    images = [read_image(path) for path in _photos(shared)]
    shots = []
    for image in images[:3]:
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[image.shape[0] // 4 : -image.shape[0] // 4, image.shape[1] // 4 : -image.shape[1] // 4] = 1
        shots.append((image, mask))
    memories = [segmenter.encode_support([shot], f"photo {n}") for n, shot in enumerate(shots)]
    all_equal, worst, shares = _compare(run, tmp_path, demo_bundle, images, memories)
    assert all_equal >= EQUAL
    assert worst >= WORST
    assert sum(share > 0.01 for share in shares) > IMAGES / 2


@pytest.mark.slow
def test_memories_made_in_the_browser_are_those_of_python(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(demo_bundle, "onnx-cpu", precision="fp32", threads=1)
    shots = [_scene(number) for number in (0, len(CLASSES), 1, 1 + len(CLASSES))]
    given = []
    for n, (image, mask, name) in enumerate(shots):
        (tmp_path / f"{n}.rgb").write_bytes(image.tobytes())
        ignored = mask.copy()
        ignored[:8] = 255
        (tmp_path / f"{n}.mask").write_bytes(ignored.tobytes())
        given.append({"name": name, "height": image.shape[0], "width": image.shape[1]})
    code = """
      const segmenter = await Segmenter.load("/model/", { ort, engine: "wasm" });
      const classes = new Map();
      for (const [n, { name, width, height }] of given.entries()) {
        const shot = { image: { data: await read(`${n}.rgb`), width, height }, mask: await read(`${n}.mask`) };
        classes.set(name, [...(classes.get(name) ?? []), shot]);
      }
      for (const memory of await segmenter.encodeSupports(classes)) await put(memory.name, await memory.toBytes());
      const [name, own] = [...classes][0];
      await put("alone", await (await segmenter.encodeSupport(own, name)).toBytes());
    """
    run(code, given, model=demo_bundle)
    classes: dict[str, list[tuple[Pixels, Pixels]]] = {}
    for n, (image, mask, name) in enumerate(shots):
        ignored = np.frombuffer((tmp_path / f"{n}.mask").read_bytes(), np.uint8).reshape(mask.shape)
        classes.setdefault(name, []).append((image, ignored))
    first, *_ = classes
    wanted = {memory.name: memory for memory in segmenter.encode_supports(classes)}
    wanted["alone"] = segmenter.encode_support(classes[first], first)
    for name, memory in wanted.items():
        (tmp_path / "found").write_bytes(run.site.received[f"/{name}"])  # type: ignore[attr-defined]
        found = SupportMemory.load(tmp_path / "found")
        assert (found.name, found.model, found.shots) == (memory.name, memory.model, 2)
        np.testing.assert_allclose(found.prototype, memory.prototype, atol=1e-4)
        for mine, theirs in zip(found.keys, memory.keys, strict=True):
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
        np.testing.assert_allclose(found.shot_scores, memory.shot_scores, atol=1e-3)
        if name == "alone":
            assert found.calibration is memory.calibration is None
        else:
            np.testing.assert_allclose(found.calibration, memory.calibration, atol=1e-4)
