"""The label map alone: logits of 1 to 10 classes to 1920 x 1080 labels, beside a plain way that makes all maps."""

import argparse
from functools import partial
from typing import Any

import cv2
import numpy as np
from common import Setting, show, write
from numpy.typing import NDArray
from photo import HEIGHT, WIDTH, Camera

from ntre_deploy.bench.latency import summarise, timed
from ntre_deploy.runtime.engines import open_engine
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.segmenter import Segmenter

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

CLASSES = (1, 2, 5, 10)


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of this command alone."""


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Real logits of an engine, timed in turn by both ways; `--count` photos, `--rounds` times each."""
    cv2.setNumThreads(setting.threads)
    bundle, camera = setting.bundle, Camera(setting.dataset)
    engine = open_engine(bundle, threads=setting.threads).engine
    segmenter = Segmenter(engine, bundle.manifest.input, bundle.manifest.model)
    # of each class the first photo whose middle still shows it
    shown = {c: next((i for i in camera.images(c) if (camera.mask(i, c) == 1).any()), None) for c in camera.class_names}
    shots = [(c, image) for c, image in shown.items() if image is not None][: max(CLASSES)]
    memories = [
        segmenter.encode_support([(camera.image(image), camera.mask(image, c))], str(c), allow_unseen=True)
        for c, image in shots
    ]
    photos = [camera.image(camera.images(c)[-1]) for c, _ in shots[: setting.count]]
    rows: list[dict[str, Any]] = []
    for classes in (n for n in CLASSES if n <= len(memories)):
        ours, plain, equal = list[float](), list[float](), list[float]()
        for photo in photos:
            logits, box = segmenter.logits(photo, memories[:classes])
            for turn in range(setting.rounds + 1):
                labels, spent = timed(partial(label_map, logits, box))
                wanted, other = timed(partial(_plain, logits, box))
                if turn:  # the first one makes what later ones find
                    ours.append(spent)
                    plain.append(other)
            equal.append(float((labels == wanted).mean()))
        rows.append(
            {
                "classes": classes,
                "label_map_ms": summarise(ours),
                "plain_ms": summarise(plain),
                "ratio": float(np.median(plain) / np.median(ours)),
                "equal_pixels": min(equal),
            }
        )
    write(args.out, setting, {"photo": [HEIGHT, WIDTH], "engine": segmenter.reason, "label_maps": rows})
    lines = [
        [
            str(row["classes"]),
            *(f"{row[name]['p50']:.2f}" for name in ("label_map_ms", "plain_ms")),
            f"{row['ratio']:.1f} x",
            f"{row['equal_pixels']:.4%}",
        ]
        for row in rows
    ]
    show(f"{WIDTH} x {HEIGHT}, ms", ["classes", "label map", "all maps", "ratio", "equal pixels, worst"], lines)


def _plain(logits: Float, box: Letterbox) -> Pixels:
    """Each class's margin to the input's size, then the photo's part of it to the photo's size, then the largest."""
    margins = [np.zeros((box.height, box.width), np.float32)]
    for one in logits:
        margin = _aligned(one[1] - one[0], box.size)[: box.inner_height, : box.inner_width]
        margins.append(cv2.resize(margin, (box.width, box.height), interpolation=cv2.INTER_LINEAR))
    return np.argmax(np.stack(margins), axis=0).astype(np.uint8)


def _aligned(margin: Float, size: int) -> Float:
    """Bilinear with aligned corners [h, w] -> [size, size], which OpenCV's `resize` does not have."""
    h, w = margin.shape
    across, down = np.linspace(0, w - 1, size, dtype=np.float32), np.linspace(0, h - 1, size, dtype=np.float32)
    return np.asarray(cv2.remap(margin, *np.meshgrid(across, down), cv2.INTER_LINEAR), np.float32)
