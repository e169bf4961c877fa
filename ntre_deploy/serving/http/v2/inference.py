"""What the tensors of this model are, and what is made of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.serving.http.forms import shown_classes
from ntre_deploy.serving.http.v2.tensors import Asked, Tensor, files_of, packed_answer, strings_of
from ntre_deploy.serving.service import Service
from ntre_deploy.serving.supports import Named, Picture, Stored, Support

VERSION = "1"
PLATFORM = "ntre_deploy"
# name, datatype, shape, what it is
INPUTS = (
    ("image", "BYTES", [1], "an image file; or UINT8 [H, W, 3] or [1, H, W, 3], RGB"),
    ("image_bytes", "BYTES", [1], "an image file in place of `image`: a model of Triton has one type for each input"),
    ("memories", "BYTES", [-1], "names of support memories of this server"),
    ("support_memories", "BYTES", [-1], "files of support memories"),
    ("support_images", "BYTES", [-1], "annotated image files"),
    ("support_masks", "BYTES", [-1], "their masks"),
    ("support_names", "BYTES", [-1], "their classes; equal ones are shots of one"),
)
OUTPUTS = (
    ("labels", "UINT8", [-1, -1], "0 background, n the n-th of `names`"),
    ("scores", "FP32", [-1], "mean probability of each class over its pixels"),
    ("names", "BYTES", [-1], "of the classes"),
)
_INPUTS, _OUTPUTS = [one[0] for one in INPUTS], [one[0] for one in OUTPUTS]


def metadata(service: Service) -> dict[str, Any]:
    """The model's metadata, as the protocol has them."""

    def tensors(given: tuple[tuple[str, str, list[int], str], ...]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape, _ in given]

    return {
        "name": service.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": tensors(INPUTS),
        "outputs": tensors(OUTPUTS),
    }


def config(service: Service) -> dict[str, Any]:
    """The model's configuration, as Triton's clients ask for it."""

    def tensors(given: tuple[tuple[str, str, list[int], str], ...], optional: bool) -> list[dict[str, Any]]:
        told = []
        for name, datatype, shape, _ in given:
            entry = {"name": name, "data_type": _TRITON_TYPES[datatype], "dims": shape}
            told.append(entry | ({"optional": True} if optional else {}))
        return told

    return {
        "name": service.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": tensors(INPUTS, True),
        "output": tensors(OUTPUTS, False),
    }


_TRITON_TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}


def understood(asked: Asked) -> tuple[Picture, list[Support]]:
    """The photo of a request, and its supports: memories by name, then those that came as files, then what is shown.

    Returns:
        the photo as the bytes of its file or uint8 RGB [H, W, 3], and what `Service.submit` takes beside it.

    Raises:
        InputError: an input is missing, unknown, or not what it should be.
    """
    for given, known, what in ((asked.inputs, _INPUTS, "input"), (asked.outputs or {}, _OUTPUTS, "output")):
        for name in given:
            if name not in known:
                told = f"There is no {what} '{name[:100]}'; there is {', '.join(known)}."
                raise InputError(told + did_you_mean(name[:100], known))
    photos = [asked.inputs[name] for name in ("image", "image_bytes") if name in asked.inputs]
    if len(photos) != 1:
        told = "Both 'image' and 'image_bytes' were given; send one." if photos else "The input 'image' is missing."
        raise InputError(told)

    def tensor(name: str) -> Tensor:
        return asked.inputs.get(name, Tensor(name, "BYTES", (0,), []))

    def names(name: str) -> list[str]:
        try:
            return [value.decode() for value in strings_of(tensor(name))]
        except UnicodeDecodeError as error:
            raise InputError(f"Input '{name}' holds a name that is no UTF-8.") from error

    images, masks = files_of(tensor("support_images")), files_of(tensor("support_masks"))
    if len(images) != len(masks):
        raise InputError(f"{len(images)} support_images and {len(masks)} support_masks were given; pairs are expected.")
    supports: list[Support] = [Named(name) for name in names("memories")]
    supports += [Stored(file) for file in files_of(tensor("support_memories"))]
    supports += shown_classes(list(zip(images, masks, strict=True)), names("support_names"))
    return _photo(photos[0]), supports


def answering(asked: Asked, service: Service) -> Callable[[Result, str], tuple[bytes, int | None]]:
    """What makes the body of the answer of a result; on a worker's thread."""
    wanted = asked.outputs if asked.outputs is not None else dict.fromkeys(_OUTPUTS, asked.binary)
    head = {"model_name": service.name, "model_version": VERSION} | ({"id": asked.id} if asked.id else {})

    def made(result: Result, _: str) -> tuple[bytes, int | None]:
        found: dict[str, NDArray[Any] | list[str]] = {
            "labels": result.labels,
            "scores": np.asarray(result.scores, np.float32),
            "names": list(result.names),
        }
        return packed_answer(head, [(name, found[name], binary) for name, binary in wanted.items()])

    return made


def _photo(tensor: Tensor) -> Picture:
    if isinstance(tensor.data, list):
        files = files_of(tensor)
        if len(files) != 1:
            raise InputError(f"Input '{tensor.name}' holds {len(files)} files; one is expected.")
        return files[0]
    pixels = tensor.data
    if pixels.dtype != np.uint8:
        raise InputError(f"Input '{tensor.name}' is {tensor.datatype}; UINT8 pixels or BYTES of a file are expected.")
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(
            f"Input '{tensor.name}' has the shape {list(tensor.shape)}; [H, W, 3] or [1, H, W, 3] is expected, RGB."
        )
    return pixels
