"""The actor of a cluster's worker: loads the bundle once, then takes part after part."""

import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy import __version__
from ntre_deploy.errors import EngineError, InputError, NtreError
from ntre_deploy.runtime.imagefile import png_bytes
from ntre_deploy.runtime.letterbox import Letterbox, prepare_reduced
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.overlay import palette
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.sources.finding import told
from ntre_deploy.runtime.sources.opening import photo_frame
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.segment.cluster.plan import Plan, mask_name, photo_id, read_part
from ntre_deploy.segment.cluster.rows import failed_row, found_row, read_rows, write_rows
from ntre_deploy.segment.cluster.stores import Store, local_file
from ntre_deploy.segment.pipeline import side_by_side
from ntre_deploy.segment.run import enough_pixels, labelled

Float = NDArray[np.float32]
Row = dict[str, Any]

# workers that a photo may have taken with it before nobody tries it again
_DEATHS = 2
# parts and, where that is known, photos that a worker has at hand
_TRYING = "plan/trying"
DEFECT = 70
# of a worker that fails with an error of its own, the exit code that it stands for
_CODES = {EngineError: 3, InputError: 2}


@dataclass(frozen=True)
class Order:
    """What a worker is told; it travels to other machines.

    Attributes:
        store: where results go.
        plan: of the run.
        bundle: folder, where all machines share one.
        engine, precision, threads, trusted: as `Segmenter.load` takes them; keys as content of PEM files.
        memories: files of the classes' memories.
        exact: read every pixel of large JPEGs.
        again: in parts that were done, take the photos that failed.
        version: of the package where the run was begun.
    """

    store: Store
    plan: Plan
    bundle: str
    engine: str
    precision: str | None
    threads: int | None
    trusted: tuple[bytes, ...]
    memories: tuple[bytes, ...]
    exact: bool
    again: bool = False
    version: str = __version__


class _Ready(NamedTuple):
    """A photo as the engine takes it, float32 [3, size, size]; or why it cannot be read."""

    photo: str
    pixels: Float | None
    box: Letterbox | None
    error: str = ""


class _Computed(NamedTuple):
    """A photo and its logits, float32 [N, 2, h, w]."""

    ready: _Ready
    logits: Float | None


