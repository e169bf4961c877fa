"""`ntre.h` through ctypes, as another language would call it: no part of the library but its C functions."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Shot = tuple[Pixels, Pixels]

STATUS = {0: "ok", 1: "gate", 2: "input", 3: "engine", 4: "internal"}
WARN = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)
_TEXT, _HANDLE, _SIZE = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t


class Image(ctypes.Structure):
    """`ntre_image`, and `ntre_mask`, which has the same layout."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_ssize_t),
    )

    @classmethod
    def of(cls, pixels: Pixels) -> "Image":
        """A view, which does not keep the array alive; rows may lie apart or upside down."""
        return cls(pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0])


class CShot(ctypes.Structure):
    """`ntre_shot`."""

    _fields_ = (("image", Image), ("mask", Image))


class CClass(ctypes.Structure):
    """`ntre_class`."""

    _fields_ = (("name", _TEXT), ("shots", ctypes.POINTER(CShot)), ("count", _SIZE))


class Options(ctypes.Structure):
    """`ntre_options`."""

    _fields_ = (
        ("size", _SIZE),
        ("engine", _TEXT),
        ("precision", _TEXT),
        ("threads", ctypes.c_int32),
        ("skip_self_test", ctypes.c_int32),
        ("hint", _TEXT),
        ("cache", _TEXT),
        ("trusted", ctypes.POINTER(_TEXT)),
        ("trusted_count", _SIZE),
    )


