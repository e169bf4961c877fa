"""A service of the tiny bundle, and photos for it as files' bytes."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.service import Service

Pixels = np.ndarray


def png(pixels: Pixels) -> bytes:
    """An array as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def as_png() -> Callable[[Pixels], bytes]:
    return png


@pytest.fixture(scope="session")
def shots() -> list[tuple[Pixels, Pixels]]:
    """Six photos of different sizes with a disc in each, and its mask."""
    made = []
    for seed, (height, width) in enumerate([(90, 120), (70, 70), (64, 200), (121, 80), (40, 41), (65, 65)]):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        y, x = np.mgrid[0:height, 0:width]
        disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2
        image[disc] = rng.integers(0, 256, 3)
        made.append((image, disc.astype(np.uint8)))
    return made


@pytest.fixture(scope="session")
def files(shots: list[tuple[Pixels, Pixels]]) -> list[SimpleNamespace]:
    """The same as bytes of PNG files: `photo` and `mask`."""
    return [SimpleNamespace(photo=png(image), mask=png(mask * 255)) for image, mask in shots]


@pytest.fixture(scope="session")
def segmenter(exported: Path) -> Segmenter:
    """What a service must agree with."""
    return Segmenter.load(exported, "onnx-cpu", threads=1)


@pytest.fixture
def service(exported: Path, tmp_path: Path) -> Iterator[Service]:
    opened = Service.open(exported, engine="onnx-cpu", workers=2, memories=tmp_path / "memories")
    yield opened
    opened.close()