class Worker:
    """Segments parts of a run; Ray Data calls it with numbers of parts.

    Args:
        order: what to do.
        files: of the bundle, name -> content; or a list with a reference of Ray to that, which is fetched where it is
            wanted.

    Errors of its own are kept for the first call, whose row tells them: an actor that does not come into being would be
    tried again without end.
    """

    def __init__(self, order: Order, files: Any) -> None:
        self.order = order
        self._error: dict[str, Any] | None = None
        try:
            self._load(files)
        except NtreError as error:
            self._error = _told(error)

    def _load(self, files: Any) -> None:
        order = self.order
        if order.version != __version__:
            raise EngineError(
                f"it has ntre_deploy {__version__}, and the run was begun with {order.version}; install that one"
            )
        options: dict[str, Any] = {"precision": order.precision, "threads": order.threads}
        options["trusted"] = list(order.trusted) or None
        if _same_bundle(Path(order.bundle), files):
            self.segmenter = Segmenter.load(order.bundle, order.engine, **options)
        else:
            with tempfile.TemporaryDirectory(prefix="ntre-bundle-") as folder:
                bundle = unpack(files, Path(folder, Path(order.bundle).name))
                self.segmenter = Segmenter.load(bundle, order.engine, **options)
        self.memories = [SupportMemory.from_bytes(data) for data in order.memories]
        self.segmenter.stack(self.memories)
        self.engine = f"{self.segmenter.engine.name} {self.segmenter.engine.precision}"
        self._least = None if order.exact else enough_pixels(self.segmenter.spec)
        self._palette = palette(len(self.memories))

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        """Do parts, given as `{"part": [numbers]}`; returns `part`, `photos`, `failed`, `error` and `code` of each."""
        rows = []
        for part in batch["part"].tolist():
            row = {"part": part, "photos": 0, "failed": 0, "error": "", "code": 0}
            try:
                rows.append(row | (self._error or self._part(part)))
            except NtreError as error:
                rows.append(row | _told(error))
            # else Ray would try it again without end, or leave it out
            except Exception as error:
                told = f"On {platform.node()}: {type(error).__name__}: {error}"
                rows.append(row | {"error": told, "code": DEFECT})
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _part(self, part: int) -> dict[str, int]:
        order = self.order
        before = {row["path"]: row for row in read_rows(order.store, part)}
        photos = read_part(order.store, order.plan, part)
        kept = {path: row for path, row in before.items() if row["error"] is None or not order.again}
        if not kept.keys() >= set(photos):
            done = {} if not kept else dict(kept)
            left = [photo for photo in photos if photo not in done]
            note = f"{_TRYING}/part-{part}"
            careful = order.store.read(note) is not None
            order.store.write(note, b"")
            done |= {row["path"]: row for row in (self._carefully(left) if careful else self._rows(left))}
            kept = {photo: done[photo] for photo in photos}
            write_rows(order.store, part, list(kept.values()))
            for name in (*map(_note, left if careful else ()), note):
                order.store.remove(name)
        return {"photos": len(photos), "failed": sum(row["error"] is not None for row in kept.values())}

    def _rows(self, photos: list[str]) -> list[Row]:
        """Rows of photos; reading and writing go on beside the engine."""
        rows: list[Row] = []
        side_by_side(iter(photos), self._read, self._compute, self._finish, rows.append)
        return rows

    def _carefully(self, photos: list[str]) -> Iterator[Row]:
        """The same one by one, where a worker has died before: a photo on which two have died is given up."""
        store = self.order.store
        for photo in photos:
            deaths = len(store.read(_note(photo)) or b"")
            if deaths >= _DEATHS:
                reason = f"{deaths} workers have died while they had it"
                yield failed_row(self.order.plan, photo, reason, self.engine)
                continue
            store.write(_note(photo), b"." * (deaths + 1))
            yield self._finish(self._compute(self._read(photo)))
            store.write(_note(photo), b"." * deaths)

    def _read(self, photo: str) -> _Ready:
        try:
            with local_file(photo) as path:
                try:
                    frame = photo_frame(path, self._least)
                except InputError as error:
                    return _Ready(photo, None, None, told(path, error).replace(str(path), "it"))
        except FileNotFoundError:
            return _Ready(photo, None, None, "does not exist")
        # what clients of object stores raise is of many kinds
        except Exception as error:
            return _Ready(photo, None, None, f"cannot be fetched: {type(error).__name__}: {error}")
        return _Ready(photo, *prepare_reduced(frame.pixels, frame.size, self.segmenter.spec))

    def _compute(self, ready: _Ready) -> _Computed:
        return _Computed(ready, None if ready.pixels is None else self.segmenter.query(ready.pixels, self.memories))

    def _finish(self, computed: _Computed) -> Row:
        ready, plan = computed.ready, self.order.plan
        if computed.logits is None or ready.box is None:
            return failed_row(plan, ready.photo, ready.error, self.engine)
        labels, scores = labelled(computed.logits, ready.box)
        result = Result(labels, plan.names, None, computed.logits, ready.box, None, scores)
        self.order.store.write(mask_name(ready.photo), png_bytes(labels, self._palette))
        return found_row(plan, ready.photo, result, self.engine)


def _note(photo: str) -> str:
    return f"{_TRYING}/{photo_id(photo)}"


def _told(error: NtreError) -> dict[str, Any]:
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), error.exit_code)
    return {"error": f"On {platform.node()}: {error}", "code": code}


def pack(folder: Path) -> dict[str, bytes]:
    """The files of a bundle, name -> content; hidden ones are none of its own.

    Raises:
        InputError: one cannot be read.
    """
    from ntre_deploy.files import reading

    with reading(folder, "Bundle"):
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }


def _same_bundle(folder: Path, files: Any) -> bool:
    """Whether this machine sees the bundle, by its manifest, which has the other files' sums."""
    try:
        return (folder / MANIFEST).read_bytes() == _contents(files)[MANIFEST]
    except OSError:
        return False


def unpack(files: Any, folder: Path) -> Path:
    """Write the files of `pack`; what is wrong with them is found when the bundle is opened.

    Raises:
        InputError: a file cannot be written.
    """
    try:
        for name, content in _contents(files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise InputError(f"The bundle cannot be written to {folder}: {error.strerror}.") from error
    return folder


def _contents(files: Any) -> Mapping[str, bytes]:
    if isinstance(files, Mapping):
        return files
    import ray

    found: Mapping[str, bytes] = ray.get(files[0])
    return found