class StatusError(Exception):
    """A status that is not NTRE_OK, and the text of `ntre_last_error`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.kind = STATUS[status]


class Abi:
    """The functions of the library."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        texts = "version last_error engine_name segmenter_engine segmenter_precision segmenter_reason segmenter_model"
        for name in (*texts.split(), "memory_name", "memory_model"):
            self._function(name).restype = _TEXT
        for name in ("memory_prototype", "memory_keys"):
            self._function(name).restype = ctypes.POINTER(ctypes.c_float)
        self._function("memory_shot_score").restype = ctypes.c_double
        self._function("memory_shots").restype = _SIZE
        for name in ("segmenter_free", "memory_free"):
            self._function(name).restype = None

    def _function(self, name: str) -> Any:
        return getattr(self.library, f"ntre_{name}")

    def last_error(self) -> str:
        """The last error of this thread."""
        return str(self._function("last_error")().decode())

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that gives a status.

        Raises:
            StatusError: it is not NTRE_OK.
        """
        if status := self._function(name)(*arguments):
            raise StatusError(status, self.last_error())

    def text(self, name: str, handle: Any) -> str:
        """What a getter of a text says."""
        return str(self._function(name)(handle).decode())

    def check(self, bundle: Path, trusted: Sequence[Path] = ()) -> None:
        """`ntre_check`."""
        keys = (_TEXT * len(trusted))(*[str(key).encode() for key in trusted])
        self.call("check", str(bundle).encode(), keys, _SIZE(len(trusted)))

    def load(self, bundle: Path, **options: Any) -> "CSegmenter":
        """`ntre_load`; options are fields of `ntre_options`, with texts and paths as such."""
        encoded = {k: v if isinstance(v, int) else str(v).encode() for k, v in options.items()}
        out = _HANDLE()
        given = Options(size=ctypes.sizeof(Options), **encoded)
        self.call("load", str(bundle).encode(), ctypes.byref(given), ctypes.byref(out))
        return CSegmenter(self, out)

    def memory(self, path: Path, warn: Callable[[str], None] | None = None) -> "CMemory":
        """`ntre_memory_load`."""
        out = _HANDLE()
        self.call("memory_load", str(path).encode(), _warning(warn), None, ctypes.byref(out))
        return CMemory(self, out)

    def memory_of(self, content: bytes, warn: Callable[[str], None] | None = None) -> "CMemory":
        """`ntre_memory_from_bytes`."""
        out = _HANDLE()
        self.call("memory_from_bytes", content, _SIZE(len(content)), _warning(warn), None, ctypes.byref(out))
        return CMemory(self, out)


def _warning(warn: Callable[[str], None] | None) -> Any:
    return WARN(lambda text, user: warn(text.decode())) if warn else WARN()  # type: ignore[misc]


class CMemory:
    """An `ntre_memory`, given back when it is collected."""

    def __init__(self, abi: Abi, handle: Any) -> None:
        self.abi, self.handle = abi, handle

    def __del__(self) -> None:
        self.abi.library.ntre_memory_free(self.handle)

    @property
    def name(self) -> str:
        return self.abi.text("memory_name", self.handle)

    @property
    def model(self) -> str:
        return self.abi.text("memory_model", self.handle)

    @property
    def shots(self) -> int:
        return int(self.abi.library.ntre_memory_shots(self.handle))

    @property
    def shot_scores(self) -> tuple[float, ...]:
        return tuple(self.abi.library.ntre_memory_shot_score(self.handle, _SIZE(k)) for k in range(self.shots))

    @property
    def calibration(self) -> tuple[float, float] | None:
        offset, scale = ctypes.c_double(), ctypes.c_double()
        found = self.abi.library.ntre_memory_calibration(self.handle, ctypes.byref(offset), ctypes.byref(scale))
        return (offset.value, scale.value) if found else None

    @property
    def prototype(self) -> Float:
        channels = _SIZE()
        data = self.abi.library.ntre_memory_prototype(self.handle, ctypes.byref(channels))
        return np.ctypeslib.as_array(data, (channels.value,)).copy()

    @property
    def keys(self) -> list[Float]:
        found = []
        for k in range(self.shots):
            depth, count = _SIZE(), _SIZE()
            data = self.abi.library.ntre_memory_keys(self.handle, _SIZE(k), ctypes.byref(depth), ctypes.byref(count))
            shape = (depth.value, count.value)
            found.append(np.ctypeslib.as_array(data, shape).copy() if count.value else np.empty(shape, np.float32))
        return found

    def save(self, path: Path) -> None:
        self.abi.call("memory_save", self.handle, str(path).encode())

    def to_bytes(self) -> bytes:
        size = _SIZE()
        self.abi.call("memory_to_bytes", self.handle, None, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        self.abi.call("memory_to_bytes", self.handle, room, ctypes.byref(size))
        return room.raw

    def uncalibrated(self) -> "CMemory":
        out = _HANDLE()
        self.abi.call("memory_uncalibrated", self.handle, ctypes.byref(out))
        return CMemory(self.abi, out)


class CSegmenter:
    """An `ntre_segmenter`, given back when it is collected."""

    def __init__(self, abi: Abi, handle: Any) -> None:
        self.abi, self.handle = abi, handle

    def __del__(self) -> None:
        self.abi.library.ntre_segmenter_free(self.handle)

    @property
    def reason(self) -> str:
        return self.abi.text("segmenter_reason", self.handle)

    def clone(self) -> "CSegmenter":
        out = _HANDLE()
        self.abi.call("segmenter_clone", self.handle, ctypes.byref(out))
        return CSegmenter(self.abi, out)

    def encode(self, classes: Mapping[str, Sequence[Shot]], flags: int = 0) -> list[CMemory]:
        """`ntre_encode`."""
        given = (CClass * len(classes))()
        for own, (name, shots) in zip(given, classes.items(), strict=True):
            pairs = [CShot(Image.of(image), Image.of(mask)) for image, mask in shots]
            own.name, own.shots, own.count = name.encode(), (CShot * len(shots))(*pairs), len(shots)
        out = (_HANDLE * len(classes))()
        self.abi.call("encode", self.handle, given, _SIZE(len(classes)), ctypes.c_uint32(flags), out)
        return [CMemory(self.abi, _HANDLE(handle)) for handle in out]

    def segment(self, image: Pixels, memories: Sequence[CMemory]) -> tuple[Pixels, tuple[float, ...]]:
        """Labels [H, W] and the score of each class."""
        labels = np.full(image.shape[:2], 254, np.uint8)
        scores = (ctypes.c_double * len(memories))()
        handles = (_HANDLE * len(memories))(*[memory.handle for memory in memories])
        self.abi.call(
            "segment",
            self.handle,
            ctypes.byref(Image.of(image)),
            handles,
            _SIZE(len(memories)),
            ctypes.c_void_p(labels.ctypes.data),
            scores,
        )
        return labels, tuple(scores)

    def logits(self, image: Pixels, memories: Sequence[CMemory]) -> Float:
        """Logits [N, 2, h, w] before any calibration."""
        h = self.abi.library.ntre_segmenter_feature_height(self.handle)
        w = self.abi.library.ntre_segmenter_feature_width(self.handle)
        found = np.empty((len(memories), 2, h, w), np.float32)
        handles = (_HANDLE * len(memories))(*[memory.handle for memory in memories])
        self.abi.call(
            "logits",
            self.handle,
            ctypes.byref(Image.of(image)),
            handles,
            _SIZE(len(memories)),
            ctypes.c_void_p(found.ctypes.data),
        )
        return found
