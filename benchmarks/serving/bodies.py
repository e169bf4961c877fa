"""What is asked over HTTP: photos as JPEGs, requests with them, and the label maps in their answers."""

import json
import secrets
import struct
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.procedural import render_scene
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Pixels = NDArray[np.uint8]

# of the only memory that is asked for
TARGET = "target"
WIDTH, HEIGHT = 640, 480
_QUALITY = 90
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Body:
    """A request that is posted.

    Attributes:
        path: of the address, from `/` on.
        kind: media type of the data.
        headers: further ones.
    """

    path: str
    kind: str
    data: bytes = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)


def photo(source: Path | None, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), number: int = 0) -> bytes:
    """A JPEG of width and height `size`: of a file, or scene `number` of a seed; cut to the shape, then scaled."""
    image = render_scene(6 + number, seed).image if source is None else read_image(source)
    width, height = size
    scale = max(width / image.shape[1], height / image.shape[0])
    large = cv2.resize(image, (max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))))
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    cut = cv2.cvtColor(large[top : top + height, left : left + width], cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", cut, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def shots(seed: int) -> list[tuple[Pixels, Pixels]]:
    """One photo [H, W, 3] and mask [H, W] of the class that is asked for."""
    scene = render_scene(5, seed)
    return [(scene.image, (scene.labels == scene.target + 1).astype(np.uint8))]


def memory(segmenter: Segmenter, seed: int) -> SupportMemory:
    """The memory `TARGET`."""
    return segmenter.encode_support(shots(seed), TARGET)


def v2_body(model: str, image: bytes | Pixels, name: str = "image") -> Body:
    """A request of the open inference protocol with binary tensors: a file's bytes, or pixels [H, W, 3], and `TARGET`.

    Args:
        name: of the image's input.
    """
    files = isinstance(image, bytes)
    raw = _LENGTH.pack(len(image)) + image if isinstance(image, bytes) else image.tobytes()
    wanted = TARGET.encode()
    named = _LENGTH.pack(len(wanted)) + wanted
    shape = [1, 1] if isinstance(image, bytes) else [1, *image.shape]
    head = {
        "inputs": [
            _input(name, "BYTES" if files else "UINT8", shape, len(raw)),
            _input("memories", "BYTES", [1, 1], len(named)),
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    told = {"Inference-Header-Content-Length": str(len(text))}
    return Body(f"/v2/models/{model}/infer", "application/octet-stream", text + raw + named, told)


def form_body(image: bytes, wanted: str) -> Body:
    """A form for `/segment` with a photo; `wanted` is the format of the answer."""
    mark = f"----{secrets.token_hex(12)}"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="memory"\r\n\r\n{TARGET}\r\n'.encode(),
        f'--{mark}\r\nContent-Disposition: form-data; name="photo"; filename="photo.jpg"\r\n'.encode(),
        b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n",
        f"--{mark}--\r\n".encode(),
    ]
    return Body(f"/segment?format={wanted}", f"multipart/form-data; boundary={mark}", b"".join(parts))


def labels_of_v2(header_length: str | None, data: bytes) -> Pixels:
    """The label map [H, W] in a binary answer of the open inference protocol.

    Raises:
        ValueError: the answer holds none.
    """
    size = len(data) if header_length is None else int(header_length)
    at = size
    for one in json.loads(data[:size])["outputs"]:
        count = one["parameters"]["binary_data_size"]
        if one["name"] == "labels":
            return np.frombuffer(data, np.uint8, count, at).reshape(one["shape"][-2:])
        at += count
    raise ValueError("the answer holds no labels")


def labels_of_png(data: bytes) -> Pixels:
    """The label map [H, W] in a PNG of `/segment`, whose pixels are numbers of colours in a palette."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture, np.uint8)


def _input(name: str, datatype: str, shape: list[int], size: int) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
