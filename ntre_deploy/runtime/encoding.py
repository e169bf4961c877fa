"""Annotated images on their way to support memories: checked, fitted into the network's input, encoded shot by shot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.engines import Engine
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.masks import check_target, normalise_mask
from ntre_deploy.runtime.pictures import as_image, as_mask
from ntre_deploy.runtime.support import SupportMemory, compact_keys

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
# image and mask, in every form that `as_image` and `as_mask` take
Shot = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class EncodedShot:
    """One annotated image.

    Attributes:
        mask: uint8 [H, W] of the image's own size: 1 on the target, 255 ignored.
        pixels, target: image [3, S, S] and mask [S, S] as the network takes them.
        box: where the image lies in them.
        prototype, keys: what the support graph gave, [C] and [D, M].
    """

    mask: Pixels
    pixels: Float
    target: Float
    box: Letterbox
    prototype: Float
    keys: Float


def encode_shots(
    engine: Engine, spec: InputSpec, shots: Sequence[Shot], name: str, allow_unseen: bool
) -> list[EncodedShot]:
    """Encode each annotated image of one class; see `Segmenter.encode_support`.

    Raises:
        InputError: no shots, a mask of another size than its image, an empty mask, or (unless `allow_unseen`) one so
            small that nothing is left of it at the network's resolution.
        EngineError: the engine failed or gave NaN.
    """
    if not shots:
        raise InputError(f"No support was given for '{name}'; one image and mask at least.")
    found = [_encode(engine, spec, shot, number, name, allow_unseen) for number, shot in enumerate(shots, 1)]
    if not all(np.isfinite(shot.prototype).all() and np.isfinite(shot.keys).all() for shot in found):
        raise EngineError(f"{engine.name} {engine.precision} gave NaN or infinity for '{name}'.")
    return found


def join(name: str, shots: Sequence[EncodedShot], model: str) -> SupportMemory:
    """The memory of one class, from one or more shots."""
    mean: Float = np.stack([shot.prototype for shot in shots]).mean(axis=0, dtype=np.float32)
    return SupportMemory(name, mean, tuple(shot.keys for shot in shots), model)


def without(shots: Sequence[EncodedShot], left_out: int) -> list[EncodedShot]:
    """The shots but one; the only one stays."""
    return [shot for k, shot in enumerate(shots) if k != left_out or len(shots) == 1]


def _encode(engine: Engine, spec: InputSpec, shot: Shot, number: int, name: str, allow_unseen: bool) -> EncodedShot:
    what = f"Support {number} of '{name}'"
    if not isinstance(shot, Sequence) or len(shot) != 2:
        raise InputError(f"{what} is {type(shot).__name__}; a list of pairs (image, mask) is expected.")
    try:
        image, given = as_image(shot[0], "the image"), as_mask(shot[1], "the mask")
        mask = normalise_mask(given, "the mask")
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    check_target(mask, image, what)
    pixels, box = prepare_image(image, spec)
    target = prepare_mask(mask, spec)
    prototype, keys = engine.support(pixels[None], target[None, None])
    compact = compact_keys(keys[0])
    if compact.shape[1] == 0 and not allow_unseen:
        raise InputError(
            f"{what}: the target is too small to be seen at the network's {spec.size} pixels; crop the image around it."
        )
    return EncodedShot(mask, pixels, target, box, prototype[0], compact)
