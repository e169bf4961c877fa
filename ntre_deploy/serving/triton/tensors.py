"""Requests as arrays: what they ask of a service, and its results as arrays; nothing here is Triton's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.serving.supports import Named, Picture, Stored, Support, shown_together

Arrays = Mapping[str, NDArray[Any]]

# the class of shots that nobody has named
_CLASS = "support"
_KINDS = ("memories", "support_memories", "support_images")


@dataclass(frozen=True)
class Item:
    """One image of a request, and what to look for.

    Attributes:
        image: bytes of an image file, or uint8 RGB [H, W, 3].
        supports: label n is the n-th of them.
        key: equal where the supports are equal.
    """

    image: Picture
    supports: tuple[Support, ...] = field(repr=False)
    key: tuple[tuple[str, tuple[bytes, ...]], ...] = field(repr=False)


def items(given: Arrays) -> list[Item]:
    """The images of a request, in order.

    Args:
        given: by name the arrays of a request with N images: `image` uint8 [N, H, W, 3] or `image_bytes` [N, 1], and
            `memories` [N, M], `support_memories` [N, M], or `support_images`, `support_masks` and perhaps
            `support_names` [N, S]; all but the first hold bytes.

    Raises:
        InputError: no image or two kinds, no support or two kinds, shots and masks that do not pair, or a name that is
            no UTF-8.
    """
    images = _images(given)
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) > 1:
        raise InputError(f"Both '{kinds[0]}' and '{kinds[1]}' were given; send one kind of support.")
    for name in ("support_masks", "support_names"):
        if name in given and "support_images" not in given:
            raise InputError(f"'{name}' was given without 'support_images'; send both.")
    if not kinds:
        raise InputError(
            "No support was given; send 'memories' (names), 'support_memories' (files' bytes), or 'support_images' "
            "with 'support_masks'."
        )
    support = {name: array for name, array in given.items() if name not in ("image", "image_bytes")}
    for name, array in support.items():
        if len(array) != len(images):
            raise InputError(f"'{name}' is for {len(array)} images and {len(images)} were given; send a row for each.")
    found = []
    for number, image in enumerate(images):
        rows = {name: tuple(map(_bytes, array[number].reshape(-1))) for name, array in support.items()}
        found.append(Item(image, _supports(rows), tuple(sorted(rows.items()))))
    return found


def _images(given: Arrays) -> Sequence[Picture]:
    if ("image" in given) == ("image_bytes" in given):
        raise InputError("Either 'image' (uint8 RGB [1, H, W, 3]) or 'image_bytes' (a file's bytes, [1, 1]) is needed.")
    if "image" in given:
        return list(given["image"])
    array = given["image_bytes"]
    if array.size != len(array):
        raise InputError(f"'image_bytes' has the shape {list(array.shape)}; one file for each image is expected.")
    return [_bytes(one) for one in array.reshape(-1)]


def _supports(rows: Mapping[str, tuple[bytes, ...]]) -> tuple[Support, ...]:
    if "memories" in rows:
        return tuple(Named(_text(name, "memories")) for name in rows["memories"])
    if "support_memories" in rows:
        return tuple(map(Stored, rows["support_memories"]))
    images, masks = rows["support_images"], rows.get("support_masks", ())
    names = [_text(name, "support_names") for name in rows.get("support_names", (_CLASS.encode(),) * len(images))]
    for what, found in (("support_masks", masks), ("support_names", names)):
        if len(found) != len(images):
            raise InputError(f"{len(images)} 'support_images' and {len(found)} '{what}' were given; send one for each.")
    return tuple(shown_together(names, list(zip(images, masks, strict=True))))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"'{what}' holds {value[:40]!r}, which is no UTF-8.") from error


def outputs(results: Sequence[Result]) -> dict[str, NDArray[Any]]:
    """The arrays of a request's answer.

    Returns:
        of N images `labels` uint8 [N, H, W], `scores` float32 [N, C] and `names` (bytes) [N, C].

    Raises:
        InputError: the images are of different sizes, or looked through for different numbers of classes.
    """
    if len({result.labels.shape for result in results}) > 1:
        raise InputError("The images of this request are of different sizes; send a request for each.")
    if len({len(result.names) for result in results}) > 1:
        raise InputError("The images of this request have different numbers of classes; send a request for each.")
    names = np.empty((len(results), len(results[0].names)), np.object_)
    names[:] = [[name.encode() for name in result.names] for result in results]
    return {
        "labels": np.stack([result.labels for result in results]),
        "scores": np.array([result.scores for result in results], np.float32),
        "names": names,
    }
