"""The reference set of a bundle: a few episodes, and the logits and label maps that PyTorch gave for them at export.

It is one safetensors file.  Pictures in it are PNG, so that what an engine is given is what PyTorch was given, to the
last bit.
"""

import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ntre_deploy.errors import InputError

FORMAT = "ntre-reference"
VERSION = 1
_KEY = "ntre"
# the longer side of a picture, which is some 160 pixels in what the export writes
_MAX_SIDE = 4096
_MAX_EPISODES = 1000

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class StoredEpisode:
    """One episode, what is right, and what PyTorch's full network gave in fp32.

    Attributes:
        class_id, class_name: of the dataset that it was drawn from.
        query: uint8 RGB [H, W, 3].
        supports: for each shot the image, uint8 RGB [h, w, 3], and its mask, uint8 [h, w] (1 the class, 255 ignored).
        truth: uint8 [H, W], as a mask.
        labels: uint8 [H, W] of 0 and 1, PyTorch's.
        logits: float32 [2, h, w] at feature resolution, PyTorch's.
    """

    class_id: int
    class_name: str
    query: Pixels
    supports: tuple[tuple[Pixels, Pixels], ...]
    truth: Pixels
    labels: Pixels
    logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Episodes of one dataset.

    Attributes:
        dataset: its name.
        shots: supports of each episode.
        seed: of the draw.
    """

    dataset: str
    shots: int
    seed: int
    episodes: tuple[StoredEpisode, ...]


def picture_id(picture: Pixels) -> str:
    """A name that equal pictures, uint8 [H, W, 3], share: the first digits of a SHA-256 of their size and pixels."""
    size = struct.pack("<II", *picture.shape[:2])
    return hashlib.sha256(size + np.ascontiguousarray(picture).tobytes()).hexdigest()[:16]


def pack_reference(reference: ReferenceSet) -> bytes:
    """The content of the file; arrays as in `StoredEpisode`."""
    tensors: dict[str, NDArray[Any]] = {}
    for number, episode in enumerate(reference.episodes):
        pictures = {"query": episode.query, "truth": episode.truth, "labels": episode.labels}
        for shot, (image, mask) in enumerate(episode.supports):
            pictures |= {f"support.{shot}": image, f"mask.{shot}": mask}
        tensors |= {f"{number}.{name}": _png(picture) for name, picture in pictures.items()}
        tensors[f"{number}.logits"] = np.ascontiguousarray(episode.logits)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": reference.dataset,
        "shots": reference.shots,
        "seed": reference.seed,
        "classes": [[episode.class_id, episode.class_name] for episode in reference.episodes],
    }
    return save_tensors(tensors, {_KEY: json.dumps(content, sort_keys=True)})


def unpack_reference(file: bytes) -> ReferenceSet:
    """The set in the content of its file.

    Raises:
        InputError: tells what is wrong, without the name of the file.
    """
    try:
        header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
        content = json.loads(header["__metadata__"][_KEY])
        tensors = load_tensors(file)
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise InputError(f"it is no reference set of version {VERSION}")
        shots, seed, classes = int(content["shots"]), int(content["seed"]), content["classes"]
        if not 1 <= len(classes) <= _MAX_EPISODES or not 1 <= shots <= _MAX_EPISODES or seed < 0:
            raise InputError("its numbers cannot be")
        episodes = [_episode(tensors, number, int(c), str(name), shots) for number, (c, name) in enumerate(classes)]
        return ReferenceSet(str(content["dataset"]), shots, seed, tuple(episodes))
    # a dtype that NumPy lacks raises AttributeError or KeyError
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _episode(
    tensors: Mapping[str, NDArray[Any]], number: int, class_id: int, class_name: str, shots: int
) -> StoredEpisode:
    def picture(name: str, mode: str, like: Pixels | None = None, values: Sequence[int] = ()) -> Pixels:
        found = _pixels(tensors[f"{number}.{name}"], mode)
        if like is not None and found.shape != like.shape[:2]:
            raise InputError(f"{number}.{name} has {found.shape} pixels beside an image of {like.shape[:2]}")
        if values and not np.isin(found, values).all():
            raise InputError(f"{number}.{name} holds other values than {', '.join(map(str, values))}")
        return found

    query = picture("query", "RGB")
    supports = []
    for shot in range(shots):
        image = picture(f"support.{shot}", "RGB")
        supports.append((image, picture(f"mask.{shot}", "L", image, (0, 1, 255))))
    logits = tensors[f"{number}.logits"]
    if logits.dtype != np.float32 or logits.ndim != 3 or logits.shape[0] != 2 or not np.isfinite(logits).all():
        raise InputError(f"{number}.logits are no finite float32 [2, h, w]")
    truth, labels = picture("truth", "L", query, (0, 1, 255)), picture("labels", "L", query, (0, 1))
    return StoredEpisode(class_id, class_name, query, tuple(supports), truth, labels, logits)


def _png(picture: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _pixels(content: NDArray[Any], mode: str) -> Pixels:
    if content.dtype != np.uint8 or content.ndim != 1:
        raise InputError("a picture is no PNG")
    try:
        with Image.open(io.BytesIO(content.tobytes()), formats=("PNG",)) as image:
            # from the header alone, so that nothing large is decoded
            if image.mode != mode or not 0 < max(image.size) <= _MAX_SIDE:
                raise InputError(f"a picture is {image.mode} of {image.size} pixels where {mode} is expected")
            return np.array(image, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"a picture is damaged ({error})") from error
