"""`write_kit`: every case of a kit, computed by Python's runtime on ONNX Runtime in fp32 with one thread."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy import __version__
from ntre_deploy.conformance.draft import Draft
from ntre_deploy.conformance.hostile_bundles import fp32_files, patched_bundles
from ntre_deploy.conformance.hostile_memories import drawn_memory, good_memories, hostile_memories, tensors_of
from ntre_deploy.conformance.kit import FORMAT, KIT, VERSION, bundle_entry
from ntre_deploy.conformance.netpbm import Pixels, repeated
from ntre_deploy.conformance.pictures import SHOTS, grey, odd_sizes, scene, texture
from ntre_deploy.conformance.tolerances import TOLERANCES
from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.labels import MAX_CLASSES
from ntre_deploy.runtime.letterbox import prepare_image, prepare_mask
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import stack_memories
from ntre_deploy.runtime.support import SupportMemory

_ENGINE = "onnx-cpu"
_ENCODED = ("prototype", "keys", "calibration", "shot-scores")
_SEGMENTED = ("logits", "labels", "labels-from-logits")
# of label maps with more pixels, some rows and columns are enough
_MOST_LABELS = 400_000

Progress = Callable[[str], object]


def write_kit(
    bundle: str | Path, out: Path, *, seed: int = 0, replace_old: bool = False, tell: Progress = lambda step: None
) -> int:
    """Write a kit, whole or not at all; the same bytes on the same machine from the same bundle and seed.

    Args:
        bundle: with ONNX graphs in fp32.
        out: folder to be made.
        replace_old: replace a folder that is there.
        tell: hears what is being done.

    Returns:
        the number of bytes written.

    Raises:
        InputError: the bundle cannot be used, or the folder cannot be written.
        EngineError: ONNX Runtime cannot run here.
    """
    if seed < 0:
        raise InputError(f"The seed is {seed}; a whole number from 0 on is expected.")
    opened = Bundle.open(bundle)
    fp32_files(opened)
    segmenter = Segmenter.load(bundle, _ENGINE, precision="fp32", threads=1)
    with atomic_folder(out, replace=replace_old) as folder:
        draft = Draft(folder)
        tell("images")
        _letterboxes(draft, segmenter, seed)
        tell("supports")
        memories = _encodings(draft, segmenter, seed)
        tell("queries")
        _queries(draft, segmenter, memories, seed)
        tell("memories")
        _stacks(draft, segmenter, seed)
        _memories(draft, seed)
        tell("bundles")
        _bundles(draft, opened)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "seed": seed,
            "made_by": {"ntre_deploy": __version__, "engine": _ENGINE, "onnxruntime": version("onnxruntime")},
            "bundle": bundle_entry(opened),
            "precision": "fp32",
            "tolerances": TOLERANCES,
            "files": dict(sorted(draft.files.items())),
            "images": draft.images,
            "masks": draft.masks,
            "cases": draft.cases,
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        (folder / KIT).write_text(text)
    return sum(int(entry["size"]) for entry in draft.files.values()) + len(text.encode())


def _letterboxes(draft: Draft, segmenter: Segmenter, seed: int) -> None:
    pixels, mask = texture(seed)
    pictures: dict[str, tuple[Pixels, str]] = {"": (pixels, "texture")}
    pictures["grey-"] = (grey(pixels), "grey")
    pictures["black-"] = (np.zeros_like(pixels[:1, :1]), "black")
    pictures["white-"] = (np.full_like(pixels[:1, :1], 255), "white")
    sizes = odd_sizes(segmenter.spec.size)
    for kind, (tile, file) in pictures.items():
        chosen = sizes if not kind else {key: sizes[key] for key in ("1x1", "landscape")}
        for name, (height, width) in chosen.items():
            full = f"{kind}{name}"
            image = draft.image(full, tile, (height, width), file=file)
            target = None if kind else draft.mask(full, mask, (height, width), file="texture")
            input_, box = prepare_image(repeated(tile, height, width), segmenter.spec)
            arrays: dict[str, Any] = {"input": input_}
            if target is not None:
                arrays["target"] = prepare_mask(repeated(mask, height, width), segmenter.spec).astype(np.uint8)
            draft.case(
                "letterbox",
                f"letterbox-{full}",
                ["box", "input", "input-share", *(["target"] if target else [])],
                image=image,
                mask=target,
                box=[box.inner_height, box.inner_width],
                expected=draft.tensors(f"letterbox-{full}", arrays),
            )


def _encodings(draft: Draft, segmenter: Segmenter, seed: int) -> dict[str, str]:
    """Paths of memories by name: of each class alone, and of all together with `-calibrated`."""
    shots: dict[str, list[tuple[Pixels, Pixels]]] = {}
    named: dict[str, list[dict[str, str]]] = {}
    for name, count in SHOTS.items():
        for k in range(count):
            shown = scene(name, k, seed)
            shots.setdefault(name, []).append(shown)
            one = f"{name}-{k}"
            named.setdefault(name, []).append(
                {"image": draft.image(one, shown.image), "mask": draft.mask(one, shown.mask)}
            )
    # black and white, as drawing programs save them
    star, drawn = shots["star"][0]
    white = (drawn == 1).astype(np.uint8) * np.uint8(255)
    named["white"] = [{"image": "star-0", "mask": draft.mask("white", white)}]
    shots["white"] = [(star, white)]

    paths: dict[str, str] = {}

    def encode(case: str, names: Sequence[str], ending: str, calibrate: bool) -> None:
        found = segmenter.encode_supports({name: shots[name] for name in names}, calibrate=calibrate)
        for memory in found:
            paths[memory.name + ending] = draft.memory(memory.name + ending, memory)
        draft.case(
            "encode",
            case,
            _ENCODED,
            classes=[{"name": name, "shots": named[name]} for name in names],
            calibrate=calibrate,
            memories=[paths[name + ending] for name in names],
        )

    for name in ("star", "heart", "white"):
        encode(f"encode-{name}", [name], "", False)
    encode("encode-3-way", list(SHOTS), "-calibrated", True)
    encode("encode-3-way-uncalibrated", list(SHOTS), "-together", False)
    _refused_supports(draft, segmenter.spec.size, star, drawn)
    return paths


def _refused_supports(draft: Draft, size: int, image: Pixels, mask: Pixels) -> None:
    def refuse(name: str, words: Sequence[str], masks: Sequence[str]) -> None:
        shots = [{"image": "star-0", "mask": one} for one in masks]
        classes = [{"name": "thing", "shots": shots}]
        draft.refusal("encode", f"encode-{name}", words, classes=classes, calibrate=False, memories=[])

    refuse("no-shots", ["No support was given for 'thing'"], [])
    refuse("mask-too-small", ["must be equal"], [draft.mask("too-small", mask[:-1])])
    refuse("mask-empty", ["is empty; mark the target with 1 or 255"], [draft.mask("nothing", np.zeros_like(mask))])
    odd = mask.copy()
    odd[0, :2] = (7, 200)
    words = ["holds the values [7, 200]; only 0, 1 (target) and 255 are allowed"]
    refuse("mask-of-other-values", words, [draft.mask("other-values", odd)])
    refuse("second-mask-empty", ["Support 2 of 'thing'", "is empty"], ["star-0", "nothing"])
    # one pixel of a wide image, between those that are sampled
    wide = np.zeros((4, 40 * size), np.uint8)
    wide[1, 1] = 1
    draft.mask("one-pixel", wide)
    draft.image("wide", image, wide.shape, file="star-0")
    draft.refusal(
        "encode",
        "encode-target-too-small",
        [f"too small to be seen at the network's {size} pixels"],
        classes=[{"name": "thing", "shots": [{"image": "wide", "mask": "one-pixel"}]}],
        calibrate=False,
        memories=[],
    )


def _queries(draft: Draft, segmenter: Segmenter, paths: dict[str, str], seed: int) -> None:
    images: dict[str, Pixels] = {}
    for name in SHOTS:
        images[f"query-{name}"] = scene(name, 5, seed).image
        draft.image(f"query-{name}", images[f"query-{name}"])
    star = images["query-star"]

    def tiled(name: str, tile: Pixels, file: str, size: tuple[int, int]) -> str:
        images[name] = repeated(tile, *size)
        return draft.image(name, tile, size, file=file)

    large = scene("heart", 6, seed, longest=600).image
    photo = tiled("query-photo", large, "query-photo", (3000, 4000))
    colourless = grey(images["query-heart"])
    draft.image("query-grey", colourless)
    images["query-grey"] = colourless
    wide, tall = tiled("query-wide", star, "query-star", (20, 900)), tiled("query-tall", star, "query-star", (900, 20))
    small = tiled("query-small", star[60:, 60:], "query-small", (7, 9))
    one = tiled("query-1x1", star, "query-star", (1, 1))
    apart = replace(SupportMemory.load(draft.folder / paths["heart"]), name="apart")
    older = {"star": paths["star"], "apart": draft.memory("apart", apart)}
    three = [paths[f"{name}-calibrated"] for name in SHOTS]
    together = [paths[f"{name}-together"] for name in SHOTS]

    def query(name: str, image: str, memories: Sequence[str], steps: Sequence[str] = _SEGMENTED) -> None:
        loaded = [SupportMemory.load(draft.folder / path) for path in memories]
        logits, _ = segmenter.logits(images[image], loaded, calibrate=False)
        labels = segmenter.segment(images[image], loaded)
        stride = next(s for s in range(1, 99) if labels[::s, ::s].size <= _MOST_LABELS)
        draft.case(
            "segment",
            f"segment-{name}",
            steps,
            image=image,
            memories=list(memories),
            expected=draft.tensors(f"segment-{name}", {"logits": logits}),
            labels=draft.labels(f"segment-{name}", labels[::stride, ::stride]),
            stride=stride,
        )

    for name in ("star", "heart"):
        query(name, f"query-{name}", [paths[name]])
    query("white", "query-star", [paths["white"]])
    for name in SHOTS:
        query(f"3-way-{name}", f"query-{name}", three)
    query("3-way-uncalibrated", "query-moon", together)
    # without a calibration of all, none counts
    query("3-way-partly-calibrated", "query-moon", [*three[:2], together[2]])
    query("one-of-calibrated", "query-heart", [three[1]])
    entry = segmenter.model
    shape: dict[str, Any] = {"channels": entry.prototype_channels, "depth": entry.key_channels, "model": entry.id}
    # no two of them alike: which of two equal classes wins would be a matter of the last bit
    drawn = [drawn_memory(f"drawn-{n}", (3 * n + 1,) * (n % 3 + 1), seed, **shape) for n in range(8)]
    query("11-way", "query-heart", [*together, *(draft.memory(memory.name, memory) for memory in drawn)])
    query("unequal-shots", "query-heart", [older["star"], older["apart"]])
    for name, image in {"grey": "query-grey", "photo": photo, "wide": wide, "tall": tall, "small": small}.items():
        query(name, image, three if name in ("grey", "photo") else [paths["star"]])
    query("1x1", one, [paths["star"]])
    _refused_queries(draft, segmenter, paths, seed)


def _refused_queries(draft: Draft, segmenter: Segmenter, paths: dict[str, str], seed: int) -> None:
    def refuse(name: str, words: Sequence[str], memories: Sequence[str]) -> None:
        draft.refusal("segment", f"segment-{name}", words, image="query-star", memories=list(memories))

    refuse("no-memory", ["No support memory was given"], [])
    most = MAX_CLASSES + 1
    refuse(
        "too-many-classes", [f"{most} classes were given; a label map holds 1 to {MAX_CLASSES}"], [paths["star"]] * most
    )
    entry = segmenter.model
    right = {"channels": entry.prototype_channels, "depth": entry.key_channels, "model": entry.id}
    wrong: dict[str, dict[str, Any]] = {
        "another-model": right | {"model": "0" * 16},
        "another-prototype": right | {"channels": entry.prototype_channels + 1},
        "another-depth": right | {"depth": entry.key_channels - 1},
    }
    for name, shape in wrong.items():
        path = draft.memory(name, drawn_memory("other", (3,), seed, **shape))
        words = ["The support memory 'other' was made by another model or input size"]
        refuse(name, words, [paths["star"], path] if name == "another-depth" else [path])


def _stacks(draft: Draft, segmenter: Segmenter, seed: int) -> None:
    shape: dict[str, Any] = {"channels": 3, "depth": 5, "model": segmenter.model.id}
    # keys of each shot of each class: none, less than a chunk, whole ones and one more, padded and unpadded sums
    stacks: dict[str, list[tuple[int, ...]]] = {
        "one-key": [(1,)],
        "no-keys": [(0,)],
        "whole-chunk": [(32,)],
        "one-more": [(33,)],
        "unequal-shots": [(31,), (5, 0, 70), (64, 1)],
        "padded": [(32 * 4, 1), (32 * 9 + 1,)],
        "many": [(n % 7 * 11,) * (n % 3 + 1) for n in range(9)],
    }
    for name, classes in stacks.items():
        memories = [drawn_memory(f"{n}", counts, seed, **shape) for n, counts in enumerate(classes)]
        stacked = stack_memories(memories)
        draft.case(
            "stack",
            f"stack-{name}",
            ["stack"],
            memories=[draft.memory(f"stack-{name}-{n}", memory) for n, memory in enumerate(memories)],
            expected=draft.tensors(f"stack-{name}", stacked._asdict()),
        )


def _memories(draft: Draft, seed: int) -> None:
    for name, (content, memory, warns) in good_memories(seed).items():
        whole = f"memory-{name}"
        path = f"memories/{whole}.safetensors"
        calibration = None if memory.calibration is None else memory.calibration._asdict()
        scores = None if memory.shot_scores is None else list(memory.shot_scores)
        draft.case(
            "memory",
            whole,
            ["fields", "arrays", "warning", "rewritten"],
            memory=draft.put(path, content) if isinstance(content, bytes) else draft.memory(whole, content),
            fields={
                "name": memory.name,
                "model": memory.model,
                "shots": memory.shots,
                "calibration": calibration,
                "shot_scores": scores,
            },
            warning=warns,
            expected=draft.tensors(whole, tensors_of(memory)),
        )
    whole_memory = replace(drawn_memory("fork", (3, 4), seed), shot_scores=(0.25, 0.5))
    file = (draft.folder / draft.memory("hostile-whole", whole_memory)).read_bytes()
    for name, hostile in hostile_memories(file, whole_memory).items():
        path = draft.put(f"memories/hostile-{name}.safetensors", hostile.content)
        draft.refusal("memory", f"hostile-memory-{name}", hostile.words, memory=path)


def _bundles(draft: Draft, bundle: Bundle) -> None:
    draft.case("bundle", "bundle-whole", ["loaded"], patch=[])
    for patched in patched_bundles(bundle):
        # a case writes a manifest and one more file at most
        paths = {
            name: draft.put(f"files/{patched.name}.{'json' if name == MANIFEST else 'bin'}", content)
            for name, content in patched.files.items()
        }
        operations = [op | ({"file": paths[op["file"]]} if "file" in op else {}) for op in patched.operations]
        name, needs = f"bundle-{patched.name}", list(patched.needs) or None
        if patched.error:
            draft.refusal("bundle", name, patched.words, error=patched.error, patch=operations, needs=needs)
        else:
            draft.case("bundle", name, ["loaded"], patch=operations, needs=needs)
