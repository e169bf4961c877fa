"""Data for Triton's warm-up: the episode of a bundle's self-test as a request."""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntre_deploy.runtime.bundle import Bundle, SelfTest
from ntre_deploy.runtime.imagefile import png_bytes

# where Triton looks for it, in the model's folder
FOLDER = "warmup"


class Tensor(NamedTuple):
    """One input of the request; its data are a file of that name.

    Attributes:
        kind: Triton's name of its type.
        dims: its shape without the batch's.
    """

    name: str
    kind: str
    dims: tuple[int, ...]


def write_warmup(bundle: Bundle, folder: Path) -> list[Tensor]:
    """Write the files of a request: an image uint8 [H, W, 3], and a class that an annotated image [h, w, 3] shows.

    Args:
        bundle: whose self-test is the request.
        folder: to be made.

    Returns:
        its inputs, with their shapes.

    Raises:
        InputError: the bundle has no self-test, or a damaged one.
    """
    test = bundle.self_test()
    folder.mkdir()
    tensors = [Tensor("image", "TYPE_UINT8", test.image.shape)]
    (folder / "image").write_bytes(np.ascontiguousarray(test.image).tobytes())
    for name, content in _support(test).items():
        # a length of four bytes before each string
        (folder / name).write_bytes(struct.pack("<I", len(content)) + content)
        tensors.append(Tensor(name, "TYPE_STRING", (1,)))
    return tensors


def _support(test: SelfTest) -> dict[str, bytes]:
    mask = (test.support_mask == 1).astype(np.uint8) * 255
    image = png_bytes(test.support_image)
    return {"support_images": image, "support_masks": png_bytes(mask), "support_names": b"warm-up"}
