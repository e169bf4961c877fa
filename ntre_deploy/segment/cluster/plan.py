"""What a run on a cluster is about, written down where its results go, so that the same command can go on with it.

The photos, each once, stand in `plan/photos-*.parquet` in the order in which they were named, and are worked on in
parts of a fixed size.  A part is done when its file of results is there, which has a name of its own: whoever does a
part again, after a kill or a lost node, writes the same files.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.files import plain_name
from ntre_deploy.segment.cluster.stores import Store
from ntre_deploy.segment.cluster.tables import opened_table

RUN = "run.json"
RESULTS = "results"
MASKS = "masks"
FORMAT, VERSION = "ntre-cluster-run", 1

# photos of a row group of the plan, so that a part is read from one
_GROUP = 1024
# row groups of a file, whose end is read with each
_GROUPS = 1024
# parts of a run, where photos are neither few nor very many: enough that no worker waits long for the last one
_PARTS = 1000
_LEAST = 8
# hexadecimal digits of a photo's id: of 100 million photos, two have the same one in a run of 250 million
_ID = 20
_SHOWN = 40
# what is said of a part of the command that has been changed
_TOLD = {
    "bundle": "bundle",
    "classes": "supports",
    "memories": "memories",
    "sources": "sources",
    "recursive": "--recursive",
    "engine": "engine",
    "precision": "precision",
    "calibrate": "--no-calibrate",
    "exact": "--exact",
}


@dataclass(frozen=True)
class Plan:
    """What stands in `run.json`.

    Attributes:
        photos: how many there are.
        size: photos of a part; a power of two.
        names: of the classes, label n is the n-th.
        memories: SHA-256 of the file of each class's memory.
        bundle: SHA-256 of the bundle's manifest.
        model: id of the model.
        engine, precision: of all workers, also of those that go on later; no precision is the engine's best.
        command: what must be the same to go on; see `changed`.
        format, version: of the file.
    """

    photos: int
    size: int
    names: tuple[str, ...]
    memories: tuple[str, ...]
    bundle: str
    model: str
    engine: str
    precision: str | None
    command: Mapping[str, Any]
    format: str = FORMAT
    version: int = VERSION

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.photos // self.size)

    def count(self, part: int) -> int:
        """Photos of a part."""
        return min(self.size, self.photos - part * self.size)

    def to_bytes(self) -> bytes:
        """Content of `run.json`."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def read_plan(store: Store) -> Plan | None:
    """The plan of the run that was begun there; None where there is none.

    Raises:
        InputError: the file is damaged or of another version.
    """
    content = store.read(RUN)
    if content is None:
        if any(name.endswith(".parquet") for name in store.names(RESULTS)):
            raise InputError(f"{store.place}/{RESULTS} holds results of something else; choose another --out.")
        return None
    try:
        read = json.loads(content)
        if (read.get("format"), read.get("version")) != (FORMAT, VERSION):
            raise InputError(f"{store.place}/{RUN} is of another version of this program; choose another --out.")
        plan = Plan(**(read | {"names": tuple(read["names"]), "memories": tuple(read["memories"])}))
        if plan.photos < 1 or plan.size < 1 or _GROUP % plan.size or len(plan.names) != len(plan.memories):
            raise ValueError("numbers that cannot be")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{store.place}/{RUN} is damaged ({error}); choose another --out.") from error
    return plan


def check_command(store: Store, plan: Plan, command: Mapping[str, Any]) -> None:
    """See that a command goes on with the run that was begun there.

    Raises:
        InputError: it would be another run; says what differs.
    """
    # as JSON keeps it
    now = json.loads(json.dumps(command))
    for key in (key for key in (*_TOLD, *now) if plan.command.get(key) != now.get(key)):
        raise InputError(
            f"{store.place} holds a run with other {_TOLD.get(key, key)} ({_short(plan.command.get(key))}, not "
            f"{_short(now.get(key))}); give the same command to go on with it, or another --out."
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def photo_id(photo: str) -> str:
    """20 hexadecimal digits that stand for a photo's full name."""
    return hashlib.sha256(photo.encode(errors="surrogateescape")).hexdigest()[:_ID]


def mask_name(photo: str) -> str:
    """Where the label map of a photo goes: its own name to be read, and its id, which no other photo has."""
    key = photo_id(photo)
    stem = plain_name(PurePosixPath(photo.partition("?")[0]).stem)[:60]
    return f"{MASKS}/{key[:3]}/{stem}-{key}.png"


def part_name(part: int) -> str:
    """The file of a part's results."""
    return f"{RESULTS}/part-{part:08d}.parquet"


def done_parts(store: Store) -> set[int]:
    """Parts whose results are there."""
    found = (re.fullmatch(r"part-(\d{8,})\.parquet", name) for name in store.names(RESULTS))
    return {int(one[1]) for one in found if one}


def write_photos(store: Store, photos: Iterable[str]) -> int:
    """Write down the photos, each once, and return how many there are; about 100 bytes of memory go to each.

    Raises:
        InputError: they cannot be listed or written.
        EngineError: a package is missing.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("path", pa.string())])
    seen: set[bytes] = set()
    group: list[str] = []
    file, groups, files = io.BytesIO(), 0, 0
    writer = parquet.ParquetWriter(file, schema)

    def flush(last: bool = False) -> None:
        nonlocal file, groups, files, writer
        if group:
            writer.write_table(pa.table({"path": group}, schema), row_group_size=_GROUP)
            group.clear()
            groups += 1
        if groups and (last or groups == _GROUPS):
            writer.close()
            store.write(_photos_name(files), file.getvalue())
            file, groups, files = io.BytesIO(), 0, files + 1
            writer = parquet.ParquetWriter(file, schema)

    for photo in photos:
        key = bytes.fromhex(photo_id(photo))
        if key in seen:
            continue
        seen.add(key)
        group.append(photo)
        if len(group) == _GROUP:
            flush()
    flush(last=True)
    return len(seen)


def part_size(photos: int) -> int:
    """Photos of a part, as a power of two: some thousand parts, and no part above a row group."""
    size = _LEAST
    while size < _GROUP and photos > size * _PARTS:
        size *= 2
    return size


def read_part(store: Store, plan: Plan, part: int) -> list[str]:
    """The photos of a part.

    Raises:
        InputError: the plan cannot be read.
    """
    first = part * plan.size
    group, start = divmod(first, _GROUP)
    number, group = divmod(group, _GROUPS)
    try:
        rows = _photos_file(store.place, number).read_row_group(group, columns=["path"], use_threads=False).column(0)
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{store.place}/{_photos_name(number)} cannot be read: {error}.") from error
    photos: list[str] = rows.slice(start, plan.count(part)).to_pylist()
    return photos


def _photos_name(number: int) -> str:
    return f"plan/photos-{number:05d}.parquet"


@lru_cache(maxsize=2)
def _photos_file(place: str, number: int) -> Any:
    return opened_table(Store(place).open(_photos_name(number)))
