"""What a request may give as support, and the memories that become of it: equal supports are encoded once."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import decode_image, decode_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.memories import MemoryStore

Pixels = NDArray[np.uint8]
# content of an image file, or the pixels themselves
Picture = bytes | Pixels

_KEPT = 256


@dataclass(frozen=True)
class Named:
    """A memory of the server's store."""

    name: str


@dataclass(frozen=True)
class Stored:
    """The bytes of a memory's file; see `SupportMemory.to_bytes`."""

    data: bytes


@dataclass(frozen=True, eq=False)
class Shown:
    """A class that is shown by annotated images.

    Attributes:
        name: of the class.
        shots: pairs of a photo (the bytes of a file, or uint8 RGB [H, W, 3]) and its mask (the bytes of an image file,
            or an array [H, W] as `Segmenter.encode_support` takes it).
    """

    name: str
    shots: tuple[tuple[Picture, Picture], ...]


Support = Named | Stored | Shown


def shown_together(names: Sequence[str], shots: Sequence[tuple[Picture, Picture]]) -> list[Shown]:
    """Classes of annotated images, in the order in which they are named first; those of one name are shots of one.

    Args:
        names: of each shot's class.
        shots: as in `Shown`.
    """
    grouped: dict[str, list[tuple[Picture, Picture]]] = {}
    for name, shot in zip(names, shots, strict=True):
        grouped.setdefault(name, []).append(shot)
    return [Shown(name, tuple(own)) for name, own in grouped.items()]


def decode_shots(shown: Shown, limits: Limits) -> list[tuple[Pixels, Pixels]]:
    """The arrays of a class's shots: uint8 RGB [H, W, 3] and mask [H, W].

    Raises:
        InputError: one cannot be read, or has too many pixels.
    """
    read = []
    for number, (photo, mask) in enumerate(shown.shots, start=1):
        what = f"{number} of '{shown.name}'"
        image = decode_image(photo, what, max_pixels=limits.pixels) if isinstance(photo, bytes) else photo
        target = decode_mask(mask, what, max_pixels=limits.pixels) if isinstance(mask, bytes) else mask
        read.append((image, target))
    return read


class Supports:
    """Memories of requests' supports; several threads may ask.

    Args:
        store: where `Named` ones are.
        limits: of classes, shots and pixels.
    """

    def __init__(self, store: MemoryStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._kept: OrderedDict[bytes, list[SupportMemory]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, given: Sequence[Support]) -> None:
        """See that a request's supports are ones, before any work.

        Raises:
            InputError: none, or more than the limits allow.
        """
        if not given:
            raise InputError("No support was given; name a memory, or send an image with its mask.")
        if len(given) > self._limits.classes:
            raise InputError(f"{len(given)} classes were given; this server takes up to {self._limits.classes}.")
        shots = sum(len(support.shots) for support in given if isinstance(support, Shown))
        if shots > self._limits.shots:
            raise InputError(f"{shots} annotated images were given; this server takes up to {self._limits.shots}.")

    def memories(self, given: Sequence[Support], segmenter: Segmenter) -> list[SupportMemory]:
        """A memory for each class, in their order; the same objects for the same supports.

        Classes that are shown are encoded together, so that their margins can be compared.

        Args:
            segmenter: of the calling thread, for those that are not known.

        Raises:
            InputError: a memory that is not there or of another model, or a shot that cannot be used.
            EngineError: the engine failed.
        """
        self.check(given)
        shown = [support for support in given if isinstance(support, Shown)]
        encoded = iter(self._encoded(shown, segmenter) if shown else ())
        found = []
        for support in given:
            if isinstance(support, Named):
                found.append(self._store.get(support.name))
            elif isinstance(support, Stored):
                found.append(self._read(support))
            else:
                found.append(next(encoded))
        return found

    def _read(self, stored: Stored) -> SupportMemory:
        key = hashlib.sha256(stored.data).digest()
        kept = self._known(key)
        return kept[0] if kept else self._keep(key, [SupportMemory.from_bytes(stored.data)])[0]

    def _encoded(self, shown: Sequence[Shown], segmenter: Segmenter) -> list[SupportMemory]:
        key = supports_key(shown)
        if (kept := self._known(key)) is not None:
            return kept
        classes = {support.name: decode_shots(support, self._limits) for support in shown}
        if len(classes) < len(shown):
            raise InputError("Two classes of this request have one name; give the shots of a class together.")
        return self._keep(key, segmenter.encode_supports(classes, leave_one_out=False))

    def _known(self, key: bytes) -> list[SupportMemory] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: bytes, memories: list[SupportMemory]) -> list[SupportMemory]:
        with self._lock:
            # another thread may have been faster: one object for all, as `Segmenter.stack` looks for
            kept = self._kept.setdefault(key, memories)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept


def supports_key(supports: Sequence[Support]) -> bytes:
    """SHA-256 that supports have in common where they mean the same classes in the same order."""
    digest = hashlib.sha256()
    for support in supports:
        if not isinstance(support, Shown):
            digest.update(f"named {support.name!r}".encode() if isinstance(support, Named) else b"stored")
            digest.update(b"" if isinstance(support, Named) else hashlib.sha256(support.data).digest())
            continue
        digest.update(f"{support.name!r} {len(support.shots)}".encode())
        for picture in (picture for shot in support.shots for picture in shot):
            if isinstance(picture, bytes):
                digest.update(f"bytes {len(picture)}".encode())
                digest.update(picture)
            else:
                digest.update(f"{picture.dtype} {picture.shape}".encode())
                digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()
